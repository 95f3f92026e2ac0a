"""List what in a dataset makes scores better than on a scanner: ``atlf audit --dataset NAME``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro
from rich.console import Console

from atlf_jax.command_line import parse
from atlf_jax.data import DataConfig, Split, open_source
from atlf_jax.data.files import write_file
from atlf_jax.evaluation.audit import audit, table
from atlf_jax.masks import MaskConfig
from atlf_jax.program import errors_in_one_line

__all__ = ["Arguments", "main"]


@dataclass(frozen=True)
class Arguments:
    """List what in a dataset makes scores better than on a scanner."""

    dataset: Literal["aanlib", "fastmri", "phantom", "prepared"]
    """The dataset."""
    data_root: Annotated[str, tyro.conf.arg(aliases=["--data.root"])] = ""
    """Folder of the dataset."""
    split: Split = "valid"
    """Subjects to look at."""
    mask: tuple[str, float, float] = ("random", 4.0, 0.08)
    """KIND ACCELERATION CENTRE_FRACTION."""
    json: str = ""
    """File to write the findings to."""


def main(argv: Sequence[str], program: str = "atlf audit") -> None:
    """Parse, look, print; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Arguments, argv, program=program)
        found = audit(
            open_source(_data(arguments.dataset, arguments.data_root), arguments.split),
            masks=[MaskConfig(*arguments.mask)],
        )
        if arguments.json:
            write_file(arguments.json, (json.dumps([item._asdict() for item in found], indent=1) + "\n").encode())
    Console(width=80).print(table(found))


def _data(dataset: str, root: str) -> DataConfig:
    data = DataConfig(dataset=dataset)
    if not root:
        return data
    settings = getattr(data, dataset)
    if dataset == "phantom":
        raise ValueError("--data.root is given, but the phantom dataset is not read from a folder")
    return replace(data, **{dataset: replace(settings, root=root)})
