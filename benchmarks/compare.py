"""Time our networks against the same networks in PyTorch: ``python -m benchmarks.compare --out=runs/compare``.

Every contestant is a process of its own with the same parameters and inputs. Before anything is timed, loss and
gradient of every parameter must agree with ours to 1e-8 in float64 at 64x64, and its float32 outputs to 1e-4 at the
size to be timed. Then they take turns (ours, a peer, ours, the next peer, ...) while the
others sleep; a turn is one step that is not timed and a few that are, and a ratio is ours over the peer's within one
round. Peak memory and compilation come from fresh processes. Needs the extra ``bench``, and g++ for torch-compile.

Preload an allocator for all alike: ``LD_PRELOAD=/usr/lib/.../libtcmalloc_minimal.so.4 python -m benchmarks.compare``.
"""

import argparse
import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.case import TASKS, Case
from benchmarks.table import busy_cores, machine, markdown, median_and_iqr
from benchmarks.worker import Failed, Worker

PEERS = (
    "torch",
    "torch-channels-last",
    "torch-compile",
    "torch-compile-channels-last",
    "torch-unfolded",
)
PARITY_SIZE = 64
BUSY = 0.2  # cores that others may use before the report warns
PAUSE = 0.3  # seconds between turns: threads of the last contestant that still spin go to sleep


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--presets", nargs="+", default=["faithful"], choices=["faithful", "robust", "compact", "istanet_plus"])
    add("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    add("--sizes", nargs="+", type=int, default=[256], help="height and width in pixels")
    add("--batches", nargs="+", type=int, default=[1, 4])
    add("--peers", nargs="+", default=list(PEERS[:3]), choices=PEERS)
    add("--remat", action="store_true", help="in training, let ours take a turn too that recomputes: ours-remat")
    add("--rounds", type=int, default=7, help="turns of every contestant; 0 = check parity only")
    add("--steps", type=int, default=2, help="timed steps a turn")
    add("--no-memory", action="store_true", help="leave out the fresh processes that measure peak memory")
    add("--out", type=Path, required=True, help="folder for table.md, results.json and the contestants' logs")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 0 or arguments.steps < 1 or min(arguments.batches + arguments.sizes) < 1:
        parser.error("rounds must be at least 0; steps, batches and sizes at least 1")
    if "torch-compile" in " ".join(arguments.peers) and not shutil.which("g++"):
        parser.error("torch-compile needs a C++ compiler and there is no g++ here: install one, or leave it out")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time, measure; write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "versions": {}, "cells": []}
    cases = [
        Case(preset, task, size, batch)
        for preset in arguments.presets
        for task in arguments.tasks
        for size in arguments.sizes
        for batch in arguments.batches
    ]
    checks = [Case(preset, "training", PARITY_SIZE, 2) for preset in arguments.presets]
    todo = [(case, True) for case in checks] + [(case, False) for case in cases if arguments.rounds]
    peers = dict.fromkeys(arguments.presets, arguments.peers)
    for case, check_only in todo:
        others = peers[case.preset]
        if arguments.remat and case.task == "training" and not check_only:
            others = ["ours-remat", *others]
        cell = compare(case, others, arguments, out, results["versions"], check_only=check_only)
        if check_only:  # who is another network is not timed
            peers[case.preset] = [name for name in cell["contestants"] if name != "ours" and _well(cell, name)]
        elif not arguments.no_memory:
            for contestant, entry in cell["contestants"].items():
                if _well(cell, contestant):
                    entry |= measure_memory(contestant, case, out)
        results["cells"].append(cell)
        (out / "results.json").write_text(json.dumps(results, indent=1))
        report(results, out)
    print(report(results, out))
    if not all(_well(cell, name) for cell in results["cells"] for name in cell["contestants"]):
        raise SystemExit("some contestants failed: see the end of the report and the logs")


def _well(cell: dict[str, Any], contestant: str) -> bool:
    return "failed" not in cell["contestants"][contestant]


def compare(
    case: Case,
    peers: Sequence[str],
    arguments: argparse.Namespace,
    out: Path,
    versions: dict[str, str],
    *,
    check_only: bool,
) -> dict[str, Any]:
    """Start all contestants of a case, check them against ours and let them take turns.

    ``check_only`` checks in float64 and leaves it at that.
    """
    entries: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers = {}
        for contestant in ("ours", *peers):
            print(f"{case}: {contestant} starts", flush=True)
            try:
                options = {"double": check_only} | _options(contestant, case, out)
                worker = stack.enter_context(Worker(contestant, case, _log(out, case, contestant), **options))
                if contestant == "ours":
                    worker.ask("reference", path=str(_reference(out, case)))
            except Failed as failure:
                entries[contestant] = {"failed": str(failure)}
                if contestant == "ours":
                    break  # there is nothing to check the others against
                continue
            workers[contestant] = worker
            versions |= worker.ready["versions"]
            entries[contestant] = {name: worker.ready[name] for name in ("compile_seconds", "parity")} | {"turns": []}

        time.sleep(PAUSE)
        others = None if check_only else busy_cores()  # all contestants sleep now
        for number in range(0 if check_only else arguments.rounds):
            for contestant in _turns([name for name in workers if name != "ours"]):
                if contestant in workers:
                    time.sleep(PAUSE)
                    try:
                        seconds = workers[contestant].ask("steps", count=arguments.steps)
                    except Failed as failure:
                        entries[contestant] = {"failed": str(failure)}
                        del workers[contestant]
                        continue
                    entries[contestant]["turns"].append({"round": number, "seconds": seconds})
            print(f"{case}: round {number + 1} of {arguments.rounds}", flush=True)
    return {"case": case._asdict(), "busy_cores": others, "contestants": entries}


def _turns(peers: Sequence[str]) -> list[str]:
    """Return the order of one round: ours before every peer."""
    return [contestant for peer in peers for contestant in ("ours", peer)] or ["ours"]


def measure_memory(contestant: str, case: Case, out: Path) -> dict[str, Any]:
    """Return peak memory and compile time of a contestant in a fresh process."""
    try:
        log = _log(out, case, f"{contestant}-memory")
        with Worker(contestant, case, log, **_options(contestant, case, out)) as worker:
            return {"memory": worker.ask("peak"), "compile_seconds": worker.ready["compile_seconds"]}
    except Failed as failure:
        return {"memory_failed": str(failure)}


def _options(contestant: str, case: Case, out: Path) -> dict[str, Any]:
    from atlf_jax.models import PRESETS

    if contestant.startswith("ours"):
        return {}
    return {"config": dataclasses.asdict(PRESETS[case.preset]()), "reference": str(_reference(out, case))}


def _reference(out: Path, case: Case) -> Path:
    return out / f"reference-{case}.npz"


def _log(out: Path, case: Case, name: str) -> Path:
    return out / "logs" / f"{case}-{name}.txt"


def cell_rows(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows of one case: ours first, with its ratio over the best peer; then every peer."""
    case, contestants = Case(**cell["case"]), cell["contestants"]
    ours = _by_round(contestants["ours"])
    rows = []
    for name, entry in contestants.items():
        row: dict[str, Any] = {"network": case.preset, "task": case.task, "size": case.size, "batch": case.batch}
        row |= {"contestant": name, "median s": None, "iqr s": None, "ours/it": None, "iqr": None}
        row |= {"peak GiB": None, "ours/it mem": None, "adds GiB": None, "ours/it adds": None}
        row["compile s"] = entry.get("compile_seconds")
        row["note"] = entry.get("failed") or entry.get("memory_failed") or ""
        theirs = _by_round(entry)
        if theirs:
            row["median s"], row["iqr s"] = median_and_iqr([s for turn in entry["turns"] for s in turn["seconds"]])
        if name != "ours" and theirs and ours:
            ratios = [ours[number] / theirs[number] for number in theirs if number in ours]
            row["ours/it"], row["iqr"] = median_and_iqr(ratios)
        if "memory" in entry:
            for column, ratio, key in (
                ("peak GiB", "ours/it mem", "steps_gib"),
                ("adds GiB", "ours/it adds", "added_gib"),
            ):
                row[column] = entry["memory"][key]
                if name != "ours" and "memory" in contestants["ours"]:
                    row[ratio] = contestants["ours"]["memory"][key] / row[column]
        rows.append(row)
    return rows


def _by_round(entry: dict[str, Any]) -> dict[int, float]:
    """Return a contestant's median time in each round."""
    rounds: dict[int, list[float]] = {}
    for turn in entry.get("turns", []):
        rounds.setdefault(turn["round"], []).extend(turn["seconds"])
    return {number: median(seconds) for number, seconds in rounds.items()}


def best_peer(rows: Sequence[dict[str, Any]]) -> str:
    """Say in a line how each of ours does against the fastest peer, and against the leanest in either way."""
    peers = [row for row in rows[1:] if not row["contestant"].startswith("ours")]
    first = rows[0]
    case = f"- {first['network']}, {first['task']}, {first['size']}x{first['size']}, batch {first['batch']}: "
    told = {"ours/it": "time", "ours/it mem": "memory", "ours/it adds": "what steps add to it"}
    lines = []
    for ours in (row for row in rows if row["contestant"].startswith("ours")):
        said = []
        for ratio, what in told.items():
            known = [row for row in peers if row[ratio] is not None]
            mine = 1.0 if ours is first else ours[ratio]
            if known and mine:
                best = max(known, key=lambda row, ratio=ratio: row[ratio])
                said.append(f"{what} {best[ratio] / mine:.2f} of {best['contestant']}")
        lines.append(f"{case}{ours['contestant']}: {', '.join(said) or 'nothing to compare with'}")
    return "\n".join(lines)


def report(results: dict[str, Any], out: Path) -> str:
    """Write and return the whole report: machine, parity, table and summary."""
    about = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if value != "")
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    checks = [
        {
            "case": str(Case(**cell["case"])),
            "peer": name,
            **{check: entry["parity"].get(check) for check in ("image", "loss", "gradient", "worst parameter")},
        }
        for cell in results["cells"]
        for name, entry in cell["contestants"].items()
        if entry.get("parity")
    ]
    failures = [
        f"- {Case(**cell['case'])}: {entry['failed']}"
        for cell in results["cells"]
        for entry in cell["contestants"].values()
        if "failed" in entry
    ]
    timed = [cell_rows(cell) for cell in results["cells"] if any(e.get("turns") for e in cell["contestants"].values())]
    parts = [f"{about}\n\n{versions}"]
    if checks:
        parts.append("Relative errors against ours, at the same parameters:\n\n" + markdown(checks))
    if timed:
        parts.append(markdown([row for rows in timed for row in rows]))
        parts.append("Ours over the best peer:\n\n" + "\n".join(best_peer(rows) for rows in timed))
    busy = [
        f"- {Case(**c['case'])}: {c['busy_cores']} cores" for c in results["cells"] if (c["busy_cores"] or 0) > BUSY
    ]
    if busy:
        told = "Other programs were running, and OpenMP (PyTorch) suffers from that far more than XLA. Measure again:"
        parts.append(f"{told}\n\n" + "\n".join(busy))
    if failures:
        parts.append("Failed:\n\n" + "\n".join(failures))
    text = "\n\n".join(parts) + "\n"
    (out / "table.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
