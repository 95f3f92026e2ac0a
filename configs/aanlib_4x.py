"""AANLIB brain pairs at 4x, random lines; network ``compact``.

Source: ours. Command: ``python train.py --config=configs/aanlib_4x.py`` with ATLF_DATA_DIR set.
Trains on cases 2, 20, 32, 33 and 34, chooses the checkpoint on case 41; cases 28 and 37 are scored by
``python evaluate.py --checkpoint=runs/aanlib_4x --split=valid`` and were scored twice in all: see
docs/results.md, "compact against ISTA-Net+", for that, the cost and the expected numbers.
"""

import dataclasses

from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.training import LossConfig, StageConfig, TrainConfig

COMPACT = PRESETS["compact"]()


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="aanlib_4x",
        # pictures have no phase: one real channel, as ISTA-Net+ has (docs/DESIGN.md, 11)
        model=dataclasses.replace(COMPACT, reconstruction=dataclasses.replace(COMPACT.reconstruction, complex=False)),
        data=DataConfig(source=AANLIBConfig(), train_split="inner_train", valid_split="inner_valid"),
        masks=(MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1, crop=(64, 0)),
        train=TrainConfig(
            # without its autoencoding phase the fusion process ends in a grey pattern (docs/DESIGN.md, 20)
            autoencode=StageConfig(steps=1000, learning_rate=2e-3, warmup_steps=20),
            fusion=StageConfig(steps=800, learning_rate=1e-3, warmup_steps=20),
            reconstruction=StageConfig(steps=3600, learning_rate=1e-3, warmup_steps=50, final_fraction=0.02),
            loss=LossConfig(mse=0.0, l1=1.0),
            batch_size=1,
            eval_every=1800,
            save_every=600,
            picture_every=1800,
            log_every=50,
        ),
    )
