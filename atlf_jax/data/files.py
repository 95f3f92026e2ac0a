"""Folders of datasets, files that are written completely or not at all, and digests of files."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "DATA_DIR",
    "PARTIAL",
    "NotWritten",
    "check_writable",
    "data_folder",
    "fingerprint",
    "sha256_of",
    "whole_file",
    "write_file",
]

DATA_DIR = "ATLF_DATA_DIR"  # environment variable naming the folder that holds all real data sets

PARTIAL = ".partial"  # ending of a file that is still being written; a killed program may leave one


class NotWritten(ValueError):
    """A file cannot be written: disk full, no permission, a file where a folder is meant."""


def data_folder(root: str, folder: str, setting: str, contents: str) -> Path:
    """Return a data set's folder: the one that is set, or else its own in ``$ATLF_DATA_DIR``.

    Args:
        root: what the configuration says; may be empty.
        folder: the data set's name in ``$ATLF_DATA_DIR``.
        setting: name of the configuration's field, for messages.
        contents: what the folder holds, for messages.

    Raises:
        ValueError: neither is set, or there is no such folder.
    """
    data_dir = os.environ.get(DATA_DIR, "")
    if not root and not data_dir:
        raise ValueError(
            f"no folder given: set {setting} to the folder that holds {contents}, or ${DATA_DIR} to the folder that "
            f"holds {folder}/"
        )
    path = Path(root) if root else Path(data_dir) / folder
    if not path.is_dir():
        raise ValueError(f"folder {path} does not exist; point {setting} (or ${DATA_DIR}) at the one with {contents}")
    return path


def check_writable(path: str | Path, *, folder: bool = False, size: int = 0) -> None:
    """Check in advance whether a file, or a folder, can be written; nothing is created.

    Args:
        path: what will be written; folders on the way to it may be missing.
        folder: ``path`` is a folder.
        size: smallest number of bytes that will be written.

    Raises:
        NotWritten: no permission, no room, a file where a folder is meant, or a folder where a file is.
    """
    path = Path(path)
    place = path if folder else path.parent
    why = os.strerror(errno.EISDIR) if path.is_dir() and not folder else ""
    while not why and not place.exists() and place != place.parent:
        why = "a link that leads nowhere" if place.is_symlink() else ""
        place = place.parent
    if not why and not place.is_dir():
        why = f"{place.name} is a file"
    if not why and not os.access(place, os.W_OK | os.X_OK):
        why = os.strerror(errno.EACCES)
    if not why and (free := shutil.disk_usage(place).free) < size:
        why = f"{size / 2**20:.4g} MiB are needed and {free / 2**20:.4g} MiB are free"
    if why:
        raise NotWritten(f"{path} cannot be written ({why}); choose another folder")


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path``; it is renamed on success, and removed on an error.

    Args:
        path: the file; its folder is created if it is missing.

    Raises:
        NotWritten: it cannot be written (disk full, no permission); a file of that name stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(f"{folder}/a.txt") as partial:
        ...         _ = partial.write_text("complete")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise NotWritten(f"{path} cannot be written ({why}); make room, or choose another folder") from error


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file completely, or leave the old one unchanged (see ``whole_file``)."""
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fingerprint(path: str | Path) -> str:
    """Return a digest of a file's bytes, or of the files that lie in a folder, in hexadecimal digits.

    Raises:
        ValueError: it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/a", b"abc")
        ...     fingerprint(f"{folder}/a") == sha256_of(f"{folder}/a"), fingerprint(folder) == sha256_of(f"{folder}/a")
        (True, False)
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return sha256_of(path)
        files = sorted(file for file in path.iterdir() if file.is_file())
        return hashlib.sha256("".join(f"{file.name} {sha256_of(file)}\n" for file in files).encode()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); correct the path or allow it") from error


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/a", b"abc")
        ...     sha256_of(f"{folder}/a")[:8]
        'ba7816bf'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
