"""How much of a lesion in the MR shows in the image: ``python -m studies.lesions --out=runs/lesions``.

A round lesion is painted into the MR before it is measured (``evaluation.changes.Lesion``), and the part of it that is
in the change of each method's image is measured (``evaluation.modality.hallucination``; 1 = all). ``LESIONS`` varies
size, contrast and place one at a time about a small bright lesion deep in the head; acceleration and family are those
of the masks. Results are kept in OUT for each method and mask: run again to go on. With ATLF_DATA_DIR.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from atlf_jax.data import AANLIBConfig, DataConfig, open_source
from atlf_jax.data.files import whole_file
from atlf_jax.evaluation.changes import Lesion
from atlf_jax.evaluation.modality import hallucination
from atlf_jax.evaluation.statistics import subject_means
from atlf_jax.evaluation.trial import ZERO_FILLED, EvaluationConfig, Reconstructor, Selection, Trial
from atlf_jax.masks import MaskConfig, mask_label
from atlf_jax.models import build
from atlf_jax.solvers import SOLVERS
from atlf_jax.trained import load
from benchmarks.table import markdown
from studies.core import add_masks, evenly, finish, masks_of, parser

LESIONS: dict[str, Lesion] = {
    "small, bright, deep": Lesion(),
    "radius .005": Lesion(radius=0.005),
    "radius .02": Lesion(radius=0.02),
    "radius .04": Lesion(radius=0.04),
    "contrast .1": Lesion(contrast=0.1),
    "dark": Lesion(contrast=-0.3),
    "cortex": Lesion(place="cortex"),
    "edge": Lesion(place="edge"),
}
NETWORKS = ("aanlib-best", "aanlib-best-long", "aanlib-4x-compact", "aanlib-10x-compact")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    made = parser("lesions", __doc__, out="folder of the results and the table")
    add_masks(made)
    add = made.add_argument
    add("--methods", nargs="+", default=[*NETWORKS, *SOLVERS], help="solvers; runs, files or shipped weights")
    add("--lesions", nargs="+", default=list(LESIONS), choices=list(LESIONS), metavar="NAME")
    add("--split", default="valid", help="subjects to paint into")
    add("--slices", type=int, default=0, help="evenly spaced ones of each subject; 0: all")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing; write and print the tables."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    source = open_source(replace(DataConfig(AANLIBConfig()), workers=0), arguments.split)
    source = Selection(source, evenly(source, arguments.slices))
    few = f", {arguments.slices} slices" if arguments.slices else ""
    found: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
    for method in arguments.methods:
        model, trained = open_method(method)
        for mask in masks_of(arguments):
            if trained is not None and mask not in trained:
                continue
            file = out / f"{Path(method).name}, {arguments.split}{few}, {mask_label(mask)}.csv"
            rows = read(file) if file.exists() else []
            missing = [name for name in arguments.lesions if name not in {row["lesion"] for row in rows}]
            if missing:
                trial = Trial(source, (mask,), {method: model}, config=EvaluationConfig(batch_size=1))
                names = {LESIONS[name]: name for name in missing}
                shown = hallucination(trial, list(names))
                rows += [item._asdict() | {"lesion": names[item.lesion]} for item in shown]
                save(file, rows)
            for row in rows:
                found.setdefault((row["mask"], row["method"], row["lesion"]), {})[row["subject"], row["name"]] = float(
                    row["shown"]
                )
            print(f"{method}, {mask_label(mask)}: done", flush=True)
    finish(out, f"{len(source)} slices\n\n{markdown(rows_of(found, arguments.lesions))}")


def open_method(name: str) -> tuple[Reconstructor, tuple[MaskConfig, ...] | None]:
    """Return a method as a function of a measurement, and the masks that it was trained for; None for a solver."""
    if name in SOLVERS:
        return SOLVERS[name], None
    network = load(name)
    return jax.tree_util.Partial(build(network.config.model).apply, network.variables), network.trained_for.masks


def save(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write what was measured, whole or not at all."""
    with whole_file(file) as part, Path(part).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(file: Path) -> list[dict[str, Any]]:
    """Read what ``save`` wrote."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def rows_of(
    found: dict[tuple[str, str, str], dict[tuple[str, str], float]], lesions: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each mask and method what is shown of each lesion in percent: mean over subjects (worst slice)."""
    table = []
    for mask in dict.fromkeys(mask for mask, _, _ in found):
        methods = list(dict.fromkeys(method for where, method, _ in found if where == mask))
        for method in [ZERO_FILLED, *(name for name in methods if name != ZERO_FILLED)]:
            row: dict[str, Any] = {"mask": mask, "method": method}
            for name in lesions:
                shown = found[mask, method, name]
                means = subject_means(list(shown.values()), [subject for subject, _ in shown])
                row[name] = f"{100 * np.mean(list(means.values())):.0f} ({100 * min(shown.values()):.0f})"
            table.append(row)
    return table


if __name__ == "__main__":
    main()
