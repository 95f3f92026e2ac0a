"""Open files for reconstruction: raw k-space, or a fully sampled MR volume that is undersampled retrospectively.

A ``Scan`` has a mask, returns its slices as ``Record``s, and writes images. Images of a volume are written as NIfTI in
its own grid and orientation. k-space has no position in the patient: its images are written as a fastMRI file, or as
NIfTI with the voxel size of its header.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from beartype import beartype
from jaxtyping import Complex, Complex64, Float32

from atlf_jax.data.arrays import npy_bytes, write_cfl
from atlf_jax.data.coils import espirit_maps_numpy
from atlf_jax.data.ct import AIR, clean_ct
from atlf_jax.data.derived import write_derived_series
from atlf_jax.data.dicom import ScannedVolume, is_multiframe, is_same_person, read_scan
from atlf_jax.data.fastmri import KSpaceFile, centre_crop, check_complex, check_order, write_reconstruction
from atlf_jax.data.files import fingerprint, write_file
from atlf_jax.data.inputs import FileError, check_memory, load_npy, read_start
from atlf_jax.data.kspace import CONVERTERS, ENDINGS, format_of, read_kspace
from atlf_jax.data.lines import Choice
from atlf_jax.data.measured import describe_empty, find_measured, is_box
from atlf_jax.data.transforms import CTWindows, ct_shape, fft2c_numpy, window_ct
from atlf_jax.data.volume import ITK, Volume, from_slices, orientation, resample, to_slices, unplaced, write_nifti
from atlf_jax.masks import Mask, MaskConfig, make_mask, seed_from_name, stored_mask
from atlf_jax.reconstruct.judgement import looks_like_coils
from atlf_jax.reconstruct.slices import SMALLEST_CENTRE, Record, calibration_sides

__all__ = ["CTConfig", "KSpaceConfig", "SamplingConfig", "Scan", "is_volume", "load_array", "open_scan"]

NIFTI, HDF5 = (".nii", ".nii.gz"), (".h5", ".hdf5")


@beartype
@dataclass(frozen=True)
class CTConfig:
    """The CT that the reconstruction uses."""

    path: str = ""
    """NIfTI file or DICOM folder, in Hounsfield units; for k-space without a place in the patient also .npy, on its
    grid. Empty: no CT (zeros)."""
    window: CTWindows | Literal["none"] = "soft_tissue"
    """Window or windows that map Hounsfield units to [0, 1]. Use those of the network's training, which are the default
    if the checkpoint stores them. none: the CT is already scaled to [0, 1]."""
    register: Literal["none", "rigid", "affine", "bspline"] = "none"
    """How the CT is registered to the MR; none relies on the headers. Needs SimpleITK."""
    keep_flagged: bool = False
    """Continue although the registration is poor."""
    clean: bool = True
    """Replace table, head holder and everything else outside the body by air."""

    @property
    def windows(self) -> int:
        """Return the number of windows."""
        return len(self.window) if isinstance(self.window, tuple) else 1


@beartype
@dataclass(frozen=True)
class SamplingConfig:
    """Which samples are known: those in the scan's own mask and in a mask file, if both are given. Without either, a
    mask is drawn. Empty lines of k-space count as not acquired, whatever a mask says.
    """

    file: str = ""
    """.npy with the acquired lines or samples, [w], [1, w] or [h, w] of zeros and ones."""
    layout: Literal["centered", "corner"] = "centered"
    """Where the zero frequency lies in that file: at index n // 2, or at 0."""
    retrospective: bool = False
    """The k-space is fully sampled: undersample it with a mask that is drawn, --masks."""
    seed: int | None = None
    """Seed of a drawn mask; None: derived from the name of the input, as in evaluation."""


@beartype
@dataclass(frozen=True)
class KSpaceConfig:
    """How raw k-space is read."""

    first_axis: Literal["auto", "slices", "coils"] = "auto"
    """Meaning of the first of three axes of an array; with coil maps it is coils. auto: slices, but data that look like
    coils are refused."""
    axes: str = ""
    """All axes of an array in their order: s slices, c coils, h readout (rows), w lines (columns); such as hwc for
    (y, x, coil) of MATLAB. Empty: [*slices, *c, h, w]."""
    name: str = ""
    """Name of the array in a file of several (.npz, .mat, HDF5)."""
    repetition: int | None = None
    """Which repetition of a file of acquisitions (ISMRMRD, twix, BART)."""
    contrast: int | None = None
    """Which contrast or echo of it."""
    phase: int | None = None
    """Which cardiac phase of it."""
    set: int | None = None
    """Which set of it."""
    coil_maps: str = ""
    """.npy, [c, h, w] or [slices, c, h, w]; empty: maps are estimated where there are coils."""


@runtime_checkable
class Scan(Protocol):
    """An opened input: what the reconstruction reads from it, and how images are written."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        ...

    @property
    def coils(self) -> int:
        """0 without a coil axis."""
        ...

    @property
    def mask(self) -> Mask:
        """Samples that were acquired."""
        ...

    @property
    def has_ct(self) -> bool:
        """Whether there is a CT."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the record, without names of files or people."""
        ...

    @property
    def contrast(self) -> str:
        """The contrast in the file's header; empty if it has none."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the input."""
        ...

    @property
    def noise_covariance(self) -> Complex[np.ndarray, "c c"] | None:
        """Noise covariance of a sample, if the file has a noise scan."""
        ...

    @property
    def maps_from(self) -> str:
        """Origin of the coil maps that come with the scan; empty if there are none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def truth(self, index: int) -> Float32[np.ndarray, "h w"] | None:
        """Return the fully sampled image, if it is known."""

    def finish(self, image: Complex64[np.ndarray, "h w"]) -> Float32[np.ndarray, "y x"]:
        """Return the values of an image that are written: a magnitude or real part, cropped."""

    def finish_complex(self, image: Complex64[np.ndarray, "h w"]) -> Complex64[np.ndarray, "y x"]:
        """Return the complex values of an image that are written, cropped."""

    def write(self, path: Path, images: Iterable[np.ndarray], *, note: str = "") -> None:
        """Write finished images, completely or not at all. ``note`` goes into the header of a DICOM series."""


@beartype
def is_volume(path: Path) -> bool:
    """Return whether a path is an MR volume, and not k-space."""
    return path.is_dir() or path.name.lower().endswith((*NIFTI, *ITK)) or is_multiframe(path)


@beartype
def open_scan(
    path: str | Path,
    *,
    mask: MaskConfig,
    sampling: SamplingConfig = SamplingConfig(),
    kspace: KSpaceConfig = KSpaceConfig(),
    ct: CTConfig = CTConfig(),
    series: str = "",
    volume: int | None = None,
) -> Scan:
    """Open a volume (NIfTI, DICOM, and what SimpleITK reads), or k-space (see ``data.kspace.FORMATS``).

    Args:
        path: of the input; its ending tells the format.
        mask: drawn if neither the scan nor ``sampling.file`` has a mask.
        sampling: where the mask comes from.
        kspace: how raw k-space is read.
        ct: the CT, and how it is registered to the MR.
        series: number or UID of one series, for a DICOM folder with several.
        volume: index of one volume, for a time series.

    Raises:
        ValueError: the input cannot be read; the message says in one line what is wrong and what to do.
        ImportError: SimpleITK is needed and not installed.
    """
    path = Path(path)
    if is_volume(path):
        return _open_volume(path, mask, sampling, ct, series, volume)
    if path.is_file() and (path.suffix.lower() in (".dcm", ".ima") or read_start(path, 132)[128:] == b"DICM"):
        raise FileError(path, "is one slice of a DICOM series", f"give the folder that holds it: {path.parent}")
    if path.suffix.lower() not in (*ENDINGS, *CONVERTERS):
        raise FileError(
            path,
            f"is no folder and ends in none of {', '.join((*NIFTI, *ENDINGS))}",
            "wanted an MR volume, or k-space",
        )
    if format_of(path, kspace.name) == "fastmri":
        return _open_fastmri(path, mask, sampling, ct)
    return _open_kspace(path, mask, sampling, kspace, ct)


@dataclass(frozen=True)
class _VolumeScan:
    """A fully sampled MR volume; its k-space is simulated slice by slice."""

    volume: Volume
    mask: Mask
    slices: Float32[np.ndarray, "s h w"]
    ct: Float32[np.ndarray, "s *k h w"] | None
    facts: dict[str, Any]
    source: Path
    origin: ScannedVolume
    windows: int = 1
    coils: int = 0
    contrast: str = ""
    warnings: tuple[str, ...] = ()
    noise_covariance: None = None
    maps_from: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        return self.slices.shape[1:]

    @property
    def has_ct(self) -> bool:
        return self.ct is not None

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Record:
        samples = fft2c_numpy(self.slices[index].astype(np.complex64))
        ct = np.zeros(ct_shape(self.windows, self.shape), np.float32) if self.ct is None else self.ct[index]
        return Record(np.where(self.mask.samples, samples, 0), self.mask.samples, ct)

    def truth(self, index: int) -> Float32[np.ndarray, "h w"]:
        return self.slices[index]

    def finish(self, image: Complex64[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """Return the magnitude, or the real part if the volume has negative voxels and is thus real and signed."""
        return image.real if self.facts["values"] == "real part" else np.abs(image)

    def finish_complex(self, image: Complex64[np.ndarray, "h w"]) -> Complex64[np.ndarray, "h w"]:
        return image

    def write(self, path: Path, images: Iterable[np.ndarray], *, note: str = "") -> None:
        volume = from_slices(np.stack(list(images)), like=self.volume)
        if path.suffix:
            write_nifti(path, volume)
        else:
            write_derived_series(path, volume.data, source=self.source, scan=self.origin, note=note)


@dataclass(frozen=True)
class _KSpaceScan:
    """Measured k-space, read slice by slice."""

    read: Callable[[int], np.ndarray]
    slices: int
    shape: tuple[int, int]
    coils: int
    mask: Mask
    ct: Any
    facts: dict[str, Any]
    image_shape: tuple[int, int]
    where: str
    windows: int = 1
    spacing: tuple[float, float, float] | None = None
    coil_maps: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    noise_covariance: Any = None
    maps_from: str = ""

    @property
    def contrast(self) -> str:
        return str(self.attributes.get("acquisition", ""))

    @property
    def has_ct(self) -> bool:
        return self.ct is not None

    def __len__(self) -> int:
        return self.slices

    def __getitem__(self, index: int) -> Record:
        samples = np.asarray(self.read(index), np.complex64)
        if not np.isfinite(samples).all():
            raise ValueError(
                f"{self.where}: k-space of slice {index} holds values that are not finite; zero them first"
            )
        maps = self.coil_maps
        if maps is not None:
            maps = np.asarray(maps[index] if maps.ndim == 4 else maps, np.complex64)
        ct = np.zeros(ct_shape(self.windows, self.shape), np.float32) if self.ct is None else self.ct[index]
        return Record(samples, self.mask.samples, ct, maps)

    def truth(self, index: int) -> None:
        return None

    def finish(self, image: Complex64[np.ndarray, "h w"]) -> Float32[np.ndarray, "y x"]:
        """Return the magnitude, cropped to the image size in the header."""
        return centre_crop(np.abs(image), self.image_shape)

    def finish_complex(self, image: Complex64[np.ndarray, "h w"]) -> Complex64[np.ndarray, "y x"]:
        return centre_crop(image, self.image_shape)

    def write(self, path: Path, images: Iterable[np.ndarray], *, note: str = "") -> None:
        if path.name.endswith(NIFTI):
            write_nifti(path, unplaced(np.stack(list(images)), self.spacing))
        elif path.suffix == ".npy":
            write_file(path, npy_bytes(np.stack(list(images))))
        elif path.suffix == ".cfl":  # rows, columns, ten axes of length 1 and slices, as BART has them
            stack = np.stack(list(images), axis=-1)
            write_cfl(path, stack.reshape(*stack.shape[:2], *[1] * 11, stack.shape[2]))
        else:
            write_reconstruction(path, images, slices=self.slices, attributes=self.attributes)


def _open_volume(
    path: Path, mask: MaskConfig, sampling: SamplingConfig, ct: CTConfig, series: str, which: int | None
) -> _VolumeScan:
    found = read_scan(path, "MR", series=series, volume=which)
    volume = found.volume
    slices = to_slices(volume)
    if not slices.any():
        raise ValueError(f"{path} is zero everywhere, and so is its k-space; there is nothing to reconstruct")
    name = path.resolve().name if path.is_dir() else path.name  # of the folder "." too
    drawn, mask_facts = _mask(slices.shape[1:], mask, sampling, Path(name))
    facts = {
        "input": {
            "kind": "fully sampled volume, k-space simulated with one coil",
            "shape": list(volume.data.shape),
            "spacing_mm": volume.spacing.round(4).tolist(),
            "orientation": orientation(volume),
            "sha256": fingerprint(path),
        },
        "place": "that of the input",
        "values": "real part" if volume.data.min() < 0 else "magnitude",
        "mask": mask_facts,
    }
    stack = None
    if ct.path:
        other = read_scan(ct.path, "CT")
        if not is_same_person(other, found):
            raise ValueError(f"{ct.path} and {path} have different patient numbers in their headers; give scans of one")
        stack, facts["ct"] = _ct_on_volume(other.volume, volume, ct)
    return _VolumeScan(volume, drawn, slices, stack, facts, path, found, ct.windows)


def _open_fastmri(path: Path, mask: MaskConfig, sampling: SamplingConfig, ct: CTConfig) -> _KSpaceScan:
    file = KSpaceFile(path)  # stays open as long as its slices are read
    found = find_measured(file.__getitem__, len(file)) & file.acquired
    drawn, mask_facts, warnings = _sampled(path, file.shape, file.mask, found, mask, sampling, full=file.acquired)
    facts = {
        "input": {"kind": "fastMRI file", "shape": [len(file), *([file.coils] if file.coils else []), *file.shape]}
        | {"sha256": fingerprint(path)},
        "place": _place(file.spacing),
        "values": "magnitude",
        "mask": mask_facts,
    }
    stack = _ct_as_it_is(ct, (len(file), *file.shape), facts)
    kept = {name: file.attributes[name] for name in ("acquisition",) if name in file.attributes}
    return _KSpaceScan(
        read=file.__getitem__,
        slices=len(file),
        shape=file.shape,
        coils=file.coils,
        mask=drawn,
        ct=stack,
        facts=facts,
        image_shape=file.image_shape,
        spacing=file.spacing,
        where=str(path),
        windows=ct.windows,
        attributes=kept,
        warnings=warnings,
    )


def _open_kspace(
    path: Path, mask: MaskConfig, sampling: SamplingConfig, config: KSpaceConfig, ct: CTConfig
) -> _KSpaceScan:
    """Open a file of acquisitions, whose header says what was measured, or an array without a header."""
    choice = Choice(config.repetition, config.contrast, config.phase, config.set)
    raw = read_kspace(path, axes=config.axes, name=config.name, choice=choice)
    if raw.mask is None:
        check_order(raw.samples.shape, str(path), named=True)
    maps = load_array(Path(config.coil_maps)) if config.coil_maps else None
    axes_known = raw.mask is not None or bool(config.axes)  # which axes are of slices and coils
    samples, has_coils = _with_slice_axis(raw.samples, path, config, axes_known=axes_known, maps_given=maps is not None)
    shape = samples.shape[-2:]
    check_memory(path, 32 * int(np.prod(samples.shape[1:], dtype=object)), f"slices {samples.shape[1:]}")
    found = find_measured(samples.__getitem__, len(samples))
    _check_sampling_is_known(path, raw.mask is not None, found, sampling)
    own_mask = None if sampling.retrospective else raw.mask
    drawn, mask_facts, warnings = _sampled(path, shape, own_mask, found, mask, sampling, full=np.ones(shape[1], bool))
    warnings += _axis_warnings(path, samples, drawn, config, axes_known=axes_known)
    maps_from = ""
    if maps is not None:
        _check_maps(maps, samples.shape, config.coil_maps)
        maps_from = "given"
    elif raw.calibration is not None:
        maps, maps_from = _maps_of_reference(raw.calibration, path), "ESPIRiT of the file's reference scan"
    facts = {
        "input": {"kind": raw.kind, "shape": list(samples.shape), "sha256": fingerprint(_data_file(path))}
        | ({"notes": list(raw.notes)} if raw.notes else {}),
        "place": _place(raw.spacing),
        "values": "magnitude",
        "mask": mask_facts,
    }
    stack = _ct_as_it_is(ct, (len(samples), *shape), facts)
    return _KSpaceScan(
        read=samples.__getitem__,
        slices=len(samples),
        shape=shape,
        coils=samples.shape[1] if has_coils else 0,
        mask=drawn,
        ct=stack,
        facts=facts,
        image_shape=shape if raw.mask is None else raw.image_shape,
        spacing=raw.spacing,
        where=str(path),
        windows=ct.windows,
        coil_maps=maps,
        warnings=warnings,
        noise_covariance=raw.noise_covariance,
        maps_from=maps_from,
    )


def _with_slice_axis(
    samples: Any, path: Path, config: KSpaceConfig, *, axes_known: bool, maps_given: bool
) -> tuple[Any, bool]:
    """Return k-space as ``[slices, *c, h, w]``, and whether it has a coil axis."""
    if axes_known:
        has_coils = samples.ndim == 4 or (samples.ndim == 3 and "s" not in config.axes and bool(config.axes))
    else:
        has_coils = samples.ndim == 4 or (samples.ndim == 3 and (config.first_axis == "coils" or maps_given))
    samples = samples[None] if samples.ndim == (3 if has_coils else 2) else samples
    if samples.ndim != (4 if has_coils else 3) or 0 in samples.shape:
        raise ValueError(
            f"{path}: k-space has shape {samples.shape}; wanted [h, w], [slices, h, w] or [slices, c, h, w], or "
            "[c, h, w] with --kspace.first_axis coils; other orders with --kspace.axes"
        )
    return samples, has_coils


def _check_sampling_is_known(path: Path, has_mask: bool, found: np.ndarray, sampling: SamplingConfig) -> None:
    """Refuse k-space of which nothing says what was acquired, or that is wrongly said to be fully sampled.

    Args:
        path: of the input.
        has_mask: the file itself says what was acquired.
        found: the samples that are not empty.
        sampling: may name a mask's file, or ask for undersampling.
    """
    if not has_mask and not (sampling.file or sampling.retrospective):
        empty = "" if found.all() else f" ({describe_empty(found)})"
        raise FileError(
            path,
            f"does not say which samples were acquired{empty}",
            "give them with --sampling.file MASK.npy, or undersample fully sampled k-space with "
            "--sampling.retrospective and --masks",
        )
    if (not has_mask or sampling.retrospective) and not sampling.file and not is_box(found):
        raise FileError(
            path,
            f"is not fully sampled: {describe_empty(found)}",
            "give its mask with --sampling.file in place of --sampling.retrospective",
        )


def _axis_warnings(path: Path, samples: Any, mask: Mask, config: KSpaceConfig, *, axes_known: bool) -> tuple[str, ...]:
    """Return warnings about axes that may be of coils or of slices; refuse what looks like coils and is not said to be.

    Args:
        path: of the input.
        samples: k-space, ``[slices, *c, h, w]``.
        mask: samples that were acquired.
        config: may name the axes.
        axes_known: the file or ``config`` says which axes are of slices and coils.
    """
    warnings: tuple[str, ...] = ()
    if not axes_known and config.first_axis == "auto" and samples.ndim == 3 and len(samples) > 1:
        guess = _looks_like_coils(samples, mask)
        remedy = "give --kspace.first_axis coils if it is of coils, or --kspace.first_axis slices"
        if guess:
            raise FileError(path, f"has shape {samples.shape} and looks like {len(samples)} coils of one slice", remedy)
        if guess is None:
            warnings += (f"k-space of shape {samples.shape} was taken as {len(samples)} slices; {remedy}",)
    if "c" in config.axes and _looks_like_coils(samples[len(samples) // 2], mask) is False:
        warnings += (f"the axis of {samples.shape[1]} that --kspace.axes {config.axes} calls coils looks like slices",)
    return warnings


def _check_maps(maps: np.ndarray, shape: tuple[int, ...], file: str) -> None:
    """Refuse coil maps that do not fit k-space of this shape, ``[slices, c, h, w]``."""
    check_complex(maps.dtype, maps.shape, file)
    if maps.shape not in (shape, shape[1:]):
        raise ValueError(f"{file} has shape {maps.shape}; wanted {shape[1:]} or {shape}")


def _looks_like_coils(stack: np.ndarray, mask: Mask) -> bool | None:
    few = np.stack([stack[index] for index in range(min(len(stack), 8))]).astype(np.complex64)
    return looks_like_coils(np.where(mask.samples, few, 0), mask.samples)


def _data_file(path: Path) -> Path:
    return path.with_suffix(".cfl") if path.suffix == ".hdr" else path


def _maps_of_reference(calibration: Complex64[np.ndarray, "s c h w"], path: Path) -> Complex64[np.ndarray, "s c h w"]:
    """Estimate coil maps from a separate reference scan."""
    known = find_measured(calibration.__getitem__, len(calibration))
    sides = calibration_sides(known, calibration.shape[-2:])
    if min(sides) < SMALLEST_CENTRE:
        raise FileError(path, "has a reference scan without a fully sampled centre", "give maps by --kspace.coil_maps")
    return np.stack([espirit_maps_numpy(each, sides) for each in calibration])


def _sampled(
    path: Path,
    shape: tuple[int, int],
    own: np.ndarray | None,
    found: np.ndarray,
    config: MaskConfig,
    sampling: SamplingConfig,
    *,
    full: np.ndarray,
) -> tuple[Mask, dict[str, Any], tuple[str, ...]]:
    """Return the mask of measured k-space, facts about its origin, and warnings.

    Args:
        path: of the input.
        shape: of k-space, (h, w).
        own: the mask that comes with the scan, ``[w]``, or None.
        found: the samples that are not empty, ``[1, w]`` or ``[h, w]``.
        config: of the mask that is drawn if there is none.
        sampling: may name a mask file.
        full: ``[w]``, the lines of a scan without undersampling.

    Raises:
        ValueError: the mask's file and the scan have no sample in common, or not the middle of k-space.
    """
    warnings = []
    if own is None and not sampling.file and not is_box(found):
        own = found  # a drawn mask would count zeros as samples
        warnings.append(
            f"{describe_empty(found)}: it was undersampled, the other samples are its mask, and none is drawn"
        )
    if own is None:
        drawn, mask_facts = _mask(shape, config, sampling, path)
        claimed = drawn.samples & full
    elif sampling.file:
        given, _ = _mask(shape, config, sampling, path)
        drawn, mask_facts = given, {"kind": "of the scan and of a file"}
        claimed = given.samples & own
        if (given.samples & ~own & full).any():
            warnings.append("the mask's file names samples that the scan's own mask lacks: they were never acquired")
    else:
        drawn, mask_facts = stored_mask(own, layout="centered"), {"kind": "of the scan"}
        claimed = drawn.samples
        if warnings:
            mask_facts = {"kind": "of the empty samples of k-space"}
    joined = claimed & found
    if (claimed & ~found).any():
        warnings.append(f"{describe_empty(found)}: they do not count as acquired, whatever the mask says")
    if not joined.any():
        raise FileError(path, "has no sample that its mask and its k-space share", "give the mask of this scan")
    if joined.shape != drawn.samples.shape or (joined != drawn.samples).any():
        try:
            inside = stored_mask(joined, layout="centered")
        except ValueError as error:
            raise FileError(f"{path}:", str(error), "give the mask of this scan") from error
        drawn = inside._replace(nominal=drawn.nominal) if own is None and not sampling.file else inside
    return drawn, mask_facts, tuple(warnings)


def _mask(
    shape: tuple[int, int], config: MaskConfig, sampling: SamplingConfig, path: Path
) -> tuple[Mask, dict[str, Any]]:
    """Read the mask file or draw a mask; return it with facts about its origin."""
    h, w = shape
    if not sampling.file:
        seed = seed_from_name(path.name) if sampling.seed is None else sampling.seed
        return make_mask(config, (h, w), seed=seed), {
            "kind": config.kind,
            "seed": "name of the input" if sampling.seed is None else seed,
        }
    array = load_array(Path(sampling.file))
    if array.shape not in ((w,), (1, w), (h, w)):
        raise FileError(
            sampling.file,
            f"has shape {array.shape} and k-space {h} rows and {w} columns",
            f"wanted a mask [{w}], [1, {w}] or [{h}, {w}]",
        )
    try:
        return stored_mask(array, layout=sampling.layout), {"kind": "of a file"}
    except ValueError as error:
        raise FileError(f"{sampling.file}:", str(error), "give the mask of this scan") from error


def _ct_on_volume(ct: Volume, mr: Volume, config: CTConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """Resample or register a CT to the MR's slices and window it; return it with facts about the steps."""
    facts: dict[str, Any] = {"window": config.window, "registration": config.register, "cleaned": config.clean}
    scaled = config.window == "none"
    if config.clean and not scaled:
        ct = clean_ct(ct)
    outside, extent = (0.0 if scaled else AIR), Volume(np.ones_like(ct.data), ct.affine, ct.codes)
    if config.register == "none":
        moved, inside = resample(ct, mr, outside=outside), resample(extent, mr, order=0)
    else:
        from atlf_jax.data.registration import RegistrationConfig, apply, register

        found = register(ct, mr, RegistrationConfig(kind=config.register))
        if not (found.good or config.keep_flagged):
            quality = ", ".join(f"{name} {value:.2f}" for name, value in sorted(found.quality.items()))
            raise ValueError(
                f"the registration of {config.path} is poor ({quality}); look at the two scans, or go on all the same "
                "with --ct.keep_flagged"
            )
        moved, inside = apply(found, ct, mr, outside=outside), apply(found, extent, mr, order=0, outside=0.0)
        facts["quality"] = {name: round(float(value), 4) for name, value in found.quality.items()}
    facts["covers"] = round(float(inside.data.mean()), 4)
    if not inside.data.any():
        raise ValueError(
            f"{config.path} and the MR do not overlap by their headers; register them with --ct.register rigid, or "
            "check that they are of one person"
        )
    return _windowed(to_slices(moved), config), facts


def _ct_as_it_is(config: CTConfig, wanted: tuple[int, ...], facts: dict[str, Any]) -> np.ndarray | None:
    """Return a windowed CT that is already on the grid of k-space, to which no CT can be registered."""
    if not config.path:
        return None
    if config.register != "none":
        raise ValueError("k-space without a place in the patient cannot be registered to; bring the CT to its grid")
    path = Path(config.path)
    stack = load_array(path) if path.suffix == ".npy" else to_slices(read_scan(path, "CT").volume)
    if np.iscomplexobj(stack):
        raise FileError(path, "holds complex numbers", "wanted a CT in Hounsfield units")
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.shape != wanted:
        raise ValueError(
            f"{path} has slices {stack.shape}, and k-space {wanted}; resample the CT to the grid of k-space"
        )
    if not np.isfinite(stack).all():
        raise ValueError(f"{path} holds values that are not finite; replace them (-1000 in a CT)")
    facts["ct"] = {"window": config.window, "registration": "none", "covers": 1.0}
    return _windowed(stack.astype(np.float32), config)


def _windowed(stack: Float32[np.ndarray, "s h w"], config: CTConfig) -> Float32[np.ndarray, "s *k h w"]:
    if config.window != "none":
        return window_ct(stack, config.window)
    if stack.min() < 0 or stack.max() > 1:
        raise ValueError(
            f"{config.path} spans [{stack.min():g}, {stack.max():g}]; wanted [0, 1], or a window with --ct.window"
        )
    return stack


def _place(spacing: tuple[float, float, float] | None) -> str:
    """Return what is known about the position of k-space in the patient."""
    if spacing is None:
        return "not in the input, nor a field of view: a NIfTI file gets voxels of 1 mm, and no code"
    size = " x ".join(f"{length:.4g}" for length in spacing)
    return f"not in the input; its field of view gives voxels of {size} mm, rows by columns by slice thickness"


def load_array(path: Path) -> Complex[np.ndarray, "..."] | np.ndarray:
    """Open a .npy array without reading it."""
    return load_npy(path)
