"""How fast a run goes, and on what: rates and device memory for the log, traces, and a description of every start."""

import contextlib
import functools
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import jax

from atlf_jax.array_types import Batch
from atlf_jax.program import VERSION

__all__ = ["PEAK_FLOPS", "Profile", "Speed", "describe_start"]

# products of bfloat16 matrices a second, dense, as the makers publish them; by a part of the device's name
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 362e12, "4090": 165e12, "V100": 125e12}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event


class Speed:
    """Measures of one step after the other: data wait, compilations, device memory and model FLOP utilisation."""

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self._device, self._devices = jax.local_devices()[0], mesh.size
        self._peak = next((peak for name, peak in PEAK_FLOPS.items() if name in self._device.device_kind), None)
        self._flops: dict[Any, float] = {}  # of a step, by its program
        self._compilations = _compilations()
        self._waited = 0.0
        self._last: float | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the wait for data."""
        start = time.monotonic()
        yield
        self._waited = time.monotonic() - start

    def of(self, programs: Any, state: Any, batch: Batch, *, images: int) -> dict[str, float]:
        """Return the measures of the step that was just started.

        Args:
            programs: of its stage.
            state, batch: what it was called with.
            images: of the batch, over all devices.
        """
        now = time.monotonic()
        measured = {"data_wait": self._waited, "compilations": float(self._compilations.count)}
        memory = self._device.memory_stats()
        if memory:
            measured["device_gib"] = memory["peak_bytes_in_use"] / 2**30
        if self._peak:
            if programs not in self._flops:
                costs = programs.step.lower(state, batch).cost_analysis() or {}
                self._flops[programs] = costs.get("flops", 0.0)
            if self._last is not None:
                measured["model_flop_utilisation"] = self._flops[programs] / (
                    (now - self._last) * self._peak * self._devices
                )
        self._last = now
        return measured


class _Compilations:
    """Counts the programs that this process has compiled."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, *_: object, **__: object) -> None:
        self.count += event == COMPILED


@functools.cache
def _compilations() -> _Compilations:
    return _Compilations()


class Profile:
    """A profiler trace of chosen steps, for TensorBoard or Perfetto; a context manager.

    Args:
        folder: of the trace.
        steps: first and last, counted from 1; None traces nothing.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def at(self, done: int) -> None:
        """Start or stop before a step; ``done`` steps are done."""
        if self._steps is None:
            return
        if not self._running and self._steps[0] <= done + 1 <= self._steps[1]:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif self._running and done >= self._steps[1]:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def describe_start(workdir: Path, *, record: dict[str, Any], step: int, mesh: jax.sharding.Mesh) -> None:
    """Add this start to ``WORKDIR/run.json``: the whole configuration, command, commit, versions and devices.

    Args:
        workdir: the run's folder.
        record: the whole configuration.
        step: steps done so far.
        mesh: the devices.
    """
    file = workdir / "run.json"
    try:
        starts = json.loads(file.read_text())["starts"] if file.exists() else []
    except (ValueError, KeyError, TypeError):  # cut short by a kill of an earlier version's write
        starts = []
    start = {
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _commit(),
        "versions": {"atlf-jax": VERSION, "python": sys.version.split()[0]}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "mesh": dict(mesh.shape),
        "processes": jax.process_count(),
        "config": record,
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"starts": [*starts, start]}, indent=1))
    partial.replace(file)


def _commit() -> str:
    """Return the commit of a checkout, with "+" where files differ from it; empty where the package is installed."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
