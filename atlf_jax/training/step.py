"""The compiled functions of a training stage: begin, step and evaluate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from beartype import beartype
from jaxtyping import Float, Int, jaxtyped

from atlf_jax.array_types import Array, Batch
from atlf_jax.objectives import Model, Outcome, Variables
from atlf_jax.training.optimiser import make_optimiser, make_schedule
from atlf_jax.training.sharding import divided, put, replicated, split
from atlf_jax.training.stages import Span, TrainConfig, matches

__all__ = ["Programs", "TrainState", "copy_matching_arrays", "compile_stage", "initialise", "trained_names"]


class TrainState(NamedTuple):
    """Everything that training changes: with the configuration, it determines the rest of the run."""

    step: Int[Array, ""]  # batches seen, over all stages
    params: Variables
    average: Variables  # exponential moving average of params, which is evaluated and saved
    model_state: Variables  # other collections of the model, such as running statistics; usually empty
    optimiser: optax.OptState  # of the parameters that the current stage trains


class Programs(NamedTuple):
    """The compiled functions of one stage."""

    begin: Callable[[TrainState], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
    evaluate: Callable[[Variables, Batch], Outcome]
    gradient: Callable[[TrainState, Batch], Any] | None = None  # of the loss, not compiled: to look for a fault


def initialise(
    model: Model, batch: Batch, *, seed: int, mesh: jax.sharding.Mesh, rules: Sequence[tuple[str, int]] = ()
) -> TrainState:
    """Return the state before the first stage, made on the devices of the mesh.

    Args:
        model: the network.
        batch: an example of the batches to come; only its shapes matter.
        seed: of the initial parameters.
        mesh: the devices.
        rules: exceptions from how parameters are divided (see ``sharding.divided``).
    """
    divide = divided(mesh, rules)

    def init() -> TrainState:
        measurement = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), batch.measurement)
        variables = model.init(jax.random.key(seed), measurement)
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        params = variables.get("params", {})
        average = jax.tree.map(jnp.copy, params)
        state = TrainState(jnp.zeros((), jnp.int32), params, average, model_state, ())
        return divide(state) if divide else state

    return jax.jit(init, out_shardings=None if divide else replicated(mesh))()


def copy_matching_arrays(start: Mapping[str, Any], state: TrainState) -> tuple[TrainState, str]:
    """Copy the arrays of a trained network into those of the same name, shape and dtype; also return a log line.

    Args:
        start: variables of the trained network.
        state: of ``initialise``.

    Raises:
        ValueError: there are no such arrays.
    """
    own = _flat({"params": state.params, **state.model_state})
    given = {
        path: array
        for path, array in _flat(start).items()
        if path in own and (array.shape, array.dtype) == (own[path].shape, own[path].dtype)
    }
    if not given:
        raise ValueError(
            "train.start_from names a network that has no array of this one's names and shapes; leave it out"
        )
    placed = {path: put(np.array(array), cast(jax.Array, own[path]).sharding) for path, array in given.items()}
    variables = _nested(own | placed)
    params = variables.pop("params", {})
    fresh = sorted("/".join(path) for path in own.keys() - given.keys())
    notice = f"began with {len(given)} of {len(own)} arrays of a trained network"
    notice += f"; new: {', '.join(fresh[:3])}{', ...' * (len(fresh) > 3)}" if fresh else ""
    state = state._replace(params=params, average=jax.tree.map(jnp.copy, params), model_state=variables)
    return state, notice


def trained_names(params: Variables, patterns: Sequence[str]) -> list[str]:
    """Return the names of the parameters that match a stage's patterns.

    Example:
        >>> params = {"fusion": {"kernel": jnp.ones(1)}, "phase_0": {"rho": jnp.ones(1)}}
        >>> trained_names(params, ("*", "!fusion/*"))
        ['phase_0/rho']
    """
    names = ["/".join(path) for path in _flat(params)]
    return [name for name in names if matches(patterns, name)]


def _flat(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Array]:
    """Return the arrays of nested dictionaries by their paths (training does not import Flax)."""
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _nested(flat: dict[tuple[str, ...], Array]) -> Variables:
    """Undo ``_flat``."""
    tree: Variables = {}
    for (*parents, name), leaf in flat.items():
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = leaf
    return tree


def compile_stage(span: Span, *, config: TrainConfig, model: Model, mesh: jax.sharding.Mesh) -> Programs:
    """Return the programs of a stage; each compiles when first called.

    A stage begins from the averaged parameters of the one before, with a new optimiser. Only the parameters that it
    trains are differentiated, so frozen parts need no backward pass. Step k draws from ``fold_in(key(seed), k)``.

    Args:
        span: the stage, and the step at which it begins.
        config: what the stages share.
        model: the network.
        mesh: the devices.
    """
    stage, accumulate = span.stage, config.accumulate
    schedule = make_schedule(stage, updates=stage.steps // accumulate)
    optimiser = make_optimiser(stage, accumulate=accumulate)
    objective = stage.objective
    on_all_devices, batches, divide = replicated(mesh), split(mesh), divided(mesh, config.shard_rules)

    def gathered(tree: Any) -> Any:
        """Have parameters whole on every device where they are used."""
        if divide is None:
            return tree
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, on_all_devices), tree)

    def kept(tree: Any) -> Any:
        """Have each device keep its part."""
        return tree if divide is None else divide(tree)

    def begin(state: TrainState) -> TrainState:
        params = jax.tree.map(jnp.copy, state.average)
        return kept(state._replace(params=params, optimiser=optimiser.init(_split(params, stage.trains)[0])))

    def differentiate(state: TrainState, batch: Batch) -> Any:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        trained, frozen = _split(state.params, stage.trains)

        def loss(trained: Variables) -> tuple[Array, Outcome]:
            variables = {"params": gathered(_merge(trained, frozen)), **state.model_state}
            outcome = objective(model, variables, batch, key=key)
            return outcome.loss, outcome._replace(pictures={})

        return jax.value_and_grad(loss, has_aux=True)(trained)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        trained, frozen = _split(state.params, stage.trains)
        (_, outcome), gradient = differentiate(state, batch)
        gradient = kept(gradient)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, trained)
        params = cast(Variables, optax.apply_updates(trained, updates))
        rate = schedule((state.step - span.start) // accumulate)
        done = state.step - span.start + 1  # batches seen in this stage
        decay = jnp.where(done % accumulate == 0, average_decay(done // accumulate, limit=config.ema_decay), 1.0)
        average, frozen_average = _split(state.average, stage.trains)
        average = cast(Variables, optax.incremental_update(params, average, 1 - decay))
        following = TrainState(
            step=state.step + 1,
            params=_merge(params, frozen),
            average=_merge(average, frozen_average),
            model_state=state.model_state | outcome.state,
            optimiser=optimiser_state,
        )
        metrics = _metrics(outcome, gradient, cast(Variables, updates)) | {"learning_rate": jnp.asarray(rate)}
        if config.skip_not_finite:
            finite = jnp.isfinite(outcome.loss) & jnp.isfinite(metrics["grad_norm"])
            before = state._replace(step=following.step)
            following = jax.tree.map(lambda new, old: jnp.where(finite, new, old), following, before)
        return kept(following), metrics

    def evaluate(variables: Variables, batch: Batch) -> Outcome:
        return objective(model, gathered(variables), batch, key=None)._replace(state={})

    states = on_all_devices if divide is None else None  # None: as the arrays are, and as they are constrained
    scores = Outcome(on_all_devices, on_all_devices, batches, on_all_devices)  # pyrefly: ignore[bad-argument-type]
    return Programs(
        # No state is donated: the state before a step can still be saved while the step runs.
        begin=jax.jit(begin, out_shardings=states),
        step=jax.jit(step, in_shardings=(states, batches), out_shardings=(states, on_all_devices)),
        evaluate=jax.jit(evaluate, in_shardings=(states, batches), out_shardings=scores),
        gradient=differentiate,
    )


@jaxtyped(typechecker=beartype)
def _split(params: Variables, patterns: Sequence[str]) -> tuple[Variables, Variables]:
    """Split into the parameters that a stage trains, by ``Stage.trains``, and the frozen ones."""
    flat = _flat(params)
    trained = {path: leaf for path, leaf in flat.items() if matches(patterns, "/".join(path))}
    return _nested(trained), _nested({path: leaf for path, leaf in flat.items() if path not in trained})


def _merge(trained: Variables, frozen: Variables) -> Variables:
    """Undo ``_split``."""
    return _nested(_flat(trained) | _flat(frozen))


def _metrics(outcome: Outcome, gradient: Variables, updates: Variables) -> dict[str, Array]:
    """Return what a step logs: its loss and terms, and norms of gradient and update by module."""
    metrics: dict[str, Array] = {"loss": outcome.loss, "grad_norm": optax.tree.norm(gradient)}
    metrics |= {f"loss/{name}": value.mean() for name, value in outcome.terms.items()}
    metrics |= {name: value.mean() for name, value in outcome.scores.items()}
    metrics |= {f"grad_norm/{name}": optax.tree.norm(tree) for name, tree in gradient.items()}
    return metrics | {f"update_norm/{name}": optax.tree.norm(tree) for name, tree in updates.items()}


def average_decay(updates: Int[Array, "*n"], *, limit: float) -> Float[Array, "*n"]:
    """Return the decay of the parameter average at an update: ``min(limit, t / (9 + t))``, t = 1, 2, ...

    The ramp keeps early parameters from lingering in the average of a short stage. Source: the ``num_updates`` rule
    of TensorFlow's ExponentialMovingAverage.
    """
    return jnp.minimum(limit, updates / (9 + updates))
