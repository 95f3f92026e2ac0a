"""Score every slice of a trial by every method under every mask: one row each.

Magnitude images are compared in the units of the source: a reconstruction is multiplied by the scale that its
measurement was divided by. The zero-filled image, the magnitude of A^H y, is scored as a method like the others.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Array, Bool, Float, jaxtyped

from atlf_jax.evaluation.slices import Panel, reconstruct_slices
from atlf_jax.evaluation.trial import ALL_BLACK, ZERO_FILLED, EvaluationConfig, Selection, Trial
from atlf_jax.metrics import find_metric, is_black, score

__all__ = [
    "BODY_ENDING",
    "Score",
    "body",
    "choose_panels",
    "evaluate",
    "leading",
    "quality",
    "reported",
    "score_slices",
]

BODY_THRESHOLD = 0.05  # of the maximum: darker pixels are air
BODY_ENDING = "_body"  # suffix of the names of scores inside the body

_log = logging.getLogger(__name__)


class Score(NamedTuple):
    """What one method did on one slice (profile ``fastmri``: on one volume) under one mask."""

    mask: str  # see mask_label
    method: str
    subject: str
    name: str  # of the slice, or of the volume
    record: int  # index into the source; of the middle slice for a volume
    nominal: float  # acceleration asked for
    effective: float  # acceleration drawn
    coverage: float  # part of k-space known where the image is real
    mask_hash: str
    real: bool  # the target has no phase, so its k-space is Hermitian
    seconds: float  # a slice, on the device, without compilation
    values: dict[str, float]  # by name: see reported


@beartype
def reported(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the scores of a slice: each metric of the whole picture, then of the pixels in the body.

    Example:
        >>> reported(["psnr"])
        ('psnr', 'psnr_body')
    """
    return (*metrics, *(f"{name}{BODY_ENDING}" for name in metrics))


@beartype
def leading(names: Iterable[str]) -> tuple[str, ...]:
    """Return the scores that short tables and curves show: the first two metrics, whole and inside the body.

    Example:
        >>> leading(reported(["psnr", "ssim", "nmse"]))
        ('psnr', 'ssim', 'psnr_body', 'ssim_body')
    """
    return reported([name for name in names if not name.endswith(BODY_ENDING)][:2])


@beartype
def evaluate(trial: Trial) -> list[Score]:
    """Score the zero-filled image and every model on every slice under every mask.

    Args:
        trial: what is scored, and how.

    Returns:
        Rows in the order mask, slice, method; ``zero-filled`` comes first. A black slice (profile ``fastmri``: a black
        volume) has no rows, and a warning in the log names it; ``without_black`` removes such slices beforehand. A
        score that is not defined is nan.

    Raises:
        ValueError: for an empty source or one of black slices alone, no mask, or slices of several sizes in a volume
            that is scored as one.
    """
    records = len(trial.source)
    if not records or not trial.masks:
        raise ValueError(f"got {records} records and {len(trial.masks)} masks, wanted at least one of each")
    rows: list[Score] = []
    black: dict[str, None] = {}
    for mask in trial.masks:
        panels = reconstruct_slices(trial, mask)
        for _, slices in itertools.groupby(panels, key=_volume if trial.config.profile == "fastmri" else _record):
            group = list(slices)
            if all(is_black(panel.target) for panel in group):
                black |= dict.fromkeys(panel.name for panel in group)
            else:
                rows += score_slices(group, trial.config)
    if not rows:
        raise ValueError(ALL_BLACK.format(records))
    if black:
        _log.warning("left out, as the MR is black and there is nothing to reconstruct: %s", ", ".join(black))
    return rows


@beartype
def quality(row: Score) -> float:
    """Return the value by which slices are ranked: the first metric, with the sign that makes higher better.

    An undefined metric ranks last.
    """
    name, value = next(iter(row.values.items()))
    return -math.inf if math.isnan(value) else -value if find_metric(name).lower_is_better else value


@beartype
def choose_panels(trial: Trial, rows: Sequence[Score]) -> list[Panel]:
    """Reconstruct the slices of the report again: evenly spaced in the quality of the first model, worst to best.

    Only these images are kept in memory. They equal the scored ones, since masks and noise are seeded by slice names.

    Args:
        trial: ``config.panels`` is their number for each mask.
        rows: what ``evaluate`` returned for it.

    Returns:
        The panels of each mask, from worst to best.
    """
    lead, count = next(iter(trial.models), ZERO_FILLED), trial.config.panels
    panels = []
    for mask, label in zip(trial.masks, trial.labels, strict=True):
        scored = [row for row in rows if row.mask == label and row.method == lead]
        ranked = [row.record for row in sorted(scored, key=quality)]
        last = len(ranked) - 1
        ranks = np.linspace(0, last, count) if count > 1 else np.full(count, last / 2)
        chosen = Selection(trial.source, tuple(dict.fromkeys(ranked[rank] for rank in np.rint(ranks).astype(int))))
        shown = reconstruct_slices(dataclasses.replace(trial, source=chosen), mask, timed=False)
        panels += [panel._replace(record=chosen.indices[panel.record]) for panel in shown]
    return panels


def _record(panel: Panel) -> int:
    return panel.record


def _volume(panel: Panel) -> tuple[str, str]:
    """Return a key of the volume: a subject may have several, whose slices are named ``VOLUME_NUMBER``."""
    return panel.subject, panel.name.rpartition("_")[0]


@jaxtyped(typechecker=beartype)
def body(image: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the largest part of an image that is brighter than air (5 % of the maximum), with its holes filled."""
    parts, count = scipy.ndimage.label(scipy.ndimage.binary_fill_holes(image > BODY_THRESHOLD * image.max()))
    if not count:
        return np.ones(image.shape, bool)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


@partial(jax.jit, static_argnums=0)
def _score_volume(config: EvaluationConfig, prediction: Array, target: Array, body: Array) -> dict[str, Array]:
    whole, inside = (
        score(config.profile, prediction, target, body=counted, metrics=config.metrics) for counted in (None, body)
    )
    return whole | {f"{name}{BODY_ENDING}": value for name, value in inside.items()}


@beartype
def score_slices(panels: list[Panel], config: EvaluationConfig) -> list[Score]:
    """Score all methods on the slices of one unit of the profile: one slice, or the slices of one volume.

    Args:
        panels: with the images of all methods.
        config: profile and metrics.

    Raises:
        ValueError: slices of several sizes in a volume.
    """
    middle = panels[len(panels) // 2]
    if len(sizes := {panel.target.shape for panel in panels}) > 1:
        raise ValueError(
            f"slices of subject {middle.subject} have sizes {sorted(sizes)}, and profile fastmri scores them as one "
            "volume; score them by the profile picture"
        )
    target = np.stack([panel.target for panel in panels]).astype(np.float64)
    inside = np.stack([body(image) for image in target])
    rows = []
    for method in middle.images:
        image = np.stack([panel.images[method] for panel in panels]).astype(np.float64)
        with jax.enable_x64(True):
            values = jax.device_get(_score_volume(config, image, target, inside))
        rows.append(
            Score(
                mask=middle.mask,
                method=method,
                subject=middle.subject,
                name=middle.name if config.profile == "picture" else _volume(middle)[1] or middle.subject,
                record=middle.record,
                nominal=middle.sampling.nominal,
                effective=middle.sampling.effective,
                coverage=middle.sampling.coverage,
                mask_hash=middle.sampling.hash,
                real=all(panel.real for panel in panels),
                seconds=float(np.mean([panel.seconds[method] for panel in panels])),
                values={name: float(np.reshape(values[name], ())) for name in reported(config.metrics)},
            )
        )
    return rows
