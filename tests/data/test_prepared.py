import json

import numpy as np
import pytest

from atlf_jax.data import PreparedConfig, PreparedSource, window_ct
from atlf_jax.data.files import sha256_of
from atlf_jax.data.manifest import FORMAT
from atlf_jax.data.transforms import CT_WINDOWS
from atlf_jax.data.volume import Volume, from_slices, to_slices, write_nifti

SAGITTAL = np.array([[0, 0, -5.0, 3], [1.5, 0, 0, 4], [0, -1.5, 0, 5], [0, 0, 0, 1]])  # slices along the third axis


def scans(seed, shape=(20, 18, 4), affine=SAGITTAL):
    rng = np.random.default_rng(seed)
    ct, mr = rng.uniform(-1000, 1500, shape), rng.uniform(0, 300, shape)
    return Volume(ct.astype(np.float32), affine), Volume(mr.astype(np.float32), affine)


def write(root, subjects=(("a", "inner_train"), ("b", "valid"), ("c", "left out")), **changes):
    """Write a prepared dataset by hand: what the manifest must say for a reader."""
    records = []
    for number, (subject, split) in enumerate(subjects):
        ct, mr = scans(number)
        write_nifti(root / subject / "ct.nii.gz", ct)
        write_nifti(root / subject / "mr.nii.gz", mr)
        files = {name: sha256_of(root / subject / name) for name in ("ct.nii.gz", "mr.nii.gz")}
        record = {
            "subject": subject,
            "split": split,
            "shape": [20, 18, 4],
            "slice_axis": 2,
            "empty": [],
            "files": files,
        }
        records.append(record | {"window": "bone", "pairing": "same subject"})
    manifest = {"format": FORMAT, "complete": True, "pairing": "same subject", "subjects": records} | changes
    (root / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def read(root, split="all", **settings):
    return PreparedSource(PreparedConfig(root=str(root), split=split, **settings))


def refused(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_slices_run_along_the_acquisition_axis_and_find_back(tmp_path):
    write(tmp_path)
    source = read(tmp_path, "valid")
    ct, mr = scans(1)
    assert [example.name for example in source] == ["b_000", "b_001", "b_002", "b_003"]
    assert {example.subject for example in source} == {"b"}
    stack = np.stack([example.target.real for example in source])
    np.testing.assert_array_equal(stack, to_slices(mr) / mr.data.max())
    assert stack.max() == 1
    np.testing.assert_allclose(from_slices(stack, mr).data * mr.data.max(), mr.data, rtol=1e-6)
    np.testing.assert_array_equal(source[2].ct, window_ct(to_slices(ct)[2], "bone"))
    assert source[0].target.shape == (18, 20) and source[0].target.dtype == np.complex64


@pytest.mark.parametrize("window", CT_WINDOWS)
def test_every_window_is_read_from_the_same_files(tmp_path, window):
    write(tmp_path)
    np.testing.assert_array_equal(read(tmp_path, window=window)[0].ct, window_ct(to_slices(scans(0)[0])[0], window))


def test_several_windows_are_read_at_once(tmp_path):
    manifest = write(tmp_path)
    source, hounsfield = read(tmp_path, window=("brain", "bone"), size=(16, 25)), to_slices(scans(0)[0])[0]
    assert source[0].ct.shape == (2, 16, 25) and source[0].target.shape == (16, 25)
    for image, window in zip(source[0].ct, ("brain", "bone"), strict=True):
        np.testing.assert_array_equal(image[:, 2:22], window_ct(hounsfield, window)[1:17])
    one, alone = read(tmp_path, window=("bone",))[0], read(tmp_path, window="bone")[0]
    np.testing.assert_array_equal(one.ct, alone.ct)  # as without the tuple
    del manifest["subjects"][0]["files"]["ct.nii.gz"]
    manifest["subjects"][1]["window"] = "picture"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    source = read(tmp_path, window=("brain", "bone"))
    assert source[0].ct.shape == (2, 18, 20) and not source[0].ct.any()
    refused(lambda: source[4], "the CT of b is a picture without Hounsfield units", "leave prepared.window out")


def test_flagged_pairs_are_in_no_split(tmp_path):
    write(tmp_path)
    assert {example.subject for example in read(tmp_path, "all")} == {"a", "b"}
    assert {example.subject for example in read(tmp_path, "train")} == {"a"}


def test_the_pairing_is_that_of_the_split(tmp_path):
    manifest = write(tmp_path)
    manifest["subjects"][0]["pairing"] = "unpaired"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert [read(tmp_path, split).pairing for split in ("train", "valid", "all")] == [
        "unpaired",
        "same subject",
        "mixed",
    ]


def test_empty_slices_are_left_out_and_keep_their_numbers(tmp_path):
    manifest = write(tmp_path)
    manifest["subjects"][0]["empty"] = [0, 2]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert [example.name for example in read(tmp_path, "train")] == ["a_001", "a_003"]


def test_slices_are_cropped_and_padded_about_their_centre(tmp_path):
    write(tmp_path)
    whole, fitted = read(tmp_path)[0], read(tmp_path, size=(16, 25))[0]
    assert fitted.ct.shape == fitted.target.shape == (16, 25)
    np.testing.assert_array_equal(fitted.target[:, 2:22], whole.target[1:17])
    assert not fitted.target[:, :2].any() and not fitted.ct[:, 22:].any()
    np.testing.assert_array_equal(read(tmp_path, size=(0, 16))[0].ct, whole.ct[:, 2:18])


def test_few_subjects_stay_in_memory_when_told_so(tmp_path):
    write(tmp_path)
    source = read(tmp_path, keep=1)
    first = source[0].target
    assert source[4].subject == "b" and len(source._read) == 1
    np.testing.assert_array_equal(source[0].target, first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": (16, 8)}, r"prepared.size is \(16, 8\)"), ({"keep": 0}, "prepared.keep is 0")],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PreparedConfig(**settings)


def test_what_cannot_be_opened(tmp_path):
    refused(lambda: PreparedSource(PreparedConfig()), "set data.prepared.root")
    refused(lambda: read(tmp_path), tmp_path / "manifest.json", "does not exist", "atlf prepare")
    write(tmp_path, complete=False)
    refused(lambda: read(tmp_path), "in part only")
    write(tmp_path, format=0)
    refused(lambda: read(tmp_path), f"not a manifest of format {FORMAT}")
    (tmp_path / "manifest.json").write_text("{")
    refused(lambda: read(tmp_path), "not a readable manifest")
    write(tmp_path)
    refused(lambda: read(tmp_path, "test"), "split 'test'", "has no subject", "inner_train, left out, valid")


def test_files_that_were_changed_since(tmp_path):
    write(tmp_path)
    write_nifti(tmp_path / "a" / "ct.nii.gz", scans(5)[0])
    (tmp_path / "b" / "mr.nii.gz").unlink()
    refused(lambda: read(tmp_path)[0], tmp_path / "a" / "ct.nii.gz", "was changed since", "prepare the dataset again")
    refused(lambda: read(tmp_path)[4], tmp_path / "b" / "mr.nii.gz", "missing")


def first(**changes):
    """Change the manifest's first subject; None takes a field away."""

    def change(manifest):
        record = manifest["subjects"][0] | changes
        manifest["subjects"][0] = {name: value for name, value in record.items() if value is not None}
        return manifest

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first(subject="../secret"), "has subject '../secret' for subject 1"),
        (first(subject="/etc"), "has subject '/etc'"),
        (first(subject=".."), "has subject '..'"),
        (first(subject=None), "has subject missing"),
        (first(subject="b"), "has subject b twice"),
        (first(subject="B"), "has subject b twice"),
        (first(split="tset"), "has split 'tset'"),
        (first(split=["valid"]), "has split ['valid']"),
        (first(pairing="twins"), "has pairing 'twins'"),
        (first(window="bones"), "has window 'bones'"),
        (first(shape=[20, 18]), "has shape [20, 18]"),
        (first(shape=[20, 18, "4"]), "has shape [20, 18, '4']"),
        (first(shape=[20, 18, -4]), "has shape"),
        (first(slice_axis=3), "has slice_axis 3"),
        (first(slice_axis=True), "has slice_axis True"),
        (first(empty=[4]), "has empty [4]"),
        (first(empty={}), "has empty {}"),
        (first(files={"mr.nii.gz": 3}), "has files"),
        (first(files={"ct.nii.gz": "0" * 64}), "has files"),
        (first(files={"mr.nii.gz": "0" * 64, "../ct.nii.gz": "0" * 64}), "has files"),
        (first(names=["1"]), "has names ['1']"),
        (first(registration={"kind": "rigid"}), "has registration"),
        (first(good="yes"), "has good 'yes'"),
        (lambda manifest: manifest | {"subjects": {}}, "has no list of subjects"),
        (lambda manifest: manifest | {"subjects": [None]}, "has no list of subjects"),
        (lambda manifest: manifest | {"complete": "yes"}, "in part only"),
        (lambda manifest: [manifest], "not a manifest of format"),
    ],
)
def test_every_field_of_the_manifest_is_checked(tmp_path, change, words):
    manifest = change(write(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError) as error:
        read(tmp_path)
    message = str(error.value)
    assert words in message and str(tmp_path) in message and "\n" not in message and len(message) <= 250


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"format": 1, "format": 1}',
        b'{"format": 1' + b"0" * 9000,
    ],
)
def test_a_manifest_that_is_no_json_names_the_file(tmp_path, content):
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match="manifest.json ") as error:
        read(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 250
    assert "Expecting" not in str(error.value)


def test_a_subject_that_is_a_link_out_of_the_folder_is_not_read(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    refused(lambda: read(tmp_path / "data"), "names 'a', which lies outside of it")
    (tmp_path / "data" / "a").unlink()
    (tmp_path / "data" / "stored").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "data" / "stored" / "a")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "data" / "stored" / "a")  # as git-annex keeps files
    assert len(read(tmp_path / "data")) == 8


@pytest.mark.parametrize("changes", [{"shape": [20, 18, 3]}, {"slice_axis": 0}])
def test_what_the_manifest_says_of_a_volume_is_compared_with_it(tmp_path, changes):
    (tmp_path / "manifest.json").write_text(json.dumps(first(**changes)(write(tmp_path))))
    refused(lambda: read(tmp_path)[0], tmp_path / "a", "the manifest says otherwise", "prepare the dataset again")
