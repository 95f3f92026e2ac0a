"""Withheld samples tell whether a CT helps."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.ops import adjoint, forward, normalise_maps
from atlf_jax.trained.inference import weigh_ct
from atlf_jax.trained.withheld import (
    MIDDLE,
    WITHHELD_SHARE,
    WithheldErrors,
    gain_interval,
    withheld_energy_and_error,
    withheld_errors,
    withhold,
)

SHAPE = (128, 96)


def trusting(measurement):
    """Return the CT where there is one, else what was measured."""
    there = (measurement.ct.max((-2, -1)) > 0)[:, None, None]
    image = adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return Reconstruction(jnp.where(there, measurement.ct.astype(jnp.complex64), image))


def measured(kind, coils=0):
    """Two slices of uniform noise as images, their mask and, where wanted, coil maps."""
    rng = np.random.default_rng(0)
    truth = rng.random((2, *SHAPE)).astype(np.float32)
    mask = np.stack([make_mask(MaskConfig(kind, 3.0, MIDDLE), SHAPE, seed=seed).samples for seed in range(2)])
    maps = None
    if coils:
        maps = normalise_maps(jnp.asarray(rng.standard_normal((2, coils, *SHAPE, 2)) @ [1, 1j], jnp.complex64))
    return truth, Measurement(forward(truth.astype(np.complex64), mask, maps), mask, truth, maps)


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction", "variable_density_2d", "radial"])
def test_samples_are_withheld_outside_the_middle(kind):
    mask = np.stack([make_mask(MaskConfig(kind, 3.0, MIDDLE), SHAPE, seed=seed).samples for seed in range(2)])
    withheld = withhold(mask)
    assert withheld.shape == mask.shape and not (withheld & ~mask).any()
    h, w = SHAPE
    y, x = abs(np.arange(mask.shape[-2]) - mask.shape[-2] // 2) / mask.shape[-2], abs(np.arange(w) - w // 2) / w
    far = (y[:, None] > MIDDLE / 2) | (x > MIDDLE / 2)
    assert not withheld[:, ~far].any()
    share, count = withheld[:, far].sum() / mask[:, far].sum(), mask[:, far].sum()
    assert abs(share - WITHHELD_SHARE) < 3 * np.sqrt(WITHHELD_SHARE * (1 - WITHHELD_SHARE) / count)
    assert not np.array_equal(withhold(mask, seed=1), withheld)


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("kind", ["random", "variable_density_2d"])
def test_a_network_is_not_shown_what_it_must_predict(kind, coils):
    _, measurement = measured(kind, coils)
    shown = []

    def watching(measurement):
        shown.append(measurement)
        return trusting(measurement)

    withheld_errors(watching, measurement)
    withheld = withhold(measurement.mask)
    where = np.broadcast_to(withheld[:, None] if coils else withheld, measurement.kspace.shape)
    assert len(shown) == 2 and not shown[0].ct.any() and (shown[1].ct == measurement.ct).all()
    for seen in shown:
        assert not np.asarray(seen.kspace)[where].any() and not (np.asarray(seen.mask) & withheld).any()
        np.testing.assert_array_equal(np.asarray(seen.kspace)[~where], np.asarray(measurement.kspace)[~where])


def test_the_gain_is_that_of_the_samples():
    truth, measurement = measured("random")
    withheld = np.broadcast_to(withhold(measurement.mask), truth.shape)
    energy = np.where(withheld, np.abs(measurement.kspace) ** 2, 0).sum((1, 2))
    half = withheld_errors(trusting, measurement._replace(ct=truth / 2))  # a zero-filled image predicts 0
    np.testing.assert_allclose(half.without, energy, rtol=1e-4)  # float32 sums of 2,000 samples: measured 2e-7
    np.testing.assert_allclose(half.with_ct, energy / 4, rtol=1e-4)
    assert half.gain == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert withheld_errors(trusting, measurement._replace(ct=3 * truth)).gain == pytest.approx(
        -20 * np.log10(2), abs=1e-3
    )
    nothing = withheld_errors(trusting, measurement._replace(mask=np.zeros_like(measurement.mask)))
    assert np.isnan(nothing.gain)


def test_gains_of_several_slices_weigh_them_by_their_errors():
    assert WithheldErrors(np.array([9.0, 1.0]), np.array([0.5, 0.5]), np.zeros(2)).gain == pytest.approx(10)


def test_gains_have_an_interval_over_slices():
    rng = np.random.default_rng(0)
    errors = [WithheldErrors(np.float64(2.0), np.float64(part), np.float64(0)) for part in rng.uniform(0.8, 1.2, 16)]
    gain, low, high = gain_interval(errors)
    assert low < gain < high and gain == pytest.approx(10 * np.log10(2), abs=0.3) and high - low < 1
    assert np.isnan(gain_interval(errors[:1])[1:]).all() and np.isnan(gain_interval([])[0])


def test_a_network_is_compared_with_zeros():
    truth, measurement = measured("random")
    where = np.broadcast_to(withhold(measurement.mask), truth.shape)
    energy, error = withheld_energy_and_error(trusting, measurement._replace(ct=3 * truth))  # twice too much
    np.testing.assert_allclose(energy, np.where(where, np.abs(measurement.kspace) ** 2, 0).sum((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(error, 4 * energy, rtol=1e-3)


def test_the_weight_is_the_best_one():
    """Where the CT is twice the truth, half of it predicts the samples; where it is nothing like it, nothing of it."""
    truth, measurement = measured("random")
    other = np.random.default_rng(1).random(truth.shape).astype(np.float32)
    for ct, wanted in ((truth, 1), (2 * truth, 0.5), (truth + other - 0.5, 0.5), (-truth, 0)):
        assert withheld_errors(to_zero, measurement._replace(ct=ct)).weight == pytest.approx(wanted, abs=0.1)
    errors = withheld_errors(to_zero, measurement._replace(ct=truth + other - 0.5))
    tried = [withheld_errors(weigh_ct(to_zero, w), measurement._replace(ct=truth + other - 0.5)).with_ct.sum()
             for w in (errors.weight - 0.05, errors.weight, errors.weight + 0.05)]  # fmt: skip
    assert tried[1] == min(tried) and tried[1] < errors.with_ct.sum()
    assert np.isnan(withheld_errors(to_zero, measurement._replace(ct=0 * truth)).weight)


def to_zero(measurement):
    """Return the CT, also where it is zero."""
    return Reconstruction(measurement.ct.astype(jnp.complex64))
