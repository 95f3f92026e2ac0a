"""train.py from end to end, as a person runs it: on one device, in a process of its own."""

import json
import os
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

ROOT = Path(__file__).parent.parent
SHORT = ["--train.autoencode.steps=0", "--train.fusion.steps=0", "--train.joint.steps=0"]


def command(*argv: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "--config=configs/phantom_smoke.py", *argv]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """A person's environment, with a compilation cache that the tests of this file share."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the time
    }
    return environment | cache | {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "error"}


@pytest.fixture
def train(environment):
    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*argv), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)

    return call


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def test_a_run_is_resumed_by_the_same_command_and_its_checkpoint_stands_alone(train, tmp_path) -> None:
    first = train(*SHORT, "--train.reconstruction.steps=2", f"--workdir={tmp_path}")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # nothing but what was meant to be said
    assert f"done: {tmp_path}" in first.stdout
    second = train(*SHORT, "--train.reconstruction.steps=4", f"--workdir={tmp_path}")
    assert second.returncode == 0, second.stderr
    assert "resumed at step 2 of 4" in second.stdout
    assert [line["step"] for line in lines(tmp_path) if line["kind"] == "train"] == [1, 2, 3, 4]

    config, variables = load(tmp_path)
    config = from_dict(Config, config)
    assert config.model == load_config(ROOT / "configs" / "phantom_smoke.py").model
    assert config.train.reconstruction.steps in (2, 4)
    model = build(config.model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    assert jax.tree.structure(variables["params"]) and "fusion" in variables["params"] and hasattr(model, "mu_values")


@pytest.mark.slow
def test_the_smoke_experiment_runs_through_all_stages(train, tmp_path) -> None:
    done = train(f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    stages = [line["stage"] for line in lines(tmp_path) if line["kind"] == "train"]
    assert list(dict.fromkeys(stages)) == ["autoencode", "fusion", "reconstruction", "joint"]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best", "latest"}


def test_a_signal_saves_and_leaves_with_status_0(environment, tmp_path) -> None:
    arguments = [*SHORT, "--train.reconstruction.steps=100000", f"--workdir={tmp_path}", "--data.workers=1"]
    process = subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 500
    while not (tmp_path / "log.jsonl").exists() or not lines(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "interrupted at step" in out and "run the same command to go on" in out
    (saved,) = (tmp_path / "checkpoints" / "latest").iterdir()
    assert saved.name in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.joint.stpes=3"], "--train.joint.steps INT"),
        ([*SHORT, "--train.reconstruction.steps=0"], "train.py: nothing to train: every stage has 0 steps"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(train, tmp_path, argv, message) -> None:
    done = train(*argv, f"--workdir={tmp_path}")
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
