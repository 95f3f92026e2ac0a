"""What the studies share: train what is missing, score what is missing, set the table.

A run that is finished is not trained again, and scores that are of the checkpoint of today are not made again: every
study goes on where it was stopped, and its table follows from files.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from atlf_jax.config import Config, experiments, from_dict
from atlf_jax.data import Source
from atlf_jax.data.files import whole_file, write_file
from atlf_jax.evaluation.changes import ABLATIONS, Change, atlas_mean
from atlf_jax.evaluation.scoring import Score, evaluate, reported
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.metrics import METRICS
from atlf_jax.program import INTERRUPTED
from atlf_jax.training import spans
from atlf_jax.training.checkpoint import read_meta
from benchmarks.table import machine

ROOT = Path(__file__).parent.parent
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
FAMILIES = ("random", "equispaced_fraction", "variable_density_2d", "radial")
ACCELERATIONS = {4.0: 0.08, 8.0: 0.04, 10.0: 0.04}  # with the fully sampled centre of masks of lines
SCORES = reported(list(METRICS))
ATLAS = "CT atlas mean"
OTHER_CTS = ("CT zero", "CT of another subject", ATLAS)  # what the own CT is compared with: none, and whose anatomy


def parser(
    name: str, description: str | None, *, out: str = "folder of the runs and the table"
) -> argparse.ArgumentParser:
    """Return the beginnings of a study's command line: its description and ``--out``."""
    made = argparse.ArgumentParser(
        prog=f"python -m studies.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help=out)
    return made


def add_masks(made: argparse.ArgumentParser, *, accelerations: Sequence[float] = tuple(ACCELERATIONS)) -> None:
    """Add the choice of masks."""
    made.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES, help="kinds of masks")
    made.add_argument("--accelerations", nargs="+", type=float, default=list(accelerations), choices=ACCELERATIONS)


def masks_of(arguments: argparse.Namespace) -> list[MaskConfig]:
    """Return the masks asked for, family by family."""
    return [
        MaskConfig(family, acceleration, ACCELERATIONS[acceleration])
        for family in arguments.families
        for acceleration in arguments.accelerations
    ]


def changes_of_ct(training: Source) -> dict[str, Change]:
    """Return the changes of the CT by name: ``ABLATIONS``, and the mean CT of the subjects of a source."""
    return {**ABLATIONS, ATLAS: atlas_mean(training)}


def evenly(source: Source, count: int) -> tuple[int, ...]:
    """Return the indices of evenly spaced slices of each subject; all of them for a count of 0."""
    volumes: dict[str, list[int]] = {}
    for index in range(len(source)):
        volumes.setdefault(source[index].subject, []).append(index)
    chosen: list[int] = []
    for indices in volumes.values():
        places = np.linspace(0, len(indices) - 1, min(count or len(indices), len(indices)))
        chosen += [indices[place] for place in np.rint(places).astype(int)]
    return tuple(chosen)


def learned() -> list[str]:
    """Return the names of the experiments."""
    return [name.removeprefix("benchmark:") for name in experiments() if name.startswith("benchmark:")]


def total_steps(config: Config) -> int:
    """Return the steps of all stages."""
    return spans(config.train)[-1].end


def finished(run: Path) -> bool:
    """Say whether a run has come to its last step."""
    meta = read_meta(run, "latest")
    return meta is not None and meta["step"] >= total_steps(from_dict(Config, meta["config"]))


def train(experiment: str, run: Path, *options: str) -> None:
    """Train an experiment by the ordinary command on one core, so that seconds compare; ``options`` are its own.

    Raises:
        SystemExit: the training was stopped: what it saved must not be scored.
    """
    command = [sys.executable, "train.py", f"--config={experiment}", f"--workdir={run}", *options]
    done = subprocess.run(command, cwd=ROOT, env=one_core())
    if done.returncode != INTERRUPTED:
        done.check_returncode()
    if not finished(run):
        raise SystemExit(f"{run} was stopped before its last step; run the same command again to go on")


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def one_core() -> dict[str, str]:
    """Return the environment of a process that computes on one core, where XLA_FLAGS do not say otherwise."""
    return {"XLA_FLAGS": ONE_CORE, **os.environ}


def training_seconds(run: Path) -> float:
    """Return the CPU time of a run, compilation and validations included."""
    return _log(run)[-1]["cpu_seconds"]


def learning_curve(run: Path) -> list[tuple[float, float]]:
    """Return CPU seconds and PSNR of every validation; the stages of the fusion process have no PSNR."""
    return [(line["cpu_seconds"], line["psnr"]) for line in _log(run) if line["kind"] == "valid" and "psnr" in line]


def current(file: Path, run: Path, which: str = "best") -> bool:
    """Say whether scores are there, tell all that is reported, and are of the checkpoint of today.

    A run that was trained again is scored again.
    """
    if not file.exists():
        return False
    with file.open(newline="") as stream:
        columns = next(csv.reader(stream), [])
    scored = run / "checkpoints" / which
    return {*SCORES} <= {*columns} and (not scored.exists() or file.stat().st_mtime >= scored.stat().st_mtime)


def save(file: Path, rows: Sequence[Score]) -> None:
    """Write scores, whole or not at all."""
    with whole_file(file) as part, Path(part).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*(name for name in Score._fields if name != "values"), *SCORES])
        writer.writeheader()
        for row in rows:
            fields = row._asdict()
            writer.writerow(fields.pop("values") | fields)


def read(file: Path) -> list[Score]:
    """Read what ``save`` wrote."""
    kinds = {"record": int, "nominal": float, "effective": float, "coverage": float, "seconds": float}
    with file.open(newline="") as stream:
        return [
            Score(
                values={name: float(line.pop(name)) for name in SCORES},
                real=line.pop("real") == "True",
                **{name: kinds.get(name, str)(value) for name, value in line.items()},
            )
            for line in csv.DictReader(stream)
        ]


def last_psnr(run: Path) -> float | None:
    """Return the PSNR of a run's last validation, or None where there was none."""
    curve = learning_curve(run)
    return curve[-1][1] if curve else None


def scores_of(trial: Trial, file: Path, run: Path, *, which: str = "best") -> list[Score]:
    """Return the scores of a trial from a file, after making them if they are missing or of an earlier checkpoint."""
    if not current(file, run, which):
        started = time.perf_counter()
        save(file, evaluate(trial))
        print(f"{file.stem}: {time.perf_counter() - started:.0f} s", flush=True)
    return read(file)


def about() -> str:
    """Say what a table was made on."""
    facts = [f"{name} {value}" for name, value in machine().items() if value != ""]
    return ", ".join([*facts, f"jax {jax.__version__}"])


def finish(out: Path, text: str, *, name: str = "table") -> None:
    """Write and print a study's tables, under what they were made on."""
    text = f"{about()}\n\n{text.rstrip()}\n"
    write_file(out / f"{name}.md", text.encode())
    print(text)
