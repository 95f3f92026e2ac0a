"""Adaptive instance normalisation: the fused CT-MR image sets mean and spread of the reconstruction's features."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Float, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn import backend
from atlf_jax.nn.layers import uniform_fan_in, zero_border
from atlf_jax.nn.precision import in_float32, wide, wide_dtype

__all__ = ["FusedImage", "FusedStyle", "PatchMoments", "adain", "patch_moments"]


def _mean_and_variance(x: Float[Array, "b h w f"]) -> tuple[Float[Array, "b 1 1 f"], Float[Array, "b 1 1 f"]]:
    """Mean and unbiased variance over the pixels in one pass over the map.

    The sums run over x - x[0, 0], so that E[y^2] - E[y]^2 loses no digits to a large common level and is exactly 0
    for a constant channel; rounding can still make it negative, hence the clip.
    """
    pixels = x.shape[1] * x.shape[2]
    pivot = lax.stop_gradient(x[:, :1, :1])
    if backend.accelerated():  # stacked, both are one reduction
        both = jnp.stack([x - pivot, jnp.square(x - pivot)], axis=3).mean((1, 2), keepdims=True)  # [b, 1, 1, 2, f]
        mean, square = both[..., 0, :], both[..., 1, :]
    else:
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
    return _restyle(content, *_mean_and_variance(style), epsilon)


def _restyle(content: Array, style_mean: Array, style_variance: Array, epsilon: float = 1e-5) -> Array:
    mean, variance = _mean_and_variance(content)
    gain = jnp.sqrt((style_variance + epsilon) / (variance + epsilon))
    return gain * (content - mean) + style_mean


class PatchMoments(NamedTuple):
    """What is needed of an image to know mean and variance of any 3x3 convolution of it: p = 9 k values a pixel."""

    mean: Float[Array, "b p"]
    covariance: Float[Array, "b p p"]  # unbiased


class FusedImage(NamedTuple):
    """The fused image as the phases are given it."""

    image: Float[Array, "b h w"]
    moments: PatchMoments | None  # of its patches, for AdaIN


def patch_moments(image: Float[Array, "b h w k"]) -> PatchMoments:
    """Return mean and covariance of the zero-padded 3x3 patches of an image, in float32 at least.

    Example:
        >>> moments = patch_moments(jnp.ones((1, 1, 2, 1)))
        >>> moments.mean.tolist()
        [[0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0]]
    """
    h, w = image.shape[1:3]
    padded = zero_border(wide(image))
    taps = jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
    taps = taps.reshape(taps.shape[0], h * w, -1)  # [b, n, 9 k], as a kernel [3, 3, k, f] lies
    mean = taps.mean(1)
    taps = taps - mean[:, None]
    products = jnp.einsum("bnp,bnq->bpq", taps, taps, precision=lax.Precision.HIGHEST)
    return PatchMoments(mean, products / max(h * w - 1, 1))


class _Statistics(nn.Module):
    """Mean and variance over the pixels of a 3x3 convolution with bias, without its map: K^T m + b and K^T C K."""

    features: int

    @nn.compact
    def __call__(self, image: PatchMoments) -> tuple[Float[Array, "b 1 1 f"], Float[Array, "b 1 1 f"]]:
        shape, dtype = (3, 3, image.mean.shape[-1] // 9, self.features), image.mean.dtype
        kernel = self.param("kernel", uniform_fan_in, shape, dtype).reshape(-1, self.features)  # [p, f]
        bias = self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        mean = jnp.dot(image.mean, kernel, precision=lax.Precision.HIGHEST) + bias[None]
        spread = jnp.einsum("bpq,qf->bpf", image.covariance, kernel, precision=lax.Precision.HIGHEST)
        variance = jnp.maximum((kernel[None] * spread).sum(1), 0)
        return mean[:, None, None], variance[:, None, None]


class FusedStyle(nn.Module):
    """Give the reconstruction features the style of a 3x3 convolution of the fused image, by AdaIN.

    With ``neutral_start`` the result is alpha adain(a) + (1 - alpha) a, where alpha is learned and starts at zero, so
    that the features pass unchanged at first.

    AdaIN hands over two scalars a channel, mean and variance of the convolution: they follow from mean and covariance
    of the image's patches, which are the same for all phases, and the convolution itself is never computed. What is
    given is the image, or its ``patch_moments``.

    Example:
        >>> import jax
        >>> content, fused = jnp.zeros((1, 8, 8, 16)), jnp.zeros((1, 32, 32, 1))
        >>> jax.eval_shape(FusedStyle().init_with_output, jax.random.key(0), content, fused)[0].shape
        (1, 8, 8, 16)
    """

    neutral_start: bool = False

    @nn.compact
    def __call__(
        self, content: Float[Array, "b h w f"], fused: Float[Array, "b h1 w1 k"] | PatchMoments
    ) -> Float[Array, "b h w f"]:
        moments = fused if isinstance(fused, PatchMoments) else patch_moments(fused)
        styled = in_float32(_restyle)(content, *_Statistics(content.shape[-1], name="style")(moments))
        if not self.neutral_start:
            return styled
        alpha = self.param("alpha", nn.initializers.zeros, (), wide_dtype(content.dtype))
        return in_float32(lambda a, b, alpha: alpha * a + (1 - alpha) * b)(styled, content, alpha)
