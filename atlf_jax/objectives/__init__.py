"""Objectives: what a stage of training minimises.

An objective is a frozen dataclass of its settings. It is called with a network, its variables and a batch, and returns
an ``Outcome`` with the terms of the loss. Your own objective is a class in a file of yours (docs/own-network.md).
"""

from atlf_jax.objectives.base import Model, Objective, Outcome, Variables, apply, zero_filled
from atlf_jax.objectives.self_supervised import SelfSupervised
from atlf_jax.objectives.supervised import Supervised

__all__ = [
    "OBJECTIVES",
    "Model",
    "Objective",
    "Outcome",
    "SelfSupervised",
    "Supervised",
    "Variables",
    "apply",
    "zero_filled",
]

OBJECTIVES = {
    "supervised": Supervised,
    "self_supervised": SelfSupervised,
}  # for any network; ATLF-Net has its own in models/atlf/objectives.py
