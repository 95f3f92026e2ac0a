"""Every layer against its plain lax form, value and gradient, in float64 at odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from atlf_jax.nn import backend
from atlf_jax.nn.layers import (
    ChannelNorm,
    Conv,
    Depthwise,
    Pointwise,
    channel_norm,
    convolve,
    depthwise,
    pixel_shuffle,
    pixel_unshuffle,
)

KEY = jax.random.key(0)
SHAPE = (2, 7, 5, 6)


def conv(x, kernel, *, stride=1, groups=1, padding=None):
    pad = kernel.shape[0] // 2 if padding is None else padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def plain_pointwise(params, x):
    return conv(x, params["kernel"][None, None])


def plain_reflect(params, x):
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return conv(padded, params["kernel"], groups=6, padding=0)


def plain_norm(params, x):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * params["scale"][None, None, None]


def plain_bias_free_norm(params, x):
    return x / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * params["scale"][None, None, None]


LAYERS = {
    "pointwise": (Pointwise(4), plain_pointwise),
    "pointwise bias": (Pointwise(4, use_bias=True), plain_pointwise),
    "conv": (Conv(4), lambda p, x: conv(x, p["kernel"])),
    "conv bias": (Conv(4, use_bias=True), lambda p, x: conv(x, p["kernel"])),
    "conv stride": (Conv(4, stride=2), lambda p, x: conv(x, p["kernel"], stride=2)),
    "conv groups": (Conv(6, groups=3), lambda p, x: conv(x, p["kernel"], groups=3)),
    "conv 5": (Conv(2, size=5), lambda p, x: conv(x, p["kernel"])),
    "depthwise": (Depthwise(), lambda p, x: conv(x, p["kernel"], groups=6)),
    "depthwise bias": (Depthwise(use_bias=True), lambda p, x: conv(x, p["kernel"], groups=6)),
    "depthwise 5": (Depthwise(size=5), lambda p, x: conv(x, p["kernel"], groups=6)),
    "depthwise reflect": (Depthwise(pad_mode="reflect"), plain_reflect),
    "norm": (ChannelNorm(), plain_norm),
    "norm bias-free": (ChannelNorm(bias_free=True), plain_bias_free_norm),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_its_plain_form(x64, normal, variables_of, name):
    module, plain = LAYERS[name]
    x = normal(*SHAPE)
    params = variables_of(module, x)["params"]
    assert all(leaf.dtype == x.dtype for leaf in params.values())

    def biased_plain(params, x):
        y = plain(params, x)
        return y + params["bias"][None, None, None] if "bias" in params else y

    def value_and_gradient(apply):
        def loss(params, x):
            y = apply(params, x)
            return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    (_, ours), our_gradients = value_and_gradient(lambda params, x: module.apply({"params": params}, x))
    (_, wanted), wanted_gradients = value_and_gradient(biased_plain)
    np.testing.assert_allclose(ours, wanted, rtol=1e-11, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), our_gradients, wanted_gradients)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_gradient_of_a_convolution_equals_the_automatic_one(x64, normal, size, accelerated, monkeypatch):
    monkeypatch.setattr(backend, "accelerated", lambda: accelerated)
    x, kernel, cotangent = normal(2, 8, 7, 3), normal(size, size, 3, 4), normal(2, 8, 7, 4)

    @jax.jit
    def both(x, kernel, cotangent):
        ours, our_vjp = jax.vjp(convolve, x, kernel)
        wanted, wanted_vjp = jax.vjp(conv, x, kernel)
        return (ours, our_vjp(cotangent)), (wanted, wanted_vjp(cotangent))

    ours, wanted = both(x, kernel, cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), ours, wanted)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("size", [(3, 3), (5, 3), (1, 2)])
def test_depthwise_gradient_equals_the_automatic_one(x64, normal, size, accelerated, monkeypatch):
    """Kernels need be neither square nor odd; the input is already padded."""
    monkeypatch.setattr(backend, "accelerated", lambda: accelerated)
    padded, kernel, cotangent = normal(2, 8, 7, 3), normal(*size, 3), normal(2, 9 - size[0], 8 - size[1], 3)

    @jax.jit
    def both(padded, kernel, cotangent):
        ours, our_vjp = jax.vjp(depthwise, padded, kernel)
        wanted, wanted_vjp = jax.vjp(lambda x, k: conv(x, k[:, :, None], groups=3, padding=0), padded, kernel)
        return (ours, our_vjp(cotangent)), (wanted, wanted_vjp(cotangent))

    ours, wanted = both(padded, kernel, cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), ours, wanted)


def test_layers_are_exact_in_float32(normal, variables_of):
    x = normal(*SHAPE)
    for name in ("pointwise", "conv", "depthwise", "norm"):
        module, plain = LAYERS[name]
        variables = variables_of(module, x)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        ours, wanted = jax.jit(lambda v, x, m=module, p=plain: (m.apply(v, x), p(v["params"], x)))(variables, x)
        if name == "norm":
            wanted = wanted + variables["params"]["bias"][None, None, None]
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_pointwise_and_norm_take_any_leading_axes(x64, normal, variables_of):
    x = normal(7, 6)
    for module in (Pointwise(4, use_bias=True), ChannelNorm()):
        variables = variables_of(module, x)
        flat = module.apply(variables, x)
        np.testing.assert_allclose(module.apply(variables, x.reshape(1, 7, 1, 6))[0, :, 0], flat, rtol=1e-12)


def test_channel_norm_gives_zero_mean_and_unit_variance(x64, normal):
    x = 5 + 3 * normal(*SHAPE)
    y, raw, damped = jax.jit(
        lambda x: (channel_norm(x), channel_norm(x, centre=False), channel_norm(x, epsilon=100.0))
    )(x)
    x, y, raw, damped = map(np.asarray, (x, y, raw, damped))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)  # eps 1e-5 against variances near 9
    np.testing.assert_allclose(raw - raw.mean(-1, keepdims=True), y, atol=1e-12)
    np.testing.assert_allclose(damped.std(-1), x.std(-1) / np.sqrt(x.var(-1) + 100), rtol=1e-9)


def test_initial_kernels_follow_the_fan_in():
    """U(+-1/sqrt(fan_in)) as in PyTorch: 1x1 of 64 features, 3x3 of 64 features, depthwise 3x3."""
    x = jnp.zeros((1, 4, 4, 64))
    for module, fan_in in ((Pointwise(256), 64), (Conv(64), 9 * 64), (Depthwise(), 9)):
        kernel = jax.jit(module.init)(KEY, x)["params"]["kernel"]
        bound = fan_in**-0.5
        assert float(jnp.abs(kernel).max()) <= bound
        assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_shuffles_move_whole_neighbourhoods():
    x = jnp.arange(4 * 6 * 2).reshape(1, 4, 6, 2)
    folded = pixel_unshuffle(x, 2)
    np.testing.assert_array_equal(folded[0, 1, 2], x[0, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(pixel_shuffle(folded, 2), x)
    np.testing.assert_array_equal(pixel_shuffle(jnp.arange(9).reshape(1, 1, 1, 9), 3)[0, :, :, 0].ravel(), range(9))
