"""DICOM series for tests, made by pydicom from numbers."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NAME, NUMBER = "Muster^Erika", "PID-4711"


def write_series(
    folder: Path,
    stored: np.ndarray,
    *,
    modality: str = "CT",
    axes=AXIAL,
    corner=(-10.0, -20.0, 30.0),
    spacing=(2.0, 1.5),
    step: float = 3.0,
    places=None,
    shuffled: bool = True,
    name: str = NAME,
    number: str = NUMBER,
    **tags,
) -> list[Path]:
    """Write ``stored`` [slice, row, column] along the normal of ``axes``, files named in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(axes[:3], axes[3:])
    places = np.arange(len(stored)) * step if places is None else places
    order = np.random.default_rng(1).permutation(len(stored)) if shuffled else range(len(stored))
    files = []
    for rank, index in enumerate(order):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{index + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        slice_.PatientName, slice_.PatientID = name, number
        slice_.Modality, slice_.SeriesInstanceUID = modality, "1.2.3.4"
        slice_.Rows, slice_.Columns = stored.shape[1:]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 0
        slice_.PixelSpacing, slice_.ImageOrientationPatient = list(spacing), list(axes)
        slice_.ImagePositionPatient = [float(f"{x:.6g}") for x in np.add(corner, normal * places[index])]
        slice_.SliceThickness = step
        if modality == "CT":
            slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.PixelData = stored[index].astype("<u2").tobytes()
        for tag, value in tags.items():
            if value is None:
                delattr(slice_, tag)
            else:
                setattr(slice_, tag, value)
        file = folder / f"IM{rank:04d}.dcm"
        pydicom.dcmwrite(file, slice_, enforce_file_format=True)
        files.append(file)
    return files


def change(file: Path, **tags) -> None:
    """Set tags of one file, or take them away with None."""
    header = pydicom.dcmread(file)
    for tag, value in tags.items():
        if value is None:
            delattr(header, tag)
        else:
            setattr(header, tag, value)
    header.save_as(file)
