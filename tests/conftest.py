"""Test session: four fake CPU devices, strict rank promotion, no silent skipping of the real data."""

import fcntl
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Most of a test's time is compilation: without optimisation and generated fusions it takes a third of the time. An
# unknown flag ends the process, and jax 0.12 has none for fusions. Flags are read when a device is first used.
QUICK = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
FOUR = "--xla_force_host_platform_device_count=4"
GIVEN = os.environ.get("XLA_FLAGS", "").replace(FOUR, "")  # what starts the workers has set it already
os.environ["XLA_FLAGS"] = f"{GIVEN} {QUICK} {FOUR}"
os.environ.setdefault("MPLBACKEND", "Agg")

# The garbage collector looks at fewer objects, and less often: it took a fifth of the time of tracing networks.
gc.set_threshold(200_000, 20, 100)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Keep compiled programs for other tests, processes and sessions; ``pytest --cache-clear`` takes them away."""
    if not hasattr(config, "cache"):  # asked for by -p no:cacheprovider
        return
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish(session):  # what is there by now stays
    gc.freeze()


@pytest.fixture
def x64():
    """Enable float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_dir():
    """Return the folder with real data; skip where there is none."""
    folder = os.environ.get("ATLF_DATA_DIR")
    if not folder:
        pytest.skip("ATLF_DATA_DIR is not set: tests on real data need the folder that holds aanlib_ct_mri")
    return folder


@pytest.fixture(scope="session")
def together(tmp_path_factory) -> Path:
    """Return a folder that all processes of this test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def settings(together) -> dict[str, Any]:
    """How to start a process: a person's environment, and the compiled programs of all tests."""
    environment = os.environ | {
        "XLA_FLAGS": f"{GIVEN} {QUICK}",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or str(together / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    return {"cwd": ROOT, "env": environment, "text": True}


@pytest.fixture(scope="session")
def program(settings) -> Callable[..., subprocess.CompletedProcess]:
    """Return what runs a program as a person does: ``program("train.py", "--help")``."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *arguments], **settings, capture_output=True, timeout=900)

    return run


@pytest.fixture(scope="session")
def smoke(together, program) -> Path:
    """Train the smoke experiment through all its stages, once for all tests and processes, and return its folder."""
    workdir = together / "smoke"
    with (together / "smoke.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not workdir.exists():
            done = program("-W", "error", "train.py", "--config=configs/phantom_smoke.py", f"--workdir={workdir}")
            assert done.returncode == 0 and done.stderr == "", done.stderr
            (workdir / "said.txt").write_text(done.stdout)
    return workdir


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("data"):
            item.user_properties.append(("real data", True))  # travels with the report, from worker processes too
            if not os.environ.get("ATLF_DATA_DIR"):
                item.add_marker(pytest.mark.skip(reason="ATLF_DATA_DIR is not set"))
        if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
            item.add_marker(pytest.mark.skip(reason="no GPU"))


def pytest_sessionfinish(session, exitstatus):
    """Fail when the real data is there and a test on it was skipped all the same."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("ATLF_DATA_DIR") or reporter is None:
        return
    reports = reporter.stats.get("skipped", [])  # a file skipped as a whole has a report without properties
    skipped = [r.nodeid for r in reports if ("real data", True) in getattr(r, "user_properties", ())]
    if skipped:
        reporter.write_line(f"ATLF_DATA_DIR is set but tests on real data were skipped: {skipped}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
