"""What iterative solvers share: examples that do not see each other, a bound for step lengths, and when to end."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from atlf_jax.array_types import Array
from atlf_jax.ops.operators import check_ranks

__all__ = ["normal_bound", "per_example", "still_moving"]


def per_example(
    solve: Callable[..., Array], kspace: Array, mask: Array, coil_maps: Array | None, *images: Array
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
    """Bound ``||A^H A||`` of one example from above: the largest ``sum_c |S_c|^2`` of a pixel; 1 for one coil."""
    if coil_maps is None:
        return jnp.ones(())
    largest = jnp.max(jnp.sum(coil_maps.real**2 + coil_maps.imag**2, axis=-3))
    return jnp.where(largest > 0, largest, 1)


def still_moving(step: Array, image: Array, tolerance: Array) -> Array:
    """Say whether an iteration's step is above ``tolerance ||x||``."""
    return jnp.linalg.norm(step) > tolerance * jnp.linalg.norm(image)
