"""fastMRI at 4x, equispaced lines as in its single-coil challenge; network ``compact``, complex. There is no CT.

Source: ours. Command: ``python train.py --config=configs/fastmri_4x.py --data.fastmri.root=FOLDER``, the folder with
singlecoil_train/ and singlecoil_val/ (or with .h5 files); for multi-coil data add
``--data.fastmri.coils=multicoil``, of which one combined coil is simulated.
The CT is zeros throughout, so this measures what the network does without one; the fusion process is not trained.
Scores are on slices of complex images that the pipeline undersamples: compare them with methods scored here, not with
the challenge's table. Cost and expected numbers: none measured; it was tried for a few steps on generated files.
"""

from atlf_jax.config import Config
from atlf_jax.data import AugmentConfig, DataConfig, FastMRIConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.models.atlf.objectives import PHASES, Reconstruct
from atlf_jax.training import Stage, TrainConfig


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="fastmri_4x",
        model=PRESETS["compact"](),  # complex: raw k-space has a phase
        data=DataConfig(source=FastMRIConfig(), train_split="train", valid_split="valid"),
        masks=(MaskConfig(kind="equispaced_fraction", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(rotate90=False, crop=(64, 0)),
        train=TrainConfig(
            stages=(
                Stage(
                    "reconstruction",
                    Reconstruct(mse=0.0, l1=1.0, adapters=False),
                    PHASES,
                    20000,
                    learning_rate=1e-3,
                    warmup_steps=200,
                    final_fraction=0.02,
                ),
            ),
            batch_size=1,
            eval_every=5000,
            save_every=1000,
            picture_every=5000,
            log_every=100,
        ),
    )
