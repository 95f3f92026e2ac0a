"""The manifest of a prepared dataset: what ``prepare`` writes and ``PreparedSource`` reads."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from beartype import beartype

from atlf_jax.data.inputs import FileError, inside, read_json
from atlf_jax.data.transforms import CT_WINDOWS

__all__ = [
    "DIGEST",
    "FORMAT",
    "LEFT_OUT",
    "MANIFEST",
    "SUBJECT_NAME",
    "PAIRING_REMARKS",
    "PARTS",
    "PICTURE",
    "check_records",
    "digest_of",
    "pairing_of",
    "read_manifest",
]

MANIFEST = "manifest.json"
FORMAT = 1  # raise it when what is written changes, so that subjects are made again
DIGEST = "sha256"
LEFT_OUT = "left out"  # in place of a split, for pairs of poor registration
PICTURE = "picture"  # in place of a window, for CT that was windowed before it came here
PAIRING_REMARKS = {  # by the pairing of a dataset; said in training and in reports
    "unpaired": (
        "CT and MR are of different people (unpaired): what a CT of the same person would bring is not measured here."
    ),
    "mixed": "CT and MR of some subjects are of different people (unpaired), of the others of the same person (mixed).",
}
SUBJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of a subject, and of its folder
SUBJECT_FILES = ("ct.nii.gz", "label.nii.gz", "mr.nii.gz")
REMEDY = "prepare the dataset again"
PARTS = ("inner_train", "valid", "test", "inner_valid")  # splits that share no subject, the most needed first


@beartype
def pairing_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how CT and MR of some subjects belong together: "same subject", "unpaired", or "mixed"."""
    pairings = {record["pairing"] for record in records}
    return pairings.pop() if len(pairings) == 1 else "mixed"


@beartype
def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a prepared dataset.

    Args:
        root: the dataset's folder.

    Raises:
        ValueError: there is none, it is of another program or version, or its dataset is unfinished.
    """
    file = root / MANIFEST
    if not file.exists():
        raise ValueError(f"{file} does not exist; make it with python -m atlf_jax.data.prepare")
    manifest = read_json(file, "a manifest", REMEDY)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileError(file, f"is not a manifest of format {FORMAT}", REMEDY)
    if manifest.get("complete") is not True:
        raise ValueError(f"{root} was prepared in part only; run python -m atlf_jax.data.prepare again to finish it")
    check_records(file, manifest)
    if manifest.get(DIGEST, digest_of(manifest)) != digest_of(manifest):
        raise FileError(file, "was changed or damaged since it was written (checksum)", REMEDY)
    return manifest


@beartype
def digest_of(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of what a manifest says, beside its own checksum; one without is taken as it is."""
    contents = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


@beartype
def check_records(file: Path, manifest: dict[str, Any]) -> None:
    """Check what a manifest says of its subjects, field by field.

    Args:
        file: the manifest, for messages; subjects lie in its folder.
        manifest: of format ``FORMAT``.

    Raises:
        ValueError: a field is missing or cannot be meant, a subject is there twice, or its folder lies elsewhere.
    """
    records = manifest.get("subjects")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise FileError(file, "has no list of subjects", REMEDY)
    seen: set[str] = set()
    for number, record in enumerate(records, 1):
        for field, is_right in _FIELDS.items():
            if not is_right(record.get(field), record):
                raise FileError(file, f"has {field} {_short(record.get(field))} for subject {number}", REMEDY)
        inside(file.parent, record["subject"])
        if record["subject"].lower() in seen:
            raise FileError(file, f"has subject {record['subject']} twice", "leave it in one split, under one name")
        seen.add(record["subject"].lower())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list(value: Any, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


def _is_shape(value: Any) -> bool:
    return _is_list(value, _is_count) and len(value) == 3 and min(value) > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _slices(record: Mapping[str, Any]) -> int:
    return record["shape"][record["slice_axis"]]


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "mr.nii.gz" in value
        and value.keys() <= {*SUBJECT_FILES}
        and all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in value.values())
    )


def _are_names(value: Any, record: Mapping[str, Any]) -> bool:
    return value is None or (_is_list(value, lambda name: isinstance(name, str)) and len(value) == _slices(record))


def _is_registration(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("kind"), str)
        and isinstance(value.get("quality"), dict)
        and all(map(_is_number, value["quality"].values()))
        and _is_list(value.get("transform"), lambda row: _is_list(row, _is_number) and len(row) == 4)
        and len(value["transform"]) == 4
    )


_FIELDS: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {  # of a subject, checked in this order
    "subject": lambda value, _: isinstance(value, str) and bool(SUBJECT_NAME.fullmatch(value)),
    "split": lambda value, _: isinstance(value, str) and value in (*PARTS, LEFT_OUT),
    "pairing": lambda value, _: isinstance(value, str) and value in ("same subject", "unpaired"),
    "window": lambda value, _: isinstance(value, str) and value in (*CT_WINDOWS, PICTURE),
    "shape": lambda value, _: _is_shape(value),
    "slice_axis": lambda value, _: _is_count(value) and value < 3,
    "empty": lambda value, record: _is_list(value, lambda slice_: _is_count(slice_) and slice_ < _slices(record)),
    "files": lambda value, _: _are_files(value),
    "names": _are_names,
    "registration": lambda value, _: _is_registration(value),
    "good": lambda value, _: value is None or isinstance(value, bool),
}


def _short(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 40 else f"{text[:37]}..."
