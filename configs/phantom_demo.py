"""The demonstration: ``compact`` on generated heads, 4x random lines, a few minutes on 2 CPU cores.

Source: ours. Command: ``make demo``, or ``python train.py --config=configs/phantom_demo.py``. Needs no download.
"""

from atlf_jax.config import Config
from atlf_jax.data import AugmentConfig, DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.models.atlf.objectives import FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.training import Stage, TrainConfig


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="phantom_demo",
        model=PRESETS["compact"](),
        data=DataConfig(source=PhantomConfig(size=128)),
        masks=(MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(),
        train=TrainConfig(
            stages=(
                Stage("autoencode", Autoencode(), FUSION_PROCESS, 250, learning_rate=2e-3, warmup_steps=20),
                Stage("fusion", Fuse(), FUSION_PROCESS, 200, learning_rate=1e-3, warmup_steps=20),
                Stage(
                    "reconstruction",
                    Reconstruct(mse=0.0, l1=1.0, adapters=False),
                    PHASES,
                    450,
                    learning_rate=1e-3,
                    warmup_steps=50,
                    final_fraction=0.02,
                ),
                Stage("joint", Reconstruct(mse=0.0, l1=1.0, beta_fusion=0.1)),  # off; --train.joint.steps has it on
            ),
            batch_size=1,
            eval_every=450,
            save_every=450,
            picture_every=450,
            log_every=25,
        ),
    )
