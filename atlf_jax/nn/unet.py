"""The U-Net of fastMRI, and the same between a normalisation and its inverse.

Source: Zbontar et al. 2018, "fastMRI"; Sriram et al. 2020, "End-to-End Variational Networks" (normalisation, padding).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Conv, Pointwise, pixel_shuffle

__all__ = ["NormUNet", "UNet"]

SLOPE = 0.2  # of the leaky ReLU below zero
HE = nn.initializers.variance_scaling(2 / (1 + SLOPE**2), "fan_in", "normal")  # keeps the size without normalisation
CONSTANT_VARIANCE = 1e-8  # below this variance a channel counts as constant; after a normalisation it is about 1


def _activate(x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
    """Normalise each channel of each example over its pixels (no scale or shift of its own), then leaky ReLU.

    A flat channel becomes 0 without a gradient: an empty image would multiply it by 1 / sqrt(1e-5) in every layer.
    """
    x = x - x.mean((1, 2), keepdims=True)
    variance = jnp.square(x).mean((1, 2), keepdims=True)
    x = x * jnp.where(variance > CONSTANT_VARIANCE, lax.rsqrt(variance + 1e-5), 0)
    return nn.leaky_relu(x, SLOPE)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions without bias, each followed by leaky ReLU, with instance normalisation before it or not."""

    features: int
    normalised: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w k"]:
        for name in ("conv_0", "conv_1"):
            if self.normalised:
                x = _activate(Conv(self.features, name=name)(x))
            else:
                x = nn.leaky_relu(Conv(self.features, kernel_init=HE, name=name)(x), SLOPE)
        return x


class UNet(nn.Module):
    """Go down ``pools`` times by 2x2 means, doubling the width, and up again with the skipped maps beside.

    The transposed 2x2 convolution of stride 2 is a 1x1 convolution to four times the features and a pixel shuffle:
    the same sum, as one matrix product. The last layer starts at zero (ours), so that a residual network starts as
    the identity. Both sides must be multiples of ``2**pools``.

    Without normalisation there is no bias either: the output then scales as the input does.

    Example:
        >>> import jax
        >>> x = jnp.zeros((1, 16, 16, 3))
        >>> jax.eval_shape(UNet(2, width=4, pools=1).init_with_output, jax.random.key(0), x)[0].shape
        (1, 16, 16, 2)
    """

    outputs: int
    width: int = 32
    pools: int = 4
    starts_at_zero: bool = True
    normalised: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w k"]:
        skipped = []
        options: dict[str, Any] = {} if self.normalised else {"kernel_init": HE}
        for level in range(self.pools):
            x = ConvBlock(self.width * 2**level, self.normalised, name=f"down_{level}")(x)
            skipped.append(x)
            b, h, w, f = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, f).mean((2, 4))  # [b, h, w, f] -> [b, h / 2, w / 2, f]
        x = ConvBlock(self.width * 2**self.pools, self.normalised, name="bottom")(x)
        for level in reversed(range(self.pools)):
            features = self.width * 2**level
            x = pixel_shuffle(Pointwise(4 * features, name=f"enlarge_{level}", **options)(x), 2)
            x = _activate(x) if self.normalised else nn.leaky_relu(x, SLOPE)
            x = ConvBlock(features, self.normalised, name=f"up_{level}")(jnp.concatenate([x, skipped[level]], axis=-1))
        start = nn.initializers.zeros if self.starts_at_zero else nn.initializers.lecun_normal()
        return Pointwise(self.outputs, use_bias=self.normalised, kernel_init=start, name="out")(x)


class NormUNet(nn.Module):
    """Compute s * UNet((x - m) / s), with mean m and deviation s of each channel of each example.

    Instance normalisation makes a U-Net blind to the scale of its input; s hands it on to the output, which is an
    update of the first channels of x. Any size is taken: zeros are added around the normalised maps up to multiples
    of ``2**pools`` and cut off again.

    ``published`` is what fastMRI's ``NormUnet`` computes: ``s * UNet((x - m) / s) + m`` with the unbiased deviation, a
    last layer that does not start at zero, and multiples of 16. A channel of one value is left at its mean there.
    ``clip`` limits its normalised input, as fastMRI does for its single U-Net.

    Example:
        >>> import jax
        >>> x = jnp.zeros((1, 15, 17, 3))  # of any size
        >>> jax.eval_shape(NormUNet(2, width=4, pools=1).init_with_output, jax.random.key(0), x)[0].shape
        (1, 15, 17, 2)
    """

    outputs: int
    width: int = 32
    pools: int = 4
    published: bool = False
    clip: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w k"]:
        h, w = x.shape[1:3]
        mean = x.mean((1, 2), keepdims=True)
        centred = x - mean
        if self.published:
            return self._published(centred, mean)
        deviation = jnp.sqrt(jnp.square(centred).mean((1, 2), keepdims=True) + 1e-6)  # images have maximum 1
        (top, bottom), (left, right) = (_borders(side, 2**self.pools) for side in (h, w))
        padded = jnp.pad(centred / deviation, ((0, 0), (top, bottom), (left, right), (0, 0)))
        y = UNet(self.outputs, self.width, self.pools, name="unet")(padded)
        return y[:, top : top + h, left : left + w] * deviation[..., : self.outputs]

    def _published(self, centred: Float[Array, "b h w f"], mean: Float[Array, "b 1 1 f"]) -> Float[Array, "b h w k"]:
        h, w = centred.shape[1:3]
        variance = jnp.square(centred).sum((1, 2), keepdims=True) / max(h * w - 1, 1)
        varies = variance > 0
        deviation = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)
        (top, bottom), (left, right) = (_borders(side, max(16, 2**self.pools)) for side in (h, w))
        scaled = centred / jnp.where(varies, deviation, 1)
        scaled = scaled if self.clip is None else jnp.clip(scaled, -self.clip, self.clip)
        padded = jnp.pad(scaled, ((0, 0), (top, bottom), (left, right), (0, 0)))
        y = UNet(self.outputs, self.width, self.pools, starts_at_zero=False, name="unet")(padded)
        y = y[:, top : top + h, left : left + w] * deviation[..., : self.outputs]
        return y + mean[..., : self.outputs]


def _borders(side: int, multiple: int) -> tuple[int, int]:
    """Return what to add before and after a side to make it a multiple."""
    missing = -side % multiple
    return missing // 2, missing - missing // 2
