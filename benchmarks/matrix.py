"""Try the package as users install it: its wheel in fresh environments, of each Python and the newest libraries.

``make test-matrix`` or ``python -m benchmarks.matrix [3.11 3.12 3.13]``: for each Python that uv finds or can get, the
wheel is installed outside the checkout with the newest allowed libraries; then the commands and a part of the tests
run. A row for each, with the versions that were met; the exit code is 1 where something failed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
TESTS = ("tests/ops", "tests/test_masks.py", "tests/test_metrics.py", "tests/trained/test_export.py")
SMALL = ("--train.reconstruction.steps=2", "--train.autoencode.steps=0", "--train.fusion.steps=0")
KSPACE = """import numpy as np, atlf_jax as atlf
mask = atlf.make_mask(atlf.MaskConfig(), (64, 64), seed=1)
head = atlf.data.PhantomSource(atlf.data.PhantomConfig(size=64))[4]
np.save("mask.npy", mask.samples), np.save("scan.npy", np.asarray(atlf.forward(head.target, mask))[None])
"""
VERSIONS = f"from importlib.metadata import version as v; print(*map(v, {LIBRARIES!r}))"


def main(argv: Sequence[str]) -> int:
    """Build the wheel, try it with each Python, print the table; return the exit code."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, cwd=Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        for python in argv or PYTHONS:
            rows.append(_row(python, wheel, Path(folder) / python))
            print("  ".join(rows[-1]), flush=True)
    header = ("python", *LIBRARIES, "demo", "train", "evaluate", "reconstruct", "export", "tests")
    print("\n" + "\n".join("| " + " | ".join(row) + " |" for row in (header, ("---",) * len(header), *rows)))
    return int(any("failed" in cell for row in rows for cell in row))


def _row(python: str, wheel: Path, folder: Path) -> tuple[str, ...]:
    """Return the cells of one Python: its version, those of the libraries, and the seconds of each step."""
    folder.mkdir()
    found = _interpreter(python)
    if not found:
        return (f"{python}: not here, and uv cannot get it", *("",) * (len(LIBRARIES) + 6))
    uv = (sys.executable, "-m", "uv")
    _run(*uv, "venv", "--quiet", "--no-project", "--python", found, folder / "venv", cwd=folder)
    inside = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    needs = (f"{wheel}[demo,export]", "pytest", "hypothesis", "scikit-image", "sigpy")
    _run(*uv, "pip", "install", "--quiet", "--upgrade", "--python", inside / "python", *needs, cwd=folder)
    exact = _run(inside / "python", "-c", "import platform; print(platform.python_version())", cwd=folder).strip()
    versions = _run(inside / "python", "-c", VERSIONS, cwd=folder).split()
    _run(inside / "python", "-c", KSPACE, cwd=folder)
    (folder / "tests").symlink_to(ROOT / "tests")  # the package itself is that of the wheel
    atlf, run = inside / "atlf", folder / "run"
    scan = ("scan.npy", "out.h5", "--checkpoint", run, "--sampling.file=mask.npy", "--force")
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", ROOT / "pyproject.toml")
    steps = (
        (atlf, "demo", "--check"),
        (atlf, "train", "phantom_smoke", f"--workdir={run}", *SMALL),
        (atlf, "evaluate", f"--checkpoint={run}", f"--out={folder / 'scores'}", "--panels=1"),
        (atlf, "reconstruct", *scan, "--kspace.first_axis", "slices"),
        (atlf, "export", "aanlib-best", "exported", "--shape", "64", "64"),
        (inside / "python", *pytest, f"--rootdir={folder}", "--durations=0", "-m", "not slow and not kill", *TESTS),
    )
    return (exact, *versions, *(_seconds(*step, cwd=folder) for step in steps))


def _interpreter(python: str) -> str:
    """Return the path of a Python that is here, or that uv fetches; empty where there is none."""
    uv = (sys.executable, "-m", "uv", "python")
    for command in (("find", "--no-project", python), ("install", python), ("find", "--no-project", python)):
        done = subprocess.run([*uv, *command], capture_output=True, text=True, cwd=tempfile.gettempdir())
        if done.returncode == 0 and command[0] == "find":
            return done.stdout.strip()
    return ""


def _seconds(*command: object, cwd: Path) -> str:
    start = time.perf_counter()
    try:
        _run(*command, cwd=cwd)
    except RuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        return "failed"
    return f"{time.perf_counter() - start:.0f} s"


def _run(*command: object, cwd: Path) -> str:
    """Run a command away from the checkout and return what it printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr + done.stdout)[-1500:]
        raise RuntimeError(f"{' '.join(str(part) for part in command[:4])} ... failed:\n{said}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
