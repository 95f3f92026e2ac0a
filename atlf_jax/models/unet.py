"""The U-Net of fastMRI on the zero-filled image.

    x = x_0 + UNet(x_0, x_c),  x_0 = A^H y

Source: Zbontar et al. 2018, "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI", single-coil baseline.
Published size: 7,756,097 parameters, for one real channel in and out (width 32, 4 poolings).
Departures: the network computes an update of the image, the image may be complex, the CT may be one more channel.
``published`` takes them back: the magnitude (of coils, the root of the sum of squares), normalised and limited to 6
deviations, goes in and the magnitude comes out, with the phase of the zero-filled image.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Complex

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig, Consistency, DataConsistency, as_input, project, see_coils, start
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import from_channels, ifft2c, rss

__all__ = ["ImageUNet", "UNetConfig"]

LIMIT = 6.0  # deviations from the mean, of fastMRI's data transform


@beartype
@dataclass(frozen=True)
class UNetConfig(BaselineConfig):
    """The U-Net of fastMRI. The defaults are its published size."""

    width: int = 32
    """Features per pixel at full resolution; they double at each pooling."""
    pools: int = 4
    """Number of poolings, each of 2x2 pixels."""
    dc: Consistency = "none"
    """Data consistency of the result: learned weight ("noise": by the noise of the scan), replacement, or
    none (as published)."""
    published: bool = False
    """Compute what fastMRI's code computes, for its weights; without CT and data consistency."""

    def __post_init__(self) -> None:
        if self.published and (self.use_ct or self.dc != "none" or not self.complex):
            raise ValueError("the published U-Net has no CT and no dc; set use_ct=False, dc='none' and complex=True")
        if self.width < 1 or self.pools < 0:
            raise ValueError(f"got width {self.width} and pools {self.pools}, wanted width >= 1 and pools >= 0")

    def build(self) -> "ImageUNet":
        """Make the module."""
        return ImageUNet(self)


class ImageUNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size.

    Example:
        >>> import jax, numpy as np
        >>> y = np.ones((1, 16, 16), np.complex64)
        >>> network, measurement = ImageUNet(UNetConfig(pools=1)), Measurement(y, np.ones((1, 1, 16), bool), y.real)
        >>> result, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), measurement)
        >>> result.image.shape, sorted(variables["params"])
        ((1, 16, 16), ['unet'])
    """

    config: UNetConfig = UNetConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        measurement = see_coils(measurement, c.sensitivity)
        x = start(measurement, c)
        if c.published:
            return self._published(x, measurement)
        update = NormUNet(c.channels, c.width, c.pools, name="unet")(as_input(x, measurement, c))
        x = DataConsistency(c.dc, name="consistency")(x + from_channels(update), measurement)
        return Reconstruction(project(x, c), coil_maps=measurement.coil_maps if c.sensitivity else None)

    def _published(self, x: Complex[Array, "b h w"], measurement: Measurement) -> Reconstruction:
        c = self.config
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        coils = y.ndim > mask.ndim
        size = rss(ifft2c(jnp.where(mask[:, None], y, 0))) if coils else jnp.abs(x)
        unet = NormUNet(1, c.width, c.pools, published=True, clip=LIMIT, name="unet")
        length = jnp.abs(x)
        phase = jnp.where(length > 0, x / jnp.where(length > 0, length, 1).astype(x.dtype), 1)
        image = unet(size[..., None])[..., 0].astype(x.dtype) * phase
        return Reconstruction(image, coil_maps=maps if c.sensitivity else None)
