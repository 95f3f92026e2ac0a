"""The package as it is installed: the wheel holds all that its commands need, away from the checkout."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.program import VERSION

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, **settings) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build the source distribution, and the wheel from it; return their folder."""
    pytest.importorskip("uv", reason="uv builds and installs the package; make installs it")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", folder, ROOT)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_modules_experiments_weights_and_types(built):
    (wheel,) = built.glob("*.whl")
    assert len(list(built.glob("*.tar.gz"))) == 1
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "atlf_jax").rglob("*.py")}
    configs = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
    weights = {f"atlf_jax/weights/{path.name}" for path in (ROOT / "atlf_jax" / "weights").iterdir()}
    others = {
        "atlf_jax/demo/page.html",
        "atlf_jax/py.typed",
        "atlf_jax/__init__.pyi",
        "atlf_jax/evaluation/report.html.jinja",
    }
    wanted = modules | weights | others | {f"atlf_jax/experiments/{path}" for path in configs}
    assert not wanted - held and len(weights) >= 6 and len(configs) > 10
    assert not [name for name in held if name.startswith(("tests", "configs", "benchmarks"))]


@pytest.mark.slow
def test_the_tree_and_the_source_distribution_give_one_wheel(built, tmp_path):
    """Files of an earlier build, in build/lib, do not get into it."""
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    (tree / "build" / "lib" / "atlf_jax").mkdir(parents=True)
    (tree / "build" / "lib" / "atlf_jax" / "gone.py").write_text("")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", tmp_path, tree)
    held = []
    for folder in (built, tmp_path):
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            held.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")})
    assert held[0] == held[1]


@pytest.mark.slow
def test_the_wheel_says_what_it_offers_and_needs(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    metadata = email.message_from_string(texts["METADATA"])
    assert metadata["Name"] == "atlf-jax" and metadata["Version"] == VERSION
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(">=3.11,<3.14")
    extras = {"demo", "export", "cuda12", "cuda13", "dicom", "registration", "docs"}
    assert extras <= set(metadata.get_all("Provides-Extra", []))
    needs = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    always = {need.name: need.specifier for need in needs if need.marker is None}
    assert all(always[name].contains("999") is False for name in ("jax", "flax", "optax", "grain", "orbax-checkpoint"))
    assert {"torch", "starlette", "pydicom"}.isdisjoint(always)
    assert "atlf = atlf_jax.commands:atlf" in texts["entry_points.txt"]


@pytest.mark.slow
def test_a_fresh_environment_trains_evaluates_and_reconstructs(built, settings, tmp_path):
    (wheel,) = built.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, wheel)
    environment = {name: value for name, value in settings["env"].items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    away = {"cwd": tmp_path, "env": environment}
    atlf, workdir = python.with_name("atlf"), tmp_path / "run"
    assert "atlf_jax" not in [path.name for path in tmp_path.iterdir()]
    assert "reconstruct" in run(atlf, "--help", **away)
    assert run(atlf, "demo", "--check", **away).startswith("With its own CT: ")  # the page itself is of an extra
    small = ("--train.reconstruction.steps=1", "--model.reconstruction.phases=1")
    off = [f"--train.{stage}.steps=0" for stage in ("autoencode", "fusion", "joint")]
    run(atlf, "train", "phantom_smoke", f"--workdir={workdir}", *off, *small, **away)
    run(atlf, "evaluate", f"--checkpoint={workdir}", f"--out={tmp_path / 'scores'}", "--panels=1", **away)
    assert (tmp_path / "scores" / "report.html").exists()
    np.save(tmp_path / "mask.npy", np.arange(32) % 2 == 0)
    rng = np.random.default_rng(0)
    image = np.zeros((2, 32, 32))
    image[:, 8:24, 8:24] = rng.random((2, 16, 16)) + 1
    np.save(tmp_path / "scan.npy", fft2c_numpy(image.astype(np.complex64)))
    flags = ("--checkpoint", workdir, "--sampling.file", tmp_path / "mask.npy", "--kspace.first_axis", "slices")
    run(atlf, "reconstruct", tmp_path / "scan.npy", tmp_path / "out.h5", *flags, "--force", **away)
    assert (tmp_path / "out.h5").exists() and (tmp_path / "out.json").exists()
    listing = "import atlf_jax; print(atlf_jax.__file__, atlf_jax.load('aanlib-4x-compact'))"
    assert str(tmp_path) in run(python, "-c", listing, **away)
