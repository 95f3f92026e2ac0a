"""MM-WHS, cardiac CT and MR of different people, at 4x, random lines; otherwise as ``own_data_4x.py``.

Source: ours. CT and MR are unpaired: the sorted CT i goes with the sorted MR i, and every subject, report and manifest
says so. What a CT of the same person would bring cannot be measured here.

    atlf prepare mmwhs MMWHS prepared/mmwhs --registration affine --keep_flagged
    python train.py --config=configs/mmwhs_4x.py
    python evaluate.py --checkpoint=runs/mmwhs_4x --split=test

MMWHS is the folder that holds ct_train/ and mr_train/. Tried for a few steps on stand-ins in the official layout: one
cardiac CT angiography and bSSFP MR of three patients, of other collections; no MM-WHS volume was at hand. Affine
registration brought their body-mask Dice from .68, .74 and .73 to .78, .81 and .80. Expected numbers: none yet.
"""

import dataclasses
from pathlib import Path

from atlf_jax.config import Config, load_config
from atlf_jax.data import PreparedConfig


def get_config() -> Config:
    """Return the experiment."""
    base = load_config(Path(__file__).with_name("own_data_4x.py"))
    prepared = PreparedConfig(root="prepared/mmwhs", size=(320, 320))
    return dataclasses.replace(base, name="mmwhs_4x", data=dataclasses.replace(base.data, source=prepared))
