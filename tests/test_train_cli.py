"""train.py from end to end, as a person runs it: on one device, in a process of its own."""

import json
import os
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
    return [sys.executable, str(ROOT / "train.py"), "--config=configs/phantom_smoke.py", *argv]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    """How to start a process: a person's environment, and a compilation cache that the tests of this file share."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the time
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "error",
    }
    return {"cwd": ROOT, "env": environment, "text": True}


def lines(workdir: Path, kind: str = "train") -> list[dict]:
    every = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def test_a_run_is_stopped_resumed_and_loaded(settings, tmp_path) -> None:
    only = ["--train.autoencode.steps=0", "--train.fusion.steps=0", "--train.joint.steps=0"]
    arguments = [*only, "--data.workers=1", "--config.train.reconstruction.steps=100000", f"--workdir={tmp_path}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*arguments), **settings, **pipes) as process:
        deadline = time.monotonic() + 900
        while not (tmp_path / "log.jsonl").exists() or not lines(tmp_path):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and errors == ""  # nothing but what was meant to be said
    (saved,) = (tmp_path / "checkpoints" / "latest").iterdir()
    step = int(saved.name)
    assert f"interrupted at step {step}; run the same command to go on" in said

    arguments = [*only, f"--train.reconstruction.steps={step + 2}", f"--workdir={tmp_path}"]
    done = subprocess.run(command(*arguments), **settings, capture_output=True)
    assert done.returncode == 0 and done.stderr == ""
    assert f"resumed at step {step} of {step + 2}" in done.stdout and f"done: {tmp_path}" in done.stdout
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, step + 3))
    assert lines(tmp_path, "valid")[-1]["step"] == step + 2

    values, variables = load(tmp_path)
    config = from_dict(Config, values)
    assert config.model == load_config(ROOT / "configs" / "phantom_smoke.py").model
    assert "fusion" in variables["params"] and build(config.model).mu_values
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
def test_the_smoke_experiment_runs_through_all_stages(settings, tmp_path) -> None:
    done = subprocess.run(command(f"--workdir={tmp_path}"), **settings, capture_output=True)
    assert done.returncode == 0, done.stderr
    stages = [line["stage"] for line in lines(tmp_path)]
    assert list(dict.fromkeys(stages)) == ["autoencode", "fusion", "reconstruction", "joint"]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best", "latest"}


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
