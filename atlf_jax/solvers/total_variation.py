"""Total variation, plain or guided by the CT, by the primal-dual hybrid gradient method."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from atlf_jax.array_types import Array
from atlf_jax.inputs import as_ct, as_scalar, as_whole_number
from atlf_jax.ops.differences import across_edges, differences, differences_adjoint, edge_field
from atlf_jax.ops.operators import adjoint, normal
from atlf_jax.solvers.examples import checked_arguments, iterate, normal_bound, per_example, still_moving

__all__ = ["guided_total_variation", "total_variation"]

DUAL_STEP = 20.0  # in units of regularisation / max|A^H y|: on the phantom of the tests 25 was the best of 1.5 to 500


def total_variation(
    kspace: Any,
    mask: Any,
    coil_maps: Any = None,
    *,
    regularisation: Any,
    isotropic: bool = False,
    iterations: int = 200,
    tolerance: float = 0.0,
    dual_step: float | None = None,
) -> Array:
    """Reconstruct by ``argmin_x ||A x - y||^2 / 2 + regularisation TV(x)``.

    ``TV(x) = sum |D_h x| + |D_w x|``, or ``sum sqrt(|D_h x|^2 + |D_w x|^2)`` where ``isotropic``, with the periodic
    differences D of ``ops.differences`` and complex magnitudes.

    Args:
        kspace: y, complex ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``.
        coil_maps: complex ``[c, h, w]`` or ``[*#b, c, h, w]``, or None for one coil.
        regularisation: one real number >= 0, in units of the image; it may be traced.
        isotropic: edges cost the same in every direction.
        iterations: at most.
        tolerance: an example ends when an iteration moves it by no more than this part of its norm; 0 = never. JAX
            differentiates the result in reverse mode with 0 alone.
        dual_step: of the differences; None = ``20 regularisation / max|A^H y|``, which changes with the units of
            the image as it must; sigpy takes 1. Any converges.

    Returns:
        ``[*b, h, w]``, in the precision of k-space.

    Raises:
        ValueError: real k-space, shapes that do not fit, values that are not finite, or a negative regularisation.

    Example:
        >>> from atlf_jax.ops import fft2c
        >>> image = jnp.array([[0, 10, 10, 0]], jnp.complex64)
        >>> abs(total_variation(fft2c(image), [True] * 4, regularisation=1.0)).round().tolist()
        [[1.0, 9.0, 9.0, 1.0]]

    Source: Chambolle and Pock 2011, with the step lengths of Pock and Chambolle 2011; the objective, and with
    ``dual_step=1`` the iterations, of sigpy ``mri.app.TotalVariationRecon`` (which is not isotropic).
    """
    kspace, mask, coil_maps = checked_arguments(kspace, mask, coil_maps)
    return _solve(kspace, mask, coil_maps, None, regularisation, iterations, tolerance, dual_step, isotropic)


def guided_total_variation(
    kspace: Any,
    mask: Any,
    coil_maps: Any = None,
    *,
    ct: Any,
    regularisation: Any,
    eta: Any,
    iterations: int = 200,
    tolerance: float = 0.0,
    dual_step: float | None = None,
) -> Array:
    """Reconstruct by directional total variation: an edge along one of the CT's costs less.

    ``argmin_x ||A x - y||^2 / 2 + regularisation sum |D x - xi <xi, D x>|`` with the edge field ``xi`` of the CT: what
    of the MR's gradient is parallel to that of the CT is free where the CT's is large. Where the CT is flat, and for
    eta -> inf, it is isotropic total variation.

    Args:
        kspace: as in ``total_variation``.
        mask: as in ``total_variation``.
        coil_maps: as in ``total_variation``.
        ct: registered, on the MR's grid, ``[*b, h, w]``.
        regularisation: as in ``total_variation``.
        eta: > 0, differences of the CT that count as an edge, in its units.
        iterations: as in ``total_variation``.
        tolerance: as in ``total_variation``.
        dual_step: as in ``total_variation``.

    Returns:
        ``[*b, h, w]``, in the precision of k-space.

    Raises:
        ValueError: as in ``total_variation``, a CT of another shape, or eta of 0 or less.

    Example:
        >>> from atlf_jax.ops import fft2c
        >>> image = jnp.array([[0, 10, 10, 0]], jnp.complex64)
        >>> result = guided_total_variation(fft2c(image), [True] * 4, ct=image.real / 10, regularisation=1.0, eta=1e-3)
        >>> abs(result).round().tolist()  # the CT has the same edges, which are free
        [[0.0, 10.0, 10.0, 0.0]]

    Source: Ehrhardt and Betcke 2016, "Multicontrast MRI reconstruction with structure-guided total variation".
    Departure: periodic differences, as in ``total_variation``.
    """
    kspace, mask, coil_maps = checked_arguments(kspace, mask, coil_maps)
    image_shape = kspace.shape if coil_maps is None else kspace.shape[:-3] + kspace.shape[-2:]
    ct = as_ct(ct)
    if ct.shape != image_shape:
        raise ValueError(f"ct has shape {ct.shape}, wanted {image_shape}, the images'; resample it to the MR grid")
    eta = as_scalar(eta, "eta")
    if not isinstance(eta, jax.Array) and eta <= 0:
        raise ValueError(f"eta is {eta:g}, wanted more than 0")
    edges = edge_field(jnp.asarray(ct, kspace.real.dtype), eta)
    return _solve(kspace, mask, coil_maps, edges, regularisation, iterations, tolerance, dual_step, True)


def _solve(
    kspace: Array,
    mask: Array,
    coil_maps: Array | None,
    edges: Array | None,
    regularisation: Any,
    iterations: Any,
    tolerance: Any,
    dual_step: Any,
    isotropic: bool,
) -> Array:
    """Check the numbers, and iterate as often as asked or until nothing moves."""
    regularisation = as_scalar(regularisation, "regularisation", least=0)
    tolerance = as_scalar(tolerance, "tolerance", least=0)
    iterations = as_whole_number(iterations, "iterations")
    dual_step = None if dual_step is None else as_scalar(dual_step, "dual_step", least=0)
    minimise = _minimise if tolerance else _minimise_fixed
    return minimise(kspace, mask, coil_maps, edges, regularisation, iterations, tolerance, dual_step, isotropic)


def _iterations(
    kspace: Array,
    mask: Array,
    coil_maps: Array | None,
    edges: Array | None,
    regularisation: Array,
    iterations: int | Array,
    tolerance: Array,
    dual_step: Array | None,
    isotropic: bool,
    fixed: bool,
) -> Array:
    """Iterate on the dual variables of the data and of the differences, and on the image.

    The dual variable p of the data appears as ``A^H p`` alone, so that is what is kept: an image for any number of
    coils. Its step is 1.
    """

    def counted(field: Array, edges: Array | None) -> Array:
        return field if edges is None else across_edges(field, edges)

    def shorten(field: Array) -> Array:
        """Bring each vector, or each component, to at most ``regularisation``: the proximal map of the conjugate."""
        squares = field.real**2 + field.imag**2
        squares = jnp.sum(squares, axis=-3, keepdims=True) if isotropic else squares
        longer = squares > regularisation**2
        return field * jnp.where(longer, regularisation * lax.rsqrt(jnp.where(longer, squares, 1)), 1)

    def solve(kspace: Array, mask: Array, coil_maps: Array | None, edges: Array | None) -> Array:
        start = adjoint(kspace, mask, coil_maps)
        highest = jnp.max(jnp.abs(start))
        sigma = DUAL_STEP * regularisation / jnp.where(highest > 0, highest, 1) if dual_step is None else dual_step
        tau = 1 / (normal_bound(coil_maps) + 8 * sigma)

        def step(state: tuple) -> tuple:
            image, ahead, data, field, _ = state
            field = shorten(field + sigma * counted(differences(ahead), edges))
            data = (data + normal(ahead, mask, coil_maps) - start) / 2
            move = -tau * (data + differences_adjoint(counted(field, edges)))
            image = image + move
            return image, image + move, data, field, still_moving(move, image, tolerance)

        zero = jnp.zeros_like(start)
        first = (zero, zero, zero, differences(zero), jnp.ones((), bool))
        return iterate(step, first, iterations=iterations, fixed=fixed)[0]

    return per_example(solve, kspace, mask, coil_maps, edges)


_minimise = jax.jit(partial(_iterations, fixed=False), static_argnums=8)
_minimise_fixed = jax.jit(partial(_iterations, fixed=True), static_argnums=(5, 8))
