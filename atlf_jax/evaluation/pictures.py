"""Pictures of reconstructions, pixel by pixel, and sheets of them.

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
from PIL import Image, ImageDraw, ImageFont

from atlf_jax.evaluation import wording
from atlf_jax.evaluation.scoring import BODY_ENDING, Score, leading
from atlf_jax.evaluation.slices import Panel

__all__ = [
    "ERROR_MAP",
    "Cell",
    "cards",
    "colour_bar",
    "comparison_sheet",
    "data_uri",
    "enlarged",
    "error_limit",
    "error_limits",
    "error_picture",
    "mask_picture",
    "picture",
]

ERROR_MAP = "inferno"  # matplotlib's name; even in lightness, so that it also reads in grey
SIDE = 256  # screen pixels that a picture's longer side comes close to
ACROSS = 5  # pictures side by side on a sheet: CT, fused, zero-filled, one network and the truth in one line
MARGIN, GAP, LINE = 16, 8, 20  # pixels of a sheet
FONT, SMALL = 15, 13  # text sizes on it


class Cell(NamedTuple):
    """One picture with its texts."""

    title: str
    picture: Image.Image  # at the size at which it is shown
    caption: str = ""


@jaxtyped(typechecker=beartype)
def picture(image: Float[np.ndarray, "h w"], *, white: float = 1.0) -> Image.Image:
    """Show an image in grey, black at 0 and white at ``white``; what lies beyond is clipped for display alone.

    A pixel that is no number is shown black.

    Args:
        image: magnitudes [h, w].
        white: the value shown white.

    Example:
        >>> np.asarray(picture(np.array([[0.0, 0.5, 2.0]]))).tolist()
        [[0, 128, 255]]
    """
    shown = np.clip(np.nan_to_num(image / white, nan=0.0), 0, 1)
    return Image.fromarray(np.rint(255 * shown).astype(np.uint8))


@jaxtyped(typechecker=beartype)
def mask_picture(mask: Bool[np.ndarray, "#h w"], shape: tuple[int, int]) -> Image.Image:
    """Show a mask, acquired samples white; masks of lines are drawn over all rows.

    Args:
        mask: [1, w] or [h, w].
        shape: of the picture, (h, w).

    Example:
        >>> np.asarray(mask_picture(np.array([[True, False]]), (2, 2))).tolist()
        [[True, False], [True, False]]
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
    """Enlarge a picture by the whole multiple of its pixels that brings its longer side nearest to ``SIDE``.

    Example:
        >>> enlarged(Image.new("L", (100, 60))).size
        (300, 180)
    """
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

    mask = mask_picture(panel.sampling.samples, panel.target.shape)
    columns = [[cell("CT", picture(panel.ct)), cell("mask", mask, f"effective {panel.sampling.effective:.2f}x")]]
    fused = [cell(f"fused, {method}", picture(image)) for method, image in panel.fused.items()]
    columns += [fused[start : start + 2] for start in range(0, len(fused), 2)]
    for method, image in panel.images.items():
        caption = _caption(scores[method])
        error = error_picture(np.abs(image - panel.target), limit=limit)
        columns.append([cell(method, picture(image, white=white), caption), cell("error", error)])
    truth = cell("truth", picture(panel.target, white=white), "fully sampled")
    bar = colour_bar().resize((truth.picture.width, LINE))
    return [*columns, [truth, Cell("error scale", bar, f"0 to {limit:g}")]]


@beartype
def data_uri(image: Image.Image | bytes, *, small: bool = True) -> str:
    """Write a picture (or the bytes of a PNG file) as an address that holds the picture itself.

    Args:
        image: the picture.
        small: spend time on packing it.
    """
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **({"optimize": True} if small else {"compress_level": 1}))
        image = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(image).decode()


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


def _caption(values: Mapping[str, float]) -> str:
    """Write the first two scores of an image."""
    shown = [name for name in leading(values) if name in values and not name.endswith(BODY_ENDING)]
    if any(np.isnan(values[name]) for name in shown):
        return "not defined (nan)"
    return " · ".join(f"{wording.plain_title(name)} {wording.with_unit(values[name], name)}" for name in shown)


def _palette() -> UInt8[np.ndarray, "256 3"]:
    return colormaps[ERROR_MAP](np.arange(256), bytes=True)[:, :3]


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
