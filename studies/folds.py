"""Does the CT help? By subject, in four folds: ``python -m studies.folds --out=runs/folds``.

In each fold a network is trained on six subjects of AANLIB and scored on the other two, so that every subject is scored
by networks that have not seen it. ``--methods`` names an experiment of ``configs/benchmark.py`` that takes the CT, and
others to compare it with. Without a CT, ``best`` is the network that its adapters were added to, so it needs no other.
The last checkpoint is scored, as there is no subject left to choose one. Run again to go on.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jax
from scipy import stats

from atlf_jax.config import Config, from_dict
from atlf_jax.data import open_source
from atlf_jax.data.aanlib import FOLDS
from atlf_jax.evaluation.changes import ABLATIONS, cached
from atlf_jax.evaluation.report import title
from atlf_jax.evaluation.scoring import Score, leading
from atlf_jax.evaluation.statistics import rank_biserial, wilcoxon
from atlf_jax.evaluation.trial import EvaluationConfig, Trial
from atlf_jax.masks import MaskConfig, mask_label
from atlf_jax.metrics import METRICS
from atlf_jax.models import build, sees_ct
from atlf_jax.training import load
from benchmarks.table import markdown
from studies.core import (
    ATLAS,
    OTHER_CTS,
    add_masks,
    changes_of_ct,
    finish,
    finished,
    masks_of,
    parser,
    scores_of,
    train,
)
from studies.methods import corrected


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    made = parser("folds", __doc__, out="folder of the runs, scores and the table")
    add_masks(made, accelerations=(4.0, 10.0))
    add = made.add_argument
    add("--methods", nargs="+", default=["best"], metavar="NAME", help="one with the CT, others")
    add("--folds", nargs="+", type=int, default=[1, 2, 3, 4], choices=range(1, len(FOLDS) + 1))
    add("--ablate", nargs="*", default=list(OTHER_CTS), choices=[*ABLATIONS, ATLAS], metavar="WHICH")
    add("--batch", type=int, default=4, help="slices reconstructed at once")
    add("--no-training", action="store_true", help="leave out folds that are not trained yet")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, score what is missing, write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    (out / "scores").mkdir(parents=True, exist_ok=True)
    masks = masks_of(arguments)
    rows: list[Score] = []
    for fold, name in itertools.product(arguments.folds, arguments.methods):
        run = out / f"{name}_{fold}"
        if not finished(run):
            if arguments.no_training:
                print(f"{run.name}: not trained yet, left out")
                continue
            splits = ("--data.train_split=train", "--data.valid_split=valid", f"--data.aanlib.fold={fold}")
            train(f"benchmark:{name}", run, *splits, "--train.eval_every=100000")
        rows += score(name, run, masks, arguments, out / "scores")
    finish(out, markdown(rows_of(rows, *arguments.methods)))


def score(
    name: str, run: Path, masks: Sequence[MaskConfig], arguments: argparse.Namespace, folder: Path
) -> list[Score]:
    """Score a run on the subjects that it was not trained on, by the true CT and others where it sees one."""
    config, variables = load(run, "latest")
    settings = from_dict(Config, config)
    model = jax.tree_util.Partial(build(settings.model).apply, variables)
    pairs = open_source(dataclasses.replace(settings.data, workers=0), "valid")
    variants = {name: pairs}
    if sees_ct(settings.model):
        changes = changes_of_ct(open_source(dataclasses.replace(settings.data, workers=0), "train"))
        variants |= {f"{name}, {which}": cached(pairs, changes[which]) for which in arguments.ablate}
    rows: list[Score] = []
    for mask, (variant, source) in itertools.product(masks, variants.items()):
        file = folder / f"{run.name}, {mask_label(mask)}, {variant}.csv"
        trial = Trial(source, (mask,), {variant: model}, config=EvaluationConfig(batch_size=arguments.batch))
        rows += scores_of(trial, file, run, which="latest")
    return rows


def rows_of(rows: Sequence[Score], first: str, *others: str) -> list[dict[str, Any]]:
    """Return for each mask the mean PSNR of the first method, and what it gains over the others and its own variants.

    Means are taken by subject first. The interval is Student's at 95 % over subjects, which are independent, as slices
    of one are not; p is Wilcoxon's signed rank, over subjects and over slices, alone and corrected by Holm over masks.
    The effect is the rank-biserial correlation over subjects; d is mean over standard deviation of their gains.
    """
    values: dict[tuple[str, str], dict[tuple[str, str], dict[str, float]]] = {}
    for row in rows:
        values.setdefault((row.mask, row.method), {})[row.subject, row.name] = row.values
    table = []
    for mask in dict.fromkeys(row.mask for row in rows):
        scores = {method: found for (where, method), found in values.items() if where == mask}
        variants = {method: {key: item["psnr"] for key, item in found.items()} for method, found in scores.items()}
        for other in [*others, *(method for method in variants if method.startswith(f"{first}, "))]:
            both = [key for key in variants.get(first, {}) if key in variants.get(other, {})]
            gains = {key: variants[first][key] - variants[other][key] for key in both}
            subjects = list(dict.fromkeys(subject for subject, _ in both))
            if len(subjects) < 2:
                continue
            mine, theirs = (
                [mean(variants[name][key] for key in both if key[0] == s) for s in subjects] for name in (first, other)
            )
            by_subject = [a - b for a, b in zip(mine, theirs, strict=True)]
            table.append(
                {
                    "mask": mask,
                    f"{first} [dB]": mean(mine),
                    "against": other,
                    "[dB]": mean(theirs),
                    "gain": mean(by_subject),
                    "+-": float(stats.sem(by_subject) * stats.t.ppf(0.975, len(subjects) - 1)),
                    "effect": rank_biserial(by_subject),
                    "d": mean(by_subject) / stdev(by_subject) if stdev(by_subject) else None,
                    "p, subjects": wilcoxon(by_subject),
                    "better slices": f"{sum(gain > 0 for gain in gains.values())} of {len(gains)}",
                    "p, slices": wilcoxon(list(gains.values())),
                    **{
                        f"gain in {title(metric)}": mean(
                            mean(scores[first][key][metric] - scores[other][key][metric] for key in both if key[0] == s)
                            for s in subjects
                        )
                        for metric in leading(METRICS)
                        if metric != "psnr"
                    },
                    "by subject": ", ".join(f"{s}: {g:+.2f}" for s, g in zip(subjects, by_subject, strict=True)),
                }
            )
    return corrected(table, "against")


if __name__ == "__main__":
    main()
