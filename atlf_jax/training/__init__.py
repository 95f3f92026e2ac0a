"""Training: stages, optimiser, data parallelism, checkpoints, logs and the fit loop."""

from atlf_jax.training.checkpoint import load
from atlf_jax.training.fit import fit
from atlf_jax.training.stages import Span, Stage, TrainConfig, span_at, spans

__all__ = ["Span", "Stage", "TrainConfig", "fit", "load", "span_at", "spans"]


def __getattr__(name: str) -> None:
    """Say what became of the names with which experiments of earlier versions were written."""
    if name in ("LossConfig", "StageConfig"):
        raise ImportError(
            f"{name} of earlier versions is gone: stages are now Stage(name, objective, trains, steps=...), as in "
            'docs/training.md, "Stages"'
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
