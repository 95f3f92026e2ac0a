"""Every model with several coils: given maps, maps by a network, coils of zeros; and fastMRI's variational network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.models import E2EVarNetConfig, build
from atlf_jax.ops import ifft2c, rss

from .conftest import BASELINES, measure, random_variables, small

E2E = E2EVarNetConfig(cascades=2, width=2, pools=1, sensitivity=(2, 1))
MODELS = {"atlf": small(phases=1), **BASELINES, "e2e_varnet": E2E}


@pytest.mark.parametrize("name", MODELS)
def test_maps_by_a_network(name):
    measurement, image = measure(coils=3)
    config = dataclasses.replace(MODELS[name], sensitivity=(2, 1))
    model = build(config)
    variables = random_variables(model, measurement, size=0.2)

    @jax.jit
    def run(variables, measurement):
        def loss(variables):
            result = model.apply(variables, measurement)
            return jnp.square(jnp.abs(result.image - image)).mean(), result

        gradient, result = jax.grad(loss, has_aux=True)(variables)
        return result, gradient["params"]["sensitivity"]

    result, gradient = run(variables, measurement)
    assert result.image.shape == image.shape and np.isfinite(result.image).all()
    np.testing.assert_allclose((np.abs(result.coil_maps) ** 2).sum(1), 1, atol=1e-4)
    blind, _ = run(variables, measurement._replace(coil_maps=jnp.ones_like(measurement.coil_maps)))
    np.testing.assert_array_equal(blind.image, result.image)  # the given maps are not looked at
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient) if leaf.ndim > 1)


def test_given_maps_are_the_default_and_one_coil_needs_none():
    measurement, _ = measure()
    model = build(dataclasses.replace(BASELINES["varnet"], sensitivity=(2, 1)))
    variables = random_variables(model, measurement)
    assert "sensitivity" not in variables["params"]
    assert jax.jit(model.apply)(variables, measurement).coil_maps is None


def test_the_published_size():
    measurement, _ = measure(batch=1, coils=2)
    shapes = jax.eval_shape(build(E2EVarNetConfig()).init, jax.random.key(0), measurement)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 29_936_966


def test_of_nothing_but_means_the_network_keeps_the_samples():
    """U-Nets without weights give back the mean of the combined image; its k-space is one sample."""
    measurement, _ = measure(coils=3, full=True)
    model = build(dataclasses.replace(E2E, cascades=1, sensitivity=None))
    variables = random_variables(model, measurement)
    variables["params"]["unet_0"] = jax.tree.map(jnp.zeros_like, variables["params"]["unet_0"])
    image = jax.jit(model.apply)(variables, measurement).image
    assert not np.asarray(image.imag).any()
    maps, coil_images = measurement.coil_maps, ifft2c(measurement.kspace)
    mean = jnp.sum(maps.conj() * coil_images, axis=1).mean((1, 2))[:, None, None, None]
    np.testing.assert_allclose(image.real, rss(coil_images - maps * mean), atol=1e-5)


def test_kspace_of_coils_without_maps_is_refused():
    measurement, _ = measure(coils=3)
    with pytest.raises(ValueError, match="k-space has 3 coils and no maps; give coil maps, or set sensitivity"):
        build(dataclasses.replace(E2E, sensitivity=None)).init(jax.random.key(0), measurement._replace(coil_maps=None))
    with pytest.raises(ValueError, match="complex is off"):
        dataclasses.replace(E2E, complex=False)
