"""What Windows does not have is not needed: the commands run in a process from which it was taken away."""

import subprocess
import sys

import pytest

# Libraries are imported before, as they ask the system themselves.
WITHOUT = """
import asyncio, multiprocessing.resource_tracker, os, signal, subprocess, sys, tempfile
import flax, grain, h5py, jax, matplotlib.figure, nibabel, optax, orbax.checkpoint, rich.progress
del signal.pthread_sigmask, signal.SIGHUP, signal.SIGKILL, os.sysconf
sys.modules["fcntl"] = sys.modules["resource"] = None
from atlf_jax.commands import run
"""


@pytest.mark.slow
def test_training_and_scoring_without_what_windows_lacks(settings, tmp_path) -> None:
    """Stands in for a Windows machine, which was not at hand."""
    small = [f"--train.{stage}.steps=0" for stage in ("autoencode", "fusion", "joint")]
    small += ["--train.reconstruction.steps=2", "--model.reconstruction.phases=1", f"--workdir={tmp_path / 'run'}"]
    score = [f"--checkpoint={tmp_path / 'run'}", "--panels=1", f"--out={tmp_path / 'scores'}"]
    code = f"{WITHOUT}\nrun('train', {['phantom_smoke', *small]!r})\nrun('evaluate', {score!r})\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600, **settings)
    assert done.returncode == 0, done.stderr
    assert "cannot be locked on this system: let no second training use it" in done.stdout
    assert (tmp_path / "scores" / "report.html").exists()


@pytest.mark.slow
def test_a_first_signal_lets_the_work_end_and_a_second_ends_it(settings) -> None:
    code = f"""{WITHOUT}
from atlf_jax.signals import interruptible
with interruptible("program") as interruption:
    os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.asked.wait(5)
    print("asked", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, **settings)
    assert done.stdout == "asked\n" and done.returncode != 0
