"""Metrics: printed numbers of a fixed pair, other toolboxes, and one value an example."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from atlf_jax.metrics import METRICS, PROFILES, hfen, nmse, psnr, score, ssim

GOLDEN = np.load(Path(__file__).parent / "golden" / "metrics_pair.npz")


def zero_filled(image, mask):
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho")) * mask
    return np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace), norm="ortho")))


@pytest.fixture(scope="module")
def pair():
    """Return (zero-filled, truth) as [1, 256, 256] float32."""
    truth = GOLDEN["gt"]
    prediction = zero_filled(truth, GOLDEN["mask"])
    return jnp.asarray(prediction[None], jnp.float32), jnp.asarray(truth[None], jnp.float32)


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    target = rng.uniform(0.2, 1, (3, 20, 24)).astype(np.float32)
    return jnp.asarray(target + 0.1 * rng.standard_normal(target.shape).astype(np.float32)), jnp.asarray(target)


# The printed digits, and 1e-5 for float32: measured differences are below 2e-6.


def test_printed_numbers(pair):
    prediction, target = pair
    got = score("picture", prediction, target)
    want = {"nmse": 0.2170079, "psnr": 18.766327, "ssim": 0.2967225, "hfen": 0.7750489}
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], [value], rtol=1e-5 if name == "ssim" else 1e-6, err_msg=name)
    gaussian = ssim(prediction, target, data_range=1.0, window="gaussian11")
    np.testing.assert_allclose(gaussian, [0.3040054], rtol=1e-5)
    np.testing.assert_allclose(psnr(prediction, target, peak=1.0, body=target > 0), [17.265286], rtol=1e-6)


def test_printed_volume(pair):
    scales = jnp.array([1, 0.5, 0.25], jnp.float32).reshape(3, 1, 1)
    prediction, target = pair[0] * scales, pair[1] * scales
    volume = score("fastmri", prediction, target)
    assert all(value.shape == () for value in volume.values())
    np.testing.assert_allclose(volume["psnr"], 22.356546, rtol=1e-6)
    np.testing.assert_allclose(volume["ssim"], 0.4452302, rtol=1e-5)
    np.testing.assert_allclose(volume["nmse"], 0.2170079, rtol=1e-6)
    np.testing.assert_allclose(volume["hfen"], 0.7750489, rtol=1e-6)
    slices = score("picture", prediction, target, full_range=scales.ravel())
    np.testing.assert_allclose(jnp.mean(slices["psnr"]), 18.766327, rtol=1e-6)
    np.testing.assert_allclose(jnp.mean(slices["ssim"]), 0.2967225, rtol=1e-5)


def test_volume_norms_are_over_the_volume(small):
    """Slices of unlike energy: the mean of slices' ratios would differ."""
    prediction, target = small
    weights = jnp.array([3.0, 1.0, 0.1]).reshape(3, 1, 1)
    target = target * weights
    volume = score("fastmri", prediction, target)
    error = np.asarray(prediction - target)
    np.testing.assert_allclose(volume["nmse"], (error**2).sum() / (np.asarray(target) ** 2).sum(), rtol=1e-5)
    np.testing.assert_allclose(volume["psnr"], 10 * np.log10(float(target.max()) ** 2 / (error**2).mean()), rtol=1e-5)
    filtered = [log_filter(np.asarray(x)) for x in (prediction - target, target)]
    np.testing.assert_allclose(volume["hfen"], np.linalg.norm(filtered[0]) / np.linalg.norm(filtered[1]), rtol=1e-4)


def log_filter(images):
    """The 15 x 15 Laplacian of Gaussian of sigma 1.5, written out, through scipy."""
    y, x = np.mgrid[-7:8, -7:8]
    gaussian = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    kernel = gaussian / gaussian.sum() * (x**2 + y**2 - 2 * 1.5**2) / 1.5**4
    kernel -= kernel.mean()
    return np.stack([correlate(image.astype(float), kernel, mode="nearest") for image in images])


@pytest.mark.parity
def test_hfen_equals_scipy(small):
    prediction, target = small
    got, want = log_filter(np.asarray(prediction - target)), log_filter(np.asarray(target))
    want = np.linalg.norm(got, axis=(1, 2)) / np.linalg.norm(want, axis=(1, 2))
    np.testing.assert_allclose(hfen(prediction, target), want, rtol=1e-5)


@pytest.mark.parity
def test_ssim_equals_scikit_image(small):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    prediction, target = (np.asarray(x) for x in small)
    for window, options in (
        ("uniform7", {}),
        ("gaussian11", {"gaussian_weights": True, "use_sample_covariance": False}),
    ):
        got = ssim(prediction, target, data_range=2.0, window=window)
        want = [structural_similarity(t, p, data_range=2.0, **options) for p, t in zip(prediction, target, strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_known_values():
    target = jnp.ones((2, 16, 16))
    np.testing.assert_allclose(psnr(target + 0.1, target, peak=1.0), [20, 20], rtol=1e-5)
    np.testing.assert_allclose(psnr(target + 0.1, target, peak=jnp.array([1.0, 10.0])), [20, 40], rtol=1e-5)
    np.testing.assert_allclose(nmse(target * 1.5, target), [0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(hfen(3 * (x := jnp.eye(16)[None]), x), [2], rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_contract(name, small):
    """One value an example, any batch axes, numpy too, jit, finite gradients, nothing clipped."""
    prediction, target = small
    metric = jax.jit(METRICS[name])
    got = METRICS[name](np.asarray(prediction), np.asarray(target), 1.0, None)
    assert got.shape == (3,)
    np.testing.assert_allclose(metric(prediction, target, 1.0, None), got, rtol=1e-5)
    np.testing.assert_allclose(metric(prediction[1], target[1], 1.0, None), got[1], rtol=1e-5)
    np.testing.assert_allclose(metric(prediction[None], target[None], 1.0, None), got[None], rtol=1e-5)
    perfect = metric(target, target, 1.0, None)
    np.testing.assert_allclose(perfect, {"psnr": np.inf, "ssim": 1.0}.get(name, 0.0), rtol=1e-5)
    better = metric((prediction + target) / 2, target, 1.0, None)
    assert np.all(better > got if name in ("psnr", "ssim") else better < got)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(metric(p, target, 1.0, None))))
    assert np.isfinite(gradient(prediction)).all() and np.abs(gradient(prediction)).max() > 0
    assert np.isfinite(gradient(target)).all()
    if name != "hfen":  # a constant has no high frequencies
        above, clipped = target + 0.5, jnp.minimum(target + 0.5, 1)
        assert np.all(metric(above, target, 1.0, None) != metric(clipped, target, 1.0, None))
    np.testing.assert_allclose(metric(prediction, target, 1.0, jnp.ones(target.shape, bool)), got, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_only_the_body_counts(name, small):
    prediction, target = small
    body = np.zeros(target.shape, bool)
    body[:, 8:12, 9:15] = True
    far = prediction.at[:, 0, 0].add(5.0)  # beyond the reach of every window around the body
    metric = jax.jit(METRICS[name])
    inside = metric(prediction, target, 1.0, body)
    np.testing.assert_allclose(metric(far, target, 1.0, body), inside, rtol=1e-6)
    assert np.all(metric(prediction, target, 1.0, None) != inside)
    near = prediction.at[:, 9, 10].add(5.0)
    assert np.all(metric(near, target, 1.0, body) != inside)


def test_body_values_by_hand(small):
    prediction, target = small
    body = jnp.asarray(np.random.default_rng(1).uniform(size=target.shape) < 0.3)
    error = np.asarray(prediction - target)
    for b in range(3):
        inside = np.asarray(body[b])
        want = 10 * np.log10(1 / (error[b][inside] ** 2).mean())
        np.testing.assert_allclose(psnr(prediction, target, peak=1.0, body=body)[b], want, rtol=1e-5)
        want = (error[b][inside] ** 2).sum() / (np.asarray(target)[b][inside] ** 2).sum()
        np.testing.assert_allclose(nmse(prediction, target, body=body)[b], want, rtol=1e-5)


def test_picture_units(small):
    """Images that were divided by a scale score as before when white is told."""
    prediction, target = small
    scale = jnp.array([2.0, 0.7, 5.0])
    want = score("picture", prediction, target)
    got = score("picture", prediction / scale[:, None, None], target / scale[:, None, None], full_range=1 / scale)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5)
    assert np.all(score("picture", prediction, target, full_range=2.0)["psnr"] > want["psnr"] + 6)


def test_refusals(small):
    prediction, target = small
    with pytest.raises(ValueError, match="at least the filter's"):
        ssim(prediction[:, :6], target[:, :6], data_range=1.0)
    with pytest.raises(ValueError, match="unknown metric profile 'mri', want one of picture, fastmri"):
        score("mri", prediction, target)
    assert set(PROFILES) == {"picture", "fastmri"}
