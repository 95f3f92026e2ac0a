"""ATLF-Net's preset ``best`` in the benchmark; everything else as in ``base.py``.

Source: ours. Command: ``python train.py --config=configs/benchmark/best.py``.
First the network is trained without the CT, as ``best_no_ct`` is, at a constant rate; then all of it with adapters for
the CT that start at zero. In that stage a fifth of the pairs have no CT, so that one set of weights serves both; in
half of the pairs the CT lies off the MR, so that the network learns to see whether it fits (docs/DESIGN.md, 42); and
its grey levels are drawn anew for each, as the pictures' display windows differ from subject to subject. A step
of the second stage takes half as long again: both together take about as long as the 1,230 steps of ``best_no_ct``.
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
    joint = StageConfig(steps=290, learning_rate=2e-3, final_fraction=0.02)
    config = experiment(
        "best", model, steps=800, schedule="constant", learning_rate=2e-3, gamma_symmetry=0.0, joint=joint
    )
    return dataclasses.replace(
        config, augment=dataclasses.replace(config.augment, ct_gamma=1.0, ct_dropout=0.2, ct_misplaced=0.5)
    )
