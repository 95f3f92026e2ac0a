"""The end-to-end variational network as fastMRI's code has it: the state is the k-space of every coil.

    S = SensitivityNet(y);  k_0 = y
    k_{t+1} = k_t - eta_t M (k_t - y) - F S UNet_t(sum_c conj(S_c) F^H k_t)
    |x| = sqrt(sum_c |F^H k_T|^2)

Source: Sriram et al. 2020 (MICCAI) and fastMRI ``fastmri/models/varnet.py``: sides padded to multiples of 16, unbiased
deviations, and the mean put back behind each U-Net.
Published size: 12 cascades of U-Nets of width 18 with 4 poolings, and 8 features for the maps; 29,936,966 parameters,
of which 484,898 estimate coil maps.
Additions, off by default: the CT as one more channel, given coil maps, and a combined image in place of the root of the
sum of squares, which has no phase: train that with a loss of magnitudes (``train.loss.ssim``).
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jax import lax

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig
from atlf_jax.nn.sensitivity import SensitivityNet
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import ct_channels, fft2c, from_channels, ifft2c, rss, to_channels
from atlf_jax.ops.consistency import varnet

__all__ = ["E2EVarNet", "E2EVarNetConfig"]


@beartype
@dataclass(frozen=True)
class E2EVarNetConfig(BaselineConfig):
    """E2E-VarNet. The defaults are its published size, without CT."""

    use_ct: bool = False
    """Let the network see the CT; False = MR alone."""
    sensitivity: tuple[int, int] | None = (8, 4)
    """Features and poolings of the network that estimates coil maps; None: the given ones."""
    cascades: int = 12
    """Number of cascades."""
    width: int = 18
    """Features per pixel of each U-Net at full resolution; they double at each pooling."""
    pools: int = 4
    """Number of poolings of each U-Net."""
    output: Literal["rss", "combined"] = "rss"
    """The image: root of the sum of squares of the coils (no phase), or their combination by the maps."""

    def __post_init__(self) -> None:
        if min(self.cascades, self.width) < 1 or self.pools < 0:
            raise ValueError(
                f"got cascades {self.cascades}, width {self.width} and pools {self.pools}, wanted 1, 1 and 0 or more"
            )
        if not self.complex:
            raise ValueError("complex is off, and the state of this network is complex k-space; leave it on")


class E2EVarNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size."""

    config: E2EVarNetConfig = E2EVarNetConfig()
    mu_values: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, measurement: Measurement, *, mu_index=None, deterministic: bool = True) -> Reconstruction:
        c = self.config
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        if y.ndim == mask.ndim:  # one coil without an axis
            y = y[:, None]
        if c.sensitivity is not None:
            maps = SensitivityNet(*c.sensitivity, published=True, name="sensitivity")(y, mask)
        elif maps is None:
            if y.shape[1] > 1:
                raise ValueError(f"k-space has {y.shape[1]} coils and no maps; give coil maps, or set sensitivity")
            maps = jnp.ones_like(y)
        ct = ct_channels(measurement.ct) if c.use_ct else None
        k = y
        for t in range(c.cascades):
            x = to_channels(jnp.sum(maps.conj() * ifft2c(k), axis=1))
            seen = x if ct is None else jnp.concatenate([x, ct], axis=-1)
            update = from_channels(NormUNet(2, c.width, c.pools, published=True, name=f"unet_{t}")(seen))
            eta = self.param(f"eta_{t}", nn.initializers.ones, (), y.real.dtype)
            k = varnet(k, y, mask, eta) - fft2c(maps * update[:, None])
        if c.output == "combined":
            return Reconstruction(jnp.sum(maps.conj() * ifft2c(k), axis=1), coil_maps=maps)
        magnitude = rss(ifft2c(k))
        return Reconstruction(lax.complex(magnitude, jnp.zeros_like(magnitude)), coil_maps=maps)
