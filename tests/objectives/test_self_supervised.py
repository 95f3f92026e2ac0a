"""SSDU: what is withheld, and that the fully sampled image never reaches the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Batch, Measurement
from atlf_jax.objectives import SelfSupervised, Supervised
from atlf_jax.objectives.self_supervised import measured_by_mirrored_mask, split_samples
from atlf_jax.ops import forward
from tests.models.conftest import measure
from tests.objectives.test_supervised import Scaled

VARIABLES = {"params": {"size": jnp.float32(0.7)}}


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("lines", [False, True])
def test_a_split_takes_every_measured_sample_once(coils, lines) -> None:
    measurement, _ = measure(batch=2, w=256 if lines else 16, coils=coils)
    seen, withheld = split_samples(jax.random.key(0), measurement, part=0.4, centre=4, lines=lines)
    assert seen.mask.shape == withheld.mask.shape == (2, 1, 256) if lines else (2, 16, 16)
    whole = np.broadcast_to(measurement.mask, seen.mask.shape)
    assert not np.any(seen.mask & withheld.mask) and np.array_equal(seen.mask | withheld.mask, whole)
    np.testing.assert_array_equal(seen.kspace + withheld.kspace, measurement.kspace)
    centre = seen.mask[..., 126:130] if lines else seen.mask[:, 6:10, 6:10]  # of 256 lines, of 16 x 16 points
    assert np.all(centre)
    free = whole.sum() - centre.size
    assert abs(withheld.mask.sum() / free - 0.4) < 4 * np.sqrt(0.24 / free)  # four standard deviations
    assert not np.array_equal(seen.mask[0], seen.mask[1])


def test_points_are_withheld_under_a_mask_of_points() -> None:
    measurement, _ = measure(h=16, w=16)
    measurement = measurement._replace(mask=jnp.broadcast_to(measurement.mask, (2, 16, 16)))
    withheld = split_samples(jax.random.key(0), measurement, part=0.4, centre=4)[1]
    assert not np.any(withheld.mask[:, 6:10, 6:10]) and np.any(withheld.mask[:, :6, 6:10])
    assert np.any(withheld.mask != withheld.mask[:, :1])


@pytest.mark.parametrize("coils", [0, 3])
def test_the_loss_is_the_normalised_distance_of_withheld_samples(coils) -> None:
    measurement, image = measure(coils=coils)
    batch = Batch(measurement, image, jnp.ones(2), jnp.arange(2))
    outcome = SelfSupervised()(Scaled(), VARIABLES, batch, key=None)
    key = jax.random.split(jax.random.split(jax.random.key(0), 1)[0])[0]
    seen, withheld = split_samples(key, measurement, part=0.4, centre=4)
    predicted = forward(Scaled().apply(VARIABLES, seen).image, withheld.mask, measurement.coil_maps)
    for i in range(2):
        error, measured = (np.asarray(x[i], np.complex128) for x in (predicted - withheld.kspace, withheld.kspace))
        l2 = np.linalg.norm(error) / np.linalg.norm(measured)
        want = l2 + np.abs(error).sum() / np.abs(measured).sum()
        np.testing.assert_allclose(outcome.terms["withheld"][i], want, rtol=1e-5)


def test_the_gradient_never_sees_the_fully_sampled_image() -> None:
    measurement, image = measure()

    def gradient(objective, target, key=jax.random.key(3)):
        batch = Batch(measurement, target, jnp.ones(2), jnp.arange(2))
        return jax.jit(jax.grad(lambda v: objective(Scaled(), v, batch, key=key).loss))(VARIABLES)["params"]["size"]

    for objective in (SelfSupervised(splits=2), SelfSupervised(multi_operator=2.0)):
        same = gradient(objective, image)
        assert np.isfinite(same) and same != 0
        assert gradient(objective, jnp.full_like(image, jnp.nan)) == same
    assert gradient(Supervised(), 2 * image) != gradient(Supervised(), image)  # as it does here


def test_several_splits_are_averaged_and_validation_sees_all_samples() -> None:
    measurement, image = measure()
    batch = Batch(measurement, image, jnp.ones(2), jnp.arange(2))
    key = jax.random.key(1)
    one, two = (SelfSupervised(splits=n)(Scaled(), VARIABLES, batch, key=key).terms["withheld"] for n in (1, 2))
    assert one.shape == two.shape == (2,) and not np.allclose(one, two)
    shown = SelfSupervised()(Scaled(), VARIABLES, batch, key=None).pictures["reconstruction"]
    np.testing.assert_allclose(shown, np.abs(Scaled().apply(VARIABLES, measurement).image), atol=1e-6)


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("size", [8, 9])
def test_a_mirrored_mask_has_the_opposite_frequencies(points, size) -> None:
    mask = np.random.default_rng(0).random((64, size if points else 1, size)) < 0.5
    image = jnp.ones((64, size, size), jnp.complex64)
    measurement = Measurement(image, jnp.asarray(mask), jnp.zeros((64, size, size)))
    mirrored = measured_by_mirrored_mask(jax.random.key(0), measurement, image).mask
    opposite = [list(np.fft.fftshift(np.fft.fftfreq(n, 1 / n)).astype(int)) for n in mask.shape[1:]]
    rows, columns = ([each.index(-k if -k in each else k) for k in each] for each in opposite)
    sideways, both = mask[:, :, columns], mask[:, rows][:, :, columns]
    down = np.array([not np.array_equal(one, way) for one, way in zip(mirrored, sideways, strict=True)])
    np.testing.assert_array_equal(mirrored, np.where(down[:, None, None], both, sideways))
    assert 16 < down.sum() < 48 if points else not down.any()


@pytest.mark.parametrize("coils", [0, 3])
def test_the_reconstruction_is_measured_again_and_held_fixed(coils) -> None:
    measurement, image = measure(coils=coils)
    batch, objective = Batch(measurement, image, jnp.ones(2), jnp.arange(2)), SelfSupervised(multi_operator=2.0)
    fixed = Scaled().apply(VARIABLES, measurement).image
    again = measured_by_mirrored_mask(jax.random.key(0), measurement, fixed)
    np.testing.assert_allclose(again.kspace, forward(fixed, again.mask, measurement.coil_maps))

    def term(variables):
        return objective(Scaled(), variables, batch, key=jax.random.key(1)).terms["multi_operator"]

    def wanted(variables):
        result = Scaled().apply(variables, again).image
        return 2 * jnp.abs(result - fixed).sum((1, 2)) / jnp.abs(fixed).sum((1, 2))

    np.testing.assert_allclose(term(VARIABLES), wanted(VARIABLES), rtol=1e-5)
    ours, theirs = (jax.grad(lambda v, f=f: f(v).sum())(VARIABLES)["params"]["size"] for f in (term, wanted))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert "multi_operator" not in objective(Scaled(), VARIABLES, batch, key=None).terms


def test_settings_that_split_nothing_are_refused() -> None:
    for settings in ({"withheld": 0.0}, {"withheld": 1.0}, {"splits": 0}, {"centre": -1}, {"multi_operator": -1.0}):
        with pytest.raises(ValueError, match="wanted a part between 0 and 1, one split or more"):
            SelfSupervised(**settings)
