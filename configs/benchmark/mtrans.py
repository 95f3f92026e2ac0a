"""A two-modality transformer in the benchmark; everything else as in ``base.py``.

Source: Feng et al. 2023. Command: ``python train.py --config=configs/benchmark/mtrans.py``.
At its default size, for a step of 0.25 s of one core. It ends in data consistency, which the
published network has not: without, it learns next to nothing in this time
(docs/results.md, "How learning rates were tuned").
"""

import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import MTransConfig


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment("mtrans", MTransConfig(dc="hard", complex=False), steps=1900, learning_rate=2e-3)
