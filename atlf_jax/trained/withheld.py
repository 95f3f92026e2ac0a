"""Whether the CT of a scan helps, without knowing the truth: by measured samples that the network is not shown.

A fifth of the samples outside the middle of k-space is withheld. The network reconstructs from the others, with the CT
and without, and either image predicts the samples that were withheld. It is cross-validation in k-space, as in the
choice of regularisation weights and, for training, in SSDU (Yaman et al. 2020). How well it tells what the CT does to
the error of the image is measured by ``studies/ct_check.py``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Bool, Float, jaxtyped

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.ops import forward

__all__ = ["WithheldErrors", "gain_interval", "withheld_energy_and_error", "withheld_errors", "withhold"]

SHARE = 0.2  # of the samples outside the middle
MIDDLE = 0.08  # of each side, never withheld: as wide as the fully sampled centres that networks are trained with


class WithheldErrors(NamedTuple):
    """Squared errors of predicting the samples that were withheld, in the units of k-space."""

    without: Float[Array, "*b"]  # of the image that was reconstructed without the CT
    with_ct: Float[Array, "*b"]

    @property
    def gain(self) -> float:
        """What the CT brings, in dB, over all examples together; NaN where no sample was withheld."""
        without, with_ct = (float(np.sum(part, dtype=np.float64)) for part in self)
        return 10 * float(np.log10(without / with_ct)) if with_ct else float("nan")


@beartype
def gain_interval(errors: Sequence[WithheldErrors], *, seed: int = 0) -> tuple[float, float, float]:
    """Return what the CT brings in dB over all slices, and its 95 % bootstrap interval over slices.

    Args:
        errors: of single slices.
        seed: of the draws.

    Returns:
        gain, lower and upper end; the ends are NaN for fewer than two slices.

    Example:
        >>> gain, low, high = gain_interval([WithheldErrors(np.float64(2), np.float64(1))] * 3)
        >>> round(gain, 2) == round(low, 2) == round(high, 2) == 3.01
        True
    """
    pairs = np.array([[float(np.sum(part)) for part in each] for each in errors]).reshape(-1, 2)
    drawn = np.random.default_rng(seed).integers(len(pairs), size=(2000, len(pairs))) if len(pairs) > 1 else []
    gains = [10 * np.log10(a / b) if b else np.nan for a, b in (pairs.sum(0), *(pairs[rows].sum(0) for rows in drawn))]
    ends = np.nanpercentile(gains[1:], (2.5, 97.5)) if np.isfinite(gains[1:]).any() else (np.nan, np.nan)
    return float(gains[0]), float(ends[0]), float(ends[1])


@jaxtyped(typechecker=beartype)
def withhold(mask: Bool[Array, "b #h w"], *, seed: int = 0) -> Bool[np.ndarray, "b #h w"]:
    """Draw the samples to withhold: whole lines where the mask is of lines.

    Args:
        mask: True = acquired; ``[b, 1, w]`` of lines.
        seed: of the draw, which is the same for all examples of a shape.

    Returns:
        True = withheld; shaped as ``mask``.

    Example:
        >>> withheld = withhold(np.ones((1, 1, 256), bool))
        >>> int(withheld.sum()), int(withheld[0, 0, 118:138].sum())
        (49, 0)
    """
    rows, columns = mask.shape[-2:]
    from_middle = [np.abs(np.arange(side) - side // 2) / side for side in (rows, columns)]
    far = np.maximum(*np.ix_(*from_middle)) > MIDDLE / 2
    drawn = np.random.default_rng(seed).random((rows, columns)) < SHARE
    return np.asarray(mask) & drawn & far


@beartype
def withheld_errors(
    model: Callable[[Measurement], Reconstruction], measurement: Measurement, *, seed: int = 0
) -> WithheldErrors:
    """Reconstruct twice from fewer samples, without the CT and with it, and predict those that were withheld.

    Args:
        model: a network that can do without a CT, such as ``best``; one that cannot makes any CT look well.
        measurement: as the network takes it.
        seed: of the samples that are withheld.

    Source: ours; see the module.
    """
    fewer, withheld, samples = _split(measurement, seed)
    ct = jnp.asarray(measurement.ct)
    pair = (model(fewer._replace(ct=each)) for each in (jnp.zeros_like(ct), ct))
    return WithheldErrors(*(_energy(_predict(result, withheld, measurement) - samples) for result in pair))


@beartype
def withheld_energy_and_error(
    model: Callable[[Measurement], Reconstruction], measurement: Measurement, *, seed: int = 0
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Return the energy of the samples that were withheld, and that of a network's error in predicting them.

    Zeros predict as badly as the energy: a network whose error is larger makes the image worse than zero-filled.

    Args:
        model: any network.
        measurement: as the network takes it.
        seed: of the samples that are withheld.
    """
    fewer, withheld, samples = _split(measurement, seed)
    predicted = _predict(model(fewer), withheld, measurement)
    return _energy(samples), _energy(predicted - samples)


def _predict(result: Reconstruction, withheld: Array, measurement: Measurement) -> Array:
    """Measure an image at the withheld samples, by the coil maps that it belongs to."""
    maps = measurement.coil_maps if result.coil_maps is None else result.coil_maps
    return forward(result.image, withheld, maps)


def _split(measurement: Measurement, seed: int) -> tuple[Measurement, Array, Array]:
    """Return the measurement without the withheld samples, where these are, and the samples themselves."""
    withheld = withhold(measurement.mask, seed=seed)
    where = withheld[:, None] if measurement.kspace.ndim == 4 else withheld
    left = measurement._replace(
        kspace=jnp.where(where, 0, measurement.kspace), mask=jnp.asarray(measurement.mask) & ~withheld
    )
    return left, withheld, jnp.where(where, measurement.kspace, 0)


def _energy(samples: Array) -> Float[np.ndarray, " b"]:
    return np.asarray(jnp.sum(jnp.abs(samples) ** 2, axis=tuple(range(1, samples.ndim))))
