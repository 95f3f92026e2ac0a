"""Scans from disk: a folder with one DICOM series, by pydicom, or a NIfTI file.

No personal data leaves this file: only digests of the patient's name and number are kept, to tell whether two scans are
of the same person.
"""

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from beartype import beartype

from atlf_jax.data.inputs import FileError, check_memory, read_start, reading
from atlf_jax.data.volume import ITK, Volume, check_affine, read_itk, read_nifti

__all__ = [
    "ScannedVolume",
    "is_multiframe",
    "is_name_of",
    "is_same_person",
    "read_multiframe",
    "read_scan",
    "read_series",
]

_DUPLICATE, _EVEN = (
    0.01,
    0.05,
)  # parts of the slice distance: positions that count as one; deviation that counts as even
_VARYING = {  # what tells images at one place apart, and what they then are
    "EchoTime": "echoes",
    "ImageType": "kinds of image",
    "TemporalPositionIdentifier": "time points",
    "TriggerTime": "phases of the heart",
    "AcquisitionNumber": "time points",
    "AcquisitionTime": "time points",
    "ContentTime": "time points",
}
_INDEX = "1.2.840.10008.1.3.10"  # class of DICOMDIR, and of DIRFILE in folders of Philips scanners
_TAGS = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
_TEXTS = ("Modality", "PatientID", "PatientName", "SeriesInstanceUID", *_VARYING)
_NUMBERS = ("SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept")


class ScannedVolume(NamedTuple):
    """A volume with some fields of its header."""

    volume: Volume  # CT in Hounsfield units
    modality: str = ""  # "CT" or "MR"; empty for NIfTI, which does not say
    files: tuple[str, ...] = ()  # names of the slices' files, in the order of the last voxel axis
    patient: str = ""  # digest of the patient's number; empty if there is none
    name: str = ""  # digest of the patient's name; empty if there is none
    frames: tuple[int, ...] = ()  # for an enhanced file: indices of the slices' frames


@beartype
def read_scan(
    path: str | Path, modality: Literal["CT", "MR"], *, series: str = "", volume: int | None = None
) -> ScannedVolume:
    """Read a scan: a folder with a DICOM series, an enhanced DICOM file, NIfTI, or what SimpleITK reads.

    Args:
        path: the folder or the file.
        modality: the wanted modality, checked if the header has one.
        series: SeriesNumber or SeriesInstanceUID of one series, for a folder with several.
        volume: index of one volume, for a series of several (time points, echoes, ...); None: there is one.

    Raises:
        ValueError: see ``read_series`` and ``read_nifti``; or the scan has another modality.
    """
    path = Path(path)
    if path.is_dir():
        scan = read_series(path, series=series, volume=volume)
    elif path.suffix.lower() in (".dcm", ".ima") or is_multiframe(path):
        scan = read_multiframe(path, volume=volume)
    elif path.name.lower().endswith(ITK):
        scan = ScannedVolume(read_itk(path, volume=volume))
    else:
        scan = ScannedVolume(read_nifti(path, volume=volume))
    if scan.modality and scan.modality != modality:
        raise ValueError(f"{path} is {scan.modality} by its header; wanted {modality} (are the two swapped?)")
    return scan


@beartype
def is_multiframe(file: str | Path) -> bool:
    """Return whether a file is a DICOM file with several frames."""
    file = Path(file)
    if not file.is_file() or read_start(file, 132)[128:] != b"DICM":
        return False
    with _quietly(), reading(file, "a DICOM file"):
        header = _pydicom().dcmread(file, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return int(header.get("NumberOfFrames", 1) or 1) > 1


@beartype
def read_multiframe(file: str | Path, *, volume: int | None = None) -> ScannedVolume:
    """Read an enhanced DICOM file, whose frames are the slices; arguments and errors as in ``read_series``."""
    file = Path(file)
    pydicom = _pydicom()
    with _quietly(), reading(file, "a DICOM file"):
        frames = _read_file(pydicom, file)
    if len(frames) < 2:
        raise FileError(file, "is one slice of a DICOM series", f"give the folder that holds it: {file.parent}")
    return _assembled(file, [(file.name, frame) for frame in frames], volume)


@beartype
def read_series(folder: str | Path, *, series: str = "", volume: int | None = None) -> ScannedVolume:
    """Read one DICOM series of a folder.

    Slices are sorted by their position along the normal ``row x column``. Stored values become
    ``RescaleSlope value + RescaleIntercept``, which in a CT are Hounsfield units; padding becomes air, -1000 in a CT
    and 0 in an MR.
    DICOM's LPS+ coordinates become RAS+, and voxels are ordered (column, row, slice). A Siemens mosaic is split into
    its slices, and the frames of an enhanced file are read like single files.

    Args:
        folder: holds the files of one series. Other files, subfolders and file lists (DICOMDIR, DIRFILE) are ignored.
        series: SeriesNumber or SeriesInstanceUID of one series, if there are several.
        volume: index of one image at each position, or of one mosaic, if there are several.

    Returns:
        The volume, with digests of the patient's number and name.

    Raises:
        ValueError: pydicom is missing, or the series cannot be read: no DICOM files, several series, several images at
            one position or several mosaics without a choice, a missing slice, colour or inverted grey values, no
            pixels, no position, an unknown compression.
    """
    pydicom = _pydicom()
    folder = Path(folder)
    slices = []
    for file in _dicom_files(folder):
        with _quietly(), reading(file, "a DICOM file"):
            slices += [(file.name, header) for header in _read_file(pydicom, file, series)]
    if not slices:
        remedy = f"it has {_listed(pydicom, folder)}" if series else "is it the right one?"
        raise FileError(folder, f"holds no DICOM slices{f' of series {series}' if series else ''}", remedy)
    return _assembled(folder, slices, volume)


def _assembled(folder: Path, slices: list[tuple[str, Any]], volume: int | None) -> ScannedVolume:
    """Sort slices into one volume; ``volume`` chooses it if there are several."""
    mosaics = [(name, header) for name, header in slices if _is_mosaic(header)]
    if mosaics:
        if len(slices) > 1 and volume is None:
            raise FileError(
                folder,
                f"holds {len(mosaics)} Siemens mosaics among {len(slices)} files: volumes of a series in time",
                "choose one with --volume 0 or higher, or give the one that is wanted a folder of its own",
            )
        mosaics.sort(key=lambda each: _rank(each[1]))
        name, header = mosaics[_checked_volume(folder, volume or 0, len(mosaics))]
        return _described(_mosaic(folder / name, header), [(name, header)])
    rows, columns = int(slices[0][1].Rows), int(slices[0][1].Columns)
    size = rows * columns * len(slices)
    check_memory(folder, 12 * size, f"{len(slices)} slices of {rows} x {columns}")  # two float32 copies beside float64
    headers = [header for _, header in slices]
    if len(series := {str(header.get("SeriesInstanceUID", "")) for header in headers}) > 1:
        counts = sorted(sum(str(header.get("SeriesInstanceUID", "")) == one for header in headers) for one in series)
        raise ValueError(
            f"{folder} mixes {len(series)} series, of {', '.join(map(str, counts))} files; choose one with --series, "
            "its number, or give each its own folder"
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
    if volume is not None:
        slices = _of_volume(folder, slices, volume)
        headers = [header for _, header in slices]
    order, affine = _geometry(folder, headers)
    slices = [slices[index] for index in order]
    data = np.stack([_decoded(folder / name, header).T for name, header in slices], axis=-1)
    return _described(Volume(np.ascontiguousarray(data), affine, through=2), slices)


def _of_volume(folder: Path, slices: list[tuple[str, Any]], volume: int) -> list[tuple[str, Any]]:
    """Return one image at each position, sorted by echo, time and number."""
    across, down = np.array(slices[0][1].ImageOrientationPatient, np.float64).reshape(2, 3)
    places: dict[float, list[tuple[str, Any]]] = {}
    for name, header in slices:
        place = round(float(np.dot(np.cross(across, down), np.array(header.ImagePositionPatient, np.float64))), 2)
        places.setdefault(place, []).append((name, header))
    counts = {len(images) for images in places.values()}
    if len(counts) > 1:
        raise FileError(
            folder,
            f"has {min(counts)} to {max(counts)} images at its {len(places)} places, so its volumes are not whole",
            "export the series again",
        )
    _checked_volume(folder, volume, counts.pop())
    return [sorted(images, key=lambda each: _rank(each[1]))[volume] for images in places.values()]


def _checked_volume(folder: Path, volume: int, count: int) -> int:
    if not 0 <= volume < count:
        raise FileError(folder, f"holds {count} volumes", f"wanted --volume 0 to {count - 1}, not {volume}")
    return volume


def _rank(header: Any) -> tuple[Any, ...]:
    """Return the sort key of images at one position: echo, kind, time, number."""
    numbers = ("TemporalPositionIdentifier", "EchoTime", "TriggerTime", "AcquisitionNumber")
    texts = ("ImageType", "AcquisitionTime", "ContentTime")
    return (
        *(float(header.get(tag) or 0) for tag in numbers),
        *(str(header.get(tag, "")) for tag in texts),
        int(header.get("InstanceNumber") or 0),
    )


def _listed(pydicom: ModuleType, folder: Path) -> str:
    """Return the numbers of the series of a folder, as text for a message."""
    numbers = set()
    for file in _dicom_files(folder):
        with _quietly(), reading(file, "a DICOM file"):
            numbers.add(str(pydicom.dcmread(file, stop_before_pixels=True).get("SeriesNumber", "")))
    return f"series {', '.join(sorted(numbers - {''})) or 'without numbers'}"


@beartype
def is_same_person(a: ScannedVolume, b: ScannedVolume) -> bool:
    """Return whether two scans may be of one person: their patient numbers agree, or one of them has none."""
    return not (a.patient and b.patient) or a.patient == b.patient


@beartype
def is_name_of(scan: ScannedVolume, text: str) -> bool:
    """Return whether a text is the name or the number of the scan's patient, in any order and spelling of its parts."""
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
    """Return the files of a folder that are DICOM by their first bytes or their ending."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; wanted one with the files of one DICOM series")
    files = []
    for file in sorted(folder.iterdir()):
        if file.is_dir() or file.name.startswith(".") or file.name.upper() in ("DICOMDIR", "DIRFILE"):
            continue
        marked = read_start(file, 132)[128:] == b"DICM"
        if marked or file.suffix.lower() in (".dcm", ".ima"):
            files.append(file)
    if not files:
        inner = sorted(inner.name for inner in folder.iterdir() if inner.is_dir())
        advice = f"it has folders ({', '.join(inner[:5])}): name one of them" if inner else "is it the right one?"
        raise ValueError(f"{folder} holds no DICOM files; {advice}")
    return files


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress pydicom's warnings about unusual values; the values that are used are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _described(volume: Volume, slices: list[tuple[str, Any]]) -> ScannedVolume:
    """Return a volume with fields of the header of its first slice."""
    first = slices[0][1]
    of_one_file = len({name for name, _ in slices}) < len(slices)
    return ScannedVolume(
        volume=volume,
        modality=str(first.get("Modality", "")),
        files=tuple(name for name, _ in slices),
        patient=_digest(str(first.get("PatientID", "")).strip()),
        name=_digest(_plain_name(str(first.get("PatientName", "")))),
        frames=tuple(int(header.InstanceNumber) - 1 for _, header in slices) if of_one_file else (),
    )


def _is_mosaic(header: Any) -> bool:
    return "MOSAIC" in map(str, np.atleast_1d(header.get("ImageType", ())))


def _mosaic(file: Path, header: Any) -> Volume:
    """Read a Siemens mosaic: one picture whose tiles are the slices, as described in a private header.

    Source: nibabel's ``MosaicWrapper``, whose geometry is compared with that of SPM's converter.
    """
    with _quietly(), reading(file, "a Siemens mosaic", "make it a NIfTI file with dcm2niix, and use that"):
        from nibabel.nicom import dicomwrappers  # warns when it is loaded

        wrapper = dicomwrappers.wrapper_from_data(header)
        if not isinstance(wrapper, dicomwrappers.MosaicWrapper):
            raise FileError(
                file,
                "is a Siemens mosaic without the private header that tells of its tiles",
                "make it a NIfTI file with dcm2niix, and use that",
            )
        data = np.asarray(wrapper.get_data(), np.float32).transpose(1, 0, 2)  # column, row, slice
        affine = np.asarray(wrapper.affine, np.float64)[:, [1, 0, 2, 3]]
        affine[:2] *= -1  # LPS+ to RAS+
        check_affine(affine, str(file))
        if not np.isfinite(data).all():
            raise FileError(file, "has values that are not finite", "export the series again")
        return Volume(np.ascontiguousarray(data), affine + 0.0, through=2)


def _read_file(pydicom: ModuleType, file: Path, series: str = "") -> list[Any]:
    """Read the slices of one file, and refuse what is not plain and grey with a place in space.

    Args:
        pydicom: the package.
        file: a slice, an enhanced file of frames, or a list of files, which has no slices.
        series: pass over the files of others; "" = take all.
    """
    try:
        header = pydicom.dcmread(file)
    except pydicom.errors.InvalidDicomError as error:
        raise FileError(file, "is not a readable DICOM file (its beginning is not DICOM's)", "copy it again") from error
    if str(header.file_meta.get("MediaStorageSOPClassUID", "")) == _INDEX:
        return []
    if series and series not in (str(header.get("SeriesNumber", "")), str(header.get("SeriesInstanceUID", ""))):
        return []
    if "PixelData" not in header:
        raise FileError(
            file, "has no pixel data (a report or structure?)", "leave only the slices of one series in the folder"
        )
    colour = str(header.get("PhotometricInterpretation", "none"))
    if colour != "MONOCHROME2" or header.get("SamplesPerPixel", 1) != 1:
        raise FileError(
            file,
            f"has photometric interpretation {colour} (a screenshot or a colour map is no scan)",
            "wanted MONOCHROME2, one grey value a pixel",
        )
    frames = [header]
    if "PerFrameFunctionalGroupsSequence" in header:
        frames = _frames(pydicom, file, header)
    elif int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise FileError(
            file,
            f"holds {int(header.NumberOfFrames)} frames without a place of their own",
            "make it a NIfTI file with dcm2niix, and use that",
        )
    return [_checked_slice(file, frame) for frame in frames]


_GROUPS = {  # sequences of functional groups, and what of them a slice of a series has in its header
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
_OF_ALL = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "Modality",
    "PatientID",
    "PatientName",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImageType",
    "PixelPaddingValue",
)


def _frames(pydicom: ModuleType, file: Path, header: Any) -> list[Any]:
    """Return the frames of an enhanced file as the slices of a series; shared and own groups put together."""
    groups = header.PerFrameFunctionalGroupsSequence
    count = int(header.get("NumberOfFrames", 1) or 1)
    if len(groups) != count:
        raise FileError(file, f"has {count} frames and tells of {len(groups)}", "export it again")
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    check_memory(file, 16 * rows * columns * count, f"{count} frames of {rows} x {columns}")
    stored = _stored(file, header).reshape(count, rows, columns)
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = []
    for number, group in enumerate(groups):
        frame = pydicom.Dataset()
        for tag in _OF_ALL:
            if tag in header:
                setattr(frame, tag, header[tag].value)
        for name, tags in _GROUPS.items():
            for place in (shared[0], group):
                for tag in tags if name in place else ():
                    if tag in place[name][0]:
                        setattr(frame, tag, place[name][0][tag].value)
        if "FrameContentSequence" in group and "TemporalPositionIndex" in group.FrameContentSequence[0]:
            frame.TemporalPositionIdentifier = int(group.FrameContentSequence[0].TemporalPositionIndex)
        for place in (shared[0], group):
            if "MREchoSequence" in place and "EffectiveEchoTime" in place.MREchoSequence[0]:
                frame.EchoTime = float(place.MREchoSequence[0].EffectiveEchoTime)
        frame.InstanceNumber = number + 1
        frame.BitsAllocated = 8 * stored.itemsize
        frame.PixelData = np.ascontiguousarray(stored[number]).tobytes()
        frame.file_meta = pydicom.dataset.FileMetaDataset()
        frame.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        frames.append(frame)
    return frames


def _checked_slice(file: Path, header: Any) -> Any:
    """Refuse a slice without a place in space."""
    for tag, count in zip(_TAGS, (1, 1, 2, 6, 3), strict=True):
        if header.get(tag) is None:
            raise FileError(file, f"has no {tag}, so its place in space is unknown", "export the series again")
        values = np.array(header[tag].value, np.float64)
        if values.size != count or not np.isfinite(values).all():
            raise FileError(file, f"has {tag} {values.tolist()}; wanted {count} numbers", "export the series again")
    for tag in _TEXTS:  # values are parsed when they are asked for: here, where the file is known
        str(header.get(tag, ""))
    for tag in _NUMBERS:
        value = header.get(tag)
        if value is not None and not np.isfinite(float(value)):
            raise FileError(file, f"has {tag} {value}, which is no length or factor", "export the series again")
    if min(float(length) for length in header.PixelSpacing) <= 0:
        raise FileError(
            file, f"has pixel spacing {list(map(float, header.PixelSpacing))}", "wanted positive lengths in mm"
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
        each = len(headers) / (len(headers) - len(twice))  # images at a place
        if differ:
            reason = f"they differ in {differ[0]}: several {_VARYING[differ[0]]}"
        elif each == int(each) and len(headers) > 2:
            reason = f"{int(each)} at each of {len(headers) - len(twice)} places: a series in time, or copies"
        else:
            reason = "the same slice twice"
        raise FileError(
            folder,
            f"holds several images at one place ({reason})",
            "choose one with --volume 0 or higher, or give each volume its own folder",
        )
    uneven = np.flatnonzero(np.abs(gaps - usual) > _EVEN * usual)
    if uneven.size:
        at = int(uneven[0])
        raise ValueError(
            f"{folder} misses a slice, or is unevenly spaced: {gaps[at]:.3g} mm from {places[at]:.4g} to "
            f"{places[at + 1]:.4g} mm along the normal, {usual:.3g} mm elsewhere; export the whole series again"
        )


def _decoded(file: Path, header: Any) -> np.ndarray:
    """Return the slice in Hounsfield units, or an MR's own, as float32 [row, column]."""
    with _quietly(), reading(file, "a DICOM file"):
        values = _values(file, header)
        if not np.isfinite(values).all():
            raise FileError(file, "has values that are not finite", "export the series again")
        return values


def _values(file: Path, header: Any) -> np.ndarray:
    stored = _stored(file, header)
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    ct = header.get("Modality") == "CT"
    if ct and (slope is None or intercept is None):
        raise FileError(
            file,
            "is a CT without RescaleSlope and RescaleIntercept, so its Hounsfield units are unknown",
            "export the series again",
        )
    values = stored * float(1 if slope is None else slope) + float(intercept or 0)
    if (padding := header.get("PixelPaddingValue")) is not None:  # air: nothing was measured there
        limit = header.get("PixelPaddingRangeLimit")
        ends = sorted((int(padding), int(padding if limit is None else limit)))
        values[(stored >= ends[0]) & (stored <= ends[1])] = -1000.0 if ct else 0.0
    return values.astype(np.float32)


def _stored(file: Path, header: Any) -> np.ndarray:
    """Return the numbers that are stored, decoded where they are compressed."""
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise FileError(
                file,
                f"is compressed ({syntax.name}) and no decoder for it is installed",
                "pip install 'atlf-jax[dicom]', or decompress it with gdcmconv --raw",
            )
    try:
        return header.pixel_array
    except Exception as error:  # decoders raise what they like
        why = " ".join(str(error).split())[:80]
        raise FileError(file, f"has pixels that cannot be decoded ({why})", "copy it again") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _plain_name(name: str) -> str:
    """Return the parts of a name in small letters and in alphabetical order."""
    return " ".join(sorted(re.findall(r"[^\W_]+", name.lower())))
