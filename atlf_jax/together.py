"""How one of several processes that train as one ends, so that the others do not wait for it."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator

from atlf_jax.program import DONE, FAILED, INTERRUPTED

__all__ = ["LOST", "LOST_LINE", "ended_together"]

# in a message of JAX's runtime: another process cannot be reached
LOST = re.compile(r"gloo|nccl|unavailable|coordination|connection|heartbeat|barrier|deadline", re.IGNORECASE)
LOST_LINE = "another process of this run has ended or cannot be reached; start all of them again to go on"


@contextlib.contextmanager
def ended_together(program: str) -> Iterator[None]:
    """End a process that has joined others (``training.hosts.join``); nothing for one that is alone.

    Where all end, each waits for the others. A process that fails ends at once; the others notice by a broken
    connection or a missing heartbeat, and end within a minute, with one line and exit code 75.

    Args:
        program: its name, the prefix of the last line.
    """
    code = DONE
    try:
        yield
    except SystemExit as error:  # its line is printed
        if not _is_joined():
            raise
        code = error.code if isinstance(error.code, int) else FAILED if error.code else DONE
    except Exception as error:
        if not _is_joined():
            raise
        if type(error).__name__ != "JaxRuntimeError" or not LOST.search(str(error)):
            traceback.print_exc()
            _end(FAILED)
        print(f"{program}: {LOST_LINE}", file=sys.stderr)
        _end(INTERRUPTED)
    if not _is_joined():
        return
    if code in (DONE, INTERRUPTED):
        import jax

        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()
    if code != DONE:
        _end(code)


def _is_joined() -> bool:
    if "jax" not in sys.modules:  # which takes a second to import
        return False
    import jax

    return jax.distributed.is_initialized()


def _end(code: int) -> None:
    """End without the runtime's own clean-up, which would wait for the other processes."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)
