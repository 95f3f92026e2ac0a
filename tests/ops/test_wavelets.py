import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.ops import daubechies, differences, differences_adjoint, fwt, iwt


@pytest.mark.parity
@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_filters_equal_pywavelets(order):
    pywt = pytest.importorskip("pywt")
    np.testing.assert_allclose(daubechies(order), pywt.Wavelet(f"db{order}").rec_lo, atol=1e-9)  # measured 3e-12


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(32, 48), (29, 40)])
def test_coefficients_equal_pywavelets(shape, x64, draw):
    pywt = pytest.importorskip("pywt")
    image = draw(*shape)
    approximation, *details = pywt.wavedec2(np.asarray(image), "db4", mode="zero")
    *got, coarse = fwt(image)  # two levels, each transposes
    assert len(got) == 2
    np.testing.assert_allclose(coarse, approximation, atol=1e-10)
    for bands, (horizontal, vertical, diagonal) in zip((got[0].T, got[1]), details[::-1], strict=True):
        low, high = (n // 2 for n in bands.shape)
        np.testing.assert_allclose(bands[low:, :high], horizontal, atol=1e-10)
        np.testing.assert_allclose(bands[:low, high:], vertical, atol=1e-10)
        np.testing.assert_allclose(bands[low:, high:], diagonal, atol=1e-10)
        np.testing.assert_array_equal(bands[:low, :high], 0)


@pytest.mark.parametrize(("shape", "order"), [((2, 32, 30), 4), ((29, 17), 2), ((5, 6), 4)])
def test_wavelets_are_an_isometry_with_its_adjoint(shape, order, x64, draw):
    x = draw(*shape)
    forward = jax.jit(lambda image: fwt(image, order=order))
    inverse = jax.jit(lambda bands: iwt(bands, shape[-2:], order=order))
    coefficients = forward(x)
    assert len(coefficients) == 1 + {4: 2, 2: 2}[order] * (shape != (5, 6))
    other = jax.tree.map(lambda bands: draw(*bands.shape), coefficients)
    # the quadrant of the next level is no coefficient
    other = jax.tree.map(lambda bands, like: jnp.where(like == 0, 0, bands), other, coefficients)
    left = sum(jnp.vdot(a, b) for a, b in zip(other, coefficients, strict=True))
    np.testing.assert_allclose(left, jnp.vdot(inverse(other), x), rtol=1e-10)
    np.testing.assert_allclose(inverse(coefficients), x, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 6, 7), (1, 5)])
def test_differences_and_their_adjoint(shape, x64, draw, assert_adjoint):
    assert_adjoint(differences, differences_adjoint, shape, 1e-12)
    x = np.asarray(draw(*shape))
    np.testing.assert_allclose(differences(x), np.stack([x - np.roll(x, 1, -2), x - np.roll(x, 1, -1)], -3), atol=0)


def test_the_norm_of_differences_is_the_root_of_eight(x64):
    checkerboard = jnp.asarray((-1.0) ** np.add.outer(np.arange(6), np.arange(8)))
    assert jnp.linalg.norm(differences(checkerboard)) == pytest.approx(8**0.5 * jnp.linalg.norm(checkerboard))
