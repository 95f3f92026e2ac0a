"""Files of others: sizes, links and checksums are looked at first, and one sentence says what is wrong."""

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlf_jax.data import inputs
from atlf_jax.data.files import NotWritten, check_writable
from atlf_jax.data.inputs import (
    FileError,
    available_memory,
    check_memory,
    contains,
    inside,
    load_npy,
    read_png,
    reading,
)


def test_messages_are_short_and_name_the_file():
    error = FileError("/very/long" * 40 + "/scan.nii", "is wrong " * 100, "copy it again " * 30)
    assert len(str(error)) <= 250 and "scan.nii is wrong" in str(error) and "\n" not in str(error)
    assert str(FileError("a.nii", "is\n wrong", "do it")) == "a.nii is wrong; do it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # from a loader's process


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError(), zlib.error("bad"), AssertionError()])
def test_whatever_a_reader_raises_is_one_sentence(error):
    with pytest.raises(FileError, match="^a.h5 is not a readable HDF5 file"), reading("a.h5", "a HDF5 file"):
        raise error


def test_free_memory_is_that_of_the_machine_and_of_the_process(monkeypatch):
    resource = pytest.importorskip("resource")
    free = available_memory()
    assert 2**24 < free < 2**50
    check_memory("a", free // 2, "voxels")
    with pytest.raises(FileError, match=r"a declares voxels, .* GiB in memory, and .* GiB are free"):
        check_memory("a", 2**50, "voxels")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))
    assert available_memory() == 0


def test_folders_are_compared_however_they_are_spelt(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    for folder in (tmp_path / "a", tmp_path / "link", Path(), Path("b/.."), tmp_path / "link" / "b" / ".."):
        assert contains(folder, tmp_path / "a" / "b" / "new")
        assert contains(folder, tmp_path / "a") and not contains(folder, tmp_path)
    same = Path.samefile  # as where capital letters do not count
    monkeypatch.setattr(Path, "samefile", lambda a, b: same(Path(str(a).lower()), Path(str(b).lower())))
    assert contains(tmp_path / "A", tmp_path / "a" / "b")


def test_names_lead_into_the_folder_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    assert inside(tmp_path / "in", "a/b") == tmp_path / "in" / "a" / "b"
    for name in ("../a", "/etc/passwd", "a/../../b", "out/a"):
        with pytest.raises(FileError, match="which lies outside"):
            inside(tmp_path / "in", name)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: np.savez(file, a=np.ones(3)), "is an .npz archive of arrays, whatever its name says"),
        (lambda file: np.save(file, np.array(["a", "b"])), "holds <U1 and no numbers"),
        (lambda file: np.save(file, np.array([{}], object), allow_pickle=True), "Python objects"),
        (lambda file: (np.save(file, np.ones(9)), file.write(b"more")), "where its header tells of"),
        (lambda file: file.write(b"\x93NUMPY\x01\x00\x76\x00{'descr': "), "not a readable .npy array"),
    ],
)
def test_other_arrays(tmp_path, write, words):
    with (tmp_path / "a.npy").open("wb") as file:
        write(file)
    with pytest.raises(FileError, match="a.npy ") as error:
        load_npy(tmp_path / "a.npy")
    assert words in str(error.value) and len(str(error.value)) <= 250


def test_a_picture_with_a_wrong_checksum_is_refused(tmp_path):
    path, pixels = tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (20, 20)).astype(np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)
    content = bytearray(path.read_bytes())
    np.testing.assert_array_equal(read_png(path), pixels)
    content[content.index(b"IDAT") + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="its part 'IDAT' is damaged"):
        read_png(path)


def test_a_picture_larger_than_the_memory(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(inputs, "available_memory", lambda: 1000)
    with pytest.raises(FileError, match="declares 20 x 20 pixels"):
        read_png(tmp_path / "a.png")


def test_whether_something_can_be_written_is_known_before(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "at" / "all")
    check_writable(tmp_path / "new" / "folder" / "a.json")
    check_writable(tmp_path / "new" / "folder", folder=True)
    for path, words in (
        (tmp_path / "file" / "a", "file is a file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "lost" / "a", "a link that leads nowhere"),
    ):
        with pytest.raises(NotWritten, match=words):
            check_writable(path)
    with pytest.raises(NotWritten, match="file is a file"):
        check_writable(tmp_path / "file", folder=True)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "lost"}
