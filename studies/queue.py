"""Train what is next, one after the other, on one core: ``python -m studies.queue --out=runs/queue --hours=2``.

``QUEUE`` says what is worth training next, and why. Each entry is an experiment with options of its own, trained in
``OUT/NAME`` by the ordinary command, with low priority. When the time is up the training is asked to end: it saves, and
the next call goes on from there. ``--status`` says how far each has come, and trains nothing.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atlf_jax.config import Config, from_dict
from atlf_jax.program import INTERRUPTED
from atlf_jax.training.checkpoint import read_meta
from benchmarks.table import markdown
from studies.core import ROOT, finished, last_psnr, one_core, parser, total_steps, training_seconds

PATIENCE = 120  # seconds that a training has to save and end


class Entry(NamedTuple):
    """One training."""

    experiment: str
    options: tuple[str, ...]
    why: str


QUEUE: dict[str, Entry] = {
    "raw_brain": Entry("raw_brain", (), "the complex network for several coils: weights to come with the package"),
    "aanlib_best": Entry(
        "aanlib_best",
        (),
        "the weights to be shipped, and the budget curve of best: it was not trained out after 1.4 hours",
    ),
    "dc_cnn_1h": Entry("benchmark:dc_cnn", ("--train.reconstruction.steps=11000",), "budget curve: the nearest rival"),
    "compact_1h": Entry(
        "benchmark:compact",
        ("--train.autoencode.steps=2000", "--train.fusion.steps=1600", "--train.reconstruction.steps=9000"),
        "budget curve: ATLF-Net with all its parts",
    ),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    made = parser("queue", __doc__, out="folder of the runs")
    add = made.add_argument
    add("--names", nargs="+", default=list(QUEUE), choices=list(QUEUE), metavar="NAME", help="in this order")
    add("--hours", type=float, default=1.0, help="of wall-clock time, all together")
    add("--status", action="store_true", help="say how far each has come, and train nothing")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train until the time is up; print how far each has come."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    until = time.monotonic() + 3600 * arguments.hours
    for name in [] if arguments.status else arguments.names:
        if finished(out / name):
            continue
        if time.monotonic() >= until:
            break
        train_until(QUEUE[name], out / name, until)
    print(markdown([state_of(name, out / name) for name in arguments.names], digits=4))


def train_until(entry: Entry, run: Path, until: float) -> None:
    """Train an entry until it is done or the time is up.

    Raises:
        SystemExit: the training failed.
    """
    command = ["nice", "-n", "19", sys.executable, "train.py", f"--config={entry.experiment}", f"--workdir={run}"]
    process = subprocess.Popen([*command, *entry.options], cwd=ROOT, env=one_core())
    try:
        process.wait(max(until - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    if process.returncode not in (0, INTERRUPTED):
        raise SystemExit(f"{run.name} ended with exit code {process.returncode}; its log is {run / 'log.jsonl'}")


def state_of(name: str, run: Path) -> dict[str, Any]:
    """Return a row: how far an entry has come."""
    meta = read_meta(run, "latest")
    if meta is None:
        return {"name": name, "steps": "0", "CPU s": None, "PSNR [dB]": None, "why": QUEUE[name].why}
    total = total_steps(from_dict(Config, meta["config"]))
    return {
        "name": name,
        "steps": f"{meta['step']} of {total}",
        "CPU s": training_seconds(run),
        "PSNR [dB]": last_psnr(run),
        "why": QUEUE[name].why,
    }


if __name__ == "__main__":
    main()
