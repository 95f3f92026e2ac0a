"""Command lines of dataclasses, by tyro: what is wrong with one is told in one line, as all other mistakes are."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from atlf_jax.program import REFUSED

__all__ = ["parse"]

LONGEST = 250  # characters of a message
LEFT_OUT = ("For full helptext", "Argument helptext")  # parts of tyro's answer: the line names --help itself


def parse(kind: Any, argv: Sequence[str], *, program: str, **settings: Any) -> Any:
    """Return what a command line asks for; on a mistake say so in one line and exit with ``program.REFUSED``.

    Args:
        kind: a dataclass, or a type annotated for tyro.
        argv: arguments after the program's name.
        program: its name.
        settings: further arguments of ``tyro.cli``.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Arguments:
        ...     slices: int = 1
        >>> parse(Arguments, ["--slices=3"], program="atlf")
        Arguments(slices=3)
    """
    import tyro

    settings: dict[str, Any] = {"prog": program, "use_underscores": True} | settings
    answer = io.StringIO()
    try:
        with contextlib.redirect_stderr(answer), _unwrapped(not {"-h", "--help"} & set(argv)):
            return tyro.cli(kind, args=list(argv), **settings)
    except SystemExit:
        if not answer.getvalue():
            raise
    name = program.partition(" --")[0]
    end = f"; see {name} --help"
    said = _sentence(answer.getvalue())
    room = LONGEST - len(name) - len(end) - 2
    said = said if len(said) <= room else f"{said[: room - 3]}..."
    print(f"{name}: {said}{end}", file=sys.stderr, flush=True)
    raise SystemExit(REFUSED)


@contextlib.contextmanager
def _unwrapped(wanted: bool) -> Iterator[None]:
    """Let tyro write lines of any length, so that no word of its answer is cut in two."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop("COLUMNS")
            if before is not None:
                os.environ["COLUMNS"] = before


def _sentence(box: str) -> str:
    """Return what stands in tyro's box, without its frame, which is of lines or, on some terminals, of ASCII."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip("│| ")
        if not text.strip("─-╰╯+ "):
            parts.append([])
        else:
            parts[-1].append(" ".join(text.split()))
    kept = [" ".join(part) for part in parts if part and not part[0].startswith(LEFT_OUT)]
    return "; ".join(kept).rstrip(".")
