"""Classical reconstructions, to compare with."""

from atlf_jax.solvers.cg_sense import cg_sense

__all__ = ["cg_sense"]
