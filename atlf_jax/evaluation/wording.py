"""Format scores: digits, units, headings and signs, the same on the terminal and on the HTML page."""

import math
from collections.abc import Mapping
from typing import Any

from beartype import beartype

from atlf_jax.evaluation.scoring import BODY_ENDING
from atlf_jax.metrics import find_metric

__all__ = ["cell", "count", "heading", "interval", "number", "p_value", "plain_title", "spread", "title", "with_unit"]


@beartype
def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """Format a score with the decimals of its metric; infinity is written as ∞, an undefined score as a dash.

    Example:
        >>> number(30.126, "psnr"), number(0.9, "ssim"), number(float("inf"), "psnr")
        ('30.13', '0.9000', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{'+' if signed else ''}.{find_metric(metric).decimals}f}".replace("-", "−")


@beartype
def spread(result: Mapping[str, Any]) -> str:
    """Format the mean and standard deviation over subjects.

    Example:
        >>> spread({"metric": "psnr", "mean": 30.0, "deviation": 1.5})
        '30.00 ± 1.50'
    """
    mean, deviation = (number(result[key], result["metric"]) for key in ("mean", "deviation"))
    return mean if deviation == "–" else f"{mean} ± {deviation}"


@beartype
def interval(result: Mapping[str, Any]) -> str:
    """Format the bootstrap interval over subjects; empty if there is none.

    Example:
        >>> interval({"metric": "psnr", "interval": (29.0, 31.0)})
        '[29.00, 31.00]'
    """
    if result["interval"] is None:
        return ""
    low, high = (number(end, result["metric"]) for end in result["interval"])
    return f"[{low}, {high}]"


@beartype
def title(metric: str) -> str:
    """Return the heading of a score in a table, with its unit; a metric of a user's file is shown without the file.

    Example:
        >>> title("psnr"), title("ssim_body")
        ('PSNR [dB]', 'SSIM, body')
    """
    name = metric.removesuffix(BODY_ENDING)
    unit = find_metric(name).unit
    return f"{name.rpartition(':')[2].upper()}{f' [{unit}]' if unit else ''}{', body' if name != metric else ''}"


@beartype
def plain_title(metric: str) -> str:
    """Return the heading of a score without its unit.

    Example:
        >>> plain_title("psnr"), plain_title("ssim_body")
        ('PSNR', 'SSIM, body')
    """
    unit = find_metric(metric.removesuffix(BODY_ENDING)).unit
    return title(metric).replace(f" [{unit}]", "")


@beartype
def with_unit(value: float | None, metric: str) -> str:
    """Format a score with its unit.

    Example:
        >>> with_unit(31.256, "psnr"), with_unit(0.5, "ssim")
        ('31.26 dB', '0.5000')
    """
    return f"{number(value, metric)} {find_metric(metric).unit}".strip()


@beartype
def heading(metric: str) -> str:
    """Return the heading of a score with an arrow in the direction that is better.

    Example:
        >>> heading("psnr"), heading("nmse")
        ('PSNR [dB] ↑', 'NMSE ↓')
    """
    return f"{title(metric)} {'↓' if find_metric(metric).lower_is_better else '↑'}"


@beartype
def p_value(value: float | None) -> str:
    """Format the p-value of a test; a dash if there is none.

    Example:
        >>> p_value(0.03125), p_value(None)
        ('0.031', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"


@beartype
def count(amount: int, noun: str) -> str:
    """Format a number with its noun, in the singular or plural.

    Example:
        >>> count(1, "slice"), count(1200, "slice")
        ('1 slice', '1,200 slices')
    """
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


@beartype
def cell(value: Any) -> str:
    """Format one cell of a section's table.

    Example:
        >>> cell(0.12345), cell("lines")
        ('0.123', 'lines')
    """
    if not isinstance(value, float):
        return str(value)
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")
