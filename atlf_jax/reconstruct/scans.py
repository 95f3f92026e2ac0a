"""Open files for reconstruction: raw k-space, or a fully sampled MR volume that is undersampled retrospectively.

A ``Scan`` has a mask, returns its slices as ``Record``s, and writes images. Images of a volume are written as NIfTI in
its own grid and orientation. k-space has no position in the patient: its images are written as a fastMRI file, or as
NIfTI with the voxel size of its header.
"""

from pathlib import Path

from beartype import beartype

from atlf_jax.data.dicom import is_multiframe
from atlf_jax.data.inputs import FileError, read_start
from atlf_jax.data.kspace import CONVERTERS, ENDINGS, format_of
from atlf_jax.data.volume import ITK
from atlf_jax.masks import MaskConfig
from atlf_jax.reconstruct.kspace_scan import open_fastmri, open_kspace
from atlf_jax.reconstruct.scan import NIFTI, CTConfig, KSpaceConfig, SamplingConfig, Scan
from atlf_jax.reconstruct.volume_scan import open_volume

__all__ = ["is_volume", "open_scan"]


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
        return open_volume(path, mask, sampling, ct, series, volume)
    if path.is_file() and (path.suffix.lower() in (".dcm", ".ima") or read_start(path, 132)[128:] == b"DICM"):
        raise FileError(path, "is one slice of a DICOM series", f"give the folder that holds it: {path.parent}")
    if path.suffix.lower() not in (*ENDINGS, *CONVERTERS):
        raise FileError(
            path,
            f"is no folder and ends in none of {', '.join((*NIFTI, *ENDINGS))}",
            "wanted an MR volume, or k-space",
        )
    if format_of(path, kspace.name) == "fastmri":
        return open_fastmri(path, mask, sampling, ct)
    return open_kspace(path, mask, sampling, kspace, ct)
