"""Turn folders of scans into a dataset: ``atlf prepare LAYOUT SOURCE OUT``; see ``atlf_jax.data.preparation``."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from atlf_jax.command_line import parse
from atlf_jax.data import preparation
from atlf_jax.data.manifest import LEFT_OUT
from atlf_jax.data.preparation import QC, PrepareConfig, first_of, prepare_all
from atlf_jax.program import Incomplete, errors_in_one_line, no_display

__all__ = ["main"]


def main(argv: Sequence[str], program: str = "atlf prepare") -> None:
    """Parse, prepare, draw; a mistake is one line and an exit code other than 0 (``program`` lists them)."""
    console = Console(soft_wrap=True, highlight=False)
    with errors_in_one_line(program):
        positional = Annotated[PrepareConfig, tyro.conf.PositionalRequiredArgs]
        config = parse(positional, argv, program=program, description=preparation.__doc__)
        manifest, failures = prepare_all(config, functools.partial(console.print, markup=False))
        used = sum(record["split"] != LEFT_OUT for record in manifest["subjects"])
        console.print(f"{used} of {len(manifest['subjects']) + len(failures)} subjects in {config.out}")
        if config.qc and any("ct.nii.gz" in record["files"] for record in manifest["subjects"]):
            console.print(f"look at every registration before you train: {_draw(Path(config.out))}")
        if failures:
            raise ValueError(first_of(failures))
        if not used:
            raise ValueError("no pair is well registered; try another --registration, or --keep_flagged")
        experiment = f"{config.layout if config.layout in ('chaos', 'mmwhs') else 'own_data'}_4x"
        console.print(f"next: atlf train {experiment} --data.prepared.root={config.out}")


def _draw(out: Path) -> Path:
    """Write the page of registrations; the dataset stands, whatever becomes of its pictures."""
    try:
        with no_display():
            from atlf_jax.evaluation import registration_qc  # matplotlib

            return registration_qc.write(out)
    except Exception as error:  # of a drawing library, any
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise Incomplete(f"{out} is prepared, but {QC} is missing ({why})") from error
