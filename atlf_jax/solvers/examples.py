"""What iterative solvers share: checked arguments, examples that do not see each other, step lengths, and the loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from atlf_jax.array_types import Array
from atlf_jax.inputs import as_coil_maps, as_kspace, as_mask
from atlf_jax.ops.operators import check_ranks

__all__ = ["iterate", "checked_arguments", "normal_bound", "per_example", "still_moving"]


def checked_arguments(kspace: Any, mask: Any, coil_maps: Any = None) -> tuple[Array, Array, Array | None]:
    """Return k-space, mask and coil maps with the axes that they must have, in one precision.

    Args:
        kspace: complex ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``.
        coil_maps: complex ``[c, h, w]`` or ``[*#b, c, h, w]``; None = one coil.

    Raises:
        ValueError: what cannot be meant, in one sentence (see ``inputs``).

    Example:
        >>> kspace, mask, coil_maps = checked_arguments(jnp.ones((2, 4, 4), jnp.complex64), [True, True, False, True])
        >>> mask.shape, coil_maps
        ((1, 1, 4), None)
    """
    kspace = as_kspace(kspace)
    if coil_maps is None:
        return kspace, as_mask(mask, kspace.shape), None
    if kspace.ndim < 3:
        raise ValueError(f"k-space has shape {kspace.shape}, wanted [c, h, w] or more axes with coil maps")
    mask = as_mask(mask, kspace.shape[:-3] + kspace.shape[-2:])
    return kspace, mask, as_coil_maps(coil_maps, kspace.shape).astype(kspace.dtype)


def iterate(step: Callable[[tuple], tuple], state: tuple, *, iterations: int | Array, fixed: bool) -> tuple:
    """Repeat ``state -> state``; a state's last entry says whether it still moves.

    Args:
        step: one iteration.
        state: the first one.
        iterations: how many at most; a Python number where ``fixed``.
        fixed: make all of them, which can be differentiated in both modes: in reverse mode the state of each iteration
            is stored, and nothing else. Otherwise end where nothing moves any more.

    Returns:
        The last state.

    Example:
        >>> def halve(state):
        ...     return state[0] / 2, state[0] > 1
        >>> float(iterate(halve, (jnp.array(8.0), jnp.array(True)), iterations=100, fixed=False)[0])
        0.5
    """
    if fixed:
        return lax.scan(lambda carry, _: (jax.checkpoint(step)(carry), None), state, length=int(iterations))[0]

    def go_on(numbered: tuple) -> Array:
        return (numbered[0] < iterations) & numbered[1][-1]

    return lax.while_loop(go_on, lambda numbered: (numbered[0] + 1, step(numbered[1])), (0, state))[1]


def per_example(
    solve: Callable[..., Array], kspace: Array, mask: Array, coil_maps: Array | None, *images: Array | None
) -> Array:
    """Call ``solve(kspace, mask, coil_maps, *images)`` for every example of any leading batch axes, in parallel.

    An example that has ended its ``while_loop`` keeps its result while others go on, so that none sees its neighbours.

    Args:
        solve: on k-space ``[h, w]``, or ``[c, h, w]`` with maps.
        kspace: ``[*b, h, w]``, with maps ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        coil_maps: ``[*#b, c, h, w]``, or None.
        images: further arrays ``[*b, ...]``.

    Raises:
        ValueError: when the arguments' numbers of axes do not match.

    Example:
        >>> kspace, mask = jnp.array([1 + 0j, 5 + 0j]).reshape(2, 1, 1), jnp.ones((1, 1, 1), bool)
        >>> scaled = per_example(lambda kspace, mask, coil_maps: kspace / abs(kspace).max(), kspace, mask, None)
        >>> scaled.real.ravel().tolist()
        [1.0, 1.0]
    """
    check_ranks(mask, kspace.ndim - (coil_maps is not None), coil_maps)
    batch = kspace.shape[: mask.ndim - 2]
    mask, coil_maps = jax.tree.map(
        lambda array: jnp.broadcast_to(array, batch + array.shape[len(batch) :]), (mask, coil_maps)
    )
    for _ in batch:
        solve = jax.vmap(solve)
    return solve(kspace, mask, coil_maps, *images)


def normal_bound(coil_maps: Array | None) -> Array:
    """Bound ``||A^H A||`` of one example from above: the largest ``sum_c |S_c|^2`` of a pixel; 1 for one coil.

    Example:
        >>> float(normal_bound(jnp.array([3, 4j]).reshape(2, 1, 1)))
        25.0
    """
    if coil_maps is None:
        return jnp.ones(())
    largest = jnp.max(jnp.sum(coil_maps.real**2 + coil_maps.imag**2, axis=-3))
    return jnp.where(largest > 0, largest, 1)


def still_moving(step: Array, image: Array, tolerance: Array) -> Array:
    """Return whether an iteration's step is above ``tolerance ||x||``."""
    return jnp.linalg.norm(step) > tolerance * jnp.linalg.norm(image)
