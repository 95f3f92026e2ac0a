import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn.adain import FusedStyle, adain

EPSILON = 1e-5


def features(seed, *shape, scale=1.0, level=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale + level)


def variance(x):
    return np.var(x, axis=(1, 2), ddof=1)


@pytest.mark.parity
@pytest.mark.parametrize(
    "name",
    ["same_8x8", "diffsize_9x11_13x6", "style_smaller_16x10_4x3", "constant_channels", "content_equals_style"],
)
def test_equals_pytorch_adain(reference, name):
    case = reference("adain.npz", name)
    out, pull = jax.vjp(jax.jit(adain), case.image("in/content"), case.image("in/style"))
    float64 = case.dtype == "float64"
    case.check(out, case.image("out/y"), 1e-9 if float64 else 5e-6)
    gradients = dict(zip(("content", "style"), pull(case.image("cot/y")), strict=True))
    expected = {name: case.image(f"grad/in/{name}") for name in gradients}
    case.check(gradients, expected, 1e-9 if float64 else 6e-6)


def test_statistics_are_the_styles(x64):
    a, s = features(0, 2, 5, 6, 3, scale=2.0, level=4.0), features(1, 2, 7, 4, 3, scale=0.5, level=-1.0)
    out = adain(a, s)
    np.testing.assert_allclose(out.mean((1, 2)), s.mean((1, 2)), atol=1e-12)
    expected = (variance(s) + EPSILON) * variance(a) / (variance(a) + EPSILON)
    np.testing.assert_allclose(variance(out), expected, rtol=1e-10)


def test_own_style_is_the_identity_and_twice_is_once(x64):
    a, s = features(0, 2, 5, 6, 3), features(1, 2, 5, 6, 3, scale=3.0)
    np.testing.assert_allclose(adain(a, a), a, atol=1e-12)
    once = adain(a, s)
    np.testing.assert_allclose(adain(once, s), once, atol=1e-4)  # epsilon shrinks by about 1e-5 each time


def test_scale_and_level_of_the_content_do_not_matter(x64):
    a, s = features(0, 2, 5, 6, 3), features(1, 2, 5, 6, 3)
    np.testing.assert_allclose(adain(3 * a + 7, s, epsilon=1e-14), adain(a, s, epsilon=1e-14), atol=1e-10)


@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
def test_constant_content_becomes_the_styles_mean(level):
    s = features(1, 1, 5, 6, 2).astype("float32")
    a = jnp.full((1, 4, 4, 2), level, "float32")
    out, gradient = jax.value_and_grad(lambda a: adain(a, s).sum())(a)
    np.testing.assert_allclose(adain(a, s), jnp.broadcast_to(s.mean((1, 2), keepdims=True), a.shape), atol=1e-6)
    assert np.isfinite(out)
    assert np.isfinite(gradient).all()


def test_a_large_level_costs_no_digits():
    """E[x^2] - E[x]^2 alone would be off by 100 % here: 1e3^2 has a float32 spacing of 0.06."""
    a, s = features(0, 1, 16, 16, 2, scale=0.1, level=1e3), features(1, 1, 16, 16, 2)
    exact = np.asarray(a, "float32").astype("float64")
    normalised = (exact - exact.mean((1, 2))) / np.sqrt(variance(exact) + EPSILON)
    ours = adain(a.astype("float32"), s.astype("float32"))
    expected = normalised * np.sqrt(variance(np.asarray(s)) + EPSILON) + np.asarray(s).mean((1, 2))
    np.testing.assert_allclose(ours, expected, atol=2e-3)  # the rounding of the mean, 6e-5 / 0.1


def test_the_style_is_a_convolution_of_the_image():
    content, image = features(0, 2, 6, 5, 32).astype("float32"), features(1, 2, 8, 8, 1).astype("float32")
    out, variables = FusedStyle().init_with_output(jax.random.key(0), content, image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 320
    style = nn.Conv(32, (3, 3)).apply({"params": variables["params"]["style"]}, image)
    np.testing.assert_allclose(out, adain(content, style), atol=1e-5)


def test_neutral_start_is_the_identity_and_learns_its_share():
    content, image = features(0, 1, 4, 4, 3).astype("float32"), features(1, 1, 4, 4, 1).astype("float32")
    module = FusedStyle(neutral_start=True)
    out, variables = module.init_with_output(jax.random.key(0), content, image)
    np.testing.assert_array_equal(out, content)
    assert jax.grad(lambda v: module.apply(v, content, image)[0, 0, 0, 0])(variables)["params"]["alpha"] != 0
