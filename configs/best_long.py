"""ATLF-Net's preset ``best``, trained seven times as long as in the benchmark; everything else as in
``benchmark.py:best``.

Source: ours. Command: ``python train.py --config=configs/best_long.py``; 5,000 s of one CPU core. It became
the weights ``aanlib-best-long``: 32.45 dB on case 41 over the twelve masks, where ``best`` comes to 31.4.
"""

import dataclasses
from pathlib import Path

from atlf_jax.config import Config, load_config


def get_config() -> Config:
    """Return the experiment."""
    config = load_config(f"{Path(__file__).with_name('benchmark.py')}:best")
    train = dataclasses.replace(config.train, eval_every=1000, save_every=250, log_every=100)
    train = train.with_stage("reconstruction", steps=7000, warmup_steps=100).with_stage("adapters", steps=900)
    return dataclasses.replace(config, name="best_long", train=train)
