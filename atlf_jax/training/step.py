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
from atlf_jax.training.sharding import replicated, split
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


def initialise(model: Model, batch: Batch, *, seed: int, mesh: jax.sharding.Mesh) -> TrainState:
    """Return the state before the first stage, made on the devices of the mesh.

    Args:
        model: the network.
        batch: an example of the batches to come; only its shapes matter.
        seed: of the initial parameters.
        mesh: the devices.
    """

    def init() -> TrainState:
        measurement = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), batch.measurement)
        variables = model.init(jax.random.key(seed), measurement)
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        params = variables.get("params", {})
        average = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, average, model_state, ())

    return jax.jit(init, out_shardings=replicated(mesh))()


def copy_matching_arrays(
    start: Mapping[str, Any], state: TrainState, *, mesh: jax.sharding.Mesh
) -> tuple[TrainState, str]:
    """Copy the arrays of a trained network into those of the same name, shape and dtype; also return a log line.

    Args:
        start: variables of the trained network.
        state: of ``initialise``.
        mesh: the devices.

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
    placed = {path: jax.device_put(np.array(array), replicated(mesh)) for path, array in given.items()}
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

    def split_params(params: Variables) -> tuple[Variables, Variables]:
        """Split into the parameters that the stage trains and the frozen ones."""
        flat = _flat(params)
        trained = {path: leaf for path, leaf in flat.items() if matches(stage.trains, "/".join(path))}
        return _nested(trained), _nested({path: leaf for path, leaf in flat.items() if path not in trained})

    def merge_params(trained: Variables, frozen: Variables) -> Variables:
        """Undo ``split_params``."""
        return _nested(_flat(trained) | _flat(frozen))

    def begin(state: TrainState) -> TrainState:
        params = jax.tree.map(jnp.copy, state.average)
        return state._replace(params=params, optimiser=optimiser.init(split_params(params)[0]))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        trained, frozen = split_params(state.params)

        def loss(trained: Variables) -> tuple[Array, Outcome]:
            variables = {"params": merge_params(trained, frozen), **state.model_state}
            outcome = objective(model, variables, batch, key=key)
            return outcome.loss, outcome._replace(pictures={})

        (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, trained)
        trained = cast(Variables, optax.apply_updates(trained, updates))
        rate = schedule((state.step - span.start) // accumulate)
        done = state.step - span.start + 1  # batches seen in this stage
        decay = jnp.where(done % accumulate == 0, average_decay(done // accumulate, limit=config.ema_decay), 1.0)
        average, frozen_average = split_params(state.average)
        average = cast(Variables, optax.incremental_update(trained, average, 1 - decay))
        state = TrainState(
            step=state.step + 1,
            params=merge_params(trained, frozen),
            average=merge_params(average, frozen_average),
            model_state=state.model_state | outcome.state,
            optimiser=optimiser_state,
        )
        metrics = {"loss": outcome.loss, "grad_norm": optax.tree.norm(gradient), "learning_rate": jnp.asarray(rate)}
        metrics |= {f"loss/{name}": value.mean() for name, value in outcome.terms.items()}
        metrics |= {name: value.mean() for name, value in outcome.scores.items()}
        return state, metrics

    def evaluate(variables: Variables, batch: Batch) -> Outcome:
        return objective(model, variables, batch, key=None)._replace(state={})

    on_all_devices, batches = replicated(mesh), split(mesh)
    return Programs(
        # No state is donated: the state before a step can still be saved while the step runs.
        begin=jax.jit(begin, out_shardings=on_all_devices),
        step=jax.jit(step, in_shardings=(on_all_devices, batches), out_shardings=(on_all_devices, on_all_devices)),
        evaluate=jax.jit(evaluate, in_shardings=(on_all_devices, batches)),
    )


@jaxtyped(typechecker=beartype)
def average_decay(updates: Int[Array, "*n"], *, limit: float) -> Float[Array, "*n"]:
    """Return the decay of the parameter average at an update: ``min(limit, t / (9 + t))``, t = 1, 2, ...

    The ramp keeps early parameters from lingering in the average of a short stage. Source: the ``num_updates`` rule
    of TensorFlow's ExponentialMovingAverage.
    """
    return jnp.minimum(limit, updates / (9 + updates))
