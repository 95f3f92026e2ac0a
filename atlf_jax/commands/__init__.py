"""The commands of the package: ``atlf --help`` lists them, ``atlf NAME --help`` explains one.

Each is a module here with ``main(argv, program)``. What they need is imported when they run, so that the list and a
mistyped name are answered at once.
"""

import difflib
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from atlf_jax.program import REFUSED, VERSION

__all__ = ["COMMANDS", "atlf", "atlf_prepare", "atlf_reconstruct", "run"]

COMMANDS = {
    "demo": "open a page in the browser on which to try networks",
    "train": "train a network, or go on where its run was left",
    "evaluate": "score trained networks on one split of a dataset",
    "reconstruct": "reconstruct k-space, or undersample a volume and reconstruct it",
    "prepare": "turn folders of CT and MR scans into a dataset",
    "audit": "list what in a dataset makes scores better than on a scanner",
    "pack": "write a trained network to one file",
    "export": "write a network as a program that runs without this package",
    "card": "put the scores of an evaluation into a model card",
}


def atlf() -> None:
    """Run the console script ``atlf``."""
    name, argv = (sys.argv[1:] or ["--help"])[0], sys.argv[2:]
    if name in ("-h", "--help"):
        print(_listing())
    elif name == "--version":
        print(VERSION)
    elif name in COMMANDS:
        run(name, argv)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"atlf: there is no command {name!r}; {hint}", file=sys.stderr)
        raise SystemExit(REFUSED)


def atlf_prepare() -> None:
    """Run the console script ``atlf-prepare``: ``atlf prepare`` by the name of earlier versions."""
    run("prepare", program="atlf-prepare")


def atlf_reconstruct() -> None:
    """Run the console script ``atlf-reconstruct``: ``atlf reconstruct`` by the name of earlier versions."""
    run("reconstruct", program="atlf-reconstruct")


def run(name: str, argv: Sequence[str] | None = None, *, program: str = "") -> None:
    """Run one command.

    Args:
        name: of ``COMMANDS``.
        argv: arguments after the command's name; those of the process by default.
        program: what the command is called in messages; ``atlf NAME`` by default.
    """
    _set_up()
    match name:
        case "demo":
            from atlf_jax.commands.demo import main
        case "train":
            from atlf_jax.commands.train import main
        case "evaluate":
            from atlf_jax.commands.evaluate import main
        case "reconstruct":
            from atlf_jax.reconstruct.command import main
        case "prepare":
            from atlf_jax.commands.prepare import main
        case "audit":
            from atlf_jax.commands.audit import main
        case "pack":
            from atlf_jax.commands.pack import main
        case "export":
            from atlf_jax.commands.export import main
        case "card":
            from atlf_jax.commands.card import main
        case _:
            raise ValueError(f"got a command {name!r}, wanted one of: {', '.join(COMMANDS)}")
    main(sys.argv[1:] if argv is None else argv, program=program or f"atlf {name}")


def _listing() -> str:
    lines = [f"  {name:13}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(["usage: atlf COMMAND [--help] ...", "", *lines, "", "atlf COMMAND --help lists its settings."])


def _set_up() -> None:
    """Keep compiled programs between runs, and keep libraries from writing notes between the lines of a command."""
    gc.set_threshold(200_000, 20, 100)  # a tenth of the time of tracing a network was spent looking for garbage
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "atlf_jax"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's notes on its cache and on slow compilation
    if "jax" in sys.modules:  # by ``python -m`` of a package that needs it: the variable has been read
        import jax

        if jax.config.values["jax_compilation_cache_dir"] is None:
            jax.config.update("jax_compilation_cache_dir", cache)
