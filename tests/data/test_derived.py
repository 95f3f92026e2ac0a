"""DICOM series out: the same place and study, identifiers of their own, valid by an independent program."""

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from atlf_jax.data.derived import RESEARCH, write_derived_series
from atlf_jax.data.dicom import read_scan
from atlf_jax.data.volume import read_itk, write_nifti
from atlf_jax.reconstruct import command
from tests.data.dicom_files import write_series

TILTED = (0.96, 0.28, 0.0, -0.168, 0.576, -0.8)
STUDY = {  # what a valid MR image has
    "StudyInstanceUID": "1.2.3",
    "FrameOfReferenceUID": "1.2.3.9",
    "StudyDate": "20260102",
    "StudyTime": "101112",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "StudyID": "7",
    "BodyPartExamined": "HEAD",
    "PatientBirthDate": "19500101",
    "PatientSex": "O",
    "Manufacturer": "Maker",
    "SeriesNumber": 4,
    "SeriesDescription": "t2_tse",
    "PositionReferenceIndicator": "",
    "PatientPosition": "HFS",
    "ImageType": ["ORIGINAL", "PRIMARY", "M"],
    "ScanningSequence": "SE",
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "EchoTime": 90.0,
    "EchoTrainLength": 9,
    "RepetitionTime": 4000.0,
    "WindowCenter": 100,
    "WindowWidth": 200,
}


@pytest.fixture
def source(tmp_path):
    """A valid oblique MR series of five slices, its files in another order than its slices."""
    stored = np.random.default_rng(0).integers(0, 1500, (5, 20, 18)).astype(np.uint16)
    write_series(tmp_path / "mr", stored, modality="MR", axes=TILTED, step=4.0, **STUDY)
    for number, file in enumerate(sorted((tmp_path / "mr").iterdir()), 1):
        header = pydicom.dcmread(file)
        header.InstanceNumber = number
        header.save_as(file)
    return tmp_path / "mr"


def derive(source, out, scale=0.9):
    scan = read_scan(source, "MR")
    data = (scan.volume.data * scale).astype(np.float32)
    write_derived_series(out, data, source=source, scan=scan, note="a test")
    return scan, data


@pytest.mark.parametrize("scale", [0.9, 1e-4, -1.0], ids=["whole numbers", "with a slope", "signed"])
def test_two_readers_find_it_at_the_same_place(tmp_path, source, scale):
    scan, data = derive(source, tmp_path / "out", scale)
    step = 0.5 if abs(scale) > 0.1 else 1500 * scale / 2**15
    again = read_scan(tmp_path / "out", "MR")
    np.testing.assert_allclose(again.volume.data, data, atol=1.01 * step)
    np.testing.assert_allclose(again.volume.affine, scan.volume.affine, atol=1e-9)
    sitk = pytest.importorskip("SimpleITK")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "out"))
    image = sitk.ReadImage(names)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).transpose(2, 1, 0), data, atol=1.01 * step)
    corner = image.TransformContinuousIndexToPhysicalPoint((17.0, 19.0, 4.0))
    want = (scan.volume.affine @ [17, 19, 4, 1])[:3] * (-1, -1, 1)
    np.testing.assert_allclose(corner, want, atol=1e-3)


def test_study_and_frame_of_reference_are_kept_and_identifiers_are_new(tmp_path, source):
    derive(source, tmp_path / "out")
    old = [pydicom.dcmread(file) for file in source.iterdir()]
    new = [pydicom.dcmread(file) for file in (tmp_path / "out").iterdir()]
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "EchoTime"):
        assert {str(each[tag].value) for each in new} == {str(each[tag].value) for each in old}
    assert not {each.SOPInstanceUID for each in new} & {each.SOPInstanceUID for each in old}
    assert len({each.SOPInstanceUID for each in new}) == 5 and len({each.SeriesInstanceUID for each in new}) == 1
    assert new[0].SeriesInstanceUID != old[0].SeriesInstanceUID and new[0].SeriesNumber == 1004
    places = {each.SOPInstanceUID: list(each.ImagePositionPatient) for each in old}
    for each in new:
        assert list(each.ImageType) == ["DERIVED", "PRIMARY", "M"]
        assert RESEARCH in each.DerivationDescription and "research" in each.SeriesDescription
        assert places[each.SourceImageSequence[0].ReferencedSOPInstanceUID] == list(each.ImagePositionPatient)
        assert "WindowCenter" not in each
    added = {element.keyword for element in new[0]} - {element.keyword for element in old[0]}
    assert added == {
        "SourceImageSequence",
        "DerivationDescription",
        "ImageComments",
        "ContentDate",
        "ContentTime",
        "InstanceCreationDate",
        "InstanceCreationTime",
        "ContributingEquipmentSequence",
    }


def errors_of(file):
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.parity
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("scale", [0.9, 1e-4], ids=["whole numbers", "with a slope"])
def test_it_is_valid(tmp_path, source, scale):
    derive(source, tmp_path / "out", scale)
    assert errors_of(next(source.iterdir())) == []
    for file in (tmp_path / "out").iterdir():
        assert errors_of(file) == []


@pytest.mark.parity
@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
def test_dcm2niix_finds_it_at_the_same_place(tmp_path, source):
    scan, data = derive(source, tmp_path / "out", 0.9)
    (tmp_path / "nii").mkdir()
    subprocess.run(["dcm2niix", "-o", tmp_path / "nii", "-f", "a", tmp_path / "out"], check=True, capture_output=True)
    image = nibabel.load(tmp_path / "nii" / "a.nii")
    voxel = (np.linalg.inv(image.affine) @ scan.volume.affine @ [3, 4, 2, 1])[:3]
    np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-2)
    assert abs(image.get_fdata()[tuple(np.rint(voxel).astype(int))] - data[3, 4, 2]) <= 0.5


def enhanced(file, frames=4, times=2):
    """Write an enhanced MR file of so many places, each at so many times."""
    stored = np.random.default_rng(0).integers(0, 1500, (frames * times, 6, 7)).astype("<u2")
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = EnhancedMRImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.8.1"
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.Modality, header.PatientID, header.PatientName = "MR", "PID", "A^B"
    header.SeriesInstanceUID, header.StudyInstanceUID, header.ImageType = "1.2.8", "1.2.3", ["ORIGINAL", "PRIMARY"]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns, header.NumberOfFrames = 6, 7, frames * times
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2.0, 1.5], 3.0
    orientation.ImageOrientationPatient = list(TILTED)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    header.SharedFunctionalGroupsSequence = [shared]
    normal, groups = np.cross(TILTED[:3], TILTED[3:]), []
    for number in range(frames * times):
        group, position, content, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [round(float(x), 6) for x in 3.0 * (number // times) * normal]
        content.TemporalPositionIndex = number % times + 1
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, 0, "US"
        group.PlanePositionSequence, group.FrameContentSequence = [position], [content]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = groups
    header.PixelData = stored.tobytes()
    header.save_as(file, enforce_file_format=True)
    return stored.reshape(frames, times, 6, 7)


def test_enhanced_files_in_and_out(tmp_path):
    stored = enhanced(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="several time points.*--volume"):
        read_scan(tmp_path / "a.dcm", "MR")
    with pytest.raises(ValueError, match="holds 2 volumes; wanted --volume 0 to 1, not 2"):
        read_scan(tmp_path / "a.dcm", "MR", volume=2)
    scan = read_scan(tmp_path / "a.dcm", "MR", volume=1)
    np.testing.assert_array_equal(scan.volume.data, 2 * stored[:, 1].transpose(2, 1, 0))
    np.testing.assert_allclose(scan.volume.spacing, (1.5, 2, 3), rtol=1e-5)
    data = (scan.volume.data / 2).astype(np.float32)
    write_derived_series(tmp_path / "out", data, source=tmp_path / "a.dcm", scan=scan, note="a test")
    again = read_scan(tmp_path / "out", "MR")
    np.testing.assert_allclose(again.volume.data, data, atol=0.5)
    np.testing.assert_allclose(again.volume.affine, scan.volume.affine, atol=1e-9)


def test_a_volume_and_a_series_are_chosen(tmp_path):
    first, second = (np.full((3, 5, 7), value, np.uint16) for value in (10, 20))
    write_series(tmp_path / "echoes", first, modality="MR", EchoTime=10, SeriesNumber=2)
    for file in write_series(tmp_path / "other", second, modality="MR", EchoTime=90, SeriesNumber=2):
        file.rename(tmp_path / "echoes" / f"second_{file.name}")
    for volume, value in ((0, 10), (1, 20)):
        assert (read_scan(tmp_path / "echoes", "MR", volume=volume).volume.data == value).all()
    for file in write_series(
        tmp_path / "third", second + 10, modality="MR", SeriesNumber=5, SeriesInstanceUID="1.2.3.5"
    ):
        file.rename(tmp_path / "echoes" / f"third_{file.name}")
    assert (read_scan(tmp_path / "echoes", "MR", series="5").volume.data == 30).all()
    with pytest.raises(ValueError, match="choose one with --series"):
        read_scan(tmp_path / "echoes", "MR")
    with pytest.raises(ValueError, match="no DICOM slices of series 9; it has series 2, 5"):
        read_scan(tmp_path / "echoes", "MR", series="9")


def test_itk_files_and_nifti_in_time(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    image = sitk.GetImageFromArray(data.transpose(2, 1, 0))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        volume = read_itk(tmp_path / name)
        np.testing.assert_array_equal(volume.data, data)
        point = image.TransformIndexToPhysicalPoint((1, 2, 3))
        np.testing.assert_allclose((volume.affine @ [1, 2, 3, 1])[:3], np.multiply(point, (-1, -1, 1)))
    series = np.stack([data, 2 * data], axis=-1)
    nibabel.save(nibabel.Nifti1Image(series, np.diag([2.0, 2, 2, 1])), tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_scan(tmp_path / "b.nii.gz", "MR", volume=1).volume.data, 2 * data)
    with pytest.raises(ValueError, match="wanted --volume 0 to 1, not 5"):
        read_scan(tmp_path / "b.nii.gz", "MR", volume=5)


def test_a_series_through_the_command(tmp_path, source):
    flags = ("--method", "zero_filled", "--mask.acceleration", "1")
    command.main([str(source), str(tmp_path / "new" / "out"), *flags])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out", "out.json"]
    got, want = read_scan(tmp_path / "new" / "out", "MR"), read_scan(source, "MR")
    np.testing.assert_allclose(got.volume.data, want.volume.data, atol=0.51)
    header = pydicom.dcmread(next((tmp_path / "new" / "out").iterdir()))
    assert "reconstructed by zero_filled" in header.DerivationDescription
    write_nifti(tmp_path / "a.nii", want.volume)
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "a.nii"), str(tmp_path / "folder"), *flags])
    assert not Path(tmp_path / "folder").exists()
