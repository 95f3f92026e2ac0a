"""Signals reach a program in time whatever it does, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atlf_jax.program import FAILED, INTERRUPTED

PROGRAM = """
import ctypes, sys, threading, time
from atlf_jax import signals
from atlf_jax.program import Interrupted, errors_in_one_line

signals.GRACE = 0.5
held = threading.Lock()
def rescue():
    with held:
        {rescue}
with signals.interruptible("program") as interruption, errors_in_one_line("program"):
    interruption.rescue = {given}
    print("begun", flush=True)
    {work}
print("end", flush=True)
"""
DEAF = "ctypes.CDLL(None).sleep(60)"  # in C: no handler runs
PIPES = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
    "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
}


PARENT = """
import multiprocessing, time
from atlf_jax.signals import interruptible

if __name__ == "__main__":
    with interruptible("program"):
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,))
        child.start()
        print(child.pid, flush=True)
        time.sleep(100)
"""


@pytest.mark.parametrize(
    ("work", "given", "rescue", "signals", "code", "line"),
    [
        (
            DEAF,
            "None",
            "pass",
            1,
            INTERRUPTED,
            "interrupted before anything new was done; run the same command to go on",
        ),
        (DEAF, "rescue", "return 'saved step 3'", 1, INTERRUPTED, "saved step 3"),
        (DEAF, "rescue", "time.sleep(60)", 2, INTERRUPTED, "interrupted again and ended at once"),
        (
            DEAF,
            "rescue",
            "raise OSError('no\\nspace')",
            1,
            FAILED,
            "interrupted, and what was reached is lost: no sp",
        ),
        (
            "interruption.asked.wait(60); raise Interrupted('saved by itself')",
            "rescue",
            "return 'saved again'",
            1,
            INTERRUPTED,
            "saved by itself",
        ),
    ],
    ids=["nothing to lose", "rescued", "twice", "rescue fails", "by itself"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_program_in_time(work, given, rescue, signals, code, line, number) -> None:
    program = PROGRAM.format(work=work, given=given, rescue=rescue)
    with subprocess.Popen([sys.executable, "-W", "error", "-c", program], **PIPES) as process:
        assert process.stdout.readline() == "begun\n"
        began = time.monotonic()
        for _ in range(signals):
            process.send_signal(number)
            time.sleep(0.2)
        output, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == code and output == ""
    assert errors.startswith(f"program: {line}") and errors.count("\n") == 1


def test_what_ends_well_is_left_alone() -> None:
    """Handlers, mask and wake-up are those of before, and a later signal does what it did."""
    program = PROGRAM.format(work="pass", given="rescue", rescue="pass")
    program += "import os, signal; assert signal.set_wakeup_fd(-1) == -1; os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", program], **PIPES, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("begun\nend\n", "", -signal.SIGTERM)


def test_no_process_is_left_behind(tmp_path) -> None:
    """A child that waits is ended with the program, and hears nothing of what a terminal sends to all."""
    script = tmp_path / "program.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], **PIPES, start_new_session=True) as process:
        child = int(process.stdout.readline())
        time.sleep(0.1)  # it is starting: here a KeyboardInterrupt would be printed
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert errors == "program: interrupted before anything new was done; run the same command to go on\n"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
