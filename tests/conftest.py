"""Test session: four fake CPU devices, strict rank promotion, no silent skipping of the real data."""

import os

# Most of a test's time is compilation: at optimisation level 0 the suite takes a third less.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


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
    skipped = [r.nodeid for r in reporter.stats.get("skipped", []) if ("real data", True) in r.user_properties]
    if skipped:
        reporter.write_line(f"ATLF_DATA_DIR is set but tests on real data were skipped: {skipped}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
