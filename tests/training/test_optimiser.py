"""Schedules and the optimiser chain."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage
from atlf_jax.training.optimiser import make_optimiser, make_schedule


def stage(**settings) -> Stage:
    return Stage("one", Supervised(), **settings)


def rates(updates: int, **settings) -> np.ndarray:
    schedule = make_schedule(stage(steps=updates, learning_rate=2.0, **settings), updates=updates)
    return np.array([schedule(jnp.int32(count)) for count in range(updates + 1)])


def test_cosine_decays_to_the_final_fraction() -> None:
    got = rates(10, schedule="cosine", final_fraction=0.1)
    expected = 2.0 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(11) / 10)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_warm_up_rises_from_a_fraction_to_the_peak() -> None:
    got = rates(8, schedule="constant", warmup_steps=4)
    np.testing.assert_allclose(got, [0.5, 0.875, 1.25, 1.625, 2, 2, 2, 2, 2], rtol=1e-6)
    assert rates(8, schedule="cosine", warmup_steps=4)[-1] == pytest.approx(0.02)


def test_step_halves_at_each_sixth_down_to_the_floor() -> None:
    got = rates(12, schedule="step", final_fraction=0.1)
    np.testing.assert_allclose(got, np.repeat([2, 1, 0.5, 0.25, 0.2, 0.2, 0.2], 2)[:13], rtol=1e-6)


def update(config: Stage, gradients: list[float], *, parameter: float = 1.0, accumulate: int = 1) -> list[float]:
    """Return the parameter after each gradient."""
    optimiser = make_optimiser(config, accumulate=accumulate)
    values, params = [], {"a": jnp.float32(parameter)}
    state = optimiser.init(params)
    for gradient in gradients:
        updates, state = optimiser.update({"a": jnp.float32(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        values.append(float(params["a"]))
    return values


def test_adam_moves_by_the_learning_rate() -> None:
    config = stage(steps=10, learning_rate=0.01, schedule="constant")
    np.testing.assert_allclose(update(config, [0.5, 0.5]), [0.99, 0.98], rtol=1e-5)


def test_the_gradient_is_clipped() -> None:
    config = stage(steps=10, learning_rate=0.01, schedule="constant", clip_norm=0.5)
    assert update(config, [0.5, 100.0]) == pytest.approx(update(config, [0.5, 0.5]))
    loose = stage(steps=10, learning_rate=0.01, schedule="constant", clip_norm=100.0)
    assert update(loose, [0.5, 100.0]) != pytest.approx(update(loose, [0.5, 0.5]))


def test_adamw_decays_the_parameters_too() -> None:
    plain = stage(steps=10, learning_rate=0.01, schedule="constant", optimiser="adamw")
    decayed = stage(steps=10, learning_rate=0.01, schedule="constant", optimiser="adamw", weight_decay=0.5)
    assert update(plain, [0.5])[0] - update(decayed, [0.5])[0] == pytest.approx(0.01 * 0.5, rel=1e-4)


def test_accumulation_makes_one_update_of_the_mean() -> None:
    config = stage(steps=4, learning_rate=0.01, schedule="constant", clip_norm=100.0)
    single = update(config, [2.0, 1.0])
    assert update(config, [1.0, 3.0, 0.5, 1.5], accumulate=2) == pytest.approx([1, single[0], single[0], single[1]])


def test_accumulation_shortens_the_schedule() -> None:
    config = stage(steps=20, learning_rate=0.01, final_fraction=0.0)
    halves = stage(steps=10, learning_rate=0.01, final_fraction=0.0)
    assert update(config, [1.0] * 20, accumulate=2)[-1] == pytest.approx(update(halves, [1.0] * 10)[-1], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps and warmup_steps must be >= 0, got -1 and 0"),
        ({"steps": 5, "warmup_steps": 5}, "warmup_steps must be below steps = 5, got 5; .* give a smaller --train"),
        ({"learning_rate": 0.0}, "learning_rate and clip_norm must be above 0, got 0.0 and 1.0"),
        ({"clip_norm": -1.0}, "learning_rate and clip_norm must be above 0"),
        ({"final_fraction": 2.0}, r"final_fraction must be in \[0, 1\], got 2.0"),
        ({"weight_decay": 0.1}, "weight_decay 0.1 must be >= 0 and needs optimiser 'adamw'"),
    ],
)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**settings)
