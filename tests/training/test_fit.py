"""The fit loop: stages, resuming, stopping."""

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.data import evaluation_batches
from atlf_jax.program import Interrupted
from atlf_jax.training import LossConfig, StageConfig, load, stage_at, stages
from atlf_jax.training.checkpoint import Checkpoints
from atlf_jax.training.logging import RunLog
from atlf_jax.training.objective import OBJECTIVES
from tests.training.conftest import MASK


def assert_identical(a, b) -> None:
    a, b = (jax.tree_util.tree_leaves_with_path(tree) for tree in (a, b))
    assert [path for path, _ in a] == [path for path, _ in b]
    for (path, x), (_, y) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def lines(workdir: Path, kind: str = "train") -> list[dict]:
    every = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


@pytest.fixture
def interrupt_after(monkeypatch) -> Callable[[int, int], None]:
    """Have a signal arrive while ``step`` is being logged, as from a keyboard: one more step is then under way."""
    train = RunLog.train

    def arrange(step: int, number: int = signal.SIGINT) -> None:
        def interrupting(self: RunLog, done: int, *args) -> None:
            train(self, done, *args)
            if done == step:
                signal.raise_signal(number)

        monkeypatch.setattr(RunLog, "train", interrupting)

    return arrange


def test_stages_follow_each_other_and_skip_empty_ones(train_config) -> None:
    config = train_config(autoencode=2, reconstruction=3, joint=1)
    assert [(s.name, s.start, s.end) for s in stages(config)] == [
        ("autoencode", 0, 2),
        ("reconstruction", 2, 5),
        ("joint", 5, 6),
    ]
    assert [stage_at(config, step).name[:2] for step in range(7)] == ["au", "au", "re", "re", "re", "jo", "jo"]


def test_all_stages_run_in_one_go(train_config, run) -> None:
    workdir = run(train_config(autoencode=2, fusion=2, reconstruction=3, joint=2, eval_every=3, picture_every=3))
    log = lines(workdir)
    assert [line["step"] for line in log] == list(range(1, 10))
    assert [line["stage"][0] for line in log] == list("aaffrrrjj")
    assert all("psnr" in line for line in log[4:]) and not any("psnr" in line for line in log[:4])
    assert [line["step"] for line in lines(workdir, "valid")] == [3, 6, 9]
    for line in log:
        terms = [value for name, value in line.items() if name.startswith("loss/")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert "loss/fusion" in log[-1] and "loss/fusion" not in log[-3]
    assert {"images_per_second", "elapsed_seconds", "cpu_seconds", "learning_rate", "grad_norm"} <= log[0].keys()


def test_training_gains_on_the_validation_records(train_config, run) -> None:
    psnr = [line["psnr"] for line in lines(run(train_config(reconstruction=40, eval_every=10)), "valid")]
    assert psnr[-1] > psnr[0] + 1  # measured: 2.9 dB


def test_validation_counts_each_record_once(train_config, run, discs, tiny) -> None:
    workdir = run(train_config(reconstruction=2, batch_size=4), valid_source=discs(5, group="v"))
    _, variables = load(workdir)
    scores = [
        OBJECTIVES["reconstruction"](tiny(), variables, jax.tree.map(jnp.asarray, batch), config=LossConfig(), key=None)
        for batch, _ in evaluation_batches(discs(5), mask=MASK, batch_size=1)
    ]
    (line,) = lines(workdir, "valid")
    assert line["psnr"] == pytest.approx(np.mean([score.scores["psnr"] for score in scores]), rel=1e-5)
    assert line["loss/mse"] == pytest.approx(np.mean([score.terms["mse"] for score in scores]), rel=1e-5)


@pytest.mark.parametrize("stop", [2, 3, 7])  # inside a stage, at the boundary of two, between two batches of one update
def test_a_resumed_run_is_bit_identical(train_config, run, tmp_path, interrupt_after, stop) -> None:
    config = train_config(fusion=4, reconstruction=6, accumulate=2, eval_every=5, save_every=3)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(config, workdir=whole)
    interrupt_after(stop)
    with pytest.raises(Interrupted):
        run(config, workdir=halves)
    assert [line["step"] for line in lines(halves)] == list(range(1, stop + 2))
    run(config, workdir=halves)
    assert_identical(load(whole, "latest"), load(halves, "latest"))
    assert_identical(load(whole, "best"), load(halves, "best"))
    timing = {"elapsed_seconds", "cpu_seconds", "images_per_second"}
    for kind in ("train", "valid"):
        for a, b in zip(lines(whole, kind), lines(halves, kind), strict=True):
            assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}
    elapsed = [line["elapsed_seconds"] for line in lines(halves)]
    assert elapsed == sorted(elapsed)  # time goes on where the first part ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(train_config, run, interrupt_after, tmp_path, number) -> None:
    interrupt_after(2, number)
    before = signal.getsignal(number)
    workdir = tmp_path / "run"
    with pytest.raises(Interrupted, match="^interrupted at step 3, which is saved; run the same command to go on$"):
        run(train_config(reconstruction=50), workdir=workdir)
    assert (workdir / "checkpoints" / "latest" / "3").is_dir()
    assert signal.getsignal(number) is before


def test_a_finished_run_can_be_made_longer(train_config, run, capsys) -> None:
    workdir = run(train_config(reconstruction=3))
    run(train_config(reconstruction=3))
    assert [line["step"] for line in lines(workdir)] == [1, 2, 3]
    run(train_config(reconstruction=3, joint=2))
    assert [line["stage"] for line in lines(workdir)] == ["reconstruction"] * 3 + ["joint"] * 2
    assert "resumed at step 3 of 5" in capsys.readouterr().out


def test_best_and_latest_are_both_kept(train_config, run) -> None:
    worse = StageConfig(steps=6, learning_rate=10.0, schedule="constant")  # so that the first validation is the best
    workdir = run(train_config(reconstruction=worse, eval_every=2, save_every=2, ema_decay=0.0))
    psnr = [line["psnr"] for line in lines(workdir, "valid")]
    best = 2 * (1 + int(np.argmax(psnr)))
    assert best < 6
    assert [folder.name for folder in (workdir / "checkpoints" / "best").iterdir()] == [str(best)]
    assert sorted(folder.name for folder in (workdir / "checkpoints" / "latest").iterdir()) == ["4", "6"]


def test_a_new_best_is_never_ahead_of_the_latest(train_config, run, monkeypatch) -> None:
    order = []
    for name in ("save_latest", "save_best"):
        save = getattr(Checkpoints, name)

        def spying(self, reached, name=name, save=save, **settings):
            order.append((name, reached.step))
            save(self, reached, **settings)

        monkeypatch.setattr(Checkpoints, name, spying)
    run(train_config(reconstruction=6, eval_every=3, save_every=5))
    assert order == [("save_best", 3), ("save_latest", 3), ("save_latest", 5), ("save_best", 6), ("save_latest", 6)]


def test_a_non_finite_loss_stops_with_step_records_and_checkpoint(train_config, run, discs, tiny) -> None:
    workdir = run(train_config(reconstruction=1))
    with pytest.raises(FloatingPointError) as error:
        config = train_config(reconstruction=8, save_every=1)
        run(config, train_source=discs(broken=7), model=tiny(fails_on_dark_ct=True))
    message = str(error.value)
    assert message.startswith("loss, loss/mse, psnr not finite") and "of stage reconstruction" in message
    records = message.split("records [")[1].split("]")[0].split(", ")
    assert "7" in records and len(records) == 4
    step = int(message.split("at step ")[1].split()[0])
    assert f"{workdir}/checkpoints/latest/{step - 1}." in message
    variables = load(workdir, "latest")[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_a_run_begins_with_another_ones_arrays(train_config, run, tiny, tmp_path, capsys) -> None:
    """What has the same name and shape is taken, the rest begins as it does without; a resumed run does not ask."""
    variables = load(run(train_config(reconstruction=3), model=tiny(use_fusion=False)))[1]
    barely = train_config(reconstruction=StageConfig(steps=1, learning_rate=1e-9))
    capsys.readouterr()
    start = partial(jax.tree.map, lambda leaf: jnp.asarray(np.array(leaf)), variables)  # puts arrays on the device
    begun = load(run(barely, workdir=tmp_path / "begun", start=start))[1]["params"]
    assert "began with 2 of 6 arrays of a trained network; new: params/fusion/decode/bias, " in capsys.readouterr().out
    fresh = load(run(barely, workdir=tmp_path / "fresh"))[1]["params"]
    assert_close = partial(np.testing.assert_allclose, atol=1e-6)  # a thousand times the learning rate
    jax.tree.map(assert_close, begun["phase_0"], variables["params"]["phase_0"])
    jax.tree.map(assert_close, begun["fusion"], fresh["fusion"])
    assert np.abs(begun["phase_0"]["kernel"] - fresh["phase_0"]["kernel"]).max() > 1e-3

    def gone() -> dict:
        raise FileNotFoundError

    longer = train_config(reconstruction=StageConfig(steps=2, learning_rate=1e-9))
    run(longer, workdir=tmp_path / "begun", start=gone)
    with pytest.raises(FileNotFoundError):
        run(longer, workdir=tmp_path / "new", start=gone)


def test_a_run_that_would_begin_with_nothing_is_refused(train_config, run) -> None:
    other = {"params": {"phase_0": {"kernel": np.zeros((3, 3, 8, 2), np.float32)}}}
    with pytest.raises(ValueError, match=r"train\.start_from names a network that has no array of this one's names"):
        run(train_config(reconstruction=1), start=lambda: other)


def test_nothing_to_train_is_refused(train_config, run) -> None:
    with pytest.raises(ValueError, match=r"every stage has 0 steps; set for example train\.reconstruction\.steps"):
        run(train_config())


def test_a_fusion_stage_without_a_fusion_process_is_refused(train_config, run, tiny) -> None:
    for stage in ("autoencode", "fusion"):
        with pytest.raises(ValueError, match=f"stage {stage} needs a model with a fusion process, and Tiny"):
            run(train_config(**{stage: 1}), model=tiny(use_fusion=False))


def test_a_model_without_fusion_and_mu_is_trained(train_config, run, tiny) -> None:
    workdir = run(train_config(reconstruction=2), model=tiny(use_fusion=False, mu_values=()))
    assert "loss/path_cost" not in lines(workdir)[0]
    assert set(load(workdir)[1]["params"]) == {"phase_0"}


def test_a_folder_with_another_model_is_refused(train_config, run) -> None:
    workdir = run(train_config(reconstruction=1), record={"model": {"phases": 4, "fusion": {"width": 4, "rank": 2}}})
    message = r"holds a run of other settings \(model\.fusion\.width 4 -> 8\); give another --workdir, or go on all the"
    with pytest.raises(ValueError, match=message):
        run(train_config(reconstruction=2), record={"model": {"phases": 4, "fusion": {"width": 8, "rank": 2}}})
    assert lines(workdir)[-1]["step"] == 1


def test_a_checkpoint_in_a_stage_now_skipped_is_refused(train_config, run) -> None:
    run(train_config(fusion=2))
    with pytest.raises(ValueError, match="the checkpoint is in stage fusion, which has 0 steps here"):
        run(train_config(reconstruction=4))


def test_an_empty_validation_source_is_refused(train_config, run, discs) -> None:
    with pytest.raises(ValueError, match="the validation source holds no records"):
        run(train_config(reconstruction=1), valid_source=discs(0))


def test_one_and_four_devices_agree(train_config, run, tmp_path) -> None:
    config = train_config(joint=4, batch_size=8)
    results = [run(config, workdir=tmp_path / str(n), devices=jax.devices()[:n]) for n in (1, 4)]
    one, four = (load(workdir, "latest")[1] for workdir in results)
    assert jax.tree.structure(one) == jax.tree.structure(four)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    for a, b in zip(lines(results[0]), lines(results[1]), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"fusion": 3, "accumulate": 2}, "fusion.steps must be a multiple of accumulate = 2, got 3"),
    ],
)
def test_wrong_settings_are_refused(train_config, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        train_config(**settings)
