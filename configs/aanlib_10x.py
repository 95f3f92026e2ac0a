"""AANLIB brain pairs at 10x, 2-D variable density; otherwise as ``aanlib_4x.py``.

Command: ``python train.py --config=configs/aanlib_10x.py``, or ``configs/aanlib_10x.py:istanet_plus`` for ISTA-Net+. A
2-D mask does not let rows go by themselves, so crops are square, with masks of the same density on the crop's own grid.
Cost and expected numbers: docs/results.md, "compact against ISTA-Net+".
"""

import dataclasses
from pathlib import Path

from atlf_jax.config import Config, load_config
from atlf_jax.masks import MaskConfig

ARGUMENTS = ("istanet_plus",)


def get_config(network: str = "compact") -> Config:
    """Return the experiment of one of the two networks."""
    file = str(Path(__file__).with_name("aanlib_4x.py"))
    base = load_config(file if network == "compact" else f"{file}:{network}")
    return dataclasses.replace(
        base,
        name=base.name.replace("4x", "10x"),
        masks=(MaskConfig(kind="variable_density_2d", acceleration=10.0),),
        augment=dataclasses.replace(base.augment, crop=(128, 128)),
    )
