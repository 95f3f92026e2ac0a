"""Coil maps by a network: a U-Net on the coil images of the fully sampled centre, one coil after the other.

    x_c = F^H (W y_c);  S_c = (x_c + UNet(x_c)) / sqrt(sum_c |x_c + UNet(x_c)|^2)

Source: Sriram et al. 2020 (MICCAI), "End-to-End Variational Networks": 8 features and 4 poolings, 484,898 parameters.
Departure, unless ``published``: the U-Net computes an update, so that training starts at low-resolution maps.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Complex, Float

from atlf_jax.array_types import Array
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import from_channels, ifft2c, normalise_maps, to_channels

__all__ = ["SensitivityNet", "centre_window"]


def centre_window(mask: Bool[Array, "b #h w"], shape: tuple[int, int]) -> Float[Array, "b #h w"]:
    """Return 1 in the fully sampled centre of each mask and 0 elsewhere.

    Args:
        mask: True = acquired, zero frequency at index ``n // 2``.
        shape: (h, w).

    Returns:
        A rectangle: as many rows and columns about the centre as are sampled without a gap through the zero frequency,
        ``[b, 1, w]`` for masks of lines.

    Example:
        >>> mask = jnp.array([[[True, False, True, True, True, False, True]]])
        >>> centre_window(mask, (4, 7)).astype(int)[0, 0].tolist()
        [0, 0, 1, 1, 1, 0, 0]
    """
    h, w = shape
    columns = _run(mask[:, 0 if mask.shape[-2] == 1 else h // 2, :])[:, None, :]
    if mask.shape[-2] == 1:
        return columns
    return _run(mask[:, :, w // 2])[:, :, None] * columns


def _run(sampled: Bool[Array, "b n"]) -> Float[Array, "b n"]:
    """Centre the unbroken run of samples through index ``n // 2``, as fastMRI does."""
    n = sampled.shape[-1]
    steps = sampled.astype(jnp.int32)
    right = jnp.cumprod(steps[:, n // 2 :], axis=-1).sum(-1)
    left = jnp.cumprod(steps[:, : n // 2][:, ::-1], axis=-1).sum(-1)
    count = (left + right)[:, None]
    first = (n - count + 1) // 2
    index = jnp.arange(n)[None]
    return ((index >= first) & (index < first + count)).astype(jnp.float32)


class SensitivityNet(nn.Module):
    """Estimate coil maps from undersampled k-space; any number of coils, and coils of zeros stay zeros.

    Example:
        >>> import jax
        >>> kspace, mask = jnp.ones((1, 4, 16, 16), jnp.complex64), jnp.ones((1, 1, 16), bool)
        >>> jax.eval_shape(SensitivityNet(pools=1).init_with_output, jax.random.key(0), kspace, mask)[0].shape
        (1, 4, 16, 16)
    """

    width: int = 8
    pools: int = 4
    published: bool = False  # the U-Net computes the maps themselves, and normalises as fastMRI's code does

    @nn.compact
    def __call__(self, kspace: Complex[Array, "b c h w"], mask: Bool[Array, "b #h w"]) -> Complex[Array, "b c h w"]:
        """Return maps with ``sum_c |S_c|^2 = 1``, 0 where all are 0."""
        b, c, h, w = kspace.shape
        window = centre_window(mask, (h, w))[:, None]  # [b 1 1|h w]
        images = ifft2c(kspace * window.astype(kspace.dtype))
        channels = to_channels(images).reshape(b * c, h, w, 2)
        maps = NormUNet(2, self.width, self.pools, published=self.published, name="unet")(channels)
        if not self.published:
            maps = channels + maps
        filled = jnp.any(channels != 0, axis=(1, 2, 3), keepdims=True)  # the U-Net's biases would make maps of nothing
        maps = from_channels(jnp.where(filled, maps, 0)).reshape(b, c, h, w)
        return normalise_maps(maps)
