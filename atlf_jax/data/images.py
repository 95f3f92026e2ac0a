"""Slices from image files of any kind and origin, mixed: what a network must see to hold for other anatomy.

NIfTI volumes, 8-bit pictures, arrays (complex images keep their phase) and fully sampled k-space of several coils,
which is combined. There is no CT beside them. Groups of files count equally, however many slices each holds.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from beartype import beartype

from atlf_jax.data.aanlib import read_grey
from atlf_jax.data.arrays import read_array
from atlf_jax.data.coils import centre_sides, low_resolution_maps_numpy
from atlf_jax.data.example import MIN_SIDE, Example, Split, validate_example
from atlf_jax.data.files import DATA_DIR
from atlf_jax.data.kspace import read_kspace
from atlf_jax.data.measured import check_full, find_measured
from atlf_jax.data.transforms import ifft2c_numpy, window_ct
from atlf_jax.data.volume import read_nifti, to_slices

__all__ = ["ImagesConfig", "ImagesSource"]

ISOTROPIC = 1.2  # largest ratio of voxel sides up to which a volume is sliced along all three axes
EMPTY = 0.05  # slices with less than this part of pixels above a tenth of the maximum are left out
LARGE = 448  # pixels of the shorter side from which on an image is halved
AIR = -500  # Hounsfield units: a volume with lower values is a CT, seen through the window of soft tissue


@beartype
@dataclass(frozen=True)
class ImagesConfig:
    """Which files to read. Training draws a group first, then a slice of it.

    Objects have all sizes on them, so that none counts as that of the training (``Example``, ``image_size``).
    """

    root: str = ""
    """Folder that the patterns are relative to; empty: $ATLF_DATA_DIR."""
    files: tuple[str, ...] = ("**/*.nii.gz",)
    """Groups of images, a pattern each, such as ``aanlib_ct_mri/MRI/*.png``: .nii, .nii.gz, .png, .npy and .npz."""
    kspace: tuple[str, ...] = ()
    """Groups of fully sampled k-space of one slice, [c, h, w]."""
    valid_files: tuple[str, ...] = ()
    """Groups of images of other subjects, to choose checkpoints on."""
    size: tuple[int, int] = (256, 256)
    """Rows and columns that slices are cropped or padded to about their centre, once those of 448 pixels or more are
    halved."""
    split: Split = "train"
    """train: files and kspace; valid: valid_files."""

    def __post_init__(self) -> None:
        if min(self.size) < MIN_SIDE:
            raise ValueError(f"images.size is {self.size}; wanted sides of {MIN_SIDE} or more")

    def open(self) -> "ImagesSource":
        """Open the slices of the split."""
        return ImagesSource(self)


class ImagesSource:
    """The slices of one split; all files are read when it is opened. A file is a subject.

    Raises:
        ValueError: no folder, a pattern that no file matches, a file that cannot be read, or another split.
    """

    def __init__(self, config: ImagesConfig) -> None:
        if config.split not in ("train", "valid"):
            raise ValueError(f"split {config.split!r} is not one of images; wanted train or valid")
        place = config.root or os.environ.get(DATA_DIR, "")
        if not place or not Path(place).is_dir():
            raise ValueError(
                f"folder {place or '(none)'} does not exist: set data.images.root or ${DATA_DIR} to the folder that "
                "the patterns are relative to"
            )
        images = config.files if config.split == "train" else config.valid_files
        measured = config.kspace if config.split == "train" else ()
        self._size = config.size
        self._groups = [_read_group(Path(place), pattern, measured=False) for pattern in images]
        self._groups += [_read_group(Path(place), pattern, measured=True) for pattern in measured]
        if not self._groups:
            raise ValueError(f"no pattern of files for split {config.split!r}; set data.images.files and valid_files")
        self.subjects = frozenset(name.rpartition(":")[0] for group in self._groups for name, _ in group)

    def __len__(self) -> int:
        return len(self._groups) * max(map(len, self._groups))

    def __getitem__(self, index: int) -> Example:
        number, group = divmod(index, len(self._groups))
        name, image = self._groups[group][number % len(self._groups[group])]
        target = _fit(image, self._size).astype(np.complex64)
        target /= np.abs(target).max() or np.float32(1)
        ct = np.zeros(self._size, np.float32)
        return validate_example(Example(name, name.rpartition(":")[0], ct, target))


def _read_group(root: Path, pattern: str, *, measured: bool) -> list[tuple[str, np.ndarray]]:
    """Return the slices of all files of a pattern, with their names."""
    found = []
    for file in sorted(root.glob(pattern)):
        slices = [_combined(file)] if measured else _slices(file)
        for number, image in enumerate(slices):
            while min(image.shape) >= LARGE:
                h, w = (side // 2 * 2 for side in image.shape)
                image = image[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3))
            magnitude = np.abs(image)
            if (magnitude > 0.1 * magnitude.max()).mean() >= EMPTY:
                found.append((f"{file.relative_to(root).as_posix()}:{number}", image))
    if not found:
        raise ValueError(f"no slices match {pattern!r} in {root}; mend the pattern or copy the files there")
    return found


def _slices(file: Path) -> Iterator[np.ndarray]:
    """Yield the slices of a file of images, [h, w] float32 or complex64."""
    if file.suffix == ".png":
        yield read_grey(file)
    elif file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            yield from (np.asarray(arrays[name], np.complex64) for name in arrays.files)
    elif file.suffix == ".npy":
        yield from np.atleast_3d(np.asarray(read_array(file), np.complex64).T).T
    else:
        volume = read_nifti(file)
        stack = to_slices(volume)
        if stack.min() < AIR:
            stack = window_ct(stack, "soft_tissue")
        spacing = volume.spacing
        axes = (0, 1, 2) if spacing.max() <= ISOTROPIC * spacing.min() else (0,)
        for axis in axes:
            yield from np.maximum(np.moveaxis(stack, axis, 0), 0)


def _combined(file: Path) -> np.ndarray:
    """Return the image of one slice of fully sampled k-space, combined by low-resolution coil maps."""
    kspace = np.asarray(read_kspace(file, axes="chw").samples, np.complex64)
    check_full(file, find_measured(lambda _: kspace, 1))
    kspace = kspace / np.abs(kspace).max()
    shape = kspace.shape[-2:]
    sides = centre_sides(np.ones((1, shape[1]), bool), shape, most=(24, 24))
    return np.sum(low_resolution_maps_numpy(kspace, sides).conj() * ifft2c_numpy(kspace), axis=0)


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop or pad with zeros about the centre."""
    for axis, side in enumerate(size):
        extra = image.shape[axis] - side
        if extra > 0:
            image = np.take(image, range(extra // 2, extra // 2 + side), axis)
        elif extra < 0:
            width = [(0, 0), (0, 0)]
            width[axis] = (-extra // 2, -extra - -extra // 2)
            image = np.pad(image, width)
    return image
