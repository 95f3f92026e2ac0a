"""Training: stages, optimiser, data parallelism, checkpoints, logs and the fit loop."""

from atlf_jax.training.checkpoint import load
from atlf_jax.training.fit import fit
from atlf_jax.training.stages import Span, Stage, TrainConfig, span_at, spans

__all__ = ["Span", "Stage", "TrainConfig", "fit", "load", "span_at", "spans"]
