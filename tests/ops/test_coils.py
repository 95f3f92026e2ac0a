from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.ops import (
    birdcage_maps,
    compression_matrix,
    espirit_maps,
    fft2c,
    forward,
    ifft2c,
    low_resolution_maps,
    mix_coils,
    noise_covariance,
    noise_level,
    rss,
    whitening_matrix,
)


def disc(h, w):
    """A smooth object with a phase, 0 outside of a disc."""
    y, x = np.ogrid[:h, :w]
    y, x = (y - h // 2) / h, (x - w // 2) / w
    inside = 1 / (1 + np.exp((np.hypot(y, x) - 0.35) * h))
    return jnp.asarray(inside * (1 + 0.3 * np.cos(9 * y + 5 * x)) * np.exp(1j * (y + 2 * x)), jnp.complex64)


def scan(h=32, w=28, coils=4):
    maps = birdcage_maps((h, w), coils)
    return maps, forward(disc(h, w)[None], jnp.ones((1, 1, w), bool), maps[None])[0]


def relative_to_first(maps):
    return maps * np.exp(-1j * np.angle(maps[..., :1, :, :]))


@pytest.mark.parametrize("estimate", [espirit_maps, low_resolution_maps])
def test_maps_are_normalised_and_batched(estimate, draw):
    kspace = draw(2, 1, 3, 12, 9)
    maps = estimate(kspace)
    assert maps.shape == kspace.shape and maps.dtype == jnp.complex64
    energy = np.sum(np.abs(maps) ** 2, axis=-3)
    np.testing.assert_allclose(energy, np.where(energy > 0.5, 1, 0), atol=1e-5)
    np.testing.assert_allclose(estimate(kspace[1, 0]), maps[1, 0], atol=1e-5)
    np.testing.assert_allclose(jax.jit(estimate)(kspace), maps, atol=1e-5)
    np.testing.assert_array_equal(estimate(jnp.zeros_like(kspace)), 0)


@pytest.mark.parametrize(("estimate", "tolerance"), [(espirit_maps, 0.02), (low_resolution_maps, 0.06)])
def test_birdcage_maps_are_found_again(estimate, tolerance):
    maps, kspace = scan()
    found = estimate(kspace)
    inside = np.abs(disc(32, 28)) > 0.5
    if estimate is espirit_maps:
        assert np.all(rss(found)[inside] > 0.9)
        assert np.mean(np.asarray(rss(found))[np.abs(disc(32, 28)) < 0.01] == 0) > 0.5
    error = np.linalg.norm(relative_to_first(np.asarray(found)) - relative_to_first(np.asarray(maps)), axis=0)
    assert error[inside].max() < tolerance  # measured .0137 and .0265


def test_only_the_centre_is_looked_at():
    _, kspace = scan()
    edge = jnp.ones((32, 28), bool).at[4:28, 2:26].set(False)
    for estimate in (espirit_maps, low_resolution_maps):
        np.testing.assert_array_equal(estimate(jnp.where(edge, 0, kspace)), estimate(kspace))


def test_maps_of_all_coils_explain_the_data():
    """Projecting coil images onto the maps loses nothing of a scan without noise."""
    _, kspace = scan()
    images = ifft2c(kspace)
    maps = espirit_maps(kspace)
    projected = maps * jnp.sum(maps.conj() * images, axis=0, keepdims=True)
    inside = np.asarray(rss(maps) > 0)
    lost = np.linalg.norm((projected - images)[:, inside]) / np.linalg.norm(images[:, inside])
    assert lost < 0.01  # measured .0034


@pytest.mark.parity
@pytest.mark.slow
def test_espirit_equals_sigpy():
    mri = pytest.importorskip("sigpy.mri")
    _, kspace = scan()
    want = mri.app.EspiritCalib(np.asarray(kspace), show_pbar=False, max_iter=1000).run()
    np.testing.assert_allclose(espirit_maps(kspace), want, atol=5e-4)  # measured 5e-5


@pytest.mark.parity
@pytest.mark.data
@pytest.mark.slow
def test_espirit_equals_sigpy_on_a_real_head(data_dir):
    mri = pytest.importorskip("sigpy.mri")
    kspace = np.load(Path(data_dir, "kspace", "sigpy_brain_8ch_poisson8x_230x180.npy"))
    maps = np.asarray(espirit_maps(kspace))
    want = mri.app.EspiritCalib(kspace, show_pbar=False).run()
    np.testing.assert_array_equal(np.abs(maps).sum(0) > 0, np.abs(want).sum(0) > 0)
    assert np.linalg.norm(maps - want, axis=0).max() < 0.01  # measured 2.2e-3, median 1.2e-6


def test_settings_matter_and_are_checked():
    _, kspace = scan()
    maps = espirit_maps(kspace)
    for change in ({"calibration": 16}, {"kernel": 5}, {"threshold": 0.2}, {"crop": 0.999}):
        assert not np.array_equal(espirit_maps(kspace, **change), maps)
    assert np.abs(low_resolution_maps(kspace, calibration=8) - low_resolution_maps(kspace)).max() > 0.01
    np.testing.assert_array_equal(espirit_maps(kspace, calibration=(24, 24)), maps)
    with pytest.raises(ValueError, match=r"kernel of 6 samples for a calibration region of \(4, 4\)"):
        espirit_maps(kspace, calibration=4)


def test_whitened_noise_has_the_identity_as_covariance(x64):
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))
    noise = np.einsum("cd,dn->cn", mixing, rng.standard_normal((4, 500)) + 1j * rng.standard_normal((4, 500)))
    matrix = whitening_matrix(noise_covariance(noise))
    white = mix_coils(matrix, noise.reshape(4, 20, 25))
    np.testing.assert_allclose(noise_covariance(np.asarray(white)), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.triu(matrix, 1), 0, atol=1e-15)


def test_noise_covariance_is_a_mean_over_samples():
    noise = np.array([[1, 1j, -1], [2, 2, 2]], np.complex64)
    np.testing.assert_allclose(noise_covariance(noise), [[1, 2j / 3], [-2j / 3, 4]], atol=1e-6)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        ([[1, 2], [0, 1]], "not Hermitian"),
        ([[1, 1], [1, 1]], "of 2 coils is not positive definite; measure it from more samples"),
        ([[0, 0], [0, 1]], "not positive definite"),
    ],
)
def test_an_impossible_covariance_is_refused(covariance, message):
    with pytest.raises(ValueError, match=message):
        whitening_matrix(np.array(covariance, complex))


def test_compression_of_low_rank_data_is_lossless(x64, draw):
    kspace = mix_coils(draw(2, 6, 3), draw(2, 3, 8, 7))  # 6 coils of rank 3
    matrix = compression_matrix(kspace, 3)
    np.testing.assert_allclose(
        matrix @ matrix.conj().swapaxes(-1, -2), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-12
    )
    virtual = mix_coils(matrix, kspace)
    assert virtual.shape == (2, 3, 8, 7)
    back = mix_coils(matrix.conj().swapaxes(-1, -2), virtual)
    np.testing.assert_allclose(back, kspace, atol=1e-12)


def test_compression_keeps_what_the_singular_values_say(x64, draw):
    kspace = draw(6, 8, 7)
    values = np.linalg.svd(np.asarray(kspace).reshape(6, -1), compute_uv=False)
    for coils in (1, 4, 6):
        virtual = mix_coils(compression_matrix(kspace, coils), kspace)
        energies = np.sum(np.abs(virtual) ** 2, axis=(-2, -1))
        np.testing.assert_allclose(energies, values[:coils] ** 2, rtol=1e-10)  # strongest first
    with pytest.raises(ValueError, match="got 7 virtual coils for k-space of 6 coils; want 1 to 6"):
        compression_matrix(kspace, 7)


def test_compressed_maps_serve_compressed_data(x64, draw):
    """Mixing k-space and maps by one unitary matrix changes no reconstruction."""
    image, maps, mask = draw(1, 8, 7), draw(1, 4, 8, 7), jnp.ones((1, 1, 7), bool)
    kspace = forward(image, mask, maps)
    matrix = compression_matrix(kspace, 4)
    np.testing.assert_allclose(forward(image, mask, mix_coils(matrix, maps)), mix_coils(matrix, kspace), atol=1e-12)
    np.testing.assert_allclose(fft2c(mix_coils(matrix, ifft2c(kspace))), mix_coils(matrix, kspace), atol=1e-12)


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("sigma", [0.002, 0.02])
def test_the_noise_is_estimated_from_the_frame_of_kspace(sigma, lines):
    """For each example by itself, of coils of which one is filled up with zeros."""
    rng = np.random.default_rng(0)
    maps = np.asarray(birdcage_maps((128, 128), 3))
    noise = (rng.standard_normal((2, 3, 128, 128)) + 1j * rng.standard_normal((2, 3, 128, 128))) / np.sqrt(2)
    levels = np.array([sigma, 3 * sigma])
    kspace = np.asarray(fft2c((maps * disc(128, 128)[None]).astype(np.complex64))) + levels[:, None, None, None] * noise
    kspace[:, 2] = 0
    mask = (np.arange(128) % 4 == 0)[None, None] if lines else rng.random((1, 128, 128)) < 0.25
    found = noise_level(np.where(mask[:, None], kspace, 0).astype(np.complex64), mask)
    np.testing.assert_allclose(found, levels, rtol=0.06)  # measured .03, of the draw


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "most"),
    [("brain_1ch_t2_256x340.npy", 1.7), ("brain_4ch_mprage_256.npy", 1.15), ("brain_7ch_256x216.npy", 1.15)],
)
def test_the_noise_of_real_raw_scans_is_little_more_than_in_their_corners(data_dir, name, most):
    """Measured 1.62, 1.10 and 1.10 times: at the ends of the axes some of the image is left."""
    kspace = np.load(Path(data_dir) / "raw" / name)
    kspace = (kspace / np.abs(kspace).max()).reshape(1, -1, *kspace.shape[-2:]).astype(np.complex64)
    corners = np.sqrt(np.mean(np.abs(kspace[..., :6, :6]) ** 2))
    found = float(noise_level(kspace, np.ones((1, 1, kspace.shape[-1]), bool))[0])
    assert corners < found < most * corners


@pytest.mark.data
def test_pictures_without_noise_have_little_in_the_frame(data_dir):
    from PIL import Image

    for file in sorted((Path(data_dir) / "aanlib_ct_mri" / "MRI").glob("*.png"))[::40]:
        picture = np.asarray(Image.open(file).convert("L"), np.float32)
        level = float(
            noise_level(fft2c((picture / picture.max()).astype(np.complex64))[None], np.ones((1, 1, 256), bool))[0]
        )
        assert 0.002 < level < 0.012
