"""Does the CT help? By subject, in four folds: ``python -m benchmarks.cross_validation --out=runs/folds``.

In each fold a network is trained on six subjects of AANLIB and scored on the other two, so that every subject is scored
by networks that have not seen it; ``--methods`` names two experiments of ``configs/benchmark`` that differ in the CT
alone. The last checkpoint is scored, as there is no subject left to choose one. Run again to go on.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import jax
from scipy import stats

from atlf_jax.config import Config, from_dict
from atlf_jax.data import open_source
from atlf_jax.data.aanlib import FOLDS
from atlf_jax.evaluation.modality import ABLATIONS, Changed
from atlf_jax.evaluation.scoring import EvaluationConfig, Score, evaluate, mask_label
from atlf_jax.masks import MaskConfig
from atlf_jax.models import build
from atlf_jax.training import load
from benchmarks.methods import ACCELERATIONS, FAMILIES, finished, read, save, train
from benchmarks.table import machine, markdown


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cross_validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the runs, scores and the table")
    add("--methods", nargs=2, default=["guided", "guided_no_ct"], metavar="NAME", help="with the CT, without")
    add("--folds", nargs="+", type=int, default=[1, 2, 3, 4], choices=range(1, len(FOLDS) + 1))
    add("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES, help="kinds of masks")
    add("--accelerations", nargs="+", type=float, default=[4.0, 10.0], choices=ACCELERATIONS)
    add("--ablate", nargs="*", default=["CT zero", "CT of another subject"], choices=list(ABLATIONS), metavar="WHICH")
    add("--batch", type=int, default=4, help="slices reconstructed at once")
    add("--no-training", action="store_true", help="leave out folds that are not trained yet")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, score what is missing, write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    (out / "scores").mkdir(parents=True, exist_ok=True)
    masks = [
        MaskConfig(family, acceleration, ACCELERATIONS[acceleration])
        for family, acceleration in itertools.product(arguments.families, arguments.accelerations)
    ]
    rows: list[Score] = []
    for fold, name in itertools.product(arguments.folds, arguments.methods):
        run = out / f"{name}_{fold}"
        if not finished(run):
            if arguments.no_training:
                continue
            splits = ("--data.train_split=train", "--data.valid_split=valid", f"--data.aanlib.fold={fold}")
            train(name, run, *splits, "--train.eval_every=100000")
        rows += score(name, run, masks, arguments, out / "scores")
    about = ", ".join(f"{key} {value}" for key, value in machine().items() if value != "")
    text = f"{about}, jax {jax.__version__}\n\n{markdown(rows_of(rows, *arguments.methods))}\n"
    (out / "table.md").write_text(text)
    print(text)


def score(
    name: str, run: Path, masks: Sequence[MaskConfig], arguments: argparse.Namespace, folder: Path
) -> list[Score]:
    """Score a run on the subjects that it was not trained on, by the true CT and others where it sees one."""
    config, variables = load(run, "latest")
    settings = from_dict(Config, config)
    model = jax.tree_util.Partial(build(settings.model).apply, variables)
    pairs = open_source(dataclasses.replace(settings.data, workers=0), "valid")
    variants = {name: pairs}
    if settings.model.sees_ct:
        variants |= {f"{name}, {which}": Changed(pairs, ABLATIONS[which]) for which in arguments.ablate}
    rows: list[Score] = []
    for mask, (variant, source) in itertools.product(masks, variants.items()):
        file = folder / f"{run.name}, {mask_label(mask)}, {variant}.csv"
        if not file.exists():
            batches = EvaluationConfig(batch_size=arguments.batch)
            save(file, evaluate({variant: model}, source, masks=[mask], config=batches))
            print(f"{run.name}, {variant}, {mask_label(mask)}", flush=True)
        rows += read(file)
    return rows


def rows_of(rows: Sequence[Score], first: str, second: str) -> list[dict[str, Any]]:
    """Return for each mask the mean PSNR of all variants, and by subject what the first brings over each other.

    The interval of the mean difference over subjects is Student's at 95 %; p is Wilcoxon's signed rank over subjects,
    which are independent, as slices of one are not. Each has been trained apart from the others, in folds.
    """
    psnr: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        psnr.setdefault((row.mask, row.method), {}).setdefault(row.subject, []).append(row.values["psnr"])
    table = []
    for mask in dict.fromkeys(row.mask for row in rows):
        means = {m: {s: mean(v) for s, v in by.items()} for (where, m), by in psnr.items() if where == mask}
        for other in [second, *(m for m in means if m.startswith(f"{first}, "))]:
            subjects = [s for s in means.get(first, {}) if s in means.get(other, {})]
            gains = [means[first][s] - means[other][s] for s in subjects]
            if len(gains) < 2:
                continue
            half = float(stats.sem(gains) * stats.t.ppf(0.975, len(gains) - 1))
            table.append(
                {
                    "mask": mask,
                    f"{first} [dB]": mean(means[first].values()),
                    "against": other,
                    "[dB]": mean(means[other].values()),
                    "gain": mean(gains),
                    "+-": half,
                    "p": float(stats.wilcoxon(gains).pvalue),
                    "by subject": ", ".join(f"{s}: {g:+.2f}" for s, g in zip(subjects, gains, strict=True)),
                }
            )
    return table


if __name__ == "__main__":
    main()
