"""The learned baselines: published sizes, the part of the CT, their start, data consistency, any image size."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from atlf_jax.models import DCCNNConfig, MoDLConfig, MTransConfig, UNetConfig, VarNetConfig, build
from atlf_jax.models.baseline import COMMON_NOISE, LEAST_NOISE, DataConsistency
from atlf_jax.nn.layers import pixel_shuffle
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import adjoint, forward, normal
from atlf_jax.ops.consistency import weighted

from .conftest import BASELINES, measure, random_variables

F32 = 1e-5


def count(config) -> int:
    shapes = jax.eval_shape(build(config).init, jax.random.key(0), measure(batch=1, h=16, w=16)[0])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.fixture(scope="module", params=BASELINES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def run(name):
    """Return random variables and the compiled network."""
    model = build(BASELINES[name])
    variables = random_variables(model, measure()[0], size=0.2)
    return variables, jax.jit(model.apply)


def test_sizes_are_the_published_ones():
    mr = {"use_ct": False}
    assert count(UNetConfig(**mr, complex=False)) == 7_756_097  # as the authors count their U-Net of width 32
    assert count(DCCNNConfig(**mr)) == 565_770 + 5  # one weight of the data consistency for each cascade
    assert count(MoDLConfig(**mr)) == 113_154 + 1
    assert count(VarNetConfig(**mr)) == 12 * (count(UNetConfig(**mr, width=18)) + 1) == 29_452_068
    assert count(MTransConfig()) == 7_792_482


def test_the_ct_is_seen_exactly_where_it_may_be(name, run):
    measurement, _ = measure()
    other = measurement._replace(ct=1 - measurement.ct)
    variables, apply = run
    assert np.abs(apply(variables, measurement).image - apply(variables, other).image).max() > 1e-3
    blind = build(dataclasses.replace(BASELINES[name], use_ct=False))
    variables = random_variables(blind, measurement)
    apply = jax.jit(blind.apply)
    np.testing.assert_array_equal(apply(variables, measurement).image, apply(variables, other).image)


def test_training_starts_at_the_zero_filled_image(name, run):
    measurement, _ = measure()
    variables = jax.jit(build(BASELINES[name]).init)(jax.random.key(0), measurement)
    want = adjoint(measurement.kspace, measurement.mask)
    np.testing.assert_allclose(run[1](variables, measurement).image, want, atol=F32)
    assert np.abs(run[1](run[0], measurement).image - want).max() > 0.01


def test_every_parameter_gets_gradient_with_several_coils(name):
    """Of one coil, the first step size of the variational network has none: there A^H A x_0 = x_0."""
    measurement, image = measure(coils=2)
    model = build(dataclasses.replace(BASELINES[name], **{"dc": "soft"} if hasattr(BASELINES[name], "dc") else {}))
    variables = random_variables(model, measurement, size=0.2)

    def loss(variables):
        return jnp.square(jnp.abs(model.apply(variables, measurement).image - image)).mean()

    gradient = jax.jit(jax.grad(loss))(variables)
    silent = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 1e-9
    ]
    assert silent == []


@pytest.mark.parametrize("kind", ["unet", "mtrans"])
def test_hard_consistency_returns_the_samples_at_an_odd_size(kind):
    measurement, _ = measure(batch=1, h=17, w=13)
    model = build(dataclasses.replace(BASELINES[kind], dc="hard"))
    image = jax.jit(model.apply)(random_variables(model, measurement), measurement).image
    assert image.shape == (1, 17, 13)
    assert np.abs(image - adjoint(measurement.kspace, measurement.mask)).max() > 0.01
    np.testing.assert_allclose(forward(image, measurement.mask), measurement.kspace, atol=10 * F32)


def test_one_channel_at_an_odd_size_stays_real(name):
    measurement, _ = measure(batch=1, h=17, w=13)
    model = build(dataclasses.replace(BASELINES[name], complex=False))
    image = jax.jit(model.apply)(random_variables(model, measurement), measurement).image
    assert image.shape == (1, 17, 13) and np.abs(image.real).max() > 0.1
    assert not np.asarray(image.imag).any()


def test_modl_solves_its_normal_equations():
    measurement, _ = measure(coils=3)
    y, mask, _, maps = measurement
    model = build(MoDLConfig(iterations=1, depth=1, initial_lambda=0.5))
    variables = jax.jit(model.init)(jax.random.key(0), measurement)  # the denoiser starts as the identity
    x = jax.jit(model.apply)(variables, measurement).image
    start = adjoint(y, mask, maps)
    np.testing.assert_allclose(normal(x, mask, maps) + 0.5 * x, start + 0.5 * start, atol=F32)


def test_the_unet_s_update_scales_with_its_input():
    model, x = NormUNet(1, width=2, pools=1), measure()[0].ct[..., None]
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, 0.1) + jnp.arange(leaf.size).reshape(leaf.shape) % 3, shapes
    )
    apply = jax.jit(model.apply)
    first, second = apply(variables, x), apply(variables, 4 * x + 1)
    np.testing.assert_allclose(second, 4 * first, rtol=1e-4, atol=1e-4)
    assert np.abs(first).max() > 0.1


def test_a_1x1_convolution_and_a_pixel_shuffle_are_a_transposed_convolution():
    rng = np.random.default_rng(0)
    x, kernel = rng.random((1, 3, 4, 5), np.float32), rng.random((2, 2, 5, 6), np.float32)
    layout = ("NHWC", "HWIO", "NHWC")
    flipped = kernel[::-1, ::-1]  # lax slides the kernel over the stretched image, unflipped
    want = lax.conv_transpose(x, flipped, strides=(2, 2), padding="VALID", dimension_numbers=layout)
    pointwise = jnp.einsum("bhwf,ijfk->bhwijk", x, kernel).reshape(1, 3, 4, -1)
    np.testing.assert_allclose(pixel_shuffle(pointwise, 2), want, atol=F32)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (UNetConfig, {"width": 0}, "got width 0 and pools 4, wanted width >= 1"),
        (DCCNNConfig, {"cascades": 0}, "got cascades 0, .* wanted each at least 1"),
        (MoDLConfig, {"initial_lambda": 0.0}, "initial_lambda 0.0: wanted at least 1, and a lambda above 0"),
        (VarNetConfig, {"pools": -1}, "pools -1, wanted 1, 1 and 0 or more"),
        (MTransConfig, {"layers": 0}, "layers 0, .* wanted each above 0"),
        (MTransConfig, {"heads": 3}, "embed 256 is not a multiple of 4 and of heads 3: change either"),
    ],
)
def test_a_size_that_cannot_be_is_told(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_a_deep_unet_has_a_finite_gradient_at_an_empty_image():
    """Every normalisation of a flat channel multiplied the gradient by 316: it left float32 after sixteen layers."""
    net = NormUNet(outputs=1, width=2, pools=4)
    zero = jnp.zeros((1, 16, 16, 1))
    params = jax.jit(net.init)(jax.random.key(0), zero)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + np.float32(0.1), params
    )  # the last layer starts at zero and would hide it
    gradient = jax.jit(jax.grad(lambda p: jnp.square(net.apply(p, zero) - 1).sum()))(params)
    chex.assert_tree_all_finite(gradient)


def test_the_weight_of_the_samples_follows_the_noise_of_each_scan():
    """A quiet scan keeps its samples, and a noisy one does not, by as much as the learned exponent says."""
    rng = np.random.default_rng(0)
    measurement, _ = measure(h=48, w=48, full=True)
    noise = rng.standard_normal((2, 48, 48)) + 1j * rng.standard_normal((2, 48, 48))
    noise *= np.array([0.0, 0.3])[:, None, None] / np.sqrt(2)
    measurement = measurement._replace(kspace=jnp.asarray(noise, jnp.complex64))
    image = jnp.ones_like(measurement.kspace)
    consistency = DataConsistency("noise")
    variables = consistency.init(jax.random.key(0), image, measurement)
    for exponent in (1, 2):  # 1 at the start
        weights = jnp.array([(COMMON_NOISE / LEAST_NOISE) ** exponent, (COMMON_NOISE / 0.3) ** exponent])
        want = weighted(image, measurement.kspace, measurement.mask, weights[:, None, None])
        found = consistency.apply(variables, image, measurement)
        np.testing.assert_allclose(found, want, atol=5e-3)  # measured 1e-3, of the estimate
        variables = {"params": variables["params"] | {"by_noise": jnp.float32(2)}}
