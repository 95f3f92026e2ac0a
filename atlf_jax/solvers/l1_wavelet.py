"""Sparsity in wavelets, by FISTA."""

from functools import partial

import jax
import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Bool, Complex, Float, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.ops.operators import adjoint, normal
from atlf_jax.ops.wavelets import fwt, iwt
from atlf_jax.solvers.examples import normal_bound, per_example, still_moving

__all__ = ["l1_wavelet"]


@jaxtyped(typechecker=beartype)
def l1_wavelet(
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
    *,
    regularisation: float | Float[Array, ""],
    order: int = 4,
    iterations: int = 100,
    tolerance: float = 0.0,
) -> Complex[Array, "*b h w"]:
    """Reconstruct by ``argmin_x ||A x - y||^2 / 2 + regularisation ||W x||_1`` with Daubechies wavelets W.

    Args:
        kspace: y, ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        coil_maps: ``[*#b, c, h, w]``, or None for one coil.
        regularisation: >= 0, in units of the image.
        order: vanishing moments of the wavelets; 4 is db4.
        iterations: at most.
        tolerance: an example ends when an iteration moves it by no more than this part of its norm; 0 = never.

    Returns:
        ``[*b, h, w]``.

    Source: Lustig et al. 2007 by FISTA (Beck and Teboulle 2009); the objective and the iterations of sigpy
    ``mri.app.L1WaveletRecon``. As there, ``W^H shrink(W x)`` stands for the proximal map, which it is only away from
    the image's border, since W has more coefficients than the image has pixels.
    """
    return _minimise(kspace, mask, coil_maps, regularisation, iterations, tolerance, order)


@partial(jax.jit, static_argnames="order")
def _minimise(
    kspace: Array,
    mask: Array,
    coil_maps: Array | None,
    regularisation: Array,
    iterations: Array,
    tolerance: Array,
    order: int,
) -> Array:
    def solve(kspace: Array, mask: Array, coil_maps: Array | None) -> Array:
        start = adjoint(kspace, mask, coil_maps)
        length = 1 / normal_bound(coil_maps)

        def shrink(values: Array) -> Array:
            squares = values.real**2 + values.imag**2
            longer = squares > (length * regularisation) ** 2
            return values * jnp.where(longer, 1 - length * regularisation * lax.rsqrt(jnp.where(longer, squares, 1)), 0)

        def go_on(state: tuple) -> Array:
            return (state[0] < iterations) & state[-1]

        def step(state: tuple) -> tuple:
            count, image, ahead, inertia, _ = state
            ahead = ahead - length * (normal(ahead, mask, coil_maps) - start)
            new = iwt(jax.tree.map(shrink, fwt(ahead, order=order)), ahead.shape, order=order)
            new_inertia = (1 + jnp.sqrt(1 + 4 * inertia**2)) / 2
            move = new - image
            ahead = new + (inertia - 1) / new_inertia * move
            return count + 1, new, ahead, new_inertia, still_moving(move, new, tolerance)

        zero = jnp.zeros_like(start)
        return lax.while_loop(go_on, step, (0, zero, zero, jnp.ones((), zero.real.dtype), True))[1]

    return per_example(solve, kspace, mask, coil_maps)
