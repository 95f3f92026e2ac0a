"""Killed and stopped at any moment, a run loses nothing: ended by the same command, it is the run that was let be.

The short form runs by default; the many kills by ``pytest -m kill tests/training/test_kills.py``.
"""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from atlf_jax.program import INTERRUPTED
from atlf_jax.training import load
from atlf_jax.training.checkpoint import newest, read_meta

CONFIG = """
from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import DCCNNConfig
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig


def get_config() -> Config:
    return Config(
        model=DCCNNConfig(cascades=1, depth=2, width=4),
        data=DataConfig(PhantomConfig(size=16, subjects=10, slices=16)),
        masks=(MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),),
        train=TrainConfig(
            stages=(Stage("reconstruction", Supervised(), steps={steps}),),
            batch_size=2,
            log_every=1,
            eval_every=7,
            save_every=4,
        ),
    )
"""
TIMES = {"elapsed_seconds", "cpu_seconds", "images_per_second", "data_wait", "compilations"}


class Experiment:
    """A small experiment that is run by train.py, in processes of their own."""

    def __init__(self, folder: Path, settings: dict[str, Any], steps: int) -> None:
        self.settings = settings
        self.file = folder / f"steps_{steps}.py"
        self.file.write_text(CONFIG.format(steps=steps))

    def start(self, workdir: Path, *arguments: str, config: str = "", **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-W", "error", "train.py", f"--config={config or self.file}", f"--workdir={workdir}"]
        settings = self.settings | {"env": self.settings["env"] | environment}
        return subprocess.Popen([*command, *arguments], **settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self, workdir: Path, *arguments: str) -> str:
        with self.start(workdir, *arguments) as process:
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 0 and errors == "", errors
        return output

    def stop(
        self, process: subprocess.Popen, reached: Callable[[], bool], number: signal.Signals = signal.SIGTERM
    ) -> tuple[float, str]:
        """Send a signal as soon as a moment is reached; return the seconds until the end, and the standard error."""
        deadline = time.monotonic() + 600
        while not reached():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=120)
        return time.monotonic() - sent, errors


def lines(workdir: Path) -> list[dict[str, Any]]:
    file = workdir / "log.jsonl"
    whole = [text for text in file.read_text().splitlines() if text.endswith("}")] if file.exists() else []
    return [{name: x for name, x in json.loads(text).items() if name not in TIMES} for text in whole]


def is_saving(workdir: Path) -> bool:
    return any(workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp"))


def children(process: subprocess.Popen) -> list[int]:
    """Return the loader processes."""
    found = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread or a child that has just ended
            for child in task.read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def assert_same(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    for which in ("latest", "best"):
        assert read_meta(one, which) == read_meta(other, which)
        jax.tree.map(np.testing.assert_array_equal, load(one, which)[1], load(other, which)[1])
    jax.tree.map(np.testing.assert_array_equal, newest(one)[0].arrays, newest(other)[0].arrays)


@pytest.mark.slow
def test_a_run_is_stopped_killed_and_resumed(settings, tmp_path) -> None:
    experiment = Experiment(tmp_path, settings, steps=40)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment.finish(whole)
    process = experiment.start(parts, "--data.workers=1")
    seconds, errors = experiment.stop(process, lambda: len(lines(parts)) > 2)
    step = newest(parts)[0].meta["step"]
    assert errors == f"train.py: interrupted at step {step}, which is saved; run the same command to go on\n"
    assert process.returncode == INTERRUPTED and seconds < 10 and step < 40
    process = experiment.start(parts)
    experiment.stop(process, lambda: len(lines(parts)) > step + 2 and is_saving(parts), signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert "resumed at step" in experiment.finish(parts)
    assert_same(whole, parts)


@pytest.fixture(scope="module")
def long(settings, tmp_path_factory) -> tuple[Experiment, Path]:
    """An experiment of some seconds, and its run that was let be."""
    folder = tmp_path_factory.mktemp("long")
    experiment = Experiment(folder, settings, steps=300)
    experiment.finish(folder / "whole")
    return experiment, folder / "whole"


@pytest.mark.kill
@pytest.mark.parametrize("during", ["random", "save"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_was_let_be(long, tmp_path, during) -> None:
    experiment, whole = long
    draw = random.Random(during)
    moments = []
    for number in range({"random": 20, "save": 10}[during]):
        process = experiment.start(tmp_path, "--data.workers=1")
        if during == "random":
            known = len(lines(tmp_path))
            if number % 2:  # while it trains; else while it starts
                while process.poll() is None and len(lines(tmp_path)) == known:
                    time.sleep(0.01)
            until = time.monotonic() + draw.uniform(0, 2 if number % 2 else 6)
            experiment.stop(process, lambda until=until: time.monotonic() > until, signal.SIGKILL)
        else:
            saves = draw.randint(1, 4)
            seen = []

            def reached(seen=seen, saves=saves) -> bool:
                if is_saving(tmp_path) != (len(seen) % 2 == 1):
                    seen.append(True)
                return len(seen) == 2 * saves - 1

            experiment.stop(process, reached, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        moments.append(lines(tmp_path)[-1]["step"] if lines(tmp_path) else 0)
    print("killed after the steps", moments)
    experiment.finish(tmp_path)
    assert_same(whole, tmp_path)


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["imports", "loader start", "step", "validation", "save"])
def test_a_signal_is_heard_in_every_phase(long, tmp_path, phase, number) -> None:
    experiment, whole = long
    process = experiment.start(tmp_path, "--data.workers=2")
    began = time.monotonic()
    reached = {
        "imports": lambda: time.monotonic() > began + 1,
        "loader start": lambda: bool(children(process)),
        "step": lambda: len(lines(tmp_path)) > 5,
        "validation": lambda: bool(lines(tmp_path)) and lines(tmp_path)[-1]["step"] == 7,
        "save": lambda: is_saving(tmp_path),
    }[phase]
    loaders = []

    def remembering() -> bool:
        loaders[:] = children(process)
        return reached()

    seconds, errors = experiment.stop(process, remembering, number)
    print(f"{phase}: ended {seconds:.1f} s after the signal: {errors.strip()}")
    assert process.returncode == INTERRUPTED and seconds < 10
    assert errors.startswith("train.py: interrupted") and errors.count("\n") == 1
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{child}").exists() for child in loaders):
        assert time.monotonic() < deadline, "a loader process is left behind"
        time.sleep(0.05)
    if phase in ("step", "validation"):
        assert read_meta(tmp_path)["step"] >= {"step": 4, "validation": 7}[phase]
    experiment.finish(tmp_path)
    assert_same(whole, tmp_path)


@pytest.mark.kill
def test_a_signal_is_heard_while_xla_compiles_and_what_was_reached_is_saved(long, tmp_path) -> None:
    """The second stage is being compiled, which takes seconds; the first was not yet saved."""
    experiment, _ = long
    cold = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cold"), "JAX_LOG_COMPILES": "1"}
    arguments = ["--train.save_every=100", "--train.eval_every=100"]
    process = experiment.start(tmp_path / "run", *arguments, config="configs/phantom_smoke.py", **cold)
    steps = 0
    for line in process.stderr:
        steps += "Compiling jit(step)" in line
        if steps == 2:
            break
    seconds, errors = experiment.stop(process, lambda: True)
    print(f"compilation: ended {seconds:.1f} s after the signal")
    assert process.returncode == INTERRUPTED and seconds < 10
    assert errors.endswith("train.py: interrupted at step 2, which is saved; run the same command to go on\n")
    assert read_meta(tmp_path / "run")["stage"] == "fusion"
