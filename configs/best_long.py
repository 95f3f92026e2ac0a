"""ATLF-Net's preset ``best``, trained seven times as long as in the benchmark; everything else as in
``benchmark/best.py``.

Source: ours. Command: ``python train.py --config=configs/best_long.py``; 5,000 s of one CPU core. It became
the weights ``aanlib-best-long``: 32.45 dB on case 41 over the twelve masks, where ``best`` comes to 31.4.
"""

import dataclasses
import runpy
from pathlib import Path

from atlf_jax.config import Config


def get_config() -> Config:
    """Return the experiment."""
    config = runpy.run_path(str(Path(__file__).parent / "benchmark" / "best.py"))["get_config"]()
    train = config.train
    train = dataclasses.replace(
        train,
        reconstruction=dataclasses.replace(train.reconstruction, steps=7000, warmup_steps=100),
        adapters=dataclasses.replace(train.adapters, steps=900),
        eval_every=1000,
        save_every=250,
        log_every=100,
    )
    return dataclasses.replace(config, name="best_long", train=train)
