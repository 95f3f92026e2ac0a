"""Pictures of reconstructions: PNG images for the report, and matplotlib figures.

All error maps of a report or figure share one scale, so that a darker map always means a smaller error.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from beartype import beartype
from jaxtyping import Bool, Float, UInt8, jaxtyped
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from atlf_jax.evaluation.calibration import Reliability
from atlf_jax.evaluation.scoring import ZERO_FILLED, Panel, Score

__all__ = [
    "ERROR_MAP",
    "calibration_figure",
    "colour_bar",
    "comparison_figure",
    "curve_figure",
    "data_uri",
    "error_limit",
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


@beartype
def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Give each method its colour, in every figure the same."""
    return {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(methods)}


@jaxtyped(typechecker=beartype)
def picture(image: Float[np.ndarray, "h w"], *, white: float = 1.0) -> Image.Image:
    """Show an image in grey, black at 0 and white at ``white``; what lies beyond is clipped for display alone.

    Args:
        image: magnitudes [h, w].
        white: the value shown white.
    """
    return Image.fromarray(np.rint(255 * np.clip(image / white, 0, 1)).astype(np.uint8))


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
    """Show an error map ``| |p| - |t| |`` in colours, from 0 to ``limit``.

    Args:
        error: absolute errors [h, w].
        limit: the shared upper end of the scale.
    """
    mapped = picture(error, white=limit)
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
    top = float(np.percentile(errors, 99.5))
    if top == 0:
        return 1.0
    step = 10.0 ** np.floor(np.log10(top))
    return float(np.ceil(top / step) * step)


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
            values[np.isinf(values)] = np.nan  # no place on the axis
            marker = "." if len(group) > 60 else "o"
            axis.plot(values, marker, color=colour, markersize=4, label=method)
        axis.set_xticks([])
        _mark_subjects(axis, [row.subject for row in group], ink)
        axis.set_title(mask, fontsize=9, color=ink, loc="left")
        axis.set_ylabel("PSNR [dB]" if metric == "psnr" else metric.upper(), fontsize=8, color=ink)
        axis.set_xlim(-0.5, len(group) - 0.5)
        axis.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
        _plain(axis, ink)
    axes[0].legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(colours),
        frameon=False,
        fontsize=8,
        labelcolor=ink,
        borderaxespad=0.2,
        handletextpad=0.1,
    )
    figure.patch.set_alpha(0)
    return figure


@beartype
def curve_figure(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, ylabel: str, dark: bool = False
) -> Figure:
    """Draw curves, one axis for each first key and one line for each second.

    Args:
        curves: points (x, y) by the name of the axis, and by method.
        ylabel: of every axis; the name of an axis stands below it.
        dark: for a dark page.
    """
    colours = method_colours(list(dict.fromkeys(method for lines in curves.values() for method in lines)))
    ink = "#d4d4d4" if dark else "#333333"
    columns = min(4, len(curves))
    lines_of_axes = -(-len(curves) // columns)
    side = (2.7, 2.5) if columns > 1 else (5.4, 3.4)  # one axis alone must be as wide as its legend
    figure = Figure(figsize=(side[0] * columns + 0.4, side[1] * lines_of_axes + 0.4), layout="constrained")
    axes = figure.subplots(lines_of_axes, columns, squeeze=False, sharey=True).ravel()
    order = list(colours)
    for axis, (name, lines) in zip(axes, curves.items(), strict=False):
        for method, points in lines.items():
            style = "o-" if order.index(method) < len(COLOURS) else "s--"  # where colours come round again
            axis.plot(
                *zip(*points, strict=True), style, color=colours[method], markersize=3, linewidth=1.2, label=method
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
    for axis in axes[::columns]:
        axis.set_ylabel(ylabel, fontsize=8, color=ink)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=4 if columns > 1 else 3,
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
        top = 1.05 * max(max(point) for item in shown for point in item.curve) or 1.0
        axis.plot([0, top], [0, top], color=ink, alpha=0.4, linewidth=0.8, linestyle=":")
        for item in shown:
            expected, true = zip(*item.curve, strict=True)
            axis.plot(expected, true, "o-", color=colours[item.method], markersize=4, linewidth=1, label=item.method)
        axis.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axis.set_title(mask, fontsize=9, color=ink, loc="left")
        axis.set_xlabel("expected error", fontsize=8, color=ink)
        axis.set_ylabel("mean true error", fontsize=8, color=ink)
        _plain(axis, ink)
        axis.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=ink)
    figure.patch.set_alpha(0)
    return figure


@beartype
def comparison_figure(panels: Sequence[Panel], rows: Sequence[Score], *, show_fused: bool = True) -> Figure:
    """Draw slices as rows and CT, fused image, methods, truth and error maps as columns, with one colour bar.

    Args:
        panels: the slices to draw.
        rows: their scores, for PSNR and SSIM below each image.
        show_fused: whether to add a column with the fused image of the first method that has one.

    Returns:
        A figure; ``png`` writes it.
    """
    scores = {(row.mask, row.method, row.record): row.values for row in rows}
    limit = error_limit(panels)
    methods = list(panels[0].images)
    fused = next(iter(panels[0].fused), None) if show_fused else None
    columns = [
        "CT",
        *([f"fused ({fused})"] if fused else []),
        *methods,
        "truth",
        *(f"error, {name}" for name in methods),
    ]
    figure = Figure(figsize=(1.75 * len(columns) + 0.6, 2.0 * len(panels) + 0.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.01, hspace=0.01)
    axes = figure.subplots(len(panels), len(columns), squeeze=False)
    for line, panel in zip(axes, panels, strict=True):
        white = float(panel.target.max()) or 1.0
        cells = [(panel.ct, 1.0, "gray", "")]
        if fused:
            cells.append((panel.fused[fused], 1.0, "gray", ""))
        for method in methods:
            values = scores[panel.mask, method, panel.record]
            cells.append((panel.images[method], white, "gray", f"{values['psnr']:.2f} dB / {values['ssim']:.3f}"))
        cells.append((panel.target, white, "gray", ""))
        cells += [(np.abs(panel.images[method] - panel.target), limit, ERROR_MAP, "") for method in methods]
        for axis, (image, high, colours, caption) in zip(line, cells, strict=True):
            axis.imshow(image, cmap=colours, vmin=0, vmax=high, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            axis.set_xlabel(caption, fontsize=8, labelpad=2)
        line[0].set_ylabel(f"{panel.name}\n{panel.mask}", fontsize=8)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, limit), ERROR_MAP), ax=axes[:, -1], fraction=0.06, aspect=12 * len(panels)
    )
    bar.ax.tick_params(labelsize=8)
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


def _palette() -> UInt8[np.ndarray, "256 3"]:
    return colormaps[ERROR_MAP](np.arange(256), bytes=True)[:, :3]
