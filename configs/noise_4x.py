"""Does data consistency by the noise of each scan pay? A small DC-CNN on generated heads of little or much noise.

Source: ours. Command: ``python train.py --config=configs/noise_4x.py``, and ``configs/noise_4x.py:soft`` for the
learned weight alone. The noise of each record is drawn between .2 and 10 % of the largest pixel. Needs no download.
Expected numbers: docs/multi-coil.md, "Consistency by noise".
"""

from atlf_jax.config import Config
from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import DCCNNConfig
from atlf_jax.models.baseline import Consistency
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig

ARGUMENTS = ("soft", "hard")
LOSS = Supervised(mse=0.0, l1=1.0)


def get_config(consistency: Consistency = "noise") -> Config:
    """Return the experiment with a kind of data consistency."""
    return Config(
        name="noise_4x" if consistency == "noise" else f"noise_4x_{consistency}",
        model=DCCNNConfig(cascades=4, depth=4, width=16, dc=consistency, use_ct=False),
        data=DataConfig(
            source=PhantomConfig(size=96),
            acquisition=AcquisitionConfig(phase=3.0, noise=0.1, noise_spread=50.0),
        ),
        masks=(MaskConfig("random_exact", 4.0, 0.08), MaskConfig("poisson_disc", 4.0, 0.08)),
        augment=AugmentConfig(),
        train=TrainConfig(
            stages=(
                Stage("reconstruction", LOSS, steps=800, learning_rate=2e-3, warmup_steps=50, final_fraction=0.02),
            ),
            batch_size=4,
            eval_every=800,
            save_every=800,
            picture_every=0,
            log_every=100,
        ),
    )
