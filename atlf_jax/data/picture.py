"""One slice of a PNG, JPEG or NIfTI file that is in memory, for a square page: nothing is written to disk."""

import gzip
import io
import zlib

import nibabel as nib
import numpy as np
from beartype import beartype
from jaxtyping import Float32
from PIL import Image

from atlf_jax.data.transforms import window_ct

__all__ = ["LARGEST_FILE", "read_slice"]

LARGEST_FILE = 256 * 2**20  # bytes, unpacked
HOUNSFIELD_BELOW = -100.0  # an image with lower values is in Hounsfield units, not a picture


@beartype
def read_slice(content: bytes, *, size: int = 256, place: float = 0.5, ct: bool = False) -> Float32[np.ndarray, "h w"]:
    """Return one slice in [0, 1], padded with zeros to a square and scaled to ``size`` x ``size``.

    Args:
        content: of a PNG or JPEG file (colours become grey), or of a NIfTI file, packed by gzip or not.
        size: side of the result in pixels.
        place: of a volume, where along its last axis from 0 (first) to 1 (last).
        ct: of a NIfTI volume in Hounsfield units, show the brain window; without, scale by the 99.9th percentile.

    Raises:
        ValueError: it is no such file, too large, or empty.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (40, 20), 255).save(buffer, "PNG")
        >>> read_slice(buffer.getvalue(), size=64).mean().round(2)
        np.float32(0.5)
    """
    volume = _nifti(content)
    if volume is None:
        try:
            image = np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.float32) / 255
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError("the file is no PNG, JPEG or NIfTI file that can be read; give one of these") from error
    else:
        image = np.rot90(volume[..., round(place * (volume.shape[-1] - 1))])
        image = np.nan_to_num(image.astype(np.float32))
        if ct and image.min() < HOUNSFIELD_BELOW:
            image = window_ct(np.ascontiguousarray(image), "brain")
        else:
            top = np.percentile(np.abs(image), 99.9)
            image = np.clip(np.abs(image) / (top or 1), 0, 1)
    if min(image.shape) < 8 or image.max() <= 0:
        raise ValueError(
            f"the slice of {image.shape[0]} x {image.shape[1]} pixels is empty or too small; choose another"
        )
    side = max(image.shape)
    square = np.zeros((side, side), np.float32)
    top, left = ((side - n) // 2 for n in image.shape)
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    scaled = Image.fromarray(square).resize(
        (size, size), Image.Resampling.BICUBIC if side < size else Image.Resampling.BOX
    )
    return np.clip(np.asarray(scaled, np.float32), 0, 1)


def _nifti(content: bytes) -> np.ndarray | None:
    """Return the volume of a NIfTI file, [x, y, z]; None where it is none."""
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(LARGEST_FILE + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError("the packed file is damaged; choose another, or pack it again") from error
        if len(content) > LARGEST_FILE:
            raise ValueError(f"the file is above {LARGEST_FILE >> 20} MiB unpacked; cut it to fewer slices")
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        try:
            volume = np.asarray(kind.from_bytes(content).dataobj)
        except Exception:  # noqa: S112, nibabel raises of every kind: it is no such file
            continue
        while volume.ndim > 3:
            volume = volume[..., 0]
        if volume.ndim == 3 and min(volume.shape[:2]) > 1 and volume.dtype.kind in "iuf":
            return volume
        raise ValueError(f"the NIfTI file has shape {volume.shape} of {volume.dtype}; wanted a volume of numbers")
    return None
