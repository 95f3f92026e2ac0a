"""Trained networks: ``load`` gives a ``Network``, which reconstructs and knows what it was trained for.

``network`` is the object; ``files`` reads and writes runs and packed files; ``inference`` makes a compiled function of
a configuration and variables; ``uncertainty`` and ``withheld`` tell how far an image may be off and whether the CT
helps; ``guards`` compares a measurement with what was trained; ``export`` writes programs that run without this
package; ``pytorch`` takes in weights of published PyTorch code.
"""

from atlf_jax.array_types import Reconstructor
from atlf_jax.trained.guards import GuardWarning, TrainedFor
from atlf_jax.trained.network import Network, load, load_model, load_pretrained

Model = Reconstructor  # its name in earlier versions

__all__ = ["GuardWarning", "Model", "Network", "TrainedFor", "load", "load_model", "load_pretrained"]
