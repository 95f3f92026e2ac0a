import dataclasses
import errno
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from atlf_jax.data import FastMRIConfig, FastMRISource, inputs
from atlf_jax.data.fastmri import KSpaceFile, centre_crop, write_kspace, write_reconstruction
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy

SHAPE = (24, 20)


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def write_patients(folder, patients, *, coils=(), **more):
    folder.mkdir(parents=True, exist_ok=True)
    for number, patient in enumerate(patients):
        attributes = {"patient_id": patient, "acquisition": "AXT2" if number % 2 else "CORPD_FBK", "max": 1.0}
        path = folder / f"{folder.name}{number}.h5"
        write_kspace(path, noise(2, *coils, *SHAPE, seed=number), attributes=attributes, **more)


def refused(path, *words):
    with pytest.raises(ValueError) as error:
        KSpaceFile(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("coils", [(), (3,)])
def test_what_is_written_is_read(tmp_path, coils):
    kspace, mask = noise(2, *coils, *SHAPE), np.arange(20) % 2 == 0
    path = tmp_path / "new" / "file1.h5"
    write_kspace(path, kspace, mask=mask, attributes={"patient_id": "7", "max": np.float32(2)})
    with KSpaceFile(path) as file:
        assert len(file) == 2 and file.coils == sum(coils)
        assert file.shape == file.image_shape == SHAPE
        np.testing.assert_array_equal(file[1], kspace[1])
        np.testing.assert_array_equal(file.mask, mask)
        assert file.acquired.all()
        assert file.attributes == {"patient_id": "7", "max": 2.0}
    assert [file.name for file in path.parent.iterdir()] == ["file1.h5"]
    with h5py.File(path) as raw:
        assert raw["kspace"].dtype == np.complex64 and raw["mask"].shape == (20,)


def test_padding_and_image_size_come_from_the_header(tmp_path):
    """A header as of a knee: 640 x 368 encoded, 320 x 320 reconstructed, 329 of the 368 lines measured."""
    text = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        "<encodedSpace><matrixSize><x>640</x><y>368</y><z>1</z></matrixSize></encodedSpace>"
        "<reconSpace><matrixSize><x>320</x><y>320</y><z>1</z></matrixSize>"
        "<fieldOfView_mm><x>160.</x><y>144.</y><z>4.5</z></fieldOfView_mm></reconSpace>"
        "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>328</maximum><center>164</center>"
        "</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"
    )
    path = tmp_path / "knee.h5"
    with h5py.File(path, "w") as raw:
        raw["kspace"] = np.zeros((1, 640, 368), np.complex64)
        raw["ismrmrd_header"] = text.encode()
        raw["mask"] = np.ones(368, np.float32)
    with KSpaceFile(path) as file:
        assert file.image_shape == (320, 320) and file.spacing == (0.5, 0.45, 4.5)
        assert np.flatnonzero(file.acquired)[[0, -1]].tolist() == [20, 348]  # 184 - 164, and 329 lines from there
        np.testing.assert_array_equal(file.mask, file.acquired)


def test_padding_is_written_to_the_header(tmp_path):
    write_kspace(tmp_path / "a.h5", noise(1, *SHAPE), padding=(3, 2), image_shape=(16, 30))
    with KSpaceFile(tmp_path / "a.h5") as file:
        assert np.flatnonzero(file.acquired).tolist() == list(range(3, 18))
        assert file.image_shape == (16, 20)  # never larger than k-space
    with pytest.raises(ValueError, match=r"padding is \(11, 0\) lines of 20"):
        write_kspace(tmp_path / "b.h5", noise(1, *SHAPE), padding=(11, 0))


@pytest.mark.parametrize("spacing", [(0.5, 0.75, 3.0), None, (0.0, 1.0, 1.0), (1.0, 1.0, -2.0)])
def test_the_voxel_size_comes_from_the_header(tmp_path, spacing):
    write_kspace(tmp_path / "a.h5", noise(1, *SHAPE), spacing=spacing, image_shape=(16, 16))
    with KSpaceFile(tmp_path / "a.h5") as file:
        assert file.spacing == (spacing if spacing and min(spacing) > 0 else None)


def test_without_a_header_nothing_is_padding(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as raw:
        raw["kspace"] = noise(1, *SHAPE)
    with KSpaceFile(tmp_path / "a.h5") as file:
        assert file.acquired.all() and file.image_shape == SHAPE and file.mask is None
        assert file.spacing is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"reconstruction": np.zeros((1, 4, 4))}, ("holds reconstruction", "dataset named kspace")),
        ({"kspace": np.zeros((1, 20, 16, 2))}, ("float64", "kept apart", "k[..., 0] + 1j * k[..., 1]")),
        ({"kspace": np.zeros((2, 5, 20, 16))}, ("float64", "(k[0] + 1j * k[1])")),
        ({"kspace": np.zeros((1, 20, 16))}, ("float64", "wanted complex64 samples")),
        ({"kspace": np.zeros((20, 16), complex)}, ("(20, 16)", "(slices, coils, h, w)")),
        ({"kspace": np.zeros((0, 20, 16), complex)}, ("(0, 20, 16)",)),
        ({"kspace": noise(1, 20, 16), "mask": np.ones(9)}, ("mask has shape (9,)", "wanted (16,)")),
        ({"kspace": noise(1, 20, 16), "mask": np.full(16, 3)}, ("zeros and ones",)),
        ({"kspace": noise(1, 20, 16), "ismrmrd_header": b"<a>"}, ("ismrmrd_header cannot be read",)),
        ({"kspace": noise(1, 20, 16), "ismrmrd_header": b"<a/>"}, ("it has no reconSpace/matrixSize/x",)),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, content, words):
    path = tmp_path / "wrong.h5"
    with h5py.File(path, "w") as raw:
        for name, value in content.items():
            raw[name] = value
    refused(path, *words)


def test_a_missing_or_broken_file(tmp_path):
    refused(tmp_path / "nothing.h5", "does not exist")
    write_kspace(tmp_path / "half.h5", noise(3, *SHAPE))
    whole = (tmp_path / "half.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.h5", "not a readable HDF5 file", "copy it again")


def test_a_reconstruction_is_written_image_by_image(tmp_path):
    path = tmp_path / "out.h5"
    images = np.abs(noise(3, *SHAPE))
    write_reconstruction(path, iter(images), slices=3, attributes={"acquisition": "AXT2"})
    with h5py.File(path) as raw:
        assert raw["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(raw["reconstruction"], images)
        assert raw.attrs["acquisition"] == "AXT2"
    for count in (2, 4):
        with pytest.raises(ValueError, match=f"got {count} images for .*; wanted 3"):
            write_reconstruction(tmp_path / "bad.h5", iter(np.resize(images, (count, *SHAPE))), slices=3)
    assert [file.name for file in tmp_path.iterdir()] == ["out.h5"]


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "out.h5"
    path.write_text("old")

    def images():
        yield np.zeros(SHAPE, np.float32)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match=r"out.h5 cannot be written \(No space left on device\); make room"):
        write_reconstruction(path, images(), slices=2)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="cannot be written"):
        write_kspace(path / "inside_a_file.h5", noise(1, *SHAPE))


def test_centre_crop():
    image = np.arange(30).reshape(5, 6)
    np.testing.assert_array_equal(centre_crop(image, (3, 2)), image[1:4, 2:4])
    np.testing.assert_array_equal(centre_crop(image, (9, 2)), image[:, 2:4])  # FLAIR heads: narrower than the header


def test_the_target_of_one_coil_is_the_complex_image(tmp_path):
    write_patients(tmp_path, ["a", "b", "c", "d"], image_shape=(18, 16))
    source = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all"))
    assert len(source) == 8
    example = source[3]
    want = ifft2c_numpy(noise(2, *SHAPE, seed=1))[:, 3:21, 2:18]
    np.testing.assert_allclose(example.target, want[1] / np.abs(want).max(), atol=1e-6)
    assert example.ct.shape == (18, 16) and not example.ct.any()
    for patient in "abcd":
        assert patient != example.subject and len(example.subject) == 12


@pytest.mark.parametrize("told", [None, 1.0, 2.0, 0.5], ids=["none", "right", "twice", "half"])
def test_targets_are_in_units_of_the_volumes_maximum_whatever_the_file_tells(tmp_path, told):
    kspace = 7e-5 * noise(3, *SHAPE)
    images = ifft2c_numpy(kspace)
    stale = {} if told is None else {"max": told * np.abs(images).max()}
    write_kspace(tmp_path / "a.h5", kspace, attributes={"patient_id": "a", **stale})
    source = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all"))
    for index in range(3):
        np.testing.assert_allclose(source[index].target, images[index] / np.abs(images).max(), atol=1e-6)


def test_records_carry_no_name_of_a_person(tmp_path):
    for name in ("Erika_Muster", "file1000001", "file_brain_AXT2_200_6002471"):
        write_kspace(tmp_path / f"{name}.h5", noise(1, *SHAPE), attributes={"patient_id": name})
    names = sorted(example.name for example in FastMRISource(FastMRIConfig(root=str(tmp_path), split="all")))
    assert names[1:] == ["file1000001_000", "file_brain_AXT2_200_6002471_000"]
    assert re.fullmatch(r"[0-9a-f]{12}_000", names[0])


def test_a_file_without_a_patient_is_refused(tmp_path):
    write_kspace(tmp_path / "a.h5", noise(1, *SHAPE))
    with pytest.raises(ValueError, match=r"a.h5 has no attribute patient_id: .* two splits"):
        FastMRISource(FastMRIConfig(root=str(tmp_path), split="all"))


def rss_peak(kspace):
    return np.linalg.norm(ifft2c_numpy(kspace), axis=1).max()


def test_coils_are_combined(tmp_path):
    write_patients(tmp_path, ["a", "b", "c", "d"], coils=(3,))
    target = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all"))[0].target
    images = ifft2c_numpy(noise(2, 3, *SHAPE)[0])
    np.testing.assert_allclose(target, np.linalg.norm(images, axis=0) / rss_peak(noise(2, 3, *SHAPE)), rtol=1e-5)
    flat = noise(1, *SHAPE)[0] * np.hypot(*np.mgrid[-1:1:24j, -1:1:20j])  # one image seen by three coils
    weights = np.array([1, 2j, -2], np.complex64)[:, None, None]
    kspace = fft2c_numpy((weights * flat).astype(np.complex64))[None]
    write_kspace(tmp_path / "z.h5", kspace, attributes={"patient_id": "z", "max": 1.0})
    config = FastMRIConfig(root=str(tmp_path), split="all", combine="espirit")
    target = FastMRISource(config)[8].target
    np.testing.assert_allclose(target, flat / np.abs(flat).max(), atol=1e-4)  # phase of the first coil


def test_measured_coils_come_as_they_are(tmp_path):
    """The readout is cut to the image, no line is; values are in units of the volume's maximum, as the target."""
    kspace = 3e-6 * noise(2, 3, *SHAPE)
    kspace[..., :4] = 0
    settings = {"image_shape": (16, 20), "padding": (4, 0), "attributes": {"patient_id": "a"}}
    write_kspace(tmp_path / "a.h5", kspace, **settings)
    config = FastMRIConfig(root=str(tmp_path), split="all", measured=True)
    example = FastMRISource(config)[1]
    images = ifft2c_numpy(kspace)[:, :, 4:20]
    peak = np.linalg.norm(images, axis=1).max()
    np.testing.assert_allclose(example.kspace * peak, fft2c_numpy(images[1]), atol=1e-6 * np.abs(kspace).max())
    np.testing.assert_allclose(example.target, np.linalg.norm(images[1], axis=0) / peak, atol=1e-5)
    np.testing.assert_array_equal(example.acquired, np.arange(20)[None] >= 4)
    assert example.coil_maps is None and example.ct.shape == (16, 20)
    wide = FastMRISource(dataclasses.replace(config, columns=26))[1]
    assert wide.kspace.shape == (3, 16, 26) and wide.target.shape == (16, 26)
    np.testing.assert_allclose(wide.kspace[..., 3:23], example.kspace * np.sqrt(26 / 20), rtol=1e-5)
    np.testing.assert_array_equal(wide.acquired[0], (np.arange(26) >= 7) & (np.arange(26) < 23))
    with pytest.raises(
        ValueError, match="a.h5 has 20 lines, and data.fastmri.columns is 18; wanted as many as the widest"
    ):
        FastMRISource(dataclasses.replace(config, columns=18))[0]
    with pytest.raises(ValueError, match="columns is 18; wanted 0, or a number of lines with measured set"):
        FastMRIConfig(columns=18)


@pytest.mark.parametrize("measured", [False, True])
def test_undersampled_kspace_without_a_mask_is_no_truth(tmp_path, measured):
    kspace = noise(2, 3, *SHAPE)
    kspace[..., 5:7] = 0
    write_kspace(tmp_path / "a.h5", kspace, attributes={"patient_id": "a"})
    source = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all", measured=measured))
    with pytest.raises(ValueError, match=r"a.h5 is not fully sampled, so it has no truth: 2 of 20 columns"):
        source[0]


def test_zeros_at_the_edges_count_as_not_measured_without_a_header(tmp_path):
    kspace = noise(2, 3, *SHAPE)
    kspace[..., 15:] = 0
    write_kspace(tmp_path / "a.h5", kspace, attributes={"patient_id": "a"})
    example = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all", measured=True))[0]
    np.testing.assert_array_equal(example.acquired, np.arange(20)[None] < 15)


def test_one_measured_coil_is_a_coil_and_espirit_targets_bring_their_maps(tmp_path):
    write_patients(tmp_path, ["a", "b"])
    example = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all", measured=True))[0]
    assert example.kspace.shape == (1, *SHAPE)
    np.testing.assert_allclose(np.abs(ifft2c_numpy(example.kspace)[0]), example.target.real, atol=1e-6)
    many = tmp_path / "many"
    write_patients(many, ["a", "b"], coils=(3,))
    example = FastMRISource(FastMRIConfig(root=str(many), split="all", measured=True, combine="espirit"))[0]
    combined = (example.coil_maps.conj() * ifft2c_numpy(example.kspace)).sum(0)
    np.testing.assert_allclose(example.target, combined, atol=1e-5)
    config = FastMRIConfig(
        root=str(many), split="all", measured=True, combine="espirit", keep_maps=str(tmp_path / "maps")
    )
    np.testing.assert_array_equal(FastMRISource(config)[0].coil_maps, example.coil_maps)
    assert len(list((tmp_path / "maps").iterdir())) == 1


def test_official_parts(tmp_path):
    write_patients(tmp_path / "knee_singlecoil_train", [f"t{n}" for n in range(6)])
    write_patients(tmp_path / "knee_singlecoil_val", [f"v{n}" for n in range(3)])
    write_patients(tmp_path / "knee_multicoil_val", ["m"], coils=(2,))
    counts = {
        split: len(FastMRISource(FastMRIConfig(root=str(tmp_path), split=split)))
        for split in ("train", "inner_train", "inner_valid", "valid", "test", "all")
    }
    assert counts == {"train": 12, "inner_train": 10, "inner_valid": 2, "valid": 4, "test": 2, "all": 18}
    assert len(FastMRISource(FastMRIConfig(root=str(tmp_path), split="all", acquisition="AXT2"))) == 8
    assert len(FastMRISource(FastMRIConfig(root=str(tmp_path), split="valid", coils="multicoil"))) == 2
    write_patients(tmp_path / "knee_singlecoil_val", ["t0"])
    with pytest.raises(ValueError, match="is in train and in val"):
        FastMRISource(FastMRIConfig(root=str(tmp_path)))


def test_wrong_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("ATLF_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match="set data.fastmri.root"):
        FastMRISource(FastMRIConfig())
    monkeypatch.setenv("ATLF_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="fastmri does not exist"):
        FastMRISource(FastMRIConfig())
    with pytest.raises(ValueError, match="with .h5 files nor .h5 files itself"):
        FastMRISource(FastMRIConfig(root=str(tmp_path)))
    write_patients(tmp_path, ["a"])
    with pytest.raises(ValueError, match=r"no volume of split 'test' in .* \(1 volumes of 1 patients\)"):
        FastMRISource(FastMRIConfig(root=str(tmp_path), split="test"))
    write_kspace(tmp_path / "scan.h5", noise(1, *SHAPE), mask=np.ones(20, bool))
    with pytest.raises(ValueError, match="has a mask: it is undersampled"):
        FastMRISource(FastMRIConfig(root=str(tmp_path)))


@pytest.mark.data
def test_a_real_scan_goes_through_a_file(tmp_path, data_dir):
    kspace = np.load(Path(data_dir, "kspace", "larson_knee_1ch_full_332x640.npy"))
    write_kspace(tmp_path / "knee.h5", kspace[None].astype(np.complex64), attributes={"patient_id": "knee", "max": 1.0})
    (example,) = FastMRISource(FastMRIConfig(root=str(tmp_path), split="all"))
    peak = np.abs(ifft2c_numpy(kspace.astype(np.complex64))).max()
    np.testing.assert_allclose(peak * fft2c_numpy(example.target), kspace, atol=1e-5 * np.abs(kspace).max())


def hdf5(path, **datasets):
    with h5py.File(path, "w") as raw:
        for name, value in datasets.items():
            raw[name] = value
    return path


def test_kspace_of_another_file_is_not_read(tmp_path):
    """External storage, an external link, a soft link and a virtual dataset would read bytes from elsewhere."""
    (tmp_path / "secret").write_bytes(noise(1, *SHAPE).tobytes())
    other, path = hdf5(tmp_path / "other.h5", kspace=noise(1, *SHAPE)), tmp_path / "scan.h5"
    with h5py.File(path, "w") as raw:
        stored = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        raw.create_dataset("kspace", (1, *SHAPE), np.complex64, external=stored)
    refused(path, "keeps kspace in another file", "h5copy")
    with h5py.File(path, "w") as raw:
        layout = h5py.VirtualLayout((1, *SHAPE), np.complex64)
        layout[:] = h5py.VirtualSource(str(other), "kspace", (1, *SHAPE))
        raw.create_virtual_dataset("kspace", layout)
    refused(path, "keeps kspace in another file")
    for link in (h5py.ExternalLink("other.h5", "/kspace"), h5py.SoftLink("/inner/kspace"), h5py.SoftLink("/nothing")):
        with h5py.File(path, "w") as raw:
            raw["inner/kspace"] = noise(1, *SHAPE)
            raw["kspace"] = link
        refused(path, "has a link in place of the dataset kspace")
    with h5py.File(path, "w") as raw:
        raw["kspace"], raw["mask"] = noise(1, *SHAPE), h5py.ExternalLink("other.h5", "/mask")
    refused(path, "has a link in place of the dataset mask")


def test_other_layouts_are_told_by_their_names(tmp_path):
    path = hdf5(tmp_path / "a.h5", **{"kspace/real": np.ones(3), "kspace/imaginary": np.ones(3)})
    refused(path, "has a group named kspace (holding imaginary, real)", "wanted a dataset")
    refused(hdf5(path, **{"dataset/xml": [b"<a/>"], "dataset/data": np.ones(3)}), "is an ISMRMRD file", "BART")
    refused(hdf5(path, kspace=noise(24, 20, 4)), "has its coils last; turn it: numpy.moveaxis(k, -1, 0)")
    refused(hdf5(path, kspace=noise(2, 24, 20, 4)), "has its coils last; turn it: numpy.moveaxis(k, -1, 1)")
    refused(hdf5(path, kspace="text"), "kspace of shape ()")
    refused(hdf5(path, kspace=h5py.Empty("f8")), "kspace of shape ()")
    bomb = b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    refused(hdf5(path, kspace=noise(1, *SHAPE), ismrmrd_header=bomb), "defines entities of its own")


def test_kspace_that_was_never_written_or_does_not_fit(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as raw:  # a chunk of a thousand
        data = raw.create_dataset("kspace", (1000, 256, 256), np.complex64, chunks=(1, 256, 256), compression="gzip")
        data[0] = noise(256, 256)
    refused(path, "declares 524288000 bytes of kspace that were never written")
    hdf5(path, kspace=noise(1, *SHAPE))
    monkeypatch.setattr(inputs, "available_memory", lambda: 1000)
    refused(path, "slices (24, 20)", "GiB are free")


def test_numbers_of_a_damaged_type_are_not_read(tmp_path):
    """Pairs of two floats in twelve bytes: h5py takes them for complex64 and gives what was in memory before."""
    padded = np.dtype({"names": ["r", "i"], "formats": ["<f4", "<f4"], "offsets": [0, 4], "itemsize": 12})
    refused(hdf5(tmp_path / "a.h5", kspace=np.zeros((1, *SHAPE), padded)), "stores kspace in numbers of no type")


@pytest.mark.data
def test_a_real_ismrmrd_file_is_told_by_its_name(data_dir):
    refused(Path(data_dir, "raw", "phantom_14ch_grappa3_ismrmrd.h5"), "is an ISMRMRD file", "save k-space as .npy")
