"""Compare methods on one split under the same masks: ``python -m studies.methods --out=runs/benchmark``.

A method is an experiment ``configs/benchmark.py:NAME``, trained here when ``OUT/NAME`` holds no finished run, or a row
of ``SOLVERS``. Every (method, mask) is scored once and kept in ``OUT/scores``: run again to go on, or to add a method
by name. The tables, OUT/table.md, follow from these files alone. One set of weights a method serves all masks.

``--ablated`` names the networks that are scored again with the CT zero and of others (rows ``NAME, CT ...``).
``--seeds 0 1 2 --seeded best dc_cnn`` trains and scores these methods by each seed (rows ``NAME, seed 1``): all tables
but that over seeds are of the first seed. ``--phase 0.785 --noise 0.01`` scores the same networks where the pictures
flatter less; the table's name says so.
"""

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from atlf_jax.config import Config, from_dict
from atlf_jax.data import AANLIBConfig, AcquisitionConfig, DataConfig, open_source
from atlf_jax.evaluation import figures
from atlf_jax.evaluation.changes import ABLATIONS, cached
from atlf_jax.evaluation.report import title
from atlf_jax.evaluation.scoring import Score, leading
from atlf_jax.evaluation.statistics import Comparison, compare, crossed_interval, holm, subject_means, summarise
from atlf_jax.evaluation.trial import ZERO_FILLED, EvaluationConfig, Reconstructor, Trial
from atlf_jax.masks import MaskConfig, mask_label
from atlf_jax.metrics import METRICS
from atlf_jax.models import build, sees_ct
from atlf_jax.solvers import SOLVERS
from atlf_jax.training import load
from benchmarks.table import markdown
from studies.core import (
    ATLAS,
    OTHER_CTS,
    SCORES,
    add_masks,
    changes_of_ct,
    finish,
    finished,
    learned,
    learning_curve,
    masks_of,
    parser,
    scores_of,
    total_steps,
    train,
    training_seconds,
)

SEED = ", seed "  # in the names of rows of further trainings


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    names = [*SOLVERS, *learned()]
    made = parser("methods", __doc__, out="folder of the runs, scores and tables")
    add_masks(made)
    add = made.add_argument
    add("--methods", nargs="+", default=names, choices=names, metavar="NAME")
    add("--split", default="valid", help="subjects to score")
    add("--ablate", nargs="*", default=list(OTHER_CTS), choices=[*ABLATIONS, ATLAS], metavar="WHICH")
    add("--ablated", nargs="*", default=["best"], metavar="NAME", help="methods to score so; the others by the true CT")
    add("--seeds", nargs="+", type=int, default=[0], help="of the trainings; the first is that of all tables")
    add("--seeded", nargs="*", default=[], metavar="NAME", help="methods that are trained by every seed")
    add("--phase", type=float, default=0.0, help="largest simulated phase in radians")
    add("--noise", type=float, default=0.0, help="simulated noise of each sample, relative to the largest pixel")
    add("--batch", type=int, default=4, help="slices reconstructed at once")
    add("--no-training", action="store_true", help="leave out methods that are not trained yet")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, score what is missing, write and print the tables."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    (out / "scores").mkdir(parents=True, exist_ok=True)
    masks = masks_of(arguments)
    source = open_source(DataConfig(AANLIBConfig()), arguments.split)
    changes = changes_of_ct(open_source(DataConfig(AANLIBConfig()), "inner_train"))
    config = EvaluationConfig(batch_size=arguments.batch)
    acquisition = AcquisitionConfig(arguments.phase, arguments.noise)
    seen = "" if acquisition == AcquisitionConfig() else f", phase {acquisition.phase:g}, noise {acquisition.noise:g}"
    rows: list[Score] = []
    costs = []
    for name, seed in runs_of(arguments):
        run, label = run_of(out, name, seed, arguments.seeds[0])
        if name not in SOLVERS and not finished(run):
            if arguments.no_training:
                print(f"{run.name}: not trained yet, left out")
                continue
            train(f"benchmark:{name}", run, *([f"--train.seed={seed}"] if label != name else []))
        model, cost, with_ct = open_method(name, run)
        variants = {label: source}
        if with_ct and name in arguments.ablated:
            variants |= {f"{label}, {which}": cached(source, changes[which]) for which in arguments.ablate}
        for (variant, pairs), mask in itertools.product(variants.items(), masks):
            file = out / "scores" / f"{arguments.split}, {mask_label(mask)}, {variant}{seen}.csv"
            rows += scores_of(Trial(pairs, (mask,), {variant: model}, acquisition, config), file, run)
        costs.append(
            {"method": label, **cost, "s a slice": seconds(rows, label), **footprint(model, source, arguments.batch)}
        )
    text = report(rows, costs, seen)
    curves = {name: learning_curve(out / name) for name in arguments.methods if finished(out / name)}
    if curves:
        text += f"\nPSNR of case 41 while training:\n\n{markdown(curve_rows(curves), digits=4)}\n"
        figure = figures.curve_figure({"training, CPU seconds": curves}, ylabel="PSNR of case 41 [dB]")
        (out / "curves.png").write_bytes(figures.png(figure, dpi=200))
    finish(out, text, name=f"table{seen}")


def runs_of(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Return the methods to score, with the seed of each training: all methods by the first, some by the others."""
    first, *others = arguments.seeds
    unknown = [name for name in arguments.seeded if name in SOLVERS or name not in arguments.methods]
    if unknown:
        raise SystemExit(f"--seeded names {', '.join(unknown)}; wanted networks that --methods names too")
    return [(name, first) for name in arguments.methods] + [
        (name, seed) for seed in others for name in arguments.seeded
    ]


def run_of(out: Path, name: str, seed: int, first: int) -> tuple[Path, str]:
    """Return the folder of a training, and the name of its rows; runs by seed 0 are called by the method alone."""
    return out / (f"{name}_seed{seed}" if seed else name), name if seed == first else f"{name}{SEED}{seed}"


def open_method(name: str, run: Path) -> tuple[Reconstructor, dict[str, Any], bool]:
    """Return a method as a function of a measurement, what it is worth telling, and whether it sees the CT."""
    if name in SOLVERS:
        return SOLVERS[name], {"parameters": 0, "CPU s to train": 0.0, "steps": 0}, name.startswith("guided")
    config, variables = load(run, "best")
    settings = from_dict(Config, config)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    cost = {"parameters": parameters, "CPU s to train": training_seconds(run), "steps": total_steps(settings)}
    model = settings.model
    return jax.tree_util.Partial(build(model).apply, variables), cost, sees_ct(model)


def footprint(model: Reconstructor, source: Any, batch: int) -> dict[str, float]:
    """Return what the compiler says of one batch: floating point operations a slice, and temporary memory."""
    from atlf_jax.data import evaluation_batches

    first = next(evaluation_batches(source, mask=MaskConfig(), batch_size=batch))[0].measurement
    model = model if isinstance(model, jax.tree_util.Partial) else jax.tree_util.Partial(model)
    compiled = jax.jit(lambda model, measurement: model(measurement).image).lower(model, first).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return {"GFLOP a slice": compiled.cost_analysis()["flops"] / 1e9 / batch, "MiB a slice": memory / batch}


def seconds(rows: Sequence[Score], method: str) -> float:
    """Return the median time of a slice."""
    return float(np.median([row.seconds for row in rows if row.method == method]))


def means(rows: Sequence[Score], metric: str) -> dict[str, dict[str, float]]:
    """Return the mean over subjects by method and mask."""
    table: dict[str, dict[str, float]] = {}
    for mask, method in dict.fromkeys((row.mask, row.method) for row in rows):
        group = [row for row in rows if (row.mask, row.method) == (mask, method)]
        by_subject = subject_means([row.values[metric] for row in group], [row.subject for row in group])
        table.setdefault(method, {})[mask] = float(np.mean(list(by_subject.values())))
    return table


def report(rows: Sequence[Score], costs: Sequence[dict[str, Any]], seen: str = "") -> str:
    """Return all tables as Markdown; ``seen`` says what was simulated on top of the pictures."""
    every = unique(rows)
    rows = [row for row in every if SEED not in row.method]
    first = [row for row in rows if (row.mask, row.method) == (rows[0].mask, rows[0].method)]
    parts = [f"{len(first)} slices of subjects {', '.join(dict.fromkeys(row.subject for row in first))}{seen}"]
    for metric in SCORES:
        title = f"{metric.removesuffix('_body').upper()}{' inside the body' * metric.endswith('_body')}"
        table = markdown([{"method": m, **c} for m, c in means(rows, metric).items()], digits=4)
        parts.append(f"{title}, mean over subjects:\n\n{table}")
    parts.append("PSNR, with 95 % bootstrap intervals over subjects:\n\n" + markdown(intervals(rows), digits=4))
    if found := over_seeds(every):
        parts.append("PSNR over seeds and subjects, with 95 % intervals over both:\n\n" + markdown(found))
    parts.append(markdown(costs))
    if pairs := against_best(rows):
        parts.append("PSNR against the best other method, paired over slices:\n\n" + markdown(pairs))
    if pairs := what_the_ct_brings(rows):
        parts.append("What the CT brings, paired over slices:\n\n" + markdown(pairs))
    return "\n\n".join(parts) + "\n"


def curve_rows(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Set learning curves as a table: one row for each method, and a pair of columns for each validation."""
    most = max(map(len, curves.values()))
    return [
        {"method": name}
        | {
            key: value
            for number, (seconds, psnr) in enumerate([*curve, *[(None, None)] * (most - len(curve))], start=1)
            for key, value in ((f"{number}: s", seconds), (f"{number}: dB", psnr))
        }
        for name, curve in curves.items()
    ]


def intervals(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """Return mean, interval and worst slice of every method's PSNR under each mask."""
    return [
        {
            "mask": item.mask,
            "method": item.method,
            "mean": item.mean,
            "from": item.interval[0],
            "to": item.interval[1],
            "worst": item.worst,
            "worst slice": item.worst_name,
        }
        for item in summarise(rows)
        if item.metric == "psnr" and item.interval is not None
    ]


def over_seeds(rows: Sequence[Score], metric: str = "psnr") -> list[dict[str, Any]]:
    """Return mean, spread over seeds and interval of each method with several seeds, and its lead over the others.

    A lead is of trainings by the same seed, which see the same records in the same order, on the same subjects.
    """
    grids: dict[tuple[str, str], dict[int, list[float]]] = {}
    for mask, method in dict.fromkeys((row.mask, row.method) for row in rows):
        name, _, seed = method.partition(SEED)
        if method == ZERO_FILLED or (", " in name) or (seed and not seed.isdigit()):
            continue
        group = [row for row in rows if (row.mask, row.method) == (mask, method)]
        by_subject = subject_means([row.values[metric] for row in group], [row.subject for row in group])
        grids.setdefault((mask, name), {})[int(seed or -1)] = list(by_subject.values())
    found = []
    for (mask, name), grid in grids.items():
        if len(grid) < 2:
            continue
        over = [float(np.mean(values)) for values in grid.values()]
        found.append(
            {"mask": mask, "method": name, "against": "", "seeds": len(grid), "mean": float(np.mean(over))}
            | {"SD over seeds": float(np.std(over, ddof=1))}
            | _ends(crossed_interval(list(grid.values())))
        )
        for other in [other for where, other in grids if where == mask and other != name]:
            shared = [seed for seed in grid if seed in grids[mask, other]]
            if len(shared) > 1:
                leads = [np.subtract(grid[seed], grids[mask, other][seed]).tolist() for seed in shared]
                means_ = np.mean(leads, axis=1)
                found.append(
                    {"mask": mask, "method": name, "against": other, "seeds": len(shared)}
                    | {"mean": float(means_.mean()), "SD over seeds": float(np.std(means_, ddof=1))}
                    | _ends(crossed_interval(leads))
                )
    return found


def _ends(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"from": low, "to": high}


def unique(rows: Sequence[Score]) -> list[Score]:
    """Keep one zero-filled row of each slice and mask: every scoring has its own."""
    return list({(row.mask, row.method, row.name): row for row in rows}.values())


def against_best(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """Compare each method with the best of the others, which are not variants of itself, under each mask."""
    found: list[dict[str, Any]] = []
    table = means(rows, "psnr")
    comparisons = comparisons_by(compare(rows), "psnr")
    names = [name for name in table if "," not in name and name != ZERO_FILLED]
    for mask in dict.fromkeys(row.mask for row in rows):
        for name in names:
            others = [other for other in names if other != name and mask in table[other]]
            if not others or mask not in table[name]:
                continue
            rival = max(others, key=lambda other: table[other][mask])
            found.append({"mask": mask, "method": name, "best other": rival} | paired(comparisons, mask, name, rival))
    return corrected(found, "method")


def what_the_ct_brings(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """Compare each method with itself under other CTs, and trained without CT (``NAME_no_ct``), by two metrics each.

    PSNR may rise while SSIM falls, and the whole picture holds air: a gain is one where all agree.
    """
    every = compare(rows)
    by_metric = {metric: comparisons_by(every, metric) for metric in leading(METRICS)}
    methods = list(dict.fromkeys(row.method for row in rows))
    found = [
        {"mask": mask, "method": name, "against": other}
        | paired(by_metric["psnr"], mask, name, other)
        | {
            title(metric): paired(found, mask, name, other)["dB"]
            for metric, found in by_metric.items()
            if metric != "psnr"
        }
        for name in methods
        for other in methods
        if other.startswith(f"{name}, ") or other == f"{name}_no_ct"
        for mask in dict.fromkeys(row.mask for row in rows)
    ]
    return corrected(found, "method", "against")


def corrected(found: list[dict[str, Any]], *family: str) -> list[dict[str, Any]]:
    """Add p values corrected by Holm over the masks: the rows of one family, by these columns, are tested together."""
    for key in dict.fromkeys(tuple(row[name] for name in family) for row in found):
        rows = [row for row in found if tuple(row[name] for name in family) == key]
        for column in [name for name in rows[0] if name.startswith("p, ")]:
            for row, p in zip(rows, holm([row[column] for row in rows]), strict=True):
                row[f"{column}, Holm"] = p
    return found


def comparisons_by(every: Iterable[Comparison], metric: str) -> dict[tuple[str, str, str], Comparison]:
    """Return the paired comparisons of one metric by mask and both methods, in either order."""
    return {(item.mask, item.first, item.second): item for item in every if item.metric == metric}


def paired(
    comparisons: Mapping[tuple[str, str, str], Comparison], mask: str, first: str, second: str
) -> dict[str, Any]:
    """Return the cells that tell by how much the first method is better than the second."""
    forward = (mask, first, second) in comparisons
    item = comparisons[(mask, first, second) if forward else (mask, second, first)]
    sign, worse = (1, 0) if forward else (-1, item.slices)
    subjects = ", ".join(f"{subject}: {sign * value:+.2f}" for subject, value in item.subjects.items())
    return {
        "dB": sign * item.difference,
        "subjects": subjects,
        "better slices": f"{worse + sign * item.better_slices} of {item.slices}",
        "effect": sign * item.effect,
        "p, slices": item.slice_p,
    } | ({} if item.subject_p is None else {"p, subjects": item.subject_p})


if __name__ == "__main__":
    main()
