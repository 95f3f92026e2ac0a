"""Objectives: what a stage of training minimises.

An objective is a frozen dataclass of its own settings that is called with the network, its variables and a batch. One
of your own is written in a file of yours, like a network (docs/own-network.md).
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

OBJECTIVES = {"supervised": Supervised, "self_supervised": SelfSupervised}  # those that suit any network
