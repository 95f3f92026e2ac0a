"""evaluate.py end to end, on a run of the smoke configuration."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atlf_jax as atlf
from atlf_jax.array_types import Reconstruction
from atlf_jax.commands import evaluate as evaluate_command
from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AcquisitionConfig, DataConfig, PhantomConfig
from atlf_jax.data.fastmri import write_kspace
from atlf_jax.data.volume import Volume, read_nifti, write_nifti
from atlf_jax.evaluation import report
from atlf_jax.evaluation.modality import SWEEPS
from atlf_jax.models import UNetConfig, build
from atlf_jax.ops import adjoint
from atlf_jax.reconstruct import command
from atlf_jax.trained import Network
from tests.models.conftest import measure, random_variables
from tests.networks import network_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_checkpoint_is_all_it_needs(smoke, program, tmp_path):
    out = tmp_path / "out"
    scored = program(
        "evaluate.py",
        f"--checkpoint=smoke={smoke}",
        f"--out={out}",
        "--split=valid",
        "--panels=1",
        "--acquisition.phase=0.785",
        "--ablate=ct",
        "--solvers",
        "total_variation",
        "guided_total_variation",
    )
    assert scored.returncode == 0, scored.stderr
    assert "zero-filled" in scored.stdout and "smoke" in scored.stdout
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    methods = ("smoke", "total_variation", "guided_total_variation")
    ablated = {f"{method}, CT zero" for method in methods}  # the split has one slice of one subject
    assert {row["method"] for row in rows} == {"zero-filled", *methods, *ablated}
    psnr = {(row["method"], row["name"]): row["psnr"] for row in rows}
    names = {row["name"] for row in rows}
    assert all(psnr["total_variation", name] == psnr["total_variation, CT zero", name] for name in names)
    assert any(psnr["smoke", name] != psnr["smoke, CT zero", name] for name in names)
    facts = json.loads((out / "summary.json").read_text())
    assert facts["protocol"]["acquisition"]["phase"] == 0.785 and len(facts["audit"]) == 7
    assert not facts["audit"][0]["found"] and "What flatters these numbers" in scored.stdout
    assert "smoke: a simulated phase of 0.785 was never trained, 0 was." in facts["remarks"]
    assert {point["sweep"] for point in facts["ct"]["sweeps"]} == SWEEPS.keys()
    page = (out / "report.html").read_text()
    assert page.startswith(("<!doctype html>", "<!DOCTYPE html>"))
    model = atlf.load(smoke)
    kspace = np.asarray(atlf.fft2c(np.ones((32, 32), np.complex64)))
    with pytest.warns(atlf.GuardWarning, match="1.00x acceleration was not trained"):
        image = atlf.reconstruct(kspace, np.ones(32, bool), ct=np.zeros((32, 32)), model=model, force=True)
    assert image.shape == (32, 32) and np.isfinite(image).all()
    assert (out / "panels.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_several_ct_windows_from_training_to_an_image(program, tmp_path, capsys):
    workdir = tmp_path / "run"
    stages = [f"--train.{stage}.steps=0" for stage in ("autoencode", "fusion", "reconstruction")]
    windows = ("--data.phantom.ct_window", "brain", "bone")
    trained = program("train.py", "--config=configs/phantom_smoke.py", f"--workdir={workdir}", *stages, *windows)
    assert trained.returncode == 0, trained.stderr
    scored = program("evaluate.py", f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", "--panels=1", "--ablate=ct")
    assert scored.returncode == 0, scored.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    psnr = {row["method"]: row["psnr"] for row in rows}
    assert psnr["run"] != psnr["run, CT zero"] and (tmp_path / "out" / "report.html").exists()

    packed = tmp_path / "two.safetensors"
    atlf.load(workdir).save(packed)  # and it is read again with as many channels
    rng = np.random.default_rng(0)
    volumes = {"mr": 300 * rng.random((40, 36, 2)), "ct": rng.uniform(-1000, 1500, (40, 36, 2))}
    for name, data in volumes.items():
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(data.astype(np.float32), np.diag([1.0, 1.0, 5.0, 1.0])))
    arguments = [
        str(tmp_path / "mr.nii.gz"),
        str(tmp_path / "out.nii.gz"),
        f"--checkpoint={packed}",
        "--panels",
        "--force",
    ]
    command.main(arguments)  # without a CT: zeros in both windows
    alone = read_nifti(tmp_path / "out.nii.gz").data
    arguments += ["--overwrite", "--ct.no_clean", "--ct.path", str(tmp_path / "ct.nii.gz")]
    command.main(arguments)
    assert json.loads((tmp_path / "out.json").read_text())["ct"]["window"] == ["brain", "bone"]
    assert not np.array_equal(read_nifti(tmp_path / "out.nii.gz").data, alone)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="^2$"):
        command.main([*arguments, "--ct.window", "brain"])
    said = capsys.readouterr().err
    assert "number of CT windows is 1, and the network was trained with 2: brain, bone" in said


def test_other_ct_windows_are_refused():
    one = Config(data=DataConfig())
    two = Config(data=DataConfig(PhantomConfig(ct_window=("brain", "bone"))))
    asked = evaluate_command.Arguments(checkpoint=("a",))
    assert evaluate_command.choose_data(asked, {"a": two}) == two.data
    spread = dataclasses.replace(one, data=DataConfig(acquisition=AcquisitionConfig(noise=0.1, noise_spread=50.0)))
    noisy = dataclasses.replace(asked, noise=0.02)
    acquisition = evaluate_command.choose_data(noisy, {"a": spread}).acquisition
    assert (acquisition.noise, acquisition.noise_spread) == (0.02, 1)  # as much as is asked for
    with pytest.raises(
        ValueError, match="b was trained with the CT windows brain, and the CT is read through brain, b"
    ):
        evaluate_command.choose_data(asked, {"a": two, "b": one})
    asked = dataclasses.replace(asked, dataset="aanlib")
    with pytest.raises(ValueError, match="a was trained with the CT windows brain, bone, .* through the dataset's own"):
        evaluate_command.choose_data(asked, {"a": two})


@pytest.mark.slow
def test_a_missing_checkpoint_is_one_line(settings, tmp_path):
    """Also where a notebook left a backend of matplotlib that does not load here."""
    command = [sys.executable, "evaluate.py", f"--checkpoint={tmp_path / 'nothing'}", f"--out={tmp_path / 'out'}"]
    environment = settings["env"] | {"MPLBACKEND": "module://no_such_backend"}
    result = subprocess.run(command, **settings | {"env": environment}, capture_output=True, timeout=300)
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert "nothing is neither a run's folder" in result.stderr and result.stderr.count("\n") == 1


def halved(measurement):
    """A network that is not one: half of what was measured."""
    return Reconstruction(adjoint(measurement.kspace, measurement.mask) / 2)


def test_networks_average_over_mirror_images_as_asked_or_as_packed():
    config = Config(model=UNetConfig(width=2, pools=1, dc="soft"))
    measurement, _ = measure()
    once = Network(config, random_variables(build(config.model), measurement), {"step": 1})
    plain = evaluate_command.Arguments(checkpoint=("net",))
    asked, uncertain = (dataclasses.replace(plain, **{n: True}) for n in ("mirror_average", "uncertainty"))
    images = [
        evaluate_command.reconstructors(arguments, {"net": network})["net"](measurement).image
        for arguments, network in ((plain, once), (asked, once), (plain, once.averaging_mirrors()))
    ]
    np.testing.assert_array_equal(images[1], images[2])
    np.testing.assert_allclose(images[1], once.averaging_mirrors()(measurement).image, atol=1e-5)
    assert np.abs(images[0] - images[1]).max() > 1e-3
    with pytest.raises(ValueError, match="net averages over them; leave --mirror_average out, or score a copy"):
        evaluate_command.reconstructors(uncertain, {"net": once.averaging_mirrors()})


@pytest.fixture
def evaluate(monkeypatch):
    """Return the command with ``halved`` in the place of whatever checkpoint is asked for."""
    config = Config(data=DataConfig(AANLIBConfig()))
    monkeypatch.setattr(evaluate_command, "load", lambda *_, **__: network_of(halved, config=config))
    monkeypatch.setattr(evaluate_command, "reconstructors", lambda *_: {"net": halved})
    return evaluate_command


SHORT = ["--checkpoint=net", "--masks", "random", "2", "0.2", "--bootstrap=20", "--panels=1"]


def pictures(root, names):
    """Write slices as AANLIB pictures; one of None is black, the others have the given number of rows."""
    rng = np.random.default_rng(0)
    for name, rows in names.items():
        mr = np.zeros((32, 32)) if rows is None else np.pad(rng.integers(50, 255, (rows - 8, 24)), 4)
        for kind in ("CT", "MRI"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mr.astype(np.uint8)).save(root / kind / f"{name}.png")


def test_black_slices_and_several_sizes(evaluate, tmp_path, capsys):
    """And what was scored stays the same without the black slice."""
    pictures(tmp_path / "a", {"28001": 32, "28002": None, "28003": 40, "37001": 32})
    pictures(tmp_path / "b", {"28001": 32, "28003": 40, "37001": 32})
    for name in "ab":
        evaluate.main([*SHORT, f"--data_root={tmp_path / name}", f"--out={tmp_path / 'out' / name}"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Left out, as the MR is black and there is nothing to reconstruct: 28002.") == 1
    with_black, without = (json.loads((tmp_path / "out" / name / "summary.json").read_text()) for name in "ab")
    assert with_black["left_out"] == ["28002"] and without["left_out"] == []
    assert [item["subjects"].keys() for item in with_black["results"]] == [{"28", "37"}] * len(with_black["results"])
    rows = [list(csv.DictReader((tmp_path / "out" / name / "scores.csv").read_text().splitlines())) for name in "ab"]
    assert [row["name"] for row in rows[0]] == ["28001"] * 2 + ["28003"] * 2 + ["37001"] * 2
    assert all(np.isfinite(float(row["psnr"])) for row in rows[0])
    assert "28002" in (tmp_path / "out" / "a" / "report.html").read_text()


def test_a_first_look_at_few_slices_says_so(evaluate, tmp_path, capsys):
    pictures(tmp_path, dict.fromkeys(("28001", "28002", "28003", "37001", "37002", "37003"), 32))
    evaluate.main([*SHORT, "--max_slices=2", f"--data_root={tmp_path}", f"--out={tmp_path / 'out'}"])
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} == {"28001", "37001"}
    assert "Only 2 of 6 slices were scored (--max_slices)." in " ".join(capsys.readouterr().out.split())


def test_names_of_fastmri_files_stay_private(evaluate, tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(3):  # the split goes by a hash
        kspace = rng.standard_normal((2, 24, 20)) + 1j * rng.standard_normal((2, 24, 20))
        attributes = {"patient_id": f"p{number}", "acquisition": "AXT2", "max": 1.0}
        write_kspace(folder / f"Jane_Doe{number}.h5", kspace.astype(np.complex64), attributes=attributes)
    for profile in ("picture", "fastmri"):
        out = tmp_path / profile
        evaluate.main(
            [
                *SHORT,
                "--dataset=fastmri",
                f"--data_root={folder}",
                f"--out={out}",
                f"--profile={profile}",
                "--split=all",
            ]
        )
        assert len(list(csv.DictReader((out / "scores.csv").read_text().splitlines()))) == (
            12 if profile == "picture" else 6
        )
        for file in out.iterdir():
            assert b"Jane" not in file.read_bytes(), file.name
    captured = capsys.readouterr()
    assert "Jane" not in captured.out + captured.err
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*SHORT, "--dataset=fastmri", f"--data_root={folder}", f"--out={tmp_path / 'no'}", "--ablate=ct"])
    assert ended.value.code == 2 and not (tmp_path / "no").exists()


def refused(evaluate, capsys, *arguments):
    """Return the one line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("atlf evaluate: ") and said.count("\n") == 1 and len(said) < 300
    return said


def test_the_output_is_checked_before_anything_is_opened(evaluate, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "load", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / "file").write_text("mine")
    assert "is no folder" in refused(evaluate, capsys, "--checkpoint=net", f"--out={tmp_path / 'file'}")
    assert "is no folder" in refused(evaluate, capsys, "--checkpoint=net", f"--out={tmp_path / 'file' / 'in'}")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_by_the_end_costs_no_number(evaluate, tmp_path, capsys, monkeypatch):
    pictures(tmp_path, {"28001": 32, "37001": 32})

    def full(*arguments):
        raise ValueError("report.html cannot be written (No space left on device); make room")

    monkeypatch.setattr(report, "write", full)
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*SHORT, f"--data_root={tmp_path}", f"--out={tmp_path / 'out'}"])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "zero-filled" in said.out and "No space left" in said.err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--masks", "randon", "4", "0.08"], "did you mean 'random'"),
        (["--masks", "random", "0.5", "0.08"], "wanted at least 1"),
        (["--data_root=nowhere"], "folder nowhere does not exist"),
        (["--dataset=phantom", "--data_root=."], "the phantom dataset is not read from a folder"),
        (["--split=valid"], "no folder given"),
        (["--dataset=phantom", "--max_slices=0"], "--max_slices is 0; wanted at least 1"),
    ],
)
def test_what_a_person_can_mend_is_one_line(evaluate, tmp_path, capsys, monkeypatch, wrong, words):
    monkeypatch.delenv("ATLF_DATA_DIR", raising=False)
    assert words in refused(evaluate, capsys, "--checkpoint=net", f"--out={tmp_path / 'out'}", *wrong)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read_are_one_line(evaluate, tmp_path, capsys, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied", "weights.safetensors")

    monkeypatch.setattr(evaluate, "load", denied)
    assert "Permission denied: 'weights" in refused(evaluate, capsys, "--checkpoint=net", f"--out={tmp_path / 'out'}")
