import csv
import dataclasses
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlf_jax.commands.prepare import main
from atlf_jax.data import PreparedConfig, PreparedSource
from atlf_jax.data import preparation as prepare_module
from atlf_jax.data.aanlib import SPLITS
from atlf_jax.data.ct import clean_ct
from atlf_jax.data.files import NotWritten
from atlf_jax.data.preparation import PrepareConfig, prepare, share_out
from atlf_jax.data.volume import Volume, read_nifti, write_nifti
from tests.data.dicom_files import NAME, NUMBER, change, write_series

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def body(shape=(24, 28, 6), *, table=False):
    """Hounsfield units of an ellipse of water with a bone in it, on an air background; a table below it."""
    i, j, k = np.ogrid[tuple(slice(side) for side in shape)]
    x, y = (i - shape[0] / 2) / (0.35 * shape[0]), (j - 0.45 * shape[1]) / (0.3 * shape[1])
    data = np.where(x**2 + y**2 < 1, 20.0, -1000.0) + 0 * k
    data = np.where((x - 0.3) ** 2 + (y + 0.2) ** 2 < 0.06, 900.0, data)
    if table:
        data[:, -2] = 100.0
    return data.astype(np.float32)


def ct_volume(spacing=4.0, **settings):
    return Volume(body(**settings), LPS * [spacing, spacing, 5, 1])


def mr_volume(spacing=4.0, seed=0):
    noise = np.random.default_rng(seed).uniform(0, 5, (24, 28, 6))
    return Volume(((body() > -500) * 300 - 0.2 * (body() > 500) * 300 + noise).astype(np.float32), ct_volume().affine)


def write_pairs(folder, subjects=("a", "b", "c", "d", "e"), splits=None):
    """Write a table of NIfTI pairs and return it."""
    lines = [("subject", "ct", "mr", "split")]
    for number, subject in enumerate(subjects):
        write_nifti(folder / "scans" / f"{number}_ct.nii.gz", ct_volume())
        write_nifti(folder / "scans" / f"{number}_mr.nii.gz", mr_volume(seed=number))
        split = splits[number] if splits else ""
        lines.append((subject, f"scans/{number}_ct.nii.gz", f"scans/{number}_mr.nii.gz", split))
    return write_table(folder, lines)


def write_table(folder, lines):
    table = folder / "pairs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return table


def settings(source, out, layout="table", **more):
    return PrepareConfig(layout=layout, source=str(source), out=str(out), **{"registration": "none"} | more)


def quietly(config):
    said = []
    return prepare(config, say=said.append), said


def tree(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


def refused(config, *words):
    with pytest.raises(ValueError) as error:
        quietly(config)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One prepared table for the tests that only look at it: input, output, manifest, lines said."""
    folder = tmp_path_factory.mktemp("table")
    table = write_pairs(folder / "in")
    before = tree(folder / "in")
    manifest, said = quietly(settings(table, folder / "out"))
    assert tree(folder / "in") == before  # the input is only read
    return folder / "in", folder / "out", manifest, said


def test_what_is_written(dataset):
    source, out, manifest, _ = dataset
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert {*tree(out)} == {"manifest.json", *(f"{s}/{kind}.nii.gz" for s in "abcde" for kind in ("ct", "mr"))}
    assert manifest["complete"] and manifest["pairing"] == "same subject"
    for number, record in enumerate(manifest["subjects"]):
        assert record["subject"] == "abcde"[number]
        assert record["files"] == {n: tree(out)[f"{record['subject']}/{n}"] for n in ("ct.nii.gz", "mr.nii.gz")}
        assert record["inputs"]["mr"] == tree(source)[f"scans/{number}_mr.nii.gz"]
        assert (record["spacing"], record["orientation"], record["slice_axis"]) == ([4, 4, 5], "LPS", 2)
        assert record["window"] == "soft_tissue" and record["ct_coverage"] == 1 and record["empty"] == []
        assert record["registration"]["kind"] == "none" and record["registration"]["transform"] == np.eye(4).tolist()
        assert {"body_dice", "mutual_information", "mutual_information_before", "edge_overlap"} <= {
            *record["registration"]["quality"]
        }
        mr = read_nifti(out / record["subject"] / "mr.nii.gz")
        given = read_nifti(source / "scans" / f"{number}_mr.nii.gz")
        np.testing.assert_array_equal(mr.data, given.data)
        np.testing.assert_array_equal(mr.affine, given.affine)
        ct = read_nifti(out / record["subject"] / "ct.nii.gz")
        np.testing.assert_array_equal(ct.affine, mr.affine)
        np.testing.assert_array_equal(ct.data, body())


def test_a_second_run_skips_what_is_done_and_gives_the_same_bytes(dataset, tmp_path, monkeypatch):
    source, out, _, _ = dataset
    quietly(settings(source / "pairs.csv", tmp_path / "again"))
    assert tree(tmp_path / "again") == tree(out)
    before = tree(out)
    monkeypatch.setattr(prepare_module, "register", None)  # not called
    manifest, _ = quietly(settings(source / "pairs.csv", out, seed=1, window="bone"))  # these cost no work
    assert {record["window"] for record in manifest["subjects"]} == {"bone"}
    quietly(settings(source / "pairs.csv", out))
    assert tree(out) == before


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    table = write_pairs(tmp_path, "abc")
    quietly(settings(table, tmp_path / "whole"))
    original, done = prepare_module.write_nifti, []

    def killed(path, volume):
        if len(done) == 3:
            path.with_name(f".{path.name}.1.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(path)
        original(path, volume)

    monkeypatch.setattr(prepare_module, "write_nifti", killed)
    with pytest.raises(KeyboardInterrupt):
        quietly(settings(table, tmp_path / "out"))
    with pytest.raises(ValueError, match="prepared in part only; run .* again"):
        PreparedSource(PreparedConfig(root=str(tmp_path / "out")))
    again = []
    monkeypatch.setattr(
        prepare_module, "write_nifti", lambda path, v: (again.append(path.parent.name), original(path, v))
    )
    quietly(settings(table, tmp_path / "out"))
    assert again == ["b", "b", "c", "c"]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_changed_input_settings_or_output_are_made_again(tmp_path, monkeypatch):
    table = write_pairs(tmp_path, "abc")
    quietly(settings(table, tmp_path / "out"))
    original, again = prepare_module.write_nifti, []
    monkeypatch.setattr(
        prepare_module, "write_nifti", lambda path, v: (again.append(path.parent.name), original(path, v))
    )
    write_nifti(tmp_path / "scans" / "1_mr.nii.gz", mr_volume(seed=9))
    (tmp_path / "out" / "c" / "ct.nii.gz").write_bytes(b"spoiled")
    quietly(settings(table, tmp_path / "out"))
    assert again == ["b", "b", "c", "c"]
    quietly(settings(table, tmp_path / "out", clean=False))
    assert again[4:] == ["a", "a", "b", "b", "c", "c"]


def test_poor_registration_is_flagged_and_left_out_unless_kept(tmp_path):
    table = write_pairs(tmp_path, "abc")
    away = ct_volume()
    away.affine[:2, 3] += 60
    write_nifti(tmp_path / "scans" / "1_ct.nii.gz", away)
    manifest, said = quietly(settings(table, tmp_path / "out"))
    flagged = manifest["subjects"][1]
    assert flagged["good"] is False and flagged["split"] == "left out" and flagged["ct_coverage"] < 1
    assert flagged["registration"]["quality"]["body_dice"] < 0.85
    assert any(line.startswith("b (same subject): left out; body dice 0.") for line in said)
    with pytest.raises(ValueError, match="split 'inner_valid' .* has no subject"):
        PreparedSource(PreparedConfig(root=str(tmp_path / "out"), split="inner_valid"))
    assert {e.subject for e in PreparedSource(PreparedConfig(root=str(tmp_path / "out"), split="all"))} == {"a", "c"}
    manifest, _ = quietly(settings(table, tmp_path / "out", keep_flagged=True))
    assert manifest["subjects"][1]["split"] != "left out" and manifest["subjects"][1]["good"] is False


def test_a_ct_may_be_missing_or_cover_a_part(tmp_path):
    table = write_pairs(tmp_path, "ab", ["inner_train", "valid"])
    lines = list(csv.reader(table.read_text().splitlines()))
    lines[1][1] = ""
    write_table(tmp_path, lines)
    ct = ct_volume()
    write_nifti(tmp_path / "scans" / "1_ct.nii.gz", Volume(ct.data[:, :, :3].copy(), ct.affine))
    manifest, _ = quietly(settings(table, tmp_path / "out"))
    none, part = manifest["subjects"]
    assert none["ct_coverage"] == 0 and none["registration"] is None and [*none["files"]] == ["mr.nii.gz"]
    assert part["ct_coverage"] == 0.5
    assert (read_nifti(tmp_path / "out" / "b" / "ct.nii.gz").data[:, :, 3:] == -1000).all()
    for example in PreparedSource(PreparedConfig(root=str(tmp_path / "out"), split="train")):
        assert not example.ct.any() and example.target.any()


def test_a_registration_that_turns_the_ct_away_is_flagged(tmp_path, monkeypatch):
    table = write_pairs(tmp_path, "a")
    original = prepare_module.register

    def turned(ct, mr, config):
        away = np.eye(4)
        away[2, 3] = 20.0  # four of six slices lie beyond the CT
        return dataclasses.replace(original(ct, mr, config), transform=away, good=True)

    monkeypatch.setattr(prepare_module, "register", turned)
    manifest, said = quietly(settings(table, tmp_path / "out"))
    (record,) = manifest["subjects"]
    assert record["ct_coverage"] == pytest.approx(1 / 3, abs=1e-6)
    assert record["good"] is False and record["split"] == "left out" and "CT coverage 0.33" in said[-1]


def test_a_ct_without_air_is_doubted(tmp_path):
    table = write_pairs(tmp_path, "ab")
    picture = Volume((body() + 1000) / 8, ct_volume().affine)
    write_nifti(tmp_path / "scans" / "1_ct.nii.gz", picture)
    manifest, said = quietly(settings(table, tmp_path / "out", keep_flagged=True))
    assert [record["ct_range"] for record in manifest["subjects"]] == [[-1000, 900], [0, 237.5]]
    (doubted,) = [line for line in said if "Hounsfield" in line]
    assert doubted.startswith("b ") and "spans 0 to 237.5, without air" in doubted


def test_dicom_of_a_table_and_no_name_anywhere(tmp_path, capfd):
    stored = np.moveaxis(body() + 1024, -1, 0).transpose(0, 2, 1).astype(np.uint16)
    signal = np.moveaxis(mr_volume().data, -1, 0).transpose(0, 2, 1).astype(np.uint16)
    shared = {"corner": (0.0, 0.0, 0.0), "spacing": (4.0, 4.0), "step": 5.0}
    write_series(tmp_path / "s1" / "ct", stored, **shared)
    write_series(tmp_path / "s1" / "mr", signal, modality="MR", **shared)
    table = write_table(tmp_path, [("subject", "ct", "mr"), ("p01", "s1/ct", "s1/mr")])
    main(["table", str(table), str(tmp_path / "out"), "--registration", "none"])
    np.testing.assert_allclose(read_nifti(tmp_path / "out" / "p01" / "ct.nii.gz").data, body())
    np.testing.assert_allclose(read_nifti(tmp_path / "out" / "p01" / "mr.nii.gz").affine, ct_volume().affine, atol=1e-6)
    said = "".join(capfd.readouterr())
    written = b"".join(
        gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes()
        for f in (tmp_path / "out").rglob("*.*")
    )
    for secret in (*NAME.split("^"), NUMBER, str(tmp_path)):
        assert secret.encode() not in written
        if secret != str(tmp_path):
            assert secret.lower() not in said.lower()
    assert "p01 (same subject)" in said

    write_table(tmp_path, [("subject", "ct", "mr"), ("erika_muster", "s1/ct", "s1/mr")])
    refused(settings(table, tmp_path / "named"), "patient's own name or number; give the subject a code")
    write_table(tmp_path, [("subject", "ct", "mr"), ("p01", "s1/ct", "s1/mr")])
    for file in (tmp_path / "s1" / "mr").iterdir():
        change(file, PatientID="PID-1")
    message = refused(settings(table, tmp_path / "other"), "subject p01", "different people by their headers")
    assert "PID" not in message and not (tmp_path / "other").exists()
    write_table(tmp_path, [("subject", "ct", "mr"), ("erika_muster", "", "s1/mr"), ("p01", "", "s1/mr")])
    refused(settings(table, tmp_path / "both"), "subject erika_muster", "give the subject a code")
    assert b"erika" not in (tmp_path / "both" / "manifest.json").read_bytes()
    assert [file.name for file in (tmp_path / "both").iterdir() if file.is_dir()] == ["p01"]


def write_chaos(root, cts=("1", "2", "10"), mrs=("3", "20"), phase="InPhase"):
    stored = np.moveaxis(body(table=True) + 1024, -1, 0).transpose(0, 2, 1).astype(np.uint16)
    signal = np.moveaxis(mr_volume().data, -1, 0).transpose(0, 2, 1).astype(np.uint16)
    for number, case in enumerate(cts):
        write_series(
            root / "CT" / case / "DICOM_anon", stored, spacing=(4.0, 4.0), step=5.0, corner=(900.0 * number, 0, 0)
        )
    for case in mrs:
        for part, factor in (
            ("T2SPIR/DICOM_anon", 1),
            ("T1DUAL/DICOM_anon/InPhase", 2),
            ("T1DUAL/DICOM_anon/OutPhase", 3),
        ):
            files = write_series(
                root / "MR" / case / part, signal * np.uint16(factor), modality="MR", spacing=(4.0, 4.0), step=5.0
            )
        for sequence in ("T2SPIR", "T1DUAL"):
            (root / "MR" / case / sequence / "Ground").mkdir()
            for rank in range(len(files)):
                picture = np.full((28, 24), 63 * (rank % 4), np.uint8)
                Image.fromarray(picture).save(root / "MR" / case / sequence / "Ground" / f"IMG-{rank:03d}.png")


@pytest.mark.parametrize("inner", ["", "Train_Sets"])
def test_chaos_is_paired_by_order_and_says_so(tmp_path, inner):
    write_chaos(tmp_path / "in" / inner)
    manifest, said = quietly(settings(tmp_path / "in", tmp_path / "out", "chaos", sequence="t1dual_out"))
    assert manifest["pairing"] == "unpaired"
    names = ["unpaired_ct1_mr3", "unpaired_ct2_mr20"]  # the third CT has no partner
    assert [record["subject"] for record in manifest["subjects"]] == names
    for name in names:
        assert any("different people" in line and name in line for line in said)
        mr = read_nifti(tmp_path / "out" / name / "mr.nii.gz")
        np.testing.assert_array_equal(mr.data, 3 * mr_volume().data.astype(np.uint16).astype(np.float32))
        assert read_nifti(tmp_path / "out" / name / "ct.nii.gz").data.max() > 500  # bodies are centred on each other
        label = read_nifti(tmp_path / "out" / name / "label.nii.gz").data[0, 0]
        assert sorted(label) == sorted(63.0 * (rank % 4) for rank in range(6))
    with_name = PreparedSource(PreparedConfig(root=str(tmp_path / "out"), split="all"))
    assert with_name.pairing == "unpaired" and with_name[0].name == "unpaired_ct1_mr3_000"


def test_labels_of_pictures_follow_the_names_of_the_slices(tmp_path):
    write_chaos(tmp_path / "in", ("1",), ("3",))
    quietly(settings(tmp_path / "in", tmp_path / "out", "chaos"))
    label = read_nifti(tmp_path / "out" / "unpaired_ct1_mr3" / "label.nii.gz").data[0, 0]
    order = np.random.default_rng(1).permutation(6)  # dicom_files names slice order[rank] as file number rank
    np.testing.assert_array_equal(label[order], 63.0 * (np.arange(6) % 4))


def test_mmwhs_with_labels(tmp_path):
    for kind, volume, number in (("ct", ct_volume(), 1001), ("mr", mr_volume(), 1007)):
        write_nifti(tmp_path / "in" / f"{kind}_train" / f"{kind}_train_{number}_image.nii.gz", volume)
        labels = Volume((body() > 0).astype(np.float32) * 205, volume.affine)
        write_nifti(tmp_path / "in" / f"{kind}_train" / f"{kind}_train_{number}_label.nii.gz", labels)
    manifest, _ = quietly(settings(tmp_path / "in", tmp_path / "out", "mmwhs"))
    (record,) = manifest["subjects"]
    assert record["subject"] == "unpaired_ct1001_mr1007" and record["pairing"] == "unpaired"
    assert {*np.unique(read_nifti(tmp_path / "out" / record["subject"] / "label.nii.gz").data)} == {0, 205}


def test_aanlib_pictures_come_back_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("2001", "2003", "28001"):
        for kind in ("CT", "MRI"):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (18, 16)).astype(np.uint8)).save(
                tmp_path / "in" / kind / f"{name}.png"
            )
    manifest, _ = quietly(settings(tmp_path / "in", tmp_path / "out", "aanlib"))
    assert {r["subject"]: r["split"] for r in manifest["subjects"]} == {"2": "inner_train", "28": "valid"}
    assert all(r["window"] == "picture" and r["orientation"] == "unknown" for r in manifest["subjects"])
    assert "2" in SPLITS["inner_train"]
    for example in PreparedSource(PreparedConfig(root=str(tmp_path / "out"), split="all", window="bone")):
        for kind, image in (("CT", example.ct), ("MRI", example.target.real)):
            picture = np.asarray(Image.open(tmp_path / "in" / kind / f"{example.name}.png"))
            np.testing.assert_array_equal(image, picture.astype(np.float32) / 255)


def test_table_and_head_holder_are_removed():
    cleaned = clean_ct(ct_volume(table=True))
    assert (cleaned.data[:, -2] == -1000).all()
    np.testing.assert_array_equal(cleaned.data, body())


def test_shares():
    for count in (1, 2, 3, 4, 9, 40, 100):
        shares = [*share_out([f"s{number}" for number in range(count)]).values()]
        assert len(shares) == count
        sizes = [shares.count(part) for part in ("inner_train", "valid", "test", "inner_valid")]
        assert sizes[1:] == [max(1, count // 10)] * 3 if count >= 4 else max(sizes) == 1 and sizes[0] == 1
    assert share_out([f"s{number}" for number in range(40)]) == share_out([f"s{number}" for number in range(40)][::-1])
    assert share_out([f"s{n}" for n in range(40)], seed=1) != share_out([f"s{n}" for n in range(40)])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([("subject", "mr")], ("columns mr, subject", "wanted subject, ct, mr")),
        ([("subject", "ct", "mr")], ("names no subject",)),
        ([("subject", "ct", "mr"), ("a", "scans/0_ct.nii.gz", "")], ("line 2", "an MR")),
        ([("subject", "ct", "mr"), ("a", "scans/0_ct.nii.gz")], ("line 2", "an MR")),
        (
            [("subject", "ct", "mr"), ("a", "scans/9.nii", "scans/0_mr.nii.gz")],
            ("line 2", "scans/9.nii does not exist"),
        ),
        ([("subject", "ct", "mr", "split"), ("a", "", "scans/0_mr.nii.gz", "tset")], ("line 2", "split 'tset'")),
        ([("subject", "ct", "mr")] + [("a", "", "scans/0_mr.nii.gz")] * 2, ("subject a is there twice",)),
        ([("subject", "ct", "mr"), ("../a", "", "scans/0_mr.nii.gz")], ("cannot name a folder",)),
    ],
)
def test_a_wrong_table(tmp_path, lines, words):
    write_pairs(tmp_path, "a")
    refused(settings(write_table(tmp_path, lines), tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("table", ("not a readable CSV file",)),
        ("chaos", ("neither CT/ and MR/ nor Train_Sets/",)),
        ("mmwhs", ("holds no ct_train/",)),
        ("aanlib", ("is it the AANLIB folder?",)),
    ],
)
def test_a_wrong_source(tmp_path, layout, words):
    (tmp_path / "in").mkdir()
    refused(settings(tmp_path / "in", tmp_path / "out", layout), *words)


def test_output_inside_the_input_or_over_something_else(tmp_path):
    write_chaos(tmp_path / "in", ("1",), ("3",))
    refused(settings(tmp_path / "in", tmp_path / "in" / "out", "chaos"), "only read")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"name": "an app"}')
    refused(settings(tmp_path / "in", tmp_path / "out", "chaos"), "not a manifest of this program")


def test_a_bad_scan_names_its_subject_and_leaves_nothing_half_written(tmp_path):
    table = write_pairs(tmp_path, "ab")
    data = mr_volume().data.copy()
    data[3, 4, 2] = np.nan
    write_nifti(tmp_path / "scans" / "1_mr.nii.gz", Volume(data, LPS))
    refused(settings(table, tmp_path / "out"), "subject b: ", "1_mr.nii.gz", "not finite")
    assert {*tree(tmp_path / "out")} == {"a/ct.nii.gz", "a/mr.nii.gz", "manifest.json"}


def test_labels_on_another_grid(tmp_path):
    write_chaos(tmp_path / "in", ("1",), ("3",))
    (tmp_path / "in" / "MR" / "3" / "T2SPIR" / "Ground" / "IMG-000.png").unlink()
    refused(settings(tmp_path / "in", tmp_path / "out", "chaos"), "5 pictures for 6 slices")


@pytest.mark.slow
def test_the_command_line(tmp_path):
    table = write_pairs(tmp_path, "a", ["valid"])
    command = [sys.executable, "-W", "error", "-m", "atlf_jax.data.prepare", "table", str(table), str(tmp_path / "out")]
    notebook = os.environ | {"MPLBACKEND": "no such window"}
    done = subprocess.run(
        [*command, "--registration", "none"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=notebook,
    )
    assert done.returncode == 0, done.stderr
    assert "a (same subject): valid; body dice 1.000" in done.stdout
    assert "1 of 1 subjects" in done.stdout and "--data.prepared.root" in done.stdout
    page = tmp_path / "out" / "qc.html"
    assert f"look at every registration before you train: {page}" in done.stdout
    first = page.read_bytes()
    assert b"Checkerboards and contours of subject a" in first
    page.unlink()
    main(["table", str(table), str(tmp_path / "out"), "--registration", "none"])
    assert page.read_bytes() == first
    page.unlink()
    main(["table", str(table), str(tmp_path / "out"), "--registration", "none", "--no_qc"])
    assert not page.exists()


def test_without_a_ct_there_is_no_registration_to_look_at(tmp_path):
    write_pairs(tmp_path, "a")
    table = write_table(tmp_path, [("subject", "ct", "mr"), ("a", "", "scans/0_mr.nii.gz")])
    main(["table", str(table), str(tmp_path / "out")])
    assert not (tmp_path / "out" / "qc.html").exists()


def test_a_folder_that_cannot_be_written_is_one_line_and_an_exit(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    table = write_pairs(tmp_path, "a", ["valid"])
    with pytest.raises(SystemExit, match="2"):
        main(["table", str(table), str(tmp_path / "file" / "out"), "--registration", "none"])
    assert re.fullmatch(r"atlf prepare: .*cannot be written.*\n", capsys.readouterr().err)


@pytest.fixture
def scans(tmp_path):
    """A table beside its scans, named as prepare names what it writes."""
    for kind, volume in (("ct", ct_volume()), ("mr", mr_volume())):
        write_nifti(tmp_path / "scans" / "s1" / f"{kind}.nii.gz", volume)
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "pairs.csv"
    table.write_text("subject,ct,mr\ns1,../scans/s1/ct.nii.gz,../scans/s1/mr.nii.gz\n")
    return tmp_path


@pytest.mark.parametrize("out", ["scans", ".", "scans/s1", "link", "lists/../scans", "new/../scans"])
def test_scans_are_never_written_over(scans, out):
    """OUT above or beside the scans, also through links and dots, is refused before anything is written."""
    (scans / "link").symlink_to(scans / "scans")
    before = tree(scans)
    refused(settings(scans / "lists" / "pairs.csv", scans / out), "holds the scan", "only read")
    assert tree(scans) == before


def test_links_in_the_output_lead_to_no_scan(scans):
    table = scans / "lists" / "pairs.csv"
    for place in ("a", "b", "c"):
        (scans / place).mkdir()
    (scans / "a" / "s1").symlink_to(scans / "scans" / "s1")
    (scans / "b" / "s1").mkdir()
    (scans / "b" / "s1" / "mr.nii.gz").hardlink_to(scans / "scans" / "s1" / "mr.nii.gz")
    (scans / "c" / "manifest.json").symlink_to(scans / "nothing")
    before = tree(scans)
    refused(settings(table, scans / "a"), "leads to another folder by a link")
    refused(settings(table, scans / "b"), "is one of the inputs")
    refused(settings(table, scans / "c"), "leads to another folder by a link")
    assert tree(scans) == before


def test_a_scans_folder_is_not_written_into(tmp_path):
    write_chaos(tmp_path / "in", ("1",), ("3",))
    table = write_table(tmp_path, [("subject", "ct", "mr"), ("a", "in/CT/1/DICOM_anon", "in/MR/3/T2SPIR/DICOM_anon")])
    refused(settings(table, tmp_path / "in" / "CT" / "1" / "DICOM_anon" / "out"), "lies in the scan", "only read")


def test_a_bad_subject_does_not_stop_the_others(tmp_path, capsys):
    table = write_pairs(tmp_path, "abc")
    (tmp_path / "scans" / "1_mr.nii.gz").write_bytes(b"no scan")
    with pytest.raises(SystemExit, match="2"):
        main(["table", str(table), str(tmp_path / "out"), "--registration", "none"])
    said = capsys.readouterr()
    assert "b: not prepared: " in said.out and "2 of 3 subjects" in said.out and "qc.html" in said.out
    assert re.fullmatch(r"atlf prepare: subject b: .*1_mr.nii.gz is not a NIfTI file; [^\n]*\n", said.err)
    page = (tmp_path / "out" / "qc.html").read_text()
    assert "subject a" in page and "subject c" in page and "subject b" not in page
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["failed"] == 1 and manifest["complete"]
    assert {example.subject for example in PreparedSource(PreparedConfig(str(tmp_path / "out"), "all"))} == {"a", "c"}
    write_nifti(tmp_path / "scans" / "1_mr.nii.gz", mr_volume(seed=1))
    main(["table", str(table), str(tmp_path / "out"), "--registration", "none"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["failed"] == 0


def test_a_bad_picture_does_not_stop_the_other_cases(tmp_path):
    for name in ("2001", "28001"):
        for kind in ("CT", "MRI"):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.arange(288, dtype=np.uint8).reshape(18, 16)).save(tmp_path / "in" / kind / f"{name}.png")
    (tmp_path / "in" / "CT" / "2001.png").write_bytes(b"no picture")
    refused(settings(tmp_path / "in", tmp_path / "out", "aanlib"), "subject 2: ", "2001.png is not a readable picture")
    assert [example.subject for example in PreparedSource(PreparedConfig(str(tmp_path / "out"), "all"))] == ["28"]


def test_a_full_disk_stops_all_subjects(tmp_path, monkeypatch):
    table, tried = write_pairs(tmp_path, "abc"), []

    def full(path, volume):
        tried.append(path)
        raise NotWritten(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr(prepare_module, "write_nifti", full)
    refused(settings(table, tmp_path / "out"), "subject a: ", "No space left on device")
    assert len(tried) == 1


def test_pictures_that_fail_do_not_cost_the_dataset(tmp_path, monkeypatch, capsys):
    table = write_pairs(tmp_path, "a", ["valid"])

    def broken(_):
        raise RuntimeError("no font")

    monkeypatch.setattr("atlf_jax.evaluation.registration_qc.write", broken)
    with pytest.raises(SystemExit, match="1"):
        main(["table", str(table), str(tmp_path / "out"), "--registration", "none"])
    assert (
        capsys.readouterr().err == f"atlf prepare: {tmp_path / 'out'} is prepared, but qc.html is missing (no font)\n"
    )
    assert len(PreparedSource(PreparedConfig(str(tmp_path / "out"), "all"))) == 6


def test_an_empty_chaos_folder(tmp_path):
    for kind in ("CT", "MR"):
        (tmp_path / "in" / kind).mkdir(parents=True)
    refused(settings(tmp_path / "in", tmp_path / "out", "chaos"), "holds no pair of a CT and an MR")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"subject,ct,mr\na,," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b"subject,ct,mr\na,,\xff\xfe\n", "is not a readable CSV file"),
        (b"subject,ct,mr\na,,b\0c\n", "holds zero bytes"),
        (b'subject,ct,mr\na,,"b\n', "is not a readable CSV file"),
        (b"subject,ct,mr,mr\na,,b,c\n", "two columns of one name"),
        (b"subject,ct,mr\na,," + b"x" * 5000 + b"\n", "does not exist"),
    ],
)
def test_a_malformed_table_is_one_sentence(tmp_path, content, words):
    (tmp_path / "pairs.csv").write_bytes(content)
    message = refused(settings(tmp_path / "pairs.csv", tmp_path / "out"), "pairs.csv", words)
    assert len(message) <= 250 and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.data
def test_real_hearts_of_different_people(data_dir, tmp_path):
    hearts = Path(data_dir, "mmwhs")
    for kind, name, file in (
        ("ct", "image", "totalsegmentator_cardiac_cta/ct_cropped.nii.gz"),
        ("mr", "image", "mscmr_mr_volumes/patient11_C0.nii.gz"),
        ("mr", "label", "mscmr_mr_volumes/patient11_C0_manual.nii.gz"),
    ):
        (tmp_path / "in" / f"{kind}_train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{kind}_train" / f"{kind}_train_1001_{name}.nii.gz").symlink_to((hearts / file).resolve())
    manifest, _ = quietly(settings(tmp_path / "in", tmp_path / "out", "mmwhs", keep_flagged=True))
    (record,) = manifest["subjects"]
    assert record["orientation"] == "PSR" and record["spacing"] == [1.1875, 1.1875, 8.000002]
    assert record["slice_axis"] == 2 and record["ct_coverage"] > 0.2
    source = PreparedSource(PreparedConfig(root=str(tmp_path / "out"), split="all"))
    assert len(source) == 12 and source[5].target.shape == (192, 192) and source[5].ct.std() > 0.1
    labels = read_nifti(tmp_path / "out" / record["subject"] / "label.nii.gz")
    assert len(np.unique(labels.data)) > 2


@pytest.mark.data
def test_a_real_chaos_ct_in_the_official_layout(data_dir, tmp_path):
    """The eight slices at hand, beside an MR that is made here."""
    write_chaos(tmp_path / "in", (), ("3",))
    (tmp_path / "in" / "CT" / "7").mkdir(parents=True)
    (tmp_path / "in" / "CT" / "7" / "DICOM_anon").symlink_to(Path(data_dir, "chaos", "ct_set_3", "dicom").resolve())
    manifest, _ = quietly(settings(tmp_path / "in", tmp_path / "out", "chaos", keep_flagged=True))
    (record,) = manifest["subjects"]
    assert record["subject"] == "unpaired_ct7_mr3" and record["ct_range"] == [-1000, 1188]
    assert 0.3 < record["ct_coverage"] < 1  # 16 mm of CT, 30 mm of MR
    assert b"CT_SET" not in (tmp_path / "out" / "manifest.json").read_bytes()


@pytest.mark.data
def test_a_real_table_of_several_grids(data_dir, tmp_path):
    abdomen = Path(data_dir, "chaos", "totalsegmentator_abdomen").resolve()
    ct, mr = abdomen / "example_ct_sm.nii.gz", abdomen / "example_mr_sm.nii.gz"
    table = write_table(tmp_path, [("subject", "ct", "mr"), ("p1", ct, mr)])
    manifest, _ = quietly(settings(table, tmp_path / "out", keep_flagged=True))
    (record,) = manifest["subjects"]
    assert record["orientation"] == "LPS" and record["spacing"] == [3, 3, 3] and record["good"] is False
    given, written = read_nifti(mr), read_nifti(tmp_path / "out" / "p1" / "mr.nii.gz")
    np.testing.assert_array_equal(written.data, given.data)
    np.testing.assert_array_equal(written.affine, given.affine)
    assert written.codes == given.codes == (0, 2)
