"""Test without ground truth whether the CT of a scan helps: cross-validation in k-space.

A fifth of the samples outside the middle of k-space is withheld. The network reconstructs from the others, once with
the CT and once without, and each image predicts the withheld samples. The same idea is used to choose regularisation
weights and, for training, in SSDU (Yaman et al. 2020). ``studies/ct_check.py`` measures how well the result agrees
with the true effect of the CT on the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Bool, Float, jaxtyped

from atlf_jax.array_types import Array, Measurement, Reconstruction, Reconstructor
from atlf_jax.ops import forward

__all__ = ["WithheldErrors", "gain_interval", "withheld_energy_and_error", "withheld_errors", "withhold"]

WITHHELD_SHARE = 0.2  # share of the samples outside the middle that is withheld
MIDDLE = 0.08  # of each side, never withheld: as wide as the fully sampled centres that networks are trained with


class WithheldErrors(NamedTuple):
    """Squared errors of predicting the withheld samples, in the units of k-space."""

    without: Float[Array, "*b"] | float  # of the image that was reconstructed without the CT
    with_ct: Float[Array, "*b"] | float
    change: Float[Array, "*b"] | float  # energy of the difference of both predictions

    @property
    def gain(self) -> float:
        """The gain by the CT in dB, over all examples together; NaN if no sample was withheld."""
        without, with_ct, _ = self._sums()
        return 10 * float(np.log10(without / with_ct)) if with_ct else float("nan")

    @property
    def weight(self) -> float:
        """The part, in [0, 1], of what the CT changes with which all samples together are predicted best.

        With e the error without the CT and d what the CT changes, ``|e - w d|^2`` is smallest at
        ``w = Re<d, e> / |d|^2 = (|e|^2 - |e - d|^2 + |d|^2) / (2 |d|^2)``. NaN if the CT changes nothing.
        """
        without, with_ct, change = self._sums()
        return float(np.clip((without - with_ct + change) / (2 * change), 0, 1)) if change else float("nan")

    def _sums(self) -> list[float]:
        return [float(np.sum(part, dtype=np.float64)) for part in self]


@beartype
def gain_interval(errors: Sequence[WithheldErrors], *, seed: int = 0) -> tuple[float, float, float]:
    """Return the gain by the CT in dB over all slices, and its 95 % bootstrap interval over slices.

    Args:
        errors: of single slices.
        seed: of the draws.

    Returns:
        gain, lower and upper end; the ends are NaN for fewer than two slices.

    Example:
        >>> gain, low, high = gain_interval([WithheldErrors(*map(np.float64, (2, 1, 1)))] * 3)
        >>> round(gain, 2) == round(low, 2) == round(high, 2) == 3.01
        True
    """
    pairs = np.array([[float(np.sum(part)) for part in each[:2]] for each in errors]).reshape(-1, 2)
    drawn = np.random.default_rng(seed).integers(len(pairs), size=(2000, len(pairs))) if len(pairs) > 1 else []
    gains = [10 * np.log10(a / b) if b else np.nan for a, b in (pairs.sum(0), *(pairs[rows].sum(0) for rows in drawn))]
    ends = np.nanpercentile(gains[1:], (2.5, 97.5)) if np.isfinite(gains[1:]).any() else (np.nan, np.nan)
    return float(gains[0]), float(ends[0]), float(ends[1])


@jaxtyped(typechecker=beartype)
def withhold(mask: Bool[Array, "b #h w"], *, seed: int = 0) -> Bool[np.ndarray, "b #h w"]:
    """Draw the samples to withhold: whole lines if the mask consists of lines.

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
    distances = [np.abs(np.arange(side) - side // 2) / side for side in (rows, columns)]
    outside_middle = np.maximum(*np.ix_(*distances)) > MIDDLE / 2
    drawn = np.random.default_rng(seed).random((rows, columns)) < WITHHELD_SHARE
    return np.asarray(mask) & drawn & outside_middle


@beartype
def withheld_errors(model: Reconstructor, measurement: Measurement, *, seed: int = 0) -> WithheldErrors:
    """Reconstruct from fewer samples, without the CT and with it, and predict the samples that were withheld.

    Args:
        model: a network trained both with and without a CT; for another one any CT would seem to help.
        measurement: as the network takes it.
        seed: of the samples that are withheld.

    Example:
        >>> from atlf_jax.ops import adjoint
        >>> measurement = Measurement(np.ones((1, 2, 64), "c8"), np.ones((1, 1, 64), bool), np.ones((1, 2, 64), "f4"))
        >>> blind = lambda measurement: Reconstruction(adjoint(measurement.kspace, measurement.mask))  # to the CT
        >>> withheld_errors(blind, measurement).gain
        0.0

    Source: ours; see the module.
    """
    fewer, withheld, samples = _split(measurement, seed)
    ct = jnp.asarray(measurement.ct)
    without, with_ct = (
        _predict(model(fewer._replace(ct=each)), withheld, measurement) for each in (jnp.zeros_like(ct), ct)
    )
    return WithheldErrors(_energy(without - samples), _energy(with_ct - samples), _energy(with_ct - without))


@beartype
def withheld_energy_and_error(
    model: Reconstructor, measurement: Measurement, *, seed: int = 0
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Return the energy of the withheld samples, and the energy of a network's error in predicting them.

    Predicting zeros gives an error equal to the energy. A network with a larger error is worse than the zero-filled
    image.

    Args:
        model: any network.
        measurement: as the network takes it.
        seed: of the samples that are withheld.

    Example:
        >>> from atlf_jax.ops import adjoint
        >>> measurement = Measurement(np.ones((1, 2, 64), "c8"), np.ones((1, 1, 64), bool), np.ones((1, 2, 64), "f4"))
        >>> zero_filled = lambda measurement: Reconstruction(adjoint(measurement.kspace, measurement.mask))
        >>> energy, error = withheld_energy_and_error(zero_filled, measurement)
        >>> bool(energy > 0), bool(np.allclose(energy, error))
        (True, True)
    """
    fewer, withheld, samples = _split(measurement, seed)
    predicted = _predict(model(fewer), withheld, measurement)
    return _energy(samples), _energy(predicted - samples)


def _predict(result: Reconstruction, withheld: Array, measurement: Measurement) -> Array:
    """Return the samples of an image at the withheld places, by the coil maps that belong to the image."""
    maps = measurement.coil_maps if result.coil_maps is None else result.coil_maps
    return forward(result.image, withheld, maps)


def _split(measurement: Measurement, seed: int) -> tuple[Measurement, Array, Array]:
    """Return the measurement without the withheld samples, their mask, and the samples themselves."""
    withheld = withhold(measurement.mask, seed=seed)
    with_coil_axis = withheld[:, None] if measurement.kspace.ndim == 4 else withheld
    remaining = measurement._replace(
        kspace=jnp.where(with_coil_axis, 0, measurement.kspace), mask=jnp.asarray(measurement.mask) & ~withheld
    )
    return remaining, withheld, jnp.where(with_coil_axis, measurement.kspace, 0)


def _energy(samples: Array) -> Float[np.ndarray, " b"]:
    # float64: the weight of a CT is a small difference of such sums
    return np.sum(np.abs(np.asarray(samples)).astype(np.float64) ** 2, axis=tuple(range(1, samples.ndim)))
