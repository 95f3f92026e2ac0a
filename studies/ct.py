"""What a CT does to the image, and whose anatomy it brings: ``python -m studies.ct --out=runs/ct``.

Each network reconstructs every subject with its own CT, with that of another subject and with the mean CT of the
training subjects, both at the same relative height, and without a CT; each CT as the network takes it (weight 1), and
with the weight that withheld samples of all slices of the subject give it (``atlf reconstruct --ct_weight withheld``).
What the own CT brings beyond the other two is this person's anatomy. Scores are kept in OUT for each network and mask:
run again to go on. With ATLF_DATA_DIR.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlf_jax.array_types import Reconstructor
from atlf_jax.data import AANLIBConfig, DataConfig, evaluation_batches, open_source
from atlf_jax.data.files import write_file
from atlf_jax.evaluation.changes import Change, atlas_mean, cached, of_another_subject
from atlf_jax.evaluation.scoring import Score, leading, score_slices
from atlf_jax.evaluation.slices import Panel
from atlf_jax.evaluation.statistics import holm, rank_biserial, subject_means, wilcoxon
from atlf_jax.evaluation.trial import EvaluationConfig, Selection
from atlf_jax.evaluation.wording import title
from atlf_jax.masks import MaskConfig, mask_label, stored_mask
from atlf_jax.metrics import METRICS
from atlf_jax.trained import load
from atlf_jax.trained.withheld import WithheldErrors, withheld_errors
from benchmarks.table import markdown
from studies.core import add_masks, evenly, finish, masks_of, parser, read, save

NONE, WEIGHED = "none", ", weighed"
CTS = ("own", "another subject's", "atlas mean")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    made = parser("ct", __doc__, out="folder of the scores and the tables")
    add_masks(made)
    add = made.add_argument
    add("--networks", nargs="+", default=["aanlib-best", "aanlib-best-long"], help="runs, files or shipped weights")
    add("--split", default="valid", help="subjects to score, two at least")
    add("--atlas", default="inner_train", help="split whose mean CT is the atlas")
    add("--slices", type=int, default=0, help="evenly spaced ones of each subject; 0: all")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Score what is missing; write and print the tables."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = replace(DataConfig(AANLIBConfig()), workers=0)
    source = open_source(data, arguments.split)
    changes: dict[str, Change] = {
        "own": lambda source, index: source[index],
        "another subject's": of_another_subject,
        "atlas mean": atlas_mean(open_source(data, arguments.atlas)),
    }
    chosen = evenly(source, arguments.slices)
    sources = {name: Selection(cached(source, change), chosen) for name, change in changes.items()}
    parts = []
    for place in arguments.networks:
        rows, weights = [], {}
        for mask in masks_of(arguments):
            few = f", {arguments.slices} slices" if arguments.slices else ""
            file = out / f"{Path(place).name}, {arguments.split}{few}, {mask_label(mask)}.csv"
            if not file.exists():
                scores, found = score(load(place).function, sources, mask)
                write_file(file.with_suffix(".json"), json.dumps(found, indent=1).encode())
                save(file, scores)
                print(f"{file.stem}: done", flush=True)
            rows += read(file)
            weights[mask_label(mask)] = json.loads(file.with_suffix(".json").read_text())
        parts += [f"# {place}, {len(chosen)} slices", *tables(rows, weights)]
    finish(out, "\n\n".join(parts))


def score(
    model: Reconstructor, sources: dict[str, Selection], mask: MaskConfig
) -> tuple[list[Score], dict[str, dict[str, float]]]:
    """Score a network under one mask with each CT, at full weight and weighed; return also the weights by subject."""
    slices = [reconstruct(model, batches, number) for number, batches in enumerate(_together(sources, mask))]
    own = sources["own"]
    subjects = [own[index].subject for index in range(len(own))]
    weights: dict[str, dict[str, float]] = {}
    for name in CTS:
        for subject in dict.fromkeys(subjects):
            of_subject = [errors[name] for (_, _, errors), s in zip(slices, subjects, strict=True) if s == subject]
            pooled = WithheldErrors(*(np.stack(part) for part in zip(*of_subject, strict=True)))
            weights.setdefault(name, {})[subject] = 0.0 if np.isnan(pooled.weight) else pooled.weight
    rows: list[Score] = []
    for index, (batch, images, _) in enumerate(slices):
        example = own[index]
        weighed = {
            f"{name}{WEIGHED}": images[NONE] + weights[name][example.subject] * (images[name] - images[NONE])
            for name in CTS
        }
        target = np.abs(batch.target[0]) * batch.scale[0]
        panel = Panel(
            mask=mask_label(mask),
            subject=example.subject,
            name=example.name,
            record=index,
            sampling=stored_mask(np.asarray(batch.measurement.mask[0]), layout="centered")._replace(
                nominal=float(mask.acceleration)
            ),
            ct=example.ct,
            target=target,
            real=True,
            images={name: np.abs(image) * batch.scale[0] for name, image in (images | weighed).items()},
            fused={},
            seconds=dict.fromkeys((*images, *weighed), 0.0),
        )
        rows += score_slices([panel], EvaluationConfig())
    return rows, weights


def reconstruct(model: Reconstructor, batches: dict[str, Any], number: int) -> tuple[Any, dict, dict]:
    """Return one slice's batch, its image with each CT and without, and the errors on withheld samples by CT."""
    own = batches["own"]
    square = float(own.scale[0]) ** 2
    bare = own.measurement._replace(ct=jnp.zeros_like(own.measurement.ct))
    images = {NONE: np.asarray(model(bare).image)[0]}
    errors = {}
    without: dict[str, Any] = {}  # the image without a CT is the same for all of them

    def remembering(measurement: Any) -> Any:
        if np.any(measurement.ct):
            return model(measurement)
        without["result"] = without.get("result") or model(measurement)
        return without["result"]

    for name, batch in batches.items():
        images[name] = np.asarray(model(batch.measurement).image)[0]
        found = withheld_errors(remembering, batch.measurement, seed=number)
        errors[name] = WithheldErrors(*(square * float(np.sum(part)) for part in found))
    return own, images, errors


def _together(sources: dict[str, Selection], mask: MaskConfig) -> Iterator[dict[str, Any]]:
    streams = [evaluation_batches(source, mask=mask, batch_size=1) for source in sources.values()]
    for found in zip(*streams, strict=True):
        yield dict(zip(sources, [jax.device_put(batch) for batch, _ in found], strict=True))


def tables(rows: Sequence[Score], weights: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Return the tables of one network as Markdown."""
    parts = []
    for metric in leading(METRICS):
        table = gains(rows, metric, weights if metric == "psnr" else None)
        parts.append(f"{title(metric)}: with the CT minus without, by subject:\n\n{markdown(table)}")
    return [*parts, f"The smallest gain of a subject under any mask:\n\n{markdown(smallest(rows))}"]


def gains(
    rows: Sequence[Score], metric: str, weights: dict[str, dict[str, dict[str, float]]] | None
) -> list[dict[str, Any]]:
    """Return a row for each mask and CT: the value without a CT, and what each CT adds at weight 1 and weighed."""
    values = _by_method(rows, metric)
    subjects = {row.name: row.subject for row in rows}
    table = []
    for mask, name in itertools.product(dict.fromkeys(row.mask for row in rows), CTS):
        none = values[mask, NONE]
        row: dict[str, Any] = {"mask": mask, "CT": name, "without": _mean(none, subjects)}
        for label, method in (("weight 1", name), ("weighed", f"{name}{WEIGHED}")):
            change = {key: values[mask, method][key] - none[key] for key in none}
            by_subject = subject_means(list(change.values()), [subjects[key] for key in change])
            row[label] = ", ".join(f"{subject}: {value:+.{digits(metric)}f}" for subject, value in by_subject.items())
            row[f"better slices, {label}"] = f"{sum(value > 0 for value in change.values())} of {len(change)}"
        beyond = {key: values[mask, "own"][key] - values[mask, name][key] for key in none}
        row["own CT beyond it"] = _mean(beyond, subjects) if name != "own" else None
        row["effect"] = rank_biserial(list(beyond.values())) if name != "own" else None
        row["p, slices"] = wilcoxon(list(beyond.values())) if name != "own" else None
        if weights is not None:
            row["weights"] = ", ".join(f"{weight:.2f}" for weight in weights[mask][name].values())
        table.append(row)
    for name in CTS[1:]:
        family = [row for row in table if row["CT"] == name]
        for row, p in zip(family, holm([row["p, slices"] for row in family]), strict=True):
            row["p, Holm"] = p
    return [row | {"p, Holm": row.get("p, Holm")} for row in table]


def smallest(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """Return for each CT the smallest gain of a subject, by metric, and where it is found."""
    table = []
    for name, ending in itertools.product(CTS, ("", WEIGHED)):
        row: dict[str, Any] = {"CT": name, "weight": "weighed" if ending else "1"}
        for metric in leading(METRICS):
            values = _by_method(rows, metric)
            subjects = {item.name: item.subject for item in rows}
            found = []
            for mask in dict.fromkeys(item.mask for item in rows):
                change = {key: values[mask, name + ending][key] - value for key, value in values[mask, NONE].items()}
                by_subject = subject_means(list(change.values()), [subjects[key] for key in change])
                found += [(value, f"{subject}, {mask}") for subject, value in by_subject.items()]
            least, where = min(found)
            row[title(metric)] = f"{least:+.{digits(metric)}f} ({where})"
        table.append(row)
    return table


def digits(metric: str) -> int:
    """Return how many digits after the point a score is given with."""
    return 2 if metric.startswith("psnr") else 4


def _by_method(rows: Sequence[Score], metric: str) -> dict[tuple[str, str], dict[str, float]]:
    values: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        values.setdefault((row.mask, row.method), {})[row.name] = row.values[metric]
    return values


def _mean(values: dict[str, float], subjects: dict[str, str]) -> float:
    return float(np.mean(list(subject_means(list(values.values()), [subjects[key] for key in values]).values())))


if __name__ == "__main__":
    main()
