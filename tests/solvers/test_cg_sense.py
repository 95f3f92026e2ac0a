import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.ops import adjoint, birdcage_maps, forward, ifft2c, normal, rss
from atlf_jax.solvers import cg_sense


@pytest.fixture(scope="module")
def phantom():
    """Return the Shepp-Logan image, 8 birdcage maps, equispaced 4x mask with 24 central lines, and its k-space."""
    sigpy = pytest.importorskip("sigpy")
    image = jnp.asarray(sigpy.shepp_logan((128, 128)), jnp.complex64)
    config = MaskConfig("equispaced", acceleration=4, center_lines=24)
    seed = next(s for s in range(20) if make_mask(config, (128, 128), seed=s).samples[0, 0])  # offset 0
    mask = jnp.asarray(make_mask(config, (128, 128), seed=seed).samples)
    maps = birdcage_maps((128, 128), 8)
    return image, maps, mask, forward(image, mask, maps)


def nrmse(image, target):
    return float(jnp.linalg.norm(jnp.abs(image) - jnp.abs(target)) / jnp.linalg.norm(target))


def test_published_numbers(phantom):
    image, maps, mask, kspace = phantom
    assert int(mask.sum()) == 50
    assert nrmse(rss(ifft2c(kspace)), image) == pytest.approx(0.41339, abs=1e-5)
    assert nrmse(cg_sense(kspace, mask, maps), image) == pytest.approx(0.06533, abs=1e-5)


def test_noise_needs_a_regulariser(phantom):
    image, maps, mask, kspace = phantom
    rng = np.random.default_rng(0)
    noise = 0.01 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    noisy = kspace + jnp.where(mask, jnp.asarray(noise, jnp.complex64), 0)
    plain = nrmse(cg_sense(noisy, mask, maps), image)
    assert plain == pytest.approx(0.474, abs=0.02)  # .47371 with another draw of the noise
    assert nrmse(cg_sense(noisy, mask, maps, regularisation=0.02), image) < 0.6 * plain


def test_stationary(x64):
    rng = np.random.default_rng(0)
    shape = (2, 8, 8)
    maps = jnp.broadcast_to(birdcage_maps((8, 8), 4, dtype=jnp.complex128), (2, 4, 8, 8))
    mask = jnp.asarray(rng.uniform(size=(2, 1, 8)) < 0.6)
    image = jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    kspace = forward(image, mask, maps)

    @jax.jit
    def residual(kspace):
        x = cg_sense(kspace, mask, maps, iterations=60, regularisation=0.1)
        return normal(x, mask, maps) + 0.1 * x - adjoint(kspace, mask, maps)

    assert jnp.abs(residual(kspace)).max() < 1e-10


@pytest.mark.parametrize("iterations", [5, 30])
def test_the_gradient_is_right_for_any_number_of_iterations(x64, iterations):
    """Without regularisation 30 iterations have not converged: the implicit gradient was 6 to 13 % off here."""
    rng = np.random.default_rng(0)
    maps = birdcage_maps((16, 16), 4, dtype=jnp.complex128)
    mask = make_mask(MaskConfig("random", acceleration=2.0, center_fraction=0.2), (16, 16), seed=1)
    kspace, direction = (rng.standard_normal((4, 16, 16)) + 1j * rng.standard_normal((4, 16, 16)) for _ in range(2))

    def energy(along, regularisation):
        image = cg_sense(kspace + along * direction, mask, maps, iterations=iterations, regularisation=regularisation)
        return jnp.sum(jnp.abs(image) ** 2)

    got = jax.grad(energy, argnums=(0, 1))(0.0, 0.02)
    step = 1e-6
    wanted = (
        (energy(step, 0.02) - energy(-step, 0.02)) / (2 * step),
        (energy(0.0, 0.02 + step) - energy(0.0, 0.02 - step)) / (2 * step),
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    got = jax.grad(energy)(0.0, 0.0)
    np.testing.assert_allclose(got, (energy(step, 0.0) - energy(-step, 0.0)) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("number", [1, np.float32(0.1), np.array(0.1), jnp.asarray(0.1)])
def test_any_real_number_regularises(number):
    maps, kspace = birdcage_maps((8, 8), 2), jnp.ones((2, 8, 8), jnp.complex64)
    got = cg_sense(kspace, np.ones(8), maps, regularisation=number, iterations=2)
    np.testing.assert_array_equal(got, cg_sense(kspace, np.ones(8), maps, regularisation=float(number), iterations=2))
