"""One stage's programs: what they change, their randomness, the parameter average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.models.atlf.phase import ADAPTER
from atlf_jax.training import Span, TrainConfig
from atlf_jax.training.sharding import data_mesh, place, replicated
from atlf_jax.training.step import average_decay, compile_stage, initialise
from tests.training.conftest import stage as stage_of


@pytest.fixture
def mesh():
    return data_mesh(batch_size=4, devices=jax.devices()[:1])


@pytest.fixture
def programs(mesh, tiny):
    def make(name: str, *, model=None, start=0, ema_decay=0.5, **settings):
        span = Span(stage_of(name, steps=8, schedule="constant"), start, start + 8)
        config = TrainConfig(ema_decay=ema_decay, **settings)
        return compile_stage(span, config=config, model=model or tiny(), mesh=mesh)

    return make


def copied(tree):
    return jax.tree.map(np.array, tree)


def differs(a, b) -> dict[str, bool]:
    """Say for each top-level name whether its arrays differ."""
    pairs = {name: zip(jax.tree.leaves(a[name]), jax.tree.leaves(b[name]), strict=True) for name in a}
    return {name: any(not np.array_equal(x, y) for x, y in pair) for name, pair in pairs.items()}


def test_adapters_are_left_out_before_their_stage(programs, tiny, batch, mesh) -> None:
    model = tiny(adapted=True)
    params = initialise(model, batch, seed=0, mesh=mesh).params
    changed = params | {ADAPTER: jax.tree.map(lambda leaf: leaf + 1, params[ADAPTER])}
    for name, left_out in (("reconstruction", True), ("adapters", False), ("joint", False)):
        a, b = (programs(name, model=model).evaluate({"params": p}, place(batch, mesh)) for p in (params, changed))
        assert np.array_equal(a.terms["mse"], b.terms["mse"]) == left_out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("autoencode", {"fusion": True, "phase_0": False, ADAPTER: False}),
        ("fusion", {"fusion": True, "phase_0": False, ADAPTER: False}),
        ("reconstruction", {"fusion": False, "phase_0": True, ADAPTER: False}),
        ("adapters", {"fusion": False, "phase_0": False, ADAPTER: True}),
        ("joint", {"fusion": True, "phase_0": True, ADAPTER: True}),
    ],
)
def test_a_stage_changes_its_own_parameters_only(name, expected, programs, tiny, batch, mesh) -> None:
    model = tiny(adapted=True)
    stage = programs(name, model=model)
    state = stage.begin(initialise(model, batch, seed=0, mesh=mesh))
    before = copied(state.params)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim)
    for _ in range(2):
        state, _ = stage.step(state, place(batch, mesh))
    assert differs(before, state.params) == expected
    assert differs(before, state.average) == expected
    trained = jax.tree.leaves([before[part] for part in before if expected[part]])
    assert moments == 2 * sum(leaf.size for leaf in trained)  # none for what is frozen


def test_initialisation_is_a_function_of_the_seed(tiny, batch, mesh) -> None:
    a, b, c = (copied(initialise(tiny(), batch, seed=seed, mesh=mesh)) for seed in (0, 0, 1))
    assert not any(differs(a.params, b.params).values())
    assert all(differs(a.params, c.params).values())
    assert a.step == 0 and not any(differs(a.params, a.average).values())


def test_the_average_follows_its_recurrence(programs, tiny, batch, mesh) -> None:
    stage = programs("reconstruction", start=5, ema_decay=0.25)  # counted from the start of the stage
    state = initialise(tiny(), batch, seed=0, mesh=mesh)
    state = stage.begin(state._replace(step=state.step + 5))
    expected = copied(state.average)["phase_0"]["kernel"]
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.25):
        state, _ = stage.step(state, place(batch, mesh))
        expected = decay * expected + (1 - decay) * np.array(state.params["phase_0"]["kernel"])
        np.testing.assert_allclose(state.average["phase_0"]["kernel"], expected, rtol=1e-5, atol=1e-7)


def test_no_average_is_the_last_parameters(programs, tiny, batch, mesh) -> None:
    stage = programs("reconstruction", ema_decay=0.0)
    state, _ = stage.step(stage.begin(initialise(tiny(), batch, seed=0, mesh=mesh)), place(batch, mesh))
    assert not any(differs(copied(state.params), copied(state.average)).values())


def test_average_decay_rises_to_its_limit() -> None:
    updates = jnp.array([1, 11, 10**6])
    np.testing.assert_allclose(average_decay(updates, limit=0.9), [0.1, 0.55, 0.9], rtol=1e-6)


def test_the_average_waits_for_an_accumulated_update(programs, tiny, batch, mesh) -> None:
    stage = programs("reconstruction", accumulate=2)
    state = stage.begin(initialise(tiny(), batch, seed=0, mesh=mesh))
    start = copied(state)
    state, _ = stage.step(state, place(batch, mesh))
    assert not any(differs(start.params, state.params).values())
    assert not any(differs(start.average, state.average).values())
    state, _ = stage.step(state, place(batch, mesh))
    kernel = 0.1 * start.params["phase_0"]["kernel"] + 0.9 * state.params["phase_0"]["kernel"]
    np.testing.assert_allclose(state.average["phase_0"]["kernel"], kernel, rtol=1e-5, atol=1e-7)


def test_a_stage_begins_from_the_average_with_a_new_optimiser(programs, tiny, batch, mesh) -> None:
    first = programs("reconstruction")
    state, _ = first.step(first.begin(initialise(tiny(), batch, seed=0, mesh=mesh)), place(batch, mesh))
    average = copied(state.average)
    assert differs(average, state.params)["phase_0"]
    state = programs("joint", start=1).begin(state)
    assert not any(differs(average, state.params).values()) and not any(differs(average, state.average).values())
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.optimiser))
    assert state.step == 1


def test_randomness_is_a_function_of_seed_and_step(programs, tiny, batch, mesh) -> None:
    def loss(seed: int, step: int) -> float:
        stage = programs("reconstruction", seed=seed)
        state = stage.begin(initialise(tiny(), batch, seed=0, mesh=mesh))
        state = state._replace(step=jax.device_put(jnp.int32(step), replicated(mesh)))
        return float(stage.step(state, place(batch, mesh))[1]["loss"])

    assert loss(0, 3) == loss(0, 3)
    assert len({loss(0, 3), loss(0, 4), loss(1, 3)}) == 3


def test_evaluation_has_no_randomness_and_changes_nothing(programs, tiny, batch, mesh) -> None:
    stage = programs("reconstruction")
    state = stage.begin(initialise(tiny(), batch, seed=0, mesh=mesh))
    variables = {"params": state.average}
    a, b = (stage.evaluate(variables, place(batch, mesh)) for _ in range(2))
    np.testing.assert_array_equal(a.scores["psnr"], b.scores["psnr"])
    assert a.scores["psnr"].shape == (4,) and "path_cost" not in a.terms and a.state == {}


def test_running_statistics_are_kept_and_used(programs, tiny, batch, mesh) -> None:
    model = tiny(batch_norm=True)
    stage = programs("reconstruction", model=model)
    state = stage.begin(initialise(model, batch, seed=0, mesh=mesh))
    start = copied(state.model_state)
    assert set(start) == {"batch_stats"}
    state, _ = stage.step(state, place(batch, mesh))
    assert differs(start, state.model_state)["batch_stats"]
    old, new = (
        stage.evaluate({"params": state.average, **statistics}, place(batch, mesh)).terms["mse"]
        for statistics in (jax.device_put(start), state.model_state)
    )
    assert not np.allclose(old, new)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    message = "batch_size 6 cannot be split over 4 devices: give a multiple of 4"
    with pytest.raises(ValueError, match=message):
        data_mesh(batch_size=6, devices=jax.devices()[:4])


def test_a_batch_is_split_over_the_devices(batch) -> None:
    mesh = data_mesh(batch_size=4, devices=jax.devices()[:4])
    placed = place(batch, mesh)
    for leaf in jax.tree.leaves(placed):
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1, 1, 1, 1]
    np.testing.assert_array_equal(placed.target, batch.target)
