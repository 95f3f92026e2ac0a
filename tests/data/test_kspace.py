"""k-space from files that other programs wrote: ISMRMRD, twix, BART, MATLAB, numpy."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from atlf_jax.data.arrays import read_array, read_cfl, write_cfl
from atlf_jax.data.inputs import FileError
from atlf_jax.data.kspace import format_of, read_kspace
from atlf_jax.data.lines import Choice, Encoding, Line, sort_lines
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy

COILS, READOUT, LINES = 3, 16, 12


def numbers(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def refused(call, *words):
    with pytest.raises(FileError) as error:
        call()
    for word in words:
        assert word in str(error.value)


ENCODING = Encoding(READOUT, LINES, (READOUT, LINES))


def lines_of(kspace, rows=range(LINES), **settings):
    return [Line(np.ascontiguousarray(kspace[:, :, row]), row=row, **settings) for row in rows]


def sort(lines, encoding=ENCODING, **settings):
    return sort_lines(lines, encoding, path="scan.h5", kind="test", **settings)


def test_lines_find_their_place():
    kspace = numbers(COILS, READOUT, LINES)
    found = sort(lines_of(kspace, rows=[6, 2, 3, 5]))
    assert found.samples.shape == (1, COILS, READOUT, LINES)
    np.testing.assert_array_equal(np.flatnonzero(found.mask[0]), [2, 3, 5, 6])
    np.testing.assert_array_equal(found.samples[0], kspace * found.mask)
    # The centre line of the header goes to the middle, as of a scan that leaves out lines at one side.
    moved = sort(lines_of(kspace, rows=[0, 1, 2]), ENCODING._replace(centre=1))
    np.testing.assert_array_equal(np.flatnonzero(moved.mask[0]), [5, 6, 7])


def test_repeated_lines_are_averaged_and_reversed_ones_flipped():
    kspace = numbers(COILS, READOUT, LINES)
    lines = lines_of(kspace) + lines_of(3 * kspace, average=1)
    assert "averaged" in sort(lines).notes[0]
    np.testing.assert_allclose(sort(lines).samples[0], 2 * kspace, rtol=1e-6)
    back = lines_of(kspace[:, ::-1], reverse=True, centre=READOUT - 1 - READOUT // 2)
    np.testing.assert_array_equal(sort(back).samples[0], kspace)


def test_partial_echoes_are_known_to_be_partial():
    kspace = numbers(COILS, READOUT, LINES)
    partial = sort(lines_of(kspace[:, 5:], centre=READOUT // 2 - 5))
    assert not partial.mask[:5].any() and partial.mask[5:].all()
    np.testing.assert_array_equal(partial.samples[0, :, 5:], kspace[:, 5:])
    oversampled = sort(lines_of(kspace[:, 5:], centre=READOUT // 2 - 5), ENCODING._replace(image=(8, LINES)))
    assert oversampled.samples.shape[-2:] == (8, LINES)
    np.testing.assert_array_equal(np.flatnonzero(oversampled.mask[:, 0]), [3, 4, 5, 6, 7])


def test_oversampling_is_removed():
    image = numbers(COILS, READOUT, LINES)
    found = sort(lines_of(fft2c_numpy(image)), ENCODING._replace(image=(8, LINES)))
    np.testing.assert_allclose(ifft2c_numpy(found.samples[0]), image[:, 4:12], atol=1e-6)


def test_noise_scans_become_a_covariance():
    noise = 2 * numbers(COILS, 4000)
    lines = [Line(noise, noise=True, dwell=20.0), *lines_of(numbers(COILS, READOUT, LINES), dwell=5.0)]
    found = sort(lines)
    assert found.mask.all()
    np.testing.assert_allclose(found.noise_covariance, 4 * 2 * 4 * np.eye(COILS), atol=2)  # 4 x the bandwidth


def test_several_volumes_are_chosen_from():
    kspace = numbers(COILS, READOUT, LINES)
    lines = lines_of(kspace) + lines_of(3 * kspace, repetition=4)
    refused(lambda: sort(lines), "2 volumes that differ in repetition (0, 4)", "--kspace.repetition")
    refused(lambda: sort(lines, choice=Choice(repetition=1)), "has no repetition 1; there are 0, 4")
    np.testing.assert_array_equal(sort(lines, choice=Choice(repetition=4)).samples[0], 3 * kspace)


def test_a_reference_scan_of_its_own_is_kept_apart():
    kspace, reference = numbers(COILS, READOUT, LINES), numbers(COILS, READOUT, LINES, seed=1)
    lines = lines_of(kspace, rows=[0, 3, 6, 9]) + lines_of(reference, rows=[5, 6, 7], calibration=True)
    apart = sort(lines, ENCODING._replace(separate_calibration=True))
    np.testing.assert_array_equal(np.flatnonzero(apart.mask[0]), [0, 3, 6, 9])
    np.testing.assert_array_equal(apart.calibration[0, :, :, 5:8], reference[:, :, 5:8])
    embedded = sort(lines_of(kspace, rows=[0, 3, 6, 9]) + lines_of(kspace, rows=[5, 7], calibration=True))
    np.testing.assert_array_equal(np.flatnonzero(embedded.mask[0]), [0, 3, 5, 6, 7, 9])
    assert embedded.calibration is None


def test_three_dimensional_scans_are_cut_along_the_readout():
    image = numbers(COILS, READOUT, 4, LINES)  # readout, partition, line
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, axes=1), axis=1, norm="ortho"), axes=1)
    lines = [
        Line(np.ascontiguousarray(kspace[:, :, partition, row]), row=row, partition=partition)
        for partition in range(4)
        for row in range(LINES)
        if (partition, row) != (1, 2)
    ]
    found = sort(lines, ENCODING._replace(partitions=4))
    assert found.samples.shape == (READOUT, COILS, 4, LINES) and found.mask.sum() == 4 * LINES - 1
    want = image.transpose(1, 0, 2, 3) * found.mask
    np.testing.assert_allclose(found.samples, want, atol=1e-6)


def test_what_is_wrong_is_said():
    kspace = numbers(COILS, READOUT, LINES)
    refused(lambda: sort([]), "holds no image lines")
    refused(lambda: sort(lines_of(kspace), ENCODING._replace(lines=8)), "off its matrix of 8 lines")
    refused(lambda: sort(lines_of(kspace), ENCODING._replace(readout=8)), "longer than its matrix", "Cartesian")
    refused(lambda: sort([*lines_of(kspace), Line(kspace[:1, :, 0])]), "different numbers of coils")


@contextlib.contextmanager
def ismrmrd_writer(path, shape, *, oversampling=1, mode=""):
    """A function that adds an acquisition [c, n] with flags and counters to a file of the package ismrmrd."""
    ismrmrd = pytest.importorskip("ismrmrd")
    from ismrmrd import xsd

    readout, lines = shape

    def space(times):
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=readout * times, y=lines, z=1),
            fieldOfView_mm=xsd.fieldOfViewMm(x=160.0 * times, y=240.0, z=5.0),
        )

    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63870000)
    header = xsd.ismrmrdHeader(experimentalConditions=conditions)
    limits = xsd.limitType(minimum=0, maximum=lines - 1, center=lines // 2)
    encoding = xsd.encodingType(
        encodedSpace=space(oversampling),
        reconSpace=space(1),
        encodingLimits=xsd.encodingLimitsType(kspace_encoding_step_1=limits),
        trajectory=xsd.trajectoryType.CARTESIAN,
    )
    if mode:
        factor = xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1)
        encoding.parallelImaging = xsd.parallelImagingType(
            accelerationFactor=factor, calibrationMode=xsd.calibrationModeType(mode)
        )
    header.encoding.append(encoding)
    file = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    file.write_xml_header(header.toXML("utf-8"))

    def write(data, *flags, **index):
        acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data))
        acquisition.center_sample, acquisition.sample_time_us = data.shape[1] // 2, 5.0
        for flag in flags:
            acquisition.set_flag(getattr(ismrmrd, f"ACQ_IS_{flag}"))
        for name, value in index.items():
            setattr(acquisition.idx, name, value)
        file.append_acquisition(acquisition)

    yield write
    file.close()


def test_a_file_of_the_ismrmrd_package(tmp_path):
    kspace = fft2c_numpy(numbers(2, COILS, READOUT, LINES))
    with ismrmrd_writer(tmp_path / "scan.h5", (READOUT // 2, LINES), oversampling=2) as write:
        write(numbers(COILS, 64), "NOISE_MEASUREMENT")
        write(numbers(COILS, READOUT), "NAVIGATION_DATA")
        for slice_ in range(2):
            for row in range(0, LINES, 2):
                write(kspace[slice_, :, :, row], kspace_encode_step_1=row, slice=slice_)
    assert format_of(tmp_path / "scan.h5") == "ismrmrd"
    found = read_kspace(tmp_path / "scan.h5")
    assert found.samples.shape == (2, COILS, READOUT // 2, LINES) and found.spacing == (20.0, 20.0, 5.0)
    np.testing.assert_array_equal(found.mask[0], np.arange(LINES) % 2 == 0)
    want = fft2c_numpy(ifft2c_numpy(kspace * found.mask)[..., READOUT // 4 : -READOUT // 4, :])
    np.testing.assert_allclose(found.samples, want, atol=1e-6)
    assert found.noise_covariance.shape == (COILS, COILS)
    content = (tmp_path / "scan.h5").read_bytes()
    for cut in (len(content) // 2, len(content) - 100):
        (tmp_path / "cut.h5").write_bytes(content[:cut])
        refused(lambda: read_kspace(tmp_path / "cut.h5"), "cut.h5")


@pytest.mark.data
def test_a_real_ismrmrd_file_is_white_after_its_noise_scan(data_dir):
    from atlf_jax.ops import whitening_matrix

    found = read_kspace(Path(data_dir, "raw", "phantom_14ch_grappa3_ismrmrd.h5"))
    assert found.samples.shape == (1, 14, 192, 144) and found.image_shape == (192, 144)
    lines = np.flatnonzero(found.mask)
    assert len(lines) == 68 and lines[0] == 18 and lines[-1] == 123  # centre line 54 at 72
    strongest = np.unravel_index(np.abs(found.samples[0]).sum(0).argmax(), (192, 144))
    np.testing.assert_allclose(strongest, (96, 72), atol=2)
    white = np.einsum("cd,dhw->chw", whitening_matrix(found.noise_covariance), found.samples[0])
    hybrid = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(white, axes=1), axis=1, norm="ortho"), axes=1)
    outer = hybrid[:, :16][:, :, lines[:4]]  # the readout's edge, in air, of the outermost lines
    assert 0.9 < np.mean(np.abs(outer) ** 2) < 1.3  # measured 1.13


@pytest.mark.data
def test_a_real_twix_file(data_dir):
    twixtools = pytest.importorskip("twixtools")
    path = Path(data_dir, "raw", "phantom_2ch_siemens_twix.dat")
    found = read_kspace(path)
    assert found.samples.shape == (1, 2, 160, 160) and found.mask.all() and found.spacing == (1.25, 1.25, 4.0)
    blocks = twixtools.read_twix(str(path), parse_pmu=False, verbose=False)[-1]["mdb"]
    line = next(block for block in blocks if block.is_image_scan() and block.cLin == 80).data
    whole = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(line, axes=-1), norm="ortho"), axes=-1)[:, 80:240]
    want = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(whole, axes=-1), norm="ortho"), axes=-1)
    np.testing.assert_allclose(found.samples[0, :, :, 80], want, atol=1e-5 * np.abs(want).max())
    assert found.samples.any()


@pytest.mark.data
def test_real_matlab_files(data_dir):
    folder = Path(data_dir, "raw")
    brain = read_kspace(folder / "brain_8ch_320x256_small_fov_matlab_v5.mat", axes="hwc")
    assert brain.samples.shape == (8, 320, 256) and brain.mask is None
    np.testing.assert_array_equal(np.flatnonzero(brain.samples.any((0, 1)))[[0, -1]], (44, 211))
    assert read_kspace(folder / "knee_1ch_256_matlab_v5.mat").samples.shape == (256, 256)


def test_matlab_files(tmp_path):
    kspace = numbers(READOUT, LINES, COILS).astype(complex)
    scipy.io.savemat(tmp_path / "v5.mat", {"k": kspace, "TR": 5.0})
    np.testing.assert_array_equal(read_kspace(tmp_path / "v5.mat", axes="hwc").samples, kspace.transpose(2, 0, 1))
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:  # as MATLAB writes it: axes reversed
        pairs = np.empty(kspace.T.shape, [("real", "f8"), ("imag", "f8")])
        pairs["real"], pairs["imag"] = kspace.T.real, kspace.T.imag
        file["k"] = pairs
        file["k"].attrs["MATLAB_class"] = np.bytes_("double")
    np.testing.assert_array_equal(read_array(tmp_path / "v73.mat"), kspace)
    scipy.io.savemat(tmp_path / "two.mat", {"k": kspace, "maps": kspace})
    refused(lambda: read_kspace(tmp_path / "two.mat"), "holds 2 arrays (k, maps)", "--kspace.name")
    assert read_kspace(tmp_path / "two.mat", name="k", axes="hwc").samples.shape == (COILS, READOUT, LINES)
    refused(lambda: read_array(tmp_path / "two.mat", "m"), "holds no array m")
    (tmp_path / "text.mat").write_text("k = 1")
    refused(lambda: read_array(tmp_path / "text.mat"), "neither MATLAB nor HDF5", "-v7.3")


def test_numpy_files(tmp_path):
    kspace = numbers(COILS, READOUT, LINES)
    np.savez(tmp_path / "k.npz", k=kspace, other=kspace)
    refused(lambda: read_kspace(tmp_path / "k.npz"), "holds 2 arrays (k, other)")
    np.testing.assert_array_equal(read_kspace(tmp_path / "k.npz", name="k").samples, kspace)
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["measured"] = kspace
    np.testing.assert_array_equal(read_kspace(tmp_path / "k.h5", name="measured").samples, kspace)
    np.save(tmp_path / "k.npy", kspace)
    with pytest.raises(ValueError, match="axes is 'xyz'"):
        read_kspace(tmp_path / "k.npy", axes="xyz")
    refused(lambda: read_kspace(tmp_path / "k.npy", axes="hw"), "names 2 axes")


def test_bart_files(tmp_path):
    kspace = numbers(COILS, READOUT, LINES)
    kspace[..., 1::2] = 0
    write_cfl(tmp_path / "k", kspace.transpose(1, 2, 0)[:, :, None])
    found = read_kspace(tmp_path / "k.cfl")
    np.testing.assert_array_equal(found.samples[0], kspace)
    np.testing.assert_array_equal(found.mask[0], np.arange(LINES) % 2 == 0)
    (tmp_path / "k.cfl").write_bytes(b"0" * 80)
    refused(lambda: read_cfl(tmp_path / "k.cfl"), "has 80 bytes where its header tells of 4608")


@pytest.mark.parity
@pytest.mark.skipif(not shutil.which("bart"), reason="BART is not installed")
def test_bart_itself_writes_and_reads_them(tmp_path):
    subprocess.run(["bart", "phantom", "-k", "-s", "4", "-x", "32", "k"], cwd=tmp_path, check=True)
    found = read_kspace(tmp_path / "k.cfl")
    assert found.samples.shape == (1, 4, 32, 32) and found.mask.all()
    subprocess.run(["bart", "fft", "-i", "-u", "3", "k", "x"], cwd=tmp_path, check=True)
    theirs = read_cfl(tmp_path / "x")[:, :, 0, :].reshape(32, 32, 4).transpose(2, 0, 1)
    np.testing.assert_allclose(ifft2c_numpy(found.samples[0]), theirs, atol=1e-5 * np.abs(theirs).max())
    write_cfl(tmp_path / "ours", read_cfl(tmp_path / "k"))
    assert subprocess.run(["bart", "nrmse", "-t", "0", "k", "ours"], cwd=tmp_path, check=False).returncode == 0


def test_what_is_not_read_names_its_converter(tmp_path):
    (tmp_path / "P12345.7").write_bytes(b"0")
    refused(lambda: read_kspace(tmp_path / "P12345.7"), "is a GE P-file", "ge_to_ismrmrd")
    refused(lambda: read_kspace(tmp_path / "raw.list"), "Philips", "philips_to_ismrmrd")
    refused(lambda: read_kspace(tmp_path / "k.xyz"), "ends in none of .h5")
