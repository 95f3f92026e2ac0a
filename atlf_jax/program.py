"""What every command shares: exit codes, and errors told in one line.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: training diverged, something beside the result is missing, or a fault of the program, with its traceback |
| 2 | refused: an input, a setting or an output folder is not as it must be; nothing was written |
| 75 | interrupted by a signal; what was reached is saved, and the same command goes on from there |
"""

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = [
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
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 75


class Interrupted(Exception):
    """A signal ended the work, after what was reached had been saved."""


class Incomplete(Exception):
    """The result is there, and something beside it (pictures, a record) is not."""


@contextlib.contextmanager
def no_display() -> Iterator[None]:
    """Set aside which window matplotlib is to draw in, as notebooks choose it: here figures are files."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen


@contextlib.contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """Turn the errors that a user can mend into one line on the terminal and an exit code.

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
        code, words = INTERRUPTED, str(error) or "interrupted"
    except (FloatingPointError, Incomplete) as error:
        code, words = FAILED, str(error)
    except MemoryError as error:
        code, words = REFUSED, str(error) or "not enough memory; use smaller batches, or a machine with more memory"
    except (ImportError, OSError, ValueError) as error:
        code, words = REFUSED, str(error) or type(error).__name__
    else:
        return
    print(f"{program}: {' '.join(words.split())}", file=sys.stderr, flush=True)
    raise SystemExit(code)
