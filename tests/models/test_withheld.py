"""Samples that are kept back tell whether a CT helps."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.models.withheld import MIDDLE, SHARE, Foretold, foretell, withhold
from atlf_jax.ops import adjoint, forward, normalise_maps

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
    mask = np.stack([make_mask(MaskConfig(kind, 3.0, MIDDLE), SHAPE, seed=seed).mask for seed in range(2)])
    maps = None
    if coils:
        maps = normalise_maps(jnp.asarray(rng.standard_normal((2, coils, *SHAPE, 2)) @ [1, 1j], jnp.complex64))
    return truth, Measurement(forward(truth.astype(np.complex64), mask, maps), mask, truth, maps)


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction", "variable_density_2d", "radial"])
def test_samples_are_kept_back_outside_the_middle(kind):
    mask = np.stack([make_mask(MaskConfig(kind, 3.0, MIDDLE), SHAPE, seed=seed).mask for seed in range(2)])
    kept_back = withhold(mask)
    assert kept_back.shape == mask.shape and not (kept_back & ~mask).any()
    h, w = SHAPE
    y, x = abs(np.arange(mask.shape[-2]) - mask.shape[-2] // 2) / mask.shape[-2], abs(np.arange(w) - w // 2) / w
    far = (y[:, None] > MIDDLE / 2) | (x > MIDDLE / 2)
    assert not kept_back[:, ~far].any()
    share, count = kept_back[:, far].sum() / mask[:, far].sum(), mask[:, far].sum()
    assert abs(share - SHARE) < 3 * np.sqrt(SHARE * (1 - SHARE) / count)
    assert not np.array_equal(withhold(mask, seed=1), kept_back)


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("kind", ["random", "variable_density_2d"])
def test_a_network_is_not_shown_what_it_must_foretell(kind, coils):
    _, measurement = measured(kind, coils)
    shown = []

    def watching(measurement):
        shown.append(measurement)
        return trusting(measurement)

    foretell(watching, measurement)
    kept_back = withhold(measurement.mask)
    where = np.broadcast_to(kept_back[:, None] if coils else kept_back, measurement.kspace.shape)
    assert len(shown) == 2 and not shown[0].ct.any() and (shown[1].ct == measurement.ct).all()
    for seen in shown:
        assert not np.asarray(seen.kspace)[where].any() and not (np.asarray(seen.mask) & kept_back).any()
        np.testing.assert_array_equal(np.asarray(seen.kspace)[~where], np.asarray(measurement.kspace)[~where])


def test_the_gain_is_that_of_the_samples():
    truth, measurement = measured("random")
    kept_back = np.broadcast_to(withhold(measurement.mask), truth.shape)
    energy = np.where(kept_back, np.abs(measurement.kspace) ** 2, 0).sum((1, 2))
    half = foretell(trusting, measurement._replace(ct=truth / 2))  # a zero-filled image foretells 0
    np.testing.assert_allclose(half.without, energy, rtol=1e-4)  # float32 sums of 2,000 samples: measured 2e-7
    np.testing.assert_allclose(half.with_ct, energy / 4, rtol=1e-4)
    assert half.gain == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert foretell(trusting, measurement._replace(ct=3 * truth)).gain == pytest.approx(-20 * np.log10(2), abs=1e-3)
    nothing = foretell(trusting, measurement._replace(mask=np.zeros_like(measurement.mask)))
    assert np.isnan(nothing.gain)


def test_gains_of_several_slices_weigh_them_by_their_errors():
    assert Foretold(np.array([9.0, 1.0]), np.array([0.5, 0.5])).gain == pytest.approx(10)
