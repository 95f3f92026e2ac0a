"""The numpy entry: shapes, units and errors."""

import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Reconstruction
from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.reconstruct.arrays import calibration_sides
from atlf_jax.trained.guards import TrainedFor
from atlf_jax.trained.inference import for_any_size
from tests.networks import network_of


def sample(slices=3, h=12, w=16):
    rng = np.random.default_rng(0)
    image = (rng.random((slices, h, w)) * np.exp(0.3j * rng.random((slices, h, w)))).astype(np.complex64) * 40
    return image, fft2c_numpy(image)


def test_full_sampling_returns_the_image_in_its_own_units():
    image, kspace = sample()
    full = np.ones(16, bool)
    np.testing.assert_allclose(atlf.reconstruct(kspace, full), image, atol=40 * 1e-6)
    np.testing.assert_allclose(atlf.reconstruct(kspace[0], full), image[0], atol=40 * 1e-6)
    half = atlf.reconstruct(kspace, np.arange(16) % 2 == 0, first_axis="slices")
    assert np.abs(half - image).max() > 1


def test_the_model_sees_scaled_data_and_the_result_is_scaled_back():
    image, kspace = sample()
    seen = []

    def model(measurement):
        seen.append(measurement)
        return Reconstruction(atlf.adjoint(measurement.kspace, measurement.mask))

    ct = np.full((3, 12, 16), 0.25, np.float32)
    out = atlf.reconstruct(kspace, np.ones(16, bool), ct=ct, model=model)
    np.testing.assert_allclose(out, image, atol=40 * 1e-6)
    assert len(seen) == 3 and float(jnp.abs(atlf.ifft2c(seen[1].kspace)).max()) == pytest.approx(1, abs=1e-5)
    assert float(seen[0].ct.mean()) == 0.25


def test_a_ct_of_several_windows():
    _, kspace = sample()
    seen = []

    def apply(measurement):
        seen.append(measurement.ct)
        return Reconstruction(atlf.adjoint(measurement.kspace, measurement.mask))

    two = network_of(apply, TrainedFor((atlf.MaskConfig(),), windows=("brain", "bone")))
    full, ct = np.ones(16, bool), np.random.default_rng(0).random((3, 2, 12, 16), np.float32)
    with warnings.catch_warnings(action="ignore", category=atlf.GuardWarning):
        atlf.reconstruct(kspace, full, ct=ct, model=two, batch_size=3, first_axis="slices")
        atlf.reconstruct(kspace[1], full, ct=ct[1], model=two)
        atlf.reconstruct(kspace[0], full, model=two)
    np.testing.assert_array_equal(seen[0], ct)
    np.testing.assert_array_equal(seen[1], ct[1:2])
    assert seen[2].shape == (1, 2, 12, 16) and not seen[2].any()
    with pytest.raises(ValueError, match="number of CT windows is 1, and the network was trained with 2: brain, bone"):
        atlf.reconstruct(kspace, full, ct=ct[:, 0], model=two)
    with pytest.raises(ValueError, match="number of CT windows is 2, and the network was trained with 1;"):
        atlf.reconstruct(kspace, full, ct=ct, model=network_of(apply, TrainedFor((atlf.MaskConfig(),))))
    with pytest.raises(ValueError, match=r"ct has shape \(2, 2, 12, 16\)"):
        atlf.reconstruct(kspace, full, ct=ct[:2], model=two)


def test_coils():
    image, _ = sample()
    maps = np.asarray(atlf.birdcage_maps((12, 16), 4))
    kspace = fft2c_numpy(maps[None] * image[:, None])
    np.testing.assert_allclose(atlf.reconstruct(kspace, np.ones(16, bool), coil_maps=maps), image, atol=40 * 2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kspace": np.zeros(5, complex)}, r"k-space has shape \(5,\), wanted at least two axes"),
        ({"mask": np.ones(9, bool)}, r"mask has shape \(1, 1, 9\), wanted \[16\]"),
        ({"ct": np.zeros((12, 12))}, r"ct has shape \(1, 12, 12\), wanted \(3, 12, 16\)"),
        ({"kspace": np.full((3, 12, 16), np.nan + 0j)}, "not finite"),
    ],
)
def test_wrong_input_is_told(change, message):
    arguments = {"kspace": sample()[1], "mask": np.ones(16, bool)} | change
    with pytest.raises(ValueError, match=message):
        atlf.reconstruct(arguments.pop("kspace"), arguments.pop("mask"), **arguments)


def coil_scan(slices=3, h=32, w=28, coils=4):
    image, _ = sample(slices, h, w)
    maps = np.asarray(atlf.birdcage_maps((h, w), coils))
    return image, maps, fft2c_numpy(maps[None] * image[:, None])


@pytest.mark.parametrize("coils", ["espirit", "low_resolution"])
def test_maps_are_estimated_from_the_centre(coils):
    image, maps, kspace = coil_scan()
    smooth = np.abs(image).mean() * np.ones_like(image)
    kspace = fft2c_numpy(maps[None] * smooth[:, None])
    out = atlf.reconstruct(kspace, np.ones(28, bool), coils=coils)
    inner = (slice(None), slice(4, -4), slice(4, -4))  # maps are not periodic: at the border they are smeared
    np.testing.assert_allclose(np.abs(out)[inner], np.abs(smooth)[inner], rtol=0.05)
    single = atlf.reconstruct(kspace[0], np.ones(28, bool), coils=coils)
    np.testing.assert_allclose(np.abs(single), np.abs(out[0]), atol=0.02)


def test_compression_to_all_coils_changes_nothing():
    image, maps, kspace = coil_scan()
    mask = np.arange(28) % 2 == 0
    plain = atlf.reconstruct(kspace, mask, coil_maps=maps)
    mixed = atlf.reconstruct(kspace, mask, coil_maps=maps, virtual_coils=4)
    np.testing.assert_allclose(mixed, plain, atol=1e-4)  # measured 1.5e-5
    assert np.abs(atlf.reconstruct(kspace, mask, coil_maps=maps, virtual_coils=2) - plain).max() > 0.1


def test_whitening():
    image, maps, kspace = coil_scan()
    plain = atlf.reconstruct(kspace, np.ones(28, bool), coil_maps=maps)
    white = atlf.reconstruct(kspace, np.ones(28, bool), coil_maps=maps, noise_covariance=4 * np.eye(4))
    np.testing.assert_allclose(white, plain / 2, rtol=1e-4, atol=1e-4)  # in units of the noise
    uneven = atlf.reconstruct(kspace, np.ones(28, bool), coil_maps=maps, noise_covariance=np.diag([1.0, 2, 3, 4]))
    assert np.abs(uneven - plain).max() > 0.1


def test_batches_change_nothing_and_are_of_one_size():
    image, kspace = sample(slices=5)
    sizes = []

    def model(measurement):
        sizes.append(len(measurement.kspace))
        return Reconstruction(atlf.adjoint(measurement.kspace, measurement.mask) * 0.5)

    mask = np.arange(16) % 2 == 0
    with warnings.catch_warnings(action="ignore", category=atlf.GuardWarning):  # the image is half of what it is
        one = atlf.reconstruct(kspace, mask, model=model, force=True)
        three = atlf.reconstruct(kspace, mask, model=model, batch_size=3, force=True)
    np.testing.assert_allclose(three, one, atol=1e-5)
    assert sizes == [1] * 5 + [3, 3]


def test_hard_consistency_puts_the_samples_back():
    image, kspace = sample()
    mask = np.arange(16) % 3 == 0

    def wrong(measurement):
        return Reconstruction(jnp.ones_like(measurement.kspace))

    out = atlf.reconstruct(kspace, mask, model=wrong, hard_consistency=True, first_axis="slices")
    np.testing.assert_allclose(fft2c_numpy(out)[:, :, mask], kspace[:, :, mask], atol=1e-3)
    np.testing.assert_allclose(
        atlf.reconstruct(kspace, np.ones(16, bool), model=wrong, hard_consistency=True), image, atol=40 * 1e-5
    )


def test_a_model_sees_measured_samples_alone():
    _, kspace = sample()
    mask = np.arange(16) % 3 == 0

    def model(measurement):
        assert not np.asarray(measurement.kspace)[..., ~mask].any()
        return Reconstruction(atlf.ifft2c(measurement.kspace))

    atlf.reconstruct(kspace, mask, model=model, first_axis="slices")


class OnDisk:
    """An array that can only be read slice by slice."""

    def __init__(self, values):
        self._values, self.read = values, []
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, values.dtype

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        assert isinstance(index, int)
        self.read.append(index)
        return self._values[index]


def test_slices_are_read_one_after_the_other():
    image, kspace = sample(slices=4)
    lazy = OnDisk(kspace)
    ct = OnDisk(np.zeros((4, 12, 16), np.float32))
    np.testing.assert_allclose(atlf.reconstruct(lazy, np.ones(16, bool), ct=ct), image, atol=40 * 1e-6)
    assert lazy.read[-4:] == ct.read[-4:] == [0, 1, 2, 3]  # after a look at a few of them


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kspace": np.zeros((3, 32, 28, 2))}, r"parts are apart, give k\[\.\.\., 0\] \+ 1j"),
        ({"mask": np.arange(28) == 14}, "centre of the mask is smaller than 4 samples"),
        (
            {"coil_maps": np.ones((4, 32, 27), complex)},
            r"coil_maps have shape \(4, 32, 27\).*; wanted maps \(4, 32, 28\)",
        ),
        ({"noise_covariance": np.eye(3)}, "covariance is of 3 coils, and k-space has 4"),
        ({"noise_covariance": -np.eye(4)}, "not positive definite"),
        ({"virtual_coils": 5}, "got 5 virtual coils, and k-space has 4"),
        ({"batch_size": 0}, "batch_size is 0, wanted a whole number"),
    ],
)
def test_wrong_coils_are_told(change, message):
    arguments = {"kspace": coil_scan()[2], "mask": np.ones(28, bool), "coils": "low_resolution"} | change
    with pytest.raises(ValueError, match=message):
        atlf.reconstruct(arguments.pop("kspace"), arguments.pop("mask"), **arguments)


def test_the_centre_is_found():
    lines = np.zeros((1, 1, 40), bool)
    lines[..., 14:26] = True  # 40 // 2 - 12 // 2
    assert calibration_sides(lines, (50, 40)) == (24, 12)
    assert calibration_sides(np.ones((1, 40), bool), (10, 40)) == (10, 24)
    points = np.zeros((50, 40), bool)
    points[25 - 5 : 25 + 5, 20 - 4 : 20 + 4] = True
    assert calibration_sides(points, (50, 40)) == (8, 8)


@pytest.mark.parametrize("coils", [False, True])
@pytest.mark.parametrize("size", [(13, 18), (12, 17), (16, 16)])
def test_any_size_is_taken(coils, size):
    """The zero-filled image through a network for multiples of 4: nothing is lost, moved or scaled."""
    image, _ = sample(2, *size)
    smooth = np.outer(np.hanning(size[0]), np.hanning(size[1])).astype(np.float32)
    if coils:  # the maps are interpolated: good where the image is smooth
        image = (40 * np.stack([smooth, smooth**2])).astype(np.complex64)
    maps = np.asarray(atlf.birdcage_maps(size, 3)) if coils else None
    kspace = fft2c_numpy(maps * image[:, None] if coils else image)
    mask = np.broadcast_to(np.arange(size[1]) % 2 == 0, (2, 1, size[1]))
    maps = None if maps is None else np.broadcast_to(maps, kspace.shape)
    seen = []

    def model(measurement):
        seen.append(measurement)
        return Reconstruction(atlf.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps))

    measurement = atlf.Measurement(kspace, mask, np.stack([smooth, smooth]), maps)
    out = for_any_size(model, measurement, multiple=4).image
    want = atlf.adjoint(kspace, mask, maps)
    if coils:
        assert np.linalg.norm(out - want) < 0.05 * np.linalg.norm(want)
    else:
        np.testing.assert_allclose(out, want, atol=40 * 2e-6)
    assert all(side % 4 == 0 for side in seen[0].kspace.shape[-2:])
    assert np.asarray(seen[0].mask).sum() == mask.sum() * (1 if size == (16, 16) else size[0])
    rows, columns = (np.arange(new) - new // 2 for new in seen[0].ct.shape[-2:])
    peak = np.unravel_index(np.argmax(seen[0].ct[0]), seen[0].ct.shape[-2:])
    assert abs(rows[peak[0]]) <= 1 and abs(columns[peak[1]]) <= 1  # the centre stays


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::atlf_jax.trained.guards.GuardWarning")  # few lines, and an image of noise
def test_maps_are_by_default_those_of_the_network_s_training():
    image, maps, kspace = coil_scan()
    mask = atlf.make_mask(atlf.MaskConfig("random_exact", 2.0, center_lines=10), image.shape[-2:], seed=0)
    call = partial(atlf.reconstruct, mask=mask, model=atlf.load("raw-brain"), force=True)
    kspace = np.where(mask.samples, kspace, 0)
    named = call(kspace, coils="low_resolution")
    np.testing.assert_array_equal(call(kspace), named)
    np.testing.assert_array_equal(call(kspace[0], first_axis="coils"), named[0])


def test_a_ct_is_not_given_to_a_network_that_takes_none():
    _, kspace = sample(h=32, w=32)
    with pytest.raises(ValueError, match="this network takes none, so that it would change nothing; leave it out"):
        atlf.reconstruct(kspace, np.ones(32, bool), ct=np.zeros((3, 32, 32), np.float32), model="raw-brain")


def test_mirror_images_are_averaged_if_asked():
    def leaning(measurement):
        image = atlf.adjoint(measurement.kspace, measurement.mask)
        return Reconstruction(image * jnp.linspace(1, 2, image.shape[-1])[None, None])

    image = np.random.default_rng(0).random((8, 9)).astype(np.complex64)
    kspace, mask = fft2c_numpy(image), np.ones((1, 9), bool)
    network = network_of(leaning)
    settings = {"force": True, "first_axis": "slices"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once, averaged, packed, single = (
            atlf.reconstruct(kspace, mask, model=model, mirror_average=asked, **settings)
            for model, asked in (
                (network, None),
                (network, True),
                (network.averaging_mirrors(), None),
                (network.averaging_mirrors(), False),
            )
        )
    np.testing.assert_allclose(once, image * np.linspace(1, 2, 9), atol=1e-5)
    np.testing.assert_allclose(averaged, 1.5 * image, atol=1e-5)  # the tilt is symmetric about 1.5
    np.testing.assert_array_equal(packed, averaged)
    np.testing.assert_array_equal(single, once)
    with pytest.raises(ValueError, match="mirror_average is for networks"):
        atlf.reconstruct(kspace, mask, model=leaning, mirror_average=True)
