"""Trained networks: ``load`` gives a ``Network``, which reconstructs and knows what it was trained for.

``network`` defines the object; ``files`` reads and writes runs and packed files; ``inference`` compiles a function from
a configuration and variables; ``uncertainty`` estimates the error of an image; ``withheld`` tests whether the CT
helps; ``guards`` compares a measurement with the training; ``export`` writes programs that run without this package;
``pytorch`` converts weights of published PyTorch code.
"""

from atlf_jax.array_types import Reconstructor
from atlf_jax.trained.guards import GuardWarning, TrainedFor
from atlf_jax.trained.network import Network, load, load_model, load_pretrained

Model = Reconstructor  # its name in earlier versions

__all__ = ["GuardWarning", "Model", "Network", "TrainedFor", "load", "load_model", "load_pretrained"]
