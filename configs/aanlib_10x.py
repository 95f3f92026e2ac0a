"""AANLIB brain pairs at 10x, 2-D variable density; otherwise as ``aanlib_4x.py``.

Command: ``python train.py --config=configs/aanlib_10x.py``. A 2-D mask does not let rows go by themselves, so crops are
square, with masks of the same density on the crop's own grid. Cost and expected numbers:
docs/results.md, "compact against ISTA-Net+".
"""

import dataclasses
import runpy
from pathlib import Path

from atlf_jax.config import Config
from atlf_jax.masks import MaskConfig


def get_config() -> Config:
    """Return the experiment."""
    base = runpy.run_path(str(Path(__file__).with_name("aanlib_4x.py")))["get_config"]()
    return dataclasses.replace(
        base,
        name="aanlib_10x",
        masks=(MaskConfig(kind="variable_density_2d", acceleration=10.0),),
        augment=dataclasses.replace(base.augment, crop=(128, 128)),
    )
