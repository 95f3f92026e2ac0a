"""What all experiments of the benchmark share, so that they differ in the network, its learning rate and its steps.

Source: ours; data and augmentation are those of ``configs/aanlib_4x.py``. One set of weights serves all masks: each
training record draws a family and an acceleration, and its L1 error counts relatively, as errors differ tenfold between
masks. Steps are chosen so that each method takes about as long on one core.
"""

from typing import Any, Literal

from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import ModelConfig
from atlf_jax.training import LossConfig, StageConfig, TrainConfig

FAMILIES = ("random", "equispaced_fraction", "variable_density_2d", "radial")
ACCELERATIONS = {4.0: 0.08, 8.0: 0.04, 10.0: 0.04}  # with their centres
MASKS = tuple(MaskConfig(kind, *pair) for kind in FAMILIES for pair in ACCELERATIONS.items())


def experiment(
    name: str,
    model: ModelConfig,
    *,
    steps: int,
    learning_rate: float,
    schedule: Literal["cosine", "constant"] = "cosine",
    gamma_symmetry: float = 0.01,
    **stages: StageConfig,
) -> Config:
    """Return the experiment ``benchmark/NAME``.

    Args:
        name: of the method.
        model: its network.
        steps: of the reconstruction stage.
        learning_rate: its peak.
        schedule: after its warm-up.
        gamma_symmetry: weight of ISTA-Net+'s symmetry residual, for networks that have one.
        stages: the stages before and after it.
    """
    rates: dict[str, Any] = {"learning_rate": learning_rate, "schedule": schedule, "final_fraction": 0.02}
    reconstruction = StageConfig(steps=steps, warmup_steps=50, **rates)
    total = steps + sum(stage.steps for stage in stages.values())
    intervals: dict[str, Any] = {"eval_every": -(-total // 4), "picture_every": -(-total // 4), "save_every": 600}
    return Config(
        name=f"benchmark/{name}",
        model=model,
        data=DataConfig(source=AANLIBConfig(), train_split="inner_train", valid_split="inner_valid"),
        masks=MASKS,
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1, crop=(64, 0)),
        train=TrainConfig(
            **stages,
            reconstruction=reconstruction,
            loss=LossConfig(mse=0.0, l1=0.05, relative=1e-4, gamma_symmetry=gamma_symmetry),
            batch_size=1,
            seed=0,
            log_every=50,
            **intervals,
        ),
    )
