"""An unrolled network that keeps the measured samples of every coil, and gives the root of the sum of squares.

    z_0 = argmin_z v |A z - y|^2 + |z|^2  (CG-SENSE)
    g_t = A^H (A z_t - y);  (u, m_{t+1}) = UNet(z_t, g_t, m_t);  z_{t+1} = z_t - eta_t g_t + u
    x_c = F^H (M y_c + (1 - M) F S_c z_T);  |x| = sqrt(sum_c |x_c|^2 + n^2)

The U-Nets have no biases and no normalisation, so the image follows the scale of the data exactly, and noise is known
by its ratio to the image. m are features that one step hands to the next. n, a last feature, is the noise that the
samples that were not measured would have brought: the expected square of a magnitude is above the squared magnitude
of what is expected. The phase is that of the coils combined by the maps.

Source: ours; its parts are of E2E-VarNet (Sriram et al. 2020: state and output of all coils), of bias-free denoisers
(Mohan et al. 2020) and of networks with a memory between their steps (Adler and Oktem 2018).
"""

from dataclasses import dataclass
from math import log

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jax import lax

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig
from atlf_jax.nn.unet import UNet
from atlf_jax.ops import fft2c, from_channels, ifft2c, to_channels
from atlf_jax.ops.consistency import conjugate_gradient, gradient

__all__ = ["SenseNet", "SenseNetConfig"]

START = 20.0  # weight v of the samples at the start of training
TINY = 1e-12  # keeps the root's gradient finite at 0; images have maximum 1


@beartype
@dataclass(frozen=True)
class SenseNetConfig(BaselineConfig):
    """A small network for any number of coils, without CT."""

    use_ct: bool = False
    """The CT is not used yet: False."""
    steps: int = 8
    """Number of steps."""
    repeats: int = 3
    """Successive steps that share a U-Net."""
    width: int = 16
    """Features per pixel of each U-Net at full resolution; they double at each pooling."""
    pools: int = 2
    """Number of poolings of each U-Net."""
    memory: int = 4
    """Features that a step hands to the next."""
    cg_iterations: int = 6
    """Iterations of the conjugate gradient, for the start."""

    def __post_init__(self) -> None:
        for name in ("steps", "repeats", "width", "memory", "cg_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}, wanted 1 or more")
        if self.pools < 0:
            raise ValueError(f"got pools {self.pools}, wanted 0 or more")
        if self.use_ct or not self.complex or self.sensitivity is not None:
            raise ValueError("this network is complex, has no CT and takes given coil maps; leave these settings")

    def build(self) -> "SenseNet":
        """Make the module."""
        return SenseNet(self)


class SenseNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size."""

    config: SenseNetConfig = SenseNetConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        if y.ndim == mask.ndim:  # one coil without an axis
            y = y[:, None]
        if maps is None:
            if y.shape[1] > 1:
                raise ValueError(f"k-space has {y.shape[1]} coils and no maps; give coil maps")
            maps = jnp.ones_like(y)
        log_v = self.param("log_v", nn.initializers.constant(log(START)), (), y.real.dtype)
        nothing = jnp.zeros_like(y[:, 0])
        z = conjugate_gradient(nothing, y, mask, jnp.exp(log_v), maps, iterations=c.cg_iterations)
        memory = jnp.zeros((*z.shape, c.memory), z.real.dtype)
        unets = [
            UNet(2 + c.memory, c.width, c.pools, normalised=False, name=f"unet_{i}")
            for i in range(-(-c.steps // c.repeats))
        ]
        multiple = 2**c.pools
        h, w = z.shape[-2:]
        border = ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0))
        for t in range(c.steps):
            stepped = gradient(z, y, mask, 1.0, maps)
            seen = jnp.concatenate([to_channels(z), to_channels(stepped - z), memory], axis=-1)
            update = unets[t // c.repeats](jnp.pad(seen, border))[:, :h, :w]
            eta = self.param(f"eta_{t}", nn.initializers.ones, (), z.real.dtype)
            z = z + eta.astype(z.dtype) * (stepped - z) + from_channels(update[..., :2])
            memory = update[..., 2:]
        coil_images = ifft2c(jnp.where(mask[:, None], y, fft2c(maps * z[:, None])))
        energy = jnp.sum(coil_images.real**2 + coil_images.imag**2, axis=1) + memory[..., -1] ** 2
        image = jnp.sum(maps.conj() * coil_images, axis=1)
        size = jnp.abs(image)
        phase = jnp.where(size > 0, image / jnp.where(size > 0, size, 1).astype(image.dtype), 1)
        return Reconstruction(jnp.sqrt(energy + TINY).astype(image.dtype) * lax.stop_gradient(phase))
