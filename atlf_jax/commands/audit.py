"""List what in a dataset makes scores better than on a scanner: ``atlf audit --dataset NAME``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from atlf_jax.command_line import parse
from atlf_jax.commands.evaluate import with_folder
from atlf_jax.data import DataConfig, Split, dataset_settings, open_source
from atlf_jax.data.files import write_file
from atlf_jax.evaluation.audit import audit, table
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.program import errors_in_one_line

__all__ = ["Arguments", "main"]


@dataclass(frozen=True)
class Arguments:
    """List what in a dataset makes scores better than on a scanner."""

    dataset: str
    """The dataset: aanlib, fastmri, phantom, prepared, or FILE.py:NAME of your own."""
    data_root: Annotated[str, tyro.conf.arg(aliases=["--data.root"])] = ""
    """Folder of the dataset."""
    split: Split = "valid"
    """Subjects to look at."""
    masks: Annotated[tuple[MaskConfig, ...], tyro.conf.arg(aliases=["--mask"])] = (MaskConfig(),)
    """KIND ACCELERATION CENTRE_FRACTION [NAME=VALUE ...], repeated for each mask."""
    json: str = ""
    """File to write the findings to."""


def main(argv: Sequence[str], program: str = "atlf audit") -> None:
    """Parse, look, print; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Arguments, argv, program=program)
        settings = dataset_settings(arguments.dataset)
        if arguments.data_root:
            settings = with_folder(settings, arguments.data_root, dataset=arguments.dataset)
        found = audit(Trial(open_source(DataConfig(settings), arguments.split), arguments.masks))
        if arguments.json:
            write_file(arguments.json, (json.dumps([item._asdict() for item in found], indent=1) + "\n").encode())
    Console(width=80).print(table(found))
