"""ATLF-Net's preset ``compact`` in the benchmark; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/compact.py``.
The three stages of ``configs/aanlib_4x.py``, together for as long as the other methods' one.
"""

import dataclasses
import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import PRESETS
from atlf_jax.training import StageConfig

COMPACT = PRESETS["compact"]()


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    return experiment(
        "compact",
        dataclasses.replace(COMPACT, reconstruction=dataclasses.replace(COMPACT.reconstruction, complex=False)),
        autoencode=StageConfig(steps=400, learning_rate=2e-3, warmup_steps=20),
        fusion=StageConfig(steps=300, learning_rate=1e-3, warmup_steps=20),
        steps=1450,
        learning_rate=1e-3,
    )
