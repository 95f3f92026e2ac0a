"""train.py from end to end, as a person runs it: on one device, in a process of its own."""

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from atlf_jax.config import Config, from_dict, load_config
from atlf_jax.models import build
from atlf_jax.training import load
from tests.data.test_prepared import write

ROOT = Path(__file__).parent.parent


def command(*argv: str) -> list[str]:
    return [sys.executable, "-W", "error", str(ROOT / "train.py"), "--config=configs/phantom_smoke.py", *argv]


def lines(workdir: Path, kind: str = "train") -> list[dict]:
    every = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def train_until(told: int, settings: dict, workdir: Path, *arguments: str) -> str:
    """Start train.py, interrupt it once the log tells of so many steps, and return what it said."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*arguments, f"--workdir={workdir}"), **settings, **pipes) as process:
        deadline = time.monotonic() + 900
        while not (workdir / "log.jsonl").exists() or len(lines(workdir)) < told:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and errors == ""  # nothing but what was meant to be said
    return said


@pytest.mark.slow
def test_a_run_is_stopped_and_resumed(settings, tmp_path) -> None:
    arguments = [f"--train.{stage}.steps=0" for stage in ("autoencode", "fusion", "joint")]
    # of a constant rate the program does not depend on the number of steps: the second run finds it compiled
    arguments += ["--config.train.reconstruction.steps", "100000", "--train.reconstruction.schedule=constant"]
    said = train_until(1, settings, tmp_path, *arguments, "--data.workers=1")
    (saved,) = (tmp_path / "checkpoints" / "latest").iterdir()
    step = int(saved.name)
    assert f"interrupted at step {step}; run the same command to go on" in said

    said = train_until(step + 2, settings, tmp_path, *arguments)
    assert f"resumed at step {step} of 100000" in said
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    values, _ = load(tmp_path, "latest")
    assert values["train"]["reconstruction"]["steps"] == 100000


@pytest.mark.slow
def test_the_smoke_experiment_runs_through_all_stages(smoke) -> None:
    stages = [line["stage"] for line in lines(smoke)]
    assert list(dict.fromkeys(stages)) == ["autoencode", "fusion", "reconstruction", "joint"]
    assert lines(smoke, "valid")[-1]["step"] == lines(smoke)[-1]["step"] == 8
    assert f"done: {smoke}" in (smoke / "said.txt").read_text()
    assert {path.name for path in (smoke / "checkpoints").iterdir()} == {"best", "latest"}
    values, variables = load(smoke)
    config = from_dict(Config, values)
    assert config == load_config(ROOT / "configs" / "phantom_smoke.py")
    assert "fusion" in variables["params"] and build(config.model).mu_values
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("pairing", ["unpaired", "same subject"])
def test_pairs_of_different_people_are_told(monkeypatch, tmp_path, capsys, pairing) -> None:
    manifest = write(tmp_path)
    for record in manifest["subjects"]:
        record["pairing"] = pairing
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("atlf_jax.training.fit", lambda *arguments, **_: print(len(arguments[2])))
    monkeypatch.setattr(sys, "argv", ["train.py", "--config=configs/chaos_4x.py", f"--data.prepared.root={tmp_path}"])
    monkeypatch.chdir(ROOT)
    runpy.run_path("train.py")["main"]()
    said = "CT and MR are of different people (unpaired)" in capsys.readouterr().out
    assert said == (pairing == "unpaired")


def test_a_mistake_is_told_in_one_line(settings, tmp_path) -> None:
    arguments = [f"--workdir={tmp_path}", "--data.valid_split=test", "--train.batch_size=0"]
    done = subprocess.run(command(*arguments), **settings, capture_output=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "batch_size must be 1 or more, got 0" in done.stderr
