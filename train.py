"""Train a network: ``python train.py --config=configs/NAME.py [--workdir=DIR] [--train.joint.steps=10 ...]``."""

import logging
import os
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "atlf_jax"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes on the cache


def main() -> None:
    """Parse, build, fit."""
    from atlf_jax.config import parse, to_dict  # imported here: loader processes import this file too
    from atlf_jax.data import open_source
    from atlf_jax.data.manifest import PAIRING_WORDS
    from atlf_jax.models import build, pretrained
    from atlf_jax.training import fit

    config, workdir = parse(description="Train a network; go on where the run in the folder was left.")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save
    try:
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
        )
    except (FloatingPointError, ValueError) as error:
        raise SystemExit(f"train.py: {error}") from error


if __name__ == "__main__":
    main()
