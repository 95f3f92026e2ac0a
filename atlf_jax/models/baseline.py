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
    "see_coils",
    "start",
    "weight_by_noise",
]

Consistency = Literal["soft", "noise", "hard", "none"]
SOFTPLUS_INVERSE_OF_1 = 0.5413248546129181  # log(e - 1)
COMMON_NOISE = 0.01  # at this standard deviation, in units of the zero-filled image's maximum, a weight stays as it is
STRONGEST = 100.0  # times as strong a weight may become where there is no noise


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


def weight_by_noise(
    v: Float[Array, ""], kspace: Complex[Array, "b *c h w"], mask: Bool[Array, "#b #h w"]
) -> Float[Array, "b 1 1"]:
    """Return the weight v of the samples of each example, the larger the less noise they have.

    ``v / ((sigma / COMMON_NOISE)^2 + 1 / STRONGEST)``, with sigma of ``ops.noise_level``. The best weight is the
    variance of the errors of the image before it by that of the noise, so that one learned number serves all scans.

    Example:
        >>> noisy = jnp.full((1, 8, 8), COMMON_NOISE * 0.8325546, jnp.complex64)  # sqrt(log 2)
        >>> mask, v = jnp.ones((1, 1, 8), bool), jnp.asarray(2.0)
        >>> [round(float(weight_by_noise(v, k, mask)[0, 0, 0]), 2) for k in (noisy, 0 * noisy)]
        [1.98, 200.0]
    """
    sigma = lax.stop_gradient(noise_level(kspace, mask))[:, None, None]
    return v / (jnp.square(sigma / COMMON_NOISE) + 1 / STRONGEST)


class DataConsistency(nn.Module):
    """Return DC_v(x; y, M, S) with v = inf ("hard"), a learned v > 0 that starts at 1 ("soft"), or x ("none").

    Under "noise" the learned v is multiplied by what ``weight_by_noise`` says of each example.
    """

    kind: Consistency

    @nn.compact
    def __call__(self, x: Complex[Array, "b h w"], measurement: Measurement) -> Complex[Array, "b h w"]:
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        if self.kind == "none":
            return x
        if self.kind == "hard":
            return hard(x, y, mask, maps)
        v = nn.softplus(self.param("dc", nn.initializers.constant(SOFTPLUS_INVERSE_OF_1), (), x.real.dtype))
        return weighted(x, y, mask, weight_by_noise(v, y, mask) if self.kind == "noise" else v, maps)
