"""Saving, loading and restoring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.training.checkpoint import Checkpoints, Reached, load, newest, put_state, read_meta
from atlf_jax.training.sharding import data_mesh, replicated
from atlf_jax.training.step import TrainState

CONFIG = {"model": {"width": 4}, "train": {"rates": [1e-3, 0.1], "name": None}}


def make_state(value: float, *, devices: int = 1, width: int = 3, dtype=jnp.float32) -> TrainState:
    mesh = data_mesh(batch_size=4, devices=jax.devices()[:devices])
    params = {"phase_0": {"kernel": jnp.full((2, width), value, dtype)}}
    average = {"phase_0": {"kernel": jnp.full((2, width), value / 3, dtype)}}
    statistics = {"batch_stats": {"mean": jnp.full((2,), value)}}
    state = TrainState(jnp.int32(7), params, average, statistics, (jnp.zeros(()), {"a": jnp.ones(4) * value}))
    return jax.device_put(state, replicated(mesh))


def test_the_best_is_loaded_from_the_folder_alone(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_best(Reached(make_state(1.0), 5, "joint"), psnr=20.0)
        checkpoints.save_latest(Reached(make_state(2.0), 7, "joint"))
    for path in (tmp_path, str(tmp_path / "checkpoints")):
        config, variables = load(path)
        assert config == CONFIG
        assert set(variables) == {"params", "batch_stats"}
        np.testing.assert_array_equal(variables["params"]["phase_0"]["kernel"], np.full((2, 3), np.float32(1.0) / 3))
        assert isinstance(variables["params"]["phase_0"]["kernel"], jax.Array)
    np.testing.assert_array_equal(load(tmp_path, "latest")[1]["batch_stats"]["mean"], [2, 2])
    assert read_meta(tmp_path, "best") == {"config": CONFIG, "step": 5, "stage": "joint", "psnr": 20.0}
    assert read_meta(tmp_path, "latest") == {"config": CONFIG, "step": 7, "stage": "joint"}


def test_a_relative_path_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Checkpoints("run", CONFIG) as checkpoints:
        checkpoints.save_best(Reached(make_state(1.0), 5, "joint"), psnr=20.0)
    assert load("run")[0] == CONFIG


def test_the_last_two_latest_and_the_last_best_are_kept(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert checkpoints.last_good == "there is none"
        for step in (1, 2, 3):
            checkpoints.save_best(Reached(make_state(step), step, "joint"), psnr=float(step))
            checkpoints.save_latest(Reached(make_state(step), step + 10, "joint"))
        assert checkpoints.last_good == str(tmp_path / "checkpoints" / "latest" / "13")
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").glob("*/*")) == ["12", "13", "3"]


def test_a_best_from_an_abandoned_future_gives_way(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_best(Reached(make_state(1.0), 9, "joint"), psnr=20.0)
    for step in (9, 5):
        with Checkpoints(tmp_path, CONFIG) as checkpoints:
            checkpoints.save_best(Reached(make_state(2.0), step, "joint"), psnr=21.0)
        assert read_meta(tmp_path, "best")["step"] == step
        np.testing.assert_array_equal(load(tmp_path)[1]["batch_stats"]["mean"], [2, 2])


@pytest.mark.parametrize("devices", [1, 4])
def test_the_state_is_restored_exactly_on_any_devices(tmp_path, devices) -> None:
    state = make_state(np.pi, devices=4)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Reached(state, 7, "joint"))
    like = make_state(0.0, devices=devices)
    got = put_state(newest(tmp_path)[0], like=like)
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for a, b, c in zip(jax.tree.leaves(got), jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == c.sharding and a.dtype == b.dtype


def test_a_checkpoint_of_another_shape_or_dtype_is_refused(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Reached(make_state(1.0), 7, "joint"))
    with pytest.raises(ValueError, match=r"2 arrays differ, first average/phase_0/kernel: saved \(\(2, 3\), 'floa"):
        put_state(newest(tmp_path)[0], like=make_state(1.0, width=5))
    with pytest.raises(ValueError, match="wanted .*'bfloat16'"):
        put_state(newest(tmp_path)[0], like=make_state(1.0, dtype=jnp.bfloat16))


def test_a_missing_checkpoint_is_told(tmp_path) -> None:
    assert read_meta(tmp_path) is None
    with pytest.raises(ValueError, match=f"no 'best' checkpoint under {tmp_path}/checkpoints; train first"):
        load(tmp_path)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Reached(make_state(1.0), 7, "fusion"))
    with pytest.raises(ValueError, match="a 'latest' one exists"):
        load(tmp_path, "best")


def test_a_save_cut_short_is_ignored_and_cleared_by_the_next_run(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Reached(make_state(1.0), 7, "joint"))
    partial = tmp_path / "checkpoints" / "latest" / "9.orbax-checkpoint-tmp"
    partial.mkdir()
    assert read_meta(tmp_path)["step"] == 7 and load(tmp_path, "latest") and partial.exists()
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Reached(make_state(1.0), 8, "joint"))
    assert not partial.exists() and read_meta(tmp_path)["step"] == 8
