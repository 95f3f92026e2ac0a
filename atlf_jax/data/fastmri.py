"""fastMRI files: raw k-space in HDF5, read slice by slice and written whole, and a dataset of fully sampled volumes.

A file holds ``kspace`` (slices, coils, h, w), or (slices, h, w) of one coil, complex64; ``mask`` (w,) where the scan
was undersampled; ``ismrmrd_header``, XML that says which size and field of view the image has and which lines at the
edges of k-space were never measured but padded with zeros; and the attributes ``acquisition`` and ``patient_id``. A
reconstruction is a file with ``reconstruction`` (slices, h, w), float32.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from xml.etree import ElementTree

import numpy as np
from beartype import beartype
from jaxtyping import Bool, Complex, Complex64, Shaped, jaxtyped

from atlf_jax.data.coils import espirit_maps_numpy, kept_espirit_maps
from atlf_jax.data.example import Example, Split, validate_example
from atlf_jax.data.files import data_folder, whole_file
from atlf_jax.data.hdf5 import hdf5_dataset, open_hdf5
from atlf_jax.data.inputs import FileError, check_memory, reading
from atlf_jax.data.measured import check_full, find_measured
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy

__all__ = [
    "FastMRIConfig",
    "FastMRISource",
    "KSpaceFile",
    "centre_crop",
    "check_complex",
    "check_order",
    "write_kspace",
    "write_reconstruction",
]

FOLDER = "fastmri"  # this data set's folder in $ATLF_DATA_DIR
_OVERHEAD = 2**16  # bytes of an HDF5 file beside its arrays, generously
_LARGEST_HEADER = 2**24  # bytes of XML; a scanner's has some ten thousand
_MOST_COILS = 64
_PUBLIC = re.compile(r"file_?\w*\d{6,}")  # names of the official files, which are codes
_ISMRMRD = "{http://www.ismrm.org/ISMRMRD}"


class KSpaceFile:
    """One fastMRI file, open for reading; slices are read on demand. A context manager.

    Args:
        path: the file.
        known: it was opened before in this run, and is not checked for damage again.

    Attributes:
        path: the file.
        coils: number of coils, 0 where k-space has no coil axis.
        shape: of k-space, ``(h, w)``.
        image_shape: of the reconstruction, cut from the centre; that of k-space if the header does not say.
        spacing: mm between the rows, columns and slices of the image, by the field of view (slices: their thickness, as
            gaps are not told); None if the header does not say.
        acquired: ``[w]``, False for lines at the edges that the header says are zero padding.
        mask: ``[w]``, True = acquired, without the padding; None for a fully sampled scan.
        attributes: ``acquisition``, ``patient_id``, ``max``, ``norm`` and what else there is.

    Raises:
        ValueError: naming the file, what was found and what to do.

    Source: fastMRI ``fastmri/data/mri_data.py`` (``_retrieve_metadata``) for padding and image size.
    """

    def __init__(self, path: str | Path, *, known: bool = False) -> None:
        self.path = Path(path)
        self._file = open_hdf5(self.path, known=known)
        try:
            with reading(self.path, "a HDF5 file"):
                self._read_layout()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self._kspace)

    def __getitem__(self, index: int) -> Complex64[np.ndarray, "*c h w"]:
        """Read the k-space of one slice, ``[c, h, w]`` or ``[h, w]``."""
        with reading(self.path, f"a HDF5 file: slice {index} is damaged"):
            return self._kspace[index].astype(np.complex64)

    def _read_layout(self) -> None:
        if self._file.get("kspace", getlink=True) is None:
            self._refuse_other_layouts()
        self._kspace = hdf5_dataset(self._file, "kspace", self.path)
        shape = tuple(self._kspace.shape or ())
        if len(shape) not in (3, 4) or 0 in shape:
            raise FileError(self.path, f"has kspace of shape {shape}", "wanted (slices, coils, h, w) or (slices, h, w)")
        check_complex(self._kspace.dtype, shape, str(self.path))
        check_order(shape, str(self.path))
        chunk = self._kspace.chunks or (1, *shape[1:])
        largest = max(int(np.prod(part, dtype=object)) for part in (shape[1:], chunk))
        check_memory(self.path, 4 * self._kspace.dtype.itemsize * largest, f"slices {shape[1:]}")
        h, w = self.shape = shape[-2:]
        self.coils = shape[1] if len(shape) == 4 else 0
        self.attributes: dict[str, Any] = {name: _plain(value) for name, value in self._file.attrs.items()}
        self.image_shape, (left, right), self.spacing = self.shape, (0, w), None
        if "ismrmrd_header" in self._file:
            text = hdf5_dataset(self._file, "ismrmrd_header", self.path)
            if text.size != 1 or text.nbytes > _LARGEST_HEADER:
                raise FileError(self.path, "has an ismrmrd_header that is not one text", "export it again")
            self.image_shape, (left, right), self.spacing = _read_header(text[()], (h, w), self.path)
        self.acquired = (np.arange(w) >= left) & (np.arange(w) < right)
        self.mask = None
        if "mask" in self._file:
            mask = hdf5_dataset(self._file, "mask", self.path)
            if mask.shape != (w,) or not np.isin(mask := np.asarray(mask), (0, 1)).all():
                raise FileError(
                    f"{self.path}:",
                    f"mask has shape {mask.shape}",
                    f"wanted ({w},) zeros and ones, one for each line of kspace {shape}",
                )
            self.mask = mask.astype(bool) & self.acquired

    def _refuse_other_layouts(self) -> None:
        """Say what the file holds in place of ``kspace``, and what to do with that."""
        groups = [self._file, *(value for value in self._file.values() if hasattr(value, "keys"))]
        if any({"xml", "data"} <= {*group} for group in groups):
            raise FileError(
                self.path,
                "is an ISMRMRD file of single acquisitions, not sorted into k-space",
                "sort its lines (ismrmrd-python-tools, BART) and save k-space as .npy",
            )
        names = ", ".join(sorted(self._file)[:6]) or "nothing"
        raise FileError(self.path, f"holds {names}", "wanted a dataset named kspace (is it a reconstruction?)")


def check_complex(dtype: Any, shape: tuple[int, ...], where: str) -> None:
    """Refuse k-space that is not complex, and say how to convert real and imaginary parts that are kept apart.

    Raises:
        ValueError: ``where`` begins the message.
    """
    if np.dtype(dtype).kind == "c":
        return
    found = f"k-space is {np.dtype(dtype)} of shape {tuple(shape)}"
    pairs = [axis for axis in (-1, 0, -3) if len(shape) >= -axis + (axis == 0) and shape[axis] == 2]
    if pairs and len(shape) > 2:
        parts = {-1: ("[..., 0]", "[..., 1]"), 0: ("[0]", "[1]"), -3: ("[..., 0, :, :]", "[..., 1, :, :]")}[pairs[0]]
        raise FileError(
            f"{where}:",
            f"{found}, real and imaginary parts kept apart",
            f"convert it: (k{parts[0]} + 1j * k{parts[1]}).astype('complex64')",
        )
    raise FileError(f"{where}:", found, "wanted complex64 samples")


def check_order(shape: tuple[int, ...], where: str, *, named: bool = False) -> None:
    """Refuse k-space whose coils are its last axis, and say how to turn it.

    An axis counts as coils where it is short: at most 64, and less than half of either axis before it.

    Raises:
        ValueError: ``where`` begins the message.

    Example:
        >>> check_order((8, 256, 216), "k.npy")
    """
    if len(shape) in (3, 4) and 2 * shape[-1] < min(shape[-3:-1]) and shape[-1] <= _MOST_COILS:
        raise FileError(
            f"{where}:",
            f"k-space of shape {tuple(shape)} has its coils last",
            f"turn it: numpy.moveaxis(k, -1, {len(shape) - 3})"
            + (f", or say so with --kspace.axes {'shwc'[-len(shape) :]}" if named else ""),
        )


@jaxtyped(typechecker=beartype)
def centre_crop(image: Shaped[np.ndarray, "*b h w"], shape: tuple[int, int]) -> Shaped[np.ndarray, "*b y x"]:
    """Crop images to their centre, as fastMRI does; a side that is already shorter is kept.

    Args:
        image: ``[*b, h, w]``.
        shape: (y, x) in pixels.

    Example:
        >>> centre_crop(np.arange(5)[None], (3, 3))
        array([[1, 2, 3]])
    """
    sides = tuple(min(side, wanted) for side, wanted in zip(image.shape[-2:], shape, strict=True))
    top, left = ((have - side) // 2 for have, side in zip(image.shape[-2:], sides, strict=True))
    return image[..., top : top + sides[0], left : left + sides[1]]


@jaxtyped(typechecker=beartype)
def write_kspace(
    path: str | Path,
    kspace: Complex[np.ndarray, "slices *c h w"],
    *,
    mask: Bool[np.ndarray, " w"] | None = None,
    image_shape: tuple[int, int] | None = None,
    padding: tuple[int, int] = (0, 0),
    spacing: tuple[float, float, float] | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write k-space as a fastMRI file; the file is written completely or not at all.

    Args:
        path: the ``.h5`` file; its folder is created if it is missing.
        kspace: ``[slices, c, h, w]``, or ``[slices, h, w]`` of one coil; centred.
        mask: ``[w]``, for a scan that was undersampled.
        image_shape: size of the reconstruction, cut from the centre; None: that of k-space.
        padding: number of lines at the lower and upper edge of k-space that are zero padding.
        spacing: mm between rows, columns and slices of the reconstruction; None: not told.
        attributes: such as ``acquisition`` and ``patient_id``.

    Raises:
        ValueError: k-space has other axes, the padding leaves no line, or the file cannot be written.
    """
    import h5py

    if kspace.ndim not in (3, 4):
        raise ValueError(f"k-space has shape {kspace.shape}; wanted (slices, coils, h, w) or (slices, h, w)")
    h, w = kspace.shape[-2:]
    if min(padding) < 0 or sum(padding) >= w or padding[0] > w // 2:
        raise ValueError(f"padding is {padding} lines of {w}; wanted 0 or more on each side of the centre")
    fields = {
        "encoded": (h, w),
        "image": image_shape or (h, w),
        "centre": w // 2 - padding[0],
        "last": w - sum(padding) - 1,
        "spacing": spacing,
    }
    with whole_file(path) as partial:
        _reserve(partial, 8 * kspace.size)
        with h5py.File(partial, "w") as file:
            file.create_dataset("kspace", data=kspace.astype(np.complex64))
            file.create_dataset("ismrmrd_header", data=_header(**fields))
            if mask is not None:
                file.create_dataset("mask", data=mask.astype(np.uint8))
            file.attrs.update(attributes or {})


@beartype
def write_reconstruction(
    path: str | Path, images: Iterable[np.ndarray], *, slices: int, attributes: dict[str, Any] | None = None
) -> None:
    """Write images as they come to a file with the dataset ``reconstruction``; it is written completely or not at all.

    Args:
        path: the ``.h5`` file; its folder is created if it is missing.
        images: one real ``[h, w]`` for each slice; one at a time is in memory.
        slices: how many there will be.
        attributes: of the file.

    Raises:
        ValueError: there are more or fewer images, or the file cannot be written.
    """
    import h5py

    images = iter(images)
    first = next(images, None)
    if first is None:
        raise ValueError(f"got 0 images for {path}; wanted {slices}, one for each slice")
    with whole_file(path) as partial:
        _reserve(partial, 4 * slices * first.size)
        with h5py.File(partial, "w") as file:
            dataset = file.create_dataset("reconstruction", (slices, *first.shape), np.float32)
            count = 0
            for count, image in enumerate(itertools.chain([first], images), 1):
                if count <= slices:
                    dataset[count - 1] = image
            file.attrs.update(attributes or {})
        if count != slices:
            raise ValueError(f"got {count} images for {path}; wanted {slices}, one for each slice")


@beartype
@dataclass(frozen=True)
class FastMRIConfig:
    """Folder of the fastMRI files, and which image is the ground truth. There is no CT: it is zeros."""

    root: str = ""
    """Folder with the official parts (singlecoil_train/, singlecoil_val/, ...) or with .h5 files; empty: fastmri in
    $ATLF_DATA_DIR."""
    split: Split = "train"
    """Patients to read: of the official parts train, and the two halves of val as valid and test; else by a hash."""
    coils: Literal["singlecoil", "multicoil"] = "singlecoil"
    """Which of the official parts; a folder of files is taken as it is."""
    combine: Literal["rss", "espirit"] = "rss"
    """How coils become the target: root of the sum of squares (no phase), or by ESPIRiT maps (keeps the phase; a second
    or more for each slice at each reading; wants data.workers=0)."""
    acquisition: str = ""
    """Only volumes of this kind (CORPD_FBK, AXT2, ...); empty: all."""
    measured: bool = False
    """Give k-space as its coils measured it, in place of the combined image, of which one coil would be simulated. The
    readout is cut to the image, lines are not; set data.acquisition.maps too (espirit targets come with maps)."""
    columns: int = 0
    """Of measured k-space: fill its lines up to so many, which count as not acquired, so that volumes of several sizes
    stack and one program serves them; 0: as they are."""
    keep_maps: str = ""
    """Folder in which the maps of ``espirit`` targets are kept, found again by the content of the scan: as large as the
    scans, and they are estimated once only; empty: estimated at each reading."""

    def __post_init__(self) -> None:
        if self.columns < 0 or (self.columns and not self.measured):
            raise ValueError(
                f"data.fastmri.columns is {self.columns}; wanted 0, or a number of lines with measured set"
            )

    def open(self) -> "FastMRISource":
        """Open the slices of the split."""
        return FastMRISource(self)

    @property
    def contrast(self) -> str:
        """The one contrast of all files; empty where there may be several."""
        return self.acquisition

    @property
    def names_are_private(self) -> bool:
        """Files may be named after people."""
        return True


class FastMRISource:
    """The fully sampled slices of one split, by file and slice.

    Unless ``measured`` is set, multi-coil data is combined to one image, of which a scan with one coil is simulated:
    its scores are not those of the multi-coil challenge. A patient is in one split only; the split of a folder of files
    depends on which patients are there. ``subject`` is a hash: what ``patient_id`` says goes no further; nor does a
    file's name, unless it is one of the official ones.

    Raises:
        ValueError: the folder is missing or empty, or no patient of the split is there; a file is broken, undersampled,
            or without a patient's number.

    Source: fastMRI (Zbontar et al. 2018). Departures: the complex image is the target, not ``reconstruction_esc`` or
    ``reconstruction_rss``, in units of its volume's maximum, which is measured: a file's attribute ``max`` may be of
    another image, or from before it was scaled;
    the official test part has no truth and is not read.
    """

    def __init__(self, config: FastMRIConfig) -> None:
        self._config = config
        root = data_folder(config.root, FOLDER, "data.fastmri.root", "the .h5 files")
        volumes = _list_volumes(root, config)
        wanted = [volume for volume in volumes if config.split in ("all", *volume.splits)]
        if not wanted:
            raise ValueError(
                f"no volume of split {config.split!r} in {root} ({len(volumes)} volumes of "
                f"{len({volume.subject for volume in volumes})} patients); add volumes, or choose another split"
            )
        self._volumes: dict[Path, tuple[float, Bool[np.ndarray, " w"]]] = {}  # peak and acquired lines of known volumes
        self._records = [(volume, index) for volume in wanted for index in range(volume.slices)]
        self.subjects = frozenset(volume.subject for volume in wanted)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        volume, slice_index = self._records[index]
        with KSpaceFile(volume.path, known=True) as file:  # from when the folder was listed
            if volume.path not in self._volumes:
                found = find_measured(file.__getitem__, len(file))
                check_full(volume.path, found)
                peak = max(abs(self._image(file, index)).max() for index in range(len(file))) or 1
                self._volumes[volume.path] = peak, file.acquired & found.any(axis=0)
            peak, acquired = self._volumes[volume.path]
            name = f"{_code(volume.path.stem)}_{slice_index:03d}"
            if self._config.measured:
                return validate_example(self._measured(file, slice_index, peak, acquired, name, volume.subject))
            target = self._image(file, slice_index)
        # the volume's maximum becomes 1, the peak that training's PSNR and the profile ``picture`` take
        target = np.ascontiguousarray(target / peak, np.complex64)
        return validate_example(Example(name, volume.subject, np.zeros(target.shape, np.float32), target))

    def _measured(
        self, file: KSpaceFile, index: int, peak: float, acquired: Bool[np.ndarray, " w"], name: str, subject: str
    ) -> Example:
        """Return a slice as its coils measured it, in units of its volume's peak; the readout cut to the image."""
        kspace = file[index] if file.coils else file[index][None]
        images = _cut_readout(kspace, file.image_shape[0]) / np.float32(peak)  # [c h w]
        kspace, acquired = fft2c_numpy(images), acquired[None]  # [c h w], [1 w]
        if columns := self._config.columns:
            if columns < kspace.shape[-1]:
                raise ValueError(
                    f"{file.path} has {kspace.shape[-1]} lines, and data.fastmri.columns is {columns}; wanted as "
                    "many as the widest volume has, or more"
                )
            before = columns // 2 - kspace.shape[-1] // 2
            around = (before, columns - kspace.shape[-1] - before)
            gain = np.float32(np.sqrt(columns / kspace.shape[-1]))  # the transform is orthonormal: keep the values
            kspace = gain * np.pad(kspace, ((0, 0), (0, 0), around))
            acquired, images = np.pad(acquired, ((0, 0), around)), ifft2c_numpy(kspace)
        maps = _espirit(images, self._config.keep_maps) if self._config.combine == "espirit" else None
        target = np.linalg.norm(images, axis=0) if maps is None else np.sum(maps.conj() * images, axis=0)
        ct = np.zeros(target.shape, np.float32)
        return Example(
            name, subject, ct, target.astype(np.complex64), maps, kspace, None if acquired.all() else acquired
        )

    def _image(self, file: KSpaceFile, index: int) -> Complex[np.ndarray, "h w"]:
        """Return the image that is the truth; of measured k-space, for its peak, by the root of the sum of squares."""
        if self._config.measured:
            images = _cut_readout(file[index], file.image_shape[0])
            return np.linalg.norm(images, axis=0) if file.coils else images
        images = ifft2c_numpy(file[index])
        return centre_crop(_combine(images, self._config) if file.coils else images, file.image_shape)


def _cut_readout(kspace: Complex64[np.ndarray, "*c h w"], rows: int) -> Complex64[np.ndarray, "*c y w"]:
    """Return the images of k-space with the rows that the readout's oversampling added cut off."""
    return np.ascontiguousarray(centre_crop(ifft2c_numpy(kspace), (rows, kspace.shape[-1])))


@dataclass(frozen=True)
class _Volume:
    """Facts about a file that are known before its slices are read."""

    path: Path
    subject: str
    slices: int
    splits: tuple[str, ...] = ()


def _code(name: str) -> str:
    """Return the name of a file for records, pictures and tables: of one that may name a person, a hash."""
    return name if _PUBLIC.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:12]


def _combine(images: Complex64[np.ndarray, "c h w"], config: FastMRIConfig) -> Complex[np.ndarray, "h w"]:
    if config.combine == "rss":
        return np.sqrt(np.sum(np.abs(images) ** 2, axis=0)).astype(np.complex64)
    return np.sum(_espirit(images, config.keep_maps).conj() * images, axis=0)


def _espirit(images: Complex64[np.ndarray, "c h w"], folder: str) -> Complex64[np.ndarray, "c h w"]:
    kspace = fft2c_numpy(images)
    return kept_espirit_maps(kspace, folder) if folder else espirit_maps_numpy(kspace)


def _list_volumes(root: Path, config: FastMRIConfig) -> list[_Volume]:
    """Return the files under root, each with its splits."""
    parts = {part: sorted(root.glob(f"*{config.coils}_{part}/*.h5")) for part in ("train", "val")}
    if any(parts.values()):
        train = _open_volumes(parts["train"], config, ("inner_train", "inner_valid", *["inner_train"] * 3))
        valid = _open_volumes(parts["val"], config, ("valid", "test"))
        if both := {volume.subject for volume in train} & {volume.subject for volume in valid}:
            name = next(volume.path for volume in train if volume.subject in both)
            raise ValueError(f"the patient of {name} is in train and in val; remove one of the two files")
        return train + valid
    files = sorted(root.glob("*.h5"))
    if not files:
        raise ValueError(f"{root} holds neither *{config.coils}_train/ and *_val/ with .h5 files nor .h5 files itself")
    return _open_volumes(files, config, ("inner_train", "valid", "test", "inner_valid", *["inner_train"] * 6))


def _open_volumes(files: list[Path], config: FastMRIConfig, turns: tuple[str, ...]) -> list[_Volume]:
    """Read what the files say of themselves; patients in the order of their hashes take the splits in turn."""
    volumes = []
    for path in files:
        with KSpaceFile(path) as file:
            if config.acquisition and file.attributes.get("acquisition") != config.acquisition:
                continue
            if file.mask is not None:
                raise ValueError(f"{path} has a mask: it is undersampled and has no truth; remove it from this folder")
            patient = str(file.attributes.get("patient_id") or "")
            if not patient:
                raise ValueError(
                    f"{path} has no attribute patient_id: files of one patient could come into two splits; add it, "
                    "a code will do"
                )
            volumes.append(_Volume(path, hashlib.sha256(patient.encode()).hexdigest()[:12], len(file)))
    turn = {subject: turns[place % len(turns)] for place, subject in enumerate(sorted({v.subject for v in volumes}))}
    return [
        _Volume(
            v.path,
            v.subject,
            v.slices,
            (split, "train") if (split := turn[v.subject]).startswith("inner") else (split,),
        )
        for v in volumes
    ]


class _Header(NamedTuple):
    """The fields that are read from an ISMRMRD header."""

    image: tuple[int, int]  # size of the reconstruction
    lines: tuple[int, int]  # the first line and the end of what was measured
    spacing: tuple[float, float, float] | None  # mm between rows, columns and slices


def _read_header(text: bytes | str, shape: tuple[int, int], path: Path) -> _Header:
    """Return size and voxels of the image, and which lines were measured."""

    def told(*names: str) -> str | None:
        return root.findtext("/".join(f"{_ISMRMRD}{name}" for name in ("encoding", *names)))

    def number(*names: str) -> int:
        found = told(*names)
        if found is None:
            raise ValueError(f"it has no {'/'.join(names)}")
        return int(found)

    def side(axis: str) -> float:
        field = float(told("reconSpace", "fieldOfView_mm", axis) or 0)
        return field / int(told("reconSpace", "matrixSize", axis) or 1)

    try:
        if "<!DOCTYPE" in (text.decode(errors="replace") if isinstance(text, bytes) else text):
            raise ValueError("it defines entities of its own")  # which may grow without bounds
        root = ElementTree.fromstring(text)
        image = (number("reconSpace", "matrixSize", "x"), number("reconSpace", "matrixSize", "y"))
        limits = ("encodingLimits", "kspace_encoding_step_1")
        left = number("encodedSpace", "matrixSize", "y") // 2 - number(*limits, "center")
        right = left + number(*limits, "maximum") + 1
        spacing = (side("x"), side("y"), side("z"))
    except (ElementTree.ParseError, ArithmeticError, ValueError) as error:
        raise FileError(f"{path}:", f"ismrmrd_header cannot be read ({error})", "wanted ISMRMRD XML") from error
    if min(image) < 1 or not left < right or not left < shape[1] or right < 1:
        raise FileError(
            f"{path}:",
            f"ismrmrd_header tells an image of {image} and lines {left} to {right} of {shape[1]}",
            "export it again",
        )
    return _Header(
        image=(min(image[0], shape[0]), min(image[1], shape[1])),
        lines=(max(left, 0), min(right, shape[1])),
        spacing=spacing if all(0 < length < np.inf for length in spacing) else None,
    )


def _header(
    encoded: tuple[int, int],
    image: tuple[int, int],
    centre: int,
    last: int,
    spacing: tuple[float, float, float] | None,
) -> str:
    """Write the part of an ISMRMRD header that ``_read_header`` reads."""

    def size(name: str, shape: tuple[int, int], field: str = "") -> str:
        return f"<{name}><matrixSize><x>{shape[0]}</x><y>{shape[1]}</y><z>1</z></matrixSize>{field}</{name}>"

    field = ""
    if spacing is not None:
        x, y, z = image[0] * spacing[0], image[1] * spacing[1], spacing[2]
        field = f"<fieldOfView_mm><x>{x}</x><y>{y}</y><z>{z}</z></fieldOfView_mm>"
    limits = f"<minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<ismrmrdHeader xmlns="{_ISMRMRD[1:-1]}"><encoding>'
        f"{size('encodedSpace', encoded)}{size('reconSpace', image, field)}<trajectory>cartesian</trajectory>"
        f"<encodingLimits><kspace_encoding_step_1>{limits}</kspace_encoding_step_1></encodingLimits>"
        "</encoding></ismrmrdHeader>"
    )


def _reserve(path: Path, size: int) -> None:
    """Find out that the disk is full before HDF5 does: a file that it cannot finish crashes Python at its end.

    Seen with h5py 3.16 in 2026: a segmentation fault at exit, after the OSError.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + _OVERHEAD)


def _plain(value: Any) -> Any:
    """Turn an HDF5 attribute to a Python value."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value
