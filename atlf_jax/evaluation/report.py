"""What a study found, as tables on the terminal, scores.csv, summary.json and one self-contained report.html."""

import contextlib
import csv
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jinja2
import markupsafe
import numpy as np
from beartype import beartype
from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from atlf_jax.data.files import whole_file
from atlf_jax.data.manifest import PAIRING_WORDS
from atlf_jax.evaluation import figures
from atlf_jax.evaluation.audit import Finding
from atlf_jax.evaluation.calibration import BOUND, Reliability
from atlf_jax.evaluation.scoring import (
    LOWER_IS_BETTER,
    REPORTED,
    ZERO_FILLED,
    EvaluationConfig,
    Panel,
    Score,
    quality,
)
from atlf_jax.evaluation.statistics import compare, remark, summarise, undefined, undefined_words
from atlf_jax.metrics import METRICS

__all__ = ["Method", "Section", "Study", "check_folder", "environment", "render", "summary", "tables", "title", "write"]

FILES = ("scores.csv", "summary.json", "report.html", "panels.png")
ROOM = 2**22  # bytes that the disk must have left: a report holds more numbers and pictures than that seldom
COMPARED = ("psnr", "ssim", "psnr_body", "ssim_body")  # in the page's table of pairs; summary.json has all

DECIMALS = {"psnr": 2, "psnr_body": 2}  # 4 for the others
UNITS = {"psnr": "dB"}

PROFILE_WORDS = {
    "picture": "each slice for itself, in units of its full range: PSNR with peak 1, SSIM with data range 1",
    "fastmri": "one value a volume: PSNR peak and SSIM data range are the maximum of the target's volume",
}
METRIC_WORDS = (
    "Magnitude images, neither clipped nor rescaled. SSIM: 7 × 7 uniform window, k1 .01, k2 .03. "
    "NMSE: ‖p − t‖² / ‖t‖². HFEN: Laplacian of Gaussian, 15 × 15, sigma 1.5, nearest edges."
)
DATASET_WORDS = {
    "aanlib": (
        "The pictures are from a teaching atlas: scores on them compare methods on these pictures and do not foretell "
        "scores on scanner data."
    ),
    "phantom": "The heads are generated: scores on them show that the method works, not how well it does on patients.",
} | {f"prepared, {pairing}": words for pairing, words in PAIRING_WORDS.items()}
CLINICAL_WORDS = "Research software: nothing here is fit for diagnosis or any other clinical use."


class Method(NamedTuple):
    """Where the rows of one method come from."""

    parameters: int = 0
    checkpoint: str = ""  # path; empty for a method that is not learned
    config: dict[str, Any] | None = None  # the whole configuration that it was trained with


class Section(NamedTuple):
    """A further part of a report: words, one table, one figure."""

    title: str
    key: str  # name of its numbers in summary.json
    words: Sequence[str]
    facts: Sequence[Mapping[str, Any]] = ()  # rows of the table; the keys of the first are the headings
    numbers: Any = None  # for summary.json, where there is more to tell than the table; None: the table
    figure: Callable[[bool], Figure] | None = None  # drawn for a light page, and again for a dark one
    group: str = ""  # the key of the facts that becomes a heading above the rows that share it


@beartype
@dataclass(frozen=True)
class Study:
    """One evaluation with everything that its report says."""

    dataset: str
    split: str
    config: EvaluationConfig
    methods: Mapping[str, Method]  # without the zero-filled image
    rows: Sequence[Score]
    panels: Sequence[Panel] = ()
    acquisition: Mapping[str, float] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    audit: Sequence[Finding] = ()  # what flatters the data
    warnings: Sequence[str] = ()  # of ``trained.guards``
    reliability: Sequence[Reliability] = ()
    left_out: Sequence[str] = ()  # slices whose MR is black


@beartype
def check_folder(folder: Path) -> None:
    """Make sure that a report can be written into a folder, before hours are spent on its numbers.

    Args:
        folder: need not be there; nothing is made.

    Raises:
        ValueError: it, or a file that will be written, is something else; or there is no permission, or no room.
    """
    there = folder
    while not (there.exists() or there.is_symlink()) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(
            f"{there} is no folder, and the report was to be written into {folder}; choose another with --out"
        )
    if taken := next((folder / name for name in FILES if (folder / name).is_dir()), None):
        raise ValueError(
            f"{taken} is a folder, and a file of this name was to be written; choose another place with --out"
        )
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(ROOM))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        why = error.strerror or error
        raise ValueError(
            f"{folder} cannot be written ({why}); make room, or choose another folder with --out"
        ) from error


@beartype
def summary(study: Study) -> dict[str, Any]:
    """Gather everything that a report says in numbers and words.

    Returns:
        ``protocol``, ``environment``, ``methods``, ``results`` (see ``statistics.Summary``), ``comparisons`` (see
        ``statistics.Comparison``), ``undefined`` (see ``statistics.Undefined``), ``left_out`` (black slices), ``audit``
        (see ``audit.Finding``), ``uncertainty`` (see ``calibration.Reliability``) and ``remarks``; plain values,
        infinite and undefined numbers among them.
    """
    rows, config = study.rows, study.config
    first = [row for row in rows if (row.mask, row.method) == (rows[0].mask, rows[0].method)]
    names = [row.subject for row in first]
    subjects = {subject: names.count(subject) for subject in dict.fromkeys(names)}
    chosen = {"confidence": config.confidence, "samples": config.bootstrap}
    return {
        "protocol": {
            "dataset": study.dataset,
            "split": study.split,
            "subjects": subjects,
            "slices": len(first),
            "profile": config.profile,
            "acquisition": dict(study.acquisition),
            "masks": [_mask_facts(label, rows) for label in dict.fromkeys(row.mask for row in rows)],
            "confidence": config.confidence,
            "bootstrap": config.bootstrap,
        },
        "environment": environment(),
        "methods": {
            method: {
                "parameters": known.parameters,
                "seconds_a_slice": float(np.median([row.seconds for row in rows if row.method == method])),
                "checkpoint": known.checkpoint,
                "config": known.config,
            }
            for method, known in {ZERO_FILLED: Method(), **study.methods}.items()
        },
        "results": [item._asdict() for item in summarise(rows, **chosen)],
        "comparisons": [item._asdict() for item in compare(rows)],
        "undefined": [item._asdict() for item in undefined(rows)],
        "left_out": list(study.left_out),
        "audit": [item._asdict() for item in study.audit],
        "uncertainty": [item._asdict() | {"fitted": item.fitted._asdict()} for item in study.reliability],
        "remarks": _remarks(study, len(subjects)),
    } | {section.key: list(section.facts) if section.numbers is None else section.numbers for section in study.sections}


@beartype
def environment() -> dict[str, str]:
    """Return the versions and the device that the numbers were made with."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    kind = jax.devices()[0].device_kind  # "cpu", or the name of the card
    return {
        "python": platform.python_version(),
        **packages,
        "device": f"{kind}, {os.cpu_count()} CPU cores",
        "system": f"{platform.system()} {platform.machine()}",
    }


@beartype
def tables(facts: Mapping[str, Any], sections: Sequence[Section] = ()) -> list[Table]:
    """Set the results as tables for the terminal: one for each mask, those of the sections, and one of the methods.

    Args:
        facts: what ``summary`` returned.
        sections: those of the study.
    """
    built = []
    for mask in facts["protocol"]["masks"]:
        table = _table(_mask_line(mask, facts), ["method"], ["mean", "±", "interval", "slices", "worst"])
        by_method = {method: _results(facts, mask["label"], method) for method in facts["methods"]}
        for metric in REPORTED:
            table.add_row(f"[bold]{escape(_heading(metric))}[/bold]")
            for method, results in by_method.items():
                result = results[metric]
                mean, deviation, slices, worst = (
                    number(result[key], metric) for key in ("mean", "deviation", "slice_mean", "worst")
                )
                table.add_row(*map(escape, (method, mean, deviation, interval(result), slices, worst)))
            table.add_section()
        built.append(table)
    for section in sections:
        if section.facts:
            headings = [heading for heading in section.facts[0] if heading != section.group]
            for label, rows in _groups(section):
                table = _table(f"{section.title} {label}".strip(), headings[:1], [])
                for heading in headings[1:]:
                    table.add_column(escape(heading), justify="right", overflow="fold")
                for row in rows:
                    table.add_row(*map(escape, row))
                built.append(table)
    methods = _table(f"on {facts['environment']['device']}", ["method"], ["parameters", "s / slice"])
    for method, known in facts["methods"].items():
        methods.add_row(escape(method), f"{known['parameters']:,}", f"{known['seconds_a_slice']:.3g}")
    if facts["uncertainty"]:
        built.append(_uncertainty_table(facts))
    return [_whole_names(table) for table in (*built, methods)]


@beartype
def write(folder: Path, study: Study, facts: dict[str, Any] | None = None) -> tuple[dict[str, Any], Path]:
    """Write scores.csv, summary.json, report.html and, where there are panels, panels.png: all of them, or none.

    Args:
        folder: made where it is missing.
        study: what to tell.
        facts: what ``summary`` returned for it, where that is known already.

    Returns:
        What ``summary`` returns, and the path of the report. In summary.json a number that is not defined is null, and
        an infinite one the string inf or -inf.

    Raises:
        ValueError: the folder cannot be written; what lay in it before is left as it was.
    """
    facts = summary(study) if facts is None else facts
    contents = {
        "scores.csv": _scores_table(study.rows),
        "summary.json": json.dumps(_finite(facts), indent=1, allow_nan=False) + "\n",
        "report.html": render(study, facts),
    }
    files = {name: text.encode() for name, text in contents.items()}
    if study.panels:
        stream = io.BytesIO()
        figures.comparison_sheet(study.panels, study.rows).save(stream, "PNG", optimize=True)
        files["panels.png"] = stream.getvalue()
    made = not folder.exists()
    try:
        with contextlib.ExitStack() as whole:  # a file gets its name when all are written
            for name, content in files.items():
                with whole.enter_context(whole_file(folder / name)).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
    except ValueError:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    if not study.panels:
        (folder / "panels.png").unlink(missing_ok=True)  # of a report before this one
    return facts, folder / "report.html"


def _scores_table(rows: Sequence[Score]) -> str:
    """Return the scores as CSV; texts that a spreadsheet would take for a formula get an apostrophe in front."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [*(name for name in Score._fields if name != "values"), *REPORTED])
    writer.writeheader()
    for row in rows:
        fields = row._asdict()
        known = {name: value for name, value in fields.pop("values").items() if name in REPORTED}
        texts = {
            name: f"'{value}"
            if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
            else value
            for name, value in fields.items()
        }
        writer.writerow(known | texts)
    return stream.getvalue()


@beartype
def render(study: Study, facts: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that asks for nothing outside itself.

    Args:
        study: whose pictures are shown.
        facts: what ``summary`` returned for it.
    """
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("atlf_jax", "evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "number": number,
        "spread": spread,
        "interval": interval,
        "heading": _heading,
        "count": _count,
        "p": _p,
        "breakable": _breakable,
    }
    plots = {
        theme: figures.data_uri(figures.png(figures.metric_figure(study.rows, dark=theme == "dark")))
        for theme in ("light", "dark")
    }
    limits = figures.error_limits(study.panels)
    if study.reliability:
        plots["calibration"] = {
            theme: figures.data_uri(figures.png(figures.calibration_figure(study.reliability, dark=theme == "dark")))
            for theme in ("light", "dark")
        }
    return pages.get_template("report.html.jinja").render(
        facts,
        parts={"Whole picture": list(METRICS), "Inside the body": [name for name in REPORTED if name not in METRICS]},
        results={
            mask["label"]: {method: _results(facts, mask["label"], method) for method in facts["methods"]}
            for mask in facts["protocol"]["masks"]
        },
        best=_best(facts),
        colours=figures.method_colours(list(facts["methods"])),
        profile_words=PROFILE_WORDS[study.config.profile],
        metric_words=METRIC_WORDS,
        plots=plots,
        bound=BOUND,
        panels=[_panel(panel, study, limits[panel.mask]) for panel in study.panels],
        compared=COMPARED,
        sections=[_section(section) for section in study.sections],
    )


@beartype
def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """Write a score with the digits that belong to its metric; infinity as its sign, an undefined one as a dash."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{'+' if signed else ''}.{DECIMALS.get(metric, 4)}f}".replace("-", "−")


@beartype
def spread(result: Mapping[str, Any]) -> str:
    """Write mean and standard deviation over subjects."""
    mean, deviation = (number(result[key], result["metric"]) for key in ("mean", "deviation"))
    return mean if deviation == "–" else f"{mean} ± {deviation}"


@beartype
def interval(result: Mapping[str, Any]) -> str:
    """Write the bootstrap interval over subjects; empty where there is none."""
    if result["interval"] is None:
        return ""
    low, high = (number(end, result["metric"]) for end in result["interval"])
    return f"[{low}, {high}]"


def _breakable(name: str) -> markupsafe.Markup:
    """Let a long name end its line after an underscore, and nowhere inside a word."""
    return markupsafe.escape(name).replace("_", markupsafe.Markup("_<wbr>"))


def _p(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"


def _count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


@beartype
def title(metric: str) -> str:
    """Name a score in a table.

    Example:
        >>> title("psnr"), title("ssim_body")
        ('PSNR [dB]', 'SSIM, body')
    """
    name = metric.removesuffix("_body")
    unit = f" [{UNITS[name]}]" if name in UNITS else ""
    return f"{name.upper()}{unit}{', body' if name != metric else ''}"


def _heading(metric: str) -> str:
    return f"{title(metric)} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _results(facts: Mapping[str, Any], mask: str, method: str) -> dict[str, dict[str, Any]]:
    """Return the results of one method under one mask, by metric."""
    return {item["metric"]: item for item in facts["results"] if (item["mask"], item["method"]) == (mask, method)}


def _best(facts: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Return (mask, method, metric) of the best mean of each column."""
    best = set()
    for mask in facts["protocol"]["masks"]:
        for metric in REPORTED:
            column = {method: _results(facts, mask["label"], method)[metric]["mean"] for method in facts["methods"]}
            column = {method: mean for method, mean in column.items() if not math.isnan(mean)}
            if column:
                choose = min if metric in LOWER_IS_BETTER else max
                best.add((mask["label"], choose(column, key=lambda method: column[method]), metric))
    return best


def _mask_facts(label: str, rows: Sequence[Score]) -> dict[str, Any]:
    """Describe the masks that were drawn under one label; each slice has its own, fixed by its name."""
    drawn = list({row.name: row for row in rows if row.mask == label}.values())
    effective = [row.effective for row in drawn]
    hashes = [row.mask_hash for row in drawn]
    distinct = len(set(hashes))
    return {
        "label": label,
        "nominal": drawn[0].nominal,
        "effective": float(np.mean(effective)),
        "effective_range": [min(effective), max(effective)],
        "sampled": float(np.mean([1 / value for value in effective])),
        "coverage": float(np.mean([row.coverage for row in drawn])),
        "distinct": distinct,
        "hash": hashes[0] if distinct == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()[:8],
    }


NAME = 34  # letters of a name that are never parted: what 80 columns leave beside a mean and its interval


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    style = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}  # fits 80 columns
    table = Table(title=escape(title), title_justify="left", title_style="bold", **style)
    for heading in words:
        table.add_column(escape(heading), overflow="fold")
    for heading in numbers:
        table.add_column(escape(heading), justify="right", no_wrap=True)
    return table


def _whole_names(table: Table) -> Table:
    """Let the numbers of a narrow table take two lines before a name does."""
    names = table.columns[0]
    names.no_wrap = max(Text.from_markup(str(cell)).cell_len for cell in names.cells) <= NAME
    return table


def _uncertainty_table(facts: Mapping[str, Any]) -> Table:
    title = (
        f"expected errors, of the maximum, and how many lie below the {100 * BOUND:g} % bound; * scale of these slices"
    )
    table = _table(title, ["method"], ["error", "off by", "below", "Pearson", "Spearman", "scale"])
    before = ""
    for item in facts["uncertainty"]:
        if item["mask"] != before:
            table.add_row(f"[bold]{escape(item['mask'])}[/bold]")
            before = item["mask"]
        numbers = [f"{item[name]:.4f}" for name in ("error", "calibration_error")]
        numbers += [f"{100 * item['coverage']:.1f} %", f"{item['pearson']:.2f}", f"{item['spearman']:.2f}"]
        numbers += [f"{item['scale']:.3f}{'' if item['calibrated'] else '*'}"]
        table.add_row(escape(item["method"]), *numbers)
    return table


def _mask_line(mask: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    protocol = facts["protocol"]
    of = f"of {mask['distinct']} masks " if mask["distinct"] > 1 else ""
    low, high = mask["effective_range"]
    between = f" ({low:.2f} to {high:.2f})" if low != high else ""
    return (
        f"{mask['label']} · nominal {mask['nominal']:g}x · effective {mask['effective']:.2f}x{between} · coverage "
        f"{mask['coverage']:.3f} · hash {of}{mask['hash']} · profile {protocol['profile']} · {protocol['dataset']} "
        f"{protocol['split']}: {_count(protocol['slices'], 'slice')} of {_count(len(protocol['subjects']), 'subject')}"
    )


def _remarks(study: Study, subjects: int) -> list[str]:
    words = [remark(subjects)]
    if study.left_out:
        words.append(
            f"Left out, as the MR is black and there is nothing to reconstruct: {', '.join(study.left_out[:20])}"
            + (f" and {len(study.left_out) - 20} more." if len(study.left_out) > 20 else ".")
        )
    words += undefined_words(undefined(study.rows))
    for item in study.reliability:
        if item.left_out:
            words.append(f"Expected errors of {item.method}, {item.mask}: without {', '.join(item.left_out)} (nan).")
    if study.dataset in DATASET_WORDS:
        words.append(DATASET_WORDS[study.dataset])
    return [*words, *study.warnings, CLINICAL_WORDS]


def _panel(panel: Panel, study: Study, limit: float) -> dict[str, Any]:
    """Lay one slice out as columns, a picture above another."""
    scored = [row for row in study.rows if row.mask == panel.mask]
    values = {row.method: row.values for row in scored if row.record == panel.record}
    lead = next(iter(study.methods), ZERO_FILLED)
    ranked = sorted((row for row in scored if row.method == lead), key=quality)
    place = next(rank for rank, row in enumerate(ranked, 1) if row.record == panel.record)
    place = {1: "worst", len(ranked): "best"}.get(place, f"{place}. from the worst")
    cards = figures.cards(panel, values, limit=limit)
    return {
        "mask": panel.mask,
        "hash": panel.sampling.hash,
        "title": f"{panel.name}, subject {panel.subject}: {place} of {len(ranked)}",
        "lead": lead,
        "side": max(cell.picture.width for card in cards for cell in card),
        "cards": [
            [
                {
                    "title": cell.title,
                    "uri": figures.data_uri(cell.picture),
                    "width": cell.picture.width,
                    "height": cell.picture.height,
                    "caption": cell.caption,
                }
                for cell in card
            ]
            for card in cards
        ],
    }


def _section(section: Section) -> dict[str, Any]:
    """Set a section's numbers as text, and its figure for both themes."""
    themes = {"light": False, "dark": True}
    return {
        "title": section.title,
        "words": section.words,
        "headings": [heading for heading in section.facts[0] if heading != section.group] if section.facts else [],
        "groups": _groups(section),
        "plots": {theme: figures.data_uri(figures.png(section.figure(dark))) for theme, dark in themes.items()}
        if section.figure
        else {},
    }


def _groups(section: Section) -> list[tuple[str, list[list[str]]]]:
    """Return the rows of a section's table as texts, under the headings that they share."""
    return [
        (label, [[_cell(value) for name, value in row.items() if name != section.group] for row in rows])
        for label, rows in itertools.groupby(section.facts, key=lambda row: str(row.get(section.group, "")))
    ]


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have: infinities by the strings inf and -inf, undefined ones by null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
