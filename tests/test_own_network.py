"""A network in a file of the user's own, as docs/own-network.md says: nothing of the package is edited."""

import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.commands.evaluate import main as evaluate
from atlf_jax.commands.train import main as train
from atlf_jax.metrics import find_metric
from atlf_jax.own_code import load_file
from atlf_jax.reconstruct.command import main as reconstruct
from atlf_jax.training.checkpoint import read_meta

LINEN = """
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

import atlf_jax as atlf
from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.objectives import Outcome, Supervised
from atlf_jax.objectives.supervised import compare
from atlf_jax.training import Stage, TrainConfig


@dataclass(frozen=True)
class MyConfig:
    width: int = 2

    def build(self):
        return MyNetwork(self)


class MyNetwork(nn.Module):
    config: MyConfig

    @nn.compact
    def __call__(self, measurement):
        image = atlf.ops.adjoint(measurement.kspace, measurement.mask)
        x = nn.Conv(self.config.width, (3, 3), name="first")(jnp.stack([image.real, measurement.ct], axis=-1))
        x = nn.Conv(2, (3, 3), name="last")(nn.relu(x))
        return atlf.Reconstruction(image + atlf.ops.from_channels(x))


@dataclass(frozen=True)
class Half:
    weight: float = 0.5

    def __call__(self, model, variables, batch, *, key):
        result = model.apply(variables, batch.measurement)
        loss = self.weight * jnp.abs(result.image - batch.target).mean((1, 2))
        return Outcome({"half": loss}, *compare(result, batch), {})


def get_config():
    stages = (
        Stage("first", Supervised(), ("first/*",), steps=2, learning_rate=1e-2),
        Stage("all", Half(), steps=2, learning_rate=1e-2),
    )
    return Config(
        name="own",
        model=MyConfig(),
        data=DataConfig(PhantomConfig(size=32, subjects=10, slices=1)),
        train=TrainConfig(stages=stages, batch_size=4, log_every=1, eval_every=2, save_every=2, picture_every=0),
    )
"""
NNX = """
from dataclasses import dataclass

from flax import nnx

import atlf_jax as atlf
from atlf_jax.models.adapters import from_nnx


class Module(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, measurement):
        image = atlf.ops.adjoint(measurement.kspace, measurement.mask)
        return image + atlf.ops.from_channels(self.dropout(self.norm(self.conv(measurement.ct[..., None]))))


@dataclass(frozen=True)
class MyConfig:
    def build(self):
        return from_nnx(lambda rngs: Module(rngs))
"""
EQUINOX = """
from dataclasses import dataclass
from typing import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

import atlf_jax as atlf
from atlf_jax.models.adapters import from_equinox


class Module(eqx.Module):
    layers: list
    dropout: eqx.nn.Dropout
    activation: Callable
    order: jax.Array  # of whole numbers: no parameter

    def __init__(self, key):
        self.order = jnp.array([1, 0])
        self.layers = [eqx.nn.Conv2d(1, 2, 3, padding=1, key=key)]
        self.dropout = eqx.nn.Dropout(0.5)
        self.activation = jax.nn.relu

    def __call__(self, measurement, *, key=None):
        image = atlf.ops.adjoint(measurement.kspace, measurement.mask)
        x = jax.vmap(self.layers[0])(measurement.ct[:, None])
        x = self.dropout(self.activation(x[:, self.order]), key=key)
        return image + atlf.ops.from_channels(jnp.moveaxis(x, 1, -1))


@dataclass(frozen=True)
class MyConfig:
    def build(self):
        return from_equinox(Module)
"""
FUNCTIONS = """
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import atlf_jax as atlf
from atlf_jax.models.adapters import from_functions


def init(key, measurement):
    return {"layers": [{"gain": jax.random.normal(key, ())}, {"gain": jnp.ones(())}]}


def apply(params, measurement):
    image = atlf.ops.adjoint(measurement.kspace, measurement.mask)
    return image * params["layers"][1]["gain"] + params["layers"][0]["gain"] * measurement.ct


@dataclass(frozen=True)
class MyConfig:
    def build(self):
        return from_functions(init, apply)
"""
EXPERIMENT = """

from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.objectives import SelfSupervised
from atlf_jax.training import Stage, TrainConfig


def get_config():
    return Config(
        name="own",
        model=MyConfig(),
        data=DataConfig(PhantomConfig(size=32, subjects=10, slices=1)),
        train=TrainConfig(
            stages=(Stage("only", SelfSupervised(), steps=2, learning_rate=1e-2),), batch_size=4, picture_every=0
        ),
    )
"""


def file_of(folder: Path, text: str) -> Path:
    file = folder / "my_network.py"
    file.write_text(text)
    return file


def forget() -> None:
    """Forget imported files, as another process has never imported them."""
    for name in [name for name in sys.modules if name.startswith("atlf_own_code_")]:
        del sys.modules[name]


def slice_of(network) -> np.ndarray:
    rng = np.random.default_rng(0)
    mask = np.arange(32) % 2 == 0
    kspace = np.asarray(atlf.forward(rng.random((32, 32)), mask))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", atlf.GuardWarning)  # of noise, which no network was trained for
        return np.asarray(atlf.reconstruct(kspace, mask, ct=rng.random((32, 32)), model=network, force=True))


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained_resumed_scored_packed_and_loaded(tmp_path, capsys) -> None:
    file, run = file_of(tmp_path, LINEN), tmp_path / "run"
    experiment = [f"--config={file}", f"--workdir={run}"]
    train([*experiment, "--model.width=3", "--train.all.steps=0"])
    with pytest.raises(SystemExit):
        train([*experiment, "--model.width=4"])
    assert "model.width 3 -> 4" in capsys.readouterr().err
    train([*experiment, "--model.width=3", "--train.all.objective.weight=0.7"])  # goes on with the second stage
    said = capsys.readouterr().out
    assert "resumed at step 2 of 4" in said and "all 4/4" in said
    meta = read_meta(run)
    assert meta["config"]["model"] == {"kind": f"{file}:MyConfig", "width": 3}
    assert meta["config"]["train"]["stages"][1]["objective"] == {"kind": f"{file}:Half", "weight": 0.7}

    evaluate([f"--checkpoint={run}", f"--out={tmp_path / 'scores'}", "--panels=1"])
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert len(summary["methods"]) == 2 and (tmp_path / "scores" / "report.html").exists()

    network = atlf.load(run)
    image = slice_of(network)
    network.save(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(slice_of(atlf.load(tmp_path / "own.safetensors")), image)  # imported before

    forget()
    with pytest.raises(
        ValueError, match=r"needs my_network.py, code of its own; read the code, and give it: atlf.load"
    ):
        atlf.load(tmp_path / "own.safetensors")
    assert not [name for name in sys.modules if name.startswith("atlf_own_code_")]  # nothing was run
    moved = tmp_path / "elsewhere" / "my_network.py"
    moved.parent.mkdir()
    shutil.move(file, moved)
    np.testing.assert_array_equal(slice_of(atlf.load(tmp_path / "own.safetensors", code=moved)), image)
    forget()
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.complex64))
    packed = [f"--checkpoint={tmp_path / 'own.safetensors'}", "--code", str(moved)]
    reconstruct([str(tmp_path / "scan.npy"), str(tmp_path / "out.npy"), *packed, "--sampling.retrospective", "--force"])
    assert np.load(tmp_path / "out.npy").shape == (1, 32, 32)
    forget()
    with pytest.raises(
        ValueError, match=r"my_network.py, code of its own, which is no longer where it was; read the code"
    ):
        atlf.load(run)
    np.testing.assert_array_equal(slice_of(atlf.load(run, code=moved)), image)
    train([f"--config={moved}", f"--workdir={run}", "--model.width=3", "--train.all.objective.weight=0.7"])
    moved.write_text(moved.read_text() + "\n# another version\n")
    with pytest.warns(UserWarning, match="is not the code that .* was packed with"):
        atlf.load(tmp_path / "own.safetensors", code=moved)


@pytest.mark.slow
@pytest.mark.parametrize("text", [NNX, EQUINOX, FUNCTIONS], ids=["nnx", "equinox", "functions"])
def test_networks_of_other_libraries_are_trained_packed_and_loaded(text, tmp_path) -> None:
    file, run = file_of(tmp_path, text + EXPERIMENT), tmp_path / "run"
    train([f"--config={file}", f"--workdir={run}"])
    network = atlf.load(run, "latest")
    network.save(tmp_path / "own.safetensors")
    forget()
    again = atlf.load(tmp_path / "own.safetensors", code=file)
    np.testing.assert_array_equal(slice_of(again), slice_of(network))
    start = network.config.model.build().init(jax.random.key(0), None)
    assert start.keys() == network.variables.keys()
    assert any(not np.allclose(start["params"][name], leaf) for name, leaf in network.variables["params"].items())


def test_the_files_of_the_page_work(tmp_path):
    """The network, the mask and the metric that docs/own-network.md shows."""
    page = (Path(__file__).resolve().parent.parent / "docs/own-network.md").read_text(encoding="utf-8")
    for name in ("my_network.py", "mine.py"):
        (code,) = re.findall(rf"```python\n# {name}\n(.*?)```", page, re.DOTALL)
        (tmp_path / name).write_text(code)
    mask = atlf.make_mask(atlf.MaskConfig(f"{tmp_path / 'mine.py'}:spiral", 6.0, 0.0), (64, 64), seed=0)
    assert mask.effective == pytest.approx(6.0, rel=0.02)  # 5.94 to 6.03 for ten seeds
    config = load_file(tmp_path / "my_network.py").get_config()
    picture = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.complex64)
    measurement = atlf.Measurement(
        atlf.forward(picture, mask), mask.samples[None], np.zeros((1, 64, 64), np.float32), None
    )
    network = config.model.build()
    image = network.apply(network.init(jax.random.key(0), measurement), measurement).image
    np.testing.assert_allclose(atlf.forward(image, mask), measurement.kspace, atol=1e-5)  # put back: 4e-7
    contrast = find_metric(f"{tmp_path / 'mine.py'}:contrast").function
    np.testing.assert_allclose(contrast(2 * abs(picture), abs(picture), 1.0, None), [2.0], rtol=1e-5)
