"""The layout: imports go down, heavy libraries stay in their folders, importing is quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "atlf_jax"
FLOORS = {
    "array_types": 0,
    "ops": 1,
    "masks": 1,
    "losses": 2,
    "metrics": 2,
    "solvers": 2,
    "nn": 2,
    "models": 3,
    "data": 3,
    "training": 4,
    "evaluation": 4,
    "config": 5,
    "reconstruct": 6,
    "__init__": 7,
}
HOMES = {
    "optax": {"training"},
    "orbax": {"training"},
    "grain": {"data"},
    "nibabel": {"data"},
    "h5py": {"data"},
    "pydicom": {"data"},
    "SimpleITK": {"data"},
    "matplotlib": {"evaluation"},
    "flax": {"nn", "models"},
    "tyro": {"config", "data", "reconstruct"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                f"{node.module}.{alias.name}" if node.module == "atlf_jax" else node.module for alias in node.names
            }
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = part_of(path)
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "atlf_jax" and rest:
            there = rest[0]
            allowed = there == here or FLOORS[there] < FLOORS[here]
            assert allowed, f"{path} imports {name}, which is not on a lower floor"
        if top in HOMES:
            assert here in HOMES[top], f"{path} imports {top}, which belongs to {HOMES[top]}"


def test_every_part_has_a_floor():
    assert {part_of(path) for path in FILES} == FLOORS.keys()


def test_no_drawer_files():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_import_is_light():
    code = (
        "import sys, atlf_jax; print(sorted({'grain', 'orbax', 'matplotlib', 'optax', 'nibabel'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
