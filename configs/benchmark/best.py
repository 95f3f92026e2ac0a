"""ATLF-Net's preset ``best`` in the benchmark; everything else as in ``base.py``, with the CT left out now and then.

Source: ours. Command: ``python train.py --config=configs/benchmark/best.py``.
The CT comes as channels and as the guide of every phase's total variation. A fifth of the training pairs have no CT, so
that one set of weights serves both; the grey levels of the CT are drawn anew for each, as the pictures' display windows
differ from subject to subject.
"""

import dataclasses
import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.models import PRESETS

BEST = PRESETS["best"]()


def get_config() -> Config:
    """Return the experiment."""
    experiment = runpy.run_path(str(Path(__file__).with_name("base.py")))["experiment"]
    model = dataclasses.replace(BEST, reconstruction=dataclasses.replace(BEST.reconstruction, complex=False))
    config = experiment("best", model, steps=1680, learning_rate=1e-3)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, ct_gamma=1.0, ct_dropout=0.2))
