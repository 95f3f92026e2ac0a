"""Train a network: ``python train.py --config=configs/NAME.py [--workdir=DIR] [--train.joint.steps=10 ...]``."""

import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "atlf_jax"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes on the cache

RESUME_CHANGED = "--resume_changed"
DESCRIPTION = f"""Train a network; go on where the run in the folder was left.

A run goes on with the settings and the data that it was begun with; only --name, --data.workers, the intervals
--train.*_every, folders, stages that have not begun, and the length of a stage of constant learning rate may change.
{RESUME_CHANGED} goes on with other ones: the checkpoints tell from which step on, and the best before is set aside.
Exit codes: 0 done; 1 training diverged; 2 refused, in one line; 75 interrupted (SIGINT, SIGTERM), what was reached is
saved, and the same command goes on.
"""


def main() -> None:
    """Parse, build, fit."""
    from atlf_jax.program import errors_in_one_line  # imported here: loader processes import this file too
    from atlf_jax.signals import heard

    with heard("train.py") as interruption, errors_in_one_line("train.py"):
        from atlf_jax.config import parse, to_dict
        from atlf_jax.data import open_source
        from atlf_jax.data.manifest import PAIRING_WORDS
        from atlf_jax.models import build, pretrained
        from atlf_jax.training import fit

        resume_changed = RESUME_CHANGED in sys.argv[1:]
        config, workdir = parse([each for each in sys.argv[1:] if each != RESUME_CHANGED], description=DESCRIPTION)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save
        sources = [open_source(config.data, split) for split in (config.data.train_split, config.data.valid_split)]
        for words in dict.fromkeys(PAIRING_WORDS.get(getattr(source, "pairing", "")) for source in sources):
            if words:
                print(words, flush=True)
        fit(
            config.train,
            build(config.model),
            *sources,
            mask=(config.mask, *config.more_masks),
            augment=config.augment,
            acquisition=config.data.acquisition,
            workers=config.data.workers,
            workdir=workdir,
            record=to_dict(config),
            start=(lambda: pretrained.load(config.train.start_from).variables) if config.train.start_from else None,
            resume_changed=resume_changed,
            interruption=interruption,
        )


if __name__ == "__main__":
    main()
