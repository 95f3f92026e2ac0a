"""Registered brain CT-MR slice pairs of the Harvard Whole Brain Atlas (AANLIB), as pictures in a folder.

The pictures are 8 bit and the CT is already windowed, so there are no Hounsfield units, no spacing and no phase.
Two layouts are read, flat (``CT/NAME.png``, ``MRI/NAME.png``) and nested (``train/CT/...``, ``test/CT/...``);
NAME is the case number followed by the slice in three digits (``41007`` is slice 7 of case 41). The nested folders
split by *slice*, with every test subject also in train: they are merged here, and split again by subject.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from beartype import beartype

from atlf_jax.data.example import Example, Split, validate_example
from atlf_jax.data.files import data_folder
from atlf_jax.data.inputs import FileError, read_png

__all__ = ["SPLITS", "AANLIBConfig", "AANLIBSource", "read_grey"]

# Cases 16 and 21 hold the 21 pairs that the fusion literature reports on.
SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("2", "20", "32", "33", "34", "41"),
    "valid": ("28", "37"),
    "test": ("16", "21"),
    "inner_train": ("2", "20", "32", "33", "34"),  # train again, split to choose settings without touching valid
    "inner_valid": ("41",),
}
SPLITS["all"] = SPLITS["train"] + SPLITS["valid"] + SPLITS["test"]
FOLDS = (("28", "37"), ("20", "41"), ("2", "34"), ("32", "33"))  # of train and valid, for cross-validation by subject

FOLDER = "aanlib_ct_mri"  # this data set's folder in $ATLF_DATA_DIR
_NAME = re.compile(r"(\d+)(\d{3})")


@beartype
@dataclass(frozen=True)
class AANLIBConfig:
    """Where the AANLIB pictures lie, and which subjects to read."""

    root: str = ""
    """Folder with CT/ and MRI/ (or train/ and test/ with these); empty: aanlib_ct_mri in $ATLF_DATA_DIR."""
    split: Split = "train"
    """Subjects to read: valid = cases 28, 37; test = 16, 21; train = the other six; inner_valid = 41 of train."""
    fold: int = 1
    """Fold of the cross-validation by subject, 1 to 4: valid is its two cases, train the other six. 1 is as above."""

    def __post_init__(self) -> None:
        if not 1 <= self.fold <= len(FOLDS):
            raise ValueError(f"data.aanlib.fold is {self.fold}; wanted 1 to {len(FOLDS)}")
        if self.fold > 1 and self.split.startswith("inner"):
            raise ValueError(f"split {self.split!r} is of fold 1, and data.aanlib.fold is {self.fold}")

    def open(self) -> "AANLIBSource":
        """Open the slices of the split."""
        return AANLIBSource(self)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of all slices."""
        return 256, 256

    @property
    def cases(self) -> tuple[str, ...]:
        """Return the case numbers of the split."""
        both = SPLITS["train"] + SPLITS["valid"]
        fold = FOLDS[self.fold - 1]
        folded = {"valid": fold, "train": tuple(case for case in both if case not in fold)}
        return folded.get(self.split, SPLITS[self.split])


class AANLIBSource:
    """The slices of one split, ordered by case and slice; a decoded picture stays in memory.

    Raises:
        ValueError: when the folder is missing or empty, a picture has no partner or an unreadable name, or no
            subject of the split is there; and on access, when a picture is broken, coloured, or of another size.

    Source: Harvard Whole Brain Atlas (Johnson and Becker), in the pairing of the public CT-MRI fusion sets.
    Departure from their train/test folders: split by subject.
    """

    def __init__(self, config: AANLIBConfig) -> None:
        self._slices = _list_slices(data_folder(config.root, FOLDER, "data.aanlib.root", "CT/ and MRI/"), config)
        self._decoded: dict[int, Example] = {}
        self.subjects = frozenset(case for _, case, _, _ in self._slices)

    def __len__(self) -> int:
        return len(self._slices)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of all slices."""
        return 256, 256

    @property
    def cases(self) -> tuple[str, ...]:
        """Return the case of each slice, without decoding its pictures."""
        return tuple(case for _, case, _, _ in self._slices)

    def __getitem__(self, index: int) -> Example:
        if index not in self._decoded:
            self._decoded[index] = _read_pair(*self._slices[index])
        return self._decoded[index]


def _read_pair(name: str, case: str, ct_file: Path, mr_file: Path) -> Example:
    ct, mr = read_grey(ct_file), read_grey(mr_file)
    if ct.shape != mr.shape:
        raise ValueError(
            f"pair {name!r}: {ct_file} is {_size(ct)} and {mr_file} is {_size(mr)}; resample one onto the other"
        )
    target = mr.astype(np.complex64)
    for image in (ct, target):
        image.flags.writeable = False  # it is handed out again
    return validate_example(Example(name=name, subject=case, ct=ct, target=target))


def _list_slices(root: Path, config: AANLIBConfig) -> list[tuple[str, str, Path, Path]]:
    """Pair the pictures under root and keep the split's subjects: (name, case, CT file, MR file)."""
    places = (root, root / "train", root / "test")
    parts = [place for place in places if (place / "CT").is_dir() or (place / "MRI").is_dir()]
    if not parts:
        raise ValueError(f"{root} holds neither CT/ and MRI/ nor train/ and test/ with these; is it the AANLIB folder?")
    found: dict[str, tuple[str, str, Path, Path]] = {}
    for part in parts:
        ct, mr = ({file.stem: file for file in sorted((part / kind).glob("*.png"))} for kind in ("CT", "MRI"))
        for stem in sorted(ct.keys() ^ mr.keys()):
            present, missing = (ct[stem], "MRI") if stem in ct else (mr[stem], "CT")
            raise ValueError(f"{present} has no partner {part / missing / stem}.png; add it or remove this file")
        for stem in ct:
            match = _NAME.fullmatch(stem)
            if match is None:
                raise ValueError(
                    f"{ct[stem]} is not named case number + 3-digit slice (such as 41007.png); rename it and its MRI"
                )
            if stem in found:
                raise ValueError(f"{ct[stem]} and {found[stem][2]} are the same slice; remove one of the two pairs")
            found[stem] = (stem, match[1], ct[stem], mr[stem])
    if not found:
        raise ValueError(f"no .png pictures in CT/ and MRI/ of {root}; copy the AANLIB pairs there")
    cases = {case for _, case, _, _ in found.values()}
    wanted = config.cases
    if unknown := cases - set(SPLITS["all"]):
        names = ", ".join(sorted(unknown))
        raise ValueError(f"{root} holds case {names}, which no split names; known are {', '.join(SPLITS['all'])}")
    if not cases & set(wanted):
        raise ValueError(
            f"split {config.split!r} is cases {', '.join(wanted)}, and {root} holds only {', '.join(sorted(cases))}; "
            "choose another split or add these cases"
        )
    return sorted((s for s in found.values() if s[1] in wanted), key=lambda s: (int(s[1]), s[0]))


def read_grey(file: Path) -> np.ndarray:
    """Decode one 8-bit picture to float32 [h, w] in [0, 1]."""
    picture = read_png(file)
    mode = picture.mode
    if mode not in ("L", "RGB", "RGBA", "P", "LA", "1"):
        raise FileError(file, f"has pixel mode {mode!r}", "save it as 8-bit grey")
    pixels = np.asarray(picture if mode == "L" else picture.convert("RGBA" if "A" in mode else "RGB"))
    if pixels.ndim == 3:
        colour = pixels[..., :3]
        if (colour != colour[..., :1]).any():
            raise FileError(file, "is a colour picture (red, green and blue differ)", "save it as 8-bit grey")
        pixels = colour[..., 0]
    return pixels.astype(np.float32) / 255


def _size(image: np.ndarray) -> str:
    return "x".join(map(str, image.shape))
