import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.ops import from_channels, magnitude, rss, to_channels


def test_channels_round_trip(draw):
    x = draw(2, 3, 4)
    channels = to_channels(x)
    np.testing.assert_array_equal(channels[..., 0], x.real)
    np.testing.assert_array_equal(channels[..., 1], x.imag)
    np.testing.assert_array_equal(from_channels(channels), x)


def test_one_channel_is_a_real_image():
    x = from_channels(jnp.ones((2, 3, 4, 1)))
    assert x.dtype == jnp.complex64
    np.testing.assert_array_equal(x, np.ones((2, 3, 4)))


def test_other_channel_counts_are_refused():
    with pytest.raises(ValueError, match=r"got 3 channels .* want 1 \(real\) or 2"):
        from_channels(jnp.ones((2, 3, 4, 3)))


def test_gradients_at_zero_are_zero():
    def real_grad(f):
        return jax.grad(lambda c: jnp.sum(f(from_channels(c))))(jnp.zeros((2, 3, 3, 2)))

    np.testing.assert_array_equal(real_grad(magnitude), 0)
    np.testing.assert_array_equal(real_grad(rss), 0)


def test_rss(draw):
    x = draw(2, 3, 4, 5)
    np.testing.assert_allclose(rss(x), np.sqrt((np.abs(np.asarray(x)) ** 2).sum(1)), rtol=1e-6)
    np.testing.assert_allclose(rss(x, axis=-4), np.sqrt((np.abs(np.asarray(x)) ** 2).sum(0)), rtol=1e-6)
    np.testing.assert_allclose(rss(magnitude(x)), rss(x), rtol=1e-6)
