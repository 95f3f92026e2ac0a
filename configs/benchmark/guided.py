"""``best`` with the CT's edges as a guide of every phase's total variation; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/guided.py``. The CT is left out of a fifth of the
training pairs, and its grey levels are drawn anew, as for ``best``.
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
    reconstruction = dataclasses.replace(BEST.reconstruction, complex=False, aux_concat="ct+guide")
    model = dataclasses.replace(BEST, reconstruction=reconstruction)
    config = experiment("guided", model, steps=1680, learning_rate=1e-3)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, ct_gamma=1.0, ct_dropout=0.2))
