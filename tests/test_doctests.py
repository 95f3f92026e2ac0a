"""The examples in docstrings run."""

import doctest
import importlib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
SLOW = {"atlf_jax.trained.network"}  # exports a whole network
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "atlf_jax").rglob("*.py")
    if "    >>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODULES])
def test_examples_run(name):
    with jax.numpy_rank_promotion("allow"):
        ran = doctest.testmod(importlib.import_module(name), verbose=False)
    assert ran.attempted and not ran.failed
