"""Files that others made, opened in one place: sizes are checked first, no link is followed out of a file, and whatever
is malformed is refused in one sentence that names the file.

A header may say anything: what it declares is compared with the size of the file and with the memory that is free
before an array is made. What a library raises on damaged bytes cannot be listed, so ``reading`` turns all of it into a
``FileError``.
"""

import contextlib
import csv
import gzip
import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from beartype import beartype
from PIL import Image

from atlf_jax.program import LONGEST_MESSAGE

__all__ = [
    "FileError",
    "available_memory",
    "check_memory",
    "contains",
    "inside",
    "load_npy",
    "parse_json",
    "read_json",
    "read_png",
    "read_start",
    "read_table",
    "reading",
    "unpacked",
]

PLACE = 60  # characters of a message that are left to the file's path, at least
TEXT = 2**28  # bytes of a JSON or CSV file; no manifest or table comes near
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
PNG = b"\x89PNG\r\n\x1a\n"


class FileError(ValueError):
    """A file cannot be used: one sentence of at most 250 characters that names it, says why, and what to do.

    Args:
        path: the file.
        problem: what is wrong with it; cut where the sentence would be too long.
        remedy: what to do.

    Example:
        >>> str(FileError("scan.nii", "holds no voxels", "export it again"))
        'scan.nii holds no voxels; export it again'
    """

    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        where, problem, remedy = (" ".join(str(text).split()) for text in (path, problem, remedy))
        remedy = remedy if len(remedy) <= LONGEST_MESSAGE // 2 else f"{remedy[: LONGEST_MESSAGE // 2 - 3]}..."
        # the end of a path is kept, which names the file
        place = max(LONGEST_MESSAGE - len(problem) - len(remedy) - 3, PLACE)
        where = where if len(where) <= place else f"...{where[3 - place :]}"
        room = LONGEST_MESSAGE - len(where) - len(remedy) - 3
        super().__init__(f"{where} {problem if len(problem) <= room else f'{problem[: room - 3]}...'}; {remedy}")

    def __reduce__(self) -> tuple[type[ValueError], tuple[Any, ...]]:
        """Travel from a loader's process as the sentence alone."""
        return ValueError, self.args


@contextlib.contextmanager
def reading(path: str | Path, kind: str, remedy: str = "copy it again") -> Iterator[None]:
    """Turn whatever a library raises on a malformed file into a ``FileError``; a ``FileError`` passes as it is.

    Args:
        path: the file.
        kind: what it is meant to be, such as "a NIfTI file".
        remedy: what to do.

    Raises:
        FileError: in place of every other error.

    Example:
        >>> with reading("a.nii", "a NIfTI file"):
        ...     raise KeyError("dim")
        Traceback (most recent call last):
        atlf_jax.data.inputs.FileError: a.nii is not a readable NIfTI file ('dim'); copy it again
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # of parsers fed with damaged bytes, any
        article, _, noun = kind.partition(" ")
        if isinstance(error, OSError) and error.strerror:
            raise FileError(path, f"cannot be read ({error.strerror})", f"wanted {kind}") from error
        why = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            path, f"is not {article} readable {noun} ({why if len(why) <= 90 else f'{why[:87]}...'})", remedy
        ) from error


@beartype
def available_memory() -> int:
    """Return how many bytes this process may still take: of the machine, of its control group, of its own limit."""
    limits = [sys.maxsize]  # Windows does not say by what Python brings
    if hasattr(os, "sysconf"):
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    fields = dict(line.split(":") for line in _lines("/proc/meminfo") if ":" in line)
    if "MemAvailable" in fields:
        limits.append(1024 * int(fields["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    for most, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        bound, taken = ("".join(_lines(group / name)).strip() for name in (most, used))
        if bound.isdigit() and taken.isdigit():
            stat = (line.split() for line in _lines((group / most).with_name("memory.stat")))
            free = sum(int(value) for name, value in stat if name == cache)
            limits.append(int(bound) - int(taken) + free)
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        own, _ = resource.getrlimit(resource.RLIMIT_AS)
        if own != resource.RLIM_INFINITY:
            pages = "".join(_lines("/proc/self/statm")).split()[:1]
            limits.append(own - resource.getpagesize() * int(pages[0] if pages else 0))
    return max(min(limits), 0)


@beartype
def check_memory(path: str | Path, size: int, what: str) -> None:
    """Refuse a file whose contents do not fit into memory, before they are unpacked.

    Args:
        path: the file.
        size: bytes that reading it takes at its peak.
        what: the contents in words, such as "voxels 512 x 512 x 4000".

    Raises:
        FileError: less is free.
    """
    free = available_memory()
    if size > free:
        raise FileError(
            path,
            f"declares {what}, {size / 2**30:.3g} GiB in memory, and {free / 2**30:.3g} GiB are free",
            "check its header, or use a machine with more memory",
        )


@beartype
def contains(folder: Path, path: Path) -> bool:
    """Return whether a path is a folder or lies in it, whatever their spelling: links, relative names, capitals.

    Example:
        >>> contains(Path("/"), Path("/no/such/file"))
        True
    """
    path = path.resolve()
    return any(_same(place, folder) for place in (path, *path.parents))


@beartype
def inside(root: Path, name: str) -> Path:
    """Return the path of a file that a manifest names, and refuse one that lies outside its folder.

    Args:
        root: the folder.
        name: as the manifest has it.

    Raises:
        FileError: the name is absolute or leads out of the folder, also through a link.
    """
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not contains(root, path):
        raise FileError(root, f"names {name!r}, which lies outside of it and is not read", "name files in this folder")
    return path


@beartype
def read_start(path: str | Path, size: int, kind: str = "a file that is there") -> bytes:
    """Return the first bytes of a file, fewer where it ends before; ``kind`` is what it is meant to be."""
    with reading(path, kind), Path(path).open("rb") as file:
        return file.read(size)


@beartype
def load_npy(path: str | Path) -> np.ndarray:
    """Open a ``.npy`` array of numbers without reading it.

    Raises:
        FileError: it is another kind of file, damaged, longer or shorter than its header says, or holds no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(path, "is not a readable .npy array (no such file)", "correct the path")
    if read_start(path, 4) == ZIP:
        raise FileError(
            path,
            "is an .npz archive of arrays, whatever its name says",
            "take the one that is meant and save it with numpy.save",
        )
    with reading(path, "a .npy array", "save it with numpy.save"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind not in "biufc":
            raise FileError(path, f"holds {array.dtype} and no numbers", "save a plain array with numpy.save")
        expected, size = array.offset + array.nbytes, path.stat().st_size
        if expected != size:
            raise FileError(
                path, f"has {size} bytes where its header tells of {expected}", "save it again with numpy.save"
            )
        return array


@beartype
def read_json(path: str | Path, kind: str = "a JSON file", remedy: str = "write it again") -> Any:
    """Return the contents of a JSON file.

    Args:
        path: the file.
        kind: what it is meant to be.
        remedy: what to do where it is damaged.

    Raises:
        FileError: it is missing, too large, or no JSON.
    """
    path = Path(path)
    with reading(path, kind, remedy):
        if path.stat().st_size > TEXT:
            raise FileError(path, f"is larger than {TEXT // 2**20} MiB", remedy)
        return parse_json(path.read_bytes(), path, kind, remedy)


@beartype
def parse_json(text: bytes | str, path: str | Path, kind: str, remedy: str) -> Any:
    """Return what a JSON text of a file says; arguments and errors are those of ``read_json``."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            raise FileError(path, "has one name twice in an object", remedy)
        return found

    with reading(path, kind, remedy):
        try:
            return json.loads(text, object_pairs_hook=pairs)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise FileError(
                path, f"is not {kind.replace(' ', ' readable ', 1)}: cut short or damaged in {where}", remedy
            ) from error


@beartype
def read_table(path: str | Path, wanted: str) -> tuple[tuple[str, ...], list[tuple[int, Mapping[Any, Any]]]]:
    """Return the columns of a CSV file, and its rows with the numbers of their lines.

    Args:
        path: the file, in UTF-8.
        wanted: its columns in words, for messages.

    Raises:
        FileError: it is missing, too large, no text, or not CSV.
    """
    path = Path(path)
    with reading(path, "a CSV file", f"wanted {wanted}"):
        if path.is_dir():
            raise FileError(path, "is a folder and not a readable CSV file", f"wanted {wanted}")
        if path.stat().st_size > TEXT:
            raise FileError(path, f"is larger than {TEXT // 2**20} MiB", f"wanted {wanted}")
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise FileError(path, "is not a readable CSV file: it holds zero bytes", f"wanted {wanted}")
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        columns = tuple(reader.fieldnames or ())
        if len({*columns}) < len(columns):
            raise FileError(path, "has two columns of one name", f"wanted {wanted}")
        return columns, [(reader.line_num, row) for row in reader]


@beartype
def read_png(path: str | Path) -> Image.Image:
    """Decode a PNG picture whose parts all have the checksum that they tell.

    Raises:
        FileError: it is missing, cut short, damaged, another kind of file, or too large for the memory.
    """
    path = Path(path)
    with reading(path, "a picture", "download it again"):
        content = path.read_bytes()
        if content[:8] != PNG:
            raise FileError(path, "is not a readable picture: no PNG file", "download it again, or save it as PNG")
        place, kind = 8, b""
        while kind != b"IEND":
            length, kind = struct.unpack(">I4s", content[place : place + 8])
            end = place + 12 + length
            if content[end - 4 : end] != struct.pack(">I", zlib.crc32(content[place + 4 : end - 4])):
                raise FileError(
                    path,
                    f"is not a readable picture: its part {kind.decode('latin-1')!r} is damaged",
                    "download it again",
                )
            if kind == b"IHDR":
                width, height = struct.unpack(">II", content[place + 8 : place + 16])
                check_memory(path, 16 * width * height, f"{width} x {height} pixels")
            place = end
        if place != len(content):
            raise FileError(path, "goes on after its end", "download it again")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            return picture


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file that may be gzipped, for reading its contents from the start; no more is unpacked than is read."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            why = " ".join(str(error).split())
            raise FileError(path, f"is a damaged or truncated gzip file ({why})", "copy it again") from error


def _same(a: Path, b: Path) -> bool:
    """Return whether two names are of one file; names of nothing are not."""
    try:
        return a.samefile(b)
    except OSError:
        return a.resolve() == b.resolve()


def _lines(path: str | Path) -> list[str]:
    """Return what the system tells in a file; nothing where it has no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
