"""What the tests of operators share: strict dtypes, random images, and one adjoint test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def draw():
    """Return a function that draws complex Gaussian arrays, complex64 unless float64 is enabled."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        values = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        return jnp.asarray(values, jnp.complex128 if jax.config.jax_enable_x64 else jnp.complex64)

    return draw


@pytest.fixture
def assert_adjoint(draw):
    """Return a test that `adjoint` is the adjoint of the complex-linear `apply`."""

    def check(apply, adjoint, shape, tolerance):
        x = draw(*shape)
        image = apply(x)
        y = draw(*image.shape)
        back = adjoint(y)
        left, right = jnp.vdot(y, image), jnp.vdot(back, x)
        scale = jnp.linalg.norm(image) * jnp.linalg.norm(y) + jnp.linalg.norm(x) * jnp.linalg.norm(back)
        assert abs(left - right) / scale < tolerance
        # The adjoint is conj . transpose . conj.
        (transposed,) = jax.linear_transpose(apply, x)(y.conj())
        np.testing.assert_allclose(back, transposed.conj(), atol=10 * tolerance * float(jnp.abs(back).max()))

    return check
