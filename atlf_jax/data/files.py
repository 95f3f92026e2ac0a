"""Files that appear whole or not at all, and their fingerprints."""

import hashlib
import os
from pathlib import Path

__all__ = ["PARTIAL", "sha256_of", "write_file"]

PARTIAL = ".partial"  # ending of a file that is still being written; a killed program may leave one


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file under another name in the same folder, then give it its own name.

    Args:
        path: the file; its folder is made where it is missing.
        content: every byte of it.

    Raises:
        ValueError: it cannot be written (disk full, no permission); a file of that name stays as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}); make room, or choose another folder"
        ) from error


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
