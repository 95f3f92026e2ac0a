"""Raw k-space: its mask, its coils, and a CT that lies on its grid already."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float32

from atlf_jax.data.arrays import npy_bytes, write_cfl
from atlf_jax.data.coils import espirit_maps_numpy
from atlf_jax.data.dicom import read_scan
from atlf_jax.data.fastmri import KSpaceFile, centre_crop, check_complex, check_order, write_reconstruction
from atlf_jax.data.files import fingerprint, write_file
from atlf_jax.data.inputs import FileError, check_memory, load_npy
from atlf_jax.data.kspace import read_kspace
from atlf_jax.data.lines import Choice
from atlf_jax.data.measured import describe_empty, find_measured, is_box
from atlf_jax.data.transforms import ct_shape
from atlf_jax.data.volume import to_slices, unplaced, write_nifti
from atlf_jax.masks import Mask, MaskConfig, stored_mask
from atlf_jax.reconstruct.judgement import looks_like_coils
from atlf_jax.reconstruct.scan import (
    NIFTI,
    CTConfig,
    KSpaceConfig,
    SamplingConfig,
    known_mask,
    windowed,
)
from atlf_jax.reconstruct.slices import SMALLEST_CENTRE, Record, calibration_sides

__all__ = ["KSpaceScan", "open_fastmri", "open_kspace"]


@dataclass(frozen=True)
class KSpaceScan:
    """Measured k-space, read slice by slice: a ``Scan``."""

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
    bart_axes: tuple[int, int] = (0, 1)

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
        elif path.suffix == ".cfl":
            stack = np.expand_dims(np.stack(list(images), axis=-1), tuple(range(2, 13)))  # rows, columns, ..., slices
            write_cfl(path, np.moveaxis(stack, (0, 1), self.bart_axes))
        else:
            write_reconstruction(path, images, slices=self.slices, attributes=self.attributes)


def open_fastmri(path: Path, mask: MaskConfig, sampling: SamplingConfig, ct: CTConfig) -> KSpaceScan:
    """Open a file of the fastMRI layout; its arguments are those of ``scans.open_scan``."""
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
    return KSpaceScan(
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


def open_kspace(
    path: Path, mask: MaskConfig, sampling: SamplingConfig, config: KSpaceConfig, ct: CTConfig
) -> KSpaceScan:
    """Open a file of acquisitions, whose header says what was measured, or an array without a header.

    Its arguments are those of ``scans.open_scan``.
    """
    choice = Choice(config.repetition, config.contrast, config.phase, config.set)
    raw = read_kspace(path, axes=config.axes, name=config.name, choice=choice)
    if raw.mask is None:
        check_order(raw.samples.shape, str(path), named=True)
    maps = load_npy(Path(config.coil_maps)) if config.coil_maps else None
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
    return KSpaceScan(
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
        bart_axes=raw.bart_axes,
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
        drawn, mask_facts = known_mask(shape, config, sampling, path)
        claimed = drawn.samples & full
    elif sampling.file:
        given, _ = known_mask(shape, config, sampling, path)
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


def _ct_as_it_is(config: CTConfig, wanted: tuple[int, ...], facts: dict[str, Any]) -> np.ndarray | None:
    """Return a windowed CT that is already on the grid of k-space, to which no CT can be registered."""
    if not config.path:
        return None
    if config.register != "none":
        raise ValueError("k-space without a place in the patient cannot be registered to; bring the CT to its grid")
    path = Path(config.path)
    stack = load_npy(path) if path.suffix == ".npy" else to_slices(read_scan(path, "CT").volume)
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
    return windowed(stack.astype(np.float32), config)


def _place(spacing: tuple[float, float, float] | None) -> str:
    """Return what is known about the position of k-space in the patient."""
    if spacing is None:
        return "not in the input, nor a field of view: a NIfTI file gets voxels of 1 mm, and no code"
    size = " x ".join(f"{length:.4g}" for length in spacing)
    return f"not in the input; its field of view gives voxels of {size} mm, rows by columns by slice thickness"
