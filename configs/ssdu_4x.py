"""Training without fully sampled images: SSDU on generated heads with eight coils, 4x; ``:supervised`` to compare.

Source: Yaman et al. 2020. Command: ``python train.py --config=configs/ssdu_4x.py``, and the same network trained by the
fully sampled images: ``--config=configs/ssdu_4x.py:supervised``. Needs no download: the heads have eight simulated
coils, a smooth phase and noise. Only the measured samples are in the loss; the fully sampled images give the scores
of the validation, by which the best checkpoint is chosen.
Expected numbers: docs/multi-coil.md.
"""

import dataclasses

from atlf_jax.config import Config
from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.objectives import SelfSupervised, Supervised
from atlf_jax.training import Stage, TrainConfig

ARGUMENTS = ("supervised",)
BEST = PRESETS["best"]()
RECONSTRUCTION = dataclasses.replace(BEST.reconstruction, phases=6, ct_adapter="none", sense_dc="gradient")
SSDU = SelfSupervised(withheld=0.4, splits=3, centre=10, multi_operator=10.0)


def get_config(supervision: str = "ssdu") -> Config:
    """Return the experiment, self-supervised or supervised."""
    objective = SSDU if supervision == "ssdu" else Supervised(mse=0.0, l1=1.0)
    name = "ssdu_4x" if supervision == "ssdu" else f"ssdu_4x_{supervision}"
    return Config(
        name=name,
        model=dataclasses.replace(BEST, reconstruction=RECONSTRUCTION),
        data=DataConfig(
            source=PhantomConfig(size=128),
            acquisition=AcquisitionConfig(phase=3.0, noise=0.005, coils=(8, 8), maps="given"),
        ),
        masks=(MaskConfig("random_exact", 4.0, 0.08),),
        augment=AugmentConfig(),
        train=TrainConfig(
            stages=(
                Stage(
                    "reconstruction",
                    objective,
                    steps=2000,
                    learning_rate=1e-3,
                    warmup_steps=50,
                    final_fraction=0.02,
                ),
            ),
            batch_size=1,
            eval_every=1000,
            save_every=500,
            picture_every=1000,
            log_every=50,
        ),
    )
