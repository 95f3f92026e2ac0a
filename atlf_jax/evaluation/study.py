"""The results of one evaluation: a trial with its rows, panels and sections, and the summary of its numbers."""

import hashlib
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from beartype import beartype
from matplotlib.figure import Figure

from atlf_jax.config import to_dict
from atlf_jax.data.manifest import PAIRING_REMARKS
from atlf_jax.evaluation.audit import DataProperty
from atlf_jax.evaluation.calibration import Reliability
from atlf_jax.evaluation.scoring import Score
from atlf_jax.evaluation.slices import Panel
from atlf_jax.evaluation.statistics import compare, remark, summarise, undefined, undefined_remarks
from atlf_jax.evaluation.trial import ZERO_FILLED, Trial
from atlf_jax.evaluation.wording import cell

__all__ = [
    "CLINICAL_REMARK",
    "DATASET_REMARKS",
    "Method",
    "Section",
    "Study",
    "environment",
    "groups",
    "summary",
    "without_names",
]

DATASET_REMARKS = {
    "aanlib": (
        "The pictures are from a teaching atlas: scores on them compare methods on these pictures and do not foretell "
        "scores on scanner data."
    ),
    "phantom": "The heads are generated: scores on them show that the method works, not how well it does on patients.",
} | {f"prepared, {pairing}": remarks for pairing, remarks in PAIRING_REMARKS.items()}
CLINICAL_REMARK = "Research software: nothing here is fit for diagnosis or any other clinical use."


class Method(NamedTuple):
    """The origin of one method: its checkpoint and configuration."""

    parameters: int = 0
    checkpoint: str = ""  # path; empty for a method that is not learned
    config: dict[str, Any] | None = None  # the whole configuration that it was trained with


class Section(NamedTuple):
    """An additional section of a report: paragraphs of text, one table, one figure."""

    title: str
    key: str  # name of its numbers in summary.json
    remarks: Sequence[str]  # paragraphs above the table
    table: Sequence[Mapping[str, Any]] = ()  # its rows; the keys of the first are the headings
    numbers: Any = None  # for summary.json, if it should hold more than the table; None: the rows of the table
    figure: Callable[[bool], Figure] | None = None  # drawn for a light page, and again for a dark one
    group: str = ""  # the key of the rows that becomes a heading above the rows that share it


@beartype
@dataclass(frozen=True)
class Study:
    """One evaluation: everything that its report shows."""

    trial: Trial
    dataset: str
    split: str
    methods: Mapping[str, Method]  # without the zero-filled image
    rows: Sequence[Score]
    panels: Sequence[Panel] = ()
    sections: Sequence[Section] = ()
    audit: Sequence[DataProperty] = ()  # properties of the data that make scores too good
    warnings: Sequence[str] = ()  # of ``trained.guards``
    reliability: Sequence[Reliability] = ()
    left_out: Sequence[str] = ()  # slices whose MR is black


@beartype
def summary(study: Study) -> dict[str, Any]:
    """Return all numbers and remarks of a report.

    Returns:
        ``protocol``, ``environment``, ``methods``, ``results`` (see ``statistics.Summary``), ``comparisons`` (see
        ``statistics.Comparison``), ``undefined`` (see ``statistics.Undefined``), ``left_out`` (black slices), ``audit``
        (see ``audit.DataProperty``), ``uncertainty`` (see ``calibration.Reliability``) and ``remarks``; plain values,
        infinite and undefined numbers among them.
    """
    rows, config = study.rows, study.trial.config
    chosen = {"confidence": config.confidence, "samples": config.bootstrap}
    protocol = _protocol(study)
    return {
        "protocol": protocol,
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
        "remarks": _remarks(study, len(protocol["subjects"])),
    } | {section.key: list(section.table) if section.numbers is None else section.numbers for section in study.sections}


def _protocol(study: Study) -> dict[str, Any]:
    """Return what was scored, and how."""
    rows, config = study.rows, study.trial.config
    first = [row for row in rows if (row.mask, row.method) == (rows[0].mask, rows[0].method)]
    names = [row.subject for row in first]
    return {
        "dataset": study.dataset,
        "split": study.split,
        "subjects": {subject: names.count(subject) for subject in dict.fromkeys(names)},
        "slices": len(first),
        "profile": config.profile,
        "acquisition": to_dict(study.trial.acquisition),
        "masks": [_mask_facts(label, rows) for label in dict.fromkeys(row.mask for row in rows)],
        "confidence": config.confidence,
        "bootstrap": config.bootstrap,
    }


@beartype
def without_names(study: Study) -> Study:
    """Replace the names of slices by hash codes: names of private files may contain names of people."""

    def code(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()[:8]

    def coded(name: str) -> str:
        stem, _, number = name.rpartition("_")  # of a slice
        return f"{code(stem)}_{number}"

    of_rows = coded if study.trial.config.profile == "picture" else code
    return replace(
        study,
        rows=[row._replace(name=of_rows(row.name)) for row in study.rows],
        panels=[panel._replace(name=coded(panel.name)) for panel in study.panels],
        left_out=[coded(name) for name in study.left_out],
        reliability=[item._replace(left_out=[coded(name) for name in item.left_out]) for item in study.reliability],
    )


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


def _mask_facts(label: str, rows: Sequence[Score]) -> dict[str, Any]:
    """Describe the masks that were drawn under one label; each slice has its own mask, seeded by its name."""
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


def _remarks(study: Study, subjects: int) -> list[str]:
    remarks = [remark(subjects)]
    if study.left_out:
        remarks.append(
            f"Left out, as the MR is black and there is nothing to reconstruct: {', '.join(study.left_out[:20])}"
            + (f" and {len(study.left_out) - 20} more." if len(study.left_out) > 20 else ".")
        )
    remarks += undefined_remarks(study.rows)
    for item in study.reliability:
        if item.left_out:
            remarks.append(f"Expected errors of {item.method}, {item.mask}: without {', '.join(item.left_out)} (nan).")
    if study.dataset in DATASET_REMARKS:
        remarks.append(DATASET_REMARKS[study.dataset])
    return [*remarks, *study.warnings, CLINICAL_REMARK]


@beartype
def groups(section: Section) -> list[tuple[str, list[list[str]]]]:
    """Return the rows of a section's table as texts, grouped by their common heading."""
    return [
        (label, [[cell(value) for name, value in row.items() if name != section.group] for row in rows])
        for label, rows in itertools.groupby(section.table, key=lambda row: str(row.get(section.group, "")))
    ]
