"""From measured k-space to images: on plain arrays, and on files by ``atlf reconstruct``.

``arrays`` reconstructs what is in memory or read slice by slice, and ``slices`` takes one batch through the network;
``scans`` opens files and writes the results; ``command`` is the command line; ``judgement`` and ``examine`` say where a
result should not be trusted.
"""

from atlf_jax.reconstruct.arrays import reconstruct
from atlf_jax.reconstruct.judgement import ReconstructionRefused

__all__ = ["ReconstructionRefused", "reconstruct"]
