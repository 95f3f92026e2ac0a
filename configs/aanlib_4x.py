"""AANLIB brain pairs at 4x, random lines; network ``compact``, or ISTA-Net+.

Source: ours. Command: ``python train.py --config=configs/aanlib_4x.py`` with ATLF_DATA_DIR set.
Trains on cases 2, 20, 32, 33 and 34, chooses the checkpoint on case 41; cases 28 and 37 are scored by
``python evaluate.py --checkpoint=runs/aanlib_4x --split=valid`` and were scored twice in all: see
docs/results.md, "compact against ISTA-Net+", for that, the cost and the expected numbers.

``python train.py --config=configs/aanlib_4x.py:istanet_plus`` trains ISTA-Net+ (Zhang and Ghanem 2018) on the same
data, masks, losses and augmentation for the same time: its learning rate was tuned on case 41, and the number of steps
is what fits into the time that ``compact`` takes.
"""

import dataclasses

from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.models.atlf.objectives import FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.training import Stage, TrainConfig

ARGUMENTS = ("istanet_plus",)
COMPACT = PRESETS["compact"]()


def get_config(network: str = "compact") -> Config:
    """Return the experiment of one of the two networks."""
    config = Config(
        name="aanlib_4x",
        # pictures have no phase: one real channel, as ISTA-Net+ has (docs/DESIGN.md, 11)
        model=dataclasses.replace(COMPACT, reconstruction=dataclasses.replace(COMPACT.reconstruction, complex=False)),
        data=DataConfig(source=AANLIBConfig(), train_split="inner_train", valid_split="inner_valid"),
        masks=(MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1, crop=(64, 0)),
        train=TrainConfig(
            stages=(
                # without its autoencoding phase the fusion process ends in a grey pattern (docs/DESIGN.md, 20)
                Stage("autoencode", Autoencode(), FUSION_PROCESS, 1000, learning_rate=2e-3, warmup_steps=20),
                Stage("fusion", Fuse(), FUSION_PROCESS, 800, learning_rate=1e-3, warmup_steps=20),
                Stage(
                    "reconstruction",
                    Reconstruct(mse=0.0, l1=1.0, adapters=False),
                    PHASES,
                    3600,
                    learning_rate=1e-3,
                    warmup_steps=50,
                    final_fraction=0.02,
                ),
                Stage("joint", Reconstruct(mse=0.0, l1=1.0, beta_fusion=0.1)),  # off; --train.joint.steps has it on
            ),
            batch_size=1,
            eval_every=1800,
            save_every=600,
            picture_every=1800,
            log_every=50,
        ),
    )
    return as_istanet_plus(config) if network == "istanet_plus" else config


def as_istanet_plus(config: Config) -> Config:
    """Return an experiment with ISTA-Net+ in place of ``compact``, which has no fusion process to train."""
    reconstruction = next(stage for stage in config.train.stages if stage.name == "reconstruction")
    stages = (dataclasses.replace(reconstruction, steps=1450),)
    train = dataclasses.replace(config.train, stages=stages, eval_every=725)
    return dataclasses.replace(config, name=f"{config.name}_istanet_plus", model=PRESETS["istanet_plus"](), train=train)
