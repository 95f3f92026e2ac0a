"""The public names: each loads when first used, and importing the package loads none."""

import doctest
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import atlf_jax as atlf

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"jax", "flax", "grain", "orbax", "optax", "nibabel", "matplotlib", "scipy.linalg", "scipy.ndimage"}


def loaded_by(code: str) -> set[str]:
    """Which heavy libraries a fresh process has after some lines."""
    code += f"\nimport sys; print(*{HEAVY} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing():
    assert not loaded_by("import atlf_jax as atlf; dir(atlf), atlf.__version__")


def test_a_first_network_loads_what_it_uses():
    """And ``reconstruct`` is the function, though a package of that name has been imported before."""
    code = "import atlf_jax.trained.guards; import atlf_jax as atlf; assert callable(atlf.reconstruct); atlf.build"
    assert loaded_by(code) == {"jax", "flax"}


@pytest.mark.parametrize("name", atlf.__all__)
def test_every_name_is_there(name):
    assert getattr(atlf, name) is not None


def test_names_are_listed():
    stub = runpy.run_path(str(ROOT / "atlf_jax" / "__init__.pyi"), run_name="atlf_jax.__init__")
    assert sorted(stub["__all__"]) == atlf.__all__ == dir(atlf)


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="atlf_jax attribute foward"):
        atlf.foward  # noqa: B018
    with pytest.raises(ImportError, match="foward"):
        from atlf_jax import foward  # noqa: F401
    with pytest.raises(ImportError, match="nothing"):
        from atlf_jax.models import nothing  # noqa: F401


def test_the_example_runs():
    ran = doctest.testmod(atlf)
    assert ran.attempted > 3 and not ran.failed
