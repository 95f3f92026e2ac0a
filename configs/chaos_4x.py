"""CHAOS, abdominal CT and MR (T2SPIR) of different people, at 4x, random lines; otherwise as ``own_data_4x.py``.

Source: ours. CT and MR are unpaired: the sorted CT i goes with the sorted MR i, and every subject, report and manifest
says so. What a CT of the same person would bring cannot be measured here.

    atlf prepare chaos CHAOS prepared/chaos --registration affine --keep_flagged
    python train.py --config=configs/chaos_4x.py
    python evaluate.py --checkpoint=runs/chaos_4x --split=test

CHAOS is the folder that holds Train_Sets/; ``--sequence t1dual_in`` takes another MR. Bodies of different people seldom
agree to the threshold, so flagged pairs are kept. Tried for a few steps on stand-ins in the official layout: eight
slices of one CHAOS CT, and an abdominal MR of another collection. So thin a slab cannot be registered: affine turned it
by half a right angle, which the preparation flags. Expected numbers: none yet.
"""

import dataclasses
from pathlib import Path

from atlf_jax.config import Config, load_config
from atlf_jax.data import PreparedConfig


def get_config() -> Config:
    """Return the experiment."""
    base = load_config(Path(__file__).with_name("own_data_4x.py"))
    prepared = PreparedConfig(root="prepared/chaos", size=(256, 256))
    return dataclasses.replace(base, name="chaos_4x", data=dataclasses.replace(base.data, source=prepared))
