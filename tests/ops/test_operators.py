import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from atlf_jax.ops import adjoint, birdcage_maps, fft2c, forward, ifft2c, normal, normalise_maps, operator_norm, rss


def random_mask(*shape):
    return jnp.asarray(np.random.default_rng(1).uniform(size=shape) < 0.4)


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
@pytest.mark.parametrize("mask_rows", ["lines", "points"])
def test_adjoint_one_coil(size, mask_rows, x64, assert_adjoint):
    h, w = size
    mask = random_mask(2, 1 if mask_rows == "lines" else h, w)
    assert_adjoint(lambda x: forward(x, mask), lambda y: adjoint(y, mask), (2, h, w), 1e-12)
    assert_adjoint(lambda x: normal(x, mask), lambda x: normal(x, mask), (2, h, w), 1e-12)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_adjoint_sense(batch, x64, draw, assert_adjoint):
    maps = draw(*batch, 4, 6, 7)
    mask = random_mask(*batch, 1, 7)
    shape = (*batch, 6, 7)
    assert_adjoint(lambda x: forward(x, mask, maps), lambda y: adjoint(y, mask, maps), shape, 1e-12)
    assert_adjoint(lambda x: normal(x, mask, maps), lambda x: normal(x, mask, maps), shape, 1e-12)


def test_what_is_measured(draw):
    x, mask = draw(2, 6, 7), random_mask(2, 1, 7)
    y = forward(x, mask)
    np.testing.assert_array_equal(y, np.where(mask, fft2c(x), 0))
    maps = draw(2, 3, 6, 7)
    y = forward(x, mask, maps)
    for c in range(3):
        np.testing.assert_allclose(y[:, c], np.where(mask, fft2c(maps[:, c] * x), 0), atol=1e-5)


def test_samples_off_the_mask_are_ignored(draw):
    y, mask, maps = draw(2, 3, 6, 7), random_mask(2, 1, 7), draw(2, 3, 6, 7)
    np.testing.assert_array_equal(adjoint(y, mask, maps), adjoint(jnp.where(mask[:, None], y, 0), mask, maps))
    np.testing.assert_array_equal(adjoint(y[:, 0], mask), adjoint(jnp.where(mask, y[:, 0], 0), mask))


def test_one_coil_operator_is_a_projection(x64, draw):
    y, mask = draw(2, 6, 7), random_mask(2, 6, 7)
    np.testing.assert_allclose(forward(adjoint(y, mask), mask), jnp.where(mask, y, 0), atol=1e-12)


def test_one_coil_with_flat_map_equals_no_map(x64, draw):
    x, mask, maps = draw(2, 6, 7), random_mask(2, 1, 7), jnp.ones((2, 1, 6, 7), complex)
    np.testing.assert_allclose(forward(x, mask, maps)[:, 0], forward(x, mask), atol=1e-13)
    np.testing.assert_allclose(normal(x, mask, maps), normal(x, mask), atol=1e-13)


def test_full_mask_and_normalised_maps_give_identity(x64, draw):
    x, maps = draw(2, 6, 7), normalise_maps(draw(2, 4, 6, 7))
    np.testing.assert_allclose(normal(x, jnp.ones((2, 1, 7), bool), maps), x, atol=1e-12)


def test_real_image_model_halves_the_unpaired_samples(x64, draw):
    """For real x, Re A^H A x weights k by (M(k) + M(-k)) / 2."""
    mask = random_mask(1, 6, 7)
    mirrored = jnp.roll(mask[:, ::-1, ::-1], (1, 0), axis=(1, 2))  # even h, odd w
    x = draw(1, 6, 7).real
    want = ifft2c((mask.astype(float) + mirrored.astype(float)).astype(complex) / 2 * fft2c(x))
    np.testing.assert_allclose(normal(x.astype(complex), mask).real, want, atol=1e-12)


def test_operator_norm_against_a_dense_matrix(x64, draw):
    mask, maps = random_mask(1, 1, 5), draw(1, 3, 4, 5)
    basis = jnp.eye(20, dtype=complex).reshape(20, 1, 4, 5)
    dense = jax.jit(jax.vmap(lambda x: forward(x, mask, maps).ravel()))(basis)
    got = operator_norm(jax.random.key(0), mask, maps, shape=(1, 4, 5), iterations=300)
    np.testing.assert_allclose(got, [np.linalg.norm(dense, 2)], rtol=1e-6)


def test_operator_norm_is_at_most_one_with_normalised_maps():
    mask = random_mask(2, 1, 16)
    maps = jnp.broadcast_to(birdcage_maps((16, 16), 4), (2, 4, 16, 16))
    norm = operator_norm(jax.random.key(0), mask, maps, shape=(2, 16, 16))
    assert norm.shape == (2,)
    assert np.all(norm <= 1 + 1e-5) and np.all(norm > 0.5)
    np.testing.assert_allclose(operator_norm(jax.random.key(0), mask, shape=(2, 16, 16)), 1, rtol=1e-5)


def test_maps():
    maps = birdcage_maps((12, 10), 6)
    assert maps.shape == (6, 12, 10) and maps.dtype == jnp.complex64
    np.testing.assert_allclose(rss(maps), 1, rtol=1e-5)
    doubled = normalise_maps(2j * maps.at[:, 0, 0].set(0))
    np.testing.assert_allclose(doubled[:, 1:], 1j * maps[:, 1:], atol=1e-6)
    np.testing.assert_array_equal(doubled[:, 0, 0], 0)


@pytest.mark.parity
def test_birdcage_maps_equal_sigpy():
    mri = pytest.importorskip("sigpy.mri")
    np.testing.assert_allclose(birdcage_maps((12, 10), 6), mri.birdcage_maps((6, 12, 10)), atol=1e-6)


def test_ranks_must_match(draw):
    x, mask, maps = draw(2, 6, 7), random_mask(2, 1, 7), draw(2, 3, 6, 7)
    with pytest.raises(ValueError, match=r"got a mask of shape \(1, 7\) for images with 3 axes"):
        forward(x, mask[0])
    with pytest.raises(ValueError, match=r"got coil maps of shape \(3, 6, 7\)"):
        forward(x, mask, maps[0])
    with pytest.raises(ValueError, match="without a coil axis"):
        adjoint(draw(2, 3, 6, 7), mask[:, None], maps)
    with pytest.raises(TypeCheckError):
        forward(x, mask[..., :6])
    with pytest.raises(TypeCheckError):
        forward(x, mask.astype(jnp.float32))


def test_jit_and_vmap_agree(draw):
    x, mask, maps = draw(2, 6, 7), random_mask(2, 1, 7), draw(2, 3, 6, 7)
    eager = normal(x, mask, maps)
    np.testing.assert_allclose(jax.jit(normal)(x, mask, maps), eager, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(normal)(x, mask, maps), eager, atol=1e-5)


def test_operators_take_numpy_and_return_jax():
    image = np.ones((2, 8, 8), np.complex64)
    mask = np.ones((2, 1, 8), bool)
    kspace = forward(image, mask)
    assert isinstance(kspace, jax.Array)
    assert isinstance(adjoint(np.asarray(kspace), mask), jax.Array)
