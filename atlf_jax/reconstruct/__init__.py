"""From measured k-space to images: on plain arrays, and on files by ``python -m atlf_jax.reconstruct``.

``arrays`` reconstructs what is in memory or read slice by slice; ``scans`` opens files and writes the results;
``command`` is the command line.
"""

from atlf_jax.reconstruct.arrays import Model, load_model, reconstruct

__all__ = ["Model", "load_model", "reconstruct"]
