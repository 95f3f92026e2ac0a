"""The command atlf-reconstruct end to end: images and their record out, one line on a mistake."""

import contextlib
import errno
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Measurement
from atlf_jax.commands import prepare as prepare_command
from atlf_jax.config import Config
from atlf_jax.data import AugmentConfig
from atlf_jax.data.dicom import read_scan
from atlf_jax.data.fastmri import write_kspace
from atlf_jax.data.files import fingerprint
from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.data.volume import Volume, read_nifti, to_slices, write_nifti
from atlf_jax.masks import stored_mask
from atlf_jax.reconstruct import arguments, command, kspace_scan, volume_scan
from atlf_jax.reconstruct.scan import CTConfig
from atlf_jax.trained.uncertainty import Calibration, spread
from tests.data.dicom_files import NAME, NUMBER, write_series
from tests.networks import network_of

ROOT = Path(__file__).resolve().parent.parent
FULL = ("--method", "zero_filled", "--mask.acceleration", "1")
OBLIQUE = np.array([[-0.9, 0.2, 0.4, 80], [0.25, 0.92, 0.3, -60], [-0.3, 0.35, 4.8, 12], [0, 0, 0, 1]])
LAS = np.diag([-1.0, 1.2, 3.0, 1.0])


def head(shape=(20, 18, 5)):
    rng = np.random.default_rng(0)
    return (700 * rng.random(shape)).astype(np.float32)


def save(path, data, affine=LAS, codes=(1, 1)):
    write_nifti(path, Volume(data, affine, codes))
    return path


def call(*arguments):
    command.main([str(argument) for argument in arguments])


def refused(*arguments, words=(), left=None):
    """The command ends with one line and writes nothing."""
    folder = Path(str(arguments[1])).parent
    before = sorted(folder.rglob("*")) if folder.is_dir() else []
    said = io.StringIO()
    with pytest.raises(SystemExit, match="2"), contextlib.redirect_stderr(said):
        call(*arguments)
    message = said.getvalue().splitlines()[-1]
    assert message.startswith("atlf reconstruct: ")
    for word in words:
        assert str(word) in message
    after = sorted(folder.rglob("*")) if folder.is_dir() else []
    assert after == before
    return message


@pytest.mark.parametrize(
    ("affine", "codes"),
    [(OBLIQUE, (1, 1)), (LAS, (1, 1)), (LAS, (0, 2)), (np.diag([2.0, 1, 1, 1]), (1, 0))],
    ids=["oblique", "LAS", "sform only", "qform only, sagittal"],
)
def test_a_full_mask_gives_the_volume_back(tmp_path, affine, codes):
    data = head()
    source = save(tmp_path / "mr.nii.gz", data, affine, codes)
    call(source, tmp_path / "new" / "out.nii.gz", *FULL)
    out, want = read_nifti(tmp_path / "new" / "out.nii.gz"), read_nifti(source)
    np.testing.assert_allclose(out.data, data, atol=1e-5 * data.max())  # measured 3e-7
    np.testing.assert_array_equal(out.affine, want.affine)
    assert out.codes == want.codes
    record = json.loads((tmp_path / "new" / "out.json").read_text())
    assert record["mask"]["effective_acceleration"] == 1 and record["data_consistency_residual"] < 1e-5
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["out.json", "out.nii.gz"]


def test_negative_voxels_keep_their_sign(tmp_path):
    data = head() - 100
    call(save(tmp_path / "mr.nii", data), tmp_path / "out.nii", *FULL)
    np.testing.assert_allclose(read_nifti(tmp_path / "out.nii").data, data, atol=1e-5 * data.max())
    assert json.loads((tmp_path / "out.json").read_text())["values"] == "real part"


def test_undersampling_equals_the_library(tmp_path):
    data = head((20, 18, 7))  # an odd number of slices: the last batch is filled up
    source = save(tmp_path / "mr.nii.gz", data)
    flags = ("--mask.kind", "equispaced_fraction", "--mask.acceleration", "3", "--mask.center_fraction", "0.2")
    call(source, tmp_path / "out.nii.gz", "--method", "zero_filled", *flags, "--panels", "--batch_size", "3")
    config = atlf.MaskConfig("equispaced_fraction", 3.0, 0.2)
    mask = atlf.make_mask(config, (18, 20), seed=atlf.seed_from_name("mr.nii.gz"))
    out = read_nifti(tmp_path / "out.nii.gz").data
    one = data[:, ::-1, 3].T  # rows from the front to the back; LAS columns run from right to left already
    want = np.abs(atlf.reconstruct(fft2c_numpy(one.astype(np.complex64)), mask.samples))
    np.testing.assert_allclose(out[:, ::-1, 3].T, want, atol=1e-5 * data.max())
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["mask"]["hash"] == mask.hash and record["mask"]["kind"] == "equispaced_fraction"
    assert record["mask"]["nominal_acceleration"] == 3
    assert record["versions"]["atlf_jax"] == atlf.__version__ and record["seconds"]["total"] > 0
    assert "mr.nii" not in json.dumps(record)  # names of files may be names of people
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_ct_on_another_grid_is_resampled(tmp_path):
    source = save(tmp_path / "mr.nii.gz", head())
    ct = np.full((30, 30, 9), -1000, np.float32)
    ct[4:26, 4:26] = 40
    shifted = np.array([[1.0, 0, 0, -24], [0, 1, 0, -4], [0, 0, 2, -1], [0, 0, 0, 1]])
    save(tmp_path / "ct.nii.gz", ct, shifted)
    arguments = (source, tmp_path / "out.nii.gz", *FULL, "--ct.path", tmp_path / "ct.nii.gz", "--ct.no_clean")
    seen = command.open_scan(source, mask=atlf.MaskConfig(), ct=CTConfig(path=str(tmp_path / "ct.nii.gz"), clean=False))
    assert seen[2].ct.shape == (18, 20) and seen[2].ct.max() == 0.5  # 40 HU in -160..240
    call(*arguments)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["ct"]["window"] == "soft_tissue" and 0 < record["ct"]["covers"] <= 1
    far = save(
        tmp_path / "far.nii.gz",
        ct,
        shifted + 1000 * np.eye(4)[:, 3:] * np.eye(4)[3] + np.outer([1e3, 0, 0, 0], [0, 0, 0, 1]),
    )
    refused(
        *arguments[:2],
        *FULL,
        "--overwrite",
        "--ct.no_clean",
        "--ct.path",
        far,
        words=("do not overlap", "--ct.register rigid"),
    )


def test_a_ct_is_registered_first(tmp_path, monkeypatch):
    from atlf_jax.data import registration

    source, out = save(tmp_path / "mr.nii.gz", head()), tmp_path / "out.nii.gz"
    ct = save(tmp_path / "ct.nii.gz", head(), LAS + np.outer([1e3, 0, 0, 0], [0, 0, 0, 1]))  # a metre away
    flags = (*FULL, "--ct.path", ct, "--ct.no_clean", "--ct.register", "rigid")
    there = np.eye(4)
    there[0, 3] = 1e3

    def found(good):
        def register(ct, mr, config):
            assert config.kind == "rigid" and ct.data.shape == mr.data.shape
            return registration.Registration(there, {"body_dice": 0.5}, good)

        return register

    monkeypatch.setattr(registration, "register", found(good=False))
    refused(source, out, *flags, words=("ct.nii.gz is poor (body_dice 0.50)", "--ct.keep_flagged"))
    call(source, out, *flags, "--ct.keep_flagged")
    monkeypatch.setattr(registration, "register", found(good=True))
    call(source, out, *flags, "--overwrite")
    assert json.loads((tmp_path / "out.json").read_text())["ct"] == {
        "window": "soft_tissue",
        "registration": "rigid",
        "cleaned": False,
        "quality": {"body_dice": 0.5},
        "covers": 1.0,
    }

    def missing(*_):
        raise ImportError("registration needs SimpleITK: pip install 'atlf-jax[registration]'")

    monkeypatch.setattr(registration, "register", missing)
    refused(source, out, *flags, "--overwrite", words=("atlf-jax[registration]",))


def write_dicom(folder, **tags):
    """Write an MR of five turned slices with a scale, and a CT of smaller voxels over it; return stored values."""
    rng = np.random.default_rng(0)
    mr, ct = rng.integers(0, 700, (5, 20, 18)).astype(np.uint16), np.full((12, 40, 40), 24, np.uint16)
    ct[:, 8:32, 8:32] = 1024 + 40
    axes = (0.96, 0.28, 0.0, -0.28, 0.96, 0.0)
    mr_tags = {"modality": "MR", "axes": axes, "RescaleSlope": 0.5, "RescaleIntercept": 0}
    write_series(folder / "mr", mr, **mr_tags, corner=(-12, -16, 30), spacing=(1.5, 1.5), step=4.0)
    write_series(folder / "ct", ct, corner=(-20, -20, 28), spacing=(1.0, 1.0), step=2.0, **tags)
    return mr, ct


def test_dicom_folders(tmp_path, monkeypatch):
    mr, _ = write_dicom(tmp_path)
    files = (tmp_path / "mr", tmp_path / "out.nii.gz")
    flags = ("--ct.path", tmp_path / "ct", "--ct.no_clean", "--ct.window", "brain")
    call(*files, *FULL, *flags, "--panels")
    out = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(out.get_fdata(), 0.5 * mr.transpose(2, 1, 0), atol=350 * 1e-5)
    want = np.array([[-1.44, 0.42, 0, 12], [-0.42, -1.44, 0, 16], [0, 0, 4, 30], [0, 0, 0, 1]])  # RAS+
    np.testing.assert_allclose(out.affine, want, atol=1e-5)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["ct"] == {
        "window": "brain",
        "registration": "none",
        "cleaned": False,
        "covers": record["ct"]["covers"],
    }
    assert record["ct"]["covers"] > 0.9 and record["input"]["orientation"] == "LPS"
    assert record["input"]["sha256"] == fingerprint(tmp_path / "mr")
    for word in (NAME, NUMBER, "IM0000"):
        assert word not in (tmp_path / "out.json").read_text()
    scan = command.open_scan(
        tmp_path / "mr",
        mask=atlf.MaskConfig(),
        ct=CTConfig(path=str(tmp_path / "ct"), clean=False, window="brain"),
    )
    assert scan[2].ct[6:14, 6:12].min() == 0.5  # 40 HU in 0..80
    monkeypatch.chdir(tmp_path / "mr")
    call(".", tmp_path / "here.nii.gz", "--method", "zero_filled")  # the same mask as by the folder's name
    call(tmp_path / "mr", tmp_path / "there.nii.gz", "--method", "zero_filled")
    assert (tmp_path / "here.nii.gz").read_bytes() == (tmp_path / "there.nii.gz").read_bytes()
    refused(tmp_path / "ct", tmp_path / "b.nii.gz", *FULL, words=("is CT by its header; wanted MR",))
    refused(tmp_path / "mr", tmp_path / "b.nii.gz", *FULL, "--ct.path", tmp_path / "mr", words=("is MR by its header",))
    refused(tmp_path, tmp_path / "b.nii.gz", *FULL, words=("it has folders (ct, mr): name one of them",))
    (tmp_path / "mr" / "IM0002.dcm").unlink()
    refused(tmp_path / "mr", tmp_path / "b.nii.gz", *FULL, words=("misses a slice, or is unevenly spaced",))


def test_a_ct_of_another_person_is_refused(tmp_path):
    write_dicom(tmp_path, number="PID-4712")
    message = refused(
        *(tmp_path / "mr", tmp_path / "out.nii.gz", *FULL, "--ct.path", tmp_path / "ct"),
        words=("have different patient numbers in their headers",),
    )
    assert "PID" not in message


@pytest.mark.slow
def test_a_prepared_mr_comes_back(tmp_path):
    """From DICOM to the dataset, and through a full mask and hard consistency back: values and place are kept."""
    mr, _ = write_dicom(tmp_path)
    (tmp_path / "pairs.csv").write_text("subject,ct,mr\na,ct,mr\n")
    flags = ("--registration", "none", "--keep_flagged", "--no_qc")
    prepare_command.main(["table", str(tmp_path / "pairs.csv"), str(tmp_path / "data"), *flags])
    source = tmp_path / "data" / "a" / "mr.nii.gz"
    arguments = (source, tmp_path / "out.nii.gz", "--checkpoint", "aanlib-4x-compact", "--hard_consistency")
    arguments += ("--mask.acceleration", "1", "--batch_size", "5", "--ct.path", source.with_name("ct.nii.gz"))
    call(*arguments)
    want, got = read_nifti(source), read_nifti(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(got.data, want.data, atol=1e-5 * want.data.max())
    np.testing.assert_array_equal(got.affine, want.affine)
    assert got.codes == want.codes
    np.testing.assert_allclose(got.data, 0.5 * mr.transpose(2, 1, 0), atol=350 * 1e-5)


def test_a_ct_for_kspace_lies_on_its_grid(tmp_path):
    arguments = npy(tmp_path, noise(2, 20, 16))
    np.save(tmp_path / "ct.npy", np.full((2, 20, 16), 40, np.int16))
    flags = ("--ct.path", tmp_path / "ct.npy")
    refused(*arguments, *flags, "--ct.register", "rigid", words=("cannot be registered to",))
    refused(*arguments, *flags, "--ct.window", "none", words=("spans [40, 40]; wanted [0, 1]",))
    call(*arguments, *flags, "--ct.window", "brain")
    assert json.loads((tmp_path / "out.json").read_text())["ct"]["window"] == "brain"
    np.save(tmp_path / "ct.npy", np.zeros((2, 20, 15)))
    refused(*arguments, *flags, "--overwrite", words=("ct.npy has slices (2, 20, 15), and k-space (2, 20, 16)",))


def test_fastmri_files(tmp_path):
    rng = np.random.default_rng(1)
    image = (rng.random((3, 32, 28)) + 0.2).astype(np.complex64)
    maps = np.asarray(atlf.birdcage_maps((32, 28), 4))
    kspace = fft2c_numpy(maps[None] * image[:, None])
    mask = np.ones(28, bool)
    write_kspace(tmp_path / "scan.h5", kspace, mask=mask, image_shape=(24, 20), attributes={"patient_id": "Smith"})
    arguments = ("--method", "zero_filled", "--coils", "low_resolution", "--panels")
    call(tmp_path / "scan.h5", tmp_path / "out.h5", *arguments)
    with h5py.File(tmp_path / "out.h5") as file:
        out = file["reconstruction"][()]
        assert out.dtype == np.float32 and out.shape == (3, 24, 20)
        assert "patient_id" not in file.attrs
    want = np.abs(atlf.reconstruct(kspace, mask, coils="low_resolution"))[:, 4:28, 4:24]
    np.testing.assert_allclose(out, want, atol=1e-5)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["mask"]["kind"] == "of the scan" and record["coils"]["maps"] == "low_resolution"
    assert "Smith" not in (tmp_path / "out.json").read_text()


def test_kspace_gets_the_voxels_of_its_header(tmp_path, capsys):
    image = head((3, 32, 28))
    write_kspace(tmp_path / "scan.h5", fft2c_numpy(image.astype(np.complex64)), spacing=(0.5, 0.75, 4.0))
    call(tmp_path / "scan.h5", tmp_path / "out.nii.gz", *FULL)
    assert "field of view gives voxels of 0.5 x 0.75 x 4 mm" in capsys.readouterr().err
    volume = read_nifti(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(to_slices(volume), image, atol=700 * 1e-5)
    np.testing.assert_array_equal(np.abs(np.diag(volume.affine)), (0.75, 0.5, 4, 1))
    assert volume.codes == (0, 0)  # where in the patient, the file does not say
    np.save(tmp_path / "k.npy", fft2c_numpy(image.astype(np.complex64)))
    call(tmp_path / "k.npy", tmp_path / "b.nii.gz", *FULL, "--sampling.retrospective")
    assert "not in the input, nor a field of view" in " ".join(capsys.readouterr().err.split())
    volume = read_nifti(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(to_slices(volume), image, atol=700 * 1e-5)
    np.testing.assert_array_equal(volume.spacing, 1)
    refused(
        tmp_path / "k.npy",
        tmp_path / "b.png",
        *FULL,
        words=("b.png ends in neither .h5 nor .hdf5 nor .nii nor .nii.gz",),
    )


def test_padding_is_never_acquired(tmp_path):
    kspace = fft2c_numpy(head((3, 20, 24)).astype(np.complex64))
    write_kspace(tmp_path / "scan.h5", kspace, padding=(4, 2))
    call(tmp_path / "scan.h5", tmp_path / "out.h5", *FULL)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["mask"]["nominal_acceleration"] == 1
    assert record["mask"]["effective_acceleration"] == pytest.approx(24 / 18, abs=1e-3)


def test_npy_files(tmp_path):
    image = head((3, 20, 18)).astype(np.complex64)
    np.save(tmp_path / "k.npy", fft2c_numpy(image))
    np.save(tmp_path / "mask.npy", np.ones(18, np.uint8))
    call(tmp_path / "k.npy", tmp_path / "out.h5", "--method", "zero_filled", "--sampling.file", tmp_path / "mask.npy")
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["reconstruction"], image.real, atol=700 * 1e-5)
    call(tmp_path / "k.npy", tmp_path / "b.h5", *FULL, "--sampling.retrospective", "--ct.window", "none")
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_allclose(file["reconstruction"], image.real, atol=700 * 1e-5)


def undersampled():
    """K-space of two slices at 2x, and the lines that were measured."""
    own = np.abs(np.arange(24) - 12) < 4
    own[::4] = True
    y, x = np.ogrid[:32, :24]
    image = np.ones((2, 1, 1)) * (((y - 16) / 12) ** 2 + ((x - 12) / 9) ** 2 < 1)
    return np.where(own, fft2c_numpy(image.astype(np.complex64)), 0), own


@pytest.mark.parametrize(
    ("file", "given", "kind", "warning"),
    [
        ("own", None, "of the scan", None),
        ("own", "all", "of the scan and of a file", "names samples that the scan's own mask lacks"),
        ("own", "half", "of the scan and of a file", "names samples that the scan's own mask lacks"),
        ("none", None, "of the empty samples of k-space", "12 of 24 columns of k-space are empty"),
        ("none", "all", "of a file", "they do not count as acquired"),
        ("npy", "all", "of a file", "they do not count as acquired"),
        ("wrong", None, "of the scan", "they do not count as acquired"),
    ],
)
def test_what_was_measured_is_told_by_the_scan_first(tmp_path, capsys, file, given, kind, warning):
    """Its own mask, its empty lines and a mask's file are joined, so that no zero counts as a sample."""
    kspace, own = undersampled()
    assert own.sum() == 9 + 3
    write_kspace(tmp_path / "own.h5", kspace, mask=own)
    write_kspace(tmp_path / "none.h5", kspace)
    write_kspace(tmp_path / "wrong.h5", kspace, mask=np.ones(24, bool))
    np.save(tmp_path / "npy.npy", kspace)
    masks = {"all": np.ones(24, bool), "half": np.arange(24) < 18}
    np.save(tmp_path / "mask.npy", masks.get(given, own))
    flags = ("--sampling.file", tmp_path / "mask.npy") if given else ()
    source = next(tmp_path.glob(f"{file}.*"))
    call(source, tmp_path / "out.h5", "--method", "zero_filled", "--mask.acceleration", "4", *flags)
    record = json.loads((tmp_path / "out.json").read_text())
    want = own & masks.get(given, own)
    assert record["mask"]["effective_acceleration"] == pytest.approx(24 / want.sum(), abs=1e-3)
    assert record["mask"]["hash"] == stored_mask(want, layout="centered").hash
    assert record["mask"]["kind"] == kind
    assert [warning in words for words in record["warnings"]] == ([True] if warning else [])
    assert warning is None or warning in " ".join(capsys.readouterr().err.split())
    with h5py.File(tmp_path / "out.h5") as done:
        image = np.abs(atlf.reconstruct(kspace, want))
        np.testing.assert_allclose(done["reconstruction"], image, atol=1e-5)


def test_undersampled_kspace_is_no_full_scan(tmp_path):
    kspace, own = undersampled()
    np.save(tmp_path / "k.npy", kspace)
    files = (tmp_path / "k.npy", tmp_path / "out.h5", *FULL)
    refused(*files, "--sampling.retrospective", words=("k.npy is not fully sampled: 12 of 24 columns",))
    refused(*files, words=("which samples were acquired (12 of 24 columns",))
    np.save(tmp_path / "mask.npy", ~own | (np.arange(24) == 12))
    write_kspace(tmp_path / "own.h5", kspace, mask=own & (np.arange(24) != 12))
    refused(
        *(tmp_path / "own.h5", tmp_path / "out.h5", *FULL, "--sampling.file", tmp_path / "mask.npy"),
        words=("own.h5 has no sample that its mask and its k-space share",),
    )


def test_zero_filled_edges_are_not_drawn_over(tmp_path):
    """A full scan with zeros about it stays a full scan, of which a study may draw lines."""
    kspace = fft2c_numpy(head((3, 20, 24)).astype(np.complex64))
    kspace[..., :4] = kspace[..., 22:] = 0
    write_kspace(tmp_path / "scan.h5", kspace)
    call(tmp_path / "scan.h5", tmp_path / "out.h5", *FULL)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["mask"]["effective_acceleration"] == pytest.approx(24 / 18, abs=1e-3)
    assert record["mask"]["kind"] == "random_exact" and "6 of 24 columns" in record["warnings"][0]


def test_files_of_other_kinds_are_told_what_to_do(tmp_path):
    """Coils last, an archive named .npy, a slice of a series, a complex CT."""
    out = tmp_path / "out.h5"
    np.save(tmp_path / "last.npy", noise(40, 36, 8))
    words = ("(40, 36, 8) has its coils last", "numpy.moveaxis(k, -1, 0)")
    refused(tmp_path / "last.npy", out, *FULL, "--sampling.retrospective", words=words)
    with (tmp_path / "k.npy").open("wb") as file:
        np.savez(file, k=noise(20, 16))
    refused(tmp_path / "k.npy", out, *FULL, "--sampling.retrospective", words=("k.npy is an .npz archive",))
    write_dicom(tmp_path)
    file = tmp_path / "mr" / "IM0001.dcm"
    (tmp_path / "IM0001").write_bytes(file.read_bytes())
    for one in (file, tmp_path / "IM0001"):
        refused(one, out, *FULL, words=("one slice of a DICOM series", f"give the folder that holds it: {one.parent}"))
    arguments = npy(tmp_path, noise(2, 20, 16))
    np.save(tmp_path / "ct.npy", noise(2, 20, 16))
    refused(*arguments, "--ct.path", tmp_path / "ct.npy", words=("ct.npy holds complex numbers", "Hounsfield"))


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    source = save(tmp_path / "mr.nii.gz", head())
    call(source, tmp_path / "new" / "out.nii.gz", *FULL, "--dry_run")
    said = capsys.readouterr().err
    assert "5 slices of 18x20" in said and "out.nii.gz" in said and "nothing was written" in said
    assert not (tmp_path / "new").exists()


def test_files_that_are_there_are_kept(tmp_path):
    source = save(tmp_path / "mr.nii.gz", head())
    (tmp_path / "out.nii.gz").write_text("old")
    refused(source, tmp_path / "out.nii.gz", *FULL, words=("is there already", "--overwrite"))
    refused(source, source, *FULL, "--overwrite", words=("is the input",))
    call(source, tmp_path / "out.nii.gz", *FULL, "--overwrite")
    assert read_nifti(tmp_path / "out.nii.gz").data.shape == (20, 18, 5)


def npy(tmp_path, kspace, mask=None):
    np.save(tmp_path / "k.npy", kspace)
    np.save(tmp_path / "mask.npy", np.ones(kspace.shape[-1], bool) if mask is None else mask)
    return tmp_path / "k.npy", tmp_path / "out.h5", "--method", "zero_filled", "--sampling.file", tmp_path / "mask.npy"


def noise(*shape):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize(
    ("kspace", "mask", "words"),
    [
        (noise(2, 20, 16), np.ones(9), ("mask.npy has shape (9,)", "wanted a mask [16]")),
        (noise(2, 20, 16), np.full(16, 2), ("mask.npy", "other than 0 and 1")),
        (noise(2, 20, 16), np.arange(16) == 0, ("mask.npy", "zero frequency is not acquired", "'corner'")),
        (noise(2, 20, 16).view(np.float32).reshape(2, 20, 16, 2), np.ones(16), ("kept apart", "k[..., 0] + 1j")),
        (np.abs(noise(3, 20, 16)), np.ones(16), ("k-space is float32", "wanted complex64")),
        (np.zeros((2, 20, 16), np.complex64), np.ones(16), ("k-space is zero at every sample",)),
        (noise(2, 20, 16) * np.where(np.arange(16) == 3, np.nan, 1), np.ones(16), ("k.npy", "not finite")),
        (noise(20), np.ones(20), ("k-space has shape (20,)",)),
    ],
    ids=["mask size", "mask values", "mask layout", "two reals", "magnitude", "zero", "nan", "axes"],
)
def test_bad_kspace_is_one_line(tmp_path, kspace, mask, words):
    refused(*npy(tmp_path, kspace, mask), words=words)


def test_more_bad_input_is_one_line(tmp_path):
    source, out = save(tmp_path / "mr.nii.gz", head()), tmp_path / "out.nii.gz"
    refused(tmp_path / "nothing.nii", out, *FULL, words=("nothing.nii",))
    refused(tmp_path / "nothing.npy", tmp_path / "out.h5", *FULL, words=("not a readable .npy array",))
    refused(tmp_path / "scan.png", tmp_path / "out.h5", *FULL, words=("ends in none of .nii",))
    refused(source, tmp_path / "out.h5", *FULL, words=("out.h5 ends in neither .nii nor .nii.gz",))
    refused(source, out, words=("--checkpoint runs/NAME",))
    refused(source, out, "--checkpoint", tmp_path / "runs" / "x", words=("neither a run's folder", "aanlib-4x-compact"))
    refused(source, out, *FULL, "--virtual_coils", "2", words=("no coil axis",))
    refused(source, out, *FULL, "--batch_size", "0", words=("--batch_size is 0",))
    refused(save(tmp_path / "zero.nii", 0 * head()), out, *FULL, words=("zero everywhere",))
    (tmp_path / "cut.nii.gz").write_bytes(source.read_bytes()[:200])
    refused(tmp_path / "cut.nii.gz", out, *FULL, words=("truncated gzip",))
    spoilt = nibabel.load(source).get_fdata()
    spoilt[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(spoilt, LAS), tmp_path / "nan.nii")
    refused(tmp_path / "nan.nii", out, *FULL, words=("not finite",))
    np.save(tmp_path / "k.npy", noise(2, 20, 16))
    refused(tmp_path / "k.npy", tmp_path / "out.h5", *FULL, words=("which samples were acquired", "--sampling.file"))


def test_coils_are_checked(tmp_path):
    kspace = noise(2, 3, 20, 16)
    arguments = npy(tmp_path, kspace, np.arange(16) % 2 == 0)
    refused(*arguments, words=("fully sampled centre of the mask is smaller than 4 samples",))
    arguments = npy(tmp_path, kspace)
    refused(*arguments, "--virtual_coils", "4", words=("--virtual_coils is 4; wanted 1 to 3",))
    np.save(tmp_path / "cov.npy", np.ones((3, 3)))
    refused(*arguments, "--noise_covariance", tmp_path / "cov.npy", words=("not positive definite",))
    np.save(tmp_path / "cov.npy", np.eye(2))
    refused(*arguments, "--noise_covariance", tmp_path / "cov.npy", words=("of 3 coils",))
    np.save(tmp_path / "maps.npy", noise(3, 20, 15))
    refused(*arguments, "--kspace.coil_maps", tmp_path / "maps.npy", words=("maps.npy has shape (3, 20, 15)",))
    np.save(tmp_path / "cov.npy", np.eye(3))
    call(*arguments, "--noise_covariance", tmp_path / "cov.npy", "--virtual_coils", "2")
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["coils"] == {
        "coils": 3,
        "virtual_coils": 2,
        "whitened": True,
        "maps": "espirit",
        "calibration": [20, 16],
    }


@pytest.mark.parametrize("ending", ["nii.gz", "h5"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, ending):
    source = save(tmp_path / "mr.nii.gz", head())
    arguments = (source, tmp_path / "out.nii.gz", *FULL) if ending == "nii.gz" else npy(tmp_path, noise(2, 20, 16))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(volume_scan, "write_nifti", full)
    monkeypatch.setattr(kspace_scan, "write_reconstruction", full)
    refused(*arguments, words=("No space left on device", "make room"))
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.mkdtemp", full)
    refused(*arguments, words=("No space left on device", "make room"))


@pytest.mark.parametrize(("beside", "ending"), [("record", "json"), ("panels", "png")])
def test_what_lies_beside_the_image_never_costs_it(tmp_path, monkeypatch, capsys, beside, ending):
    source, out = save(tmp_path / "mr.nii.gz", head()), tmp_path / "out.nii.gz"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text" if beside == "record" else "write_bytes", full)
    monkeypatch.setattr(
        volume_scan, "write_nifti", lambda path, volume: nibabel.save(nibabel.Nifti1Image(volume.data, LAS), path)
    )
    with pytest.raises(SystemExit, match="1"):
        call(source, out, *FULL, "--panels")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"atlf reconstruct: {out} is written, but out.{ending} is missing (No space left on device)"
    kept = {"mr.nii.gz", "out.nii.gz", "out.json", "out.png"} - {f"out.{ending}"}
    assert {file.name for file in tmp_path.iterdir()} == kept
    np.testing.assert_allclose(nibabel.load(out).get_fdata(), head(), atol=700 * 1e-5)


def test_outputs_are_never_inputs_however_they_are_spelt(tmp_path, monkeypatch):
    """By a link, a hard link, a relative path, another spelling of the folder, or as the CT or the mask's file."""
    source = save(tmp_path / "mr.nii.gz", head())
    ct = save(tmp_path / "ct.nii.gz", head())
    (tmp_path / "link.nii.gz").symlink_to(source)
    (tmp_path / "hard.nii.gz").hardlink_to(source)
    (tmp_path / "sub").mkdir()
    (tmp_path / "other").symlink_to(tmp_path)
    before = [file.read_bytes() for file in (source, ct)]
    monkeypatch.chdir(tmp_path / "sub")
    for out in ("../link.nii.gz", "../hard.nii.gz", "../mr.nii.gz", tmp_path / "other" / "mr.nii.gz", ct):
        refused(source, out, *FULL, "--overwrite", "--ct.path", ct, words=("is the input or another file",))
    assert [file.read_bytes() for file in (source, ct)] == before
    write_dicom(tmp_path)
    (tmp_path / "mr" / "IM0000.dcm").rename(tmp_path / "mr" / "IM0000.nii")
    refused(tmp_path / "mr", tmp_path / "mr" / "IM0000.nii", *FULL, "--overwrite", words=("is the input",))


def test_room_on_the_disk_is_looked_for_before_the_work(tmp_path, monkeypatch):
    arguments = npy(tmp_path, noise(2, 20, 16))
    monkeypatch.setattr(command, "reconstruct_records", None)  # not called
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2000))
    refused(*arguments, words=("out.h5 cannot be written", "MiB are needed", "choose another folder"))


def test_outputs_are_checked_before_the_work(tmp_path, monkeypatch):
    source = save(tmp_path / "mr.nii.gz", head())
    monkeypatch.setattr(command, "open_scan", None)  # not called
    (tmp_path / "out.json").mkdir()
    refused(source, tmp_path / "out.nii.gz", *FULL, "--overwrite", words=("out.json", "Is a directory"))
    refused(source, source / "a" / "out.nii.gz", *FULL, words=("mr.nii.gz is a file", "choose another folder"))
    refused(source, tmp_path / "out.nii.png", *FULL, words=("ends in neither",))
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(source, tmp_path / "b.nii.gz", *FULL, words=("Permission denied", "choose another folder"))


@pytest.mark.slow
def test_panels_do_not_ask_for_a_notebooks_backend(tmp_path, settings):
    source, out = save(tmp_path / "mr.nii.gz", head()), tmp_path / "out.nii.gz"
    program = [sys.executable, "-m", "atlf_jax.reconstruct", str(source), str(out), *FULL, "--panels"]
    done = subprocess.run(
        program,
        **settings | {"env": settings["env"] | {"MPLBACKEND": "module://no_such_notebook"}},
        capture_output=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_more_slices_at_a_time_than_there_are_cost_nothing(tmp_path, monkeypatch):
    seen, original = [], command.reconstruct_records
    monkeypatch.setattr(
        command,
        "reconstruct_records",
        lambda records, s, *rest: (seen.append(s.batch_size), original(records, s, *rest))[1],
    )
    call(save(tmp_path / "mr.nii.gz", head((20, 18, 3))), tmp_path / "out.nii.gz", *FULL, "--batch_size", "100000")
    assert seen == [3]


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    source = save(tmp_path / "mr.nii.gz", head())

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    refused(source, source / "out.nii.gz", *FULL, words=("cannot be written",))  # a file where a folder is meant
    monkeypatch.setattr("tempfile.mkdtemp", forbidden)
    refused(source, tmp_path / "out.nii.gz", *FULL, words=("Permission denied", "choose another folder"))


def run(*arguments, limit="unlimited"):
    """Run the command as a user does, with files of at most so many KiB."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = (
        f"ulimit -f {limit} && exec {shlex.join([sys.executable, '-m', 'atlf_jax.reconstruct', *map(str, arguments)])}"
    )
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volume", "k-space"])
def test_the_command_itself(tmp_path, kind):
    """As a user runs it; and with a file size that the system refuses in the middle of writing."""
    if kind == "volume":
        arguments = (save(tmp_path / "mr.nii.gz", head((40, 40, 20))), tmp_path / "out.nii.gz", *FULL)
    else:
        arguments = npy(tmp_path, noise(20, 40, 40))
    failed = run(*arguments, limit=20)
    assert failed.returncode == 2, (failed.returncode, failed.stderr)
    last = failed.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("python -m atlf_jax.reconstruct: ")
        and "cannot be written" in last
        and "Traceback" not in failed.stderr
    )
    assert not [file for file in tmp_path.iterdir() if "out" in file.name]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning" not in done.stderr
    assert arguments[1].exists() and (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_a_trained_network_with_hard_consistency_gives_a_full_scan_back(smoke, tmp_path):
    data = head((31, 33, 3))  # the network wants even sides
    source = save(tmp_path / "mr.nii.gz", data, OBLIQUE)
    flags = ("--checkpoint", smoke, "--hard_consistency")
    call(source, tmp_path / "full.nii.gz", *flags, "--mask.acceleration", "1", "--mask.center_fraction", "0.08")
    np.testing.assert_allclose(read_nifti(tmp_path / "full.nii.gz").data, data, atol=1e-5 * data.max())
    call(source, tmp_path / "out.nii.gz", *flags)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["mask"]["nominal_acceleration"] == 4 and record["mask"]["kind"] == "random"  # as it was trained
    assert record["model"]["name"] == "phantom_smoke" and record["data_consistency_residual"] < 1e-4


def tilted(measurement):
    """A network whose mirror copies differ."""
    image = atlf.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return atlf.Reconstruction(image * jnp.linspace(1, 2, image.shape[-1])[None, None])


def test_the_expected_error_is_written_beside(tmp_path, monkeypatch):
    calibration = [None]
    monkeypatch.setattr(arguments, "load", lambda *_, **__: network_of(tilted, calibration=calibration[0]))
    data = head((20, 18, 3))
    data[..., 2] = 0
    source, out = save(tmp_path / "mr.nii.gz", data), tmp_path / "out.nii.gz"
    flags = ("--checkpoint", "net", "--uncertainty", "--mask.acceleration", "1", "--batch_size", "2", "--force")
    refused(source, out, *flags, words=("uncertainty wants a calibrated network", "evaluate.py --uncertainty"))
    refused(source, out, "--uncertainty", "--method", "zero_filled", words=("uncertainty wants a calibrated network",))
    calibration[0] = Calibration(2.5, 2.1)
    call(source, out, *flags)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["model"]["uncertainty"] == {"scale": 2.5, "bound": 2.1}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "mr.nii.gz",
        "out.json",
        "out.nii.gz",
        "out_error.nii.gz",
    ]
    error, image = read_nifti(tmp_path / "out_error.nii.gz"), read_nifti(out)
    np.testing.assert_array_equal(error.affine, image.affine)
    one = np.abs(data[:, ::-1, 1].T).astype(np.complex64)  # as in test_undersampling_equals_the_library
    measurement = Measurement(atlf.fft2c(one)[None], np.ones((1, 1, 20), bool), np.zeros((1, 18, 20), np.float32))
    want = 2.5 * spread(lambda measurement: jnp.abs(tilted(measurement).image), measurement)[0]
    np.testing.assert_allclose(error.data[:, ::-1, 1].T, want, atol=1e-5 * data.max())  # measured 3e-7
    assert (error.data[..., 2] == 0).all() and error.data[..., 1].max() > 100
    call(source, out, *flags, "--hard_consistency", "--overwrite")  # everything was measured: nothing can be wrong
    assert read_nifti(tmp_path / "out_error.nii.gz").data.max() < 1e-5 * data.max()  # measured 3e-7


def test_mirror_images_are_averaged_as_asked_or_as_packed(tmp_path, monkeypatch):
    packed = [False]
    monkeypatch.setattr(arguments, "load", lambda *_, **__: network_of(tilted).averaging_mirrors(packed[0]))
    data = head((20, 18, 1))
    source, out = save(tmp_path / "mr.nii.gz", data), tmp_path / "out.nii.gz"
    flags = ("--checkpoint", "net", "--mask.acceleration", "1", "--force", "--overwrite")
    found = []
    for more, packed[0] in (((), False), (("--mirror_average",), False), ((), True), (("--no_mirror_average",), True)):
        call(source, out, *flags, *more)
        assert json.loads((tmp_path / "out.json").read_text())["model"]["mirror_average"] == (len(found) in (1, 2))
        found.append(read_nifti(out).data)
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_array_equal(found[1], found[2])
    # the tilt of 1 to 2 over 20 columns, about index 10: the mean with its mirror image
    tilt = np.linspace(1, 2, 20)
    mean = (tilt + np.roll(tilt[::-1], 1)) / 2
    inside = found[0] > 10
    want = found[0] * (mean / tilt)[:, None, None]
    np.testing.assert_allclose(found[1][inside], want[inside], rtol=1e-4)
    refused(
        source,
        out,
        "--method",
        "zero_filled",
        "--overwrite",
        "--mirror_average",
        words=("--mirror_average is for networks",),
    )
    refused(source, out, *flags, "--mirror_average", "--uncertainty", words=("choose one of the two",))


def trusting(measurement):
    """A network that takes the CT for the image, where there is one."""
    there = (measurement.ct.max((-2, -1)) > 0)[:, None, None]
    image = atlf.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return atlf.Reconstruction(jnp.where(there, measurement.ct.astype(jnp.complex64), image))


@pytest.mark.parametrize("helps", [True, False])
def test_whether_the_ct_helps_is_told(tmp_path, monkeypatch, capsys, helps):
    config = Config(augment=AugmentConfig(ct_dropout=0.2))
    monkeypatch.setattr(arguments, "load", lambda *_, **__: network_of(trusting, config=config))
    data = head((64, 64, 3))
    source = save(tmp_path / "mr.nii.gz", data)
    like = data if helps else data[::-1]
    ct = save(tmp_path / "ct.nii.gz", 80 * like / data.max())  # the brain window, which this configuration has
    flags = ("--checkpoint", "net", "--mask.acceleration", "2", "--check_ct", "--force")
    refused(source, tmp_path / "out.nii.gz", *flags, words=("check_ct asks whether the CT helps",))
    files = (source, tmp_path / "out.nii.gz", *flags, "--ct.path", ct, "--ct.no_clean")
    call(*files)
    facts, told = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().err
    gain = facts["ct_gain_on_withheld_samples_db"]
    words = f"predicted {gain:.2f} dB better" if helps else f"predicted {-gain:.2f} dB worse with it"
    assert words in " ".join(told.split())
    assert any("the CT does not help" in words for words in facts["warnings"]) is not helps
    assert ("doubtful: the CT does not help" in told) is not helps
    assert gain > 3 if helps else gain < 0
    call(*files, "--overwrite", "--ct_weight", "withheld")
    facts, told = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().err
    weight = facts["model"]["ct_weight"]
    assert f"weight of the CT {weight:.2f} (chosen by withheld samples)" in told
    assert weight > 0.6 if helps else weight < 0.3
    assert facts["model"]["ct_gain_at_full_weight_db"] > 3 if helps else facts["model"]["ct_gain_at_full_weight_db"] < 0
    np.save(tmp_path / "middle.npy", np.abs(np.arange(64) - 32) < 2)
    call(*files, "--overwrite", "--sampling.file", tmp_path / "middle.npy")
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["ct_gain_on_withheld_samples_db"] is None and "is not known" in facts["warnings"][-1]
    monkeypatch.setattr(arguments, "load", lambda *_, **__: network_of(trusting))
    refused(*files, "--overwrite", words=("was not trained for both", "aanlib-best"))


def test_the_expected_error_of_kspace_is_written_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "load", lambda *_, **__: network_of(tilted, calibration=Calibration(2.5, 2.1)))
    np.save(tmp_path / "scan.npy", fft2c_numpy(head((3, 18, 20)).astype(np.complex64)))
    np.save(tmp_path / "mask.npy", np.ones(20, bool))
    files = (tmp_path / "scan.npy", tmp_path / "out.h5", "--sampling.file", tmp_path / "mask.npy")
    call(*files, "--checkpoint", "net", "--uncertainty", "--batch_size", "2", "--force")
    with h5py.File(tmp_path / "out.h5") as image, h5py.File(tmp_path / "out_error.h5") as error:
        assert error["reconstruction"].shape == image["reconstruction"].shape == (3, 18, 20)
        assert error["reconstruction"][:].min() > 0


@pytest.mark.data
def test_real_volumes_come_back(tmp_path, data_dir):
    for name in ("mmwhs/mscmr_mr_volumes/patient10_C0.nii.gz", "mmwhs/mscmr_mr_volumes/patient10_LGE.nii.gz"):
        source, out = Path(data_dir, name), tmp_path / Path(name).name
        call(source, out, *FULL)
        want, got = read_nifti(source), read_nifti(out)
        np.testing.assert_allclose(got.data, want.data, atol=1e-5 * want.data.max())
        np.testing.assert_array_equal(got.affine, want.affine)
        assert got.codes == want.codes


@pytest.mark.data
def test_a_real_dicom_ct_beside_an_mr_of_its_place(tmp_path, data_dir):
    """The eight CT slices at hand, and an MR that is made of every second of their pixels."""
    folder = Path(data_dir, "chaos", "ct_set_3")
    ct = read_scan(folder / "dicom", "CT").volume
    stored = np.clip(to_slices(ct)[:, ::2, ::2] + 1024, 0, 4000).astype(np.uint16)
    spacing = tuple(2 * ct.spacing[:2])
    corner = ct.affine @ (0, 0, 0, 1) * (-1, -1, 1, 1)  # RAS+ to LPS+
    write_series(
        tmp_path / "mr", stored, modality="MR", corner=corner[:3], spacing=spacing, step=ct.spacing[2], number=""
    )
    flags = ("--ct.path", folder / "dicom", "--panels")
    call(tmp_path / "mr", tmp_path / "out.nii.gz", *FULL, *flags)
    out = read_nifti(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(to_slices(out), stored, atol=4000 * 1e-5)
    np.testing.assert_allclose(out.affine[:, 3], ct.affine[:, 3], atol=1e-3)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["ct"]["covers"] > 0.98 and record["ct"]["cleaned"]
    refused(folder / "dicom", tmp_path / "b.nii.gz", *FULL, words=("is CT by its header; wanted MR",))


@pytest.mark.data
@pytest.mark.slow
def test_real_coils(tmp_path, data_dir):
    kspace = np.load(Path(data_dir, "kspace", "sigpy_brain_8ch_poisson8x_230x180.npy"))
    np.save(tmp_path / "brain.npy", kspace)
    np.save(tmp_path / "mask.npy", np.abs(kspace).sum(0) > 0)
    files = ("--sampling.file", tmp_path / "mask.npy", "--kspace.first_axis", "coils")
    call(tmp_path / "brain.npy", tmp_path / "out.h5", "--method", "zero_filled", *files, "--virtual_coils", "6")
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["coils"]["calibration"] == [24, 24]
    assert record["mask"]["effective_acceleration"] == pytest.approx(8.042, abs=0.001)


def test_a_file_draws_no_acceleration_by_its_name():
    """Networks for several accelerations are trained with all; a scan has the first, whatever its file is called."""
    for name in ("a.nii.gz", "b.nii.gz", "patient.nii.gz"):
        mask = command.parse([name, "out.nii.gz", "--checkpoint", "aanlib-best"]).mask
        assert (mask.acceleration, mask.center_fraction) == (4.0, 0.08)


def test_coils_in_a_file_are_not_taken_for_slices(tmp_path):
    image = fft2c_numpy(np.asarray(atlf.birdcage_maps((48, 40), 6)) * head((1, 48, 40))[0])
    np.save(tmp_path / "k.npy", image.astype(np.complex64))
    np.save(tmp_path / "mask.npy", np.ones(40, bool))
    files = (tmp_path / "k.npy", tmp_path / "out.h5", "--method", "zero_filled")
    flags = ("--sampling.file", tmp_path / "mask.npy")
    refused(*files, *flags, words=("looks like 6 coils of one slice", "--kspace.first_axis coils"))
    call(*files, *flags, "--kspace.first_axis", "coils")
    assert json.loads((tmp_path / "out.json").read_text())["coils"]["coils"] == 6
