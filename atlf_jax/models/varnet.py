"""The cascade of the end-to-end variational network: a gradient step and a U-Net each.

    x_0 = A^H y;  x_{k+1} = x_k - eta_k A^H (A x_k - y) + UNet_k(x_k, x_c)

Source: Sriram et al. 2020 (MICCAI), "End-to-End Variational Networks for Accelerated MRI Reconstruction".
Published size: 12 cascades of U-Nets of width 18 with 4 poolings, 29.5 million parameters without those that estimate
coil maps.
Departures: the state is an image, where it was the k-space of every coil, and coil maps come with the measurement; the
normalised U-Net's update leaves out its input's mean; the CT may be one more channel.
"""

from dataclasses import dataclass

import flax.linen as nn
from beartype import beartype

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig, as_input, project, see_coils, start
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import from_channels
from atlf_jax.ops.consistency import gradient

__all__ = ["VarNet", "VarNetConfig"]


@beartype
@dataclass(frozen=True)
class VarNetConfig(BaselineConfig):
    """The cascade of E2E-VarNet. The defaults are its published size."""

    cascades: int = 12
    """Number of cascades."""
    width: int = 18
    """Features per pixel of each U-Net at full resolution; they double at each pooling."""
    pools: int = 4
    """Number of poolings of each U-Net."""

    def __post_init__(self) -> None:
        if min(self.cascades, self.width) < 1 or self.pools < 0:
            raise ValueError(
                f"got cascades {self.cascades}, width {self.width} and pools {self.pools}, wanted 1, 1 and 0 or more"
            )

    def build(self) -> "VarNet":
        """Make the module."""
        return VarNet(self)


class VarNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size.

    Example:
        >>> import jax, numpy as np
        >>> y = np.ones((1, 16, 16), np.complex64)
        >>> network = VarNet(VarNetConfig(cascades=1, pools=1))
        >>> measurement = Measurement(y, np.ones((1, 1, 16), bool), y.real)
        >>> result, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), measurement)
        >>> result.image.shape, sorted(variables["params"])
        ((1, 16, 16), ['eta_0', 'unet_0'])
    """

    config: VarNetConfig = VarNetConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        measurement = see_coils(measurement, c.sensitivity)
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        x = start(measurement, c)
        for k in range(c.cascades):
            update = NormUNet(c.channels, c.width, c.pools, name=f"unet_{k}")(as_input(x, measurement, c))
            eta = self.param(f"eta_{k}", nn.initializers.ones, (), x.real.dtype)
            x = project(gradient(x, y, mask, eta, maps) + from_channels(update), c)
        return Reconstruction(x, coil_maps=measurement.coil_maps if c.sensitivity else None)
