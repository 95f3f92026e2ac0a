"""Scans with 1 to 6 coils, phase and noise, 4x to 8x by lines and by 2-D Poisson discs; ``SenseNet``.

Source: ours. Command: ``python train.py --config=configs/raw_brain.py`` with ATLF_DATA_DIR set.
Images of heads, hearts, abdomens and more are mixed, in random contrasts, orientations and sizes; what a scanner adds
is simulated for each record anew: a smooth phase and one along thin lines, coils of several kinds (filled up with coils
of zeros to 6), noise of .2 to 10 % of the largest pixel, in part correlated between the coils, and objects that exceed
the field of view. Coil maps are of low resolution, from the undersampled centre, as for a scan without maps. The target
is the root of the sum of squares of the noisy, fully sampled coil images; the loss is the logarithm of the mean squared
error of the magnitude, so that all scans count equally. Rows alone are cropped: lines are those of whole images.
Expected numbers: docs/multi-coil.md, "Networks".
"""

from atlf_jax.config import Config
from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, ImagesConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import SenseNetConfig
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig

FILES = (
    *(f"aanlib_ct_mri/MRI/{case}???.png" for case in ("2", "20", "32", "33", "34")),
    "registration/clinical_toolbox/T2.nii.gz",
    "mmwhs/mscmr_mr_volumes/patient10_[CL]*[0E].nii.gz",
    "mmwhs/hvsmr2_mr_slices/images/*.png",
    "chaos/totalsegmentator_abdomen/example_mr_sm.nii.gz",
    "chaos/mr_abdomen_cipmnet/*.png",
    "chaos/ct_set_3/CT.nii.gz",
    "mmwhs/totalsegmentator_cardiac_cta/ct_cropped.nii.gz",
    "raw/complex_images.npz",
)
LOSS = Supervised(mse=0.0, magnitude=1.0, relative=1e-6)
VALID = ("aanlib_ct_mri/MRI/410[01]?.png", "mmwhs/mscmr_mr_volumes/patient11_[CL]*[0E].nii.gz")


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="raw_brain",
        model=SenseNetConfig(),
        data=DataConfig(
            source=ImagesConfig(files=FILES, kspace=("raw/brain_7ch_256x216.npy",), valid_files=VALID, size=(256, 208)),
            acquisition=AcquisitionConfig(
                phase=5.0,
                sharp_phase=1.0,
                noise=0.1,
                noise_spread=50.0,
                noise_correlation=0.2,
                coils=(1, 6),
                maps="low_resolution",
                fold=0.3,
                target="rss",
            ),
        ),
        masks=tuple(
            MaskConfig(kind, acceleration, center)
            for kind in ("random_exact", "poisson_disc")
            for acceleration, center in ((4.0, 0.08), (5.0, 0.06), (8.0, 0.04))
        ),
        augment=AugmentConfig(rotation=180.0, scale=0.5, shift=16.0, gamma=0.5, contrast=0.5, crop=(96, 0)),
        train=TrainConfig(
            stages=(
                # stopped at any time by --train.reconstruction.steps NOW, the last stage still follows
                Stage("reconstruction", LOSS, steps=6000, learning_rate=1e-3, warmup_steps=100, schedule="constant"),
                Stage("anneal", LOSS, steps=1500, learning_rate=1e-3, final_fraction=0.01),
            ),
            batch_size=1,
            eval_every=1000,
            save_every=200,
            picture_every=2000,
            log_every=50,
        ),
    )
