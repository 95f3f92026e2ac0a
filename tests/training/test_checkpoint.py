"""Saving, loading and restoring."""

import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.training.checkpoint import Checkpoints, Snapshot, load, newest, put_state, read, read_meta
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
        checkpoints.save_best(Snapshot(make_state(1.0), 5, "joint"), psnr=20.0)
        checkpoints.save_latest(Snapshot(make_state(2.0), 7, "joint"))
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
        checkpoints.save_best(Snapshot(make_state(1.0), 5, "joint"), psnr=20.0)
    assert load("run")[0] == CONFIG


def test_the_last_two_latest_and_the_last_best_are_kept(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert checkpoints.last_good == "there is none"
        for step in (1, 2, 3):
            checkpoints.save_best(Snapshot(make_state(step), step, "joint"), psnr=float(step))
            checkpoints.save_latest(Snapshot(make_state(step), step + 10, "joint"))
        assert checkpoints.last_good == str(tmp_path / "checkpoints" / "latest" / "13")
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").glob("*/*")) == ["12", "13", "3"]


def test_a_best_from_an_abandoned_future_gives_way(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_best(Snapshot(make_state(1.0), 9, "joint"), psnr=20.0)
    for step in (9, 5):
        with Checkpoints(tmp_path, CONFIG) as checkpoints:
            checkpoints.save_best(Snapshot(make_state(2.0), step, "joint"), psnr=21.0)
        assert read_meta(tmp_path, "best")["step"] == step
        np.testing.assert_array_equal(load(tmp_path)[1]["batch_stats"]["mean"], [2, 2])


@pytest.mark.parametrize("devices", [1, 4])
def test_the_state_is_restored_exactly_on_any_devices(tmp_path, devices) -> None:
    state = make_state(np.pi, devices=4)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Snapshot(state, 7, "joint"))
    like = make_state(0.0, devices=devices)
    got = put_state(newest(tmp_path)[0], like=like)
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for a, b, c in zip(jax.tree.leaves(got), jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == c.sharding and a.dtype == b.dtype


def test_a_checkpoint_of_another_shape_or_dtype_is_refused(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Snapshot(make_state(1.0), 7, "joint"))
    with pytest.raises(ValueError, match=r"2 arrays differ, first average/phase_0/kernel: saved \(\(2, 3\), 'floa"):
        put_state(newest(tmp_path)[0], like=make_state(1.0, width=5))
    with pytest.raises(ValueError, match="wanted .*'bfloat16'"):
        put_state(newest(tmp_path)[0], like=make_state(1.0, dtype=jnp.bfloat16))


def test_a_missing_checkpoint_is_told(tmp_path) -> None:
    assert read_meta(tmp_path) is None
    with pytest.raises(ValueError, match=f"no 'best' checkpoint under {tmp_path}/checkpoints; train first"):
        load(tmp_path)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Snapshot(make_state(1.0), 7, "fusion"))
    with pytest.raises(ValueError, match="a 'latest' one exists"):
        load(tmp_path, "best")


def test_a_save_cut_short_is_ignored_and_cleared_by_the_next_run(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Snapshot(make_state(1.0), 7, "joint"))
    partial = tmp_path / "checkpoints" / "latest" / "9.orbax-checkpoint-tmp"
    partial.mkdir()
    assert read_meta(tmp_path)["step"] == 7 and load(tmp_path, "latest") and partial.exists()
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save_latest(Snapshot(make_state(1.0), 8, "joint"))
    assert not partial.exists() and read_meta(tmp_path)["step"] == 8


def saved_run(workdir, *, best: int = 2) -> None:
    with Checkpoints(workdir, CONFIG) as checkpoints:
        checkpoints.save_best(Snapshot(make_state(best), best, "joint"), psnr=20.0)
        for step in (5, 9):
            checkpoints.save_latest(Snapshot(make_state(step), step, "joint"))


def flip(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def damages(checkpoint) -> dict:
    """What may happen to the files of a checkpoint, by name."""
    arrays = sorted((checkpoint / "state" / "ocdbt.process_0" / "d").iterdir())[-1]
    return {
        "state/_METADATA deleted": (checkpoint / "state" / "_METADATA").unlink,
        "state/_METADATA flipped": lambda: flip(checkpoint / "state" / "_METADATA"),
        "meta/metadata deleted": (checkpoint / "meta" / "metadata").unlink,
        "meta/metadata flipped": lambda: flip(checkpoint / "meta" / "metadata"),
        "meta/metadata null": lambda: (checkpoint / "meta" / "metadata").write_text("null"),
        "state deleted": lambda: shutil.rmtree(checkpoint / "state"),
        "state a file": lambda: (shutil.rmtree(checkpoint / "state"), (checkpoint / "state").write_text("")),
        "arrays flipped": lambda: flip(arrays),
        "arrays cut": lambda: arrays.write_bytes(arrays.read_bytes()[:-1]),
        "checksums null": lambda: (checkpoint / "checksums.json").write_text("null"),
        "emptied": lambda: [shutil.rmtree(checkpoint), checkpoint.mkdir()],
    }


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    saved_run(workdir)
    return workdir


@pytest.mark.parametrize("older", [False, True])  # older versions wrote no checksums
@pytest.mark.parametrize("number", range(11))
def test_a_damaged_checkpoint_gives_way_to_the_one_before_then_the_best(whole_run, tmp_path, number, older) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(whole_run, workdir)
    latest = workdir / "checkpoints" / "latest"
    for step, expected in ((9, 5), (5, 2)):
        name, spoil = list(damages(latest / str(step)).items())[number]
        if older:
            (latest / str(step) / "checksums.json").unlink()
            if name.split()[0] in ("arrays", "checksums", "meta/metadata") and name != "meta/metadata null":
                pytest.skip("found by checksums alone")
        spoil()
        saved, damaged = newest(workdir)
        assert saved.meta["step"] == expected
        np.testing.assert_array_equal(saved.arrays["optimiser/1/a"], np.full(4, expected))
        message = damaged[latest / str(step)]
        assert message.startswith(f"{latest / str(step)} is damaged (") and "\n" not in message and len(message) < 250
    shutil.rmtree(workdir / "checkpoints" / "best")
    with pytest.raises(ValueError, match=f"^no checkpoint of {workdir}/checkpoints can be gone on from: .*latest/9 is"):
        newest(workdir)


def test_an_empty_folder_of_a_later_step_is_set_aside_by_the_next_run(whole_run, tmp_path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(whole_run, workdir)
    empty = workdir / "checkpoints" / "latest" / "99"
    empty.mkdir()
    saved, damaged = newest(workdir)
    assert saved.meta["step"] == 9 and list(damaged) == [empty]
    for _ in range(2):
        empty.mkdir(exist_ok=True)
        with Checkpoints(workdir, CONFIG, replaced=[empty]) as checkpoints:
            assert checkpoints.last_good.endswith("latest/9")
    assert {each.name for each in (workdir / "checkpoints" / "set_aside").iterdir()} == {"latest-99", "latest-99-2"}


def test_a_network_of_a_damaged_checkpoint_is_read_from_the_one_before_with_a_warning(whole_run, tmp_path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(whole_run, workdir)
    checkpoints = workdir / "checkpoints"
    flip(checkpoints / "latest" / "9" / "variables" / "_METADATA")
    with pytest.warns(UserWarning, match="latest/9 is damaged .*; .*latest/5 is read in its place"):
        meta, variables = read(workdir, "latest")
    assert meta["step"] == 5 and (variables["batch_stats"]["mean"] == 5).all()
    shutil.rmtree(checkpoints / "best" / "2" / "variables")
    with pytest.raises(ValueError, match=r"best/2 is damaged \(variables/ is missing\); ask for the 'latest' one, or"):
        load(workdir, "best")
    saved, damaged = newest(workdir)
    assert saved.meta["step"] == 9 and list(damaged) == [checkpoints / "best" / "2"]  # its state is whole


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_parameter_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path, monkeypatch, value) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        with pytest.raises(FloatingPointError, match="batch_stats/mean is not finite after step 3 of stage joint"):
            checkpoints.save_latest(Snapshot(make_state(value), 3, "joint"))
        assert checkpoints.last_good == "there is none"
        with monkeypatch.context() as patch:
            patch.setattr("atlf_jax.training.checkpoint._not_finite", lambda tree: "")
            checkpoints.save_latest(Snapshot(make_state(value), 3, "joint"))
            checkpoints.save_best(Snapshot(make_state(value), 3, "joint"), psnr=1.0)
    for which in ("latest", "best"):
        with pytest.raises(ValueError, match="holds parameters that are not finite, first batch_stats/mean"):
            load(tmp_path, which)
    with pytest.raises(ValueError, match="latest/3 holds parameters that are not finite, first average/"):
        newest(tmp_path)


def test_a_best_of_an_older_version_is_kept_but_not_gone_on_from(whole_run, tmp_path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(whole_run, workdir)
    best = workdir / "checkpoints" / "best" / "2"
    shutil.rmtree(best / "state")
    (best / "checksums.json").unlink()
    saved, damaged = newest(workdir)
    assert saved.meta["step"] == 9 and damaged == {} and load(workdir)
    shutil.rmtree(workdir / "checkpoints" / "latest")
    with pytest.raises(ValueError, match="best/2 is of no use .an older version kept no state to go on from"):
        newest(workdir)


def test_a_disk_that_is_full_is_one_line_and_costs_nothing(tmp_path) -> None:
    saved_run(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Checkpoints(tmp_path, CONFIG) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))  # no file grows beyond 50 bytes
            with pytest.raises(
                OSError, match=r"^step 12 cannot be saved in .*latest \(.*make room .*latest/9$"
            ) as error:
                checkpoints.save_latest(Snapshot(make_state(12), 12, "joint"))
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert newest(tmp_path)[0].meta["step"] == 9


def test_what_was_reached_is_saved_once_and_not_before_the_first_step(tmp_path) -> None:
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert checkpoints.rescue().startswith("interrupted before anything was done; ")
        checkpoints.offer(Snapshot(make_state(1.0), 0, "joint"))
        assert checkpoints.rescue().startswith("interrupted before anything was done; ")
        checkpoints.offer(Snapshot(make_state(1.0), 4, "joint", validation_due=True))
        for _ in range(2):
            assert checkpoints.rescue() == "interrupted at step 4, which is saved; run the same command to go on"
        checkpoints.offer(Snapshot(make_state(1.0), 3, "joint"))
        assert "at step 4" in checkpoints.rescue()
    assert read_meta(tmp_path) == {"config": CONFIG, "step": 4, "stage": "joint", "validation_due": True}
