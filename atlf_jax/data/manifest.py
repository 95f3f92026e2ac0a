"""The manifest of a prepared dataset: what ``prepare`` writes and ``PreparedSource`` reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beartype import beartype

__all__ = ["FORMAT", "LEFT_OUT", "MANIFEST", "PAIRING_WORDS", "PARTS", "PICTURE", "pairing_of", "read_manifest"]

MANIFEST = "manifest.json"
FORMAT = 1  # raise it when what is written changes, so that subjects are made again
LEFT_OUT = "left out"  # in place of a split, for pairs of poor registration
PICTURE = "picture"  # in place of a window, for CT that was windowed before it came here
PAIRING_WORDS = {  # by the pairing of a dataset; said in training and in reports
    "unpaired": (
        "CT and MR are of different people (unpaired): what a CT of the same person would bring is not measured here."
    ),
    "mixed": "CT and MR of some subjects are of different people (unpaired), of the others of the same person (mixed).",
}
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
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist; make it with python -m atlf_jax.data.prepare") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not a readable manifest ({error}); prepare the dataset again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file} is not a manifest of format {FORMAT}; prepare the dataset again")
    if not manifest["complete"]:
        raise ValueError(f"{root} was prepared in part only; run python -m atlf_jax.data.prepare again to finish it")
    return manifest
