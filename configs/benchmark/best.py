"""ATLF-Net's preset ``best`` in the benchmark; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/best.py``.
First the network is trained without the CT, as ``best_no_ct`` is, then the adapters that bring the CT while all else is
frozen. So without a CT it is the network of the first stage. The grey levels of the CT are drawn anew for each pair, as
the pictures' display windows differ from subject to subject.
"""

import dataclasses
import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import PRESETS
from atlf_jax.training import StageConfig

BEST = PRESETS["best"]()


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    model = dataclasses.replace(BEST, reconstruction=dataclasses.replace(BEST.reconstruction, complex=False))
    ct = StageConfig(steps=420, learning_rate=1e-3, warmup_steps=50, final_fraction=0.02)
    config = experiment("best", model, steps=1260, learning_rate=1e-3, ct=ct)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, ct_gamma=1.0))
