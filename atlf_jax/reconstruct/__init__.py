"""From measured k-space to images: of plain arrays by ``atlf.reconstruct``, of files by ``atlf reconstruct``.

Both do the same: ``examine`` looks at a few slices, ``slices`` reconstructs all of them in batches, and ``judgement``
says whether the result can be trusted. ``arrays`` takes arrays; ``command`` is the command line, with its
``arguments`` and ``outputs``, and ``scans`` opens files and writes images. ``methods`` offers classical solvers in
place of a network.
"""

from atlf_jax.reconstruct.arrays import reconstruct
from atlf_jax.reconstruct.judgement import ReconstructionRefused

__all__ = ["ReconstructionRefused", "reconstruct"]
