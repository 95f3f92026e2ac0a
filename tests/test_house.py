"""The layout: imports go down, heavy libraries stay in their folders."""

import ast
import graphlib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "atlf_jax"
FLOORS = {
    "array_types": 0,
    "earlier": 0,
    "old_names": 0,
    "own_code": 0,
    "program": 0,
    "inputs": 1,
    "together": 1,
    "signals": 1,
    "ops": 1,
    "masks": 1,
    "command_line": 2,
    "losses": 2,
    "metrics": 2,
    "interface": 2,
    "solvers": 2,
    "nn": 2,
    "data": 3,
    "objectives": 3,
    "models": 4,
    "training": 4,
    "config": 5,
    "trained": 6,
    "evaluation": 7,
    "reconstruct": 8,
    "demo": 9,
    "commands": 10,
    "models.pretrained": 11,  # commands of earlier versions: nothing imports these
    "data.prepare": 11,
    "evaluation.audit": 11,
    "reconstruct.__main__": 11,
    "__init__": 11,
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
    "flax": {"nn", "models", "trained"},
    "equinox": {"models"},  # of one adapter
    "safetensors": {"trained"},
    "starlette": {"demo"},
    "uvicorn": {"demo"},
    "tyro": {"command_line", "config", "data", "reconstruct", "commands"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return floor_of(path.relative_to(PACKAGE).with_suffix("").parts)


def floor_of(names: Sequence[str]) -> str:
    """The key of FLOORS that a module belongs to."""
    file = ".".join(names[:2])
    return file if file in FLOORS else names[0]


def imports_of(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                f"{node.module}.{alias.name}" if node.module == "atlf_jax" else node.module for alias in node.names
            }
    return names


def read(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = part_of(path)
    for name in imports_of(read(path)):
        top, *rest = name.split(".")
        if top == "atlf_jax":
            there = floor_of(rest or ["__init__"])
            allowed = there == here or FLOORS[there] < FLOORS[here]
            assert allowed, f"{path} imports {name}, which is not on a lower floor"
        if top in HOMES:
            assert here in HOMES[top], f"{path} imports {top}, which belongs to {HOMES[top]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_by_name_goes_round_the_floors(path):
    calls = [ast.unparse(node.func) for node in ast.walk(read(path)) if isinstance(node, ast.Call)]
    assert not {"importlib.import_module", "import_module", "__import__"} & set(calls)


def test_no_circles():
    """Also within a part, where the floors do not look; imports in functions count."""
    modules = {}
    for path in FILES:
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    graph = {}
    for module, path in modules.items():
        names = set()
        for node in ast.walk(read(path)):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
                names |= parts or {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names} & modules.keys()
        graph[module] = names - {module}
    assert sum(map(len, graph.values())) > 200
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_every_part_has_a_floor():
    assert {part_of(path) for path in FILES} == FLOORS.keys()


def test_no_drawer_files():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]
