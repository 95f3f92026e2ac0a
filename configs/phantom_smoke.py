"""Smoke test: every stage of a very small ATLF-Net for a few steps on the generated phantom.

Source: none; it shows that the machinery runs. Command: ``python train.py --config=configs/phantom_smoke.py``.
Cost: about a minute on 2 CPU cores, nearly all of it compilation. Expected: the loss falls; the picture is poor.
"""

from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import ATLFConfig, FusionConfig, ReconstructionConfig
from atlf_jax.models.atlf.objectives import FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.training import Stage, TrainConfig


def get_config() -> Config:
    """Return the experiment."""
    return Config(
        name="phantom_smoke",
        model=ATLFConfig(
            fusion=FusionConfig(
                width=8, encoder_blocks=1, decoder_blocks=1, heads=2, stride=2, gfab="bfe_dw", lfab_layers=1
            ),
            reconstruction=ReconstructionConfig(phases=1, width=8, stride=2, heads=2, key_grid=8),
        ),
        data=DataConfig(source=PhantomConfig(size=32, subjects=10, slices=1)),
        masks=(MaskConfig(kind="random", acceleration=4.0, center_fraction=0.08),),
        train=TrainConfig(
            stages=(
                Stage("autoencode", Autoencode(), FUSION_PROCESS, 2, learning_rate=1e-3),
                Stage("fusion", Fuse(), FUSION_PROCESS, 2, learning_rate=1e-3),
                Stage("reconstruction", Reconstruct(adapters=False), PHASES, 2, learning_rate=1e-3),
                Stage("joint", Reconstruct(beta_fusion=0.1), steps=2, learning_rate=1e-3),
            ),
            batch_size=2,
            ema_decay=0.5,
            log_every=1,
            eval_every=4,
            save_every=4,
            picture_every=4,
        ),
    )
