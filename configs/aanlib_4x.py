"""AANLIB brain CT-MR pairs, 4x random lines (fastMRI mask, centre fraction 0.08), network ``compact``."""

from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.training import LossConfig, StageConfig, TrainConfig


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="aanlib_4x",
        model=PRESETS["compact"](),
        data=DataConfig(dataset="aanlib", train_split="inner_train", valid_split="inner_valid"),
        mask=MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1),
        train=TrainConfig(
            joint=StageConfig(steps=4000, learning_rate=1e-3, warmup_steps=50),
            loss=LossConfig(mse=0.0, l1=1.0),
            batch_size=1,
        ),
    )
