"""ATLF-Net's preset ``best`` in the benchmark; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/best.py``.
First the network is trained without the CT: it becomes ``best_no_ct``, to the last bit. Then it is frozen, and adapters
for the CT, which start at zero, are trained beside it: without a CT it stays what it was. In half of the pairs the CT
lies off the MR, so that adapters learn to see whether it fits, and its grey levels are drawn anew for each, as the
display windows of the pictures differ from subject to subject (docs/DESIGN.md, 42).
The loss has no symmetry residual (docs/DESIGN.md, 49). Samples are simulated without noise, so they replace the
network's (46); noisy ones want dc "soft".
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
    model = dataclasses.replace(BEST, reconstruction=dataclasses.replace(BEST.reconstruction, dc="hard", complex=False))
    adapters = StageConfig(steps=160, learning_rate=2e-3, final_fraction=0.02)
    config = experiment("best", model, steps=1230, learning_rate=2e-3, gamma_symmetry=0.0, adapters=adapters)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, ct_gamma=1.0, ct_misplaced=0.5))
