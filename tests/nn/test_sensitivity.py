"""The sensitivity network: its published size, where it starts, the centre it looks at, coils of zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn.sensitivity import SensitivityNet, centre_window
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import birdcage_maps, forward, ifft2c, normalise_maps


def scan(coils=3, h=20, w=24, seed=0):
    """Undersampled k-space of a smooth image, 6 central lines and some others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    image = jnp.asarray(np.exp(-((y - h / 2) ** 2 + (x - w / 2) ** 2) / h)[None], jnp.complex64)
    lines = rng.random((1, 1, w)) < 0.3
    lines[..., w // 2 - 3 : w // 2 + 3] = True
    lines[..., w // 2 - 4] = lines[..., w // 2 + 3] = False
    mask = jnp.asarray(lines)
    return forward(image, mask, birdcage_maps((h, w), coils)[None]), mask


def random_variables(model, *arguments, size=0.3):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(size * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def test_the_size_is_the_published_one():
    shapes = jax.eval_shape(SensitivityNet(published=True).init, jax.random.key(0), *scan())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 484_898


def test_training_starts_at_low_resolution_maps():
    kspace, mask = scan()
    model = SensitivityNet(width=2, pools=1)
    maps = model.apply(jax.jit(model.init)(jax.random.key(0), kspace, mask), kspace, mask)
    centre = np.zeros(24, np.complex64)
    centre[9:15] = 1
    want = normalise_maps(ifft2c(kspace * jnp.asarray(centre)[None, None, None]))
    np.testing.assert_allclose(maps, want, atol=1e-5)


@pytest.mark.parametrize("published", [False, True])
def test_coils_of_zeros_stay_zeros_and_change_no_other(published):
    kspace, mask = scan()
    model = SensitivityNet(width=2, pools=1, published=published)
    variables = random_variables(model, kspace, mask)
    apply = jax.jit(model.apply)
    three, five = (
        apply(variables, kspace, mask),
        apply(variables, jnp.pad(kspace, ((0, 0), (0, 2), (0, 0), (0, 0))), mask),
    )
    np.testing.assert_allclose(five[:, :3], three, atol=1e-5)
    assert not np.asarray(five[:, 3:]).any()
    np.testing.assert_allclose((np.abs(three) ** 2).sum(1), 1, atol=1e-4)
    off = kspace.at[..., 0].add(5.0)  # not of the centre
    np.testing.assert_array_equal(apply(variables, off, mask), three)


def test_nothing_gives_no_maps_and_finite_gradients():
    kspace, mask = scan()
    model = SensitivityNet(width=2, pools=1, published=True)
    variables = random_variables(model, kspace, mask)

    def loss(variables):
        return jnp.abs(model.apply(variables, 0 * kspace, mask)).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_window_is_the_unbroken_centre():
    lines = np.zeros((2, 1, 10), bool)
    lines[0, 0, [1, 4, 5, 6, 9]] = True
    lines[1, 0] = True
    window = np.asarray(centre_window(jnp.asarray(lines), (8, 10)))[:, 0]
    np.testing.assert_array_equal(window, [[0, 0, 0, 0, 1, 1, 1, 0, 0, 0], [1] * 10])
    plane = np.zeros((1, 8, 10), bool)
    plane[0, 3:6, 2:9] = plane[0, 0, 0] = True
    window = np.asarray(centre_window(jnp.asarray(plane), (8, 10)))[0]
    want = np.zeros((8, 10))
    want[3:6, 2:9] = 1
    np.testing.assert_array_equal(window, want)
    one_side = np.zeros((1, 1, 10), bool)
    one_side[0, 0, 5:8] = True  # fastMRI puts a run of three in the middle
    np.testing.assert_array_equal(
        np.asarray(centre_window(jnp.asarray(one_side), (8, 10)))[0, 0].nonzero()[0], [4, 5, 6]
    )


def test_the_published_unet_puts_the_mean_back_and_scales_by_the_unbiased_deviation():
    x = jnp.asarray(np.random.default_rng(0).random((1, 10, 9, 2)), jnp.float32)
    model = NormUNet(2, width=2, pools=1, published=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    bias = np.array([0.5, -2.0], np.float32)
    variables["params"]["unet"]["out"]["bias"] = jnp.asarray(bias)  # all that is left of the U-Net
    pixels = np.asarray(x[0]).reshape(-1, 2)
    want = pixels.mean(0) + bias * pixels.std(0, ddof=1)
    np.testing.assert_allclose(model.apply(variables, x)[0], np.broadcast_to(want, (10, 9, 2)), rtol=1e-5)
