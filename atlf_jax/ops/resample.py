"""Sampling feature maps between pixels."""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Int, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["bilinear"]


@jaxtyped(typechecker=beartype)
def bilinear(features: Float[Array, "b h w f"], positions: Float[Array, "b m 2"]) -> Float[Array, "b m f"]:
    """Sample feature maps at fractional pixel positions, bilinearly, with clamped borders.

    Args:
        features: ``[b, h, w, f]``.
        positions: ``[b, m, 2]``, (row, column) in pixels: (0, 0) is the centre of the first pixel. Positions outside
            ``[0, h - 1] x [0, w - 1]`` are moved to the border. Keep them in float32 when features are in bfloat16.

    Returns:
        ``[b, m, f]`` in the dtype of ``features``, differentiable in both arguments.

    Example:
        >>> ramp = jnp.arange(6.0).reshape(1, 2, 3, 1)
        >>> bilinear(ramp, jnp.array([[[0.5, 1.25]]])).item()
        2.75

    Source: the values of ``scipy.ndimage.map_coordinates(order=1, mode="nearest")``, which are those of PyTorch's
    ``grid_sample(align_corners=True, padding_mode="border")`` at ``2 p / (n - 1) - 1``. Four separate gathers: one
    gather of 2x2 patches is faster forward but several times slower in the backward pass.
    """
    b, h, w, f = features.shape
    row, row_part = _split(positions[..., 0], h)
    column, column_part = _split(positions[..., 1], w)
    next_row, next_column = jnp.minimum(row + 1, h - 1), jnp.minimum(column + 1, w - 1)  # themselves when h or w is 1
    flat = features.reshape(b, h * w, f)  # [b h w f] -> [b h*w f]
    dtype = positions.dtype if features.dtype == jnp.bfloat16 else features.dtype  # the gradient of positions is a sum

    def gather(row: Array, column: Array, weight: Array) -> Array:
        index = (row * w + column)[..., None]  # [b m 1]
        corner = jnp.take_along_axis(flat, index, axis=1, mode="clip")  # [b m f]
        return corner.astype(dtype) * weight[..., None].astype(dtype)

    sampled = (
        gather(row, column, (1 - row_part) * (1 - column_part))
        + gather(row, next_column, (1 - row_part) * column_part)
        + gather(next_row, column, row_part * (1 - column_part))
        + gather(next_row, next_column, row_part * column_part)
    )
    return sampled.astype(features.dtype)


def _split(position: Float[Array, "b m"], size: int) -> tuple[Int[Array, "b m"], Float[Array, "b m"]]:
    """Split positions into the index of the pixel before and the part in [0, 1] beyond it.

    The index stops at ``size - 2``, so that the last pixel is reached with part 1 and keeps a gradient.
    """
    position = jnp.clip(position, 0, size - 1)
    index = jnp.clip(jnp.floor(position), 0, max(size - 2, 0)).astype(jnp.int32)
    return index, position - index.astype(position.dtype)
