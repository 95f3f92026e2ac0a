"""DC-CNN in the benchmark; everything else as in ``base.py``.

Source: Schlemper et al. 2018. Command: ``python train.py --config=configs/benchmark/dc_cnn.py``.
Narrower than published, for a step of 0.23 s of one core; samples replace the network's, as published for data
without noise.
"""

import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import DCCNNConfig


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment("dc_cnn", DCCNNConfig(width=32, dc="hard", complex=False), steps=1900, learning_rate=2e-3)
