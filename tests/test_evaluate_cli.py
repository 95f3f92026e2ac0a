"""evaluate.py end to end, on a run of the smoke configuration."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.evaluation.modality import SWEEPS

ROOT = Path(__file__).resolve().parent.parent


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # as a user has it
    command = [sys.executable, program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_checkpoint_is_all_it_needs(tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "out"
    stages = [f"--config.train.{stage}.steps=0" for stage in ("autoencode", "fusion", "reconstruction")]
    trained = run("train.py", "--config=configs/phantom_smoke.py", f"--workdir={workdir}", *stages)
    assert trained.returncode == 0, trained.stderr
    scored = run(
        "evaluate.py",
        f"--checkpoint=smoke={workdir}",
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
    model = atlf.load_model(workdir)
    kspace = np.asarray(atlf.fft2c(np.ones((32, 32), np.complex64)))
    with pytest.warns(atlf.GuardWarning, match="1.00x acceleration was never trained"):
        image = atlf.reconstruct(kspace, np.ones(32, bool), ct=np.zeros((32, 32)), model=model)
    assert image.shape == (32, 32) and np.isfinite(image).all()
    assert (out / "panels.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_checkpoint_is_one_line(tmp_path):
    result = run("evaluate.py", f"--checkpoint={tmp_path / 'nothing'}")
    assert result.returncode != 0
    assert "nothing" in result.stderr and "Traceback" not in result.stderr
