"""The zero-filled reconstruction, the row that every table starts with."""

from dataclasses import dataclass

import flax.linen as nn

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.ops import adjoint

__all__ = ["ZeroFilled", "ZeroFilledConfig"]


@dataclass(frozen=True)
class ZeroFilledConfig:
    """The zero-filled reconstruction has nothing to set."""

    sees_ct = False

    def build(self) -> "ZeroFilled":
        """Make the module."""
        return ZeroFilled(self)


class ZeroFilled(nn.Module):
    """Return x = A^H y, without parameters.

    Example:
        >>> import numpy as np
        >>> y = np.ones((1, 4, 4), np.complex64)
        >>> ZeroFilled().apply({}, Measurement(y, np.ones((1, 1, 4), bool), y.real)).image.shape
        (1, 4, 4)
    """

    config: ZeroFilledConfig = ZeroFilledConfig()

    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        return Reconstruction(adjoint(measurement.kspace, measurement.mask, measurement.coil_maps))
