"""From a batch to a loss with any network: no part of ATLF-Net is asked for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax import losses
from atlf_jax.array_types import Batch, Measurement, Reconstruction
from atlf_jax.objectives import Model, Supervised, apply
from atlf_jax.ops import adjoint
from tests.models.conftest import measure


class Scaled(nn.Module):
    """The zero-filled image times a ramp of a learned size; knows no ``deterministic``."""

    @nn.compact
    def __call__(self, measurement: Measurement) -> Reconstruction:
        start = adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
        ramp = jnp.linspace(0, self.param("size", nn.initializers.ones, ()), start.shape[-1])
        return Reconstruction(start * ramp[None, None])


class Dropped(nn.Module):
    """One with dropout and running statistics, which says what it was called with."""

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        calls = self.variable("calls", "number", lambda: jnp.zeros(()))
        if self.is_mutable_collection("calls"):
            calls.value = calls.value + 1
        kept = nn.Dropout(0.5, deterministic=deterministic)(jnp.ones(measurement.kspace.shape))
        return Reconstruction(measurement.kspace * kept)


@pytest.fixture
def batch() -> Batch:
    measurement, image = measure()
    return Batch(measurement, image, jnp.ones(2), jnp.arange(2))


def test_the_terms_are_the_weighted_losses(batch) -> None:
    model = Scaled()
    assert isinstance(model, Model) and not isinstance(object(), Model)
    variables = {"params": {"size": jnp.float32(0.8)}}
    outcome = Supervised(mse=2.0, l1=3.0)(model, variables, batch, key=None)
    image = model.apply(variables, batch.measurement).image
    expected = {"mse": 2 * losses.mse(image, batch.target), "l1": 3 * losses.l1(image, batch.target)}
    assert outcome.terms.keys() == expected.keys() and "psnr" in outcome.scores
    for name, value in expected.items():
        np.testing.assert_allclose(outcome.terms[name], value, rtol=1e-6)
    np.testing.assert_allclose(outcome.loss, sum(value.mean() for value in expected.values()), rtol=1e-6)


def test_a_network_draws_and_counts_in_training_alone(batch) -> None:
    variables = {"calls": {"number": jnp.zeros(())}}
    first, state = apply(Dropped(), variables, batch.measurement, key=jax.random.key(0))
    other, _ = apply(Dropped(), variables, batch.measurement, key=jax.random.key(1))
    assert state["calls"]["number"] == 1 and not np.array_equal(first.image, other.image)
    plain, state = apply(Dropped(), variables, batch.measurement, key=None)
    assert state == {}
    np.testing.assert_array_equal(plain.image, batch.measurement.kspace)
