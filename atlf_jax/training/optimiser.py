"""The optimiser of one training stage: schedule, clipping, weight decay and accumulation, all from Optax."""

import jax.numpy as jnp
import optax

from atlf_jax.training.stages import Stage

__all__ = ["make_optimiser", "make_schedule"]


def make_schedule(stage: Stage, *, updates: int) -> optax.Schedule:
    """Return the learning rate of a stage as a function of its update count.

    The warm-up starts at ``learning_rate / warmup_steps``, not at 0, so that no update is lost.

    Args:
        stage: the stage.
        updates: optimiser updates in the stage, the warm-up included.

    Example:
        >>> from atlf_jax.objectives import Supervised
        >>> stage = Stage("first", Supervised(), steps=10, learning_rate=1e-3, warmup_steps=2)
        >>> schedule = make_schedule(stage, updates=10)
        >>> [round(float(schedule(update)), 6) for update in (0, 2, 10)]
        [0.0005, 0.001, 1e-05]

    Source: "step" is CDDFuse's StepLR (halved every 20 of 120 epochs, floor 1e-6 at 1e-4), counted in sixths.
    """
    peak, warmup, floor = stage.learning_rate, stage.warmup_steps, stage.learning_rate * stage.final_fraction
    after = max(updates - warmup, 1)
    if stage.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, after, alpha=stage.final_fraction)
    elif stage.schedule == "step":
        halvings = optax.piecewise_constant_schedule(peak, {round(after * k / 6): 0.5 for k in range(1, 6)})

        def main(count):
            return jnp.maximum(halvings(count), floor)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), main], [warmup])


def make_optimiser(stage: Stage, *, accumulate: int = 1) -> optax.GradientTransformation:
    """Return the optimiser of a stage: clip by global norm, then Adam or AdamW at the scheduled rate.

    Args:
        stage: the stage.
        accumulate: batches whose gradients are averaged into one update; the other batches update by zero.

    Example:
        >>> import jax
        >>> from atlf_jax.objectives import Supervised
        >>> optimiser = make_optimiser(Stage("first", Supervised(), steps=10, learning_rate=0.5, schedule="constant"))
        >>> gradient, state = jnp.array([3.0, -4.0]), optimiser.init(jnp.zeros(2))
        >>> updates, _ = jax.jit(optimiser.update)(gradient, state)
        >>> updates.round(3).tolist()  # Adam's first step: of the length of the rate, against the gradient
        [-0.5, 0.5]
    """
    schedule = make_schedule(stage, updates=stage.steps // accumulate)
    if stage.optimiser == "adamw":
        adam = optax.adamw(schedule, weight_decay=stage.weight_decay)
    else:
        adam = optax.adam(schedule)
    optimiser = optax.chain(optax.clip_by_global_norm(stage.clip_norm), adam)
    if accumulate == 1:
        return optimiser
    return optax.MultiSteps(optimiser, every_k_schedule=accumulate).gradient_transformation()
