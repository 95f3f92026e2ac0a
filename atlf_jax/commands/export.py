"""Write a network as a program that runs without this package: ``atlf export NETWORK FOLDER``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from atlf_jax.command_line import parse
from atlf_jax.program import errors_in_one_line
from atlf_jax.trained import load

__all__ = ["Arguments", "main"]


@dataclass(frozen=True)
class Arguments:
    """Write a network as StableHLO for CPU and CUDA, with a card and arrays to check it with."""

    source: Annotated[str, tyro.conf.arg(metavar="NETWORK")]
    """The run's folder, a packed file, or the name of weights that come with the package."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write."""
    shape: tuple[int, int] = (256, 256)
    """Rows and columns of the images; the number of images in a batch is free."""
    coils: bool = False
    """Take k-space of any number of coils, and coil maps."""
    which: Literal["best", "latest"] = "best"
    """Which checkpoint of a run."""
    code: tuple[str, ...] = ()
    """Files of your own code that a packed network needs: their names stand in the message that asks for them."""
    overwrite: bool = False
    """Replace the files of an earlier export."""


def main(argv: Sequence[str], program: str = "atlf export") -> None:
    """Parse, load, write; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Annotated[Arguments, tyro.conf.PositionalRequiredArgs], argv, program=program)
        network = load(arguments.source, arguments.which, code=arguments.code)
        folder = network.export(
            arguments.out, shape=arguments.shape, coils=arguments.coils, overwrite=arguments.overwrite
        )
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
        print(f"{folder}: {network.parameters:,} parameters, {size:.1f} MiB; card.json says how to run it")
