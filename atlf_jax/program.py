"""What every command shares: exit codes, and error messages of one line.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: training diverged, a file beside the result is missing, or there is a bug, shown with its traceback |
| 2 | refused: an input, a setting or an output folder is invalid; nothing was written |
| 75 | interrupted by a signal; the state was saved, and the same command continues from it |
"""

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = [
    "LONGEST_MESSAGE",
    "VERSION",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "REFUSED",
    "Incomplete",
    "Interrupted",
    "errors_in_one_line",
    "no_display",
]

VERSION = "0.1.0"  # of the package
LONGEST_MESSAGE = 250  # characters of an error message
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 75


class Interrupted(Exception):
    """A signal ended the work, after its state had been saved."""


class Incomplete(Exception):
    """The result was written, but a file beside it (pictures, a record) was not."""


@contextlib.contextmanager
def no_display() -> Iterator[None]:
    """Ignore the matplotlib backend of the environment, which notebooks set: here figures are written to files."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen


@contextlib.contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """Turn the errors that a user can correct into one line on stderr and an exit code.

    Args:
        program: its name, which begins the line.

    Raises:
        SystemExit: in place of these errors.

    Example:
        >>> with errors_in_one_line("train.py"):
        ...     raise ValueError("no configuration file x.py")
        Traceback (most recent call last):
        SystemExit: 2
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        code, message = INTERRUPTED, str(error) or "interrupted"
    except (FloatingPointError, Incomplete) as error:
        code, message = FAILED, str(error)
    except MemoryError as error:
        code, message = REFUSED, str(error) or "not enough memory; use smaller batches, or a machine with more memory"
    except (ImportError, OSError, ValueError) as error:
        code, message = REFUSED, str(error) or type(error).__name__
    else:
        return
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(code)
