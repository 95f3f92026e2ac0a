"""Open a page on which to try networks: ``atlf demo``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from atlf_jax.command_line import parse
from atlf_jax.program import errors_in_one_line

__all__ = ["Arguments", "main"]


@dataclass(frozen=True)
class Arguments:
    """Open a page on which to try networks on generated heads or pictures of your own.

    The page is served to this computer alone (127.0.0.1); pictures stay in memory, and nothing is sent elsewhere.
    """

    port: int = 8338
    """Port of the page; 0: any that is free."""
    browser: bool = True
    """Open the page in the browser."""
    check: bool = False
    """Compute the first page and one change, print what it says, and end: needs neither browser nor port."""


def main(argv: Sequence[str], program: str = "atlf demo") -> None:
    """Parse and serve; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Arguments, argv, program=program)
        if arguments.check:
            check()
            return
        try:
            from atlf_jax.demo.server import serve
        except ModuleNotFoundError as error:
            raise ImportError(f"the page needs {error.name}; install it with pip install 'atlf-jax[demo]'") from error
        print("starting; the first pictures take up to half a minute, later ones a second or two", flush=True)
        serve(arguments.port, browser=arguments.browser)


def check() -> None:
    """Compute what the page shows first, and after a change."""
    from atlf_jax.demo.trial import Choice, as_page, run

    for choice in (Choice(), Choice(ct="moved")):
        start = time.perf_counter()
        page = as_page(run(choice))
        print(f"{page['headline']} {time.perf_counter() - start:.1f} s")
