"""Pictures that show how well CT and MR of a prepared dataset agree: ``python -m atlf_jax.evaluation.registration_qc``.

Each subject gets checkerboards (MR and CT in turn, so that outlines run on across the squares) and contours (edges of
the CT over the MR), before and after registration, on three slices: one self-contained ``qc.html``.
"""

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from beartype import beartype
from jaxtyping import Real, jaxtyped
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from atlf_jax.data.ct import AIR
from atlf_jax.data.files import write_file
from atlf_jax.data.manifest import read_manifest
from atlf_jax.data.volume import Volume, read_nifti, resample, slice_axis
from atlf_jax.evaluation.figures import COLOURS, png
from atlf_jax.evaluation.pictures import data_uri
from atlf_jax.program import errors_in_one_line

__all__ = ["checkerboard", "main", "render", "subject_figure", "write"]

SQUARES = 8  # along the longer side
PLACES = (0.3, 0.5, 0.7)  # along the slice axis
SHOWN = (-200.0, 300.0)  # HU shown black and white
OUTLINES = {"skin": (-300.0, COLOURS[1]), "bone": (250.0, COLOURS[2])}  # HU, colour
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Registration of {{ subjects | length }} subjects</title>
<style>
  body { margin: 0 auto; max-width: 1100px; padding: 2rem 1.5rem 4rem; color: #1c1e21; background: #fff;
         font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  h1 { font-size: 1.6rem; margin: 0; }
  h2 { font-size: 1.1rem; margin: 2.4rem 0 .2rem; }
  p { margin: .3rem 0; max-width: 80ch; }
  .soft { color: #5d6670; }
  .flag { color: #b3261e; font-weight: 600; }
  img { display: block; width: 100%; margin: .6rem 0; }
  table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
  th, td { padding: .2rem 1.2rem .2rem 0; text-align: right; }
  th:first-child { text-align: left; font-weight: 500; }
</style>
</head>
<body>
<h1>Registration</h1>
<p class="soft">{{ subjects | length }} subjects with a CT, {{ flagged }} flagged; pairing: {{ pairing }}. Checkerboards
show MR and CT in turn: outlines should run on across the squares. Contours are the CT's skin (blue) and bone (orange)
over the MR. Before: by the headers alone.</p>
{% for subject in subjects %}
<h2>{{ subject.name }}{% if not subject.good %} <span class="flag">flagged</span>{% endif %}</h2>
{% if subject.quality %}
<table>
<tr><th>{{ subject.kind }}</th><th>before</th><th>after</th></tr>
{% for name, before, after in subject.quality %}
<tr><th>{{ name }}</th><td>{{ "%.3f" | format(before) }}</td><td>{{ "%.3f" | format(after) }}</td></tr>
{% endfor %}
</table>
{% endif %}
<img src="{{ subject.image }}" alt="Checkerboards and contours of subject {{ subject.name }}">
{% endfor %}
<p class="soft">Research software: nothing here is fit for diagnosis or any other clinical use.</p>
</body>
</html>
"""


class _Subject(NamedTuple):
    """What the page says of one subject."""

    name: str
    good: bool
    kind: str
    quality: list[tuple[str, float, float]]
    image: str


@jaxtyped(typechecker=beartype)
def checkerboard(
    a: Real[np.ndarray, "h w"], b: Real[np.ndarray, "h w"], *, squares: int = SQUARES
) -> Real[np.ndarray, "h w"]:
    """Show two images in turn, square by square.

    Args:
        a: shown in the first square, [h, w].
        b: the other, [h, w].
        squares: along the longer side.

    Example:
        >>> checkerboard(np.zeros((2, 2)), np.ones((2, 2)), squares=2)
        array([[0., 1.],
               [1., 0.]])
    """
    side = math.ceil(max(a.shape) / squares)
    rows, columns = np.ogrid[: a.shape[0], : a.shape[1]]
    return np.where((rows // side + columns // side) % 2 == 0, a, b)


@beartype
def subject_figure(mr: Volume, after: Volume, before: Volume | None = None) -> Figure:
    """Draw slices as rows; checkerboards and contours, before and after, as columns.

    Args:
        mr: the MR.
        after: the registered CT on its grid.
        before: the CT on its grid by the headers alone, or None.

    Returns:
        A figure; ``figures.png`` writes it.
    """
    columns = {"before": before, "after": after} if before else {"after": after}
    axis = slice_axis(mr)
    places = sorted({round(part * (mr.data.shape[axis] - 1)) for part in PLACES})
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(2.5 * 2 * len(columns), 2.55 * len(places) + 0.2), layout=layout)
    axes = figure.subplots(len(places), 2 * len(columns), squeeze=False)
    white = float(np.percentile(mr.data[mr.data > 0], 99)) if (mr.data > 0).any() else 1.0
    across, down = (a for a in range(3) if a != axis)
    shape = mr.spacing[down] / mr.spacing[across]
    for line, place in zip(axes, places, strict=True):
        grey = _slice(mr, axis, place) / white
        for number, (name, ct) in enumerate(columns.items()):
            values = _slice(ct, axis, place)
            board, outline = line[number], line[len(columns) + number]
            shared = {"cmap": "gray", "vmin": 0, "vmax": 1, "aspect": shape, "interpolation": "antialiased"}
            board.imshow(checkerboard(grey, _shown(values)), **shared)
            outline.imshow(grey, **shared)
            for level, colour in _outlines(ct):
                if values.min() < level < values.max():
                    outline.contour(values, [level], colors=[colour], linewidths=0.8, linestyles="solid")
            for cell, kind in ((board, "checkerboard"), (outline, "contours")):
                cell.set_xticks([])
                cell.set_yticks([])
                cell.spines[:].set_visible(False)
                if place == places[0]:
                    cell.set_title(f"{kind}, {name}", fontsize=9)
        line[0].set_ylabel(f"slice {place}", fontsize=8)
    return figure


@beartype
def render(root: Path) -> str:
    """Make the page of a prepared dataset.

    Args:
        root: the folder that ``atlf_jax.data.prepare`` wrote.

    Raises:
        ValueError: no dataset is there, or none of its subjects has a CT.
    """
    manifest = read_manifest(root)
    subjects = [_subject(root, record) for record in manifest["subjects"] if "ct.nii.gz" in record["files"]]
    if not subjects:
        raise ValueError(f"{root} holds no subject with a CT; there is nothing to show")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    flagged = sum(not subject.good for subject in subjects)
    return page.from_string(PAGE).render(subjects=subjects, flagged=flagged, pairing=manifest["pairing"])


@beartype
def write(root: Path, out: Path | None = None) -> Path:
    """Write the page of a prepared dataset, and return where it is.

    Args:
        root: as for ``render``.
        out: ``qc.html`` in it by default.

    Raises:
        ValueError: as ``render``, or the page cannot be written.
    """
    out = out or root / "qc.html"
    write_file(out, render(root).encode())
    return out


def main(arguments: list[str] | None = None) -> None:
    """Write ``qc.html``."""
    parser = argparse.ArgumentParser(prog="python -m atlf_jax.evaluation.registration_qc", description=__doc__)
    parser.add_argument("folder", type=Path, help="the prepared dataset")
    parser.add_argument("--out", type=Path, help="the page; qc.html in the folder by default")
    chosen = parser.parse_args(arguments)
    with errors_in_one_line("registration_qc"):
        print(write(chosen.folder, chosen.out))


def _subject(root: Path, record: dict[str, Any]) -> _Subject:
    mr, ct = (read_nifti(root / record["subject"] / f"{kind}.nii.gz") for kind in ("mr", "ct"))
    registration = record["registration"] or {"kind": "none", "quality": {}}
    quality = registration["quality"]
    rows = [
        (name.replace("_", " "), quality[f"{name}_before"], after)
        for name, after in quality.items()
        if f"{name}_before" in quality
    ]
    before = None
    if registration["kind"] != "none":  # the prepared CT, put back where the headers had it
        air = float(max(ct.data.min(), AIR))
        before = resample(ct, mr, transform=np.linalg.inv(registration["transform"]), outside=air)
    image = data_uri(png(subject_figure(mr, ct, before), dpi=110))
    return _Subject(record["subject"], record["good"], registration["kind"], rows, image)


def _slice(volume: Volume, axis: int, place: int) -> np.ndarray:
    """Take one slice for display, the second of its axes upwards."""
    return (
        np.flipud(np.take(volume.data, place, axis=axis).T)
        if volume.codes != (0, 0)
        else np.take(volume.data, place, axis)
    )


def _shown(values: np.ndarray) -> np.ndarray:
    low, high = SHOWN if values.min() < SHOWN[0] else (0.0, max(float(values.max()), 1e-6))
    return np.clip((values - low) / (high - low), 0, 1)


def _outlines(ct: Volume) -> list[tuple[float, str]]:
    """Return levels and colours: of Hounsfield units, or else of the parts of the range of windowed CT."""
    if ct.data.min() < SHOWN[0]:
        return list(OUTLINES.values())
    top = float(ct.data.max())
    return [(0.1 * top, COLOURS[1]), (0.8 * top, COLOURS[2])]


if __name__ == "__main__":
    main()
