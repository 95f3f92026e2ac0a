"""What an evaluation found, in one sentence."""

import math
from collections.abc import Mapping
from typing import Any

from beartype import beartype

from atlf_jax.evaluation.tables import metrics_of, results_of
from atlf_jax.evaluation.trial import ZERO_FILLED
from atlf_jax.evaluation.wording import count, number, plain_title, with_unit
from atlf_jax.metrics import find_metric

__all__ = ["headline"]


@beartype
def headline(facts: Mapping[str, Any]) -> str:
    """Return the sentence that a report begins with: the best method by the first metric, and the zero-filled image.

    Args:
        facts: what ``summary`` returned.

    Example:
        >>> result = {"mask": "4x", "metric": "psnr", "interval": None}
        >>> results = [result | {"method": "zero-filled", "mean": 25.56}, result | {"method": "demo", "mean": 34.84}]
        >>> protocol = {"masks": [{"label": "4x"}], "subjects": {"0032": 8}, "confidence": 0.95}
        >>> methods = {"zero-filled": {}, "demo": {}}
        >>> headline({"results": results, "protocol": protocol, "methods": methods})
        'demo reaches a PSNR of 34.84 dB under 4x (mean of 1 subject); zero-filled: 25.56 dB.'
    """
    metric = metrics_of(facts)[0]
    masks = [mask["label"] for mask in facts["protocol"]["masks"]]
    ranked = {mask: _ranked(facts, mask, metric) for mask in masks}
    ranked = {mask: results for mask, results in ranked.items() if results}
    name = plain_title(metric)
    if not ranked:
        return f"No {name} is defined: see the remarks."
    if len(masks) > 1:
        return _of_several_masks(ranked, name, metric, len(masks))
    ((mask, results),) = ranked.items()
    best, *others = results
    subjects = count(len(facts["protocol"]["subjects"]), "subject")
    if best["interval"] is None:
        extent = f"mean of {subjects}"
    else:
        low, high = (number(end, metric) for end in best["interval"])
        extent = f"{100 * facts['protocol']['confidence']:g} % interval over {subjects}: {low} to {high}"
    rest = [each for each in others if each is others[0] or each["method"] == ZERO_FILLED]
    sentence = f"{best['method']} reaches a {name} of {with_unit(best['mean'], metric)} under {mask} ({extent})"
    return "; ".join([sentence, *(f"{each['method']}: {with_unit(each['mean'], metric)}" for each in rest)]) + "."


def _of_several_masks(ranked: Mapping[str, list[Mapping[str, Any]]], name: str, metric: str, masks: int) -> str:
    first = [results[0]["method"] for results in ranked.values()]
    best = max(dict.fromkeys(first), key=first.count)
    extreme = "lowest" if find_metric(metric).lower_is_better else "highest"
    ranges = []
    second = [results[1]["method"] for results in ranked.values() if len(results) > 1 and best == ZERO_FILLED]
    for method in dict.fromkeys((best, ZERO_FILLED, *second[:1])):
        means = [each["mean"] for results in ranked.values() for each in results if each["method"] == method]
        if means:
            ranges.append(f"{method}: {number(min(means), metric)} to {with_unit(max(means), metric)}")
    won = f"{first.count(best)} of {masks} masks"
    return f"{best} has the {extreme} mean {name} under {won}. Over the masks, {'; '.join(ranges)}."


def _ranked(facts: Mapping[str, Any], mask: str, metric: str) -> list[Mapping[str, Any]]:
    """Return the results of all methods under one mask, the best first, without undefined ones."""
    results = [results_of(facts, mask, method).get(metric) for method in facts["methods"]]
    known = [each for each in results if each is not None and not math.isnan(each["mean"])]
    return sorted(known, key=lambda each: each["mean"], reverse=not find_metric(metric).lower_is_better)
