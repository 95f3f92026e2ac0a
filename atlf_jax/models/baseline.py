"""Shared parts of the baselines: settings, network input, and data consistency."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Bool, Complex, Float

from atlf_jax.array_types import Array, Measurement
from atlf_jax.nn.sensitivity import SensitivityNet
from atlf_jax.ops import adjoint, ct_channels, noise_level, to_channels
from atlf_jax.ops.consistency import hard, weighted

__all__ = [
    "BaselineConfig",
    "Consistency",
    "DataConsistency",
    "as_input",
    "project",
    "sample_weight",
    "see_coils",
    "start",
]

Consistency = Literal["soft", "noise", "hard", "none"]
SOFTPLUS_INVERSE_OF_1 = 0.5413248546129181  # log(e - 1)
COMMON_NOISE = 0.1  # standard deviation at which a weight is v_0, in units of the zero-filled image's maximum
LEAST_NOISE = 1e-3  # smaller estimates count as this: conjugate gradients of 8 iterations solve no larger weights


@beartype
@dataclass(frozen=True)
class BaselineConfig:
    """Settings that all baselines share."""

    use_ct: bool = True
    """Give the CT to the network; False = MR only."""
    complex: bool = True
    """Two image channels (re, im); False = one real channel, with the real part taken after data consistency."""
    sensitivity: tuple[int, int] | None = None
    """Features and poolings of a network that estimates the coil maps from the centre of k-space (E2E-VarNet: 8 and 4);
    None: the given maps."""

    @property
    def sees_ct(self) -> bool:
        """Whether the CT affects the image."""
        return self.use_ct

    @property
    def channels(self) -> int:
        """The number of image channels."""
        return 2 if self.complex else 1


def project(x: Complex[Array, "b h w"], config: BaselineConfig) -> Complex[Array, "b h w"]:
    """Return x, without its imaginary part in the one-channel model.

    Example:
        >>> project(jnp.array([[[1 + 2j]]]), BaselineConfig(complex=False)).tolist()
        [[[(1+0j)]]]
    """
    return x if config.complex else x.real.astype(x.dtype)


def see_coils(measurement: Measurement, sensitivity: tuple[int, int] | None) -> Measurement:
    """Replace the coil maps by those of a sensitivity network, if there are coils (call inside a module)."""
    if sensitivity is None or measurement.kspace.ndim == measurement.mask.ndim:
        return measurement
    maps = SensitivityNet(*sensitivity, name="sensitivity")(measurement.kspace, measurement.mask)
    return measurement._replace(coil_maps=maps)


def start(measurement: Measurement, config: BaselineConfig) -> Complex[Array, "b h w"]:
    """Return the zero-filled image A^H y, from which every baseline starts."""
    return project(adjoint(measurement.kspace, measurement.mask, measurement.coil_maps), config)


def as_input(x: Complex[Array, "b h w"], measurement: Measurement, config: BaselineConfig) -> Float[Array, "b h w f"]:
    """Return the image as channels, followed by those of the CT if ``config.use_ct``.

    Example:
        >>> x = jnp.ones((1, 4, 4), jnp.complex64)
        >>> measurement = Measurement(x, jnp.ones((1, 1, 4), bool), jnp.zeros((1, 4, 4)))
        >>> [as_input(x, measurement, BaselineConfig(use_ct=use_ct)).shape for use_ct in (True, False)]
        [(1, 4, 4, 3), (1, 4, 4, 2)]
    """
    image = to_channels(x)[..., : config.channels]
    return jnp.concatenate([image, ct_channels(measurement.ct)], axis=-1) if config.use_ct else image


def sample_weight(
    module: nn.Module, kind: Consistency, kspace: Complex[Array, "b *c h w"], mask: Bool[Array, "#b #h w"]
) -> Float[Array, ""] | Float[Array, "b 1 1"]:
    """Return the learned weight v > 0 of the samples, which starts at 1; under "noise" as the noise of each scan asks.

    ``v = v_0 (COMMON_NOISE / sigma)^q``, with sigma of ``ops.noise_level``, at least ``LEAST_NOISE``, and a learned q
    that starts at 1. The best weight is the variance of the errors of the image before it by that of the noise, q = 2;
    but fine detail of the image counts as noise, so how far the estimate is to be trusted is learned as well.

    Args:
        module: gets the parameters "dc" and "by_noise"; call it inside of the module.
        kind: "soft" or "noise".
        kspace: y.
        mask: where it was measured.
    """
    dtype = kspace.real.dtype
    v = nn.softplus(module.param("dc", nn.initializers.constant(SOFTPLUS_INVERSE_OF_1), (), dtype))
    if kind != "noise":
        return v
    q = module.param("by_noise", nn.initializers.ones, (), dtype)
    sigma = jnp.maximum(lax.stop_gradient(noise_level(kspace, mask)), LEAST_NOISE)[:, None, None]
    return v * jnp.exp(-q * jnp.log(sigma / COMMON_NOISE))


class DataConsistency(nn.Module):
    """Return DC_v(x; y, M, S) with v = inf ("hard"), v of ``sample_weight`` ("soft", "noise"), or x ("none")."""

    kind: Consistency

    @nn.compact
    def __call__(self, x: Complex[Array, "b h w"], measurement: Measurement) -> Complex[Array, "b h w"]:
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        if self.kind == "none":
            return x
        if self.kind == "hard":
            return hard(x, y, mask, maps)
        return weighted(x, y, mask, sample_weight(self, self.kind, y, mask), maps)
