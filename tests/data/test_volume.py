import gzip
import os
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest

from atlf_jax.data import inputs
from atlf_jax.data.files import write_file
from atlf_jax.data.volume import (
    Volume,
    from_slices,
    orientation,
    read_nifti,
    resample,
    slice_axis,
    to_slices,
    unplaced,
    write_nifti,
)

OBLIQUE = np.array([[1.1, 0.2, -0.3, 5], [-0.2, 1.2, 0.4, -7], [0.15, -0.1, 4.9, 9], [0, 0, 0, 1.0]])
RIGID = nibabel.affines.from_matvec(
    np.linalg.qr(OBLIQUE[:3, :3])[0] @ np.diag([-1.2, -1.2, 5.0]), [5.0, -7.0, 9.0]
)  # perpendicular axes, which a qform can hold


def numbers(shape=(5, 6, 4), seed=0):
    return np.random.default_rng(seed).normal(100, 50, shape).astype(np.float32)


def store(path, data=None, affine=OBLIQUE, qform=1, sform=1, **header):
    image = nibabel.Nifti1Image(numbers() if data is None else data, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units("mm")
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patched(path, offset, form, *values):
    """Change bytes of a header, past nibabel's own checks."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def refused(path, *words):
    with pytest.raises(ValueError) as error:
        read_nifti(path)
    message = str(error.value)
    assert "\n" not in message
    for word in (path, *words):
        assert str(word) in message


def test_values_place_and_codes(tmp_path):
    volume = read_nifti(store(tmp_path / "a.nii.gz", qform=0, sform=2))
    np.testing.assert_array_equal(volume.data, numbers())
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)
    np.testing.assert_allclose(volume.spacing, np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)
    assert volume.codes == (0, 2)


def test_a_qform_alone_is_honoured(tmp_path):
    volume = read_nifti(store(tmp_path / "a.nii", affine=RIGID, qform=1, sform=0))
    np.testing.assert_allclose(volume.affine, RIGID, atol=1e-5)
    assert volume.codes == (1, 0)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e3), ("mm", 1), ("micron", 1e-3), ("unknown", 1)])
def test_units_become_millimetres(tmp_path, unit, factor):
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(numbers(), RIGID)
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, path)
    np.testing.assert_allclose(read_nifti(path).affine[:3], RIGID[:3] * factor, rtol=1e-5)


def test_stored_integers_are_scaled(tmp_path):
    path = store(tmp_path / "a.nii", data=np.arange(120, dtype=np.int16).reshape(5, 6, 4))
    patched(path, 112, "<ff", 2.0, -1000.0)  # scl_slope, scl_inter
    np.testing.assert_array_equal(read_nifti(path).data.ravel(), 2.0 * np.arange(120) - 1000)


def test_nifti_2_and_a_last_axis_of_one_are_read(tmp_path):
    nibabel.save(nibabel.Nifti2Image(numbers()[..., None], OBLIQUE), tmp_path / "a.nii.gz")
    volume = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, numbers())
    np.testing.assert_allclose(volume.affine, OBLIQUE)


def test_a_missing_file(tmp_path):
    refused(tmp_path / "a.nii", "cannot be read", "No such file")


@pytest.mark.parametrize("content", [b"", b"no scan at all" * 100, gzip.compress(b"neither" * 100, mtime=0)])
def test_what_is_no_nifti(tmp_path, content):
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii", "is not a NIfTI file", "dcm2niix")


def test_a_truncated_gzip(tmp_path):
    path = store(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "truncated gzip", "copy it again")


def test_a_damaged_gzip(tmp_path):
    path = store(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refused(path, "damaged", "copy it again")


def test_a_file_that_is_cut_short(tmp_path):
    path = store(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "cut short", "copy it again")


@pytest.mark.parametrize("shape", [(5, 6, 4, 2), (5, 6)])
def test_another_number_of_dimensions(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(numbers(shape), np.eye(4)), tmp_path / "a.nii")
    refused(tmp_path / "a.nii", f"shape {shape}", "three dimensions")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite(tmp_path, bad):
    data = numbers()
    data[1, 2] = bad
    refused(store(tmp_path / "a.nii", data=data), "4 voxels of 120", "replace them")


def test_complex_voxels(tmp_path):
    refused(store(tmp_path / "a.nii", data=numbers().astype(np.complex64)), "complex64 voxels", "magnitude")


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, np.inf])
def test_spacing_that_is_not_positive(tmp_path, spacing):
    refused(patched(store(tmp_path / "a.nii"), 80, "<f", spacing), "spacing", "wanted three")


def test_a_singular_affine(tmp_path):
    path = patched(store(tmp_path / "a.nii"), 296, "<4f", 1.1, 0.2, -0.3, 5)  # srow_y = srow_x
    refused(path, "singular affine", "repair sform")


def test_what_is_written_is_read_with_its_codes(tmp_path):
    for codes, affine in (((1, 1), OBLIQUE), ((1, 0), RIGID), ((0, 2), OBLIQUE), ((2, 4), RIGID)):
        volume = Volume(numbers(), affine, codes)
        write_nifti(tmp_path / "new" / "a.nii.gz", volume)
        back = read_nifti(tmp_path / "new" / "a.nii.gz")
        np.testing.assert_array_equal(back.data, volume.data)
        np.testing.assert_allclose(back.affine, affine, atol=1e-5)
        assert back.codes == codes
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.nii.gz"]


def test_a_shear_that_the_qform_cannot_hold_goes_to_the_sform(tmp_path):
    sheared = np.diag([1.0, 1.0, 4.0, 1.0])
    sheared[1, 2] = 1.0  # a tilted gantry
    write_nifti(tmp_path / "a.nii", Volume(numbers(), sheared, (1, 0)))
    back = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(back.affine, sheared, atol=1e-6)
    assert back.codes == (1, 1)


def test_equal_volumes_give_equal_bytes_whatever_the_clock(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, Volume(numbers(), OBLIQUE))
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)  # no file name, no time


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.mha ends in neither .nii nor .nii.gz"):
        write_nifti(tmp_path / "a.mha", Volume(numbers(), OBLIQUE))


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, Volume(numbers(), OBLIQUE))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"a.nii.gz cannot be written \(No space left on device\); make room") as error:
        write_nifti(path, Volume(numbers(seed=1), OBLIQUE))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


def test_no_permission(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written"):
        write_file(tmp_path / "file" / "a.nii", b"x")


def test_equal_grids_give_the_same_values():
    for affine in (OBLIQUE, RIGID):
        volume = Volume(numbers(), affine)
        np.testing.assert_array_equal(resample(volume, volume, outside=-1000.0).data, volume.data)


@pytest.mark.parametrize("code", ["RAS", "LPS", "LAS", "PSR", "SRA"])
def test_voxel_order_does_not_matter(code):
    reference = nibabel.Nifti1Image(numbers(), RIGID)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(RIGID), nibabel.orientations.axcodes2ornt(tuple(code))
    )
    image = reference.as_reoriented(turn)
    turned = Volume(np.ascontiguousarray(image.dataobj, np.float32), image.affine)
    assert orientation(turned) == code
    like = Volume(numbers(), RIGID)
    np.testing.assert_array_equal(resample(turned, like, outside=-1000.0).data, like.data)
    np.testing.assert_array_equal(to_slices(turned), to_slices(like))
    np.testing.assert_array_equal(from_slices(to_slices(turned), turned).data, turned.data)


def test_a_linear_function_of_place_survives_any_grid():
    def value(affine, shape):
        place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
        return (place @ [1.0, -2.0, 0.5] + 3).astype(np.float32)

    fine = np.diag([2.0, 2.0, 2.0, 1.0])
    fine[:3, 3] = -40
    moving = Volume(value(fine, (40, 40, 40)), fine)
    turn = nibabel.affines.from_matvec(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), [1.0, 2.0, 3.0])
    for transform in (None, turn):
        moved = (np.eye(4) if transform is None else transform) @ OBLIQUE
        found = resample(moving, Volume(numbers(), OBLIQUE), transform=transform)
        np.testing.assert_allclose(found.data, value(moved, (5, 6, 4)), atol=1e-4)


def test_a_voxel_reaches_half_its_size():
    moving = Volume(np.full((2, 2, 2), 7, np.float32), np.eye(4))
    line = Volume(np.zeros((8, 1, 1), np.float32), np.diag([0.5, 1.0, 1.0, 1.0]))  # at 0, 0.5, 1, 1.5, 2, ...
    assert resample(moving, line, outside=-1000.0).data.ravel().tolist() == [7] * 4 + [-1000] * 4


def test_a_singular_transform_is_refused():
    volume = Volume(numbers(), OBLIQUE)
    with pytest.raises(ValueError, match="the transform has a singular affine"):
        resample(volume, volume, transform=np.diag([1.0, 1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1, 1, 5), 2), ((4, 1, 1), 0), ((1, 3, 1), 1), ((1, 1, 1), 2), ((3, 1, 3), 2)]
)
def test_slices_are_those_of_the_scan(spacing, axis):
    volume = Volume(numbers(), np.diag([*map(float, spacing), 1.0]))
    assert slice_axis(volume) == axis
    assert len(to_slices(volume)) == volume.data.shape[axis]


def test_slices_look_as_radiologists_see_them():
    data = numbers()
    axial = to_slices(Volume(data, np.diag([1.0, 1.0, 5.0, 1.0])))  # RAS
    assert axial[2, 0, 0] == data[-1, -1, 2]  # the patient's front up, the right on the left
    sagittal = to_slices(Volume(data, np.diag([5.0, 1.0, 1.0, 1.0])))
    assert sagittal[2, 0, 0] == data[2, -1, -1]  # head up, front on the left


@pytest.mark.parametrize("spacing", [(0.5, 0.75, 3.0), None])
def test_slices_without_a_place(tmp_path, spacing):
    slices = np.random.default_rng(0).random((3, 5, 4), np.float32)
    volume = unplaced(slices, spacing)
    np.testing.assert_array_equal(to_slices(volume), slices)
    write_nifti(tmp_path / "a.nii.gz", volume)
    read = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(to_slices(read), slices)
    np.testing.assert_array_equal(read.affine, volume.affine)
    assert read.codes == (0, 0) and read.data.shape == (4, 5, 3)
    np.testing.assert_array_equal(read.spacing, (0.75, 0.5, 3.0) if spacing else (1, 1, 1))


def test_slices_of_another_size_are_refused():
    volume = Volume(numbers(), OBLIQUE)
    with pytest.raises(ValueError, match=r"shape \(4, 6, 6\); wanted \(4, 6, 5\)"):
        from_slices(np.zeros((4, 6, 6), np.float32), volume)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "shape", "code", "codes", "spacing"),
    [
        ("chaos/totalsegmentator_abdomen/example_ct_sm.nii.gz", (122, 101, 30), "RAS", (0, 2), (3, 3, 3)),
        ("chaos/totalsegmentator_abdomen/example_mr_sm.nii.gz", (117, 91, 20), "LPS", (0, 2), (3, 3, 3)),
        ("mmwhs/mscmr_mr_volumes/patient11_C0.nii.gz", (192, 192, 12), "PSR", (1, 0), (1.1875, 1.1875, 8)),
        ("registration/clinical_toolbox/scct.nii.gz", (91, 109, 91), "LAS", (2, 2), (2, 2, 2)),
    ],
)
def test_real_files(data_dir, tmp_path, file, shape, code, codes, spacing):
    volume = read_nifti(f"{data_dir}/{file}")
    assert (volume.data.shape, orientation(volume), volume.codes) == (shape, code, codes)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-5)
    np.testing.assert_allclose(volume.affine, nibabel.load(f"{data_dir}/{file}").affine)
    write_nifti(tmp_path / "a.nii.gz", from_slices(to_slices(volume), volume))
    back = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    assert back.codes == codes


@pytest.mark.parametrize(
    ("shape", "spacing", "want"),
    [
        ((24, 28, 1), (2, 2, 1), (1, 28, 24)),  # pixdim[3] left at 1
        ((24, 1, 28), (1, 1, 1), (1, 28, 24)),  # coronal
        ((1, 24, 28), (0.5, 1, 1), (1, 28, 24)),  # sagittal, thinner than its pixels
        ((24, 28, 1), (1, 1, 1), (1, 28, 24)),
        ((24, 1, 1), (1, 1, 3), (1, 1, 24)),  # a line: of the two sides of one voxel, the wider
    ],
)
def test_a_side_of_one_voxel_is_across_the_slice(shape, spacing, want):
    volume = Volume(np.ones(shape, np.float32), np.diag([*map(float, spacing), 1.0]))
    assert to_slices(volume).shape == want
    np.testing.assert_array_equal(from_slices(to_slices(volume), volume).data, volume.data)


def test_the_header_tells_the_acquisition_plane(tmp_path):
    """Slices thinner than their pixels: dim_info knows, and a result and a resampled volume keep it."""
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    image = nibabel.Nifti1Image(numbers((5, 6, 4)), affine)
    image.header.set_dim_info(slice=2)
    nibabel.save(image, tmp_path / "thin.nii")
    volume = read_nifti(tmp_path / "thin.nii")
    assert volume.through == slice_axis(volume) == 2 and len(to_slices(volume)) == 4
    assert slice_axis(Volume(volume.data, affine)) != 2  # by the spacing alone
    write_nifti(tmp_path / "again.nii.gz", from_slices(to_slices(volume), volume))
    assert read_nifti(tmp_path / "again.nii.gz").through == 2
    assert resample(Volume(numbers((9, 9, 9)), np.eye(4)), volume).through == 2


def test_headers_that_say_the_impossible(tmp_path):
    path = store(tmp_path / "a.nii", affine=RIGID)
    refused(patched(path, 70, "<h", 999), "datatype 999", "export it again")
    refused(patched(store(path, affine=RIGID), 42, "<hhh", 32767, 32767, 32767), "32767 x 32767 x 32767", "GiB")
    refused(patched(store(path, affine=RIGID), 108, "<f", 100), "byte 100, inside its header")
    refused(patched(store(path, affine=RIGID), 42, "<h", 4), "longer than the")
    refused(patched(store(path, affine=RIGID), 42, "<h", 6), "shorter than the")


@pytest.mark.parametrize("free", [2**20, 2**40])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before(tmp_path, monkeypatch, free):
    """By its header where memory is short, and as soon as it goes on beyond its header where it lies."""
    monkeypatch.setattr(inputs, "available_memory", lambda: free)
    path = store(tmp_path / "a.nii", np.zeros((64, 64, 64), np.int16), affine=RIGID)
    content = patched(path, 42, "<hhh", 1024, 1024, 1024).read_bytes() if free < 2**30 else path.read_bytes()
    with gzip.open(tmp_path / "bomb.nii.gz", "wb", 1) as file:
        file.write(content)
        for _ in range(16):
            file.write(bytes(2**24))
    size = (tmp_path / "bomb.nii.gz").stat().st_size
    assert size < 2**21
    tracemalloc.start()
    refused(tmp_path / "bomb.nii.gz", *(("GiB in memory",) if free < 2**30 else ("longer than the",)))
    assert tracemalloc.get_traced_memory()[1] < 2**25  # of 256 MiB that are packed
    tracemalloc.stop()


def test_one_dicom_file_is_no_volume(tmp_path):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(400))
    refused(tmp_path / "IM0001", "one slice of a DICOM series", f"give the folder that holds it: {tmp_path}")
