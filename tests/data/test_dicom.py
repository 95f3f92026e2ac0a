import base64
import builtins
import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from atlf_jax.data import inputs
from atlf_jax.data.dicom import is_name_of, is_same_person, read_scan, read_series
from atlf_jax.data.volume import Volume, orientation, read_nifti, slice_axis, write_nifti
from tests.data.dicom_files import AXIAL, NAME, NUMBER, change, write_series

DCMTK = {  # ``numbers(1)`` by ``dcmcjpeg`` of DCMTK 3.6.7, +e1 and +el
    "1.2.840.10008.1.2.4.70": "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAFAAcBAREA/8QAGgAAAgMBAQAAAAAAAAAAAAAACQsHCAoGD//aAAg"
    "BAQABAADwakCnQQDkmZ6ZFS9k9Z+C30H4zbnPdAOU9qd0Gu9W2MkbqsfYfuezQr7oZjm9SsGqTgxLb//Z",
    "1.2.840.10008.1.2.4.57": "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAFAAcBAREA/8QAGwAAAgMAAwAAAAAAAAAAAAAACQsHCAoFBg//2gAI"
    "AQEABgAA8GpAp0EA5JmemRUvcTMKjk7Pyg6WHulmsNfA5p2YC70ZPZlp5S9dK9yFYZtS5dV/K2mtQs///9k=",
}
TILTED = (0.96, 0.28, 0.0, -0.168, 0.576, -0.8)  # two perpendicular unit vectors


def numbers(slices=4, seed=0):
    return np.random.default_rng(seed).integers(0, 2000, (slices, 5, 7)).astype(np.uint16)


def refused(folder, *words):
    with pytest.raises(ValueError) as error:
        read_series(folder)
    message = str(error.value)
    assert "\n" not in message
    assert NAME not in message and NUMBER not in message
    for word in words:
        assert str(word) in message


@pytest.mark.parametrize("axes", [AXIAL, TILTED])
def test_values_and_place(tmp_path, axes):
    stored = numbers()
    write_series(tmp_path, stored, axes=axes)
    scan = read_series(tmp_path)
    np.testing.assert_array_equal(scan.volume.data, stored.transpose(2, 1, 0).astype(np.float32) - 1024)
    row, column, number = 3, 5, 2
    across, down = np.reshape(axes, (2, 3))  # DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1
    place = np.array([-10.0, -20.0, 30.0]) + across * 1.5 * column + down * 2.0 * row
    place += np.cross(across, down) * 3.0 * number
    expected = place * (-1, -1, 1)
    np.testing.assert_allclose((scan.volume.affine @ [column, row, number, 1])[:3], expected, atol=1e-4)
    np.testing.assert_allclose(scan.volume.spacing, (1.5, 2, 3), rtol=1e-5)
    assert scan.modality == "CT"
    if axes == AXIAL:
        assert orientation(scan.volume) == "LPS"


def test_files_are_sorted_by_position_and_other_files_passed_over(tmp_path):
    files = write_series(tmp_path, numbers())
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    scan = read_series(tmp_path)
    heights = [float(pydicom.dcmread(tmp_path / name).ImagePositionPatient[2]) for name in scan.files]
    assert heights == sorted(heights)
    assert sorted(scan.files) == [file.name for file in files]


def test_a_file_without_ending_is_read(tmp_path):
    for file in write_series(tmp_path, numbers()):
        file.rename(file.with_suffix(""))
    assert len(read_series(tmp_path).files) == 4


def test_a_tilted_gantry_is_a_shear(tmp_path):
    for number, file in enumerate(write_series(tmp_path, numbers(), shuffled=False)):
        change(file, ImagePositionPatient=[0.0, 0.5 * number, 3.0 * number])
    np.testing.assert_allclose(read_series(tmp_path).volume.affine[:3, 2], (0, -0.5, 3), atol=1e-6)


def test_one_slice_takes_its_thickness(tmp_path):
    write_series(tmp_path, numbers(1))
    assert read_series(tmp_path).volume.spacing[2] == pytest.approx(3)
    write_series(tmp_path, numbers(1), SliceThickness=None)
    refused(tmp_path, "one slice without a thickness")


def test_an_mr_is_scaled_slice_by_slice(tmp_path):
    files = write_series(tmp_path, numbers(), modality="MR", shuffled=False)
    change(files[1], RescaleSlope=2.5, RescaleIntercept=4)
    scan = read_series(tmp_path)
    expected = numbers().astype(np.float32)
    expected[1] = expected[1] * 2.5 + 4
    np.testing.assert_array_equal(scan.volume.data, expected.transpose(2, 1, 0))


def test_padding_of_a_ct_is_air(tmp_path):
    stored = numbers()
    stored[:, 0] = 63536
    write_series(tmp_path, stored, PixelPaddingValue=63536)
    assert (read_series(tmp_path).volume.data[:, 0] == -1000).all()


def test_a_missing_slice(tmp_path):
    write_series(tmp_path, numbers(), places=[0, 3, 9, 12])
    refused(tmp_path, "misses a slice", "6 mm from 33 to 39 mm", "3 mm elsewhere")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"SeriesInstanceUID": "1.2.3.5"}, ("mixes 2 series, of 1, 3 files", "its own folder")),
        ({"PatientID": "PID-4712"}, ("differ in PatientID",)),
        ({"PatientName": "Other^Person"}, ("differ in PatientName",)),
        ({"Modality": "MR"}, ("differ in Modality",)),
        ({"PixelSpacing": [1.0, 1.0]}, ("differ in PixelSpacing", "localiser")),
        ({"ImageOrientationPatient": [1.0, 0, 0, 0, 0, -1]}, ("differ in ImageOrientationPatient", "localiser")),
    ],
)
def test_a_mixed_folder(tmp_path, tags, words):
    change(write_series(tmp_path, numbers())[2], **tags)
    refused(tmp_path, tmp_path, *words)


def test_in_and_out_phase_in_one_folder(tmp_path):
    files = write_series(tmp_path, numbers(), modality="MR", places=[0, 0, 3, 3], shuffled=False, EchoTime=4.6)
    for file in files[::2]:
        change(file, EchoTime=2.3)
    refused(tmp_path, "several images at one place", "differ in EchoTime", "its own folder")


def test_slices_off_the_line(tmp_path):
    change(write_series(tmp_path, numbers(), shuffled=False)[1], ImagePositionPatient=[5.0, -20.0, 33.0])
    refused(tmp_path, "do not lie on a line")


@pytest.mark.parametrize("colour", ["RGB", "PALETTE COLOR", "MONOCHROME1"])
def test_a_wrong_photometric_interpretation(tmp_path, colour):
    files = write_series(tmp_path, numbers())
    change(files[1], PhotometricInterpretation=colour)
    refused(tmp_path, files[1], colour, "wanted MONOCHROME2")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PixelData": None}, ("no pixel data",)),
        ({"NumberOfFrames": 3}, ("3 frames", "dcm2niix")),
        ({"ImagePositionPatient": None}, ("no ImagePositionPatient", "place in space")),
        ({"PixelSpacing": [0.0, 1.0]}, ("pixel spacing [0.0, 1.0]", "positive")),
        ({"PixelSpacing": [1.0, -1.0]}, ("pixel spacing [1.0, -1.0]", "positive")),
        ({"RescaleIntercept": None}, ("without RescaleSlope and RescaleIntercept", "Hounsfield")),
        ({"PixelData": b"\0" * 20}, ("cannot be decoded", "copy it again")),
    ],
)
def test_a_file_that_is_no_slice(tmp_path, tags, words):
    files = write_series(tmp_path, numbers())
    change(files[1], **tags)
    refused(tmp_path, files[1], *words)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.100"])
def test_a_compression_without_decoder(tmp_path, syntax, monkeypatch):
    from pydicom.pixels import decoders

    for name in ("JPEG2000LosslessDecoder", "JPEGLosslessDecoder"):
        monkeypatch.setattr(getattr(decoders, name), "_available", {})
    files = write_series(tmp_path, numbers())
    header = pydicom.dcmread(files[0])
    header.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    header.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 20])
    header["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(files[0], header)
    refused(tmp_path, files[0], "is compressed", "no decoder", "atlf-jax[dicom]", "gdcmconv --raw")


def test_a_compression_that_pydicom_decodes_itself(tmp_path):
    stored = numbers()
    for file in write_series(tmp_path, stored):
        header = pydicom.dcmread(file)
        header.compress(pydicom.uid.RLELossless)
        header.save_as(file)
    np.testing.assert_array_equal(read_series(tmp_path).volume.data + 1024, stored.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("name", "writer"), [("RLE", "OFFIS_DCMTK"), ("jp2klossless", "GDCM"), ("jpeg_ls_lossless", "GDCM")]
)
def test_compressed_files_of_other_programs(tmp_path, name, writer):
    """Of one slice of a scanner, which pydicom ships plain and compressed by DCMTK and by GDCM."""
    file = Path(get_testdata_file(f"MR_small_{name}.dcm", download=False))
    assert pydicom.dcmread(file).file_meta.ImplementationVersionName.startswith(writer)
    (tmp_path / "IM0000.dcm").write_bytes(file.read_bytes())
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False)).pixel_array
    np.testing.assert_array_equal(read_series(tmp_path).volume.data[..., 0], plain.T)


@pytest.mark.parametrize(("syntax", "stream"), DCMTK.items())
def test_lossless_jpeg_of_dcmtk(tmp_path, syntax, stream):
    stored = numbers(1)
    (file,) = write_series(tmp_path, stored)
    header = pydicom.dcmread(file)
    header.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    header.PixelData = pydicom.encaps.encapsulate([base64.b64decode(stream)])
    header["PixelData"].is_undefined_length = True
    header.save_as(file)
    np.testing.assert_array_equal(read_series(tmp_path).volume.data + 1024, stored.transpose(2, 1, 0))


def test_a_broken_file(tmp_path):
    files = write_series(tmp_path, numbers())
    files[1].write_bytes(b"nothing")
    refused(tmp_path, files[1], "not a readable DICOM file")


def test_a_folder_without_slices(tmp_path):
    refused(tmp_path / "nowhere", "is not a folder")
    refused(tmp_path, "holds no DICOM files", "right one")
    write_series(tmp_path / "InPhase", numbers())
    refused(tmp_path, "holds no DICOM files", "InPhase")


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    write_series(tmp_path, numbers())
    original = builtins.__import__

    def without(name, *arguments, **settings):
        if name == "pydicom":
            raise ImportError(name)
        return original(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(tmp_path, "pip install 'atlf-jax[dicom]'")


def test_people_are_told_apart_by_their_number_and_never_named(tmp_path):
    write_series(tmp_path / "a", numbers())
    write_series(tmp_path / "b", numbers(), modality="MR", name="E. Muster")
    write_series(tmp_path / "c", numbers(), modality="MR", number="PID-1")
    write_series(tmp_path / "d", numbers(), modality="MR", number="", name="")
    a, b, c, d = (read_series(tmp_path / name) for name in "abcd")
    assert is_same_person(a, b) and not is_same_person(a, c) and is_same_person(a, d)
    for text in (repr(a), repr(c)):
        assert "Muster" not in text and "PID" not in text
    assert all(is_name_of(a, text) for text in ("erika_muster", "Muster-Erika", "PID-4711"))
    assert not any(is_name_of(a, text) for text in ("p01", "erika", "")) and not is_name_of(d, "p01")


def test_a_scan_is_a_folder_or_a_nifti_file_of_the_modality(tmp_path):
    write_series(tmp_path / "ct", numbers())
    assert read_scan(tmp_path / "ct", "CT").modality == "CT"
    with pytest.raises(ValueError, match=r"ct is CT by its header; wanted MR \(are the two swapped\?\)"):
        read_scan(tmp_path / "ct", "MR")
    write_nifti(tmp_path / "a.nii", Volume(np.ones((3, 4, 5), np.float32), np.eye(4)))
    assert read_scan(tmp_path / "a.nii", "MR").volume.data.shape == (3, 4, 5)


def test_padding_of_an_mr_is_air(tmp_path):
    """One value, and a range of values; both lie inside the volume's range after scaling."""
    stored = numbers()
    stored[:, :2] = 300
    write_series(tmp_path / "one", stored, modality="MR", PixelPaddingValue=300)
    data = read_series(tmp_path / "one").volume.data
    assert not data[:, :2].any() and (data[:, 2:] == stored.transpose(2, 1, 0)[:, 2:]).mean() > 0.99
    write_series(tmp_path / "range", stored, modality="MR", PixelPaddingValue=300, PixelPaddingRangeLimit=200)
    data = read_series(tmp_path / "range").volume.data
    kept = (stored < 200) | (stored > 300)
    np.testing.assert_array_equal(data, np.where(kept, stored, 0).transpose(2, 1, 0))


def test_a_mosaic_is_taken_apart(tmp_path):
    """A real header of a Siemens scanner, which comes with nibabel, and its place as SPM's converter has it."""
    real = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "siemens_dwi_0.dcm.gz"
    header = pydicom.dcmread(io.BytesIO(gzip.decompress(real.read_bytes())))
    want = np.random.default_rng(0).integers(0, 4000, (48, 128, 128)).astype(np.uint16)  # slice, row, column
    tiles = np.zeros((49, 128, 128), np.uint16)
    tiles[:48] = want
    header.PixelData = tiles.reshape(7, 7, 128, 128).transpose(0, 2, 1, 3).tobytes()
    header.save_as(tmp_path / "a.dcm")
    scan = read_series(tmp_path)
    np.testing.assert_array_equal(scan.volume.data, want.transpose(2, 1, 0))
    spm = [
        [-1.796875, 0, 0, 115],
        [0, -1.79684984, -0.01570896, 135.028779],
        [0, -0.0094084375, 2.99995887, -78.710481],
    ]
    np.testing.assert_allclose(scan.volume.affine[:3], spm, atol=1e-5)
    assert scan.modality == "MR" and slice_axis(scan.volume) == 2 and scan.files == ("a.dcm",)
    header.save_as(tmp_path / "b.dcm")
    refused(tmp_path, "holds 2 Siemens mosaics", "a series in time", "a folder of its own")


def test_a_mosaic_that_does_not_tell_its_tiles_is_refused(tmp_path):
    write_series(tmp_path, numbers(1), modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    refused(tmp_path, "IM0000.dcm is a Siemens mosaic", "dcm2niix")


def test_lists_of_files_are_passed_over(tmp_path):
    write_series(tmp_path, numbers())
    want = read_series(tmp_path).volume.data
    for name in ("DICOMDIR", "DIRFILE", "dirfile"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + b"anything")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.1.3.10", ExplicitVRLittleEndian
    index = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    index.save_as(tmp_path / "INDEX")
    np.testing.assert_array_equal(read_series(tmp_path).volume.data, want)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00DS"),  # Rows
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00IS"),
        (b"\x28\x00\x30\x00DS", b"\x28\x00\x30\x00US"),  # PixelSpacing
        (b"\x18\x00\x50\x00DS\x04\x002", b"\x18\x00\x50\x00DS\x04\x00x"),  # SliceThickness
        (b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00??"),
    ],
)
def test_a_wrong_value_representation_names_the_file(tmp_path, old, new):
    file = write_series(tmp_path, numbers(), SliceThickness="2.5")[1]
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    refused(tmp_path, "IM0001.dcm ")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"TemporalPositionIdentifier": 1}, "several time points"),
        ({"ContentTime": "101500"}, "several time points"),
        ({"EchoTime": 4.6}, "several echoes"),
        ({}, "2 at each of 4 places: a series in time, or copies"),
    ],
)
def test_a_series_in_time_says_so(tmp_path, tags, words):
    write_series(tmp_path, numbers(), modality="MR")
    write_series(tmp_path / "later", numbers(seed=1), modality="MR", **tags)
    for file in (tmp_path / "later").iterdir():
        file.rename(tmp_path / f"later_{file.name}")
    (tmp_path / "later").rmdir()
    refused(tmp_path, "several images at one place", words, "give each volume its own folder")


def test_one_slice_is_answered_with_its_folder(tmp_path):
    file = write_series(tmp_path, numbers())[0]
    with pytest.raises(ValueError, match=f"IM0000.dcm is one slice of a DICOM series; give the folder .*: {tmp_path}"):
        read_scan(file, "CT")


def test_slices_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    write_series(tmp_path, numbers())
    monkeypatch.setattr(inputs, "available_memory", lambda: 1000)
    refused(tmp_path, "4 slices of", "GiB are free")


def test_the_slices_of_a_series_are_its_last_axis(tmp_path):
    write_series(tmp_path, numbers(), spacing=(5.0, 5.0), step=1.0)
    volume = read_series(tmp_path).volume
    assert volume.through == slice_axis(volume) == 2


@pytest.mark.data
def test_real_slices_lie_where_the_nifti_of_the_same_scan_has_them(data_dir):
    scan = read_series(f"{data_dir}/chaos/ct_set_3/dicom")
    whole = nibabel.load(f"{data_dir}/chaos/ct_set_3/CT.nii.gz")
    start = round((scan.volume.affine[2, 3] - whole.affine[2, 3]) / 2.0)
    np.testing.assert_array_equal(scan.volume.data, whole.dataobj[:, :, start : start + 8])
    np.testing.assert_allclose(scan.volume.affine[:3, :3], whole.affine[:3, :3])
    assert scan.volume.data.min() == -1000 and scan.modality == "CT"
    assert read_nifti(f"{data_dir}/chaos/ct_set_3/CT.nii.gz").codes == (1, 1)
