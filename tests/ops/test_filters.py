import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate
from scipy.signal.windows import gaussian

from atlf_jax.ops.filters import GAUSSIAN_11, UNIFORM_7, separable


def test_separable_equals_scipy(x64):
    image = np.random.default_rng(0).standard_normal((9, 12))
    rows, columns = np.array([1.0, 2.0, -3.0]), np.array([0.5, 0.0, 2.0, 1.0, -1.0])
    want = correlate(image, np.outer(rows, columns))[1:-1, 2:-2]
    np.testing.assert_allclose(separable(jnp.asarray(image)[None], rows, columns)[0], want, atol=1e-13)


def test_the_windows_of_structural_similarity():
    assert UNIFORM_7.shape == (7,)
    np.testing.assert_allclose(UNIFORM_7, UNIFORM_7[0], rtol=1e-14)
    np.testing.assert_allclose(GAUSSIAN_11, gaussian(11, 1.5) / gaussian(11, 1.5).sum(), rtol=1e-14)
    np.testing.assert_allclose([UNIFORM_7.sum(), GAUSSIAN_11.sum()], 1, rtol=1e-14)


def test_images_below_the_filter_are_refused():
    with pytest.raises(ValueError, match="at least the filter's"):
        separable(jnp.ones((1, 6, 9)), UNIFORM_7, UNIFORM_7)
