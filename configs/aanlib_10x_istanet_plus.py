"""ISTA-Net+ on the data, masks, losses and augmentation of ``aanlib_10x.py``, for the same time.

Source: Zhang and Ghanem 2018. Command: ``python train.py --config=configs/aanlib_10x_istanet_plus.py``. The learning
rate was tuned on case 41; the number of steps is what fits into the time that ``compact`` takes
(docs/results.md, "compact against ISTA-Net+").
"""

import dataclasses
import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import PRESETS
from atlf_jax.training import StageConfig


def get_config() -> Config:
    """Return the experiment."""
    base = runpy.run_path(str(Path(__file__).with_name("aanlib_10x.py")))["get_config"]()
    none = StageConfig()
    stage = dataclasses.replace(base.train.reconstruction, steps=1450)
    train = dataclasses.replace(base.train, autoencode=none, fusion=none, reconstruction=stage, eval_every=725)
    return dataclasses.replace(base, name="aanlib_10x_istanet_plus", model=PRESETS["istanet_plus"](), train=train)
