"""Medians, spreads, slopes and tables; what the machine is."""

import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["busy_cores", "machine", "markdown", "median_and_iqr", "slope"]


def median_and_iqr(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the interquartile range; of one value, itself and 0."""
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, high - low


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the slope of log y against log x by least squares: the exponent of a power law."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


def markdown(rows: Sequence[dict[str, Any]], *, digits: int = 3) -> str:
    """Format rows of equal keys as a Markdown table: significant digits, numbers to the right, None a dash."""
    names = list(rows[0])
    cells = [[_cell(row[name], digits) for name in names] for row in rows]
    numeric = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    widths = [max(2, len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if n else t.ljust(w) for t, w, n in zip(texts, widths, numeric, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if n else "-" * w for w, n in zip(widths, numeric, strict=True)]
    return "\n".join([line(names), line(rule), *map(line, cells)])


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def machine() -> dict[str, Any]:
    """Say what the figures were measured on: processor, cores, memory, allocator, load."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "allocator": Path(os.environ.get("LD_PRELOAD", "") or "system malloc").name,
        "load": round(os.getloadavg()[0], 2),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def busy_cores(seconds: float = 1.0) -> float | None:
    """Return how many cores are kept busy by whatever runs now; None where the system does not tell (not Linux)."""
    if not Path("/proc/stat").exists():
        return None
    before = _core_seconds()
    time.sleep(seconds)
    return round((_core_seconds() - before) / seconds, 2)


def _core_seconds() -> float:
    user, nice, system, _, _, irq, soft_irq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
