"""ISTA-Net+ in the benchmark; everything else as in ``base.py``.

Source: Zhang and Ghanem 2018. Command: ``python train.py --config=configs/benchmark/istanet_plus.py``.
At its published size, for a step of 0.9 s of one core; it cannot see the CT.
"""

import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import PRESETS


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment("istanet_plus", PRESETS["istanet_plus"](), steps=680, learning_rate=1e-3)
