"""One training at a time in a run's folder."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

__all__ = ["exclusive"]

FILE = "lock"


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[str]:
    """Make a run's folder, and keep other trainings out of it for as long as the context lasts.

    The lock is the kernel's (``flock``) on a file that stays: a process that is killed leaves the folder free. On a
    network file system it holds between machines where the server keeps locks (NFS 4 does), and a machine that is lost
    frees the folder when the server notices.

    Args:
        workdir: the folder.

    Yields:
        A notice that the system or the file system keeps no locks; empty where it does.

    Raises:
        ValueError: the folder cannot be written, or another training holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        stream = (workdir / FILE).open("a+")
    except OSError as error:
        raise ValueError(
            f"the folder {workdir} cannot be written ({error.strerror}); give another with --workdir=DIR"
        ) from error
    notice = ""
    try:
        try:
            if fcntl is None:
                notice = f"{workdir} cannot be locked on this system: let no second training use it"
            else:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read(200).strip() or "another process"
            raise ValueError(
                f"{workdir} is in use by another training ({holder}); wait for it, stop it, or give another --workdir"
            ) from error
        except OSError as error:
            notice = f"{workdir} cannot be locked ({error.strerror}): let no second training use it"
        try:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            stream.flush()
        except OSError as error:
            raise ValueError(f"{workdir} cannot be written ({error.strerror}); make room there") from error
        yield notice
    finally:
        with contextlib.suppress(OSError):  # of a full disk, named above; closing writes again
            stream.close()
