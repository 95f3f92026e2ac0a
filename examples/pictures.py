"""Pictures of the examples: rows of images with a line below each, shown in a notebook and saved beside it."""

import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def folder() -> Path:
    """Return where pictures and files of the examples go: $ATLF_EXAMPLES, or runs/examples."""
    path = Path(os.environ.get("ATLF_EXAMPLES", "runs/examples"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def show(
    name: str,
    images: Mapping[str, np.ndarray],
    *,
    columns: int = 4,
    below: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    white: float | Mapping[str, float] = 1.0,
) -> None:
    """Draw images in rows and save them.

    Args:
        name: of the picture's file, without ending.
        images: title -> real or complex ``[h, w]``; of complex ones the magnitude is drawn.
        columns: images in a row.
        below: title -> a line under the image.
        colours: title -> a colour map of matplotlib; grey by default.
        white: the value drawn white, one for all or by title (1 where the title is missing).
    """
    rows = -(-len(images) // columns)
    size = (2.4 * columns, 2.75 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, images.items(), strict=False):
        top = white.get(title, 1.0) if isinstance(white, Mapping) else white
        drawn = np.abs(image) if np.iscomplexobj(image) else np.asarray(image, float)
        axis.imshow(drawn, cmap=(colours or {}).get(title, "gray"), vmin=0, vmax=top, aspect="auto")
        axis.set_box_aspect(1)
        axis.set_title(title, fontsize=9)
        axis.text(0.5, -0.02, (below or {}).get(title, ""), transform=axis.transAxes, ha="center", va="top", fontsize=8)
    save(name, figure)


def save(name: str, figure: Figure) -> None:
    """Save a figure of matplotlib; a notebook also shows it."""
    figure.savefig(folder() / f"{name}.png", dpi=110)
