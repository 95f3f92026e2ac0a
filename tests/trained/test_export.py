"""Exported programs: run by a process without this package and Flax, to the same values."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Measurement
from atlf_jax.commands import export as export_command
from atlf_jax.config import Config
from atlf_jax.models import UNetConfig, build
from atlf_jax.nn import backend
from atlf_jax.trained import Network
from tests.models.conftest import measure, random_variables, small

pytest.importorskip("flatbuffers", reason="jax.export writes with flatbuffers, of the extra [export]")
H, W = 16, 24
ALONE = """
import json, sys
exec(json.load(open("card.json"))["run"])
one = jax.jit(network.call)(*(check[name][:1] for name in {names}))
assert np.abs(one - check["image"][:1]).max() <= 1e-4 * np.abs(check["image"]).max()
assert not {{name.partition(".")[0] for name in sys.modules}} & {{"atlf_jax", "flax", "jaxtyping"}}
np.save("image.npy", image)
"""


def tiny(model) -> Network:
    return Network(Config(name="tiny", model=model), random_variables(build(model), measure()[0]), {"step": 1})


@pytest.mark.parametrize("coils", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_process_without_this_package_gives_the_same_image(tmp_path, settings, coils) -> None:
    network = tiny(UNetConfig(width=2, pools=1, dc="soft")).averaging_mirrors(coils)
    folder = network.export(tmp_path / "tiny", shape=(H, W), coils=coils)
    check = dict(np.load(folder / "check.npz"))
    names = [name for name in check if name != "image"]
    environment = {name: value for name, value in settings["env"].items() if name != "PYTHONPATH"}
    code = ALONE.format(names=names)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    maps = check.get("coil_maps")
    axis = None if coils else "slices"
    image = atlf.reconstruct(
        *(check[name] for name in names[:2]),
        ct=check["ct"],
        coil_maps=maps,
        model=network.function,
        first_axis=axis,
        force=True,
    )
    got = np.load(folder / "image.npy")
    np.testing.assert_allclose(got, image, atol=1e-5 * abs(image).max())
    assert got.shape == (2, H, W) and got.dtype == np.complex64


@pytest.mark.slow
def test_the_card_says_what_the_program_takes(tmp_path) -> None:
    folder = tiny(small()).export(tmp_path / "tiny", shape=(H, W))
    card = json.loads((folder / "card.json").read_text())
    assert [(each["name"], each["shape"]) for each in card["arguments"]] == [
        (name, ["b", H, W]) for name in ("kspace", "mask", "ct")
    ]
    assert card["platforms"] == ["cpu", "cuda"] and card["versions"]["atlf-jax"] == atlf.__version__
    assert card["trained_for"]["masks"][0]["kind"] == "random" and card["trained_for"]["dataset"] == "phantom"
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert set(card["sha256"]) == {"network.jax_export", "check.npz"}


@pytest.mark.slow
def test_the_formulation_for_cuda_gives_the_same_image() -> None:
    network, (measurement, _) = tiny(small()), measure()
    with backend.formulated_for("cuda"):
        assert backend.accelerated()
        image = network(Measurement(*measurement)).image
    assert not backend.accelerated()
    want = tiny(small())(measurement).image
    np.testing.assert_allclose(image, want, atol=1e-5 * abs(want).max())


def test_a_folder_is_not_replaced_unasked(tmp_path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        export_command.main(["aanlib-best", str(tmp_path)])
    assert "is there already; choose another folder, or replace its files with --overwrite" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"shape is \(0, 8\); wanted rows and columns"):
        tiny(small()).export(tmp_path / "new", shape=(0, 8))
    assert not (tmp_path / "new").exists()
