"""Slices of a dataset that ``atlf_jax.data.prepare`` wrote: CT and MR volumes on one grid, and their manifest."""

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from beartype import beartype
from jaxtyping import Float32

from atlf_jax.data.example import MIN_SIDE, Example, Split, validate_example
from atlf_jax.data.files import sha256_of
from atlf_jax.data.inputs import FileError, inside
from atlf_jax.data.manifest import LEFT_OUT, PARTS, PICTURE, pairing_of, read_manifest
from atlf_jax.data.transforms import CTWindows, ct_shape, window_ct
from atlf_jax.data.volume import Volume, read_nifti, slice_axis, to_slices

__all__ = ["PreparedConfig", "PreparedSource"]

_WHOLE = {"train": ("inner_train", "inner_valid"), "all": PARTS}  # splits that are several parts


@beartype
@dataclass(frozen=True)
class PreparedConfig:
    """Where the prepared dataset lies, and how its slices are read."""

    root: str = ""
    """Folder that holds manifest.json, as python -m atlf_jax.data.prepare wrote it."""
    split: Split = "train"
    """Subjects to read, as the manifest splits them; train = inner_train and inner_valid."""
    window: Literal["manifest"] | CTWindows = "manifest"
    """Window of the CT, or several at once, as channels; manifest: the one that the dataset was prepared for."""
    size: tuple[int, int] = (0, 0)
    """Rows and columns that slices are cropped or padded to about their centre; 0 keeps the side."""
    keep: int = 64
    """Subjects kept in memory once read."""

    def __post_init__(self) -> None:
        if any(side != 0 and side < MIN_SIDE for side in self.size):
            raise ValueError(f"prepared.size is {self.size}; wanted sides of {MIN_SIDE} or more, or 0 (as they are)")
        if self.keep < 1:
            raise ValueError(f"prepared.keep is {self.keep}; wanted 1 or more subjects")

    def open(self) -> "PreparedSource":
        """Open the slices of the split."""
        return PreparedSource(self)

    @property
    def ct_windows(self) -> tuple[str, ...]:
        """The windows that the CT is read through; empty where the manifest says it."""
        if self.window == "manifest":
            return ()
        return self.window if isinstance(self.window, tuple) else (self.window,)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of all slices, 0 where they may differ."""
        return self.size


class _Slices(NamedTuple):
    """The slices of a subject."""

    ct: Float32[np.ndarray, "s h w"] | None  # Hounsfield units, or a picture in [0, 1]
    mr: Float32[np.ndarray, "s h w"]


class PreparedSource:
    """The slices of one split along the acquisition axis, ordered by subject and slice; empty MR slices are left out.

    A subject without CT has a CT of zeros. The target is the MR as it is stored, without phase, divided by the largest
    value of its volume: metrics of the profile ``picture`` take 1 for the peak. ``pairing`` tells whether CT and MR of
    the split are of the same people (see ``pairing_of``).

    Raises:
        ValueError: no folder, no manifest or an unfinished one, no subject in the split; and on access, when a file
            is missing, was changed since, or cannot be used.
    """

    def __init__(self, config: PreparedConfig) -> None:
        if not config.root:
            raise ValueError("no prepared dataset given: set data.prepared.root to the folder that holds manifest.json")
        self._config = config
        self._root = Path(config.root)
        manifest = read_manifest(self._root)
        wanted = _WHOLE.get(config.split, (config.split,))
        self._records = [record for record in manifest["subjects"] if record["split"] in wanted]
        if not self._records:
            splits = ", ".join(sorted({record["split"] for record in manifest["subjects"]})) or "none"
            raise ValueError(
                f"split {config.split!r} of {self._root} has no subject (splits there: {splits}); add subjects, or "
                f"look into the registrations that were {LEFT_OUT}"
            )
        self.pairing = pairing_of(self._records)
        self.subjects = frozenset(record["subject"] for record in self._records)
        self.digest = " ".join(digest for record in self._records for _, digest in sorted(record["files"].items()))
        self._index = [
            (record, number)
            for record in self._records
            for number in range(record["shape"][record["slice_axis"]])
            if number not in record["empty"]
        ]
        self._read: OrderedDict[str, _Slices] = OrderedDict()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Example:
        record, number = self._index[index]
        slices = self._slices(record)
        name = record["names"][number] if "names" in record else f"{record['subject']}_{number:03d}"
        target = _fit(slices.mr[number], self._config.size)
        ct = (
            np.zeros(ct_shape(self._windows, target.shape), np.float32)
            if slices.ct is None
            else _fit(self._windowed(slices.ct[number], record), self._config.size)
        )
        return validate_example(Example(name, record["subject"], ct, target.astype(np.complex64)))

    @property
    def _windows(self) -> int:
        return len(self._config.window) if isinstance(self._config.window, tuple) else 1

    def _windowed(self, ct: np.ndarray, record: dict[str, Any]) -> np.ndarray:
        """Return the CT slice in [0, 1]; a picture is there already."""
        if record["window"] == PICTURE:
            if self._windows > 1:
                raise ValueError(
                    f"the CT of {record['subject']} is a picture without Hounsfield units, and {self._windows} windows "
                    "of it are asked for; leave prepared.window out"
                )
            return ct
        return window_ct(ct, record["window"] if self._config.window == "manifest" else self._config.window)

    def _slices(self, record: dict[str, Any]) -> _Slices:
        """Read a subject's volumes, or find them in memory."""
        subject = record["subject"]
        if subject not in self._read:
            mr = self._volume(record, "mr.nii.gz")
            ct = self._volume(record, "ct.nii.gz") if "ct.nii.gz" in record["files"] else None
            if ct is not None and ct.data.shape != mr.data.shape:
                raise ValueError(f"{self._root / subject}: CT {ct.data.shape} and MR {mr.data.shape}; prepare it again")
            if (list(mr.data.shape), slice_axis(mr)) != (record["shape"], record["slice_axis"]):
                raise FileError(
                    self._root / subject,
                    f"holds {mr.data.shape}, sliced along axis {slice_axis(mr)}, and the manifest says otherwise",
                    "prepare the dataset again",
                )
            if record["window"] != PICTURE:
                mr = dataclasses.replace(mr, data=mr.data / (mr.data.max() or np.float32(1)))
            slices = _Slices(None if ct is None else to_slices(ct), to_slices(mr))
            for stack in slices:
                if stack is not None:
                    stack.flags.writeable = False  # its slices are handed out again
            self._read[subject] = slices
            while len(self._read) > self._config.keep:
                self._read.popitem(last=False)
        self._read.move_to_end(subject)
        return self._read[subject]

    def _volume(self, record: dict[str, Any], name: str) -> Volume:
        file = inside(self._root, f"{record['subject']}/{name}")
        if not file.is_file() or sha256_of(file) != record["files"][name]:
            raise ValueError(f"{file} is missing or was changed since it was prepared; prepare the dataset again")
        return read_nifti(file)


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop or pad an image with zeros to a size, about its centre."""
    for axis, wanted in zip((-2, -1), size, strict=True):
        surplus = image.shape[axis] - wanted
        if wanted and surplus > 0:
            image = image.take(range(surplus // 2, surplus // 2 + wanted), axis)
        elif wanted:
            widths = [(0, 0)] * image.ndim
            widths[axis] = (-surplus // 2, -surplus - -surplus // 2)
            image = np.pad(image, widths)
    return np.ascontiguousarray(image)
