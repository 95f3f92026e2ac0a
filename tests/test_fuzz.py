"""Damaged files of every format: each is refused in one sentence that names it, or read as what it says.

A valid file is edited (bits flipped, bytes replaced, spans cut out, doubled, swapped, blanked or filled with noise, the
end cut off) and read. Allowed is a ``ValueError`` of one line and at most 250 characters that names the file, with
nothing written; or the arrays of the valid file. Formats without a checksum cannot tell an edited number from another
number: there the edits keep to headers and structure, and what is accepted must be what a plain reader (numpy, nibabel,
h5py, pydicom, csv) finds in the same bytes. ``ATLF_FUZZ=20`` makes twenty times as many edits.
"""

import csv
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import jax
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from atlf_jax.array_types import Measurement
from atlf_jax.config import Config, to_dict
from atlf_jax.data import AANLIBConfig, AANLIBSource, PreparedConfig, PreparedSource, preparation
from atlf_jax.data.dicom import read_series
from atlf_jax.data.fastmri import KSpaceFile, write_kspace
from atlf_jax.data.inputs import load_npy
from atlf_jax.data.volume import Volume, read_nifti, write_nifti
from atlf_jax.models import build
from atlf_jax.models.dc_cnn import DCCNNConfig
from atlf_jax.program import REFUSED
from atlf_jax.reconstruct import command
from atlf_jax.trained import Network, load
from tests.data.dicom_files import write_series

SCALE = float(os.environ.get("ATLF_FUZZ", "1"))
OBLIQUE = np.array([[-0.9, 0.2, 0.4, 80], [0.25, 0.92, 0.3, -60], [-0.3, 0.35, 4.8, 12], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Format:
    """A valid file, how it is read here, and what a plain reader finds in it (None: it has a checksum)."""

    file: Path
    read: Callable[[], Any]
    plain: Callable[[], Any] | None = None
    structure: tuple[tuple[int, int], ...] = ()  # parts of the file that edits keep to; empty: all


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def npy(folder):
    file = folder / "k.npy"
    np.save(file, noise(2, 20, 16))
    return Format(file, lambda: np.array(load_npy(file)), lambda: np.load(file), ((0, 128),))


def hdf5(folder):
    file = folder / "scan.h5"
    mask = np.arange(16) % 2 == 0
    write_kspace(file, noise(2, 20, 16), mask=mask, spacing=(1.0, 1.0, 3.0), attributes={"acquisition": "AXT2"})
    with h5py.File(file) as raw:
        start, size = raw["kspace"].id.get_offset(), raw["kspace"].nbytes
    end = file.stat().st_size

    def read():
        with KSpaceFile(file) as scan:
            mask = scan.acquired if scan.mask is None else scan.mask
            assert all(1 <= side <= most for side, most in zip(scan.image_shape, scan.shape, strict=True))
            return [scan[index] for index in range(len(scan))], mask & scan.acquired, scan.acquired

    def plain():
        with h5py.File(file) as raw, KSpaceFile(file) as scan:  # the header's lines are what they say: no checksum
            mask = raw["mask"][()].astype(bool) if "mask" in raw else scan.acquired
            return list(raw["kspace"][()].astype(np.complex64)), mask & scan.acquired, scan.acquired

    return Format(file, read, plain, ((0, start), (start + size, end)))


def nifti(folder):
    file = folder / "mr.nii"
    write_nifti(file, Volume(np.abs(noise(9, 8, 4)), OBLIQUE))
    millimetres = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}

    def read():
        volume = read_nifti(file)
        return volume.data, volume.affine

    def plain():
        image = nibabel.Nifti1Image.from_bytes(file.read_bytes())
        affine = image.affine.copy()
        affine[:3] *= millimetres[int(image.header["xyzt_units"]) & 7]
        data = np.asarray(image.dataobj)
        return data.reshape(data.shape[:3]).astype(np.float32), affine

    return Format(file, read, plain, ((0, 352),))


def nifti_gz(folder):
    file = folder / "mr.nii.gz"
    write_nifti(file, Volume(np.abs(noise(9, 8, 4)), OBLIQUE))

    def read():
        volume = read_nifti(file)
        return volume.data, volume.affine

    return Format(file, read)


def dicom(folder):
    stored = np.random.default_rng(0).integers(0, 2000, (3, 6, 5)).astype(np.uint16)
    file = write_series(folder / "ct", stored, PatientName="A", PatientID="1")[1]

    def read():
        volume = read_series(file.parent).volume
        return volume.data, volume.affine

    def plain():
        found = [pydicom.dcmread(one) for one in sorted(file.parent.iterdir())]
        # one file's axes count for the series, of which readers choose the first along the normal
        normal = np.cross(found[0].ImageOrientationPatient[:3], found[0].ImageOrientationPatient[3:])
        found.sort(key=lambda one: float(np.dot(np.array(one.ImagePositionPatient, float), normal)))
        data = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in found]
        for one, values in zip(found, data, strict=True):
            if "PixelPaddingValue" in one:
                values[one.pixel_array == one.PixelPaddingValue] = -1000
        first, last = (np.array(found[place].ImagePositionPatient, float) for place in (0, -1))
        across, down = np.array(found[0].ImageOrientationPatient, float).reshape(2, 3)
        height, width = map(float, found[0].PixelSpacing)
        affine = np.eye(4)
        affine[:3] = np.stack([across * width, down * height, (last - first) / 2, first], axis=1)
        affine[:2] *= -1
        return np.stack(data, -1).transpose(1, 0, 2).astype(np.float32), affine

    return Format(file, read, plain, ((0, file.stat().st_size - 60),))


def png(folder):
    rng = np.random.default_rng(0)
    for kind in ("CT", "MRI"):
        (folder / kind).mkdir()
        Image.fromarray(rng.integers(0, 256, (18, 16)).astype(np.uint8)).save(folder / kind / "2001.png")

    def read():
        example = AANLIBSource(AANLIBConfig(root=str(folder), split="all"))[0]
        return example.ct, example.target

    return Format(folder / "CT" / "2001.png", read)


def network():
    """A small network, and its variables."""
    config = Config(name="tiny", model=DCCNNConfig(cascades=1, width=4))
    blank = Measurement(
        np.zeros((1, 64, 64), np.complex64), np.ones((1, 1, 64), bool), np.zeros((1, 64, 64), np.float32)
    )
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0), blank)
    rng = np.random.default_rng(0)
    return config, jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


def arrays_of(trained):
    return to_dict(trained.config), trained.facts, jax.tree.map(np.asarray, trained.variables)


def safetensors(folder):
    config, variables = network()
    file = folder / "net.safetensors"
    Network(config, variables, {"step": 7, "stage": "joint", "psnr": 20.5}).save(file)
    return Format(file, lambda: arrays_of(load(file)))


def examples(root):
    source = PreparedSource(PreparedConfig(root=str(root), split="all"))
    return [(example.name, example.subject, example.ct, example.target) for example in source]


def manifest(folder):
    for number in range(2):
        write_nifti(folder / f"{number}_mr.nii.gz", Volume(np.abs(noise(18, 16, 3, seed=number)), OBLIQUE))
    (folder / "pairs.csv").write_text("subject,ct,mr,split\na,,0_mr.nii.gz,valid\nb,,1_mr.nii.gz,inner_train\n")
    settings = {"layout": "table", "source": str(folder / "pairs.csv"), "out": str(folder / "data")}
    preparation.prepare(preparation.PrepareConfig(**settings), say=lambda _: None)
    return Format(folder / "data" / "manifest.json", lambda: examples(folder / "data"))


def table(folder):
    for name in ("ct1.nii", "mr1.nii", "ct2.nii", "mr2.nii"):
        (folder / name).touch()
    file = folder / "pairs.csv"
    file.write_text('subject,ct,mr,split\na,ct1.nii,mr1.nii,valid\nb,"ct2.nii",mr2.nii,\nc,,mr2.nii,test\n')
    settings = preparation.PrepareConfig(layout="table", source=str(file), out=str(folder / "out"))

    def read():
        pairs = preparation.LAYOUTS["table"](file, settings)
        preparation._check_subjects(file, pairs)
        return [(pair.subject, str(pair.ct), str(pair.mr), pair.split) for pair in pairs]

    def plain():
        names, *rows = csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), skipinitialspace=True)
        rows = [dict(zip(names, row, strict=True)) for row in rows if row]
        path = {row[kind]: str(folder / row[kind]) if row[kind] else "None" for row in rows for kind in ("ct", "mr")}
        return [(row["subject"], path[row["ct"]], path[row["mr"]], row.get("split", "")) for row in rows]

    return Format(file, read, plain)


FORMATS = {  # and how many edits the suite makes
    npy: 400,
    hdf5: 300,
    nifti: 350,
    nifti_gz: 150,
    dicom: 250,
    png: 200,
    safetensors: 200,
    manifest: 200,
    table: 300,
}


def edited(content: bytes, rng: np.random.Generator, part: tuple[int, int]) -> bytes:
    """Damage a file in one or two places of a part of it, or at its end."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 3)):
        low, high = part[0], min(part[1], len(data))
        if high - low < 2:
            break
        place = int(rng.integers(low, high))
        span = min(int(2 ** rng.uniform(0, 6)), high - place)
        match int(rng.integers(11)):
            case 0 | 1 | 9 | 10:
                data[place] ^= 1 << int(rng.integers(8))
            case 2 | 3:
                data[place] = int(rng.choice([0, 1, 9, 32, 48, 57, 127, 255, rng.integers(256)]))
            case 4:
                del data[int(rng.integers(len(data))) :]
            case 5:
                del data[place : place + span]
            case 6:
                data[place:place] = data[place : place + span]
            case 7:
                data[place : place + span] = rng.bytes(span) if rng.integers(2) else bytes(span)
            case 8:
                other = int(rng.integers(low, high - span + 1))
                data[place : place + span], data[other : other + span] = (
                    data[other : other + span],
                    data[place : place + span],
                )
    return bytes(data)


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal, number by number."""
    a, b = (jax.tree.flatten(value, is_leaf=lambda leaf: isinstance(leaf, str)) for value in (a, b))
    return a[1] == b[1] and all(
        np.shape(x) == np.shape(y) and np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind in "fc")
        for x, y in zip(a[0], b[0], strict=True)
    )


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def outcome(given: Format, want: Any, root: Path, before: list[Path]) -> str:
    """Read an edited file and say what became of it; fail where it was neither refused nor read as it is."""
    try:
        found = given.read()
    except ValueError as error:
        words = str(error)
        assert "\n" not in words and 0 < len(words) <= 250, words
        assert given.file.name in words or str(given.file.parent) in words, words
        assert "Expecting" not in words, words
        assert listing(root) == before
        return "refused"
    assert listing(root) == before
    if same(found, want):
        return "equal"
    assert given.plain is not None, "another result, though the file has a checksum"
    assert same(found, given.plain()), "another result than the file says"
    return "another valid file"


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_damaged_files_are_refused_in_one_sentence(make, tmp_path, record_property):
    given = make(tmp_path)
    content, want, before = given.file.read_bytes(), given.read(), listing(tmp_path)
    assert given.plain is None or same(given.plain(), want)
    rng, counts = np.random.default_rng(20), Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a person's terminal, where they are no errors
        for number in range(int(FORMATS[make] * SCALE)):
            parts = given.structure or ((0, len(content)),)
            damaged = edited(content, rng, parts[number % len(parts)])
            if damaged == content:
                continue
            given.file.write_bytes(damaged)
            try:
                counts[outcome(given, want, tmp_path, before)] += 1
            except BaseException as error:
                error.add_note(f"edit {number} of {given.file.name}: {damaged[:400]!r}")
                raise
    record_property("outcomes", dict(counts))
    print(make.__name__, dict(counts))
    assert counts["refused"] > 0.3 * counts.total()  # the edits do damage


def test_damaged_inputs_of_the_command_end_with_a_code_and_no_output(tmp_path, capsys):
    """From the terminal: exit code 2, one line, nothing written."""
    flags = ("--method", "zero_filled", "--sampling.retrospective", "--overwrite")
    endings = {npy: "h5", hdf5: "h5", nifti: "nii", nifti_gz: "nii.gz", dicom: "nii"}
    for make, ending in endings.items():
        folder = tmp_path / make.__name__
        folder.mkdir()
        given = make(folder)
        content, before = given.file.read_bytes(), listing(tmp_path)
        source = given.file.parent if make is dicom else given.file
        for damaged in (content[:40], content[: len(content) // 2], content[:-3], b"", b"\0" * len(content)):
            given.file.write_bytes(damaged)
            with pytest.raises(SystemExit) as stop:
                command.main([str(source), str(folder / f"out.{ending}"), *flags])
            said = capsys.readouterr().err
            assert stop.value.code == REFUSED and said.count("\n") == 1 and len(said) < 280, said
            assert said.startswith("atlf reconstruct: ") and listing(tmp_path) == before
