"""The fit loop: stages, resuming, stopping."""

import dataclasses
import importlib
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.data import evaluation_batches
from atlf_jax.objectives import Outcome
from atlf_jax.program import Interrupted
from atlf_jax.training import load, sharding, span_at, spans
from atlf_jax.training.checkpoint import Checkpoints, Snapshot, read_meta
from atlf_jax.training.hosts import StopVote
from atlf_jax.training.lock import exclusive
from atlf_jax.training.logging import RunLog
from atlf_jax.training.sharding import data_mesh
from atlf_jax.training.step import Programs, TrainState
from tests.training.conftest import MASK, STAGES

fit_module = importlib.import_module("atlf_jax.training.fit")  # the package's name is that of its function


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
    assert [(s.name, s.start, s.end) for s in spans(config)] == [
        ("autoencode", 0, 2),
        ("reconstruction", 2, 5),
        ("joint", 5, 6),
    ]
    assert [span_at(config, step).name[:2] for step in range(7)] == ["au", "au", "re", "re", "re", "jo", "jo"]


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
    wanted = {"images_per_second", "data_wait", "elapsed_seconds", "cpu_seconds", "learning_rate", "grad_norm"}
    assert wanted <= log[1].keys()
    assert "images_per_second" not in log[0]  # compiled


def test_training_gains_on_the_validation_records(train_config, run) -> None:
    psnr = [line["psnr"] for line in lines(run(train_config(reconstruction=40, eval_every=10)), "valid")]
    assert psnr[-1] > psnr[0] + 1  # measured: 2.9 dB


def test_validation_counts_each_record_once(train_config, run, discs, tiny) -> None:
    workdir = run(train_config(reconstruction=2, batch_size=4), valid_source=discs(5, group="v"))
    _, variables = load(workdir)
    scores = [
        STAGES["reconstruction"][0](tiny(), variables, jax.tree.map(jnp.asarray, batch), key=None)
        for batch, _ in evaluation_batches(discs(5), mask=MASK, batch_size=1)
    ]
    (line,) = lines(workdir, "valid")
    assert line["psnr"] == pytest.approx(np.mean([score.scores["psnr"] for score in scores]), rel=1e-5)
    assert line["loss/mse"] == pytest.approx(np.mean([score.terms["mse"] for score in scores]), rel=1e-5)


SLOW_STOPS = [pytest.param(stop, marks=pytest.mark.slow) for stop in (3, 7)]  # between two stages, inside one update


@pytest.mark.parametrize("stop", [2, *SLOW_STOPS])
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
    timing = {"elapsed_seconds", "cpu_seconds", "images_per_second", "data_wait", "compilations"}
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
    worse = {"steps": 6, "learning_rate": 10.0, "schedule": "constant"}  # so that the first validation is the best
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

        def spying(self, snapshot, name=name, save=save, **settings):
            order.append((name, snapshot.step))
            save(self, snapshot, **settings)

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


@pytest.mark.slow
def test_a_run_begins_with_another_ones_arrays(train_config, run, tiny, tmp_path, capsys) -> None:
    """What has the same name and shape is taken, the rest begins as it does without; a resumed run does not ask."""
    variables = load(run(train_config(reconstruction=3), model=tiny(use_fusion=False)))[1]
    barely = train_config(reconstruction={"steps": 1, "learning_rate": 1e-9})
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

    longer = train_config(reconstruction={"steps": 2, "learning_rate": 1e-9})
    run(longer, workdir=tmp_path / "begun", start=gone)
    with pytest.raises(FileNotFoundError):
        run(longer, workdir=tmp_path / "new", start=gone)


def test_a_run_that_would_begin_with_nothing_is_refused(train_config, run) -> None:
    other = {"params": {"phase_0": {"kernel": np.zeros((3, 3, 8, 2), np.float32)}}}
    with pytest.raises(ValueError, match=r"train\.start_from names a network that has no array of this one's names"):
        run(train_config(reconstruction=1), start=lambda: other)


def test_nothing_to_train_is_refused(train_config, run) -> None:
    with pytest.raises(ValueError, match=r"every stage has 0 steps; set for example train\.joint\.steps"):
        run(train_config())


def test_a_fusion_stage_without_a_fusion_process_is_refused(train_config, run, tiny) -> None:
    for stage in ("autoencode", "fusion"):
        with pytest.raises(ValueError, match=rf"stage {stage} trains fusion/\*, and no parameter of Tiny"):
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
    with pytest.raises(ValueError, match="the checkpoint is in stage fusion, which has no steps here"):
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


def settings(model: int = 4, **mask: float) -> dict:
    return {"model": {"width": model}, "masks": [{"acceleration": 2.0} | mask]}


def test_a_run_goes_on_with_other_settings_only_when_asked(train_config, run, tmp_path, capsys) -> None:
    workdir, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    run(train_config(reconstruction=2, eval_every=2), workdir=workdir, record=settings())
    before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file() and file.name != "lock"}
    longer = train_config(reconstruction=4)
    with pytest.raises(
        ValueError, match=rf"^{workdir} holds a run of other settings \(masks.0.acceleration 2.0 -> 4.0\); "
    ):
        run(longer, workdir=workdir, record=settings(acceleration=4.0))
    assert before == {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file() and file.name != "lock"}
    capsys.readouterr()
    run(longer, workdir=workdir, record=settings(acceleration=4.0), resume_changed=True)
    output = capsys.readouterr().out
    assert "masks.0.acceleration: 2.0 -> 4.0" in output and "is of other settings: it is set aside" in output
    assert [folder.name for folder in (checkpoints / "set_aside").iterdir()] == ["best-2"]
    for which in ("latest", "best"):
        assert read_meta(workdir, which)["changes"] == [{"step": 2, "masks.0.acceleration": [2.0, 4.0]}]
        assert read_meta(workdir, which)["config"] == settings(acceleration=4.0)
        assert read_meta(workdir, which)["step"] == 4
    run(train_config(reconstruction=5), workdir=workdir, record=settings(acceleration=4.0))  # now it is this one
    assert read_meta(workdir)["changes"] == [{"step": 2, "masks.0.acceleration": [2.0, 4.0]}]


def test_other_data_is_another_experiment(train_config, run, tmp_path, discs) -> None:
    run(train_config(reconstruction=1))
    for changed in ({"train_source": discs(11)}, {"valid_source": discs(5, group="w")}):
        with pytest.raises(ValueError, match=r"other settings \(records to (train|valid) on \d+ records of"):
            run(train_config(reconstruction=2), **changed)


def test_subjects_in_both_sources_are_refused_or_named_in_every_line(
    train_config, run, discs, tmp_path, capsys
) -> None:
    message = r"^5 subjects \(s00, s01, s02, \.\.\.\) would be both trained on and validated on; choose other splits"
    with pytest.raises(ValueError, match=message):
        run(train_config(reconstruction=1), valid_source=discs(5))
    assert not (tmp_path / "run").exists()
    workdir = run(train_config(reconstruction=1, allow_shared_subjects=True), valid_source=discs(5))
    warning = "5 subjects both trained on and validated on"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and all(line.startswith(f"[{warning}]") for line in printed)
    assert all(line["warning"] == warning for kind in ("train", "valid") for line in lines(workdir, kind))
    assert read_meta(workdir, "best")["warning"] == warning


def test_an_undefined_score_is_left_out_of_the_mean_and_named(discs, tmp_path, capsys) -> None:
    """As the PSNR of a black slice is, which is infinite where it is reconstructed exactly."""

    def evaluate(*_: object) -> Outcome:
        return Outcome({"mse": jnp.array([0.25, 0.5])}, {"psnr": jnp.array([20.0, jnp.inf])}, {}, {})

    batches = evaluation_batches(discs(4), mask=MASK, batch_size=2)
    mesh = data_mesh(batch_size=2, devices=jax.devices()[:1])
    state = TrainState(jnp.int32(3), {}, {}, {}, ())
    with RunLog(tmp_path, start=0, total=9, batch_size=2, every=1) as log:
        means = fit_module._validate(
            lambda: batches,
            Programs(evaluate, evaluate, evaluate),
            state,
            snapshot=Snapshot(state, 3, "joint"),
            pictures=False,
            vote=StopVote(threading.Event(), mesh),
            mesh=mesh,
            log=log,
        )
    assert means == {"loss": 0.375, "loss/mse": 0.375, "psnr": 20.0}
    assert (
        "joint 3/9  validation  loss 0.375  psnr 20  (psnr is undefined for 2 of 4 records)" in capsys.readouterr().out
    )


def test_black_targets_are_left_out_and_named(train_config, run, discs, capsys) -> None:
    """A black slice that is reconstructed nearly so has a PSNR that outweighs all others and chooses the checkpoint."""

    class Black:
        subjects = ()

        def __init__(self, source) -> None:
            self._source = source

        def __len__(self) -> int:
            return len(self._source)

        def __getitem__(self, index: int):
            example = self._source[index]
            return example if index else example._replace(target=np.zeros_like(example.target))

    with_black = lines(run(train_config(reconstruction=1), valid_source=Black(discs(3, group="v"))), "valid")[0]
    said = capsys.readouterr().out
    assert "left out, as their MR is black: disc00" in said and "(1 records)" in said
    assert with_black["psnr"] < 40


def test_a_network_that_fails_on_a_validation_record_is_never_the_best(train_config, run, discs, tiny, capsys) -> None:
    failing = tiny(fails_on_dark_ct=True)
    workdir = run(train_config(reconstruction=1), model=failing, valid_source=discs(5, group="v", broken=3))
    assert "psnr nan  (psnr is undefined for 1 of 5 records)" in capsys.readouterr().out
    assert read_meta(workdir, "best") is None and read_meta(workdir, "latest")["step"] == 1
    assert math.isnan(lines(workdir, "valid")[0]["psnr"])


def test_a_folder_in_use_is_refused(train_config, run, tmp_path) -> None:
    with exclusive(tmp_path / "run"), pytest.raises(ValueError, match="is in use by another training"):
        run(train_config(reconstruction=1))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["lock"]


def test_a_run_goes_on_from_its_newest_whole_checkpoint(train_config, run, tmp_path, capsys) -> None:
    config = train_config(reconstruction=6, eval_every=2, save_every=2)
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    run(config, workdir=whole)
    shutil.copytree(whole, damaged)
    latest = damaged / "checkpoints" / "latest"
    (latest / "6" / "state" / "_METADATA").unlink()
    capsys.readouterr()
    run(config, workdir=damaged)
    output = capsys.readouterr().out
    assert f"{latest}/6 is damaged (state/_METADATA is missing); it is set aside" in output
    assert f"resumed at step 4 of 6 from {latest}/4" in output
    assert_identical(load(whole, "latest"), load(damaged, "latest"))
    assert_identical(load(whole, "best"), load(damaged, "best"))
    shutil.rmtree(latest)
    run(config, workdir=damaged)
    assert f"resumed at step 6 of 6 from {damaged}/checkpoints/best/6" in capsys.readouterr().out


def test_a_validation_that_a_signal_ends_is_made_good(train_config, run, tmp_path, monkeypatch) -> None:
    config = train_config(reconstruction=4, eval_every=2, batch_size=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(config, workdir=whole)
    evaluation = fit_module.evaluation_batches

    def interrupting(*arguments, **settings):
        for number, batch in enumerate(evaluation(*arguments, **settings)):
            if number == 1:  # never reached by the batch that shapes are taken from
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(fit_module, "evaluation_batches", interrupting)
    for step in (2, 4):
        with pytest.raises(Interrupted, match=f"^interrupted at step {step}, which is saved"):
            run(config, workdir=parts)
        assert read_meta(parts)["validation_due"] is True
        monkeypatch.undo()
        if step == 2:  # the validation of step 2 is made good, and that of step 4 is ended
            seen = []

            def later(*arguments, seen=seen, **settings):
                seen.append(1)
                yield from (interrupting if len(seen) == 3 else evaluation)(*arguments, **settings)

            monkeypatch.setattr(fit_module, "evaluation_batches", later)
    run(config, workdir=parts)
    assert_identical(load(whole, "latest"), load(parts, "latest"))
    assert_identical(load(whole, "best"), load(parts, "best"))
    assert [line["psnr"] for line in lines(whole, "valid")] == [line["psnr"] for line in lines(parts, "valid")]


def test_a_step_that_is_not_finite_is_left_out_up_to_a_limit(train_config, run, discs, tiny, capsys) -> None:
    config = train_config(reconstruction=6, skip_not_finite=3)
    broken = {"train_source": discs(broken=7), "model": tiny(fails_on_dark_ct=True)}
    workdir = run(config, **broken)
    said = capsys.readouterr().out
    assert "not finite at step" in said and "left out, 1 in a row of 3 allowed" in said
    left = said.count("left out")
    assert [line["step"] for line in lines(workdir)] != [] and len(lines(workdir)) == 6 - left
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load(workdir, "latest")[1]))


def test_nothing_is_compiled_after_the_first_step_and_validation(train_config, run) -> None:
    workdir = run(train_config(reconstruction=8, eval_every=2, save_every=2))
    compiled = {line["step"]: line["compilations"] for line in lines(workdir)}
    assert len({compiled[step] for step in range(4, 9)}) == 1, compiled


@pytest.mark.slow
def test_a_run_tells_what_it_was_started_with_and_traces_chosen_steps(train_config, run) -> None:
    workdir = run(train_config(reconstruction=3), profile=(2, 2))
    (start,) = json.loads((workdir / "run.json").read_text())["starts"]
    assert start["config"] == {"model": {"width": 4}} and start["versions"]["jax"] == jax.__version__
    assert (start["step"], start["processes"], start["mesh"]) == (0, 1, {"data": 1, "parameters": 1})
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert {"data_wait", "grad_norm/phase_0", "update_norm/phase_0"} <= lines(workdir)[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("shards", [2, 4])
def test_divided_parameters_are_the_same(train_config, run, tmp_path, monkeypatch, shards) -> None:
    monkeypatch.setattr(sharding, "SMALLEST_DIVIDED", 1)
    config = train_config(joint=4, batch_size=8)
    run(config, workdir=tmp_path / "whole", devices=jax.devices()[:1])
    divided = dataclasses.replace(config, parameter_shards=shards)
    seen = []
    save = Checkpoints.save_latest
    monkeypatch.setattr(
        Checkpoints, "save_latest", lambda self, snapshot: (seen.append(snapshot), save(self, snapshot))
    )
    run(divided, workdir=tmp_path / "divided", devices=jax.devices()[:4])
    state = seen[-1].state
    kernel = state.params["fusion"]["encode"]["kernel"]  # [3, 3, 1, 4]
    moments = [leaf for leaf in jax.tree.leaves(state.optimiser) if leaf.shape == kernel.shape]
    for array in (kernel, *moments):
        assert array.addressable_shards[0].data.shape == (3, 3, 1, 4 // shards)
    for a, b in zip(
        *(jax.tree.leaves(load(tmp_path / name, "latest")[1]) for name in ("whole", "divided")), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    longer = train_config(joint=6, batch_size=8)
    run(longer, workdir=tmp_path / "divided", devices=jax.devices()[:2])  # a copy on each of two, from the parts
    assert read_meta(tmp_path / "divided")["step"] == 6
