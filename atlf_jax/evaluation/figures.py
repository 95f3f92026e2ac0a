"""Figures of scores, drawn by matplotlib for a light or a dark page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from beartype import beartype
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlf_jax.evaluation import wording
from atlf_jax.evaluation.calibration import Reliability
from atlf_jax.evaluation.scoring import Score
from atlf_jax.evaluation.trial import ZERO_FILLED

__all__ = ["COLOURS", "calibration_figure", "curve_figure", "method_colours", "metric_figure", "png"]

# Okabe and Ito's colours, told apart by colour-blind eyes and on white as on black; grey is the baseline.
COLOURS = ("#8c8c8c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = {False: "#333333", True: "#d4d4d4"}  # of text and axes, by whether the page is dark


@beartype
def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Give each method its colour, in every figure the same.

    Example:
        >>> method_colours(["zero-filled", "unet"])
        {'zero-filled': '#8c8c8c', 'unet': '#0072b2'}
    """
    return {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(methods)}


@beartype
def metric_figure(rows: Sequence[Score], metric: str = "", *, dark: bool = False) -> Figure:
    """Draw a metric of every slice, in the order of the source, one axis for each mask and one mark for each method.

    Args:
        rows: scores of slices.
        metric: its name; the first one by default.
        dark: for a dark page.
    """
    metric = metric or next(iter(rows[0].values))
    masks = list(dict.fromkeys(row.mask for row in rows))
    colours = method_colours(list(dict.fromkeys(row.method for row in rows)))
    ink = INK[dark]
    figure = Figure(figsize=(9.6, 2.6 * len(masks)), layout="constrained")
    axes = figure.subplots(len(masks), 1, squeeze=False)[:, 0]
    for axis, mask in zip(axes, masks, strict=True):
        group: list[Score] = []
        for method, colour in colours.items():
            group = [row for row in rows if row.mask == mask and row.method == method]
            values = np.array([row.values[metric] for row in group])
            values[~np.isfinite(values)] = np.nan  # no place on the axis
            marker = "." if len(group) > 60 else "o"
            axis.plot(values, marker, color=colour, markersize=4, label=_label(method))
        axis.set_xticks([])
        _mark_subjects(axis, [row.subject for row in group], ink)
        axis.set_title(mask, fontsize=9, color=ink, loc="left")
        axis.set_ylabel(wording.title(metric), fontsize=8, color=ink)
        axis.set_xlim(-0.5, len(group) - 0.5)
        axis.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
        _plain(axis, ink)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=_legend_columns(list(colours), figure.get_figwidth()),
        frameon=False,
        fontsize=8,
        labelcolor=ink,
        handletextpad=0.1,
    )
    figure.patch.set_alpha(0)
    return figure


@beartype
def curve_figure(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    ylabel: str | Mapping[str, str],
    dark: bool = False,
) -> Figure:
    """Draw curves, one axis for each first key and one line for each second.

    Args:
        curves: points (x, y) by the name of the axis, and by method.
        ylabel: of every axis, or of each by its name; axes of one label share their scale. The name stands below.
        dark: for a dark page.
    """
    labels = {name: ylabel if isinstance(ylabel, str) else ylabel[name] for name in curves}
    colours = method_colours(list(dict.fromkeys(method for lines in curves.values() for method in lines)))
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    side = (2.7, 2.5) if columns > 1 else (5.4, 3.4)  # one axis alone must be as wide as its legend
    figure = Figure(figsize=(side[0] * columns + 0.4, side[1] * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, lines) in zip(axes, curves.items(), strict=False):
        _draw_lines(axis, name, lines, colours, INK[dark])
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    _share_scales(axes, labels, columns, INK[dark])
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=_legend_columns(list(colours), figure.get_figwidth()),
        frameon=False,
        fontsize=8,
        labelcolor=INK[dark],
        handlelength=1.4,
    )
    figure.patch.set_alpha(0)
    return figure


def _draw_lines(
    axis: Axes,
    name: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    colours: Mapping[str, str],
    ink: str,
) -> None:
    order = list(colours)
    for method, points in lines.items():
        style = "o-" if order.index(method) < len(COLOURS) else "s--"  # where colours come round again
        shown = {"color": colours[method], "markersize": 3, "linewidth": 1.2, "label": _label(method)}
        axis.plot(*zip(*points, strict=True), style, **shown)
    axis.set_xlabel(name, fontsize=8, color=ink)
    axis.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    _plain(axis, ink)


def _share_scales(axes: Any, labels: Mapping[str, str], columns: int, ink: str) -> None:
    """Give axes of one label one scale, and name it beside the first of each row."""
    for label in dict.fromkeys(labels.values()):
        alike = [axis for axis, own in zip(axes, labels.values(), strict=False) if own == label]
        low, high = zip(*(axis.get_ylim() for axis in alike), strict=True)
        for axis in alike:
            axis.set_ylim(min(low), max(high))
    for index, (axis, label) in enumerate(zip(axes, labels.values(), strict=False)):
        if index % columns == 0:
            axis.set_ylabel(label, fontsize=8, color=ink)
        else:
            axis.tick_params(labelleft=False)


@beartype
def calibration_figure(reliability: Sequence[Reliability], *, dark: bool = False) -> Figure:
    """Draw true over expected errors, one axis for each mask and one line for each method; on the diagonal is right.

    Args:
        reliability: of all methods and masks.
        dark: for a dark page.
    """
    masks = list(dict.fromkeys(item.mask for item in reliability))
    colours = method_colours([ZERO_FILLED, *dict.fromkeys(item.method for item in reliability)])
    ink = INK[dark]
    figure = Figure(figsize=(3.2 * len(masks), 3.2), layout="constrained")
    for axis, mask in zip(figure.subplots(1, len(masks), squeeze=False)[0], masks, strict=True):
        shown = [item for item in reliability if item.mask == mask]
        top = 1.05 * max((max(point) for item in shown for point in item.curve), default=0.0) or 1.0
        axis.plot([0, top], [0, top], color=ink, alpha=0.4, linewidth=0.8, linestyle=":")
        for item in shown:
            expected, true = np.reshape(item.curve, (-1, 2)).T
            colour, label = colours[item.method], _label(item.method)
            axis.plot(expected, true, "o-", color=colour, markersize=4, linewidth=1, label=label)
        axis.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axis.set_title(mask, fontsize=9, color=ink, loc="left")
        axis.set_xlabel("expected error", fontsize=8, color=ink)
        axis.set_ylabel("mean true error", fontsize=8, color=ink)
        _plain(axis, ink)
        axis.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=ink)
    figure.patch.set_alpha(0)
    return figure


@beartype
def png(figure: Figure, *, dpi: int = 160) -> bytes:
    """Write a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _plain(axis: Axes, ink: str) -> None:
    """Leave of an axis what is needed, in one colour on no ground."""
    axis.tick_params(colors=ink, labelsize=8)
    axis.patch.set_alpha(0)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)


def _mark_subjects(axis: Axes, subjects: Sequence[str], ink: str) -> None:
    """Name the subjects below the axis, where they are few, and part them by lines."""
    starts = [index for index, subject in enumerate(subjects) if index == 0 or subject != subjects[index - 1]]
    for start in starts[1:]:
        axis.axvline(start - 0.5, color=ink, alpha=0.4, linewidth=0.8, linestyle=":")
    if len(starts) <= 20:
        ends = [*starts[1:], len(subjects)]
        middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        axis.set_xticks(
            middles, [f"subject {subjects[start]}" if len(starts) <= 8 else subjects[start] for start in starts]
        )
        axis.tick_params(axis="x", length=0)


def _label(name: str) -> str:
    """Return a name as matplotlib shows it letter by letter: no formula, and in the legend whatever it begins with."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Return how many names stand side by side in a legend as wide as the figure: an inch holds 12 letters."""
    return max(1, min(len(names), int(12 * width / (5 + max(map(len, names))))))
