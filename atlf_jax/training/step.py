"""The compiled programs of a training stage: begin, step and evaluate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from atlf_jax.array_types import Batch
from atlf_jax.training.objective import OBJECTIVES, LossConfig, Model, Outcome, Variables
from atlf_jax.training.optimiser import StageConfig, make_optimiser
from atlf_jax.training.sharding import replicated, split

__all__ = ["FUSION", "TRAINED", "Programs", "TrainState", "compile_stage", "initialise"]

FUSION = "fusion"  # the parameters of the fusion process lie under this name

TRAINED: dict[str, Callable[[str], bool]] = {  # which top-level parameters a stage changes
    "autoencode": lambda name: name == FUSION,
    "fusion": lambda name: name == FUSION,
    "reconstruction": lambda name: name != FUSION,
    "joint": lambda name: True,
}


class TrainState(NamedTuple):
    """Everything that training changes; beside the configuration it determines all that follows."""

    step: Int[Array, ""]  # batches seen, over all stages
    params: Variables
    average: Variables  # exponential moving average of params: what is evaluated and kept
    model_state: Variables  # other collections of the model, such as running statistics; usually empty
    optimiser: optax.OptState  # of the parameters that the present stage changes


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
        params = variables["params"]
        average = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, average, model_state, ())

    shardings = jax.tree.map(lambda _: replicated(mesh), jax.eval_shape(init))
    return jax.jit(init, out_shardings=shardings)()


def compile_stage(
    name: str,
    stage: StageConfig,
    *,
    model: Model,
    losses: LossConfig,
    start: int,
    seed: int,
    ema_decay: float,
    accumulate: int,
    mesh: jax.sharding.Mesh,
) -> Programs:
    """Return the programs of a stage; each compiles when first called.

    A stage begins from the averaged parameters of the one before, with a new optimiser. Only the parameters that it
    trains are differentiated, so frozen parts cost no backward pass.

    Args:
        name: row of ``OBJECTIVES`` and ``TRAINED``.
        stage: its settings.
        model: the network.
        losses: weights of the loss terms.
        start: first step of the stage.
        seed: of all randomness; step k uses ``fold_in(key(seed), k)``.
        ema_decay: of the parameter average, ramped up as ``min(decay, (1 + t) / (10 + t))`` within the stage.
        accumulate: batches an update.
        mesh: the devices.
    """
    optimiser = make_optimiser(stage, accumulate=accumulate)
    objective = OBJECTIVES[name]

    def parts(params: Variables) -> tuple[Variables, Variables]:
        trained = {key: value for key, value in params.items() if TRAINED[name](key)}
        frozen = {key: value for key, value in params.items() if not TRAINED[name](key)}
        return trained, frozen

    def begin(state: TrainState) -> TrainState:
        params = jax.tree.map(jnp.copy, state.average)
        return state._replace(params=params, optimiser=optimiser.init(parts(params)[0]))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained, frozen = parts(state.params)

        def loss(trained: Variables) -> tuple[Array, Outcome]:
            variables = {"params": trained | frozen, **state.model_state}
            outcome = objective(model, variables, batch, config=losses, key=key)
            return outcome.loss, outcome._replace(pictures={})

        (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, trained)
        trained = optax.apply_updates(trained, updates)
        params = trained | frozen
        t = (state.step - start) // accumulate
        decay = jnp.minimum(ema_decay, (1 + t) / (10 + t)) if ema_decay else 0.0
        decay = jnp.where(optimiser.has_updated(optimiser_state), decay, 1.0)
        average = optax.incremental_update(params, state.average, 1 - decay)
        state = TrainState(state.step + 1, params, average, state.model_state | outcome.state, optimiser_state)
        parts_of_loss = {f"loss/{name}": value.mean() for name, value in outcome.terms.items()}
        scores = {name: value.mean() for name, value in outcome.scores.items()}
        return state, {"loss": outcome.loss, "grad_norm": optax.tree.norm(gradient), **parts_of_loss, **scores}

    def evaluate(variables: Variables, batch: Batch) -> Outcome:
        return objective(model, variables, batch, config=losses, key=None)._replace(state={})

    whole, batches = replicated(mesh), split(mesh)
    return Programs(
        begin=jax.jit(begin, out_shardings=whole, donate_argnums=0),
        step=jax.jit(step, in_shardings=(whole, batches), out_shardings=(whole, whole), donate_argnums=0),
        evaluate=jax.jit(evaluate, in_shardings=(whole, batches)),
    )
