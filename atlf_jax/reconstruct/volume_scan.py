"""A fully sampled MR volume, which is undersampled retrospectively; a CT is brought to its grid."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float32

from atlf_jax.data.ct import AIR, clean_ct
from atlf_jax.data.derived import write_derived_series
from atlf_jax.data.dicom import ScannedVolume, is_same_person, read_scan
from atlf_jax.data.files import fingerprint
from atlf_jax.data.transforms import ct_shape, fft2c_numpy
from atlf_jax.data.volume import Volume, from_slices, orientation, resample, to_slices, write_nifti
from atlf_jax.masks import Mask, MaskConfig
from atlf_jax.reconstruct.scan import CTConfig, SamplingConfig, known_mask, windowed
from atlf_jax.reconstruct.slices import Record

__all__ = ["VolumeScan", "open_volume"]


@dataclass(frozen=True)
class VolumeScan:
    """A fully sampled MR volume, whose k-space is simulated slice by slice: a ``Scan``."""

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


def open_volume(
    path: Path, mask: MaskConfig, sampling: SamplingConfig, ct: CTConfig, series: str, which: int | None
) -> VolumeScan:
    """Open a volume, and bring its CT to its grid; the arguments are those of ``scans.open_scan``."""
    found = read_scan(path, "MR", series=series, volume=which)
    volume = found.volume
    slices = to_slices(volume)
    if not slices.any():
        raise ValueError(f"{path} is zero everywhere, and so is its k-space; there is nothing to reconstruct")
    name = path.resolve().name if path.is_dir() else path.name  # of the folder "." too
    drawn, mask_facts = known_mask(slices.shape[1:], mask, sampling, Path(name))
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
    return VolumeScan(volume, drawn, slices, stack, facts, path, found, ct.windows)


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
    return windowed(to_slices(moved), config), facts
