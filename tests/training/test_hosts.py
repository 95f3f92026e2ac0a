"""Several processes train as one, and end as one. The whole table of devices and processes is for ``-m processes``."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlf_jax.program import INTERRUPTED
from atlf_jax.together import LOST_LINE
from atlf_jax.training.checkpoint import newest
from atlf_jax.training.hosts import Hosts, parse_hosts
from tests.training.test_kills import CONFIG, lines

FLAGS = ["--coordinator=host:1234", "--num_processes=2", "--process_id", "1"]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch) -> None:
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)


def test_processes_are_found_by_arguments_or_by_the_cluster(monkeypatch) -> None:
    assert parse_hosts(["x.py", "--train.seed=1"]) == (None, ["x.py", "--train.seed=1"])
    assert parse_hosts(["x.py", *FLAGS]) == (Hosts("host:1234", 2, 1), ["x.py"])
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert parse_hosts([])[0] is None  # inside salloc, but not in a step of srun
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")
    assert parse_hosts([])[0] == Hosts()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "pod-0:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert parse_hosts(["--process_id=0"])[0] == Hosts("pod-0:1234", 2, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FLAGS[:2], "--process_id is missing: of several processes each is given"),
        ([*FLAGS[:3], "2"], "--process_id is 2; wanted 0 to 1"),
        ([*FLAGS[:3], "x"], "must be whole numbers"),
        (["--coordinator=host", *FLAGS[1:]], "--coordinator is 'host'; wanted HOST:PORT"),
        (["--process_id"], "--process_id wants a value"),
    ],
)
def test_what_does_not_name_a_process_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        parse_hosts(arguments)


class Job:
    """A small experiment, in one or more processes with some devices each."""

    def __init__(self, folder: Path, settings: dict[str, Any], *, steps: int, batch: int = 8) -> None:
        self.folder, self.settings = folder, settings
        self.file = folder / "experiment.py"
        # consistency takes the last bias away again: its gradient is rounding alone, which Adam would make large
        trained = 'Supervised(), ("*", "!*conv_1/bias")'
        text = CONFIG.format(steps=steps).replace("batch_size=2", f"batch_size={batch}")
        self.file.write_text(text.replace("Supervised()", trained, 1))

    def start(
        self, workdir: Path, processes: int, devices: int, *arguments: str, allowed: bool = True
    ) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "ATLF_HEARTBEAT_SECONDS": "10",
            "ATLF_CPU_PROCESSES": "1" if allowed else "",
        }
        settings = self.settings | {"env": self.settings["env"] | environment}
        command = [sys.executable, "-W", "error", "train.py", f"--config={self.file}", f"--workdir={workdir}"]
        found = []
        for number in range(processes):
            own = [f"--coordinator=localhost:{port}", f"--num_processes={processes}", f"--process_id={number}"]
            whole = [*command, *(own if processes > 1 else []), *arguments]
            found.append(subprocess.Popen(whole, **settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return found

    def run(self, workdir: Path, processes: int, devices: int, *arguments: str) -> str:
        """Run to the end, and return what the first process printed; the others print nothing."""
        printed = [end(each) for each in self.start(workdir, processes, devices, *arguments)]
        assert [code for code, _, _ in printed] == [0] * processes, printed
        assert all(errors == "" for _, _, errors in printed), printed
        assert all(output == "" for _, output, _ in printed[1:])
        return printed[0][1]


def end(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def wait(reached: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert all(each.poll() is None for each in processes), [end(each) for each in processes]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_close(one: Path, other: Path) -> None:
    """The same step, and the same numbers as far as sums over devices in another order have them."""
    a, b = (newest(workdir)[0] for workdir in (one, other))
    assert a.meta["step"] == b.meta["step"] and a.arrays.keys() == b.arrays.keys()
    for name in a.arrays:
        if name.split("/")[0] in ("params", "average"):
            np.testing.assert_allclose(a.arrays[name], b.arrays[name], rtol=1e-5, atol=1e-7, err_msg=name)
    for kind in ("train", "valid"):
        pairs = zip(*([line for line in lines(each) if line["kind"] == kind] for each in (one, other)), strict=True)
        assert all(x["step"] == y["step"] and x["loss"] == pytest.approx(y["loss"], rel=1e-4) for x, y in pairs)


@pytest.mark.parametrize(
    ("steps", "devices", "batch"), [(9, 1, 2), pytest.param(40, 2, 8, marks=pytest.mark.processes)]
)
def test_a_run_of_two_processes_loses_one_and_goes_on_in_one(settings, tmp_path, steps, devices, batch) -> None:
    """What two processes began and one finished, on as many devices, is the run of one."""
    job = Job(tmp_path, settings, steps=steps, batch=batch)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    processes = job.start(parts, 2, devices)
    wait(lambda: len(lines(parts)) > 5, processes)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    code, _, errors = end(processes[0])
    assert (code, errors) == (INTERRUPTED, f"train.py: {LOST_LINE}\n")
    assert time.monotonic() - killed < 60
    end(processes[1])
    assert newest(parts)[0].meta["step"] < steps
    assert "resumed at step" in job.run(parts, 1, 2 * devices)
    job.run(whole, 1, 1)
    assert_close(whole, parts)
    starts = json.loads((parts / "run.json").read_text())["starts"]
    assert [(start["processes"], start["mesh"]["data"]) for start in starts] == [(2, 2 * devices), (1, 2 * devices)]


@pytest.mark.processes
def test_devices_and_processes_do_not_matter(settings, tmp_path) -> None:
    job = Job(tmp_path, settings, steps=20)
    job.run(tmp_path / "1x1", 1, 1)
    for processes, devices in ((1, 2), (1, 8), (2, 1), (2, 4), (4, 1), (4, 2)):
        workdir = tmp_path / f"{processes}x{devices}"
        job.run(workdir, processes, devices)
        assert_close(tmp_path / "1x1", workdir)
    divided = tmp_path / "divided"
    job.run(divided, 2, 2, "--train.parameter_shards=4", "--train.shard_rules", "*conv_0/kernel", "3", "*", "-1")
    assert_close(tmp_path / "1x1", divided)


@pytest.mark.processes
@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_any_process_saves_on_all(settings, tmp_path, number) -> None:
    job = Job(tmp_path, settings, steps=200)
    processes = job.start(tmp_path / "run", 2, 2, "--data.workers=1")
    wait(lambda: len(lines(tmp_path / "run")) > 5, processes)
    processes[number].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    ended = [end(each, 60) for each in processes]
    step = newest(tmp_path / "run")[0].meta["step"]
    message = f"train.py: interrupted at step {step}, which is saved; run the same command to go on\n"
    assert [(code, errors) for code, _, errors in ended] == [(INTERRUPTED, message)] * 2
    assert time.monotonic() - asked < 30 and 5 < step < 200
    assert "resumed at step" in job.run(tmp_path / "run", 4, 1)
    job.run(tmp_path / "whole", 1, 1)
    assert_close(tmp_path / "whole", tmp_path / "run")


@pytest.mark.processes
def test_the_first_process_is_missed_too(settings, tmp_path) -> None:
    job = Job(tmp_path, settings, steps=200)
    processes = job.start(tmp_path / "run", 2, 1)
    wait(lambda: len(lines(tmp_path / "run")) > 5, processes)
    processes[0].send_signal(signal.SIGKILL)
    assert end(processes[1], 60)[::2] == (INTERRUPTED, f"train.py: {LOST_LINE}\n")
    end(processes[0])


@pytest.mark.processes
def test_a_process_that_is_refused_ends_the_others(settings, tmp_path) -> None:
    """The folder is in use, which the first process alone can see."""
    from atlf_jax.training.lock import exclusive

    job = Job(tmp_path, settings, steps=20)
    with exclusive(tmp_path / "run"):
        first, second = (end(each, 90) for each in job.start(tmp_path / "run", 2, 1))
    assert first[0] == 2 and "is in use by another training" in first[2] and first[2].count("\n") == 1
    assert second[0] == INTERRUPTED and second[2].count("\n") == 1


@pytest.mark.slow
def test_several_processes_on_cpu_devices_are_refused(settings, tmp_path) -> None:
    job = Job(tmp_path, settings, steps=20)
    for code, _, errors in [end(each, 90) for each in job.start(tmp_path / "run", 2, 1, allowed=False)]:
        assert code == 2 and "may take each other's messages" in errors and errors.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
