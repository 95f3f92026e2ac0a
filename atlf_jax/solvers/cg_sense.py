"""CG-SENSE: least squares with known coil maps."""

from typing import Any, Literal

import jax.numpy as jnp

from atlf_jax.array_types import Array
from atlf_jax.inputs import as_scalar, as_whole_number
from atlf_jax.ops.linear_solve import solve_hermitian
from atlf_jax.ops.operators import adjoint, normal
from atlf_jax.solvers.examples import checked_arguments

__all__ = ["cg_sense"]


def cg_sense(
    kspace: Any,
    mask: Any,
    coil_maps: Any,
    *,
    iterations: int = 30,
    regularisation: Any = 0.0,
    gradient: Literal["unrolled", "implicit"] = "unrolled",
) -> Array:
    """Reconstruct by ``argmin_x ||A x - y||^2 + regularisation ||x||^2`` with conjugate gradients from 0.

    Args:
        kspace: y, complex ``[*b, c, h, w]``.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``.
        coil_maps: complex ``[c, h, w]`` or ``[*#b, c, h, w]``.
        iterations: with noisy data and no regularisation fewer are better: stopping early is the regulariser.
        regularisation: one real number >= 0, in units of ``||A^H A||``, which is at most 1 for normalised maps; it may
            be traced.
        gradient: how JAX differentiates the result, with respect to k-space, maps and regularisation. "unrolled" is
            right for any number of iterations and stores an image for each in reverse mode; "implicit" stores none,
            and is right where the iterations have converged, as they do with regularisation.

    Returns:
        ``[*b, h, w]``, in the precision of k-space.

    Raises:
        ValueError: real k-space, shapes that do not fit, values that are not finite, or a negative regularisation.

    Example:
        >>> from atlf_jax.ops import birdcage_maps, forward
        >>> maps = birdcage_maps((8, 8), 4)
        >>> kspace = forward(jnp.ones((8, 8), jnp.complex64), jnp.ones((1, 8), bool), maps)
        >>> image = cg_sense(kspace, [True] * 8, maps, iterations=5)
        >>> image.shape, bool(jnp.allclose(image, 1, atol=1e-5))
        ((8, 8), True)

    Source: Pruessmann et al. 2001; compared with sigpy ``mri.app.SenseRecon``.
    """
    if coil_maps is None:
        raise ValueError("coil_maps is None, wanted maps [c, h, w]; estimate them by ops.espirit_maps")
    kspace, mask, coil_maps = checked_arguments(kspace, mask, coil_maps)
    iterations = as_whole_number(iterations, "iterations")
    regularisation = as_scalar(regularisation, "regularisation", least=0)

    def matvec(x: Array) -> Array:
        return normal(x, mask, coil_maps) + jnp.asarray(regularisation, x.real.dtype).astype(x.dtype) * x

    return solve_hermitian(matvec, adjoint(kspace, mask, coil_maps), iterations=iterations, gradient=gradient)
