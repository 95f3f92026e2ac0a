"""Compare the error that a network expects with the error that it makes, pixel by pixel inside the body."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from beartype import beartype

from atlf_jax.evaluation.scoring import body
from atlf_jax.evaluation.slices import reconstruct_slices
from atlf_jax.evaluation.trial import Trial
from atlf_jax.trained.uncertainty import Calibration

__all__ = ["Reliability", "measure_reliability"]

PIXELS = 8192  # pixels kept of each slice, evenly spaced: bounds the memory
CURVE_BINS = 12
BOUND = 0.9  # part of the errors that are to lie below the bound


class Reliability(NamedTuple):
    """Expected and true absolute errors of one method under one mask; errors in units of each target's maximum."""

    mask: str  # see masks.mask_label
    method: str
    calibrated: bool  # by the calibration stored with the network; otherwise fitted on these slices
    scale: float  # expected error / spread, as it was used
    bound: float  # bound / expected error, as it was used
    fitted: Calibration  # the calibration fitted on these slices
    curve: list[tuple[float, float]]  # mean expected and mean true error, in bins of as many pixels each
    error: float  # mean true error
    calibration_error: float  # mean |expected - true| over the curve
    coverage: float  # part of the true errors below the bound
    pearson: float  # of expected and true error over pixels, mean over slices
    spearman: float
    left_out: list[str]  # slices whose image or expected error is not finite; without others all above is nan


@beartype
def measure_reliability(trial: Trial, calibrations: Mapping[str, Calibration] = {}) -> list[Reliability]:
    """Compare expected with true errors of every model on every slice under every mask.

    Args:
        trial: each of its models reconstructs every slice four times.
        calibrations: by model. A model without one is calibrated on these slices (``calibrated`` is then False).

    Returns:
        One ``Reliability`` for each mask and model.

    Raises:
        ValueError: nothing in the source is brighter than air.
    """
    found = []
    for mask, label in zip(trial.masks, trial.labels, strict=True):
        pixels: dict[str, list[np.ndarray]] = {method: [] for method in trial.models}  # [2 n]: spreads, true errors
        broken: dict[str, list[str]] = {method: [] for method in trial.models}
        for panel in reconstruct_slices(trial, mask, timed=False, with_spread=True):
            if not (white := float(panel.target.max())):
                continue
            inside = np.flatnonzero(body(panel.target))
            inside = inside[:: -(-len(inside) // PIXELS)]
            for method, spread in panel.spreads.items():
                error = np.abs(panel.images[method] - panel.target)
                both = np.stack([spread.ravel()[inside], error.ravel()[inside]]) / white
                if np.isfinite(both).all():
                    pixels[method].append(both)
                else:
                    broken[method].append(panel.name)
        for method, slices in pixels.items():
            if not slices and not broken[method]:
                raise ValueError("every picture of the source is black; there is no error to expect")
            found.append(_reliability(label, method, slices, calibrations.get(method), broken[method]))
    return found


def _reliability(
    mask: str, method: str, slices: Sequence[np.ndarray], calibration: Calibration | None, left_out: Sequence[str] = ()
) -> Reliability:
    if not slices:
        nothing = Calibration(math.nan, math.nan)
        unknown = dict.fromkeys(
            ("scale", "bound", "error", "calibration_error", "coverage", "pearson", "spearman"), math.nan
        )
        return Reliability(
            mask, method, calibration is not None, fitted=nothing, curve=[], left_out=list(left_out), **unknown
        )
    spread, error = np.concatenate(slices, axis=1).astype(np.float64)
    scale = _ratio(error.mean(), spread.mean())
    fitted = Calibration(scale, _bound(error, scale * spread))
    used = fitted if calibration is None else calibration
    expected = used.scale * spread
    order = np.argsort(expected, kind="stable")
    bins = [part for part in np.array_split(order, CURVE_BINS) if len(part)]
    curve = [(float(expected[part].mean()), float(error[part].mean())) for part in bins]
    weights = [len(part) / len(order) for part in bins]
    return Reliability(
        mask=mask,
        method=method,
        calibrated=calibration is not None,
        scale=used.scale,
        bound=used.bound,
        fitted=fitted,
        curve=curve,
        error=float(error.mean()),
        calibration_error=float(sum(w * abs(p - e) for w, (p, e) in zip(weights, curve, strict=True))),
        coverage=float((error <= used.bound * expected).mean()),
        pearson=float(np.mean([_correlation(scipy.stats.pearsonr, *part) for part in slices])),
        spearman=float(np.mean([_correlation(scipy.stats.spearmanr, *part) for part in slices])),
        left_out=list(left_out),
    )


def _ratio(value: float, by: float) -> float:
    return float(value / by) if by > 0 else 0.0


def _bound(error: np.ndarray, expected: np.ndarray) -> float:
    """Return the factor that lifts the expected error above the wanted part of the true ones."""
    known = expected > 0
    return float(np.quantile(error[known] / expected[known], BOUND)) if known.any() else 0.0


def _correlation(kind: Callable[..., Any], spread: np.ndarray, error: np.ndarray) -> float:
    """Return a correlation; 0 where one of both does not vary, as then nothing is predicted."""
    return float(kind(spread, error).statistic) if np.ptp(spread) > 0 and np.ptp(error) > 0 else 0.0
