"""Sparsity in wavelets, by FISTA."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from atlf_jax.array_types import Array
from atlf_jax.inputs import as_scalar, as_whole_number
from atlf_jax.ops.operators import adjoint, normal
from atlf_jax.ops.wavelets import fwt, iwt
from atlf_jax.solvers.examples import checked_arguments, iterate, normal_bound, per_example, still_moving

__all__ = ["l1_wavelet"]


def l1_wavelet(
    kspace: Any,
    mask: Any,
    coil_maps: Any = None,
    *,
    regularisation: Any,
    order: int = 4,
    iterations: int = 100,
    tolerance: float = 0.0,
) -> Array:
    """Reconstruct by ``argmin_x ||A x - y||^2 / 2 + regularisation ||W x||_1`` with Daubechies wavelets W.

    Args:
        kspace: y, complex ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``.
        coil_maps: complex ``[c, h, w]`` or ``[*#b, c, h, w]``, or None for one coil.
        regularisation: one real number >= 0, in units of the image; it may be traced.
        order: vanishing moments of the wavelets; 4 is db4.
        iterations: at most.
        tolerance: an example ends when an iteration moves it by no more than this part of its norm; 0 = never. JAX
            differentiates the result in reverse mode with 0 alone.

    Returns:
        ``[*b, h, w]``, in the precision of k-space.

    Raises:
        ValueError: real k-space, shapes that do not fit, values that are not finite, or a negative regularisation.

    Example:
        >>> from atlf_jax.ops import fft2c
        >>> kspace = fft2c(jnp.ones((4, 4)))  # of a flat image, one wavelet coefficient of 4
        >>> image = l1_wavelet(kspace, [True] * 4, regularisation=1.0, order=1, iterations=2)  # makes it 3
        >>> round(float(abs(image).min()), 3), round(float(abs(image).max()), 3)
        (0.75, 0.75)

    Source: Lustig et al. 2007 by FISTA (Beck and Teboulle 2009); the objective and the iterations of sigpy
    ``mri.app.L1WaveletRecon``. As there, ``W^H shrink(W x)`` stands for the proximal map, which it is only away from
    the image's border, since W has more coefficients than the image has pixels.
    """
    kspace, mask, coil_maps = checked_arguments(kspace, mask, coil_maps)
    regularisation = as_scalar(regularisation, "regularisation", least=0)
    tolerance = as_scalar(tolerance, "tolerance", least=0)
    iterations = as_whole_number(iterations, "iterations")
    minimise = _minimise if tolerance else _minimise_fixed
    return minimise(kspace, mask, coil_maps, regularisation, iterations, tolerance, order)


def _iterations(
    kspace: Array,
    mask: Array,
    coil_maps: Array | None,
    regularisation: Array,
    iterations: int | Array,
    tolerance: Array,
    order: int,
    fixed: bool,
) -> Array:
    def solve(kspace: Array, mask: Array, coil_maps: Array | None) -> Array:
        start = adjoint(kspace, mask, coil_maps)
        length = 1 / normal_bound(coil_maps)

        def shrink(values: Array) -> Array:
            squares = values.real**2 + values.imag**2
            longer = squares > (length * regularisation) ** 2
            return values * jnp.where(longer, 1 - length * regularisation * lax.rsqrt(jnp.where(longer, squares, 1)), 0)

        def step(state: tuple) -> tuple:
            image, ahead, inertia, _ = state
            ahead = ahead - length * (normal(ahead, mask, coil_maps) - start)
            new = iwt(jax.tree.map(shrink, fwt(ahead, order=order)), ahead.shape, order=order)
            new_inertia = (1 + jnp.sqrt(1 + 4 * inertia**2)) / 2
            move = new - image
            ahead = new + (inertia - 1) / new_inertia * move
            return new, ahead, new_inertia, still_moving(move, new, tolerance)

        zero = jnp.zeros_like(start)
        first = (zero, zero, jnp.ones((), zero.real.dtype), jnp.ones((), bool))
        return iterate(step, first, iterations=iterations, fixed=fixed)[0]

    return per_example(solve, kspace, mask, coil_maps)


_minimise = jax.jit(partial(_iterations, fixed=False), static_argnums=6)
_minimise_fixed = jax.jit(partial(_iterations, fixed=True), static_argnums=(4, 6))
