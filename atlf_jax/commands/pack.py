"""Write a trained network to one file: ``atlf pack RUN NAME.safetensors``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from atlf_jax.command_line import parse
from atlf_jax.data.inputs import FileError, read_json, reading
from atlf_jax.program import errors_in_one_line
from atlf_jax.trained import load
from atlf_jax.trained.uncertainty import Calibration

__all__ = ["Arguments", "main"]


@dataclass(frozen=True)
class Arguments:
    """Pack the checkpoint of a run into one file."""

    source: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")]
    """File to write; NAME.safetensors in atlf_jax/weights makes it known by its name."""
    which: Literal["best", "latest"] = "best"
    """Which checkpoint of the run."""
    calibration: str = ""
    """The summary.json of atlf evaluate --uncertainty for this network alone, on subjects that chose nothing but the
    checkpoint (--split=inner_valid): its calibration is packed too."""
    mirror_average: bool = False
    """Average over mirror images wherever the packed network is used, in four times the time."""
    overwrite: bool = False
    """Replace a file that is there."""


def main(argv: Sequence[str], program: str = "atlf pack") -> None:
    """Parse, load, write; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Annotated[Arguments, tyro.conf.PositionalRequiredArgs], argv, program=program)
        network = load(arguments.source, arguments.which)
        if arguments.calibration:
            calibration, fitted_on = _fitted(arguments.calibration)
            network = network.calibrated(calibration, **fitted_on)
        network = network.averaging_mirrors(arguments.mirror_average or network.mirror_average)
        network.save(arguments.out, overwrite=arguments.overwrite)
        size = Path(arguments.out).stat().st_size / 2**20
        print(f"{arguments.out}: {network.parameters:,} parameters, {size:.1f} MiB, step {network.facts['step']}")


def _fitted(file: str) -> tuple[Calibration, dict[str, Any]]:
    """Return the calibration that an evaluation fitted, and on what."""
    remedy = "give the summary.json of atlf evaluate --uncertainty"
    summary = read_json(file, "a summary", remedy)
    with reading(file, "a summary", remedy):
        found = summary.get("uncertainty", [])
        if len(found) != 1:
            raise FileError(
                file,
                f"has calibrations of {len(found)} methods and masks, wanted one",
                "make it by atlf evaluate --uncertainty of this network alone, under the mask that it was trained with",
            )
        protocol = summary["protocol"]
        where = {name: protocol[name] for name in ("dataset", "split")} | {"subjects": list(protocol["subjects"])}
        return Calibration(**found[0]["fitted"]), where
