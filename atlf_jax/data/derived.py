"""A DICOM series derived from another: new pixels in the same place of the same study, marked as derived and for
research.

Nothing is made up: each image keeps the header of the one that it was made from, but for what describes its old pixels,
and gets identifiers of its own, a reference to its source, and a description of what was done.
"""

import contextlib
import copy
import datetime
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from beartype import beartype
from jaxtyping import Float32, jaxtyped

from atlf_jax.data.dicom import ScannedVolume
from atlf_jax.data.files import NotWritten
from atlf_jax.data.inputs import FileError
from atlf_jax.program import VERSION

__all__ = ["RESEARCH", "write_derived_series"]

RESEARCH = "for research, not for diagnosis"
_OF_OLD_PIXELS = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
    "VOILUTSequence",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "RealWorldValueMappingSequence",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "DataSetTrailingPadding",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
LEAST = 1000  # of a volume's largest value, from which on it is stored in whole numbers of its own unit
HIGHEST = 2**15 - 1


@jaxtyped(typechecker=beartype)
def write_derived_series(
    folder: str | Path,
    data: Float32[np.ndarray, "i j k"],
    *,
    source: str | Path,
    scan: ScannedVolume,
    note: str,
) -> None:
    """Write a volume as a DICOM series derived from the one that it was made from.

    Values are stored in 15 bits: whole numbers where the source has no rescale slope and the volume reaches 1000, else
    with a slope. An enhanced source gives one enhanced file.

    Args:
        folder: made here; must not be there.
        data: voxels in the order (column, row, slice) of ``scan.volume``.
        source: the folder or the enhanced file that ``scan`` was read from.
        scan: what was read.
        note: what was done, in a few words; no names of people.

    Raises:
        ValueError: the source is no DICOM series, or is a mosaic; or the folder cannot be written.
    """
    import pydicom
    from pydicom.uid import generate_uid

    folder, source = Path(folder), Path(source)
    if not scan.files or data.shape[2] != len(scan.files) or data.shape != scan.volume.data.shape:
        raise FileError(source, "is no DICOM series with a file or frame for each slice", "write a NIfTI file")
    stored, slope = _stored(data)
    series = generate_uid(prefix=None)
    try:
        folder.mkdir(parents=True)
        with _quietly():
            if scan.frames:
                header = pydicom.dcmread(source if source.is_file() else source / scan.files[0])
                derived = _derive(header, series, 1, note)
                _with_frames(derived, header, scan.frames, stored, slope)
                derived.save_as(folder / "IM0001.dcm", enforce_file_format=True)
                return
            for number, name in enumerate(scan.files, 1):
                header = pydicom.dcmread(source / name)
                rescaled = "RescaleSlope" in header or slope != 1
                derived = _derive(header, series, number, note)
                _with_pixels(derived, stored[:, :, number - 1].T)
                if rescaled:
                    derived.RescaleSlope, derived.RescaleIntercept, derived.RescaleType = _text(slope), "0", "US"
                derived.save_as(folder / f"IM{number:04d}.dcm", enforce_file_format=True)
    except OSError as error:
        raise NotWritten(f"{folder} cannot be written ({error.strerror or error}); choose another folder") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values of the source, which stay as they are
        yield


def _stored(data: np.ndarray) -> tuple[np.ndarray, float]:
    """Return whole numbers of 16 bits and the slope that gives the values back."""
    largest = float(np.abs(data).max())
    whole = LEAST <= largest <= HIGHEST
    slope = 1.0 if whole or not largest else float(_text(largest / HIGHEST))
    return np.clip(np.rint(data / slope), -HIGHEST, HIGHEST).astype("<i2"), slope


def _text(number: float) -> str:
    """Return a number in the 16 characters that DICOM has for it."""
    return f"{number:.10g}" if len(f"{number:.10g}") <= 16 else f"{number:.8e}"


def _derive(header: Any, series: str, number: int, note: str) -> Any:
    """Return a header for a derived image, still without pixels."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    kept = copy.deepcopy(header)
    kept.remove_private_tags()
    for name in (*_OF_OLD_PIXELS, "PixelData"):
        if name in kept:
            delattr(kept, name)
    for element in [each for each in kept if 0x6000 <= each.tag.group <= 0x60FF]:  # overlays drawn for the old image
        del kept[element.tag]
    now = datetime.datetime.now()
    kept.SOPInstanceUID = generate_uid(prefix=None)
    kept.SeriesInstanceUID = series
    kept.InstanceNumber = number
    kept.ImageType = ["DERIVED", *_image_type(header)[1:]]
    kept.SeriesNumber = None if header.get("SeriesNumber") is None else int(header.SeriesNumber) + 1000
    kept.SeriesDescription = f"{str(header.get('SeriesDescription', ''))[:32]} atlf-jax, research".strip()
    kept.DerivationDescription = f"{note}; atlf-jax {VERSION}; {RESEARCH}"[:1024]
    kept.ImageComments = f"{RESEARCH}: {note}"[:1024]
    kept.ContentDate, kept.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    kept.InstanceCreationDate, kept.InstanceCreationTime = kept.ContentDate, kept.ContentTime
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    kept.SourceImageSequence = [reference]
    kept.ContributingEquipmentSequence = [*header.get("ContributingEquipmentSequence", []), _equipment(note)]
    kept.file_meta = FileMetaDataset()
    kept.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    kept.file_meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return kept


def _image_type(header: Any) -> list[str]:
    """Return the values of ImageType, at least the two that all images have."""
    values = [str(value) for value in np.atleast_1d(header.get("ImageType", ["ORIGINAL", "PRIMARY"]))]
    return values if len(values) > 1 else ["ORIGINAL", "PRIMARY"]


def _equipment(note: str) -> Any:
    """Return the standard's item on what processed the image."""
    import pydicom

    purpose = pydicom.Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    item = pydicom.Dataset()
    item.Manufacturer, item.SoftwareVersions = "atlf-jax", VERSION
    item.ContributionDescription = note[:1024]
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _with_pixels(derived: Any, stored: np.ndarray) -> None:
    """Put pixels into a header, ``[..., rows, columns]``."""
    derived.Rows, derived.Columns = stored.shape[-2:]
    derived.SamplesPerPixel, derived.PhotometricInterpretation = 1, "MONOCHROME2"
    derived.BitsAllocated, derived.BitsStored, derived.HighBit = 16, 16, 15
    signed = bool((stored < 0).any())
    derived.PixelRepresentation = int(signed)
    derived.PixelData = np.ascontiguousarray(stored).tobytes()
    derived["PixelData"].VR = "OW"


def _with_frames(derived: Any, header: Any, frames: tuple[int, ...], stored: np.ndarray, slope: float) -> None:
    """Put the frames of a volume into an enhanced header, and keep the groups of these frames alone."""
    _with_pixels(derived, stored.transpose(2, 1, 0))
    derived.NumberOfFrames = len(frames)
    groups = [copy.deepcopy(header.PerFrameFunctionalGroupsSequence[frame]) for frame in frames]
    derived.PerFrameFunctionalGroupsSequence = groups
    shared = list(derived.get("SharedFunctionalGroupsSequence", []))
    for group in (*shared, *groups):
        for name in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence"):
            if name in group:
                item = group[name][0]
                item.FrameType = ["DERIVED", *[str(value) for value in item.FrameType][1:]]
        for name in ("FrameVOILUTSequence", "RealWorldValueMappingSequence"):
            if name in group:
                delattr(group, name)
        if "PixelValueTransformationSequence" in group:
            item = group.PixelValueTransformationSequence[0]
            item.RescaleSlope, item.RescaleIntercept = _text(slope), "0"
