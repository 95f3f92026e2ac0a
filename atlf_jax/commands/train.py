"""Train a network: ``atlf train EXPERIMENT [--workdir=DIR] [--train.joint.steps=10 ...]``."""

import logging
from collections.abc import Sequence

from atlf_jax.program import errors_in_one_line
from atlf_jax.signals import interruptible

__all__ = ["main"]

RESUME_CHANGED = "--resume_changed"
DESCRIPTION = """Train a network; go on where the run in the folder was left.

The experiment is one that comes with the package, by its name, or a file, by --config=FILE. By name there are
{experiments}.

A run goes on with the settings and the data that it was begun with; only --name, --data.workers, the intervals
--train.*_every, folders, stages that have not begun, and the length of a stage of constant learning rate may change.
--resume_changed goes on with other ones: the checkpoints tell from which step on, and the best before is set aside.
Exit codes: 0 done; 1 training diverged; 2 refused, in one line; 75 interrupted (SIGINT, SIGTERM), what was reached is
saved, and the same command goes on.
"""


def main(argv: Sequence[str], program: str = "atlf train") -> None:
    """Run the command: parse the arguments, open the data, build the network and train it."""
    with interruptible(program) as interruption, errors_in_one_line(program):
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

        resume_changed = RESUME_CHANGED in argv
        argv = [each for each in argv if each != RESUME_CHANGED]
        description = DESCRIPTION.format(experiments=", ".join(experiments()))
        config, workdir = parse(argv, program=program, description=description)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save
        sources = [open_source(config.data, split) for split in (config.data.train_split, config.data.valid_split)]
        for remark in dict.fromkeys(PAIRING_REMARKS.get(getattr(source, "pairing", "")) for source in sources):
            if remark:
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
            interruption=interruption,
        )
