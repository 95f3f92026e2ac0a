import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.ops import fft2c, ifft2c

SIZES = [(8, 8), (5, 4), (7, 9), (6, 11)]


def test_printed_values():
    root3 = np.sqrt(3)
    want = [
        [0, 0, 8j, 0],
        [-root3, root3 + root3 * 1j, 11 * root3, root3 - root3 * 1j],
        [0, 0, -8j, 0],
    ]
    np.testing.assert_allclose(fft2c(jnp.arange(12.0).reshape(3, 4)), want, atol=2e-5)
    assert round(11 * root3, 5) == 19.05256


def test_explicit_dft_matrix(x64, draw):
    def matrix(n):
        k = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)

    x = draw(5, 4)
    np.testing.assert_allclose(fft2c(x), matrix(5) @ np.asarray(x) @ matrix(4).T, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_unitary(size, x64, draw, assert_adjoint):
    x = draw(2, *size)
    np.testing.assert_allclose(ifft2c(fft2c(x)), x, atol=1e-12)
    np.testing.assert_allclose(fft2c(ifft2c(x)), x, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(fft2c(x)), jnp.linalg.norm(x), rtol=1e-12)
    assert_adjoint(fft2c, ifft2c, size, 1e-12)
    assert_adjoint(ifft2c, fft2c, size, 1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_centred_delta_is_constant(size):
    h, w = size
    delta = jnp.zeros(size).at[h // 2, w // 2].set(1)
    np.testing.assert_allclose(fft2c(delta), np.full(size, 1 / np.sqrt(h * w)), atol=1e-7)


@pytest.mark.parametrize("size", SIZES)
def test_shift_theorem(size, x64, draw):
    h, w = size
    x = draw(h, w)
    phase = np.exp(-2j * np.pi * ((np.arange(h) - h // 2)[:, None] / h + 2 * (np.arange(w) - w // 2)[None, :] / w))
    np.testing.assert_allclose(fft2c(jnp.roll(x, (1, 2), axis=(0, 1))), fft2c(x) * phase, atol=1e-12)


def test_single_precision_at_fastmri_size():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((640, 372)) + 1j * rng.standard_normal((640, 372))).astype(np.complex64)
    want = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x.astype(np.complex128)), norm="ortho"))
    assert np.abs(fft2c(jnp.asarray(x)) - want).max() <= 1e-6 * np.abs(want).max()


def test_batches_jit_and_vmap_agree(draw):
    x = draw(2, 3, 6, 5)
    eager = fft2c(x)
    np.testing.assert_allclose(jax.jit(fft2c)(x), eager, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.vmap(fft2c))(x), eager, atol=1e-6)
    np.testing.assert_allclose(fft2c(x[1, 2]), eager[1, 2], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_short_floats_become_complex64(dtype):
    assert fft2c(jnp.ones((4, 4), dtype)).dtype == jnp.complex64


def test_a_batch_that_is_split_over_devices_is_not_gathered():
    devices = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.NamedSharding(devices, jax.P(("a", "b")))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6, 5)), jnp.complex64)

    def energy(x):
        return jnp.square(jnp.abs(ifft2c(fft2c(x) * jnp.arange(5, dtype=jnp.complex64)[None, None]))).sum()

    expected = jax.grad(energy)(x)
    with jax.set_mesh(devices):
        program = jax.jit(jax.grad(energy), in_shardings=rows, out_shardings=rows)
        np.testing.assert_allclose(program(x), expected, rtol=1e-5, atol=1e-6)
        assert "all-gather" not in program.lower(x).compile().as_text()
