"""The experiment of ``benchmarks.devices``: a network of one cascade on generated heads."""

from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import DCCNNConfig
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig

STEPS = 20


def get_config() -> Config:
    """Return the experiment."""
    # consistency takes the last bias away again: its gradient is rounding alone, which Adam would make large
    stage = Stage("reconstruction", Supervised(), ("*", "!*conv_4/bias"), steps=STEPS)
    return Config(
        name="devices",
        model=DCCNNConfig(cascades=1, depth=5, width=32),
        data=DataConfig(PhantomConfig(size=64, subjects=4, slices=16)),
        masks=(MaskConfig("random", 4.0, 0.08),),
        train=TrainConfig(stages=(stage,), batch_size=8, log_every=1, eval_every=STEPS, save_every=STEPS),
    )
