"""Time and peak memory against pixels, phases, batch and keys: ``python -m benchmarks.scaling --out=runs/scaling``.

One quantity varies at a time, every point in a fresh process. The last column is the exponent p of a power law,
seconds ~ quantity^p, fitted to all points of its group; against pixels, 1 is linear.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.case import TASKS, Case
from benchmarks.table import machine, markdown, median_and_iqr, slope
from benchmarks.worker import Failed, Worker

QUANTITIES = ("pixels", "phases", "batch", "keys")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", default="compact", choices=["faithful", "robust", "published", "compact", "istanet_plus"])
    add("--part", default="whole", choices=["whole", "reconstruction"], help="reconstruction = without the fusion")
    add("--quantities", nargs="+", default=list(QUANTITIES), choices=QUANTITIES)
    add("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    add("--sizes", nargs="+", type=int, default=[64, 128, 256, 512], help="height and width, for pixels")
    add("--size", type=int, default=128, help="height and width while something else varies")
    add("--phases", nargs="+", type=int, default=[2, 4, 8])
    add("--batches", nargs="+", type=int, default=[1, 2, 4, 8])
    add("--key-grids", nargs="+", type=int, default=[4, 8, 16], help="keys are the square of this")
    add("--steps", type=int, default=5, help="timed steps a point")
    add("--out", type=Path, required=True, help="folder for table.md, results.json and logs")
    arguments = parser.parse_args(argv)
    if min(arguments.sizes + arguments.phases + arguments.batches + arguments.key_grids + [arguments.steps]) < 1:
        parser.error("sizes, phases, batches, key grids and steps must be at least 1")
    return arguments


def points(arguments: argparse.Namespace, quantity: str) -> list[tuple[int, int, int, dict[str, int]]]:
    """Return (value, size, batch, changed fields of the reconstruction process) of a quantity's points."""
    size = arguments.size
    return {
        "pixels": [(n * n, n, 1, {}) for n in arguments.sizes],
        "phases": [(k, size, 1, {"phases": k}) for k in arguments.phases],
        "batch": [(b, size, b, {}) for b in arguments.batches],
        "keys": [(g * g, size, 1, {"key_grid": g}) for g in arguments.key_grids],
    }[quantity]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every point; write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "part": arguments.part, "points": []}
    for task in arguments.tasks:
        for quantity in arguments.quantities:
            for value, size, batch, changes in points(arguments, quantity):
                case = Case(arguments.preset, task, size, batch)
                entry = {"preset": arguments.preset, "task": task, "quantity": quantity, "value": value}
                entry |= measure(case, changes, arguments, out / "logs" / f"{task}-{quantity}-{value}.txt")
                results["points"].append(entry)
                print(entry, flush=True)
                (out / "results.json").write_text(json.dumps(results, indent=1))
    about = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if value != "")
    text = f"{about}; part: {arguments.part}\n\n{markdown(rows_of(results['points']))}\n"
    (out / "table.md").write_text(text)
    print(text)


def measure(case: Case, changes: dict[str, int], arguments: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Return seconds of every step, peak memory and compile time of one point."""
    try:
        with Worker("ours", case, log, changes=changes, part=arguments.part) as worker:
            seconds = worker.ask("steps", count=arguments.steps)
            memory = worker.ask("peak")["steps_gib"]
            return {"seconds": seconds, "peak_gib": memory, "compile_seconds": worker.ready["compile_seconds"]}
    except Failed as failure:
        return {"failed": str(failure)}


def rows_of(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table's rows; the exponents stand in the last row of each group."""
    rows = []
    for i, entry in enumerate(entries):
        group = [e for e in entries if all(e[name] == entry[name] for name in ("preset", "task", "quantity"))]
        done = [e for e in group if "seconds" in e]
        middle, spread = median_and_iqr(entry["seconds"]) if "seconds" in entry else (None, None)
        row = {"network": entry["preset"], "task": entry["task"], "against": entry["quantity"]}
        row |= {"value": entry["value"], "median s": middle, "iqr s": spread, "peak GiB": entry.get("peak_gib")}
        row |= {"compile s": entry.get("compile_seconds"), "time exponent": None, "memory exponent": None}
        if group[-1] is entries[i] and len(done) > 1:
            values = [e["value"] for e in done]
            row["time exponent"] = slope(values, [median_and_iqr(e["seconds"])[0] for e in done])
            row["memory exponent"] = slope(values, [e["peak_gib"] for e in done])
        rows.append(row | {"note": entry.get("failed", "")})
    return rows


if __name__ == "__main__":
    main()
