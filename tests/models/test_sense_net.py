"""The network that keeps the samples of every coil."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.models import SenseNetConfig, build
from atlf_jax.ops import ifft2c, rss

from .conftest import measure, random_variables

SMALL = SenseNetConfig(steps=3, repeats=2, width=4, pools=1, memory=2, cg_iterations=2)


@pytest.fixture(scope="module")
def network():
    model = build(SMALL)
    measurement, _ = measure(coils=3, h=16, w=18)
    return jax.jit(model.apply), random_variables(model, measurement), measurement


def test_the_image_follows_the_scale_of_the_data(network):
    apply, variables, measurement = network
    image = apply(variables, measurement).image
    larger = apply(variables, measurement._replace(kspace=1000 * measurement.kspace)).image
    np.testing.assert_allclose(larger, 1000 * image, rtol=1e-4)  # measured 3e-6: no bias anywhere


def test_of_a_full_mask_the_samples_are_kept_whatever_the_maps_and_weights(network):
    apply, variables, _ = network
    measurement, _ = measure(coils=3, h=16, w=18, full=True)
    variables = jax.tree.map(lambda leaf: leaf, variables)
    for unet in ("unet_0", "unet_1"):  # the last feature, the noise of missing samples, is learned: take it away
        variables["params"][unet]["out"]["kernel"] = variables["params"][unet]["out"]["kernel"].at[:, -1].set(0)
    wrong = measurement._replace(coil_maps=jnp.roll(measurement.coil_maps, 1, axis=1))
    want = rss(ifft2c(measurement.kspace))
    np.testing.assert_allclose(np.abs(apply(variables, wrong).image), want, atol=1e-5)


def test_coils_of_zeros_change_nothing(network):
    apply, variables, measurement = network
    more = [jnp.pad(each, ((0, 0), (0, 2), (0, 0), (0, 0))) for each in (measurement.kspace, measurement.coil_maps)]
    filled = measurement._replace(kspace=more[0], coil_maps=more[1])
    np.testing.assert_allclose(apply(variables, filled).image, apply(variables, measurement).image, atol=1e-5)


@pytest.mark.parametrize("changes", [{"use_ct": True}, {"complex": False}, {"sensitivity": (2, 1)}, {"steps": 0}])
def test_settings_that_it_does_not_have_are_refused(changes):
    with pytest.raises(ValueError, match=r"got steps 0|leave these settings"):
        SenseNetConfig(**changes)
