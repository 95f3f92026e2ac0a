"""SSDU: what is withheld, and that the fully sampled image never reaches the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Batch
from atlf_jax.objectives import SelfSupervised, Supervised
from atlf_jax.objectives.self_supervised import split_samples
from atlf_jax.ops import forward
from tests.models.conftest import measure
from tests.objectives.test_supervised import Scaled

VARIABLES = {"params": {"size": jnp.float32(0.7)}}


@pytest.mark.parametrize("coils", [0, 3])
def test_a_split_takes_every_measured_sample_once(coils) -> None:
    measurement, _ = measure(coils=coils)
    seen, withheld = split_samples(jax.random.key(0), measurement, part=0.4, centre=4)
    whole = np.broadcast_to(measurement.mask, seen.mask.shape)
    assert not np.any(seen.mask & withheld.mask) and np.array_equal(seen.mask | withheld.mask, whole)
    np.testing.assert_array_equal(seen.kspace + withheld.kspace, measurement.kspace)
    assert np.all(seen.mask[:, 6:10, 6:10]) and not np.any(withheld.mask[:, 6:10, 6:10])  # of 16 x 16
    free = whole.sum() - 2 * 16  # without the centre of both
    assert abs(withheld.mask.sum() / free - 0.4) < 4 * np.sqrt(0.24 / free)  # four standard deviations
    assert not np.array_equal(seen.mask[0], seen.mask[1])


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

    same = gradient(SelfSupervised(splits=2), image)
    assert np.isfinite(same) and same != 0
    assert gradient(SelfSupervised(splits=2), jnp.full_like(image, jnp.nan)) == same
    assert gradient(Supervised(), 2 * image) != gradient(Supervised(), image)  # as it does here


def test_several_splits_are_averaged_and_validation_sees_all_samples() -> None:
    measurement, image = measure()
    batch = Batch(measurement, image, jnp.ones(2), jnp.arange(2))
    key = jax.random.key(1)
    one, two = (SelfSupervised(splits=n)(Scaled(), VARIABLES, batch, key=key).terms["withheld"] for n in (1, 2))
    assert one.shape == two.shape == (2,) and not np.allclose(one, two)
    shown = SelfSupervised()(Scaled(), VARIABLES, batch, key=None).pictures["reconstruction"]
    np.testing.assert_allclose(shown, np.abs(Scaled().apply(VARIABLES, measurement).image), atol=1e-6)


def test_settings_that_split_nothing_are_refused() -> None:
    for settings in ({"withheld": 0.0}, {"withheld": 1.0}, {"splits": 0}, {"centre": -1}):
        with pytest.raises(ValueError, match="wanted a part between 0 and 1, one split or more"):
            SelfSupervised(**settings)
