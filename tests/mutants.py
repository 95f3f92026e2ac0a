"""Does the suite find faults? ``python tests/mutants.py --count 100`` puts single faults into the code and counts.

A mutant is the package with one expression changed: a comparison, an operator, a sign, a number or a truth value. The
same ``--seed`` draws the same ones as long as the code is the same. The mirrored test file runs first, then the tests
of its folder, as ``make test`` runs them; a mutant that both let pass goes through the slow tests of the folder too, so
that what ``make test`` leaves out is counted. What survives all is listed to be looked at: some change nothing that
matters. The working tree is not touched: faults go into a copy. One process at a time, so let other work rest.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NO_TESTS = 5  # pytest's exit status where none was collected
FOLDERS = ("ops", "nn", "models", "training", "evaluation", "solvers")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """One fault."""

    file: Path  # relative to the root
    line: int
    before: str
    after: str
    source: str  # of the whole file with the fault


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what may be changed: no annotation, docstring, message or list of public names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
            continue
        if isinstance(node, ast.FunctionDef):
            for part in (*node.body, *node.args.defaults, *node.args.kw_defaults):
                if part is not None:
                    yield from sites(ast.Module([ast.Expr(part)] if isinstance(part, ast.expr) else [part], []))
            continue
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                yield from sites(ast.Module([ast.Expr(node.value)], []))
            continue
        yield node
        yield from sites(node)


def changed(node: ast.AST) -> ast.AST | None:
    """Return an expression with a fault, or None where there is none to make."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value = new.value + 1
    elif isinstance(new, ast.BinOp | ast.BoolOp) and type(new.op) in SWAPS:
        new.op = SWAPS[type(new.op)]()  # type: ignore
    elif isinstance(new, ast.Compare) and type(new.ops[0]) in SWAPS:
        new.ops[0] = SWAPS[type(new.ops[0])]()  # type: ignore
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.USub | ast.Not):
        new = new.operand
    else:
        return None
    return new


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def places(root: Path) -> list[tuple[Path, int]]:
    """Return where a fault can be made: a file, and the number of the expression among its ``sites``."""
    return [
        (path, number)
        for folder in FOLDERS
        for path in sorted((root / "atlf_jax" / folder).rglob("*.py"))
        for number, node in enumerate(sites(ast.parse(path.read_text(encoding="utf-8"))))
        if changed(node) is not None
    ]


def mutant_at(root: Path, path: Path, number: int) -> Mutant:
    """Make the fault."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    old = list(sites(tree))[number]
    new = changed(old)
    before, after = ast.unparse(old), ast.unparse(new)
    source = ast.unparse(ast.fix_missing_locations(_Replace(old, new).visit(tree)))
    return Mutant(path.relative_to(root), old.lineno, before, after, source)


def tests_of(file: Path) -> list[tuple[str, list[str]]]:
    """Return what runs against a mutant, and its fate if that fails: the mirrored file, its folder, the slow tests."""
    folder = Path("tests", file.parts[1])
    mirrored = folder / f"test_{file.stem}.py"
    quick = [[str(mirrored)]] * (ROOT / mirrored).is_file() + [[str(folder)]]
    slow = ["-m", "slow and not kill and not processes", str(folder)]
    return [("killed", tests) for tests in quick] + [("killed by a slow test", slow)]


def run(copy_of_root: Path, tests: Sequence[str], limit: float) -> int:
    """Run tests of the copy, and return pytest's exit status."""
    environment = os.environ | {"PYTHONPATH": str(copy_of_root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", *tests]
    return subprocess.run(command, cwd=copy_of_root, env=environment, capture_output=True, timeout=limit).returncode


def fate(copy_of_root: Path, mutant: Mutant, limit: float) -> str:
    """Return which tests fail with the fault in place, or ``SURVIVES``."""
    target = copy_of_root / mutant.file
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        for name, tests in tests_of(mutant.file):
            if run(copy_of_root, tests, limit) not in (0, NO_TESTS):
                return name
    except subprocess.TimeoutExpired:  # a loop without an end is found too
        return "killed"
    finally:
        target.write_text(original, encoding="utf-8")
    return "SURVIVES"


def main() -> None:
    """Draw, run, and print a line for each mutant and the count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600, help="seconds for the tests of one mutant")
    arguments = parser.parse_args()
    every = places(ROOT)
    drawn = random.Random(arguments.seed).sample(every, min(arguments.count, len(every)))
    fates: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "build", "__pycache__"))
        if run(root, [f"tests/{folder}" for folder in FOLDERS], 10 * arguments.limit):
            sys.exit("the tests fail without any fault: mend them first, or every mutant counts as found")
        for number, place in enumerate(drawn, start=1):
            mutant = mutant_at(ROOT, *place)
            started = time.monotonic()
            state = fate(root, mutant, arguments.limit)
            fates[state] += 1
            where = f"{mutant.file}:{mutant.line}"
            print(
                f"{number}: {state} {where}: {mutant.before} -> {mutant.after} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
    print(f"{dict(fates)} of {len(drawn)}, drawn from {len(every)} by seed {arguments.seed}")


if __name__ == "__main__":
    main()
