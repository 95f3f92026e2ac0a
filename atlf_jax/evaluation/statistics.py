"""From scores of slices to statements about subjects.

Slices of one subject are not independent, so every aggregate is taken within each subject first and over subjects
after that. Nothing here knows what a score means: rows of ``evaluation.scoring`` come in, numbers and words go out.

A score that is not defined (nan) is named, and its slice is left out for all methods alike, so that means stay over the
same slices; a method without any defined score under a mask has the mean nan and takes no slice from the others.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from beartype import beartype

from atlf_jax.evaluation.scoring import Score
from atlf_jax.evaluation.trial import ZERO_FILLED
from atlf_jax.metrics import find_metric

__all__ = [
    "Comparison",
    "Summary",
    "Undefined",
    "bootstrap_interval",
    "compare",
    "crossed_interval",
    "holm",
    "rank_biserial",
    "remark",
    "subject_means",
    "summarise",
    "undefined",
    "undefined_remarks",
    "wilcoxon",
]

MIN_SUBJECTS = 6  # the fewest pairs for which a two-sided signed-rank p, at least 2^(1 - n), can fall below .05


class Summary(NamedTuple):
    """One metric of one method under one mask."""

    mask: str
    method: str
    metric: str
    mean: float  # over subject means; nan where no slice has a defined score
    deviation: float | None  # sample standard deviation of subject means; None with one subject
    interval: tuple[float, float] | None  # bootstrap interval of the mean over subjects; None with one subject
    slice_mean: float  # over all slices, without regard to subjects
    worst: float
    worst_name: str  # empty where no slice has a defined score
    subjects: dict[str, float]  # mean of each subject's slices; without subjects that have no defined score
    left_out: list[str]  # slices left out for all methods, since the score of one method is not defined


class Comparison(NamedTuple):
    """Two methods on the same slices under one mask: differences are ``first - second``."""

    mask: str
    first: str
    second: str
    metric: str
    difference: float  # mean over subjects; nan where no slice has both scores
    subjects: dict[str, float]  # mean difference of each subject
    slices: int  # on which both scores are defined
    better_slices: int  # on how many slices the first is better
    slice_p: float  # Wilcoxon signed-rank over slices, as if these were independent
    subject_p: float | None  # the same over subjects; None where there are too few for any to be small
    effect: float  # matched-pairs rank-biserial correlation over slices: 1 = the first is higher on all
    left_out: list[str]  # slices without one of both scores


class Undefined(NamedTuple):
    """The slices of which one method has no defined score (nan) by one metric under one mask."""

    mask: str
    method: str
    metric: str
    names: list[str]
    slices: int  # of how many


@beartype
def subject_means(values: Sequence[float], subjects: Sequence[str]) -> dict[str, float]:
    """Average the values of each subject.

    Args:
        values: one a slice.
        subjects: the subject of each slice.

    Returns:
        Mean by subject, in order of first appearance.

    Example:
        >>> subject_means([1.0, 3.0, 10.0], ["a", "a", "b"])
        {'a': 2.0, 'b': 10.0}
    """
    groups: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        groups.setdefault(subject, []).append(value)
    return {subject: float(np.mean(group)) for subject, group in groups.items()}


@beartype
def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, samples: int = 10_000
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean, the same on every call.

    Args:
        values: independent values, one a subject.
        confidence: of the interval, in (0, 1).
        samples: bootstrap resamples.

    Returns:
        (low, high), or None where there is nothing to resample: fewer than two values, or one that is not finite.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0], samples=200)
        >>> 1 <= low < 2 < high <= 3, bootstrap_interval([2.0]) is None
        (True, True)

    Source: ``scipy.stats.bootstrap``, method "percentile" (BCa is not defined for two or three values).
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    data = (np.asarray(values, float),)
    rng = np.random.default_rng(0)
    result = scipy.stats.bootstrap(
        data, np.mean, n_resamples=samples, confidence_level=confidence, method="percentile", rng=rng
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@beartype
def wilcoxon(differences: Sequence[float]) -> float:
    """Return the two-sided p of the Wilcoxon signed-rank test that paired differences are centred at zero.

    Args:
        differences: first minus second, one a pair; equal infinities count as no difference.

    Returns:
        p in (0, 1]; 1 where all differences are zero; nan where there is no difference, or one that is not defined.

    Example:
        >>> wilcoxon([1.0, 2.0, 3.0]), wilcoxon([0.0, 0.0])  # three subjects cannot give less than 1/4
        (0.25, 1.0)

    Source: ``scipy.stats.wilcoxon``; zero differences are dropped (Wilcoxon 1945).
    """
    if not differences or np.isnan(differences).any():
        return math.nan
    kept = [difference for difference in differences if difference != 0]
    if not kept:
        return 1.0
    return float(scipy.stats.wilcoxon(kept).pvalue)


@beartype
def rank_biserial(differences: Sequence[float]) -> float:
    """Return the effect size that belongs to ``wilcoxon``: the matched-pairs rank-biserial correlation.

    ``(W+ - W-) / (W+ + W-)`` with the sums of the ranks of the positive and of the negative differences.

    Args:
        differences: first minus second, one a pair; zeros are dropped.

    Returns:
        Between -1 and 1: 1 where the first is higher in every pair; 0 where all differences are zero; nan where there
        is no difference, or one that is not defined.

    Example:
        >>> rank_biserial([1.0, 2.0, 3.0]), rank_biserial([-1.0, 2.0])  # ranks 1 and 2: (2 - 1) / 3
        (1.0, 0.3333333333333333)

    Source: Kerby 2014.
    """
    if not differences or np.isnan(differences).any():
        return math.nan
    kept = np.array([difference for difference in differences if difference != 0])
    ranks = scipy.stats.rankdata(np.abs(kept))
    return float(np.sum(np.sign(kept) * ranks) / np.sum(ranks)) if len(kept) else 0.0


@beartype
def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p values for testing several hypotheses: Holm's step-down method, for any dependence between tests.

    The k-th smallest of m is multiplied by m - k + 1, and is at least as large as the corrected ones before it.

    Args:
        p_values: of the tests of one family; None and nan, of tests that were not possible, are not counted.

    Returns:
        Corrected values in the same order, 1 at most.

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]

    Source: Holm 1979.
    """
    tested = {index: p for index, p in enumerate(p_values) if p is not None and not math.isnan(p)}
    corrected, largest = list(p_values), 0.0
    for rank, index in enumerate(sorted(tested, key=lambda index: tested[index])):
        largest = max(largest, min(1.0, (len(tested) - rank) * tested[index]))
        corrected[index] = largest
    return corrected


@beartype
def crossed_interval(
    values: Sequence[Sequence[float]], *, confidence: float = 0.95, samples: int = 10_000
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of a mean over seeds and subjects, of which both are resampled.

    Args:
        values: one row a seed of the training, one column a subject; all seeds were scored on all subjects.
        confidence: of the interval, in (0, 1).
        samples: bootstrap resamples.

    Returns:
        (low, high), the same on every call; None with fewer than two seeds or subjects, or values that are not finite.

    Example:
        >>> crossed_interval([[1.0, 3.0], [1.0, 3.0]])  # the seeds agree, and the two subjects differ
        (1.0, 3.0)

    Source: the crossed bootstrap of Owen 2007 ("the pigeonhole bootstrap"), which is rather too wide than too narrow.
    """
    table = np.asarray(values, float)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        return None
    rng = np.random.default_rng(0)
    seeds, subjects = (rng.integers(side, size=(samples, side)) for side in table.shape)
    means = table[seeds[:, :, None], subjects[:, None, :]].mean((1, 2))
    low, high = np.percentile(means, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


@beartype
def summarise(rows: Sequence[Score], *, confidence: float = 0.95, samples: int = 10_000) -> list[Summary]:
    """Aggregate slices within subjects, and subjects to mean, standard deviation and bootstrap interval.

    Args:
        rows: scores of slices, of any number of methods and masks.
        confidence: of the bootstrap interval.
        samples: bootstrap resamples.

    Returns:
        One summary for each mask, method and metric, in order of first appearance.

    Example:
        >>> row = Score("4x", "unet", "a", "a1", 0, 4.0, 4.0, 0.25, "", False, 0.1, {"psnr": 30.0})
        >>> rows = [row, row._replace(name="a2", values={"psnr": 32.0}), row._replace(subject="b", name="b1")]
        >>> (result,) = summarise(rows, samples=100)
        >>> result.subjects, result.mean, round(result.slice_mean, 2)  # means over subjects, over slices
        ({'a': 31.0, 'b': 30.0}, 30.5, 30.67)
    """
    summaries = []
    missing = _left_out(rows)
    for (mask, method), group in _grouped(rows).items():
        for metric in group[0].values:
            left_out = missing.get((mask, metric), {})
            kept = [row for row in group if row.name not in left_out and not math.isnan(row.values[metric])]
            values = [row.values[metric] for row in kept]
            means = subject_means(values, [row.subject for row in kept])
            over = list(means.values())
            spread = len(over) > 1 and bool(np.isfinite(over).all())
            worst = (max if find_metric(metric).lower_is_better else min)(
                kept, key=lambda row, metric=metric: row.values[metric], default=None
            )
            summaries.append(
                Summary(
                    mask=mask,
                    method=method,
                    metric=metric,
                    mean=_mean(over),
                    deviation=float(np.std(over, ddof=1)) if spread else None,
                    interval=bootstrap_interval(over, confidence=confidence, samples=samples),
                    slice_mean=_mean(values),
                    worst=worst.values[metric] if worst else math.nan,
                    worst_name=worst.name if worst else "",
                    subjects=means,
                    left_out=list(left_out),
                )
            )
    return summaries


@beartype
def undefined(rows: Sequence[Score]) -> list[Undefined]:
    """Return all scores that are not defined: the slices, for each method, metric and mask.

    Args:
        rows: scores of slices, of any number of methods and masks.

    Example:
        >>> row = Score("4x", "unet", "a", "a1", 0, 4.0, 4.0, 0.25, "", False, 0.1, {"psnr": math.nan, "ssim": 1.0})
        >>> [(each.metric, each.names) for each in undefined([row])]
        [('psnr', ['a1'])]
    """
    found = []
    for (mask, method), group in _grouped(rows).items():
        for metric in group[0].values:
            if names := [row.name for row in group if math.isnan(row.values[metric])]:
                found.append(Undefined(mask, method, metric, names, len(group)))
    return found


@beartype
def undefined_remarks(rows: Sequence[Score]) -> list[str]:
    """Return the result of ``undefined`` as sentences, one for each mask, method and set of slices."""
    together: dict[tuple[str, str, tuple[str, ...], int], list[str]] = {}
    for item in undefined(rows):
        together.setdefault((item.mask, item.method, tuple(item.names), item.slices), []).append(item.metric)
    sentences = []
    for (mask, method, names, slices), metrics in together.items():
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        titles = [
            name.removesuffix("_body").rpartition(":")[2].upper() + " inside the body" * name.endswith("_body")
            for name in metrics
        ]
        what = "every score" if set(metrics) == set(rows[0].values) else ", ".join(titles)
        result = (
            "it has no mean."
            if len(names) == slices
            else f"{'this slice counts' if len(names) == 1 else 'these slices count'} for no method there."
        )
        sentences.append(f"Not defined (nan), {method}, {mask}: {what} of {shown}; {result}")
    return sentences


@beartype
def compare(rows: Sequence[Score]) -> list[Comparison]:
    """Compare every pair of methods on the same slices, under each mask and by each reported score.

    Args:
        rows: scores of slices; differences are first method minus second, and every method minus zero-filled. Slices
            whose score is not defined for some method are left out of every pair, as in ``summarise``.

    Returns:
        One comparison for each mask, pair of methods and metric.

    Raises:
        ValueError: when two methods were not scored on the same slices.

    Example:
        >>> zero = Score("4x", ZERO_FILLED, "a", "a1", 0, 4.0, 4.0, 0.25, "", False, 0.1, {"psnr": 25.0})
        >>> (result,) = compare([zero, zero._replace(method="unet", values={"psnr": 30.0})])
        >>> result.first, result.difference
        ('unet', 5.0)
    """
    groups = _grouped(rows)
    missing = _left_out(rows)
    comparisons = []
    for (mask, first), (other, second) in itertools.combinations(groups, 2):
        if mask != other:
            continue
        if first == ZERO_FILLED:
            first, second = second, first
        first_rows, second_rows = groups[mask, first], groups[mask, second]
        if [row.name for row in first_rows] != [row.name for row in second_rows]:
            raise ValueError(f"{first} and {second} were scored on different slices under {mask}; score both together")
        for metric in first_rows[0].values:
            left_out = dict(missing.get((mask, metric), {}))
            differences, subjects = [], []
            for a, b in zip(first_rows, second_rows, strict=True):
                pair = a.values[metric], b.values[metric]
                if a.name in left_out or np.isnan(pair).any():
                    left_out[a.name] = None
                    continue
                differences.append(0.0 if pair[0] == pair[1] else pair[0] - pair[1])  # inf - inf would be nan
                subjects.append(a.subject)
            means = subject_means(differences, subjects)
            over = list(means.values())
            comparisons.append(
                Comparison(
                    mask=mask,
                    first=first,
                    second=second,
                    metric=metric,
                    difference=_mean(over),
                    subjects=means,
                    slices=len(differences),
                    better_slices=sum(d < 0 if find_metric(metric).lower_is_better else d > 0 for d in differences),
                    slice_p=wilcoxon(differences),
                    subject_p=wilcoxon(over) if len(over) >= MIN_SUBJECTS else None,
                    effect=rank_biserial(differences),
                    left_out=list(left_out),
                )
            )
    return comparisons


@beartype
def remark(subjects: int) -> str:
    """Return a sentence on what this number of subjects can and cannot show.

    Args:
        subjects: how many were scored.

    Example:
        >>> print(remark(1))
        One subject was scored: the numbers describe that subject, and nothing is said about others.
    """
    if subjects == 1:
        return "One subject was scored: the numbers describe that subject, and nothing is said about others."
    if subjects < MIN_SUBJECTS:
        return (
            f"Only {subjects} subjects were scored. No subject-level significance exists: with {subjects} pairs a "
            f"two-sided signed-rank test cannot give a p below {_smallest_p(subjects):.2g}, and the standard deviation "
            f"and bootstrap interval over {subjects} subjects describe these subjects rather than a population. The p "
            "over slices treats the slices of one subject as independent, which they are not: read it beside the "
            "difference of each subject, not in its place."
        )
    return (
        f"{subjects} subjects were scored. Significance is that of the test over subjects; the p over slices treats "
        "the slices of one subject as independent, which they are not."
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _left_out(rows: Sequence[Score]) -> dict[tuple[str, str], dict[str, None]]:
    """Return by mask and metric the names of the slices that count for no method."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for item in undefined(rows):
        if len(item.names) < item.slices:
            names.setdefault((item.mask, item.metric), {}).update(dict.fromkeys(item.names))
    return names


def _smallest_p(pairs: int) -> float:
    return math.ldexp(1.0, 1 - pairs)


def _grouped(rows: Sequence[Score]) -> Mapping[tuple[str, str], list[Score]]:
    """Gather rows by (mask, method), in order of first appearance."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for row in rows:
        groups.setdefault((row.mask, row.method), []).append(row)
    return groups
