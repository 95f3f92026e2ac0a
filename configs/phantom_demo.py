"""The demonstration: ATLF-Net with six narrow phases on generated heads, 4x random lines, minutes on 2 CPU cores.

Source: ours. Command: ``make demo``, or ``python train.py --config=configs/phantom_demo.py``. Needs no download.
CT and MR are fused as in ``compact``; the phases are those of ``best``, which learn fast, and AVAT and AdaIN by the
fused image act in the first. The heads have no phase, so the image is one real channel. Expected: 34.8 dB on the
validation subjects (zero-filled 25.6), after 330 s of one CPU core.
"""

import dataclasses

from atlf_jax.config import Config
from atlf_jax.data import AugmentConfig, DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS, ATLFConfig
from atlf_jax.models.atlf.objectives import FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.training import Stage, TrainConfig

COMPACT, BEST = PRESETS["compact"](), PRESETS["best"]()
RECONSTRUCTION = dataclasses.replace(
    BEST.reconstruction,
    phases=6,
    complex=False,
    avat=True,
    avat_every=6,
    key_grid=8,
    adain="conv",
    neutral_start=True,
    ct_adapter="none",
)


def get_config() -> Config:
    """Return the experiment."""
    loss = Reconstruct(mse=0.0, l1=1.0, gamma_symmetry=0.0, adapters=False)
    return Config(
        name="phantom_demo",
        model=ATLFConfig(fusion=COMPACT.fusion, reconstruction=RECONSTRUCTION),
        data=DataConfig(source=PhantomConfig(size=128)),
        masks=(MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(),
        train=TrainConfig(
            stages=(
                Stage("autoencode", Autoencode(), FUSION_PROCESS, 120, learning_rate=2e-3, warmup_steps=20),
                Stage("fusion", Fuse(), FUSION_PROCESS, 100, learning_rate=1e-3, warmup_steps=20),
                Stage(
                    "reconstruction",
                    loss,
                    PHASES,
                    500,
                    learning_rate=2e-3,
                    warmup_steps=50,
                    final_fraction=0.02,
                ),
                Stage(
                    "joint", dataclasses.replace(loss, beta_fusion=0.1, adapters=True)
                ),  # --train.joint.steps adds it
            ),
            batch_size=1,
            eval_every=720,
            save_every=360,
            picture_every=720,
            log_every=40,
        ),
    )
