"""Time our solvers against sigpy's: ``python -m benchmarks.solvers --out=runs/solvers``.

The Shepp-Logan phantom, birdcage coils, equispaced lines at 4x with 24 central ones; the same objective and number of
iterations, on the same cores, taking turns; a ratio is ours over sigpy's within one round. sigpy's time is its whole
run, estimating its steps included; ours leaves out the compilation. ``objective`` is sigpy's own, of both images: the
lower, the further an algorithm has come. BART's ``pics`` is timed too where ``bart`` is installed, with its own
wavelet (db2) and its process and files included. Needs the extra ``bench``.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.ops import birdcage_maps, forward
from atlf_jax.solvers import l1_wavelet, total_variation
from benchmarks.table import busy_cores, machine, markdown, median_and_iqr

SOLVERS = {  # ours, sigpy's, BART's
    "total_variation": (total_variation, "TotalVariationRecon", "T:3:0"),
    "l1_wavelet": (l1_wavelet, "L1WaveletRecon", "W:3:0"),
}
LAMBDA = 0.002


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.solvers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    add("--size", type=int, default=256, help="height and width")
    add("--coils", nargs="+", type=int, default=[1, 8])
    add("--iterations", type=int, default=100)
    add("--rounds", type=int, default=5)
    add("--out", type=Path, required=True, help="folder for table.md and results.json")
    arguments = parser.parse_args(argv)
    if min(arguments.coils + [arguments.size, arguments.iterations, arguments.rounds]) < 1:
        parser.error("size, coils, iterations and rounds must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    others = busy_cores()
    rows, raw = [], []
    for name in arguments.solvers:
        for coils in arguments.coils:
            seconds, objectives = compare(name, arguments.size, coils, arguments.iterations, arguments.rounds)
            case = {"solver": name, "coils": coils, "size": arguments.size, "iterations": arguments.iterations}
            raw.append(case | {"seconds": seconds, "objectives": objectives})
            rows += rows_of(case, seconds, objectives)
    versions = {package: version(package) for package in ("jax", "jaxlib", "sigpy", "numpy")}
    about = machine() | {"busy_cores": others}
    (out / "results.json").write_text(json.dumps({"machine": about, "versions": versions, "cases": raw}, indent=1))
    text = "\n\n".join([", ".join(f"{k} {v}" for k, v in (about | versions).items() if v != ""), markdown(rows)])
    if not shutil.which("bart"):
        text += "\n\nBART is not installed, so it is not compared with."
    (out / "table.md").write_text(text + "\n")
    print(text)


def compare(
    name: str, size: int, coils: int, iterations: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Let the contestants take turns; return the seconds of each round and the objective reached, by contestant."""
    import sigpy
    from sigpy.mri import app as apps

    solve, app_name, penalty = SOLVERS[name]
    image = jnp.asarray(sigpy.shepp_logan((size, size)), jnp.complex64)
    mask = jnp.asarray(make_mask(MaskConfig("equispaced", 4, center_lines=24), (size, size), seed=0).samples)
    maps = birdcage_maps((size, size), coils) if coils > 1 else jnp.ones((1, size, size), jnp.complex64)
    kspace = forward(image, mask, maps)
    one = coils == 1  # without maps, as a user has it
    arguments = (kspace[0], mask) if one else (kspace, mask, maps)
    measured, known = np.asarray(kspace), np.asarray(maps)

    def ours() -> np.ndarray:
        return np.asarray(jax.block_until_ready(solve(*arguments, regularisation=LAMBDA, iterations=iterations)))

    def sigpys() -> np.ndarray:
        return new_app().run()

    def new_app() -> Any:
        return getattr(apps, app_name)(measured, known, LAMBDA, max_iter=iterations, show_pbar=False)

    contestants: dict[str, Callable[[], np.ndarray]] = {"ours": ours, "sigpy": sigpys}
    if shutil.which("bart"):
        contestants["bart"] = partial(bart, measured, known, penalty, iterations)
    images = {contestant: run() for contestant, run in contestants.items()}  # compiles
    objectives, judge = {}, new_app()
    for contestant, result in images.items():
        judge.x = np.array(result)
        objectives[contestant] = float(judge.objective())
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[contestant].append(time.perf_counter() - start)
    return seconds, objectives


def bart(kspace: np.ndarray, maps: np.ndarray, penalty: str, iterations: int) -> np.ndarray:
    """Reconstruct by BART's ``pics``, which takes axes (readout, phase, slice, coil) in column-major files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("kspace", kspace), ("maps", maps)):
            axes = array.transpose(1, 2, 0)[:, :, None]  # [c h w] -> [h w 1 c]
            Path(folder, f"{name}.hdr").write_text(f"# Dimensions\n{' '.join(map(str, axes.shape))}\n")
            axes.astype(np.complex64).ravel(order="F").tofile(Path(folder, f"{name}.cfl"))
        options = ["-S", "-w", "1", "-i", str(iterations), "-R", f"{penalty}:{LAMBDA}"]
        subprocess.run(["bart", "pics", *options, "kspace", "maps", "out"], cwd=folder, check=True, capture_output=True)
        image = np.fromfile(Path(folder, "out.cfl"), np.complex64)
    return image.reshape(kspace.shape[-2:], order="F")


def rows_of(
    case: dict[str, Any], seconds: dict[str, list[float]], objectives: dict[str, float]
) -> list[dict[str, Any]]:
    """Return the table's rows of one case: ours, then each peer with our ratio over it."""
    rows = []
    for contestant, times in seconds.items():
        row: dict[str, Any] = case | {"contestant": contestant}
        row["median s"], row["iqr s"] = median_and_iqr(times)
        row |= {"ours/it": None, "iqr": None, "objective": objectives[contestant]}
        if contestant != "ours":
            row["ours/it"], row["iqr"] = median_and_iqr([a / b for a, b in zip(seconds["ours"], times, strict=True)])
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
