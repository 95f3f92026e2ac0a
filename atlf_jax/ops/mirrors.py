"""Mirror images, the same for an image and its k-space."""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Shaped, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["MIRRORS", "mirror"]

MIRRORS = ((), (-2,), (-1,), (-2, -1))  # axes that are flipped: the group of all mirrorings


@jaxtyped(typechecker=beartype)
def mirror(samples: Shaped[Array, "*b h w"], axes: tuple[int, ...]) -> Shaped[Array, "*b h w"]:
    """Mirror images or k-space about the centre ``n // 2``, circularly: sample c + i moves to c - i.

    On an even side the first sample has no partner and stays in place. An image and its k-space are thus mirrored by
    exactly the same permutation, which is its own inverse. An axis of one sample (masks of lines) is unchanged.

    Args:
        samples: of any dtype.
        axes: some of -2 and -1.

    Example:
        >>> mirror(jnp.array([[0, 1, 2, 3]]), (-1,)).tolist(), mirror(jnp.array([[0, 1, 2]]), (-1,)).tolist()
        ([[0, 3, 2, 1]], [[2, 1, 0]])
    """
    samples = jnp.asarray(samples)
    for axis in axes:
        samples = jnp.roll(jnp.flip(samples, axis), 1 - samples.shape[axis] % 2, axis)
    return samples
