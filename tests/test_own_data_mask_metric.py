"""What docs/house.md says of a dataset, a mask and a metric of one's own, done from outside the package."""

import csv
import dataclasses
import json

import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.commands import evaluate, pack, train
from atlf_jax.config import Config, from_dict, parse, to_dict
from atlf_jax.data import DATASETS, AugmentConfig, DataConfig, train_batches
from atlf_jax.evaluation.scoring import evaluate as evaluate_trial
from atlf_jax.evaluation.trial import EvaluationConfig, Trial
from atlf_jax.masks import MASKS, MaskConfig
from atlf_jax.metrics import METRICS
from atlf_jax.own_code import load_file
from atlf_jax.trained.files import write as write_packed

DATA = '''
from dataclasses import dataclass

import numpy as np

from atlf_jax.data import Example, Split

SUBJECTS = {"inner_train": range(4), "inner_valid": range(4, 6), "train": range(6), "valid": range(6, 8)}


@dataclass(frozen=True)
class Squares:
    """Bright squares."""

    side: int = 32
    """Pixels."""
    split: Split = "train"
    """Subjects to make."""

    def open(self):
        return SquaresSource(self)


@dataclass(frozen=True)
class Rounder(Squares):
    """Squares of another size."""

    side: int = 40


class SquaresSource:
    def __init__(self, config):
        self.config, self.subjects = config, list(SUBJECTS[config.split])

    def __len__(self):
        return len(self.subjects)

    def __getitem__(self, index):
        subject = self.subjects[index]
        rng = np.random.default_rng(subject)
        picture = rng.uniform(size=(4, 4)).repeat(self.config.side // 4, 0).repeat(self.config.side // 4, 1)
        return Example(f"s{subject}", f"s{subject}", np.zeros_like(picture, np.float32), picture.astype(np.complex64))
'''
OWN_MASKS = """
import numpy as np


def checkerboard(rng, shape, config):
    y, x = np.mgrid[: shape[0], : shape[1]]
    offset = rng.randint(round(config.acceleration))
    return (y + x + offset) % round(config.acceleration) == 0
"""
OWN_METRICS = """
import jax.numpy as jnp

from atlf_jax.metrics import Metric


def contrast(prediction, target, peak, body):
    return jnp.std(prediction, axis=(-2, -1), where=body) / peak


mae = Metric(lambda p, t, peak, body: jnp.mean(jnp.abs(p - t), axis=(-2, -1), where=body), lower_is_better=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one file of each kind, in which the commands are called."""
    for name, text in (("my_data.py", DATA), ("my_masks.py", OWN_MASKS), ("my_metrics.py", OWN_METRICS)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_train_evaluate_pack_and_load(folder, capsys):
    """On a small network, by the command line alone."""
    stage = "--train.reconstruction.steps=2 --train.reconstruction.warmup_steps=0 --train.eval_every=2"
    short = f"{stage} --train.batch_size=4 --augment.crop 0 0".split()
    own = ["--data.dataset=my_data.py:Squares", "--data.source.side=24"]
    masks = ["--masks", "my_masks.py:checkerboard", "2", "0"]
    train.main(["benchmark/dc_cnn", "--workdir=run", *short, *own, *masks])
    pack.main(["run", "own.safetensors"])
    network = atlf.load("own.safetensors")
    assert network.config.data.dataset == network.trained_for.dataset == "my_data.py:Squares"
    assert network.config.data.source.side == 24
    (mask,) = network.config.masks
    assert mask == MaskConfig(f"{folder}/my_masks.py:checkerboard", 2.0, 0.0)  # where it was found
    assert str(folder).encode() not in (folder / "own.safetensors").read_bytes()

    metrics = ["--metrics", "psnr", "ssim", "my_metrics.py:contrast", "my_metrics.py:mae"]
    capsys.readouterr()
    evaluate.main(["--checkpoint=own.safetensors", "--out=out", "--bootstrap=20", *metrics])
    said = capsys.readouterr().out
    assert "CONTRAST ↑" in said and "MAE ↓" in said and "checkerboard 2x" in said
    page = (folder / "out" / "report.html").read_text()
    assert "CONTRAST ↑" in page and "MAE ↓" in page and "my_data.py:Squares" in page
    rows = list(csv.DictReader((folder / "out" / "scores.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} == {"s6", "s7"}
    assert all(float(row["my_metrics.py:mae"]) > 0 for row in rows)
    remarks = json.loads((folder / "out" / "summary.json").read_text())["remarks"]
    assert not any("was not trained" in remark or "never trained" in remark for remark in remarks)

    evaluate.main(["--checkpoint=run", "--dataset=my_data.py:Rounder", "--out=other", "--bootstrap=20"])
    remarks = json.loads((folder / "other" / "summary.json").read_text())["remarks"]
    assert "run: the dataset my_data.py:Rounder was never trained, my_data.py:Squares was." in remarks
    with pytest.raises(SystemExit):
        evaluate.main(["--checkpoint=own.safetensors", "--out=no", "--ablate=ct"])
    assert "exchanges the CT, and this data has none" in capsys.readouterr().err


def test_one_file_that_is_named_in_two_ways_is_packed(folder):
    """As docs/house.md names a mask, beside the absolute path under which a dataset of the same file is kept."""
    text = DATA + "\n\ndef every_other(rng, shape, config):\n    return np.arange(shape[1]) % 2 == 0\n"
    (folder / "both.py").write_text(text)
    network = atlf.load("aanlib-4x-compact")
    data = DataConfig(load_file(folder / "both.py").Squares())
    config = dataclasses.replace(network.config, data=data, masks=(MaskConfig("both.py:every_other", 2.0, 0.0),))
    write_packed(folder / "one.safetensors", config, network.variables, {})
    (folder / "below").mkdir()
    (folder / "below" / "both.py").write_text(text)
    other = dataclasses.replace(config, masks=(MaskConfig("below/both.py:every_other", 2.0, 0.0),))
    with pytest.raises(ValueError, match="have one name, by which"):
        write_packed(folder / "two.safetensors", other, network.variables, {})


@pytest.mark.slow
def test_loader_processes_find_the_files(folder):
    """Batches of two processes are those of none: the user's classes and functions are found there."""
    source = load_file("my_data.py").Squares().open()
    several = (MaskConfig("my_masks.py:checkerboard", 2.0), MaskConfig("random", 4.0))
    drawn = {}
    for workers in (0, 2):
        batches = train_batches(source, mask=several, augment=AugmentConfig(), batch_size=2, seed=0, workers=workers)
        drawn[workers] = [next(batches) for _ in range(3)]
        batches.close()
    for one, other in zip(drawn[0], drawn[2], strict=True):
        np.testing.assert_array_equal(one.measurement.kspace, other.measurement.kspace)
        np.testing.assert_array_equal(one.measurement.mask, other.measurement.mask)


def test_one_row_each_makes_them_the_package_s(folder, monkeypatch):
    """In the package's tables they have names of their own, and nothing else is edited."""
    squares = load_file("my_data.py").Squares
    monkeypatch.setitem(DATASETS, "squares", squares)
    monkeypatch.setitem(MASKS, "checkerboard", load_file("my_masks.py").checkerboard)
    monkeypatch.setitem(METRICS, "mae", load_file("my_metrics.py").mae)
    flags = ["--data.dataset=squares", "--data.squares.side=16", "--masks", "checkerboard", "2", "0"]
    config, _ = parse(["phantom_smoke", *flags])
    assert config.data.source == squares(side=16) and to_dict(config)["data"]["source"]["kind"] == "squares"
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    for profile in ("picture", "fastmri"):
        settings = EvaluationConfig(profile=profile, metrics=tuple(METRICS))
        rows = evaluate_trial(Trial(config.data.source.open(), config.masks, config=settings))
        assert all(0 < row.values["mae_body"] < 1 for row in rows)
