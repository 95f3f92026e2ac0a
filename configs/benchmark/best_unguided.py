"""``best`` without CT and guide, which would be plain total variation; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/best_unguided.py``. What the CT brings is to be
judged against the better of this and ``best_no_ct``.
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
    reconstruction = dataclasses.replace(BEST.reconstruction, complex=False, aux_concat="none")
    model = dataclasses.replace(BEST, reconstruction=reconstruction, use_ct=False)
    return experiment("best_unguided", model, steps=1680, learning_rate=1e-3)
