"""Complex images as real channels, magnitudes and coil combination."""

import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Complex, Float, Inexact, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["from_channels", "magnitude", "rss", "to_channels"]


@jaxtyped(typechecker=beartype)
def to_channels(image: Complex[Array, "*b h w"]) -> Float[Array, "*b h w 2"]:
    """Split complex images into a last axis of (real, imaginary).

    Example:
        >>> to_channels(jnp.array([[1 + 2j]])).tolist()
        [[[1.0, 2.0]]]
    """
    return jnp.stack([image.real, image.imag], axis=-1)


@jaxtyped(typechecker=beartype)
def from_channels(channels: Float[Array, "*b h w f"]) -> Complex[Array, "*b h w"]:
    """Join a last axis of (real, imaginary), or of (real,) alone, to complex images.

    Args:
        channels: ``[*b, h, w, 2]``, or ``[*b, h, w, 1]`` for a real image.

    Returns:
        ``[*b, h, w]``, complex.

    Raises:
        ValueError: for any other number of channels.

    Example:
        >>> from_channels(jnp.array([[[1.0, 2.0]]])).tolist()
        [[(1+2j)]]
    """
    if channels.shape[-1] not in (1, 2):
        raise ValueError(f"got {channels.shape[-1]} channels in shape {channels.shape}, want 1 (real) or 2 (re, im)")
    real = channels[..., 0]
    return lax.complex(real, channels[..., 1] if channels.shape[-1] == 2 else jnp.zeros_like(real))


@jaxtyped(typechecker=beartype)
def magnitude(image: Inexact[Array, "*b h w"]) -> Float[Array, "*b h w"]:
    """Take the magnitude ``|x|``; its gradient at 0 is 0, where that of ``sqrt(re^2 + im^2)`` is NaN.

    Example:
        >>> magnitude(jnp.array([[3 + 4j]])).tolist()
        [[5.0]]
    """
    return jnp.abs(image)


@jaxtyped(typechecker=beartype)
def rss(image: Inexact[Array, "*any"], axis: int = -3) -> Float[Array, "*fewer"]:
    """Combine coil images by the root of their sum of squares, ``sqrt(sum_c |x_c|^2)``.

    Args:
        image: ``[*b, c, h, w]``.
        axis: the coil axis, negative.

    Returns:
        ``[*b, h, w]``, real. The gradient where all coils are 0 is 0.

    Example:
        >>> rss(jnp.array([3, 4j]).reshape(2, 1, 1)).tolist()
        [[5.0]]
    """
    squares = jnp.sum(jnp.square(image.real) + jnp.square(image.imag), axis=axis)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
