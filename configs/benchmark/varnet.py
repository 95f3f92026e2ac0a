"""E2E-VarNet's cascade in the benchmark; everything else as in ``base.py``.

Source: Sriram et al. 2020. Command: ``python train.py --config=configs/benchmark/varnet.py``.
Narrower than published and with fewer cascades, for a step of 0.31 s of one core.
"""

import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import VarNetConfig


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment(
        "varnet", VarNetConfig(cascades=5, width=8, pools=3, complex=False), steps=2450, learning_rate=2e-3
    )
