"""Adaptive instance normalisation: the fused CT-MR image sets mean and spread of the reconstruction's features."""

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Float, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Conv
from atlf_jax.nn.precision import in_float32, wide_dtype

__all__ = ["FusedStyle", "adain"]


def _mean_and_variance(x: Float[Array, "b h w f"]) -> tuple[Float[Array, "b 1 1 f"], Float[Array, "b 1 1 f"]]:
    """Mean and unbiased variance over the pixels in one pass over the map.

    The sums run over x - x[0, 0], so that E[y^2] - E[y]^2 loses no digits to a large common level and is exactly 0
    for a constant channel; rounding can still make it negative, hence the clip.
    """
    pixels = x.shape[1] * x.shape[2]
    pivot = lax.stop_gradient(x[:, :1, :1])
    mean = (x - pivot).mean((1, 2), keepdims=True)
    square = jnp.square(x - pivot).mean((1, 2), keepdims=True)
    variance = jnp.maximum(square - jnp.square(mean), 0) * (pixels / max(pixels - 1, 1))
    return mean + pivot, variance


@in_float32
@jaxtyped(typechecker=beartype)
def adain(
    content: Float[Array, "b h w f"], style: Float[Array, "b h1 w1 f"], *, epsilon: float = 1e-5
) -> Float[Array, "b h w f"]:
    """Give the content features the per-channel mean and spread of the style features.

    s(style) (content - m(content)) / s(content) + m(style), with s^2 = unbiased variance + epsilon for both, so
    that adain(a, a) = a and a constant content channel becomes the style's mean.

    Args:
        content: features ``[b, h, w, f]``.
        style: features ``[b, h1, w1, f]``; its spatial size is free.
        epsilon: added to both variances, in the squared unit of the features.

    Returns:
        Features shaped as ``content``.

    Example:
        >>> import jax
        >>> content, style = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1), jnp.array([5.0, 9.0]).reshape(1, 1, 2, 1)
        >>> jax.jit(adain)(content, style).round(3).ravel().tolist()
        [5.0, 9.0]

    Source: Huang and Belongie 2017, eq. 8; compared with pytorch-AdaIN function.py.
    """
    mean, variance = _mean_and_variance(content)
    style_mean, style_variance = _mean_and_variance(style)
    gain = jnp.sqrt((style_variance + epsilon) / (variance + epsilon))
    return gain * (content - mean) + style_mean


class FusedStyle(nn.Module):
    """Give the reconstruction features the style of a 3x3 convolution of the fused image, by AdaIN.

    With ``neutral_start`` the result is alpha adain(a) + (1 - alpha) a, where alpha is learned and starts at zero, so
    that the features pass unchanged at first.

    AdaIN hands over two scalars a channel: nothing spatial of the fused image enters here.

    Example:
        >>> import jax
        >>> content, fused = jnp.zeros((1, 8, 8, 16)), jnp.zeros((1, 32, 32, 1))
        >>> jax.eval_shape(FusedStyle().init_with_output, jax.random.key(0), content, fused)[0].shape
        (1, 8, 8, 16)
    """

    neutral_start: bool = False

    @nn.compact
    def __call__(self, content: Float[Array, "b h w f"], fused: Float[Array, "b h1 w1 k"]) -> Float[Array, "b h w f"]:
        styled = adain(content, Conv(content.shape[-1], use_bias=True, name="style")(fused))
        if not self.neutral_start:
            return styled
        alpha = self.param("alpha", nn.initializers.zeros, (), wide_dtype(content.dtype))
        return in_float32(lambda a, b, alpha: alpha * a + (1 - alpha) * b)(styled, content, alpha)
