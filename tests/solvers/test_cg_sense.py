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
    seed = next(s for s in range(20) if make_mask(config, (128, 128), seed=s).mask[0, 0])  # offset 0
    mask = jnp.asarray(make_mask(config, (128, 128), seed=seed).mask)
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
