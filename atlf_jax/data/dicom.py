"""Scans from disk: a folder with one DICOM series, by pydicom, or a NIfTI file.

Nothing that names a person leaves this file: of the header's patient only digests are kept, to tell whether two scans
are of one person.
"""

import hashlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from beartype import beartype

from atlf_jax.data.volume import Volume, read_nifti

__all__ = ["Scan", "is_name_of", "is_same_person", "read_scan", "read_series"]

_DUPLICATE, _EVEN = (
    0.01,
    0.05,
)  # parts of the slice distance: positions that count as one; deviation that counts as even
_VARYING = ("EchoTime", "ImageType", "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime")


class Scan(NamedTuple):
    """A volume and what its header tells beside the voxels."""

    volume: Volume  # CT in Hounsfield units
    modality: str = ""  # "CT" or "MR"; empty for NIfTI, which does not say
    files: tuple[str, ...] = ()  # names of the slices' files, in the order of the last voxel axis
    patient: str = ""  # digest of the patient's number; empty where there is none
    name: str = ""  # digest of the patient's name; empty where there is none


@beartype
def read_scan(path: str | Path, modality: Literal["CT", "MR"]) -> Scan:
    """Read a scan, from a folder with one DICOM series or from a NIfTI file.

    Args:
        path: the folder or the file.
        modality: what it must be, where the header says.

    Raises:
        ValueError: see ``read_series`` and ``read_nifti``; or it is of another modality.
    """
    scan = read_series(path) if Path(path).is_dir() else Scan(read_nifti(path))
    if scan.modality and scan.modality != modality:
        raise ValueError(f"{path} is {scan.modality} by its header; wanted {modality} (are the two swapped?)")
    return scan


@beartype
def read_series(folder: str | Path) -> Scan:
    """Read the one DICOM series of a folder.

    Slices are sorted by their position along the normal ``row x column``. Stored values become
    ``RescaleSlope value + RescaleIntercept``, which in a CT are Hounsfield units; padding of a CT becomes -1000.
    DICOM's LPS+ coordinates become RAS+, and voxels are ordered (column, row, slice).

    Args:
        folder: a folder with the files of one series; files that are not DICOM are passed over, folders in it too.

    Returns:
        The volume, with digests of the patient's number and name.

    Raises:
        ValueError: pydicom is missing, or in one line what is wrong with the series: no DICOM files, several series,
            several images at one place, a missing slice, colour or inverted grey, no pixels, no position, a
            compression that cannot be decoded, several frames in a file.
    """
    pydicom = _pydicom()
    folder = Path(folder)
    slices = [(file.name, _read_slice(pydicom, file)) for file in _dicom_files(folder)]
    headers = [header for _, header in slices]
    if len(series := {str(header.get("SeriesInstanceUID", "")) for header in headers}) > 1:
        counts = sorted(sum(str(header.get("SeriesInstanceUID", "")) == one for header in headers) for one in series)
        raise ValueError(
            f"{folder} mixes {len(series)} series, of {', '.join(map(str, counts))} files; give each its own folder"
        )
    for tag in ("Modality", "PatientID", "PatientName"):
        if len({str(header.get(tag, "")) for header in headers}) > 1:
            raise ValueError(f"{folder} mixes files that differ in {tag}; give each series a folder of its own")
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        values = np.array([header[tag].value for header in headers], np.float64)
        if not np.allclose(values, values[0], rtol=0, atol=1e-3):
            raise ValueError(
                f"{folder} mixes slices that differ in {tag} (a localiser among them?); give each its own folder"
            )
    order, affine = _geometry(folder, headers)
    slices = [slices[index] for index in order]
    data = np.stack([_values(folder / name, header).T for name, header in slices], axis=-1)
    first = slices[0][1]
    return Scan(
        volume=Volume(np.ascontiguousarray(data), affine),
        modality=str(first.get("Modality", "")),
        files=tuple(name for name, _ in slices),
        patient=_digest(str(first.get("PatientID", "")).strip()),
        name=_digest(_plain_name(str(first.get("PatientName", "")))),
    )


@beartype
def is_same_person(a: Scan, b: Scan) -> bool:
    """Whether two scans may be of one person: their patient numbers agree, or one of them has none."""
    return not (a.patient and b.patient) or a.patient == b.patient


@beartype
def is_name_of(scan: Scan, text: str) -> bool:
    """Whether a text is the name or the number of the scan's patient, in any order and spelling of its parts."""
    return bool(text) and (
        (bool(scan.name) and _digest(_plain_name(text)) == scan.name)
        or (bool(scan.patient) and _digest(text.strip()) == scan.patient)
    )


def _pydicom() -> ModuleType:
    try:
        import pydicom
    except ImportError as error:
        raise ValueError("reading DICOM needs pydicom: pip install 'atlf-jax[dicom]'") from error
    return pydicom


def _dicom_files(folder: Path) -> list[Path]:
    """Return the files of a folder that call themselves DICOM."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; wanted one with the files of one DICOM series")
    files = []
    for file in sorted(folder.iterdir()):
        if file.is_dir() or file.name.startswith(".") or file.name.upper() == "DICOMDIR":
            continue
        try:
            with file.open("rb") as stream:
                marked = stream.read(132)[128:] == b"DICM"
        except OSError as error:
            raise ValueError(f"{file} cannot be read ({error.strerror}); allow it, or copy it again") from error
        if marked or file.suffix.lower() in (".dcm", ".ima"):
            files.append(file)
    if not files:
        inner = sorted(inner.name for inner in folder.iterdir() if inner.is_dir())
        advice = f"it has folders ({', '.join(inner[:5])}): name one of them" if inner else "is it the right one?"
        raise ValueError(f"{folder} holds no DICOM files; {advice}")
    return files


def _read_slice(pydicom: ModuleType, file: Path) -> Any:
    """Read one file, and refuse what is not one plain grey slice with a place in space."""
    try:
        header = pydicom.dcmread(file)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file} is not a readable DICOM file ({_one_line(error)}); copy it again") from error
    if "PixelData" not in header:
        raise ValueError(f"{file} has no pixel data (a report or structure?); leave only the slices in the folder")
    colour = str(header.get("PhotometricInterpretation", "none"))
    if colour != "MONOCHROME2" or header.get("SamplesPerPixel", 1) != 1:
        raise ValueError(
            f"{file} has photometric interpretation {colour}; wanted MONOCHROME2, one grey value a pixel (a screenshot "
            "or a colour map is no scan)"
        )
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(
            f"{file} holds {header.NumberOfFrames} frames; make it a NIfTI file with dcm2niix, and use that"
        )
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        if header.get(tag) is None:
            raise ValueError(f"{file} has no {tag}, so its place in space is unknown; export the series again")
    if min(float(length) for length in header.PixelSpacing) <= 0:
        raise ValueError(
            f"{file} has pixel spacing {list(map(float, header.PixelSpacing))}; wanted positive lengths in mm"
        )
    return header


def _geometry(folder: Path, headers: list[Any]) -> tuple[list[int], np.ndarray]:
    """Return the order of the slices and the affine to RAS+ of voxels (column, row, slice)."""
    across, down = np.array(headers[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(across, down)
    if abs(np.linalg.norm(normal) - 1) > 1e-3:
        raise ValueError(f"{folder} has image axes that are not perpendicular unit vectors; export the series again")
    corners = np.array([header.ImagePositionPatient for header in headers], np.float64)
    order = np.argsort(corners @ normal, kind="stable")
    corners = corners[order]
    gaps = np.diff(corners @ normal)
    if len(gaps) == 0:
        thick = float(headers[0].get("SpacingBetweenSlices") or headers[0].get("SliceThickness") or 0)
        if thick <= 0:
            raise ValueError(f"{folder} holds one slice without a thickness; wanted SliceThickness in its header")
        step = thick * normal
    else:
        usual = float(np.median(gaps))
        _check_gaps(folder, [headers[index] for index in order], corners @ normal, gaps, usual)
        step = (corners[-1] - corners[0]) / len(gaps)
        straight = corners[0] + np.arange(len(corners))[:, None] * step
        if np.abs(corners - straight).max() > _EVEN * usual:
            raise ValueError(f"{folder} has slices that do not lie on a line; wanted one stack of parallel slices")
    height, width = map(float, headers[0].PixelSpacing)  # between rows, between columns
    affine = np.eye(4)
    affine[:3] = np.stack([across * width, down * height, step, corners[0]], axis=1)
    affine[:2] *= -1  # LPS+ to RAS+
    return order.tolist(), affine + 0.0


def _check_gaps(folder: Path, headers: list[Any], places: np.ndarray, gaps: np.ndarray, usual: float) -> None:
    """Refuse several images at one place, and uneven gaps."""
    twice = np.flatnonzero(gaps <= max(_DUPLICATE * gaps.max(), 1e-4))
    if twice.size:
        a, b = headers[twice[0]], headers[twice[0] + 1]
        differ = [tag for tag in _VARYING if str(a.get(tag, "")) != str(b.get(tag, ""))]
        reason = f"they differ in {differ[0]}" if differ else "the same slice twice"
        raise ValueError(
            f"{folder} holds several images at one place ({reason}: mixed series, or echoes and phases of one); give "
            "each its own folder"
        )
    uneven = np.flatnonzero(np.abs(gaps - usual) > _EVEN * usual)
    if uneven.size:
        at = int(uneven[0])
        raise ValueError(
            f"{folder} misses a slice, or is unevenly spaced: {gaps[at]:.3g} mm from {places[at]:.4g} to "
            f"{places[at + 1]:.4g} mm along the normal, {usual:.3g} mm elsewhere; export the whole series again"
        )


def _values(file: Path, header: Any) -> np.ndarray:
    """Return the slice in Hounsfield units, or an MR's own, as float32 [row, column]."""
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise ValueError(
                f"{file} is compressed ({syntax.name}) and no decoder for it is installed; pip install "
                "'pylibjpeg[all]', or decompress it with gdcmconv --raw"
            )
    try:
        stored = header.pixel_array
    except Exception as error:  # decoders raise what they like
        raise ValueError(f"{file} has pixels that cannot be decoded ({_one_line(error)}); copy it again") from error
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    ct = header.get("Modality") == "CT"
    if ct and (slope is None or intercept is None):
        raise ValueError(
            f"{file} is a CT without RescaleSlope and RescaleIntercept, so its Hounsfield units are unknown; export "
            "the series again"
        )
    values = stored * float(1 if slope is None else slope) + float(intercept or 0)
    if ct and (padding := header.get("PixelPaddingValue")) is not None:
        values[stored == padding] = -1000.0
    return values.astype(np.float32)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _plain_name(name: str) -> str:
    """Return the parts of a name in small letters and in alphabetical order."""
    return " ".join(sorted(re.findall(r"[^\W_]+", name.lower())))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
