"""Mirroring is exact, and the spread of mirror copies is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.masks import MaskConfig, make_mask, stored_mask
from atlf_jax.ops import MIRRORS, adjoint, mirror
from atlf_jax.trained.uncertainty import mirror_measurement, spread
from tests.models.conftest import measure


def test_masks_keep_their_hash_where_they_are_symmetric():
    for kind, shape in (("variable_density_2d", (32, 24)), ("random", (32, 24))):
        mask = make_mask(MaskConfig(kind, 3.0, 0.2), shape, seed=1).samples

        def hash_of(samples):
            return stored_mask(np.asarray(samples), layout="centered").hash

        for axes in MIRRORS:
            assert hash_of(mirror(mirror(mask, axes), axes)) == hash_of(mask)
        assert hash_of(mirror(mask, (-1,))) != hash_of(mask)
        assert mirror(mask, (-2,)).shape == mask.shape
        even = mask | np.asarray(mirror(mask, (-1,)))
        assert hash_of(mirror(even, (-1,))) == hash_of(even)
        assert hash_of(mirror(even, (-2,))) == hash_of(even) or kind != "random"  # lines run along the rows


@pytest.mark.parametrize("coils", [0, 3])
def test_the_mirrored_measurement_is_that_of_the_mirrored_body(coils):
    measurement, _ = measure(h=10, w=12, coils=coils)
    plain = adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    for axes in MIRRORS:
        turned = mirror_measurement(measurement, axes)
        assert jax.tree.structure(turned) == jax.tree.structure(measurement)
        image = adjoint(turned.kspace, turned.mask, turned.coil_maps)
        np.testing.assert_allclose(mirror(image, axes), plain, atol=1e-5)  # measured 4e-7
        np.testing.assert_array_equal(mirror(turned.ct, axes), measurement.ct)


def magnitude(measurement):
    return jnp.abs(adjoint(measurement.kspace, measurement.mask, measurement.coil_maps))


def test_who_answers_with_the_mirrored_image_has_no_spread():
    measurement, _ = measure(h=10, w=12)
    assert float(spread(magnitude, measurement).max()) < 1e-6  # measured 1e-7
    zero = jax.tree.map(jnp.zeros_like, measurement)
    np.testing.assert_array_equal(spread(magnitude, zero), 0)


def test_the_spread_is_the_smoothed_standard_deviation_of_the_copies():
    measurement, _ = measure(h=10, w=12)
    seen = []
    ramp = jnp.outer(jnp.linspace(1, 2, 10), jnp.linspace(0, 1, 12))[None]

    def tilted(measurement):
        seen.append(measurement)
        return magnitude(measurement) * ramp

    found = spread(tilted, measurement)
    assert len(seen) == 4
    whole = magnitude(measurement)
    copies = np.stack([whole * mirror(ramp, axes) for axes in MIRRORS]).astype(np.float64)
    variance = copies.var(0, ddof=1)
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window)
    padded = np.pad(variance, [(0, 0), (5, 5), (5, 5)])
    inside = np.pad(np.ones_like(variance), [(0, 0), (5, 5), (5, 5)])
    for y, x in ((0, 0), (4, 6), (9, 11)):
        place = (slice(None), slice(y, y + 11), slice(x, x + 11))
        want = np.sqrt((padded[place] * window).sum((1, 2)) / (inside[place] * window).sum((1, 2)))
        np.testing.assert_allclose(found[:, y, x], want, rtol=1e-5)  # measured 5e-7
    np.testing.assert_allclose(spread(tilted, measurement, image=whole * ramp), found, rtol=1e-6)
    assert len(seen) == 7
