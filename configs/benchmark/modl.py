"""MoDL in the benchmark; everything else as in ``base.py``.

Source: Aggarwal et al. 2019. Command: ``python train.py --config=configs/benchmark/modl.py``.
Narrower than published and with half of its iterations, for a step of 0.29 s of one core.
"""

import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import MoDLConfig


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment("modl", MoDLConfig(iterations=5, width=32, complex=False), steps=1680, learning_rate=1e-3)
