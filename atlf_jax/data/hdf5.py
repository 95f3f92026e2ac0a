"""HDF5 files that others made.

The HDF5 library trusts what a file says of itself: some damaged ones end the whole program, or never let go of it. So a
file is first opened in another process (``hdf5_probe.py``), which may die in its place.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from beartype import beartype

from atlf_jax.data.inputs import FileError, reading

__all__ = ["hdf5_dataset", "open_hdf5"]

HEAP = b"GCOL\x01\0\0\0"  # beginning of a heap of texts
EDGE = 2**22  # bytes at either end of a file that are looked through for them
OPEN_TIMEOUT = 30  # seconds that opening a file may take


@beartype
def open_hdf5(path: str | Path, *, known: bool = False) -> Any:
    """Open an HDF5 file for reading.

    Args:
        path: the file.
        known: it was opened before in this run, and is not looked through again.

    Raises:
        FileError: it is missing, another kind of file, or damaged.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileError(path, "does not exist or is no file", "wanted an HDF5 file")
    if not known:
        _check_heaps(path)
        _probe(path, _stamp(path))
    with reading(path, "a HDF5 file"):
        return h5py.File(path, "r")


@beartype
def hdf5_dataset(file: Any, name: str, path: str | Path) -> Any:
    """Return a dataset whose numbers lie in the file itself.

    Args:
        file: of ``open_hdf5``.
        name: of the dataset.
        path: the file, for messages.

    Raises:
        FileError: it is a link, a group, lies in another file, or was never written whole.
    """
    import h5py

    remedy = "copy the dataset itself into this file (h5repack, h5copy)"
    with reading(path, "a HDF5 file"):
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise FileError(path, f"has a link in place of the dataset {name}, and links are not followed", remedy)
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            inner = ", ".join(sorted(dataset)[:4]) if isinstance(dataset, h5py.Group) else "no numbers"
            raise FileError(path, f"has a group named {name} (holding {inner})", f"wanted a dataset named {name}")
        if dataset.external or dataset.is_virtual:
            raise FileError(path, f"keeps {name} in another file, which is not opened", remedy)
        if dataset.dtype.kind != "O" and dataset.id.get_type().get_size() != dataset.dtype.itemsize:
            # h5py takes it for another type, and what it reads is not what is stored
            raise FileError(path, f"stores {name} in numbers of no type that is known", "export it again")
        if dataset.shape and not _is_whole(dataset):  # what is missing would be read as zeros
            raise FileError(
                path, f"declares {dataset.nbytes} bytes of {name} that were never written", "export it again"
            )
        return dataset


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _probe(path: Path, stamp: tuple[int, int]) -> None:
    """Open a file in another process first.

    Args:
        path: the file.
        stamp: its size and time, so that a file that was changed is looked at again.

    Raises:
        FileError: that process died of it, or was not ready in time.
    """
    del stamp
    with _LOCK:
        reader = _reader(os.getpid())
        if reader.process.poll() is not None:  # somebody ended it
            _end(reader)
            _reader.cache_clear()
            reader = _reader(os.getpid())
        reader.requests.write(json.dumps(str(path.absolute())).encode() + b"\n")
        ready, _, _ = select.select([reader.answers], [], [], OPEN_TIMEOUT)
        if not (ready and os.read(reader.answers.fileno(), 1)):
            _end(reader)
            _reader.cache_clear()
            why = "the HDF5 library crashes on it" if ready else f"the HDF5 library has not read it in {OPEN_TIMEOUT} s"
            raise FileError(path, f"is not a readable HDF5 file: {why}", "copy it again")


_LOCK = threading.Lock()


class _Reader(NamedTuple):
    """The process that opens files first."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]  # paths go in, a line each
    answers: IO[bytes]  # a byte comes out for each that could be read


@functools.lru_cache(maxsize=1)
def _reader(owner: int) -> _Reader:
    """Start the process that opens files first; each process that reads files has its own."""
    del owner
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("hdf5_probe.py"))],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt is for this process
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process that opens files first has no pipes, though it was started with two")
    reader = _Reader(process, process.stdin, process.stdout)
    atexit.register(_end, reader)
    return reader


def _end(reader: _Reader) -> None:
    reader.process.kill()
    for stream in (reader.requests, reader.answers):
        with contextlib.suppress(OSError):  # a pipe whose other end is gone
            stream.close()
    reader.process.wait()


def _check_heaps(path: Path) -> None:
    """Walk the heaps that hold texts of a file as the HDF5 library does, which never ends in some damaged ones.

    Seen with HDF5 2.0 in 2026: free space of no size is passed over again and again. The process that opens files first
    would find it too, after ``OPEN_TIMEOUT``; so heaps are looked for in the ends of large files alone.
    """
    size = path.stat().st_size
    with reading(path, "a HDF5 file"), path.open("rb") as raw:
        parts = [(0, size)] if size <= 2 * EDGE else [(0, EDGE), (size - EDGE, size)]
        for start, end in parts:
            raw.seek(start)
            content = raw.read(end - start)
            place = content.find(HEAP)
            while place >= 0:
                (length,) = struct.unpack_from("<Q", content, place + 8)
                if place + length <= len(content) and not _ends(content[place : place + length]):
                    raise FileError(
                        path, "is not a readable HDF5 file: it has a damaged heap of texts", "copy it again"
                    )
                place = content.find(HEAP, place + len(HEAP))


def _ends(heap: bytes) -> bool:
    """Return whether walking from object to object of a heap reaches its end."""
    place = 16
    while place + 16 <= len(heap):
        index, size = struct.unpack_from("<H6xQ", heap, place)
        step = size if index == 0 else 16 + -(-size // 8) * 8
        if step < 16:
            return False
        place += step
    return place <= len(heap)


def _is_whole(dataset: Any) -> bool:
    """Return whether all of a dataset's numbers are in the file."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() >= dataset.nbytes
    wanted = np.prod([-(-side // part) for side, part in zip(dataset.shape, dataset.chunks, strict=True)], dtype=object)
    return dataset.id.get_num_chunks() >= wanted
