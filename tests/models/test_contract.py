"""The contract that every row of MODELS keeps."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.models import MODELS, E2EVarNetConfig, SenseNetConfig, ZeroFilledConfig, build, sees_ct
from atlf_jax.ops import adjoint, forward

from .conftest import BASELINES, measure, random_variables, small

E2E = E2EVarNetConfig(cascades=2, width=2, pools=1, sensitivity=(2, 1), use_ct=True)
SENSE = SenseNetConfig(steps=3, repeats=2, width=4, pools=1, memory=2, cg_iterations=2)
CONFIGS = {
    "atlf": small(phases=1),
    "zero_filled": ZeroFilledConfig(),
    "e2e_varnet": E2E,
    "sense_net": SENSE,
} | BASELINES
slow = partial(pytest.param, marks=pytest.mark.slow)
F32 = 1e-5  # measured float32 errors are 2-4e-7 for one operator; a two-phase network stays below 3e-6


def test_every_model_is_in_the_contract():
    assert CONFIGS.keys() == MODELS.keys()


@pytest.fixture(params=CONFIGS, scope="module")
def network(request):
    model = build(CONFIGS[request.param])

    def loss(variables, measurement, image):
        return jnp.square(jnp.abs(model.apply(variables, measurement).image - image)).mean()

    return model, random_variables(model, measure()[0]), jax.jit(model.apply), jax.jit(jax.grad(loss))


@pytest.mark.parametrize("network", [slow("atlf"), *sorted(CONFIGS.keys() - {"atlf"})], indirect=True)
@pytest.mark.parametrize("kind", ["random", "zero", "full"])
def test_value_and_gradient_are_finite(network, kind):
    _, variables, apply, gradient = network
    measurement, image = measure(full=kind == "full")
    if kind == "zero":
        measurement = jax.tree.map(jnp.zeros_like, measurement)._replace(mask=measurement.mask)
    result = apply(variables, measurement)
    chex.assert_shape(result.image, image.shape)
    chex.assert_tree_all_finite(result)
    chex.assert_tree_all_finite(gradient(variables, measurement, image))


def test_examples_do_not_see_each_other(network):
    _, variables, apply, _ = network
    measurement, _ = measure()
    both = apply(variables, measurement).image
    for i in range(2):  # beside itself in place of the other
        twice = apply(variables, jax.tree.map(lambda leaf, i=i: leaf[jnp.array([i, i])], measurement)).image
        np.testing.assert_allclose(both[i], twice[0], atol=F32)


def test_one_program_serves_every_mask(network):
    _, variables, apply, _ = network
    apply(variables, measure(0)[0])
    compiled = apply._cache_size()
    apply(variables, measure(1)[0])
    assert apply._cache_size() == compiled


@pytest.mark.slow
def test_compiled_and_eager_agree(network):
    model, variables, apply, _ = network
    measurement, _ = measure()
    np.testing.assert_allclose(apply(variables, measurement).image, model.apply(variables, measurement).image, atol=F32)


def test_configs_are_hashable_and_replaceable(network):
    model, _, _, _ = network
    assert hash(dataclasses.replace(model.config)) == hash(model.config)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_ct_of_several_windows(kind):
    model = build(CONFIGS[kind])
    measurement, image = measure(windows=3)
    variables = random_variables(model, measurement)
    apply = jax.jit(model.apply)
    plain = apply(variables, measurement).image
    chex.assert_shape(plain, image.shape)
    for window in range(3):  # each of them is looked at
        other = apply(variables, measurement._replace(ct=measurement.ct.at[:, window].power(2))).image
        assert np.allclose(other, plain) == (not sees_ct(model.config))


def test_zero_filled_is_the_adjoint():
    measurement, image = measure(coils=3)
    result = build(ZeroFilledConfig()).apply({}, measurement)
    np.testing.assert_allclose(result.image, adjoint(measurement.kspace, measurement.mask, measurement.coil_maps))
    full, image = measure(full=True, coils=3)
    np.testing.assert_allclose(build(ZeroFilledConfig()).apply({}, full).image, image, atol=F32)
    assert not np.allclose(result.image, image, atol=0.01)


def test_an_unknown_configuration_is_refused():
    with pytest.raises(ValueError, match="wanted the configuration of a network: one of atlf, unet, .*, zero_filled"):
        build("atlf")


def test_forward_of_a_full_mask_is_unitary():
    measurement, image = measure(full=True)
    energy = jnp.square(jnp.abs(forward(image, measurement.mask))).sum()
    np.testing.assert_allclose(energy, jnp.square(jnp.abs(image)).sum(), rtol=F32)
