"""From measured k-space to images: on plain arrays, and on files by ``python -m atlf_jax.reconstruct``.

``arrays`` reconstructs what is in memory or read slice by slice, ``slices`` takes one batch through the network, and
``network`` is a trained one; ``scans`` opens files and writes the results; ``command`` is the command line; ``guards``,
``judgement`` and ``examine`` say where a result should not be trusted.
"""

from atlf_jax.reconstruct.arrays import reconstruct
from atlf_jax.reconstruct.guards import GuardWarning
from atlf_jax.reconstruct.judgement import ReconstructionRefused
from atlf_jax.reconstruct.network import Model, Network, load_model, load_pretrained

__all__ = ["GuardWarning", "Model", "Network", "ReconstructionRefused", "load_model", "load_pretrained", "reconstruct"]
