"""From measured k-space to images: on plain arrays, and on files by ``python -m atlf_jax.reconstruct``.

``arrays`` reconstructs what is in memory or read slice by slice; ``scans`` opens files and writes the results;
``command`` is the command line; ``guards`` warns where a result should not be trusted.
"""

from atlf_jax.reconstruct.arrays import Model, Network, load_model, load_pretrained, reconstruct
from atlf_jax.reconstruct.guards import GuardWarning

__all__ = ["GuardWarning", "Model", "Network", "load_model", "load_pretrained", "reconstruct"]
