"""Classical solvers by name, from Python and from the command line, and how their regularisation is chosen."""

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io

import atlf_jax as atlf
from atlf_jax.data.arrays import read_cfl, write_cfl
from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.reconstruct import command
from atlf_jax.reconstruct.methods import GRIDS, METHODS, withhold
from tests.data.test_kspace import ismrmrd_writer

SHAPE, COILS = (48, 40), 4
MASK = np.arange(40) % 3 == 1
MASK[15:25] = True


@pytest.fixture(scope="module")
def scan():
    """An image of a few flat parts, and the k-space of four coils with noise."""
    y, x = (np.linspace(-1, 1, side) for side in SHAPE)
    image = (np.add.outer(y**2, x**2) < 0.7) * (1.0 + (np.add.outer((y - 0.2) ** 2, x**2) < 0.1))
    maps = np.asarray(atlf.birdcage_maps(SHAPE, COILS))
    rng = np.random.default_rng(0)
    noise = 0.03 * (rng.standard_normal((COILS, *SHAPE)) + 1j * rng.standard_normal((COILS, *SHAPE)))
    kspace = fft2c_numpy((maps * image).astype(np.complex64)) + noise.astype(np.complex64)
    return image, maps, (kspace * MASK).astype(np.complex64)


def error(image, truth):
    return float(np.linalg.norm(np.abs(image) - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("network", "zero_filled")])
def test_every_solver_is_better_than_zero_filled(scan, method):
    image, maps, kspace = scan
    ct = (image / 2).astype(np.float32) if method.startswith("guided") else None
    worst = error(atlf.reconstruct(kspace, MASK, coil_maps=maps, method="zero_filled"), image)
    result, record = atlf.reconstruct(kspace, MASK, coil_maps=maps, method=method, ct=ct, return_record=True)
    assert error(result, image) < 0.93 * worst  # measured .07 to .895, GRAPPA the last
    assert record["regularisation"] in GRIDS[method] and record["regularisation_rule"] == "withheld"
    best = int(np.argmin(record["regularisation_errors"]))
    assert record["regularisation_grid"][best] == record["regularisation"]


def test_withheld_samples_choose_well(scan):
    image, maps, kspace = scan
    settings = {"coil_maps": maps, "method": "total_variation"}
    errors = [
        error(atlf.reconstruct(kspace, MASK, regularisation=value, **settings), image)
        for value in GRIDS["total_variation"]
    ]
    assert error(atlf.reconstruct(kspace, MASK, **settings), image) < 1.1 * min(errors) < 0.5 * max(errors)


def test_the_discrepancy_rule_needs_the_noise(scan):
    image, maps, kspace = scan
    settings = {"coil_maps": maps, "method": "total_variation", "regularisation": "discrepancy"}
    with pytest.raises(ValueError, match="give a noise covariance"):
        atlf.reconstruct(kspace, MASK, **settings)
    covariance = 2 * 0.03**2 * np.eye(COILS)
    result, record = atlf.reconstruct(kspace, MASK, noise_covariance=covariance, return_record=True, **settings)
    assert error(result / np.abs(result).max() * image.max(), image) < 0.2
    energy = np.sum(np.abs(kspace) ** 2) / covariance[0, 0]
    below = [value**2 * energy <= COILS * 48 * MASK.sum() for value in record["regularisation_errors"]]
    assert record["regularisation"] == np.max(np.array(record["regularisation_grid"])[below])


def test_what_cannot_be_is_refused(scan):
    _, maps, kspace = scan
    for method in ("cg_sense", "grappa"):
        with pytest.raises(ValueError, match=f"{method} needs several coils"):
            atlf.reconstruct(kspace[0], MASK, method=method)
    with pytest.raises(ValueError, match="needs a CT"):
        atlf.reconstruct(kspace, MASK, coil_maps=maps, method="guided_total_variation")
    with pytest.raises(ValueError, match="wanted one of network, zero_filled"):
        atlf.reconstruct(kspace, MASK, coil_maps=maps, method="sense")
    with pytest.raises(ValueError, match="regularisation is -1"):
        atlf.reconstruct(kspace, MASK, coil_maps=maps, method="cg_sense", regularisation=-1.0)
    with pytest.raises(ValueError, match="give it as model"):
        atlf.reconstruct(kspace, MASK, coil_maps=maps, method="network")


def test_draws_have_nothing_in_common_and_spare_the_centre():
    points = np.random.default_rng(0).random((1, 32, 32)) < 0.4
    first, second = (withhold(points, (8, 8), fold=fold) for fold in (0, 1))
    assert first.sum() == second.sum() > 0 and not (first & second).any()
    assert (points | ~first).all() and not first[0, 12:20, 12:20].any()


def test_on_the_command_line(tmp_path, scan, capsys):
    _, _, kspace = scan
    np.save(tmp_path / "k.npy", kspace)
    np.save(tmp_path / "mask.npy", MASK)
    flags = ("--sampling.file", tmp_path / "mask.npy", "--kspace.axes", "chw", "--method", "cg_sense")
    command.main([str(part) for part in (tmp_path / "k.npy", tmp_path / "out.h5", *flags)])
    record = json.loads((tmp_path / "out.json").read_text())["model"]
    assert record["method"] == "cg_sense" and record["regularisation_rule"] == "withheld"
    assert f"regularisation {record['regularisation']:.3g} (chosen by withheld samples)" in capsys.readouterr().err
    want = np.abs(
        atlf.reconstruct(kspace, MASK, coils="espirit", method="cg_sense", regularisation=record["regularisation"])
    )
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["reconstruction"][0], want, atol=1e-5 * want.max())  # measured 0


@pytest.mark.parametrize("plane", [False, True])
def test_bart_files_in_and_out(tmp_path, scan, plane):
    """The image has the axes of k-space: readout and lines, or two phase encodings, the first of which are columns."""
    _, _, kspace = scan
    write_cfl(tmp_path / "k", kspace.transpose(2, 1, 0)[None] if plane else kspace.transpose(1, 2, 0)[:, :, None])
    flags = ("--method", "total_variation", "--regularisation", "0.003")
    command.main([str(tmp_path / "k.cfl"), str(tmp_path / "out.cfl"), *flags])
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["input"]["kind"] == "BART array" and record["mask"]["kind"] == "of the scan"
    assert record["model"]["regularisation_rule"] == "given" and record["values"] == "complex"
    want = atlf.reconstruct(kspace, MASK, coils="espirit", method="total_variation", regularisation=0.003)
    got = read_cfl(tmp_path / "out.cfl")
    got = got.reshape(got.shape[1:3]).T if plane else got.reshape(got.shape[:2])
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())  # measured 0


def test_a_reference_scan_of_its_own_gives_the_coil_maps(tmp_path, scan):
    image, maps, _ = scan
    full = fft2c_numpy((maps * image).astype(np.complex64))
    with ismrmrd_writer(tmp_path / "k.h5", SHAPE, mode="separate") as write:
        for row in range(16, 24):  # brighter: it must not come into the image
            write(5 * full[..., row], "PARALLEL_CALIBRATION", kspace_encode_step_1=row)
        for row in range(0, 40, 2):
            write(full[..., row], kspace_encode_step_1=row)
    flags = ("--method", "cg_sense", "--regularisation", "0.001")
    command.main([str(tmp_path / "k.h5"), str(tmp_path / "out.npy"), *flags])
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["coils"]["maps"] == "ESPIRiT of the file's reference scan"
    assert record["mask"]["effective_acceleration"] == 2
    assert error(np.load(tmp_path / "out.npy")[0], image) < 0.05  # measured .01


def test_a_matlab_file_says_how_its_axes_are_told(tmp_path, scan, capsys):
    _, _, kspace = scan
    scipy.io.savemat(tmp_path / "k.mat", {"k": kspace.transpose(1, 2, 0)})
    flags = ["--method", "zero_filled", "--sampling.retrospective"]
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "k.mat"), str(tmp_path / "out.nii"), *flags])
    assert "coils last" in capsys.readouterr().err
    np.save(tmp_path / "mask.npy", MASK)
    flags = ["--method", "zero_filled", "--sampling.file", str(tmp_path / "mask.npy"), "--kspace.axes", "hwc"]
    command.main([str(tmp_path / "k.mat"), str(tmp_path / "out.nii"), *flags])
    assert json.loads((tmp_path / "out.json").read_text())["coils"]["coils"] == COILS


@pytest.mark.data
def test_a_scanners_file_is_whitened_by_its_noise_scan(tmp_path, data_dir):
    file = Path(data_dir, "raw", "phantom_14ch_grappa3_ismrmrd.h5")
    flags = ("--method", "cg_sense", "--regularisation", "0.003", "--virtual_coils", "6")
    command.main([str(file), str(tmp_path / "out.nii"), *flags])
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["coils"]["whitened"] and record["input"]["notes"][0] == "a noise scan of 384 samples"
    assert record["mask"]["effective_acceleration"] == pytest.approx(144 / 68, abs=1e-3)
    assert nibabel.load(tmp_path / "out.nii").header.get_zooms() == pytest.approx((1.458, 1.458, 8), abs=1e-3)
