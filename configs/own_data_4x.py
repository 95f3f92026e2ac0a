"""Your own CT-MR pairs at 4x, random lines; network ``compact`` with two real channels.

Source: ours. List the scans in a CSV file with the columns subject (a code, no name), ct, mr: NIfTI files, or folders
with one DICOM series each; the CT may be empty. Then

    atlf prepare table pairs.csv prepared/own_data --registration rigid
    python train.py --config=configs/own_data_4x.py
    python evaluate.py --checkpoint=runs/own_data_4x --split=test

Rigid suits heads; use affine or bspline for the body, and look at the numbers that the preparation prints and at the
qc.html that it writes: pairs of poor registration are left out. Several CT windows at once: ``--data.prepared.window
brain bone``. Where matrices differ, give all slices one size: ``--data.prepared.size 256 256``.
Magnitude volumes have lost their phase; a smooth random one is simulated, in training and in evaluation alike.
Tried for a few steps on cardiac MR of two contrasts, of which one stood in for the CT. Expected numbers: none yet.
"""

from atlf_jax.config import Config
from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, PreparedConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.models.atlf.objectives import FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.training import Stage, TrainConfig


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="own_data_4x",
        model=PRESETS["compact"](),
        data=DataConfig(
            source=PreparedConfig(root="prepared/own_data"),
            acquisition=AcquisitionConfig(phase=0.785),
        ),
        masks=(MaskConfig(kind="random_exact", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1, crop=(64, 0)),
        train=TrainConfig(
            stages=(
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
