"""Train on CPU devices in one and several processes: ``python -m benchmarks.devices --out=runs/devices``.

``train.py`` trains ``devices_experiment.py`` for 20 steps on so many devices of so many processes. A row says how far
the parameters are from those of one device in one process, images/s (the median step), its share of that of one device,
and the peak memory of all processes together. All devices share the cores of this machine: equality is what is shown,
the rest is what the division costs. Several processes on CPU devices may take each other's messages
(docs/scaling.md). On a machine with accelerators run ``benchmarks.accelerator``.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from atlf_jax.training import load
from benchmarks.table import busy_cores, machine, markdown
from benchmarks.volume import POLL, peak_memory

ROOT = Path(__file__).parents[1]
CASES = ("1x1", "1x2", "1x8", "2x1", "2x4", "4x1", "4x2")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.devices", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder of the runs, table.md and results.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train every case; write and print the table."""
    out = parse(argv).out.resolve()
    about = machine() | {"busy_cores": busy_cores()}
    rows: list[dict[str, Any]] = []
    for case in CASES:
        processes, devices = map(int, case.split("x"))
        memory = train(out / case, processes, devices)
        log = [json.loads(line) for line in (out / case / "log.jsonl").read_text().splitlines()]
        rate = statistics.median(line["images_per_second"] for line in log if "images_per_second" in line)
        row = {"processes x devices": case, "largest difference": difference(out / case, out / CASES[0])}
        row |= {"images/s": rate, "of one device": rate / (rows[0]["images/s"] if rows else rate), "GiB": memory}
        rows.append(row)
        print(row, flush=True)
    (out / "results.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    text = "\n\n".join([", ".join(f"{key} {value}" for key, value in about.items() if value != ""), markdown(rows)])
    (out / "table.md").write_text(text + "\n")
    print(text)


def train(workdir: Path, processes: int, devices: int) -> float:
    """Train one case; return the sum of the processes' peak memory in GiB.

    Raises:
        RuntimeError: a process failed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "ATLF_CPU_PROCESSES": "1",
    }
    command = [sys.executable, "train.py", "--config=benchmarks/devices_experiment.py", f"--workdir={workdir}"]
    started = []
    for number in range(processes):
        own = [f"--coordinator=localhost:{port}", f"--num_processes={processes}", f"--process_id={number}"]
        whole = [*command, *(own if processes > 1 else [])]
        started.append(subprocess.Popen(whole, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL))
    peaks = [0] * processes
    while any(process.poll() is None for process in started):
        for number, process in enumerate(started):
            if process.poll() is None:
                peaks[number] = max(peaks[number], peak_memory(process.pid))
        time.sleep(POLL)
    if any(process.returncode for process in started):
        raise RuntimeError(f"{processes} x {devices} ended with {[process.returncode for process in started]}")
    return sum(peaks) / 2**20


def difference(one: Path, other: Path) -> float:
    """Return the largest difference of a parameter, relative to it and to 1 % of its array's maximum at least."""
    a, b = (jax.tree.leaves(load(workdir, "latest")[1]["params"]) for workdir in (one, other))

    def relative(x: np.ndarray, y: np.ndarray) -> float:
        size = np.maximum(np.abs(y), 0.01 * np.abs(y).max() + np.finfo(y.dtype).tiny)  # some stay zero
        return float((np.abs(x - y) / size).max())

    return max(relative(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    main()
