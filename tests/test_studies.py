"""What the studies train, score and set as tables, from runs and scores that are made up."""

import itertools
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement
from atlf_jax.config import load_config, parse
from atlf_jax.data import Example
from atlf_jax.evaluation.scoring import Score
from atlf_jax.evaluation.trial import ZERO_FILLED
from atlf_jax.models import build
from atlf_jax.program import INTERRUPTED
from studies import ablation, core, ct, lesions, methods, queue


def score(method: str, subject: str, number: int, psnr: float, mask: str = "random 4x") -> Score:
    values = dict.fromkeys(core.SCORES, psnr)
    return Score(mask, method, subject, f"{subject}{number}", number, 4.0, 4.1, 0.4, "abc", True, 0.5, values)


@pytest.fixture
def rows():
    made = []
    for subject, count in (("a", 6), ("b", 2)):
        for number in range(count):
            for method, gain in ((ZERO_FILLED, 0.0), ("ours", 3.0), ("theirs", 2.5), ("ours, CT zero", 1.0)):
                made.append(score(method, subject, number, 20 + gain + number * 0.01 + (subject == "b")))
    return made


def test_what_is_saved_is_what_is_read(rows, tmp_path):
    core.save(tmp_path / "scores.csv", rows)
    assert core.read(tmp_path / "scores.csv") == rows


def test_means_weigh_subjects_alike(rows):
    table = methods.means(rows, "psnr")
    expected = np.mean([23 + np.arange(6).mean() * 0.01, 24 + 0.005])
    assert table["ours"]["random 4x"] == pytest.approx(expected)


def test_rivals_are_methods_and_not_variants(rows):
    ours, theirs = methods.against_best(rows)
    assert (ours["method"], ours["best other"], theirs["best other"]) == ("ours", "theirs", "ours")
    assert ours["dB"] == pytest.approx(0.5) and theirs["dB"] == pytest.approx(-0.5)
    assert ours["better slices"] == "8 of 8" and theirs["better slices"] == "0 of 8"


def test_what_the_ct_brings_is_told_of_variants_and_of_the_network_without(rows):
    without = [row._replace(method="ours_no_ct", values=dict.fromkeys(core.SCORES, row.values["psnr"] + 0.2))
               for row in rows if row.method == "ours"]  # fmt: skip
    against = {pair["against"]: pair for pair in methods.what_the_ct_brings(rows + without)}
    assert against.keys() == {"ours, CT zero", "ours_no_ct"}
    assert against["ours, CT zero"]["dB"] == pytest.approx(2) and against["ours_no_ct"]["dB"] == pytest.approx(-0.2)
    assert against["ours_no_ct"]["better slices"] == "0 of 8" and "a: -0.20" in against["ours_no_ct"]["subjects"]
    assert against["ours, CT zero"]["SSIM, body"] == pytest.approx(2)  # all scores of these rows are alike


def test_scores_of_an_older_checkpoint_or_of_fewer_metrics_are_not_taken(tmp_path, rows):
    file, best = tmp_path / "scores.csv", tmp_path / "run" / "checkpoints" / "best"
    assert not core.current(file, tmp_path / "run")
    core.save(file, rows[:1])
    assert core.read(file) == rows[:1]
    assert core.current(file, tmp_path / "run")  # a solver has no checkpoint
    best.mkdir(parents=True)
    os.utime(file, (0, 0))
    assert not core.current(file, tmp_path / "run")
    file.write_text(file.read_text().replace("psnr_body", "other"))
    assert not core.current(file, tmp_path / "nothing")
    file.write_text("")
    assert not core.current(file, tmp_path / "nothing")


def test_the_report_takes_one_method_and_drops_repeated_rows(rows):
    alone = [row for row in rows if row.method in (ZERO_FILLED, "ours")]
    text = methods.report(alone + alone, [{"method": "ours", "parameters": 3}], ", noise 0.01")
    assert "8 slices of subjects a, b, noise 0.01" in text and "against the best other" not in text


def test_unfinished_runs_are_not_scored(tmp_path):
    assert not core.finished(tmp_path / "nothing")


def test_a_training_that_was_stopped_ends_the_benchmark(tmp_path, monkeypatch):
    stopped = subprocess.CompletedProcess([], INTERRUPTED)  # a stopped training saves and returns 75
    monkeypatch.setattr(core.subprocess, "run", lambda *_, **__: stopped)
    with pytest.raises(SystemExit, match="stopped before its last step; run the same command again"):
        core.train("best", tmp_path / "best")


def test_a_learning_curve_has_a_point_for_each_validation(tmp_path):
    lines = [
        {"kind": "train", "step": 2, "cpu_seconds": 1.0, "psnr": 5.0},
        {"kind": "valid", "step": 1, "cpu_seconds": 0.5, "loss": 3.0},
        {"kind": "valid", "step": 2, "cpu_seconds": 2.0, "psnr": 20.0},
        {"kind": "valid", "step": 4, "cpu_seconds": 4.5, "psnr": 21.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = core.learning_curve(tmp_path)
    assert curve == [(2.0, 20.0), (4.5, 21.0)] and core.training_seconds(tmp_path) == 4.5
    first, second = methods.curve_rows({"one": curve, "two": curve[:1]})
    assert first == {"method": "one", "1: s": 2.0, "1: dB": 20.0, "2: s": 4.5, "2: dB": 21.0}
    assert second == {"method": "two", "1: s": 2.0, "1: dB": 20.0, "2: s": None, "2: dB": None}


@pytest.mark.slow
@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_every_part_can_be_left_out(name):
    """The options of a variant are fields of the configuration, and the network that they make has parameters."""
    config, _ = parse(["benchmark:compact", *ablation.VARIANTS[name]])
    measurement = Measurement(jnp.ones((1, 32, 32), jnp.complex64), jnp.ones((1, 1, 32), bool), jnp.ones((1, 32, 32)))
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0), measurement)
    assert ("fusion" in shapes["params"]) == config.model.use_fusion == (config.train.stages[1].steps > 0)
    assert (name == "compact") == (config == load_config("benchmark:compact"))


@pytest.mark.parametrize("name", queue.QUEUE)
def test_every_entry_of_the_queue_is_an_experiment(name):
    entry = queue.QUEUE[name]
    config, _ = parse([entry.experiment, *entry.options])
    assert core.total_steps(config) >= core.total_steps(load_config(entry.experiment))


def test_the_queue_says_how_far_it_has_come_and_trains_nothing(tmp_path, capsys):
    queue.main([f"--out={tmp_path}", "--status"])
    assert all(f"| {name} " in capsys.readouterr().out for name in ["aanlib_best"]) and not any(tmp_path.iterdir())


def test_a_training_of_the_queue_is_asked_to_end_in_time(tmp_path, monkeypatch):
    script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); signal.pause()"
    started = subprocess.Popen
    monkeypatch.setattr(queue.subprocess, "Popen", lambda *_, **__: started([sys.executable, "-c", script]))
    queue.train_until(queue.QUEUE["aanlib_best"], tmp_path, time.monotonic() + 1)
    monkeypatch.setattr(
        queue.subprocess, "Popen", lambda *_, **__: started([sys.executable, "-c", "raise SystemExit(1)"])
    )
    with pytest.raises(SystemExit, match="ended with exit code 1"):
        queue.train_until(queue.QUEUE["aanlib_best"], tmp_path, time.monotonic() + 30)


def test_seeds_are_pooled_and_first_seeds_fill_the_other_tables(rows):
    more = [row._replace(method=f"{row.method}, seed 1", values=dict.fromkeys(core.SCORES, row.values["psnr"] + gain))
            for row in rows for name, gain in (("ours", 0.4), ("theirs", 0.1)) if row.method == name]  # fmt: skip
    ours, lead, theirs, _ = methods.over_seeds(rows + more)
    mean = methods.means(rows, "psnr")["ours"]["random 4x"]
    assert (ours["method"], ours["against"], ours["seeds"]) == ("ours", "", 2)
    assert ours["mean"] == pytest.approx(mean + 0.2) and ours["SD over seeds"] == pytest.approx(0.4 / np.sqrt(2))
    assert lead["against"] == "theirs" and lead["mean"] == pytest.approx(0.65)  # .5 and .8
    assert (lead["from"], lead["to"]) == pytest.approx((0.5, 0.8)) and theirs["method"] == "theirs"
    text = methods.report(rows + more, [{"method": "ours"}])
    assert "over seeds and subjects" in text and text.split("over seeds")[0].count("seed 1") == 0


def test_p_values_are_corrected_over_the_masks_of_one_family():
    family = [{"method": name, "p, slices": p} for name, p in (("a", 0.01), ("b", 0.03), ("a", 0.04))]
    assert [row["p, slices, Holm"] for row in methods.corrected(family, "method")] == [0.02, 0.03, 0.04]


def test_what_a_ct_brings_stands_by_subject_with_whose_anatomy_it_is(rows):
    values = {"none": 20.0, "own": 21.0, "another subject's": 20.4, "atlas mean": 20.6}
    made = []
    for subject, count in (("a", 3), ("b", 2)):
        for number, (name, value) in itertools.product(range(count), values.items()):
            loss = -1.5 if (subject, name) == ("b", "own") else 0
            made.append(score(name, subject, number, value + loss))
            if name != "none":
                made.append(score(name + ct.WEIGHED, subject, number, 20 + max(0, value + loss - 20)))
    weights = {"random 4x": {name: {"a": 1.0, "b": 0.0} for name in ct.CTS}}
    own, stranger, atlas = ct.gains(made, "psnr", weights)
    assert own["weight 1"] == "a: +1.00, b: -0.50" and own["weighed"] == "a: +1.00, b: +0.00"
    assert own["weights"] == "1.00, 0.00" and own["better slices, weight 1"] == "3 of 5"
    assert stranger["own CT beyond it"] == pytest.approx((0.6 - 0.9) / 2) and own["own CT beyond it"] is None
    least = {(row["CT"], row["weight"]): row["PSNR [dB]"] for row in ct.smallest(made)}
    assert least["own", "1"] == "-0.50 (b, random 4x)" and least["own", "weighed"] == "+0.00 (b, random 4x)"
    assert "| atlas mean" in ct.tables(made, weights)[0] and atlas["effect"] is not None


def test_slices_are_chosen_evenly_by_subject():
    source = [Example(f"{subject}{n}", subject, *[np.zeros((2, 2), "f4"), np.ones((2, 2), "c8")])
              for subject, count in (("a", 9), ("b", 2)) for n in range(count)]  # fmt: skip
    assert core.evenly(source, 3) == (0, 4, 8, 9, 10) and core.evenly(source, 0) == tuple(range(11))


def test_lesions_are_shown_by_mask_and_method_with_the_worst_slice(tmp_path):
    found = {("4x", method, "dark"): {("a", "a1"): 0.5, ("a", "a2"): 0.7, ("b", "b1"): part}
             for method, part in (("net", 0.8), (ZERO_FILLED, 0.4))}  # fmt: skip
    first, second = lesions.rows_of(found, ["dark"])
    assert (first["method"], first["dark"], second["dark"]) == (ZERO_FILLED, "50 (40)", "70 (50)")
    lesions.save(tmp_path / "a.csv", [{"mask": "4x", "shown": 0.5}])
    assert lesions.read(tmp_path / "a.csv") == [{"mask": "4x", "shown": "0.5"}]
