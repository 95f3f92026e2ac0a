"""The U-Net of fastMRI on the zero-filled image.

    x = x_0 + UNet(x_0, x_c),  x_0 = A^H y

Source: Zbontar et al. 2018, "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI", single-coil baseline.
Published size: 7,756,097 parameters, for one real channel in and out (width 32, 4 poolings).
Departures: the network computes an update of the image, the image may be complex, the CT may be one more channel.
"""

from dataclasses import dataclass

import flax.linen as nn
from beartype import beartype

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig, Consistency, DataConsistency, as_input, project, see_coils, start
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import from_channels

__all__ = ["ImageUNet", "UNetConfig"]


@beartype
@dataclass(frozen=True)
class UNetConfig(BaselineConfig):
    """The U-Net of fastMRI. The defaults are its published size."""

    width: int = 32
    """Features per pixel at full resolution; they double at each pooling."""
    pools: int = 4
    """Number of poolings, each of 2x2 pixels."""
    dc: Consistency = "none"
    """Data consistency of the result: learned weight, replacement, or none (as published)."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.pools < 0:
            raise ValueError(f"got width {self.width} and pools {self.pools}, wanted width >= 1 and pools >= 0")

    def build(self) -> "ImageUNet":
        """Make the module."""
        return ImageUNet(self)


class ImageUNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size."""

    config: UNetConfig = UNetConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        measurement = see_coils(measurement, c.sensitivity)
        x = start(measurement, c)
        update = NormUNet(c.channels, c.width, c.pools, name="unet")(as_input(x, measurement, c))
        x = DataConsistency(c.dc, name="consistency")(x + from_channels(update), measurement)
        return Reconstruction(project(x, c), coil_maps=measurement.coil_maps if c.sensitivity else None)
