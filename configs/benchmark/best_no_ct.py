"""ATLF-Net's preset ``best`` without CT and its adapters, to see what they bring; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/best_no_ct.py``. It is what ``best`` is
after its first stage.
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
    reconstruction = dataclasses.replace(BEST.reconstruction, dc="hard", complex=False, ct_adapter="none")
    model = dataclasses.replace(BEST, reconstruction=reconstruction, use_ct=False)
    return experiment("best_no_ct", model, steps=1230, learning_rate=2e-3, gamma_symmetry=0.0)
