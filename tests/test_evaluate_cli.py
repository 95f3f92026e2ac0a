"""evaluate.py end to end, on a run of the smoke configuration."""

import csv
import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.data.volume import Volume, read_nifti, write_nifti
from atlf_jax.evaluation.modality import SWEEPS
from atlf_jax.models import pretrained
from atlf_jax.reconstruct import command

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
    model = atlf.load_model(smoke)
    kspace = np.asarray(atlf.fft2c(np.ones((32, 32), np.complex64)))
    with pytest.warns(atlf.GuardWarning, match="1.00x acceleration was never trained"):
        image = atlf.reconstruct(kspace, np.ones(32, bool), ct=np.zeros((32, 32)), model=model)
    assert image.shape == (32, 32) and np.isfinite(image).all()
    assert (out / "panels.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_several_ct_windows_from_training_to_an_image(program, tmp_path):
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
    pretrained.pack(pretrained.load(workdir), packed)  # and it is read again with as many channels
    rng = np.random.default_rng(0)
    volumes = {"mr": 300 * rng.random((40, 36, 2)), "ct": rng.uniform(-1000, 1500, (40, 36, 2))}
    for name, data in volumes.items():
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(data.astype(np.float32), np.diag([1.0, 1.0, 5.0, 1.0])))
    arguments = [str(tmp_path / "mr.nii.gz"), str(tmp_path / "out.nii.gz"), f"--checkpoint={packed}", "--panels"]
    command.main(arguments)  # without a CT: zeros in both windows
    alone = read_nifti(tmp_path / "out.nii.gz").data
    arguments += ["--overwrite", "--ct.no_clean", "--ct.path", str(tmp_path / "ct.nii.gz")]
    command.main(arguments)
    assert json.loads((tmp_path / "out.json").read_text())["ct"]["window"] == ["brain", "bone"]
    assert not np.array_equal(read_nifti(tmp_path / "out.nii.gz").data, alone)
    with pytest.raises(SystemExit, match="number of CT windows is 1, and the network was trained with 2: brain, bone"):
        command.main([*arguments, "--ct.window", "brain"])


def test_other_ct_windows_are_refused():
    evaluate = runpy.run_path(str(ROOT / "evaluate.py"))
    one = Config(data=DataConfig(dataset="phantom"))
    two = Config(data=DataConfig(dataset="phantom", phantom=PhantomConfig(ct_window=("brain", "bone"))))
    asked = evaluate["Arguments"](checkpoint=("a",))
    assert evaluate["choose_data"](asked, {"a": two}) == two.data
    with pytest.raises(
        ValueError, match="b was trained with the CT windows brain, and the CT is read through brain, b"
    ):
        evaluate["choose_data"](asked, {"a": two, "b": one})
    asked = dataclasses.replace(asked, dataset="aanlib")
    with pytest.raises(ValueError, match="a was trained with the CT windows brain, bone, .* through the dataset's own"):
        evaluate["choose_data"](asked, {"a": two})


def test_a_missing_checkpoint_is_one_line(program, tmp_path):
    result = program("evaluate.py", f"--checkpoint={tmp_path / 'nothing'}")
    assert result.returncode != 0
    assert "nothing" in result.stderr and "Traceback" not in result.stderr
