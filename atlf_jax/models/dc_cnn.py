"""DC-CNN: a cascade of small convolutional networks with data consistency between them.

    x_0 = A^H y;  x_{k+1} = DC_v(x_k + CNN_k(x_k, x_c); y, M, S)

Source: Schlemper et al. 2018 (IEEE TMI 37:491), "A Deep Cascade of Convolutional Neural Networks for Dynamic MR Image
Reconstruction", the two-dimensional network D5-C5.
Published size: 5 cascades of 5 layers with 64 features; 565,770 parameters without CT and data consistency weights.
Departures: v is learned for each cascade; the CT may be one more channel; several coils are solved by conjugate
gradients.
"""

from dataclasses import dataclass

import flax.linen as nn
from beartype import beartype

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig, Consistency, DataConsistency, as_input, project, see_coils, start
from atlf_jax.nn.cnn import CNN
from atlf_jax.ops import from_channels

__all__ = ["DCCNN", "DCCNNConfig"]


@beartype
@dataclass(frozen=True)
class DCCNNConfig(BaselineConfig):
    """DC-CNN. The defaults are its published size."""

    cascades: int = 5
    """Number of cascades."""
    depth: int = 5
    """Convolutions of each cascade."""
    width: int = 64
    """Features per pixel."""
    dc: Consistency = "soft"
    """Data consistency after each cascade: learned weight ("noise": by the noise of the scan), replacement, or
    none."""

    def __post_init__(self) -> None:
        if min(self.cascades, self.depth, self.width) < 1:
            raise ValueError(
                f"got cascades {self.cascades}, depth {self.depth} and width {self.width}, wanted each at least 1"
            )

    def build(self) -> "DCCNN":
        """Make the module."""
        return DCCNN(self)


class DCCNN(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size.

    Example:
        >>> import jax, numpy as np
        >>> y = np.ones((1, 16, 16), np.complex64)
        >>> network, measurement = DCCNN(DCCNNConfig(cascades=1)), Measurement(y, np.ones((1, 1, 16), bool), y.real)
        >>> result, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), measurement)
        >>> result.image.shape, sorted(variables["params"])
        ((1, 16, 16), ['cnn_0', 'consistency_0'])
    """

    config: DCCNNConfig = DCCNNConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        measurement = see_coils(measurement, c.sensitivity)
        x = start(measurement, c)
        for k in range(c.cascades):
            update = CNN(c.channels, c.width, c.depth, name=f"cnn_{k}")(as_input(x, measurement, c))
            x = DataConsistency(c.dc, name=f"consistency_{k}")(x + from_channels(update), measurement)
            x = project(x, c)
        return Reconstruction(x, coil_maps=measurement.coil_maps if c.sensitivity else None)
