"""Metrics: printed numbers of a fixed pair, other toolboxes, and one value an example."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from atlf_jax import metrics
from atlf_jax.metrics import METRICS, PROFILES, hfen, is_black, nmse, psnr, score, ssim

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
    assert np.all(better < got if METRICS[name].lower_is_better else better > got)
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


IMAGE = np.random.default_rng(0).random((2, 32, 32))
NEAR = IMAGE + 0.01 * np.random.default_rng(1).standard_normal(IMAGE.shape)


def with_one(value):
    image = NEAR.copy()
    image[1, 3, 3] = value
    return image


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "prediction", [NEAR * np.nan, with_one(np.nan), with_one(np.inf)], ids=["nan", "one nan", "one inf"]
)
def test_what_is_no_number_has_no_score(profile, prediction):
    for name, values in score(profile, prediction.astype(np.float32), IMAGE.astype(np.float32)).items():
        assert np.isnan(np.ravel(values)[-1]), name
        assert profile == "fastmri" or np.isfinite(values[0]) != np.isnan(prediction[0, 0, 0]), name


FLAT = np.full((32, 32), 0.1)
EMPTY = np.zeros((32, 32), bool)


@pytest.mark.parametrize(
    "call",
    [
        lambda p, t: psnr(p, t, peak=1.0, body=EMPTY),
        lambda p, t: ssim(p, t, data_range=1.0, body=EMPTY),
        lambda p, t: nmse(p, t, body=EMPTY),
        lambda p, t: hfen(p, t, body=EMPTY),
        lambda p, t: psnr(p, p, peak=1.0, body=EMPTY),  # equal, and nothing counts
        lambda p, t: hfen(p, p, body=EMPTY),
        lambda p, t: psnr(p, t, peak=0.0),
        lambda p, t: psnr(p, p, peak=np.nan),
        lambda p, t: ssim(p, t, data_range=0),
        lambda p, t: nmse(p, 0 * t),
        lambda p, t: nmse(0 * p, 0 * t),
        lambda p, t: hfen(p, FLAT + 0 * t),
        lambda p, t: hfen(FLAT + 0 * t, FLAT + 0 * t),
        lambda p, t: hfen(p, FLAT + 1e3 * (0 * t + 1)),
        lambda p, t: nmse(p, with_one(np.inf)[1] + 0 * t),
    ],
)
def test_what_is_not_defined_is_nan(call):
    """In float64, and traced in float32, where rounding leaves a constant some detail."""
    assert np.isnan(call(NEAR[0], IMAGE[0]))
    assert np.isnan(jax.jit(call)(NEAR[0].astype(np.float32), IMAGE[0].astype(np.float32)))


def test_detail_below_rounding_is_none():
    """A body in a flat part of an image that has detail elsewhere."""
    target, body = IMAGE[0].astype(np.float32), EMPTY.copy()
    target[:, :24], body[12:20, 8:14] = 0.7, True
    assert np.isnan(hfen(NEAR[0], target, body=body)) and np.isfinite(hfen(NEAR[0], target))
    assert np.isnan(jax.jit(hfen)(jnp.asarray(NEAR[0], jnp.float32), target, body=body))


def test_an_error_too_small_for_its_square_is_not_perfect():
    tiny = jax.jit(lambda p, t: psnr(p, t, peak=1e-30))(
        np.full((8, 8), 1e-30, np.float32), np.zeros((8, 8), np.float32)
    )
    assert np.isnan(tiny)
    assert psnr(np.full((8, 8), 1e-30, np.float32), np.zeros((8, 8)), peak=1e-30) == pytest.approx(0, abs=1e-5)


def plain_psnr(prediction, target, peak):
    error = np.asarray(prediction, np.float64) - np.asarray(target, np.float64)
    return 10 * np.log10(float(peak) ** 2 / np.mean(error**2))


@pytest.mark.parametrize(
    ("prediction", "target", "peak"),
    [
        ((2000 * NEAR[0]).astype(np.float16), (2000 * IMAGE[0]).astype(np.float16), 2000),
        (np.full((32, 32), 0.1001, np.float16), np.full((32, 32), 0.1, np.float16), 1.0),
        (NEAR[0].astype(">f4"), IMAGE[0].astype(">f4"), 1.0),
        (NEAR[0].astype(">f8")[::-1, ::2], IMAGE[0].astype(">f8")[::-1, ::2], np.float16(1)),
        ((255 * NEAR[0].clip(0, 1)).astype(np.uint8), (255 * IMAGE[0]).astype(np.uint8), np.uint8(255)),
        ((4095 * NEAR[0]).astype(np.int16), (4095 * IMAGE[0]).astype(np.float32), np.int16(4095)),
        (NEAR[0].astype(np.float32), IMAGE[0].astype(np.float32), IMAGE[0].astype(np.float32).max()),
        (jnp.asarray(NEAR[0], jnp.bfloat16), IMAGE[0], jnp.float32(1)),
        (NEAR[0].tolist(), IMAGE[0], np.ones((1, 1))),
        (1e25 * NEAR[0].astype(np.float32), 1e25 * IMAGE[0].astype(np.float32), 1e25),
    ],
    ids=[
        "float16",
        "small float16",
        "big endian",
        "strides",
        "8 bit",
        "int16",
        "numpy peak",
        "bfloat16",
        "list",
        "large",
    ],
)
def test_what_a_person_holds_is_scored_right(prediction, target, peak):
    assert psnr(prediction, target, peak=peak) == pytest.approx(
        plain_psnr(prediction, target, np.ravel(peak)[0]), abs=1e-4
    )
    error = np.asarray(prediction, np.float64) - np.asarray(target, np.float64)
    want = (error**2).sum() / (np.asarray(target, np.float64) ** 2).sum()
    assert nmse(
        prediction, target, body=np.ones((32, 32), np.uint8)[: error.shape[0], : error.shape[1]]
    ) == pytest.approx(want, rel=1e-6)


@pytest.mark.parity
def test_ssim_keeps_the_digits_of_small_changes():
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    rng = np.random.default_rng(0)
    target = (1 + 1e-3 * rng.standard_normal((48, 48))).astype(np.float32)
    prediction = (target + 3e-4 * rng.standard_normal((48, 48))).astype(np.float32)
    want = structural_similarity(target.astype(float), prediction.astype(float), data_range=1e-3)
    assert ssim(prediction, target, data_range=np.float32(1e-3)) == pytest.approx(want, rel=1e-6)
    traced = jax.jit(lambda p, t: ssim(p, t, data_range=1e-3))(prediction, target)  # .9721 for .9795 and worse before
    assert traced == pytest.approx(want, rel=1e-4)
    scaled = ssim((2000 * NEAR[0]).astype(np.float16), (2000 * IMAGE[0]).astype(np.float16), data_range=2000)
    assert scaled == pytest.approx(structural_similarity(IMAGE[0], NEAR[0], data_range=1), abs=1e-4)


SQUARE = np.ones((8, 8))
SLIPS = {
    "complex": (lambda: psnr(SQUARE + 0j, SQUARE, peak=1), "prediction is complex128.* give the magnitude"),
    "a mask for an image": (lambda: nmse(SQUARE > 0, SQUARE), "prediction holds only True and False"),
    "text": (lambda: psnr("a.png", SQUARE, peak=1), "prediction is of type str"),
    "nothing": (lambda: hfen(SQUARE, None), "target is of type NoneType"),
    "ragged": (lambda: psnr([[1, 2], [3]], SQUARE, peak=1), "prediction is of type list, which is no array"),
    "a masked array": (lambda: nmse(np.ma.masked_array(SQUARE, SQUARE > 2), SQUARE), "masked array.* body="),
    "a random key": (lambda: nmse(jax.random.key(0), SQUARE), "prediction is an array of key"),
    "other shapes": (lambda: ssim(SQUARE, np.ones((9, 9)), data_range=1), r"\(8, 8\) and target \(9, 9\); want two"),
    "a line": (lambda: nmse(np.ones(5), np.ones(5)), r"have shape \(5,\); want pixels along \[h, w\]"),
    "no pixel": (lambda: nmse(np.ones((0, 8)), np.ones((0, 8))), "want pixels"),
    "below the window": (lambda: ssim(np.ones((5, 5)), np.ones((5, 5)), data_range=1), "at least the filter's"),
    "another window": (lambda: ssim(SQUARE, SQUARE, data_range=1, window="x"), "want one of uniform7, gaussian11"),
    "peaks for others": (
        lambda: psnr([SQUARE] * 2, [SQUARE] * 2, peak=[1, 2, 3]),
        r"peak has shape \(3,\); want one number",
    ),
    "a peak in words": (lambda: psnr(SQUARE, SQUARE, peak="1"), "peak is of type str"),
    "a complex range": (lambda: ssim(SQUARE, SQUARE, data_range=1j), "data_range is complex128"),
    "weights for a body": (lambda: psnr(SQUARE, SQUARE, peak=1, body=SQUARE / 2), "other values than 0 and 1"),
    "another body": (lambda: nmse(SQUARE, SQUARE, body=np.ones((3, 3), bool)), r"body has shape \(3, 3\)"),
    "one slice": (lambda: score("picture", SQUARE, SQUARE), r"one slice give image\[None\]"),
    "one slice of a volume": (lambda: score("fastmri", SQUARE, SQUARE), r"one slice give image\[None\]"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_answered_in_one_sentence(slip):
    call, words = SLIPS[slip]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert len(str(caught.value)) <= 250 and "\n" not in str(caught.value)


def test_one_body_serves_all_slices():
    body = EMPTY.copy()
    body[4:20, 4:20] = True
    np.testing.assert_array_equal(nmse(NEAR, IMAGE, body=body), nmse(NEAR, IMAGE, body=np.stack([body, body])))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_row_is_all_that_a_new_metric_needs(profile, monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "mae", lambda p, t, _peak, _body: jnp.mean(jnp.abs(p - t), axis=(-2, -1)))
    got = score(profile, NEAR, IMAGE)
    assert list(got) == ["psnr", "ssim", "nmse", "hfen", "mae"]
    assert np.mean(got["mae"]) == pytest.approx(np.abs(NEAR - IMAGE).mean())


def test_black_images_are_known():
    np.testing.assert_array_equal(is_black(np.stack([0 * IMAGE[0], IMAGE[0]]).astype(np.complex64)), [True, False])
    assert is_black(np.zeros((4, 4))) and bool(is_black(jnp.zeros((4, 4))))
