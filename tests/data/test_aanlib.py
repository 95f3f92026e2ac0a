import numpy as np
import pytest
from PIL import Image

from atlf_jax.data import AANLIBConfig, AANLIBSource
from atlf_jax.data.aanlib import FOLDS, SPLITS


def picture(seed=0, shape=(16, 18)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(folder, name, ct=None, mr=None):
    for kind, pixels, seed in (("CT", ct, 1), ("MRI", mr, 2)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed) if pixels is None else pixels).save(folder / kind / f"{name}.png")


def open_all(root, split="all"):
    return [*AANLIBSource(AANLIBConfig(root=str(root), split=split))]


def refused(root, *words, split="all"):
    with pytest.raises(ValueError) as error:
        open_all(root, split)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


def test_values_and_names(tmp_path):
    write(tmp_path, "41007")
    (example,) = open_all(tmp_path)
    assert (example.name, example.subject) == ("41007", "41")
    np.testing.assert_array_equal(example.ct, picture(1).astype(np.float32) / 255)
    np.testing.assert_array_equal(example.target, (picture(2).astype(np.float32) / 255).astype(np.complex64))


def test_slices_are_ordered_by_case_and_slice(tmp_path):
    for name in ("41002", "2010", "2009", "20001"):
        write(tmp_path, name)
    assert [example.name for example in open_all(tmp_path)] == ["2009", "2010", "20001", "41002"]


def test_both_layouts_give_the_same_records(tmp_path):
    for name, part in (("2001", "train"), ("16002", "train"), ("16003", "test")):
        write(tmp_path / "flat", name)
        write(tmp_path / "nested" / part, name)
    flat, nested = open_all(tmp_path / "flat"), open_all(tmp_path / "nested")
    assert [e.name for e in flat] == [e.name for e in nested] == ["2001", "16002", "16003"]
    for a, b in zip(flat, nested, strict=True):
        np.testing.assert_array_equal(a.target, b.target)
    # The folders' own split, by slice, is not followed.
    assert [e.name for e in open_all(tmp_path / "nested", "test")] == ["16002", "16003"]


def test_splits_are_by_subject_and_complete():
    assert set(SPLITS["test"]) == {"16", "21"}
    assert set(SPLITS["valid"]) == {"28", "37"}
    assert set(SPLITS["train"]) == {"2", "20", "32", "33", "34", "41"}
    assert set(SPLITS["inner_valid"]) == {"41"}
    assert set(SPLITS["inner_train"]) == set(SPLITS["train"]) - {"41"}
    assert sorted(SPLITS["all"]) == sorted(SPLITS["train"] + SPLITS["valid"] + SPLITS["test"])


def test_each_subject_is_left_out_by_one_fold():
    assert sorted(sum(FOLDS, ())) == sorted(SPLITS["train"] + SPLITS["valid"])
    for fold in range(1, 5):
        train, valid = (AANLIBConfig(split=split, fold=fold).cases for split in ("train", "valid"))
        assert valid == FOLDS[fold - 1] and not set(train) & set(valid) and len(train) == 6
        assert AANLIBConfig(split="test", fold=fold).cases == SPLITS["test"]
    assert AANLIBConfig(split="train").cases == SPLITS["train"]
    assert AANLIBConfig(split="inner_valid").cases == SPLITS["inner_valid"]


def test_a_fold_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="fold is 5; wanted 1 to 4"):
        AANLIBConfig(fold=5)
    with pytest.raises(ValueError, match="'inner_train' is of fold 1"):
        AANLIBConfig(split="inner_train", fold=2)


def test_an_empty_root_reads_the_environment(tmp_path, monkeypatch):
    write(tmp_path / "aanlib_ct_mri", "2001")
    monkeypatch.setenv("ATLF_DATA_DIR", str(tmp_path))
    assert len(AANLIBSource(AANLIBConfig())) == 1
    monkeypatch.delenv("ATLF_DATA_DIR")
    with pytest.raises(ValueError, match=r"set data.aanlib.root .* or \$ATLF_DATA_DIR"):
        AANLIBSource(AANLIBConfig())


def test_decoded_pictures_stay_in_memory_and_cannot_be_changed(tmp_path):
    write(tmp_path, "2001")
    source = AANLIBSource(AANLIBConfig(root=str(tmp_path)))
    assert source[0] is source[0]
    for image in (source[0].ct, source[0].target):
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0] = 0


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "does not exist", "data.aanlib.root")


def test_a_wrong_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    refused(tmp_path, "neither CT/ and MRI/ nor train/ and test/")


def test_an_empty_folder(tmp_path):
    (tmp_path / "CT").mkdir()
    (tmp_path / "MRI").mkdir()
    refused(tmp_path, "no .png pictures", "copy the AANLIB pairs there")


@pytest.mark.parametrize(("lost", "left"), [("CT", "MRI"), ("MRI", "CT")])
def test_an_unpaired_file(tmp_path, lost, left):
    write(tmp_path, "2001")
    write(tmp_path, "2002")
    (tmp_path / lost / "2002.png").unlink()
    refused(tmp_path, tmp_path / left / "2002.png", "no partner", tmp_path / lost / "2002.png", "add it or remove")


def test_a_missing_modality(tmp_path):
    write(tmp_path, "2001")
    (tmp_path / "MRI" / "2001.png").unlink()
    (tmp_path / "MRI").rmdir()
    refused(tmp_path, "no partner", tmp_path / "MRI" / "2001.png")


def test_a_size_mismatch(tmp_path):
    write(tmp_path, "2001", ct=picture(shape=(16, 18)), mr=picture(shape=(18, 16)))
    refused(tmp_path, "'2001'", "16x18", "18x16", "resample")


@pytest.mark.parametrize("content", [b"", b"not a picture", "half"])
def test_a_broken_picture(tmp_path, content):
    write(tmp_path, "2001")
    file = tmp_path / "MRI" / "2001.png"
    file.write_bytes(file.read_bytes()[:200] if content == "half" else content)
    refused(tmp_path, file, "not a readable picture", "download it again")


@pytest.mark.parametrize("name", ["case2_001", "12", "2-001"])
def test_a_name_without_case_and_slice(tmp_path, name):
    write(tmp_path, name)
    refused(tmp_path, f"{name}.png", "case number + 3-digit slice", "rename")


def test_a_slice_that_is_there_twice(tmp_path):
    write(tmp_path / "train", "2001")
    write(tmp_path / "test", "2001")
    refused(tmp_path, tmp_path / "train" / "CT" / "2001.png", "same slice", "remove one")


def test_an_unknown_case(tmp_path):
    write(tmp_path, "99001")
    refused(tmp_path, "case 99", "no split names", "41")


def test_a_split_without_a_subject(tmp_path):
    write(tmp_path, "2001")
    refused(tmp_path, "'test' is cases 16, 21", "holds only 2", split="test")


def test_grey_pictures_saved_as_colour_are_read(tmp_path):
    grey = picture(3)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgba = np.concatenate([rgb, np.full((*grey.shape, 1), 255, np.uint8)], axis=-1)
    write(tmp_path, "2001", ct=rgb, mr=rgba)
    (example,) = open_all(tmp_path)
    np.testing.assert_array_equal(example.ct, grey.astype(np.float32) / 255)
    np.testing.assert_array_equal(example.target.real, example.ct)


def test_a_colour_picture_is_refused(tmp_path):
    colour = np.repeat(picture(3)[..., None], 3, axis=-1)
    colour[0, 0] = (200, 10, 10)
    write(tmp_path, "2001", mr=colour)
    refused(tmp_path, tmp_path / "MRI" / "2001.png", "colour picture", "save it as 8-bit grey")


def test_a_16_bit_picture_is_refused(tmp_path):
    write(tmp_path, "2001", ct=picture().astype(np.uint16) * 16)
    refused(tmp_path, tmp_path / "CT" / "2001.png", "pixel mode", "8-bit grey")


@pytest.mark.data
def test_the_real_folder(data_dir):
    counts = {split: len(AANLIBSource(AANLIBConfig(split=split))) for split in SPLITS if split != "test"}
    assert counts == {"train": 113, "valid": 36, "inner_train": 93, "inner_valid": 20, "all": 149}
    source = AANLIBSource(AANLIBConfig(split="all"))
    assert {example.subject for example in source} == {"2", "20", "28", "32", "33", "34", "37", "41"}
    assert {example.target.shape for example in source} == {(256, 256)}
    for example in source:
        assert example.ct.max() > 0.5
        assert np.abs(example.target).max() > 0.5
