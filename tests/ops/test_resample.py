import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from atlf_jax.ops import bilinear


@pytest.fixture
def features(x64):
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 7, 3)))


def grid(h, w, batch=2):
    positions = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1).reshape(1, h * w, 2)
    return jnp.asarray(np.repeat(positions, batch, axis=0), float)


def test_pixel_centres_return_the_pixels(features):
    np.testing.assert_array_equal(bilinear(features, grid(5, 7)), features.reshape(2, 35, 3))


def test_integer_offsets_shift(features):
    moved = bilinear(features, grid(5, 7) + jnp.array([1.0, 2.0]).reshape(1, 1, 2)).reshape(2, 5, 7, 3)
    np.testing.assert_array_equal(moved[:, :4, :5], features[:, 1:, 2:])
    np.testing.assert_array_equal(moved[:, 4], moved[:, 3])  # the border repeats
    np.testing.assert_array_equal(moved[:, :, 5], moved[:, :, 4])


def test_affine_ramps_are_exact(x64):
    rows, columns = np.meshgrid(np.arange(5), np.arange(7), indexing="ij")
    ramp = jnp.asarray((2 + 0.5 * rows - 1.5 * columns)[None, ..., None], float)
    positions = jnp.asarray(np.random.default_rng(0).uniform([0, 0], [4, 6], (1, 50, 2)))
    want = 2 + 0.5 * positions[..., 0] - 1.5 * positions[..., 1]
    np.testing.assert_allclose(bilinear(ramp, positions)[..., 0], want, atol=1e-13)


def test_equals_scipy_inside_and_outside(features):
    positions = np.random.default_rng(0).uniform([-3, -3], [8, 10], (2, 60, 2))
    got = bilinear(features, jnp.asarray(positions))
    for b in range(2):
        for f in range(3):
            want = map_coordinates(features[b, ..., f], positions[b].T, order=1, mode="nearest")
            np.testing.assert_allclose(got[b, :, f], want, atol=1e-13)


def test_gradients_against_finite_differences(features):
    rng = np.random.default_rng(0)
    positions = jnp.asarray(rng.integers(0, [4, 6], (2, 9, 2)) + rng.uniform(0.2, 0.8, (2, 9, 2)))
    cotangent = jnp.asarray(rng.standard_normal((2, 9, 3)))

    @jax.jit
    def f(features, positions):
        return jnp.sum(cotangent * bilinear(features, positions))

    along_features, along_positions = jax.grad(f, argnums=(0, 1))(features, positions)
    for direction in range(4):
        df, dp = jnp.asarray(rng.standard_normal(features.shape)), jnp.asarray(rng.standard_normal(positions.shape))
        step = 1e-6
        want = (f(features + step * df, positions) - f(features - step * df, positions)) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(along_features, df), want, rtol=1e-7, err_msg=str(direction))
        want = (f(features, positions + step * dp) - f(features, positions - step * dp)) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(along_positions, dp), want, rtol=1e-7, err_msg=str(direction))


def test_last_pixel_keeps_a_gradient(x64):
    ramp = jnp.arange(6.0).reshape(1, 2, 3, 1)
    slope = jax.grad(lambda p: bilinear(ramp, p).sum())
    np.testing.assert_allclose(slope(jnp.array([[[0.5, 1.999]]])), [[[3.0, 1.0]]], atol=1e-12)
    assert jnp.all(slope(jnp.array([[[1.0, 2.0]]])) > 0)  # a subgradient at the very border


def test_single_row_and_bfloat16():
    row = jnp.arange(4.0, dtype=jnp.bfloat16).reshape(1, 1, 4, 1)
    got = bilinear(row, jnp.array([[[0.0, 1.5], [9.0, 3.0]]]))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32).ravel(), [1.5, 3.0])


def test_batch_permutation_and_jit(features):
    positions = jnp.asarray(np.random.default_rng(0).uniform(0, 4, (2, 9, 2)))
    got = bilinear(features, positions)
    np.testing.assert_array_equal(bilinear(features[::-1], positions[::-1]), got[::-1])
    np.testing.assert_allclose(jax.jit(bilinear)(features, positions), got, atol=1e-14)
