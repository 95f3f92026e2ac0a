"""Training: objectives, optimiser stages, data parallelism, checkpoints, logs and the fit loop."""

from atlf_jax.training.checkpoint import load
from atlf_jax.training.fit import fit
from atlf_jax.training.objective import LossConfig
from atlf_jax.training.optimiser import StageConfig
from atlf_jax.training.stages import Stage, TrainConfig, stage_at, stages

__all__ = ["LossConfig", "Stage", "StageConfig", "TrainConfig", "fit", "load", "stage_at", "stages"]
