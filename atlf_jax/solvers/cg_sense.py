"""CG-SENSE: least squares with known coil maps."""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Bool, Complex, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.ops.linear_solve import solve_hermitian
from atlf_jax.ops.operators import adjoint, normal

__all__ = ["cg_sense"]


@jaxtyped(typechecker=beartype)
def cg_sense(
    kspace: Complex[Array, "*b c h w"],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"],
    *,
    iterations: int = 30,
    regularisation: float = 0.0,
) -> Complex[Array, "*b h w"]:
    """Reconstruct by ``argmin_x ||A x - y||^2 + regularisation ||x||^2`` with conjugate gradients from 0.

    Args:
        kspace: y, ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        coil_maps: ``[*#b, c, h, w]``.
        iterations: with noisy data and no regularisation fewer are better: stopping early is the regulariser.
        regularisation: >= 0, in units of ``||A^H A||``, which is at most 1 for normalised maps.

    Returns:
        ``[*b, h, w]``.

    Source: Pruessmann et al. 2001; compared with sigpy ``mri.app.SenseRecon``.
    """

    def matvec(x: Array) -> Array:
        return normal(x, mask, coil_maps) + jnp.asarray(regularisation, x.dtype) * x

    return solve_hermitian(matvec, adjoint(kspace, mask, coil_maps), iterations=iterations)
