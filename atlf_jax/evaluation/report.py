"""Write the results of an evaluation: scores.csv, summary.json and one self-contained report.html.

``study`` gathers the numbers, ``tables`` formats them for the terminal and ``page`` for a browser. Their public names
can be imported from here too.
"""

import contextlib
import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beartype import beartype

from atlf_jax.data.files import whole_file
from atlf_jax.evaluation import pictures
from atlf_jax.evaluation.page import render
from atlf_jax.evaluation.scoring import Score
from atlf_jax.evaluation.study import CLINICAL_REMARK, DATASET_REMARKS, Method, Section, Study, summary, without_names
from atlf_jax.evaluation.tables import tables
from atlf_jax.evaluation.wording import interval, number, spread, title

__all__ = [
    "CLINICAL_REMARK",
    "DATASET_REMARKS",
    "Method",
    "Section",
    "Study",
    "check_folder",
    "interval",
    "number",
    "render",
    "spread",
    "summary",
    "tables",
    "title",
    "without_names",
    "write",
]

REPORT_FILES = ("scores.csv", "summary.json", "report.html", "panels.png")
FREE_BYTES = 2**22  # free disk space to check for: reports are rarely larger


@beartype
def check_folder(folder: Path) -> None:
    """Check that a report can be written into a folder, before the evaluation is run.

    Args:
        folder: need not exist; nothing is created.

    Raises:
        ValueError: the folder is a file, one of the files is a folder, or there is no permission or no free space.
    """
    nearest = folder
    while not (nearest.exists() or nearest.is_symlink()) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(
            f"{nearest} is no folder, and the report was to be written into {folder}; choose another with --out"
        )
    if taken := next((folder / name for name in REPORT_FILES if (folder / name).is_dir()), None):
        raise ValueError(
            f"{taken} is a folder, and a file of this name was to be written; choose another place with --out"
        )
    try:
        with tempfile.TemporaryFile(dir=nearest) as probe:
            probe.write(bytes(FREE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        why = error.strerror or error
        raise ValueError(
            f"{folder} cannot be written ({why}); make room, or choose another folder with --out"
        ) from error


@beartype
def write(folder: Path, study: Study, facts: dict[str, Any] | None = None) -> tuple[dict[str, Any], Path]:
    """Write scores.csv, summary.json, report.html and, where there are panels, panels.png: all of them, or none.

    Args:
        folder: created if it is missing.
        study: the results.
        facts: the result of ``summary(study)``, if it was computed before.

    Returns:
        The result of ``summary(study)``, and the path of report.html. In summary.json an undefined number is null, and
        an infinite one is the string inf or -inf.

    Raises:
        ValueError: the folder cannot be written; its earlier files are then unchanged.
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
        pictures.comparison_sheet(study.panels, study.rows).save(stream, "PNG", optimize=True)
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
    scores = list(rows[0].values)
    writer = csv.DictWriter(stream, [*(name for name in Score._fields if name != "values"), *scores])
    writer.writeheader()
    for row in rows:
        fields = row._asdict()
        known = {name: value for name, value in fields.pop("values").items() if name in scores}
        texts = {
            name: f"'{value}"
            if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
            else value
            for name, value in fields.items()
        }
        writer.writerow(known | texts)
    return stream.getvalue()


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have: infinities by the strings inf and -inf, undefined ones by null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
