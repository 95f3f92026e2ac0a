"""Pictures of reconstructions: PNG images for the report, and matplotlib figures.

All error maps of one mask share one scale, so that a darker map always means a smaller error; masks have their own, as
one of lines and one of points may differ by a factor. Pictures are enlarged by whole multiples of a pixel and never
made smaller, so that no line of a mask is lost.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from beartype import beartype
from jaxtyping import Bool, Float, UInt8, jaxtyped
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from atlf_jax.evaluation.calibration import Reliability
from atlf_jax.evaluation.scoring import ZERO_FILLED, Panel, Score

__all__ = [
    "ERROR_MAP",
    "Cell",
    "calibration_figure",
    "cards",
    "colour_bar",
    "comparison_sheet",
    "curve_figure",
    "data_uri",
    "enlarged",
    "error_limit",
    "error_limits",
    "error_picture",
    "mask_picture",
    "metric_figure",
    "method_colours",
    "picture",
    "png",
]

ERROR_MAP = "inferno"  # matplotlib's name; even in lightness, so that it also reads in grey
# Okabe and Ito's colours, told apart by colour-blind eyes and on white as on black; grey is the baseline.
COLOURS = ("#8c8c8c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

SIDE = 256  # screen pixels that a picture's longer side comes close to
ACROSS = 4  # pictures side by side on a sheet: what a page of 1,100 pixels holds
MARGIN, GAP, LINE = 16, 8, 20  # pixels of a sheet
FONT, SMALL = 15, 13  # text sizes on it


class Cell(NamedTuple):
    """One picture with its texts."""

    title: str
    picture: Image.Image  # at the size at which it is shown
    caption: str = ""


@beartype
def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Give each method its colour, in every figure the same."""
    return {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(methods)}


@jaxtyped(typechecker=beartype)
def picture(image: Float[np.ndarray, "h w"], *, white: float = 1.0) -> Image.Image:
    """Show an image in grey, black at 0 and white at ``white``; what lies beyond is clipped for display alone.

    A pixel that is no number is shown black.

    Args:
        image: magnitudes [h, w].
        white: the value shown white.
    """
    shown = np.clip(np.nan_to_num(image / white, nan=0.0), 0, 1)
    return Image.fromarray(np.rint(255 * shown).astype(np.uint8))


@jaxtyped(typechecker=beartype)
def mask_picture(mask: Bool[np.ndarray, "#h w"], shape: tuple[int, int]) -> Image.Image:
    """Show a mask, acquired samples white; masks of lines are drawn over all rows.

    Args:
        mask: [1, w] or [h, w].
        shape: of the picture, (h, w).
    """
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(mask, shape)))


@jaxtyped(typechecker=beartype)
def error_picture(error: Float[np.ndarray, "h w"], *, limit: float) -> Image.Image:
    """Show an error map ``| |p| - |t| |`` in colours, from 0 to ``limit``; what is no number looks like the limit.

    Args:
        error: absolute errors [h, w].
        limit: the shared upper end of the scale.
    """
    mapped = picture(np.where(np.isnan(error), limit, error), white=limit)
    mapped.putpalette(_palette().tobytes())
    return mapped


def colour_bar() -> Image.Image:
    """Draw the colours of the error maps from 0 (left) to the limit (right), one pixel high."""
    return Image.fromarray(_palette()[None])  # [1 256 3]


@beartype
def error_limit(panels: Sequence[Panel]) -> float:
    """Choose the shared scale of error maps: the 99.5th percentile of all their pixels, rounded up to one digit.

    Args:
        panels: everything that will be shown together.
    """
    errors = np.concatenate(
        [np.abs(image - panel.target).ravel() for panel in panels for image in panel.images.values()]
    )
    known = errors[np.isfinite(errors)]
    top = float(np.percentile(known, 99.5)) if known.size else 0.0
    if top == 0:
        return 1.0
    step = 10.0 ** np.floor(np.log10(top))
    return float(np.ceil(top / step) * step)


@beartype
def error_limits(panels: Sequence[Panel]) -> dict[str, float]:
    """Choose the scale of error maps for each mask."""
    masks = dict.fromkeys(panel.mask for panel in panels)
    return {mask: error_limit([panel for panel in panels if panel.mask == mask]) for mask in masks}


@beartype
def enlarged(image: Image.Image) -> Image.Image:
    """Enlarge a picture by the whole multiple of its pixels that brings its longer side nearest to ``SIDE``."""
    times = max(1, round(SIDE / max(image.size)))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


@beartype
def cards(panel: Panel, scores: Mapping[str, Mapping[str, float]], *, limit: float) -> list[list[Cell]]:
    """Lay one slice out as cards of two pictures, one above the other: a reconstruction and its error, say.

    Args:
        panel: the slice.
        scores: values of each method on it, for the captions.
        limit: of the error maps.
    """
    white = float(panel.target.max()) or 1.0

    def cell(title: str, image: Image.Image, caption: str = "") -> Cell:
        return Cell(title, enlarged(image), caption)

    mask = mask_picture(panel.sampling.mask, panel.target.shape)
    columns = [[cell("CT", picture(panel.ct)), cell("mask", mask, f"effective {panel.sampling.effective:.2f}x")]]
    fused = [cell(f"fused, {method}", picture(image)) for method, image in panel.fused.items()]
    columns += [fused[start : start + 2] for start in range(0, len(fused), 2)]
    for method, image in panel.images.items():
        psnr, ssim = (scores[method][name] for name in ("psnr", "ssim"))
        caption = f"{psnr:.2f} dB · SSIM {ssim:.4f}" if not np.isnan([psnr, ssim]).any() else "not defined (nan)"
        error = error_picture(np.abs(image - panel.target), limit=limit)
        columns.append([cell(method, picture(image, white=white), caption), cell("error", error)])
    truth = cell("truth", picture(panel.target, white=white))
    bar = colour_bar().resize((truth.picture.width, LINE))
    return [*columns, [truth, Cell("error scale", bar, f"0 to {limit:g}")]]


@beartype
def data_uri(image: Image.Image | bytes) -> str:
    """Write a picture (or the bytes of a PNG file) as an address that holds the picture itself."""
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        image = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(image).decode()


@beartype
def metric_figure(rows: Sequence[Score], metric: str = "psnr", *, dark: bool = False) -> Figure:
    """Draw a metric of every slice, in the order of the source, one axis for each mask and one mark for each method.

    Args:
        rows: scores of slices.
        metric: its name.
        dark: for a dark page.
    """
    masks = list(dict.fromkeys(row.mask for row in rows))
    colours = method_colours(list(dict.fromkeys(row.method for row in rows)))
    ink = "#d4d4d4" if dark else "#333333"
    figure = Figure(figsize=(9.6, 2.6 * len(masks)), layout="constrained")
    axes = figure.subplots(len(masks), 1, squeeze=False)[:, 0]
    for axis, mask in zip(axes, masks, strict=True):
        for method, colour in colours.items():
            group = [row for row in rows if row.mask == mask and row.method == method]
            values = np.array([row.values[metric] for row in group])
            values[~np.isfinite(values)] = np.nan  # no place on the axis
            marker = "." if len(group) > 60 else "o"
            axis.plot(values, marker, color=colour, markersize=4, label=_label(method))
        axis.set_xticks([])
        _mark_subjects(axis, [row.subject for row in group], ink)
        axis.set_title(mask, fontsize=9, color=ink, loc="left")
        axis.set_ylabel("PSNR [dB]" if metric == "psnr" else metric.upper(), fontsize=8, color=ink)
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
    ink = "#d4d4d4" if dark else "#333333"
    columns = min(4, len(curves))
    lines_of_axes = -(-len(curves) // columns)
    side = (2.7, 2.5) if columns > 1 else (5.4, 3.4)  # one axis alone must be as wide as its legend
    figure = Figure(figsize=(side[0] * columns + 0.4, side[1] * lines_of_axes + 0.4), layout="constrained")
    axes = figure.subplots(lines_of_axes, columns, squeeze=False).ravel()
    order = list(colours)
    for axis, (name, lines) in zip(axes, curves.items(), strict=False):
        for method, points in lines.items():
            style = "o-" if order.index(method) < len(COLOURS) else "s--"  # where colours come round again
            axis.plot(
                *zip(*points, strict=True),
                style,
                color=colours[method],
                markersize=3,
                linewidth=1.2,
                label=_label(method),
            )
        axis.set_xlabel(name, fontsize=8, color=ink)
        axis.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
        axis.tick_params(colors=ink, labelsize=8)
        axis.patch.set_alpha(0)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(ink)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    for label in dict.fromkeys(labels.values()):
        alike = [axis for axis, its in zip(axes, labels.values(), strict=False) if its == label]
        low, high = zip(*(axis.get_ylim() for axis in alike), strict=True)
        for axis in alike:
            axis.set_ylim(min(low), max(high))
    for number, (axis, label) in enumerate(zip(axes, labels.values(), strict=False)):
        if number % columns == 0:
            axis.set_ylabel(label, fontsize=8, color=ink)
        else:
            axis.tick_params(labelleft=False)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=_legend_columns(order, figure.get_figwidth()),
        frameon=False,
        fontsize=8,
        labelcolor=ink,
        handlelength=1.4,
    )
    figure.patch.set_alpha(0)
    return figure


@beartype
def calibration_figure(reliability: Sequence[Reliability], *, dark: bool = False) -> Figure:
    """Draw true over expected errors, one axis for each mask and one line for each method; on the diagonal is right.

    Args:
        reliability: of all methods and masks.
        dark: for a dark page.
    """
    masks = list(dict.fromkeys(item.mask for item in reliability))
    colours = method_colours([ZERO_FILLED, *dict.fromkeys(item.method for item in reliability)])
    ink = "#d4d4d4" if dark else "#333333"
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
def comparison_sheet(panels: Sequence[Panel], rows: Sequence[Score]) -> Image.Image:
    """Set slices below each other on one sheet, the cards of each ``ACROSS`` to a line.

    Args:
        panels: the slices to show.
        rows: their scores, for PSNR and SSIM below each image.
    """
    scores = {(row.mask, row.record, row.method): row.values for row in rows}
    limits = error_limits(panels)
    laid = []
    for panel in panels:
        own = {method: scores[panel.mask, panel.record, method] for method in panel.images}
        laid.append(cards(panel, own, limit=limits[panel.mask]))
    side = max(cell.picture.width for parts in laid for card in parts for cell in card)
    across = min(ACROSS, max(map(len, laid)))
    pieces = []
    for panel, parts in zip(panels, laid, strict=True):
        heading = f"{panel.name}, subject {panel.subject}; {panel.mask}; mask {panel.sampling.hash}"
        pieces.append(_text_block(heading, across * (side + GAP), FONT))
        for start in range(0, len(parts), across):
            line = parts[start : start + across]
            below = [card[1] if len(card) > 1 else Cell("", Image.new("L", (1, 1), "white")) for card in line]
            pieces += [_line([card[0] for card in line], side), _line(below, side)]
    width = 2 * MARGIN + across * (side + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(piece.height + GAP for piece in pieces)), "white")
    top = MARGIN
    for piece in pieces:
        sheet.paste(piece, (MARGIN, top))
        top += piece.height + GAP
    return sheet


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


def _palette() -> UInt8[np.ndarray, "256 3"]:
    return colormaps[ERROR_MAP](np.arange(256), bytes=True)[:, :3]


def _label(name: str) -> str:
    """Return a name as matplotlib shows it letter by letter: no formula, and in the legend whatever it begins with."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Return how many names stand side by side in a legend as wide as the figure: an inch holds 12 letters."""
    return max(1, min(len(names), int(12 * width / (5 + max(map(len, names))))))


def _line(cells: Sequence[Cell], side: int) -> Image.Image:
    """Set cells side by side, titles and pictures each on one height."""
    titles = [_text_block(cell.title, side, FONT) for cell in cells]
    captions = [_text_block(cell.caption, side, SMALL) for cell in cells]
    above, below = (max(block.height for block in blocks) for blocks in (titles, captions))
    tall = max(cell.picture.height for cell in cells)
    line = Image.new("RGB", (len(cells) * (side + GAP), above + tall + below), "white")
    for number, (cell, title, caption) in enumerate(zip(cells, titles, captions, strict=True)):
        left = number * (side + GAP)
        line.paste(title, (left, above - title.height))
        line.paste(cell.picture.convert("RGB"), (left, above))
        line.paste(caption, (left, above + cell.picture.height))
    return line


def _text_block(text: str, width: int, size: int) -> Image.Image:
    """Write a text in as many lines as it needs, broken at blanks, underscores and commas before anywhere else."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    lines = [""]
    for word in re.findall(r"[^\s_,/-]*[\s_,/-]*", text):
        for piece in [word] if font.getlength(word) <= width else word:
            if lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    block = Image.new("RGB", (width, LINE * len(lines) + 2), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, LINE * number), line, "black", font=font)
    return block
