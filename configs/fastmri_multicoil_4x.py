"""fastMRI's multi-coil k-space as it was measured, at 4x, equispaced lines; end-to-end variational network.

Source: Sriram et al. 2020. Command: ``python train.py --config=configs/fastmri_multicoil_4x.py
--data.fastmri.root=FOLDER``, the folder with multicoil_train/ and multicoil_val/ (or with .h5 files). Sizes are the
published ones, 29,936,966 parameters with the network that estimates the coil maps; as published, the image is the root
of the sum of squares and the loss is SSIM. Any other network trains on the same data: ``model=PRESETS["compact"]()``
with a loss of complex images, and ``sensitivity`` for maps by a network.
Volumes have several numbers of lines: they are filled up to 416 that count as not acquired, so that there is one
program; coils are compressed to 12, or filled up with coils of zeros. Cost and expected numbers: none measured; it was
tried for a few steps on generated files.
"""

from atlf_jax.config import Config
from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, FastMRIConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import E2EVarNetConfig
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="fastmri_multicoil_4x",
        model=E2EVarNetConfig(),
        data=DataConfig(
            source=FastMRIConfig(coils="multicoil", measured=True, columns=416),
            acquisition=AcquisitionConfig(maps="low_resolution", virtual_coils=12),
            train_split="train",
            valid_split="valid",
        ),
        masks=(MaskConfig(kind="equispaced_fraction", acceleration=4.0, center_fraction=0.08),),
        augment=AugmentConfig(rotate90=False),
        train=TrainConfig(
            stages=(
                Stage(
                    "reconstruction",
                    Supervised(mse=0.0, ssim=1.0),
                    steps=100000,
                    learning_rate=3e-4,
                    warmup_steps=1000,
                    final_fraction=0.1,
                ),
            ),
            batch_size=1,
            eval_every=10000,
            save_every=2000,
            picture_every=10000,
            log_every=100,
        ),
    )
