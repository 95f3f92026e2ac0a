"""The layout: imports go down, heavy libraries stay in their folders."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "atlf_jax"
FLOORS = {
    "array_types": 0,
    "program": 0,
    "inputs": 1,
    "signals": 1,
    "ops": 1,
    "masks": 1,
    "losses": 2,
    "metrics": 2,
    "interface": 2,
    "solvers": 2,
    "nn": 2,
    "models": 3,
    "data": 3,
    "training": 4,
    "evaluation": 4,
    "config": 5,
    "models.pretrained": 6,  # reads runs and whole configurations; the rest of models does not import it
    "reconstruct": 7,
    "__init__": 8,
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
    "flax": {"nn", "models", "models.pretrained"},
    "safetensors": {"models.pretrained"},
    "tyro": {"config", "data", "models.pretrained", "reconstruct"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return floor_of(path.relative_to(PACKAGE).with_suffix("").parts)


def floor_of(names: Sequence[str]) -> str:
    """The key of FLOORS that a module belongs to."""
    file = ".".join(names[:2])
    return file if file in FLOORS else names[0]


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
            there = floor_of(rest)
            allowed = there == here or FLOORS[there] < FLOORS[here]
            assert allowed, f"{path} imports {name}, which is not on a lower floor"
        if top in HOMES:
            assert here in HOMES[top], f"{path} imports {top}, which belongs to {HOMES[top]}"


def test_every_part_has_a_floor():
    assert {part_of(path) for path in FILES} == FLOORS.keys()


def test_no_drawer_files():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]
