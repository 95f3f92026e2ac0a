"""An unrolled network that keeps the measured samples of every coil, and gives the root of the sum of squares.

    z_0 = argmin_z v |A z - y|^2 + |z|^2  (CG-SENSE)
    g_t = A^H (A z_t - y);  (u, m_{t+1}) = UNet(z_t, g_t, m_t);  z_{t+1} = z_t - eta_t g_t + u
    x_c = F^H (M y_c + (1 - M) F S_c z_t)
    |x| = sqrt(sum_c |x_c|^2 + n^2)  at the end

The U-Nets have no biases and no normalisation, so the image follows the scale of the data exactly, and noise is known
by its ratio to the image. m are features that one step hands to the next. n, a last feature, is the noise that the
samples that were not measured would have brought: the expected square of a magnitude is above the squared magnitude
of what is expected. The phase is that of the coils combined by the maps.

The coil maps are refined after each block of steps that share a U-Net: the low frequencies of the coil images x_c,
which by then are known beyond the calibration centre, and a small U-Net's update of them, normalised.

Source: ours; its parts are of E2E-VarNet (Sriram et al. 2020: state and output of all coils), of bias-free denoisers
(Mohan et al. 2020), of joint estimation of image and maps (JSENSE, Ying and Sheng 2007) and of networks with a memory
between their steps (Adler and Oktem 2018).
"""

from dataclasses import dataclass
from math import log

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jaxtyping import Bool, Complex, Float

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig
from atlf_jax.nn.unet import UNet
from atlf_jax.ops import fft2c, from_channels, ifft2c, normalise_maps, to_channels
from atlf_jax.ops.consistency import conjugate_gradient, gradient

__all__ = ["SenseNet", "SenseNetConfig"]

CENTRE = 24 / 256  # side of the Hann window over k-space under which maps are smooth, as a part of the image's side
SMALL = 4  # maps are refined on a grid as many times coarser
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
        refine = RefineMaps(name="refine_maps")
        for t in range(c.steps):
            if t and t % c.repeats == 0:
                coil_images = self._keep_samples(z, y, mask, maps)
                maps = refine(coil_images, maps)
                z = jnp.sum(maps.conj() * coil_images, axis=1)
            stepped = gradient(z, y, mask, 1.0, maps)
            seen = jnp.concatenate([to_channels(z), to_channels(stepped - z), memory], axis=-1)
            update = _padded(unets[t // c.repeats], seen, 2**c.pools)
            eta = self.param(f"eta_{t}", nn.initializers.ones, (), z.real.dtype)
            z = z + eta.astype(z.dtype) * (stepped - z) + from_channels(update[..., :2])
            memory = update[..., 2:]
        coil_images = self._keep_samples(z, y, mask, maps)
        energy = jnp.sum(coil_images.real**2 + coil_images.imag**2, axis=1) + memory[..., -1] ** 2
        image = jnp.sum(maps.conj() * coil_images, axis=1)
        size = jnp.abs(image)
        phase = jnp.where(size > 0, image / jnp.where(size > 0, size, 1).astype(image.dtype), 1)
        image = jnp.sqrt(energy + TINY).astype(image.dtype) * lax.stop_gradient(phase)
        return Reconstruction(image, coil_maps=None if measurement.coil_maps is None else maps)

    @staticmethod
    def _keep_samples(
        image: Complex[Array, "b h w"],
        kspace: Complex[Array, "b c h w"],
        mask: Bool[Array, "b #h w"],
        maps: Complex[Array, "b c h w"],
    ) -> Complex[Array, "b c h w"]:
        """Return the coil images of an image, with the measured samples in place of its own."""
        return ifft2c(jnp.where(mask[:, None], kspace, fft2c(maps * image[:, None])))


class RefineMaps(nn.Module):
    """Estimate coil maps from coil images: their low frequencies and an update, coil by coil, on a coarse grid."""

    width: int = 8
    pools: int = 1

    @nn.compact
    def __call__(
        self, coil_images: Complex[Array, "b c h w"], maps: Complex[Array, "b c h w"]
    ) -> Complex[Array, "b c h w"]:
        """Return maps with ``sum_c |S_c|^2 = 1``, 0 for coils of zeros."""
        sides = coil_images.shape[-2:]
        few = [max(4, -(-side // SMALL)) for side in sides]
        places = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(sides, few, strict=True))
        window = np.outer(*(_hann(m, n * CENTRE) for n, m in zip(sides, few, strict=True)))
        explained = maps * jnp.sum(maps.conj() * coil_images, axis=1, keepdims=True)
        kspace, explained = (fft2c(each)[..., *places] for each in (coil_images, explained))
        smooth = ifft2c(kspace * window.astype(kspace.dtype)[None, None])
        seen = jnp.concatenate([to_channels(each) for each in (smooth, ifft2c(kspace), ifft2c(explained))], axis=-1)
        unet = UNet(2, self.width, self.pools, normalised=False, name="unet")
        update = _padded(unet, seen.reshape(-1, *seen.shape[2:]), 2**self.pools)
        low = smooth + from_channels(update).reshape(smooth.shape)
        return normalise_maps(ifft2c(jnp.zeros_like(coil_images).at[..., *places].set(fft2c(low))))


def _hann(side: int, length: float) -> np.ndarray:
    distance = np.abs(np.arange(side) - side // 2)
    return np.where(distance < length / 2, np.cos(np.pi * distance / max(length, 1)) ** 2, 0)


def _padded(unet: nn.Module, x: Float[Array, "b h w f"], multiple: int) -> Float[Array, "b h w k"]:
    """Apply a U-Net to an image of any size, with zeros beyond it up to multiples of a number."""
    h, w = x.shape[1:3]
    return unet(jnp.pad(x, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0))))[:, :h, :w]
