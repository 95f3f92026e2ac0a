"""Brain scans with coils, phase and noise, 4x and 8x by lines and by 2-D Poisson discs; network ``best``, complex.

Source: ours. Command: ``python train.py --config=configs/raw_brain.py`` with ATLF_DATA_DIR set.
AANLIB's pictures are magnitudes of one coil. What a scanner adds is simulated for each record anew: a smooth phase and
one along thin lines, 4 to 12 coils of several kinds (filled up with coils of zeros to 12), and noise of .1 to 2 % of
the largest pixel, in part correlated between the coils. Coil maps are of low resolution, from the undersampled centre,
as for a scan without maps. The network has no CT adapters yet: they are trained beside it later. Noisy samples are
weighed, not replaced (docs/DESIGN.md, 46). Expected numbers: those of a run of 1,900 steps are in docs/multi-coil.md,
"Networks".
"""

import dataclasses

from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AcquisitionConfig, AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS
from atlf_jax.models.atlf.objectives import PHASES, Reconstruct
from atlf_jax.training import Stage, TrainConfig

BEST = PRESETS["best"]()
# conjugate gradients in each of ten phases are most of the time with coils: a gradient step is learned beside them
RECONSTRUCTION = dataclasses.replace(BEST.reconstruction, ct_adapter="none", sense_dc="gradient")


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="raw_brain",
        model=dataclasses.replace(BEST, reconstruction=RECONSTRUCTION),
        data=DataConfig(
            source=AANLIBConfig(),
            train_split="inner_train",
            valid_split="inner_valid",
            acquisition=AcquisitionConfig(
                phase=3.0,
                sharp_phase=1.0,
                noise=0.02,
                noise_spread=20.0,
                noise_correlation=0.2,
                coils=(4, 12),
                maps="low_resolution",
            ),
        ),
        masks=tuple(
            MaskConfig(kind, acceleration, center)
            for kind in ("random_exact", "poisson_disc")
            for acceleration, center in ((4.0, 0.08), (8.0, 0.04))
        ),
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1, gamma=0.2, crop=(128, 0)),
        train=TrainConfig(
            stages=(
                Stage(
                    "reconstruction",
                    Reconstruct(mse=0.0, l1=1.0, gamma_symmetry=0.0, adapters=False),
                    PHASES,
                    4000,
                    learning_rate=2e-3,
                    warmup_steps=50,
                    final_fraction=0.02,
                ),
            ),
            batch_size=1,
            eval_every=2000,
            save_every=500,
            picture_every=2000,
            log_every=50,
        ),
    )
