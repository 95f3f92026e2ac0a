"""Training: objectives, optimiser stages, data parallelism, checkpoints, logs and the fit loop."""

from atlf_jax.training.checkpoint import load
from atlf_jax.training.fit import Stage, TrainConfig, fit, stage_at, stages
from atlf_jax.training.objective import LossConfig
from atlf_jax.training.optimiser import StageConfig

__all__ = ["LossConfig", "Stage", "StageConfig", "TrainConfig", "fit", "load", "stage_at", "stages"]
