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
    """Compute the first page and a change of each kind, print what they say and how long they took, and end: needs
    neither browser nor port."""


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
    """Compute what the page shows first, and after a change of each kind; print what it says, and how long it took."""
    from atlf_jax.demo.trial import Choice, as_page, run

    changes = {
        "first page, compiled": Choice(),
        "CT moved": Choice(ct="moved"),
        "CT turned": Choice(ct="turned"),
        "another head's CT": Choice(ct="another"),
        "no CT": Choice(ct="none"),
        "another head": Choice(head=20),
        "another acceleration": Choice(acceleration=6.0),
        "another mask": Choice(mask="variable_density_2d"),
        "noise": Choice(noise=0.02),
    }
    for name, choice in changes.items():
        start, cpu = time.perf_counter(), time.process_time()
        page = as_page(run(choice))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{page['headline']} {name}: {seconds:.1f} s, {cpu:.1f} s of CPU", flush=True)
