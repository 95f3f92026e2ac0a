"""The effect of the CT on a reconstruction: remove, exchange or move it, or add a lesion to it, and score again.

Nothing is told to the networks: each variant is the same trial with another source (see ``changes``).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from beartype import beartype

from atlf_jax.data import AcquisitionConfig
from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.evaluation.changes import ABLATIONS, Lesion, cached, lesion_mark, mover, painter, possible_ablations
from atlf_jax.evaluation.figures import curve_figure
from atlf_jax.evaluation.scoring import Score, evaluate, leading
from atlf_jax.evaluation.slices import reconstruct_slices
from atlf_jax.evaluation.statistics import Comparison, compare, subject_means
from atlf_jax.evaluation.study import Section
from atlf_jax.evaluation.trial import ZERO_FILLED, Trial
from atlf_jax.evaluation.wording import number, title
from atlf_jax.masks import MaskConfig

__all__ = [
    "SWEEPS",
    "LESIONS",
    "Shown",
    "SweepPoint",
    "ablate_ct",
    "ct_gains",
    "ct_section",
    "hallucination",
    "null_space_share",
    "sweep",
]

SECTION_REMARKS = (
    "The CT of the same slices is taken away or exchanged: these are methods of their own in all tables of this page, "
    "on the same masks. A method that the CT helps falls with each of them.",
    "The curves move the true CT off the MR (each slice in its own direction, drawn from its name), and add noise to "
    "the measured samples.",
    "A small Gaussian lesion of three tenths of the maximum is painted into the CT alone, where anything but 0 in the "
    "output is invented, and into the MR alone, where 1 is right: the share of the lesion in the change of the output, "
    "by least squares, mean over slices with the worst slice. The null space holds the samples that were not acquired.",
)

GAIN_REMARKS = (
    "What the true CT brings to each method over no CT, another subject's and another slice's: difference of the mean "
    "over subjects, and on how many slices the true CT does better. A gain counts where all four columns agree: PSNR "
    "can rise while SSIM falls, and a mean over the picture holds air, where nothing is diagnosed.",
)

SWEEPS: dict[str, tuple[float, ...]] = {
    "CT shift [px]": (0.0, 1.0, 2.0, 4.0, 8.0),
    "CT rotation [degrees]": (0.0, 2.0, 5.0, 10.0),
    "CT elastic [px]": (0.0, 1.0, 2.0, 4.0),
    "noise [of the peak]": (0.0, 0.01, 0.02, 0.05),
}


@beartype
def ablate_ct(trial: Trial) -> list[Score]:
    """Score every model again with each of ``possible_ablations`` in place of the true CT.

    Returns:
        Rows as of ``scoring.evaluate``, with methods named ``MODEL, ABLATION``, without the zero-filled image, which
        does not depend on the CT.
    """
    rows: list[Score] = []
    for name, change in possible_ablations(trial.source).items():
        scored = evaluate(replace(trial, source=cached(trial.source, change)))
        rows += [row._replace(method=f"{row.method}, {name}") for row in scored if row.method != ZERO_FILLED]
    return rows


@beartype
def ct_gains(rows: Sequence[Score]) -> Section:
    """Return the gain by the true CT in the first two metrics, whole and inside the body, as a section of a report.

    Args:
        rows: scores with the true CT, and those of ``ablate_ct``.
    """
    facts: list[dict[str, Any]] = []
    gains: list[Comparison] = []
    found = {(item.mask, item.first, item.second, item.metric): item for item in compare(rows)}
    for mask, first, second in dict.fromkeys(key[:3] for key in found):
        method, _, change = second.rpartition(", ")
        if method != first or change not in ABLATIONS:
            continue
        every = {key[3]: item for key, item in found.items() if key[:3] == (mask, first, second)}
        gains += every.values()
        facts.append(
            {"over": f"over {change}, {mask}", "method": method}
            | {
                title(metric): f"{number(item.difference, metric, signed=True)} ({item.better_slices}/{item.slices})"
                for metric, item in every.items()
                if metric in leading(rows[0].values)
            }
        )
    return Section(
        title="What the CT brings",
        key="ct_gains",
        remarks=GAIN_REMARKS,
        table=sorted(facts, key=lambda fact: list(dict.fromkeys(f["over"] for f in facts)).index(fact["over"])),
        numbers=[item._asdict() for item in gains],
        group="over",
    )


class SweepPoint(NamedTuple):
    """The mean scores of one method at one amount of one disturbance: over subjects, of the mean over slices."""

    sweep: str  # a row of SWEEPS
    amount: float
    mask: str
    method: str
    values: dict[str, float]  # of the first two metrics, whole and inside the body


@beartype
def sweep(trial: Trial, sweeps: Mapping[str, Sequence[float]] = SWEEPS) -> list[SweepPoint]:
    """Score all models with the CT moved off the MR by growing amounts, and with growing noise.

    Args:
        trial: as it was scored.
        sweeps: amounts by row of ``SWEEPS``; directions are drawn once from each slice's name.
    """
    points = []
    for name, amounts in sweeps.items():
        for amount in amounts:
            rows = evaluate(_disturbed(trial, name, amount))
            for mask, method in dict.fromkeys((row.mask, row.method) for row in rows):
                group = [row for row in rows if (row.mask, row.method) == (mask, method)]
                subjects = [row.subject for row in group]
                means = {
                    metric: float(np.mean([*subject_means([row.values[metric] for row in group], subjects).values()]))
                    for metric in leading(rows[0].values)
                }
                points.append(SweepPoint(name, amount, mask, method, means))
    return points


def _disturbed(trial: Trial, name: str, amount: float) -> Trial:
    """Return a trial with more noise, or with its CT moved."""
    if name.startswith("noise"):
        return replace(trial, acquisition=AcquisitionConfig(phase=trial.acquisition.phase, noise=amount))
    return replace(trial, source=cached(trial.source, mover(name, amount)))


LESIONS = (Lesion("ct"), Lesion("mr"))


class Shown(NamedTuple):
    """How much of an added lesion the image of one method shows in one slice."""

    mask: str
    method: str
    subject: str
    name: str
    lesion: Lesion
    shown: float  # least-squares share of the lesion in the change of the output; 1 = all of it


@beartype
def hallucination(trial: Trial, lesions: Sequence[Lesion] = LESIONS) -> list[Shown]:
    """Add lesions to the CT only, or to the MR only, and measure how much of each the output shows.

    With L the added lesion and d the change of the output's magnitude, ``shown = <d, L> / <L, L>``. For a lesion in the
    CT, L has the contrast that it would have in the MR, and any value but 0 is a hallucination. For a lesion in the MR,
    which is measured through the same mask, 1 is right.

    Args:
        trial: as it was scored.
        lesions: each is painted by itself.
    """
    found = []
    painted = [replace(trial, source=cached(trial.source, painter(lesion))) for lesion in lesions]
    for mask in trial.masks:
        streams = [reconstruct_slices(variant, mask, timed=False) for variant in (trial, *painted)]
        for plain, *panels in zip(*streams, strict=True):
            example = trial.source[plain.record]
            for lesion, panel in zip(lesions, panels, strict=True):
                if lesion.painted == "mr":
                    added = panel.target - plain.target
                else:
                    height = lesion.contrast * float(np.abs(example.target).max())
                    added = height * lesion_mark(example, radius=lesion.radius, place=lesion.place)
                for method, image in panel.images.items():
                    change = image - plain.images[method]
                    shown = float((change * added).sum() / np.square(added).sum())
                    found.append(Shown(panel.mask, method, panel.subject, panel.name, lesion, shown))
    return found


@beartype
def null_space_share(trial: Trial, mask: MaskConfig) -> dict[str, float]:
    """Return by method the share of the error's energy at samples that were not acquired.

    Data consistency cannot reduce this share.

    The error is that of the magnitude images that are scored; the mean is over slices.

    Args:
        trial: as it was scored.
        mask: one of its masks.
    """
    shares: dict[str, list[float]] = {}
    for panel in reconstruct_slices(trial, mask, timed=False):
        for method, image in panel.images.items():
            energy = np.square(np.abs(fft2c_numpy((image - panel.target).astype(np.complex64))))
            total = float(energy.sum())
            outside = float((energy * ~panel.sampling.samples).sum())
            shares.setdefault(method, []).append(outside / total if total else 0.0)
    return {method: float(np.mean(values)) for method, values in shares.items()}


@beartype
def ct_section(trial: Trial) -> Section:
    """Return sweeps, lesions and the null-space share of the error as a section of a report."""
    points, lesions = sweep(trial), hallucination(trial)
    facts = _facts(trial, lesions)
    curves, labels = _curves(trial, points)
    return Section(
        title="What the CT does",
        key="ct",
        remarks=SECTION_REMARKS,
        table=facts,
        group="mask",
        numbers={
            "table": facts,
            "sweeps": [
                {name: value for name, value in point._asdict().items() if name != "values"} | point.values
                for point in points
            ],
            "lesions": [found._asdict() | {"lesion": asdict(found.lesion)} for found in lesions],
        },
        figure=lambda dark: curve_figure(curves, ylabel=labels, dark=dark),
    )


def _facts(trial: Trial, lesions: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return a row for each mask and method."""
    facts = []
    for mask, label in zip(trial.masks, trial.labels, strict=True):
        shares = null_space_share(trial, mask)
        for method in shares:
            group = {
                painted: [x.shown for x in lesions if (x.mask, x.method, x.lesion.painted) == (label, method, painted)]
                for painted in ("ct", "mr")
            }
            facts.append(
                {
                    "method": method,
                    "mask": label,
                    "lesion in CT only, shown": float(np.mean(group["ct"])),
                    "largest": float(np.abs(group["ct"]).max()),
                    "lesion in MR only, shown": float(np.mean(group["mr"])),
                    "least": float(min(group["mr"])),
                    "error in the null space": shares[method],
                }
            )
    return facts


def _curves(
    trial: Trial, points: Sequence[SweepPoint]
) -> tuple[dict[str, dict[str, list[tuple[float, float]]]], dict[str, str]]:
    """Return the points of every axis by method, and the label of each axis."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    labels: dict[str, str] = {}
    for label, metric in itertools.product(trial.labels, leading(points[0].values)):
        for point in (point for point in points if point.mask == label):
            axis = f"{point.sweep}: {title(metric)}" + (f"\n{label}" if len(trial.masks) > 1 else "")
            labels[axis] = title(metric)
            curves.setdefault(axis, {}).setdefault(point.method, []).append((point.amount, point.values[metric]))
    return curves, labels
