"""Coils from the source to the measurement: simulated maps, phase and noise, measured k-space, maps from the centre."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from atlf_jax.data import AcquisitionConfig, AugmentConfig, Example, augment, train_batches, undersample
from atlf_jax.data.coils import (
    centre_sides,
    compress_coils,
    espirit_maps_numpy,
    kept_espirit_maps,
    low_resolution_maps_numpy,
    noise_covariance_draw,
    noise_draw,
    sharp_phase,
    simulate_maps,
)
from atlf_jax.data.pipeline import evaluation_batches
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy, measure, simulate_acquisition
from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.ops import (
    adjoint,
    compression_matrix,
    forward,
    low_resolution_maps,
    noise_covariance,
    normal,
    whitening_matrix,
)

F32 = 2e-6  # of the maximum; float32 transforms and sums over a dozen coils were within 5e-7
SHAPE = (32, 40)
LINES = make_mask(MaskConfig("random_exact", acceleration=2.0, center_fraction=0.25), SHAPE, seed=0).samples


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(shape=SHAPE, seed=0):
    """A bright ellipse with texture, on the ground of which coil maps can be estimated."""
    y, x = (np.linspace(-1, 1, side) for side in shape)
    inside = (x**2 + y[:, None] ** 2 < 0.8).astype(np.float32)
    target = inside * (0.7 + 0.3 * rng(seed).random(shape))
    return Example("a", "s", inside, target.astype(np.complex64))


def measured_example(coils=5, shape=SHAPE, *, maps=False):
    """Fully sampled k-space of several coils, with noise, and its root of the sum of squares."""
    example = picture(shape)
    known = simulate_maps(shape, coils, rng(1))
    kspace = fft2c_numpy(known * example.target) + 0.01 * noise_draw((coils, *shape), rng(2))
    target = np.linalg.norm(ifft2c_numpy(kspace), axis=0).astype(np.complex64)
    return example._replace(target=target, kspace=kspace.astype(np.complex64), coil_maps=known if maps else None)


@pytest.mark.parametrize("kind", ["birdcage", "surface", "polynomial"])
def test_simulated_maps_are_normalised_smooth_and_new_each_time(kind):
    maps = simulate_maps((64, 64), 6, rng(), kind=kind)
    assert maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=F32)
    energy = np.abs(fft2c_numpy(maps)) ** 2
    low = energy[:, 24:41, 24:41].sum() / energy.sum()
    assert low > 0.97  # measured over 20 draws of each kind: .985 and more
    assert np.abs(maps - simulate_maps((64, 64), 6, rng(1), kind=kind)).max() > 0.1
    np.testing.assert_array_equal(maps, simulate_maps((64, 64), 6, rng(), kind=kind))


def test_sharp_phase_is_thin_lines_up_to_the_maximum():
    phase = sharp_phase((96, 80), rng(), maximum=0.7)
    assert phase.shape == (96, 80) and 0.3 < np.abs(phase).max() <= 0.7
    assert 0.005 < (np.abs(phase) > 0.1).mean() < 0.2
    step = np.abs(np.diff(phase, axis=0)).max()
    assert step > 0.15  # a smooth phase of this size changes by .07 a pixel


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_noise_has_the_covariance_asked_for_and_whitens(correlation):
    covariance = noise_covariance_draw(4, rng(), correlation=correlation)
    assert np.trace(covariance).real == pytest.approx(4)
    noise = noise_draw((4, 200, 200), rng(1), covariance)
    found = noise_covariance(noise)
    np.testing.assert_allclose(found, covariance, atol=0.03)  # 40,000 samples: a deviation of 1 / 200
    white = np.einsum("cd,dhw->chw", whitening_matrix(covariance.astype(np.complex128)), noise)
    np.testing.assert_allclose(noise_covariance(white), np.eye(4), atol=0.03)
    if correlation:
        assert np.abs(covariance - np.eye(4)).max() > 0.2


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_record_is_the_acquisition_of_its_target(noise):
    config = AcquisitionConfig(phase=2.0, sharp_phase=0.5, noise=noise, coils=(3, 5), coil_kind="birdcage")
    example = simulate_acquisition(picture(), config, rng())
    batch = measure(example, LINES, config, rng(1))
    y, mask, _, maps = batch.measurement
    clean = forward(batch.target, mask, maps)
    np.testing.assert_allclose(batch.target * batch.scale, example.target, atol=F32)
    np.testing.assert_allclose(np.abs(adjoint(y, mask, maps)).max(), 1, rtol=1e-5)
    if not noise:
        np.testing.assert_allclose(y, clean, atol=10 * F32)
        return
    coils = len(example.coil_maps)
    found = (y - clean)[:coils][..., mask[0]] * batch.scale / np.abs(example.target).max()
    assert np.sqrt((np.abs(found) ** 2).mean()) == pytest.approx(noise, rel=0.06)  # of about 2,000 samples
    assert not (y - clean)[..., ~mask[0]].any() and not y[coils:].any()


def test_coils_of_zeros_change_nothing_of_the_operator():
    config = AcquisitionConfig(coils=(3, 3))
    example = simulate_acquisition(picture(), config, rng())
    few = measure(example, LINES, config, rng(1))
    many = measure(example, LINES, dataclasses.replace(config, virtual_coils=8), rng(1))
    assert few.measurement.kspace.shape[0] == 3 and many.measurement.kspace.shape[0] == 8
    np.testing.assert_array_equal(few.target, many.target)
    assert few.scale == many.scale
    for (y, mask, _, maps), (y2, _, _, maps2) in [(few.measurement, many.measurement)]:
        np.testing.assert_allclose(adjoint(y2, mask, maps2), adjoint(y, mask, maps), atol=F32)
        np.testing.assert_allclose(normal(few.target, mask, maps2), normal(few.target, mask, maps), atol=F32)


def test_one_coil_is_what_it_was_bit_for_bit():
    config = AcquisitionConfig(phase=0.5, noise=0.02)
    example = simulate_acquisition(picture(), config, rng())
    one, other = rng(1), rng(1)
    got, want = measure(example, LINES, config, one, record=3), undersample(example, LINES, other, noise=0.02, record=3)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert got.measurement.coil_maps is None
    assert one.random() == other.random()  # and so is all that is drawn after it


def test_the_noise_of_records_is_drawn_between_its_bounds():
    config = AcquisitionConfig(noise=0.1, noise_spread=10.0)
    levels = []
    for seed in range(30):
        batch = measure(picture(), np.ones((1, SHAPE[1]), bool), config, rng(seed))
        levels.append(np.std(batch.measurement.kspace * batch.scale - fft2c_numpy(picture().target)))
    assert 0.009 < min(levels) < 0.03 and 0.05 < max(levels) < 0.11


def test_numpy_maps_and_compression_equal_the_operators():
    kspace = measured_example().kspace
    ours, theirs = low_resolution_maps_numpy(kspace, (12, 9)), low_resolution_maps(kspace, calibration=(12, 9))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # 2e-5 in the dark corners, where small values are divided
    ours, theirs = compress_coils(kspace, 3), np.asarray(compression_matrix(kspace, 3))
    np.testing.assert_allclose(ours.conj().T @ ours, theirs.conj().T @ theirs, atol=1e-4)  # up to phases


def test_the_centre_of_masks():
    lines = np.zeros((1, 40), bool)
    lines[:, 17:24] = lines[:, 30] = True  # 20 is the zero frequency
    assert centre_sides(lines, SHAPE, most=(24, 24)) == (24, 7)
    y, x = np.mgrid[-32:32, -32:32]
    disc = np.hypot(y, x) < 9.6
    rows, columns = centre_sides(disc, (64, 64), most=(24, 24))
    assert (rows, columns) == (13, 13)  # the square in the disc: 9.6 * sqrt(2) = 13.6
    with pytest.raises(ValueError, match=r"fewer than 4 samples.* set mask.center_lines"):
        centre_sides(np.arange(40)[None] % 2 == 0, SHAPE, most=(24, 24))


@pytest.mark.parametrize("maps", ["low_resolution", "espirit"])
def test_estimated_maps_come_from_what_was_measured_and_the_target_follows_their_phase(maps):
    config = AcquisitionConfig(phase=2.0, coils=(4, 4), coil_kind="birdcage", maps=maps)
    example = simulate_acquisition(picture(), config, rng())
    batch = measure(example, LINES, config, rng(1))
    y, mask, _, estimated = batch.measurement
    np.testing.assert_allclose(np.abs(batch.target) * batch.scale, np.abs(example.target), atol=F32)
    inside = example.ct > 0
    overlap = np.abs((estimated.conj() * example.coil_maps).sum(0))[inside]
    assert np.median(overlap) > 0.97  # measured .99 for both
    errors = [
        np.linalg.norm(forward(image, mask, estimated) - y) for image in (batch.target, example.target / batch.scale)
    ]
    assert errors[0] < 0.5 * errors[1], errors  # with the phase of its maps, the target explains the samples
    unseen = measure(example, LINES, config, rng(1)).measurement.coil_maps
    full = low_resolution_maps_numpy(fft2c_numpy(example.coil_maps * example.target), (24, 10))
    if maps == "low_resolution":
        np.testing.assert_allclose(unseen, full, atol=1e-5)  # the centre is the same, whatever lies beside it


def test_maps_of_a_crop_have_the_resolution_of_the_whole():
    config = AcquisitionConfig(maps="low_resolution")
    example = measured_example(shape=(64, 40))
    cropped = augment(example, AugmentConfig(flip=False, rotate90=False, crop=(32, 0)), rng())
    whole = measure(example, LINES, config, rng()).measurement.coil_maps
    maps = measure(cropped, LINES, config, rng(), whole=(64, 40)).measurement.coil_maps
    places = [np.abs(cropped.target - example.target[top : top + 32]).max() for top in range(33)]
    top = int(np.argmin(places))
    middle = slice(8, 24)  # a window of half as many samples over half the field; its edges wrap around
    overlap = np.abs((maps.conj() * whole[:, top : top + 32]).sum(0))[middle, 10:30]
    assert np.median(overlap) > 0.98


def test_measured_kspace_is_undersampled_as_it_is():
    example = measured_example()
    batch = measure(example, LINES, AcquisitionConfig(maps="low_resolution", phase=1.0), rng())
    np.testing.assert_allclose(batch.measurement.kspace * batch.scale, np.where(LINES, example.kspace, 0), atol=F32)
    np.testing.assert_allclose(np.abs(batch.target) * batch.scale, np.abs(example.target), atol=F32)
    combined = (batch.measurement.coil_maps.conj() * ifft2c_numpy(example.kspace)).sum(0)
    np.testing.assert_allclose(np.angle(batch.target * combined.conj())[example.ct > 0], 0, atol=1e-4)
    with pytest.raises(ValueError, match="record 'a' has coils and no maps: set data.acquisition.maps"):
        measure(example, LINES, AcquisitionConfig(), rng())
    with pytest.raises(ValueError, match="record 'a' has coils, and undersample simulates one"):
        undersample(example, LINES, rng())
    given = measure(measured_example(maps=True), LINES, AcquisitionConfig(), rng()).measurement.coil_maps
    np.testing.assert_array_equal(given, measured_example(maps=True).coil_maps)


def test_lines_that_were_not_acquired_stay_out():
    acquired = np.ones((1, 40), bool)
    acquired[:, 34:] = False
    example = measured_example()._replace(acquired=acquired)
    batch = measure(example, np.ones((1, 40), bool), AcquisitionConfig(maps="low_resolution"), rng())
    np.testing.assert_array_equal(batch.measurement.mask, acquired)
    assert not batch.measurement.kspace[..., 34:].any()


def test_maps_are_kept_by_the_content_of_kspace(tmp_path, monkeypatch):
    kspace, other = measured_example().kspace, measured_example(coils=4).kspace
    first = kept_espirit_maps(kspace, tmp_path / "maps")
    np.testing.assert_array_equal(first, espirit_maps_numpy(kspace))
    kept_espirit_maps(other, tmp_path / "maps")
    one, two = sorted((tmp_path / "maps").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("atlf_jax.data.coils.espirit_maps_numpy", None)  # is not asked again
        np.testing.assert_array_equal(kept_espirit_maps(kspace, tmp_path / "maps"), first)
    for damaged in (one, two):
        damaged.write_bytes(damaged.read_bytes()[:100])
    np.testing.assert_array_equal(kept_espirit_maps(kspace, tmp_path / "maps"), first)


def test_compression_keeps_the_operator():
    """Five coils of two independent maps: two virtual coils hold all of it."""
    example = measured_example(coils=2, maps=True)
    mix = (rng(5).standard_normal((5, 2)) + 1j * rng(6).standard_normal((5, 2))).astype(np.complex64)
    mix = np.linalg.qr(mix)[0]
    five = example._replace(**{n: np.einsum("vc,chw->vhw", mix, getattr(example, n)) for n in ("kspace", "coil_maps")})
    two, all_ = (measure(five, LINES, AcquisitionConfig(virtual_coils=n), rng()) for n in (2, 0))
    assert two.measurement.kspace.shape[0] == 2 and all_.measurement.kspace.shape[0] == 5
    for a, b in [(two.measurement, all_.measurement)]:
        np.testing.assert_allclose(adjoint(*a[:2], a.coil_maps), adjoint(*b[:2], b.coil_maps), atol=1e-5)
    np.testing.assert_allclose(two.target, all_.target, atol=1e-5)


def test_measured_kspace_is_mirrored_and_cut_along_the_readout():
    acquired = np.ones((1, 40), bool)
    acquired[:, :5] = False
    example = measured_example(maps=True)
    example = example._replace(kspace=np.where(acquired, example.kspace, 0), acquired=acquired)
    example = example._replace(target=np.linalg.norm(ifft2c_numpy(example.kspace), axis=0).astype(np.complex64))
    seen = set()
    for seed in range(8):
        turned = augment(example, AugmentConfig(crop=(16, 0)), rng(seed))
        images = ifft2c_numpy(turned.kspace)
        np.testing.assert_allclose(np.linalg.norm(images, axis=0), turned.target.real, atol=1e-5)
        assert turned.coil_maps.shape == turned.kspace.shape == (5, 16, 40)
        np.testing.assert_allclose((np.abs(turned.coil_maps) ** 2).sum(0), 1, atol=1e-5)
        outside = np.abs(turned.kspace[:, :, ~turned.acquired[0]]).max()
        assert outside < 1e-5 and turned.acquired.sum() == 35  # lines that were not measured are none of the others
        seen.add(turned.acquired.tobytes())
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rotation": 5.0}, "rotation"),
        ({"gamma": 0.1, "scale": 0.1}, "scale, augment.gamma"),
        ({"crop": (0, 20)}, "crop"),
    ],
)
def test_measured_kspace_is_not_interpolated(changes, name):
    with pytest.raises(ValueError, match=f"record 'a' is measured k-space, and augment.{name}"):
        augment(measured_example(), AugmentConfig(**changes), rng())


class Mixed:
    """Records of three and of five measured coils in turn."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return measured_example(coils=3 + 2 * (index % 2))._replace(name=f"r{index}", subject=f"s{index}")


MASK = MaskConfig("random_exact", acceleration=2.0, center_fraction=0.25)


def test_records_of_several_coil_numbers_stack_when_they_are_told_one():
    config = AcquisitionConfig(maps="low_resolution", virtual_coils=4)
    batches = train_batches(Mixed(), mask=MASK, augment=AugmentConfig(), batch_size=4, seed=0, acquisition=config)
    (batch,) = itertools.islice(batches, 1)
    batches.close()
    assert batch.measurement.kspace.shape == batch.measurement.coil_maps.shape == (4, 4, *SHAPE)
    filled = [bool(each[-1].any()) for each in batch.measurement.kspace]
    assert sorted(filled) == [False, False, True, True]
    with pytest.raises(ValueError, match="have 3, 5 coils; set data.acquisition.virtual_coils"):
        next(evaluation_batches(Mixed(), mask=MASK, batch_size=2, acquisition=AcquisitionConfig(maps="low_resolution")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coils": (4, 2)}, "coils is .4, 2.; wanted the least and the most"),
        ({"coils": (0, 2)}, "coils is .0, 2."),
        ({"noise_correlation": 1.0}, "noise_correlation is 1.0; wanted 0"),
        ({"noise_spread": 0.5}, "noise_spread is 0.5; wanted 1"),
        ({"virtual_coils": -1}, "virtual_coils is -1"),
    ],
)
def test_wrong_settings_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        AcquisitionConfig(**values)
