"""The optimiser of one training stage: schedule, clipping, weight decay and accumulation, all from Optax."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax
from beartype import beartype

__all__ = ["StageConfig", "make_optimiser", "make_schedule"]


@beartype
@dataclass(frozen=True)
class StageConfig:
    """One training stage; a stage of 0 steps is skipped."""

    steps: int = 0
    """Batches seen in this stage; 0 skips it."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """After the warm-up: cosine decay, constant, or halved at every sixth of the stage."""
    final_fraction: float = 0.01
    """Floor of the schedule, as a fraction of the peak (not used by 'constant')."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    optimiser: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay; only for adamw."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.warmup_steps < 0:
            raise ValueError(f"steps and warmup_steps must be >= 0, got {self.steps} and {self.warmup_steps}")
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps must be below steps = {self.steps}, got {self.warmup_steps}")
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError(
                f"learning_rate and clip_norm must be above 0, got {self.learning_rate} and {self.clip_norm}"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction must be in [0, 1], got {self.final_fraction}")
        if self.weight_decay < 0 or (self.weight_decay and self.optimiser == "adam"):
            raise ValueError(f"weight_decay {self.weight_decay} must be >= 0 and needs optimiser 'adamw'")


def make_schedule(config: StageConfig, *, updates: int) -> optax.Schedule:
    """Return the learning rate of a stage as a function of its update count.

    The warm-up starts at ``learning_rate / warmup_steps``, not at 0, so that no update is lost.

    Args:
        config: the stage.
        updates: optimiser updates in the stage, the warm-up included.

    Source: "step" is CDDFuse's StepLR (halved every 20 of 120 epochs, floor 1e-6 at 1e-4), counted in sixths.
    """
    peak, warmup, floor = config.learning_rate, config.warmup_steps, config.learning_rate * config.final_fraction
    after = max(updates - warmup, 1)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, after, alpha=config.final_fraction)
    elif config.schedule == "step":
        halvings = optax.piecewise_constant_schedule(peak, {round(after * k / 6): 0.5 for k in range(1, 6)})

        def main(count):
            return jnp.maximum(halvings(count), floor)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), main], [warmup])


def make_optimiser(config: StageConfig, *, accumulate: int = 1) -> optax.GradientTransformation:
    """Return the optimiser of a stage: clip by global norm, then Adam or AdamW at the scheduled rate.

    Args:
        config: the stage.
        accumulate: batches whose gradients are averaged into one update; the other batches update by zero.
    """
    schedule = make_schedule(config, updates=config.steps // accumulate)
    if config.optimiser == "adamw":
        adam = optax.adamw(schedule, weight_decay=config.weight_decay)
    else:
        adam = optax.adam(schedule)
    optimiser = optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
    if accumulate == 1:
        return optimiser
    return optax.MultiSteps(optimiser, every_k_schedule=accumulate).gradient_transformation()
