"""Train a network: ``atlf train EXPERIMENT [--workdir=DIR] [--train.joint.steps=10 ...]``."""

import logging
import re
from collections.abc import Sequence

from atlf_jax.program import errors_in_one_line
from atlf_jax.signals import interruptible
from atlf_jax.together import ended_together

__all__ = ["main"]

RESUME_CHANGED = "--resume_changed"
PROFILE = "--profile"
DESCRIPTION = """Train a network; go on where the run in the folder was left.

The experiment is one that comes with the package, by its name, or a file, by --config=FILE. By name there are
{experiments}.

A run goes on with the settings and the data that it was begun with; only --name, --data.workers, the intervals
--train.*_every, folders, stages that have not begun, and the length of a stage of constant learning rate may change.
--resume_changed goes on with other ones: the checkpoints tell from which step on, and the best before is set aside.

Several processes train as one: each is started with --coordinator=HOST:PORT of the first, --num_processes=N and its own
--process_id; under Slurm and Open MPI these are found without. docs/scaling.md has launchers.
--profile=FIRST:LAST writes a trace of these steps to WORKDIR/profile.
Exit codes: 0 done; 1 training diverged; 2 refused, in one line; 75 interrupted (SIGINT, SIGTERM), what was reached is
saved, and the same command goes on; also where another of several processes was lost.
"""


def main(argv: Sequence[str], program: str = "atlf train") -> None:
    """Run the command: parse the arguments, open the data, build the network and train it."""
    with ended_together(program), interruptible(program) as interruption, errors_in_one_line(program):
        from atlf_jax.config import (  # imported here: signals are handled during these slow imports too
            experiments,
            parse,
            to_dict,
        )
        from atlf_jax.data import open_source
        from atlf_jax.data.manifest import PAIRING_REMARKS
        from atlf_jax.models import build
        from atlf_jax.trained import load
        from atlf_jax.training import fit
        from atlf_jax.training.hosts import is_first, join, parse_hosts

        hosts, argv = parse_hosts(argv)
        resume_changed = RESUME_CHANGED in argv
        argv = [each for each in argv if each != RESUME_CHANGED]
        profile, argv = _profile(argv)
        description = DESCRIPTION.format(experiments=", ".join(experiments()))
        config, workdir = parse(argv, program=program, description=description)
        join(hosts, workdir, program)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save
        sources = [open_source(config.data, split) for split in (config.data.train_split, config.data.valid_split)]
        for remark in dict.fromkeys(PAIRING_REMARKS.get(getattr(source, "pairing", "")) for source in sources):
            if remark and is_first():
                print(remark, flush=True)
        fit(
            config.train,
            build(config.model),
            *sources,
            mask=config.masks,
            augment=config.augment,
            acquisition=config.data.acquisition,
            workers=config.data.workers,
            workdir=workdir,
            record=to_dict(config),
            start=(lambda: load(config.train.start_from).variables) if config.train.start_from else None,
            resume_changed=resume_changed,
            profile=profile,
            interruption=interruption,
        )


def _profile(argv: Sequence[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Take ``--profile=FIRST:LAST`` out of the arguments."""
    given = [each for each in argv if each == PROFILE or each.startswith(f"{PROFILE}=")]
    if not given:
        return None, list(argv)
    found = re.fullmatch(r"--profile=(\d+):(\d+)", given[-1])
    steps = (int(found[1]), int(found[2])) if found else (1, 0)
    if not 1 <= steps[0] <= steps[1]:
        raise ValueError(f"{given[-1]} names no steps; wanted {PROFILE}=FIRST:LAST, such as {PROFILE}=10:12")
    return steps, [each for each in argv if each not in given]
