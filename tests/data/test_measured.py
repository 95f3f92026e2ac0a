"""Which samples were measured, told by the zeros of k-space alone."""

from pathlib import Path

import numpy as np
import pytest

from atlf_jax.data.measured import describe_empty, find_measured, is_box
from atlf_jax.masks import MaskConfig, make_mask

SHAPE = (64, 48)


def noise(*shape):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def found(kspace):
    return find_measured(kspace.__getitem__, len(kspace))


@pytest.mark.parametrize("kind", ["random", "equispaced", "magic", "gaussian_1d", "poisson_disc", "gaussian_2d"])
@pytest.mark.parametrize("coils", [(), (3,)])
def test_a_mask_is_found_back(kind, coils):
    mask = make_mask(MaskConfig(kind, 4.0, 0.1), SHAPE, seed=0).samples
    got = found(np.where(mask, noise(2, *coils, *SHAPE), 0))
    np.testing.assert_array_equal(got, mask)
    assert not is_box(got)


def test_single_zeros_were_measured():
    """Of raw data in whole numbers .74 % of the samples are 0, and coarser ones have more."""
    kspace = np.round(0.8 * noise(1, *SHAPE))
    assert 0.05 < (kspace == 0).mean() < 0.3
    assert found(kspace).all() and found(kspace).shape == (1, 48)


def test_padding_and_empty_rows():
    kspace = noise(3, 2, *SHAPE)
    kspace[..., :5] = 0
    kspace[..., 40:] = 0
    got = found(kspace)
    assert got.shape == (1, 48) and is_box(got) and np.flatnonzero(got)[[0, -1]].tolist() == [5, 39]
    assert describe_empty(got).startswith("13 of 48 columns")
    kspace[..., ::2, :] = 0
    got = found(kspace)
    assert got.shape == SHAPE and not is_box(got) and not got[::2].any() and got[1::2, 5:40].all()
    assert describe_empty(got).startswith("63.5 % of the samples")


def test_one_coil_or_one_slice_with_a_signal_is_enough():
    kspace = noise(3, 2, *SHAPE)
    kspace[:, 0, :, 7] = 0
    kspace[0] = 0
    assert found(kspace).all()
    assert found(np.zeros_like(kspace)).all()  # nothing is known


@pytest.mark.data
def test_real_raw_data(data_dir):
    brain = np.load(Path(data_dir, "kspace", "sigpy_brain_8ch_poisson8x_230x180.npy"))
    np.testing.assert_array_equal(found(brain[None]), np.abs(brain).sum(0) > 0)
    scipy_io = pytest.importorskip("scipy.io")
    knee = scipy_io.loadmat(Path(data_dir, "raw", "knee_1ch_256_matlab_v5.mat"))["dat"]
    assert (knee == 0).mean() > 0.007 and found(knee[None]).all()
    padded = scipy_io.loadmat(Path(data_dir, "raw", "brain_8ch_320x256_small_fov_matlab_v5.mat"))["DATA"]
    got = found(np.moveaxis(padded, -1, 0)[None])
    assert is_box(got) and np.flatnonzero(got)[[0, -1]].tolist() == [44, 211]
