"""Slices from files of any kind, mixed."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, ImagesConfig, augment, open_source
from atlf_jax.data.coils import simulate_maps
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy, measure, simulate_acquisition

from .test_coils import LINES, SHAPE, picture, rng


@pytest.fixture
def config(tmp_path):
    noise = rng().uniform(0.2, 1, (3, 32, 40))
    Image.fromarray((255 * noise[0]).astype(np.uint8)).save(tmp_path / "a1.png")
    Image.fromarray((255 * noise[1]).astype(np.uint8)).save(tmp_path / "b1.png")
    for name, sides in (("cube", (1, 1, 1)), ("slab", (1, 1, 5))):
        nibabel.save(
            nibabel.Nifti1Image(noise.T.astype(np.float32), np.diag([*sides, 1.0])), tmp_path / f"{name}.nii.gz"
        )
    nibabel.save(nibabel.Nifti1Image((2000 * noise.T - 1000).astype(np.float32), np.eye(4)), tmp_path / "ct.nii.gz")
    np.savez(tmp_path / "complex.npz", x=np.exp(1j * noise[2]).astype(np.complex64))
    maps = simulate_maps((32, 40), 3, rng(1))
    np.save(tmp_path / "coils.npy", fft2c_numpy(maps * picture().target))
    files = ("a*.png", "slab.nii.gz", "complex.npz", "ct.nii.gz")
    source = ImagesConfig(str(tmp_path), files, ("coils.npy",), ("b*.png",), size=(24, 48))
    return DataConfig(source)


def test_groups_take_turns_and_no_file_is_in_both_splits(config):
    source, valid = open_source(config, "train"), open_source(config, "valid")
    assert not source.subjects & valid.subjects and len(valid) == 1
    first = [source[index] for index in range(5)]
    assert [each.subject for each in first] == ["a1.png", "slab.nii.gz", "complex.npz", "ct.nii.gz", "coils.npy"]
    assert source[0].name == source[5].name  # one slice, again and again
    assert source[1].name != source[6].name
    for each in first:
        assert each.target.shape == (24, 48) and np.abs(each.target).max() == pytest.approx(1)
        assert not each.ct.any()
    assert np.ptp(np.angle(first[2].target[:, 10:-10])) > 0.5  # complex images keep their phase
    combined, truth = np.abs(first[4].target[4:-4, 8:-8]), np.abs(picture().target[8:-8, 4:-4])
    assert np.corrcoef(combined.ravel(), truth.ravel())[0, 1] > 0.9


def test_undersampled_kspace_is_no_truth(config, tmp_path):
    kspace = np.load(tmp_path / "coils.npy")
    kspace[..., 5:9] = 0
    np.save(tmp_path / "coils.npy", kspace)
    with pytest.raises(ValueError, match=r"coils.npy is not fully sampled, so it has no truth: 4 of 40 columns"):
        open_source(config, "train")


def test_isotropic_volumes_are_cut_along_all_axes(config, tmp_path):
    source = ImagesConfig(str(tmp_path), ("cube.nii.gz",)).open()
    assert len(source) == 3 + 32 + 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"files": ("*.bmp",)}, "no slices match"), ({"split": "test"}, "train or valid"), ({"root": "/no"}, "not exist")],
)
def test_what_is_missing_is_said(config, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ImagesConfig(**{"root": str(tmp_path), "files": ("a*.png",)} | changes).open()


def test_other_contrasts_keep_black_and_phase():
    example = picture()._replace(target=(picture().target * np.exp(0.5j)).astype(np.complex64))
    changed = augment(example, AugmentConfig(flip=False, rotate90=False, contrast=1.0), rng())
    assert not changed.target[np.abs(example.target) == 0].any()
    inside = np.abs(changed.target) > 0
    np.testing.assert_allclose(np.angle(changed.target[inside]), 0.5, atol=1e-5)
    assert np.abs(changed.target - example.target).max() > 0.1


def test_the_target_is_the_root_of_the_sum_of_squares_of_noisy_coils_that_fold():
    config = AcquisitionConfig(noise=0.05, coils=(3, 4), fold=0.5, target="rss", maps="low_resolution")
    folded = 0
    for seed in range(8):
        example = simulate_acquisition(picture(), config, rng(seed))
        folded += example.kspace is not None
        batch = measure(example, np.ones_like(LINES), config, rng(seed))
        want = np.linalg.norm(ifft2c_numpy(batch.measurement.kspace), axis=0)
        np.testing.assert_allclose(np.abs(batch.target), want, atol=1e-5)
        assert batch.measurement.kspace.shape == (4, *SHAPE)
    assert 0 < folded < 8
