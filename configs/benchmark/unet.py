"""U-Net in the benchmark; everything else as in ``base.py``.

Source: Zbontar et al. 2018. Command: ``python train.py --config=configs/benchmark/unet.py``.
At its published width, for a step of 0.28 s of one core. It ends in data consistency, which the
published network has not: without, it learns next to nothing in this time
(docs/results.md, "How learning rates were tuned").
"""

import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import UNetConfig


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment("unet", UNetConfig(dc="hard", complex=False), steps=1900, learning_rate=1e-3)
