import numpy as np
import pytest
from scipy import ndimage

from atlf_jax.data import AcquisitionConfig, AugmentConfig, Example, augment, undersample, window_ct
from atlf_jax.data.transforms import CT_WINDOWS, fft2c_numpy, ifft2c_numpy, move_ct, simulate_acquisition, smooth_phase
from atlf_jax.masks import MaskConfig, make_mask

OFF = AugmentConfig(flip=False, rotate90=False)
# Windows and transforms are float32: 1e-6 of the maximum is a few times their measured error of 2e-7.
F32 = 1e-6


def example(shape=(24, 24), seed=0):
    """A pair whose MR equals its CT, so that whatever moves one must move the other."""
    ct = np.random.default_rng(seed).random(shape, np.float32)
    return Example("a", "s", ct, ct.astype(np.complex64))


def complex_example(shape=(24, 26), seed=1):
    rng = np.random.default_rng(seed)
    target = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    return Example("a", "s", rng.random(shape, np.float32), target)


def pixels(*values):
    image = np.zeros((16, 16))
    image[0, : len(values)] = values
    return image


@pytest.mark.parametrize("window", CT_WINDOWS)
def test_windows(window):
    low, high = CT_WINDOWS[window]
    scaled = window_ct(pixels(low - 100, low, (low + high) / 2, high, high + 100), window)
    np.testing.assert_allclose(scaled[0, :5], [0, 0, 0.5, 1, 1])
    assert scaled.dtype == np.float32


def test_window_table():
    assert CT_WINDOWS == {"brain": (0, 80), "soft_tissue": (-160, 240), "bone": (-500, 1300), "wide": (-1000, 2000)}


def test_fft_known_answer():
    image = np.arange(12).reshape(3, 4).astype(np.complex64)
    corner, edge = 1.73205j, 19.05256
    expected = [[0, 0, 8j, 0], [-1.73205, 1.73205 + corner, edge, 1.73205 - corner], [0, 0, -8j, 0]]
    np.testing.assert_allclose(fft2c_numpy(image), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (15, 16), (17, 19)])
def test_fft_is_centred_orthonormal_and_inverted(shape):
    x = complex_example(shape).target
    k = fft2c_numpy(x)
    assert k.dtype == np.complex64
    np.testing.assert_allclose(np.linalg.norm(k), np.linalg.norm(x), rtol=F32)
    np.testing.assert_allclose(ifft2c_numpy(k), x, atol=10 * F32)
    constant = fft2c_numpy(np.ones(shape, np.complex64))
    assert np.unravel_index(np.abs(constant).argmax(), shape) == (shape[0] // 2, shape[1] // 2)


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(),
        AugmentConfig(flip=False, rotate90=False, rotation=15.0),
        AugmentConfig(flip=False, rotate90=False, scale=0.2),
        AugmentConfig(flip=False, rotate90=False, shift=3.0),
        AugmentConfig(flip=False, rotate90=False, crop=(16, 16)),
        AugmentConfig(rotation=10.0, scale=0.1, shift=2.0, crop=(16, 16)),
    ],
)
def test_ct_and_mr_move_together(config):
    moved = 0
    for seed in range(6):
        out = augment(example(), config, np.random.default_rng(seed))
        np.testing.assert_allclose(out.target, out.ct, atol=F32)
        assert out.ct.dtype == np.float32
        assert out.target.dtype == np.complex64
        moved += out.ct.shape != (24, 24) or not np.allclose(out.ct, example().ct)
    assert moved >= 4  # flips and quarter turns leave one picture in eight as it was


def test_nothing_asked_nothing_changed():
    out = augment(complex_example(), OFF, np.random.default_rng(0))
    np.testing.assert_array_equal(out.ct, complex_example().ct)
    np.testing.assert_array_equal(out.target, complex_example().target)


def test_flips_and_quarter_turns_reach_all_eight_positions():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(100):
        seen.add(augment(example(), AugmentConfig(), rng).ct.tobytes())
    assert len(seen) == 8


def test_an_oblong_image_keeps_its_shape():
    for seed in range(8):
        assert augment(complex_example(), AugmentConfig(), np.random.default_rng(seed)).ct.shape == (24, 26)


def test_complex_images_are_warped_in_both_parts():
    config = AugmentConfig(flip=False, rotate90=False, rotation=20.0)
    pair = complex_example()
    whole = augment(pair, config, np.random.default_rng(3)).target
    real = augment(pair._replace(target=pair.target.real + 0j), config, np.random.default_rng(3)).target
    turned = augment(pair._replace(target=pair.target.imag + 0j), config, np.random.default_rng(3)).target
    np.testing.assert_allclose(whole, real + 1j * turned, atol=F32)


def blob(row, column, sigma=2.0, shape=(48, 48)):
    y, x = np.indices(shape)
    ct = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)).astype(np.float32)
    return Example("a", "s", ct, ct.astype(np.complex64))


def centroid(image):
    y, x = np.indices(image.shape)
    return np.array([(image * y).sum(), (image * x).sum()]) / image.sum()


def moved_centroids(config, pair, count=40):
    rng = np.random.default_rng(0)
    return np.stack([centroid(augment(pair, config, rng).ct) for _ in range(count)])


def test_shift_stays_within_its_range_and_uses_it():
    moved = moved_centroids(AugmentConfig(flip=False, rotate90=False, shift=4.0), blob(23.5, 23.5)) - 23.5
    assert 3 < np.abs(moved).max() <= 4.01


def test_rotation_is_about_the_centre_and_within_its_range():
    moved = moved_centroids(AugmentConfig(flip=False, rotate90=False, rotation=10.0), blob(23.5, 35.5)) - 23.5
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 12, atol=0.05)  # linear interpolation
    angle = np.rad2deg(np.arctan2(moved[:, 0], moved[:, 1]))
    assert 8 < np.abs(angle).max() <= 10.05
    assert angle.min() < -5 < 5 < angle.max()


def test_zoom_is_about_the_centre_and_within_its_range():
    moved = moved_centroids(AugmentConfig(flip=False, rotate90=False, scale=0.25), blob(23.5, 35.5)) - 23.5
    np.testing.assert_allclose(moved[:, 0], 0, atol=0.05)
    assert 12 / 1.25 - 0.1 <= moved[:, 1].min() < 10.5
    assert 13.7 < moved[:, 1].max() <= 12 * 1.25 + 0.1


def test_a_crop_is_a_window_of_the_picture():
    pair, corners = example(), set()
    for seed in range(60):
        out = augment(pair, AugmentConfig(flip=False, rotate90=False, crop=(20, 20)), np.random.default_rng(seed))
        (corner,) = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(pair.ct[row : row + 20, column : column + 20], out.ct)
        ]
        corners.add(corner)
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(5))


def test_crop_and_warp_see_the_same_window_when_nothing_moves():
    crop = AugmentConfig(flip=False, rotate90=False, crop=(20, 20))
    still = AugmentConfig(flip=False, rotate90=False, crop=(20, 20), shift=1e-6)  # takes the interpolating path
    for seed in range(5):
        a, b = (augment(complex_example(), config, np.random.default_rng(seed)) for config in (crop, still))
        np.testing.assert_allclose(a.target[1:-1, 1:-1], b.target[1:-1, 1:-1], atol=1e-5)  # the shift itself


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="'a' is 24x24; augment.crop wanted 32x32"):
        augment(example(), AugmentConfig(crop=(32, 32)), np.random.default_rng(0))


def test_gamma_changes_contrast_and_keeps_range_and_phase():
    pair = complex_example()
    out = augment(pair, AugmentConfig(flip=False, rotate90=False, gamma=0.5), np.random.default_rng(2))
    assert not np.allclose(out.ct, pair.ct, atol=0.01)
    assert out.ct.min() >= 0
    assert out.ct.max() <= 1
    magnitude = np.abs(pair.target)
    np.testing.assert_allclose(np.abs(out.target).max(), magnitude.max(), rtol=1e-5)
    np.testing.assert_allclose(np.angle(out.target), np.angle(pair.target), atol=1e-5)
    darker = magnitude < 0.8 * magnitude.max()
    exponents = np.log((np.abs(out.target) / magnitude.max())[darker]) / np.log((magnitude / magnitude.max())[darker])
    assert np.ptp(exponents) < 1e-4  # one power for all pixels
    assert abs(exponents.mean() - 1) > 0.01
    zero = augment(pair._replace(target=pair.target * 0), AugmentConfig(gamma=0.5), np.random.default_rng(2))
    assert np.isfinite(zero.target).all()


def test_ct_dropout_has_its_probability():
    config = AugmentConfig(flip=False, rotate90=False, ct_dropout=0.3)
    outputs = [augment(example(), config, np.random.default_rng(seed)) for seed in range(300)]
    dropped = [not out.ct.any() for out in outputs]
    assert 0.22 < np.mean(dropped) < 0.38  # three standard deviations of a share of 300
    assert all(out.target.any() for out in outputs)


def test_ct_gamma_changes_the_ct_alone():
    rng = np.random.default_rng(0)
    ct, target = rng.random((16, 16)).astype(np.float32), rng.random((16, 16)).astype(np.complex64)
    plain = AugmentConfig(flip=False, rotate90=False, ct_gamma=1.0)
    drawn = [augment(Example("a", "s", ct, target), plain, np.random.default_rng(seed)) for seed in range(50)]
    exponents = [np.log(out.ct[3, 4]) / np.log(ct[3, 4]) for out in drawn]
    assert 0.5 <= min(exponents) < 0.6 and 1.7 < max(exponents) <= 2.0001
    assert all((out.target == target).all() for out in drawn)


def disc():
    y, x = np.mgrid[:64, :64]
    return np.exp(-((y - 31.5) ** 2 + (x - 31.5) ** 2) / 20).astype(np.float32)


@pytest.mark.parametrize("amount", [1.0, 4.0, 8.0])
def test_a_shift_has_its_length(amount):
    moved = move_ct(disc(), np.random.default_rng(0), shift=amount)
    step = np.subtract(ndimage.center_of_mass(moved), ndimage.center_of_mass(disc()))
    assert np.hypot(*step) == pytest.approx(amount, abs=0.01)  # measured: 1e-3


def test_a_rotation_has_its_angle_and_leaves_the_centre():
    y, x = np.mgrid[:64, :64] - 31.5
    bar = ((np.abs(y) < 3) & (np.abs(x) < 20)).astype(np.float32)
    moved = move_ct(bar, np.random.default_rng(0), rotation=10.0)
    angle = 0.5 * np.arctan2(2 * (moved * x * y).sum(), (moved * (x**2 - y**2)).sum())
    assert abs(np.rad2deg(angle)) == pytest.approx(10, abs=0.1)  # measured: .02
    np.testing.assert_allclose(ndimage.center_of_mass(moved), 31.5, atol=0.01)


def test_nothing_moves_by_nothing_and_draws_do_not_depend_on_the_amount():
    np.testing.assert_array_equal(move_ct(disc(), np.random.default_rng(0)), disc())
    small, large = (move_ct(disc(), np.random.default_rng(1), shift=amount) for amount in (2.0, 4.0))
    a, b = (np.subtract(ndimage.center_of_mass(image), 31.5) for image in (small, large))
    np.testing.assert_allclose(2 * a, b, atol=0.01)


def test_windows_move_together():
    one, two = (
        move_ct(ct, np.random.default_rng(1), shift=3.0, rotation=5.0, elastic=1.0)
        for ct in (disc(), np.stack([disc(), np.zeros_like(disc())]))
    )
    np.testing.assert_array_equal(two[0], one)
    assert not two[1].any()


def test_the_elastic_field_has_its_size():
    ramp = np.broadcast_to(np.linspace(0, 1, 128, dtype=np.float32), (128, 128))
    moved = move_ct(np.ascontiguousarray(ramp), np.random.default_rng(0), elastic=2.0)
    inside = np.s_[16:-16, 16:-16]
    along = (moved - ramp)[inside] * 127  # the displacement in pixels along one of both axes
    assert 0.7 < np.sqrt(np.square(along).mean()) < 2.0  # 2 / sqrt 2 = 1.4 over the whole field


@pytest.mark.parametrize("part", ["shift", "rotation", "elastic"])
def test_a_share_of_the_cts_is_misplaced_and_no_target(part):
    ct = np.random.default_rng(0).random((48, 48)).astype(np.float32)
    pair = Example("a", "s", ct, ct.astype(np.complex64))
    parts = dict.fromkeys(("ct_shift", "ct_rotation", "ct_elastic"), 0.0) | {f"ct_{part}": 4.0}
    config = AugmentConfig(flip=False, rotate90=False, ct_misplaced=0.4, **parts)
    drawn = [augment(pair, config, np.random.default_rng(seed)) for seed in range(200)]
    assert all((out.target == pair.target).all() for out in drawn)
    assert 0.3 < np.mean([(out.ct != pair.ct).any() for out in drawn]) < 0.5  # three standard deviations of a share


def test_draws_for_the_ct_change_nothing_else_that_is_drawn():
    pair, both = example(), {"shift": 3.0, "rotation": 5.0, "crop": (8, 0)}
    plain, changed = AugmentConfig(**both), AugmentConfig(**both, ct_misplaced=1.0, ct_gamma=1.0, ct_dropout=0.5)
    for seed in range(5):
        first, second = (np.random.Generator(np.random.Philox(key=seed)) for _ in range(2))  # as the loader has them
        one, two = augment(pair, plain, first), augment(pair, changed, second)
        np.testing.assert_array_equal(one.target, two.target)
        assert (one.ct != two.ct).any() and first.random() == second.random()


def test_a_misplaced_ct_lies_up_to_as_far_as_is_said_off_what_moves_both():
    config = AugmentConfig(
        flip=False, rotate90=False, shift=6.0, ct_misplaced=1.0, ct_shift=2.0, ct_rotation=0.0, ct_elastic=0.0
    )
    drawn = [augment(blob(23.5, 23.5), config, np.random.default_rng(seed)) for seed in range(40)]
    apart = [np.linalg.norm(centroid(out.ct) - centroid(out.target.real)) for out in drawn]
    assert min(apart) < 0.3 and 1.7 < max(apart) <= 2.01


@pytest.mark.parametrize("field", ["rotation", "scale", "shift", "gamma", "ct_gamma", "ct_shift", "ct_elastic"])
def test_negative_augmentation_is_refused(field):
    with pytest.raises(ValueError, match=f"augment.{field} is -1"):
        AugmentConfig(**{field: -1.0})
    for share in ("ct_dropout", "ct_misplaced"):
        with pytest.raises(ValueError, match=f"augment.{share} is 1.5"):
            AugmentConfig(**{share: 1.5})


def test_phase_is_smooth_and_reaches_its_maximum():
    phase = smooth_phase((40, 50), np.random.default_rng(0), maximum=np.pi / 4)
    assert np.abs(phase).max() == pytest.approx(np.pi / 4)
    spectrum = np.abs(fft2c_numpy(np.exp(1j * phase))) ** 2
    middle = spectrum[20 - 6 : 20 + 7, 25 - 6 : 25 + 7]
    assert middle.sum() > 0.98 * spectrum.sum()


def test_simulated_phase_breaks_hermitian_symmetry_and_keeps_magnitude():
    pair = example()
    out = simulate_acquisition(pair, AcquisitionConfig(phase=np.pi / 4), np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(out.target), np.abs(pair.target), rtol=1e-5)
    assert np.abs(out.target.imag).max() > 0.1
    assert simulate_acquisition(pair, AcquisitionConfig(), np.random.default_rng(0)) is pair
    with pytest.raises(ValueError, match="acquisition.noise is -0.1"):
        AcquisitionConfig(noise=-0.1)


MASKS = [MaskConfig("random"), MaskConfig("variable_density_2d", center_radius=0.1)]


@pytest.mark.parametrize("config", MASKS, ids=lambda config: config.kind)
@pytest.mark.parametrize("shape", [(24, 24), (25, 31)])
def test_undersampling_measures_the_picture_and_scales_all_by_one_number(config, shape):
    pair = complex_example(shape)
    mask = make_mask(config, shape, seed=3).samples
    record = undersample(pair, mask, np.random.default_rng(0), record=7)
    full = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(pair.target.astype(np.complex128)), norm="ortho"))
    zero_filled = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(full * mask), norm="ortho"))
    scale = np.abs(zero_filled).max()
    assert record.scale == pytest.approx(scale, rel=1e-5)
    np.testing.assert_allclose(record.measurement.kspace, full * mask / scale, atol=5 * F32)
    np.testing.assert_allclose(record.target, pair.target / scale, atol=5 * F32)
    assert np.abs(ifft2c_numpy(record.measurement.kspace)).max() == pytest.approx(1, rel=1e-5)
    assert not record.measurement.kspace[np.broadcast_to(~mask, shape)].any()
    np.testing.assert_array_equal(record.measurement.mask, mask)
    np.testing.assert_array_equal(record.measurement.ct, pair.ct)
    assert record.record == 7
    assert record.measurement.coil_maps is None
    dtypes = [leaf.dtype for leaf in (record.measurement.kspace, record.target, record.scale, record.record)]
    assert dtypes == [np.complex64, np.complex64, np.float32, np.int32]


@pytest.mark.parametrize("config", MASKS, ids=lambda config: config.kind)
def test_nothing_but_measured_samples_reaches_the_measurement(config):
    pair = complex_example((24, 24))
    mask = make_mask(config, (24, 24), seed=3).samples
    hidden = ifft2c_numpy(np.where(mask, 0, 10 * fft2c_numpy(complex_example((24, 24), seed=9).target)))
    a = undersample(pair, mask, np.random.default_rng(0))
    b = undersample(pair._replace(target=pair.target + hidden), mask, np.random.default_rng(0))
    assert np.abs(a.target - b.target).max() > 1
    np.testing.assert_allclose(a.measurement.kspace, b.measurement.kspace, atol=2e-5)  # rounding of the large target
    assert a.scale == pytest.approx(b.scale, rel=1e-5)


def test_noise_is_complex_white_and_relative_to_the_maximum():
    pair = complex_example((64, 64))
    mask = np.ones((1, 64), bool)
    clean, noisy = (undersample(pair, mask, np.random.default_rng(0), noise=noise) for noise in (0.0, 0.1))
    noise = noisy.measurement.kspace * noisy.scale - clean.measurement.kspace * clean.scale
    sigma = 0.1 * np.abs(pair.target).max()
    assert np.sqrt(np.mean(np.abs(noise) ** 2)) == pytest.approx(sigma, rel=0.05)
    assert np.std(noise.real) == pytest.approx(np.std(noise.imag), rel=0.05)
    assert abs(np.mean(noise)) < 0.06 * sigma
    np.testing.assert_allclose(noisy.target * noisy.scale, pair.target, rtol=1e-5)  # the truth stays clean


def test_an_empty_picture_has_scale_one():
    pair = example()._replace(target=np.zeros((24, 24), np.complex64))
    record = undersample(pair, np.ones((1, 24), bool), np.random.default_rng(0))
    assert record.scale == 1
    assert not record.measurement.kspace.any()


def test_several_windows_are_several_images():
    hounsfield = np.linspace(-1000, 2000, 24, dtype=np.float32).reshape(2, 3, 4)
    both = window_ct(hounsfield, ("bone", "brain"))
    assert both.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(both[:, 0], window_ct(hounsfield, "bone"))
    np.testing.assert_array_equal(both[:, 1], window_ct(hounsfield, "brain"))
    np.testing.assert_array_equal(window_ct(hounsfield, ("bone",)), window_ct(hounsfield, "bone"))
    with pytest.raises(ValueError, match="no CT window is named; wanted one or more of brain,"):
        window_ct(hounsfield, ())


def test_windows_are_augmented_together():
    config = AugmentConfig(crop=(16, 0), rotation=10.0, scale=0.1, shift=2.0, gamma=0.2, ct_gamma=0.5, ct_dropout=0.2)
    pair = example()
    several = pair._replace(ct=np.stack([pair.ct, pair.ct / 2]))
    for seed in range(8):
        one, two = (augment(each, config, np.random.default_rng(seed)) for each in (pair, several))
        np.testing.assert_array_equal(one.ct, two.ct[0])
        np.testing.assert_array_equal(one.target, two.target)
    plain = augment(several, AugmentConfig(), np.random.default_rng(3)).ct
    np.testing.assert_array_equal(plain[0], 2 * plain[1])
