"""The CT adapter: nothing without a CT, nothing before it has learnt, and a guide that is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn.ct_adapter import GUIDE_EDGE, GUIDE_SMOOTHING, CTAdapter, guide
from atlf_jax.ops.differences import differences


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).random(shape))


@pytest.mark.parametrize("windows", [(), (2,)])
def test_the_guide_is_the_difference_of_two_gradients(x64, windows):
    """Of total variation directed by the CT and of plain total variation, smoothed, by automatic differentiation."""
    image, ct = draw(2, 8, 9), draw(2, *windows, 8, 9)
    slope = differences(ct.mean(1) if windows else ct)
    edges = slope / jnp.sqrt((slope**2).sum(-3, keepdims=True) + GUIDE_EDGE**2)

    def difference(image):
        plain = differences(image)
        directed = plain - edges * (edges * plain).sum(-3, keepdims=True)
        lengths = [jnp.sqrt((field**2).sum(-3) + GUIDE_SMOOTHING**2) for field in (directed, plain)]
        return (lengths[0] - lengths[1]).sum()

    np.testing.assert_allclose(guide(image, ct), jax.grad(difference)(image), atol=1e-12)
    np.testing.assert_allclose(guide(image + 0j, ct), guide(image, ct), atol=1e-12)


@pytest.mark.parametrize("sees", ["ct", "guide", "ct+guide"])
def test_examples_without_a_ct_and_new_adapters_change_nothing(sees):
    f, image, ct = (array.astype("float32") for array in (draw(3, 4, 4, 6), draw(3, 8, 8), draw(3, 8, 8)))
    ct = ct.at[1].set(0)
    adapter = CTAdapter(sees, features=5, stride=2)
    variables = adapter.init(jax.random.key(0), f, image, ct)
    np.testing.assert_array_equal(adapter.apply(variables, f, image, ct), f)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    changed = adapter.apply(variables, f, image, ct)
    np.testing.assert_array_equal(changed[1], f[1])
    assert np.abs(changed - f).max((1, 2, 3))[[0, 2]].min() > 0.1


def test_it_is_three_convolutions_of_what_it_sees():
    f, image, ct = (array.astype("float32") for array in (draw(2, 8, 8, 6), draw(2, 8, 8), draw(2, 8, 8)))
    adapter = CTAdapter("ct+guide", features=5)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(jax.random.key(0), f, image + 0j, ct))
    field = np.asarray(guide(image + 0j, ct))
    seen = np.concatenate([np.stack([ct, field.real, field.imag], -1), f], -1)

    def convolve(x, name):
        kernel = variables["params"][name]["kernel"]
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    hidden = np.maximum(convolve(np.maximum(convolve(seen, "conv1"), 0), "conv2"), 0)
    wanted = f + convolve(hidden, "conv3")
    np.testing.assert_allclose(adapter.apply(variables, f, image + 0j, ct), wanted, rtol=1e-4)
