"""What an accelerator makes of the network: ``python -m benchmarks.accelerator --out=runs/accelerator``.

First the card's own rates: products of large matrices in bfloat16 and float32 (as JAX multiplies them by default, TF32
on NVIDIA's), and copies in memory. Then each case by contestants that take turns, as in ``benchmarks.compare``: ours in
float32 and bfloat16, in training also with recomputation (remat), all in this process, so that they share its memory;
and, where PyTorch sees a GPU, the peer with ``torch.compile``, in TF32 and under bfloat16 autocast.

The columns: "Gflops" is XLA's count for a step of the first contestant as it is written, before optimisation; "mfu" is
that count over the time and the card's own rate in the contestant's dtype; "Gbytes" is what the compiled program reads
and writes by XLA's count; "roofline" is the time that the card's own rates allow for both, over the time taken;
"program GiB" is what XLA plans (arguments, results and temporaries), of the peer what PyTorch reserved. XLA counts the
body of a loop once: on a CPU, where attention is a loop over rows, all this is a rehearsal.

Every finished case is written to table.md and results.json at once; no contestant starts after ``--minutes``.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.case import TASKS, Case
from benchmarks.ours import Ours, configure
from benchmarks.table import machine, markdown, median_and_iqr
from benchmarks.worker import Failed, Worker, run_steps

PEERS = {"torch-cuda": "float32", "torch-cuda-bfloat16": "bfloat16"}
GIB = 2**30


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", default="faithful", choices=["faithful", "robust", "compact", "istanet_plus"])
    add("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    add("--size", type=int, default=256, help="height and width in pixels")
    add("--batches", nargs="+", type=int, default=[1, 4, 8])
    add("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    add("--rounds", type=int, default=5, help="turns of every contestant")
    add("--steps", type=int, default=3, help="timed steps a turn")
    add("--no-remat", action="store_true", help="leave out the contestants that recompute")
    add("--no-peers", action="store_true", help="leave out PyTorch")
    add("--minutes", type=float, default=8.5, help="when to start nothing more")
    add("--trace", action="store_true", help="profile a step of ours in each case: the operations that take longest")
    add("--out", type=Path, required=True, help="folder for table.md, results.json and logs")
    arguments = parser.parse_args(argv)
    if min(arguments.batches + [arguments.size, arguments.rounds, arguments.steps]) < 1:
        parser.error("batches, size, rounds and steps must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the card, then every case; write and print the table."""
    arguments = parse(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves room for the peer
    deadline = time.perf_counter() + 60 * arguments.minutes
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "versions": {"jax": jax.__version__}, "card": card(), "cells": []}
    report(results, out)
    for batch in arguments.batches:
        for task in arguments.tasks:
            case = Case(arguments.preset, task, arguments.size, batch)
            results["cells"].append(measure(case, arguments, results["versions"], out, deadline))
            report(results, out)
    print(report(results, out))


def card() -> dict[str, Any]:
    """Return the accelerator's name, its matrix rates [FLOP/s] and its copy bandwidth [bytes/s], read and write."""
    on_cpu = jax.default_backend() == "cpu"
    n, length = (512, 2**22) if on_cpu else (8192, 2**28)
    rates: dict[str, Any] = {"name": jax.devices()[0].device_kind, "backend": jax.default_backend()}
    for name, dtype, precision in (
        ("bfloat16", jnp.bfloat16, None),
        ("float32", jnp.float32, None),
        ("float32 highest", jnp.float32, "highest"),
    ):
        matrix = jnp.ones((n, n), dtype)
        seconds = _seconds(lambda x, precision=precision: jnp.matmul(x, x, precision=precision), matrix)
        rates[name] = 2 * n**3 / seconds
    x = jnp.ones(length, jnp.float32)
    rates["copy"] = 2 * x.nbytes / _seconds(lambda x: x + 1, x)
    return rates


def _seconds(function: Callable[[Any], Any], x: Any, *, calls: int = 10, rounds: int = 5) -> float:
    """Return the median time of a compiled function, of calls that queue up."""
    program = jax.jit(function)
    program(x).block_until_ready()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            y = program(x)
        y.block_until_ready()
        times.append((time.perf_counter() - start) / calls)
    return median_and_iqr(times)[0]


def contestants_of(case: Case, arguments: argparse.Namespace) -> list[str]:
    """Return who takes part: the dtypes, PyTorch where it may have a GPU, and recomputation last, in training."""
    peers = list(PEERS) if jax.default_backend() == "gpu" and importlib.util.find_spec("torch") else []
    if arguments.no_peers or "float32" not in arguments.dtypes:  # they are checked against float32
        peers = []
    remat = [] if arguments.no_remat or case.task == "inference" else [f"{dtype}-remat" for dtype in arguments.dtypes]
    return [*arguments.dtypes, *peers, *remat]


def measure(
    case: Case, arguments: argparse.Namespace, versions: dict[str, str], out: Path, deadline: float
) -> dict[str, Any]:
    """Build all contestants of a case and let them take turns."""
    cell: dict[str, Any] = {"case": case._asdict(), "flops": None, "contestants": {}, "operations": {}}
    entries: dict[str, dict[str, Any]] = cell["contestants"]
    ours: dict[str, Ours] = {}
    peers: dict[str, Worker] = {}
    reference = out / f"reference-{case}.npz"
    with ExitStack() as stack:
        for name in contestants_of(case, arguments):
            print(f"{case}: {name} starts", flush=True)
            if time.perf_counter() > deadline:
                entries[name] = {"failed": "left out: no time left"}
                continue
            try:
                if name in PEERS:
                    options = {"config": dataclasses.asdict(configure(case.preset)), "reference": str(reference)}
                    worker = Worker(name, case, out / "logs" / f"{case}-{name}.txt", **options)
                    peers[name] = stack.enter_context(worker)
                    versions |= worker.ready["versions"]
                    entries[name] = {field: worker.ready[field] for field in ("compile_seconds", "parity")}
                else:
                    dtype, _, remat = name.partition("-")
                    runner = Ours(case, dtype=dtype, remat=bool(remat))
                    if name == "float32":
                        runner.save_reference(reference)
                    ours[name] = runner
                    cell["flops"] = cell["flops"] or flops_of(runner)
                    entries[name] = {"compile_seconds": runner.compile_seconds} | costs(runner)
            except (Failed, jax.errors.JaxRuntimeError) as failure:
                entries[name] = _failed(failure)
        for _ in range(arguments.rounds):
            for name in [*ours, *peers]:
                if "failed" not in entries[name]:
                    try:
                        turn = _turn(ours.get(name) or peers[name], arguments.steps)
                        entries[name].setdefault("turns", []).append(turn)
                    except (Failed, jax.errors.JaxRuntimeError) as failure:
                        entries[name] = _failed(failure)
        for name, worker in peers.items():
            if "failed" not in entries[name]:
                entries[name]["program_bytes"] = worker.ask("device_memory")
    cell["peak_bytes_of_process"] = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if arguments.trace:
        well = {name: runner for name, runner in ours.items() if "failed" not in entries[name]}
        for name, runner in well.items():
            cell["operations"][name] = longest_operations(runner.step, out / "trace" / f"{case}-{name}")
    return cell


def _turn(contestant: Ours | Worker, steps: int) -> list[float]:
    if isinstance(contestant, Worker):
        return contestant.ask("steps", count=steps)
    return run_steps(contestant, steps)


def _failed(failure: Exception) -> dict[str, str]:
    return {"failed": str(failure).strip().splitlines()[0][:120] if str(failure).strip() else repr(failure)}


def flops_of(runner: Ours) -> float | None:
    """Return XLA's count of the operations of a step as written; only the CPU's client counts without compiling."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return (runner.lower().cost_analysis() or {}).get("flops")


def costs(runner: Ours) -> dict[str, float | None]:
    """Return XLA's count of the bytes that the compiled program moves, and the memory that it plans."""
    memory = runner.program.memory_analysis()
    planned = memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    moved = (runner.program.cost_analysis() or {}).get("bytes accessed")
    return {"bytes": moved, "program_bytes": planned}


def longest_operations(step: Callable[[], None], folder: Path, *, count: int = 10) -> list[dict[str, Any]]:
    """Profile one step and return its longest operations by name; loops contain what they repeat.

    The whole trace stays in ``folder`` for TensorBoard or Perfetto.
    """
    with jax.profiler.trace(str(folder)):
        step()
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    file = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if any(name == "hlo_op" for name, _ in event.stats):
                    seconds[event.name] += event.duration_ns / 1e9
                    calls[event.name] += 1
    total = sum(seconds.values())
    return [
        {"operation": name, "calls": calls[name], "ms": 1e3 * value, "share %": 100 * value / total}
        for name, value in seconds.most_common(count)
    ]


def rows_of(cell: dict[str, Any], rates: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows of one case."""
    case, entries = Case(**cell["case"]), cell["contestants"]
    flops, rows = cell["flops"], []
    for name, entry in entries.items():
        dtype = PEERS.get(name, name.partition("-")[0])
        row: dict[str, Any] = {"task": case.task, "batch": case.batch, "contestant": name}
        row |= dict.fromkeys(("images/s", "ms", "iqr ms", "Gflops", "mfu %", "Gbytes", "roofline %"))
        moved, planned = entry.get("bytes"), entry.get("program_bytes")
        row["Gbytes"] = moved and moved / 1e9
        row["program GiB"] = planned and planned / GIB
        row["compile s"], row["note"] = entry.get("compile_seconds"), entry.get("failed", "")
        if entry.get("turns"):
            seconds, spread = median_and_iqr([second for turn in entry["turns"] for second in turn])
            row |= {"images/s": case.batch / seconds, "ms": 1e3 * seconds, "iqr ms": 1e3 * spread}
            if flops:
                row |= {"Gflops": flops / 1e9, "mfu %": 100 * flops / rates[dtype] / seconds}
            if flops and moved:
                row["roofline %"] = 100 * max(flops / rates[dtype], moved / rates["copy"]) / seconds
        rows.append(row)
    return rows


def report(results: dict[str, Any], out: Path) -> str:
    """Write results.json and table.md; return the latter."""
    (out / "results.json").write_text(json.dumps(results, indent=1))
    rates = results["card"]
    about = {**results["machine"], **results["versions"]}
    parts = [", ".join(f"{name} {value}" for name, value in about.items() if value != "")]
    matrices = ", ".join(f"{name} {rates[name] / 1e12:.4g}" for name in ("bfloat16", "float32", "float32 highest"))
    card = f"{rates['name']} ({rates['backend']})"
    parts.append(f"{card}: matrix products [TFLOP/s] {matrices}; copies {rates['copy'] / 1e9:.4g} GB/s")
    if results["cells"]:
        first = results["cells"][0]["case"]
        parts.append(f"{first['preset']}, {first['size']} x {first['size']}")
        parts.append(markdown([row for cell in results["cells"] for row in rows_of(cell, rates)]))
    for cell in results["cells"]:
        for name, operations in cell["operations"].items():
            if operations:
                parts.append(f"{Case(**cell['case'])}, {name}, one step:\n\n{markdown(operations)}")
    text = "\n\n".join(parts) + "\n"
    (out / "table.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
