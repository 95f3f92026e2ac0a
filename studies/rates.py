"""Choose learning rates on the inner validation subject: ``python -m studies.rates --out=runs/rates``.

Every experiment of ``configs/benchmark.py`` is trained with every rate for a part of its steps, with its own schedule
over them, and scored by PSNR on case 41 of AANLIB. Runs are kept in OUT: run again to go on. Needs ATLF_DATA_DIR.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlf_jax.config import Config, from_dict
from atlf_jax.training import load
from benchmarks.table import markdown
from studies.core import finish, finished, last_psnr, learned, parser, train, training_seconds

RATES = (5e-4, 1e-3, 2e-3)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    made = parser("rates", __doc__, out="folder of the runs and the table")
    add = made.add_argument
    add("--methods", nargs="+", default=learned(), choices=learned(), metavar="NAME")
    add("--rates", nargs="+", type=float, default=list(RATES), help="learning rates of the reconstruction stage")
    add("--steps", type=int, default=400, help="of the reconstruction stage; those before it keep theirs")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing; print a row for each method."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    rows = []
    for name in arguments.methods:
        row: dict[str, Any] = {"method": name}
        for rate in arguments.rates:
            run = out / f"{name}_{rate:g}"
            if not finished(run):
                stage = "--train.reconstruction"
                options = (f"{stage}.steps={arguments.steps}", f"{stage}.learning_rate={rate}")
                after = ("--train.adapters.steps=0",) if name == "best" else ()
                train(f"benchmark:{name}", run, *options, *after, "--train.eval_every=100000")
            row[f"{rate:g}"] = psnr(run, arguments.steps)
        rows.append(row | {"CPU s a run": training_seconds(run)})
    title = f"PSNR [dB] of case 41 after {arguments.steps} steps, by learning rate"
    finish(out, f"{title}\n\n{markdown(rows, digits=4)}")


def psnr(run: Path, steps: int) -> float | None:
    """Return the PSNR of a run's last validation.

    Raises:
        ValueError: the run took another number of steps.
    """
    train = from_dict(Config, load(run, "latest")[0]).train
    taken = sum(stage.steps for stage in train.stages if stage.name not in ("autoencode", "fusion"))
    if taken != steps:
        raise ValueError(f"{run} took {taken} steps, wanted {steps}: give another --out, or these --steps")
    return last_psnr(run)


if __name__ == "__main__":
    main()
