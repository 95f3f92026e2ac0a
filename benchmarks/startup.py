"""Start-up and recompilation: ``python -m benchmarks.startup --out=runs/startup``.

* seconds of ``import atlf_jax``, which loads names when first used, and of JAX and Flax alone, in fresh processes;
* seconds from a cold process to the first reconstruction, with all that is imported on the way, by a network with
  random weights and the persistent compilation cache: empty at first, then filled by that run;
* how many programs a new mask, a new slice and the last, smaller batch compile.

Python keeps the bytecode of what the first process imports, unless PYTHONDONTWRITEBYTECODE is set and the environment
was installed without it (``make`` compiles it): JAX and Flax then take a second longer each time.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import machine, markdown, median_and_iqr

ROOT = Path(__file__).resolve().parent.parent

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
IMPORTED = ("atlf_jax", "jax, flax.linen")

DRAW = "from benchmarks.startup import draw; draw({path!r}, {preset!r}, {size})"
FIRST = "from benchmarks.startup import first_reconstruction; first_reconstruction({path!r})"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", default="compact", choices=["faithful", "robust", "published", "compact", "istanet_plus"])
    add("--size", type=int, default=256, help="height and width")
    add("--repeats", type=int, default=5, help="fresh processes for each figure")
    add("--out", type=Path, required=True, help="folder for table.md and results.json")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1 or arguments.size < 1:
        parser.error("repeats and size must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    imports = {name: [float(run(IMPORT.format(name))) for _ in range(arguments.repeats)] for name in IMPORTED}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.pickle")
        run(DRAW.format(path=path, preset=arguments.preset, size=arguments.size))
        first = FIRST.format(path=path)
        cold = json.loads(run(first, cache=folder))
        warm = [json.loads(run(first, cache=folder)) for _ in range(arguments.repeats)]
    results = {"machine": machine(), "imports": imports, "cold": cold, "warm": warm}
    (out / "results.json").write_text(json.dumps(results, indent=1))
    text = report(results, arguments.preset, arguments.size)
    (out / "table.md").write_text(text)
    print(text)


def draw(path: str, preset: str, size: int) -> None:
    """Write a network, its weights and what it is to reconstruct to a file."""
    import atlf_jax as atlf
    from benchmarks.case import make_inputs
    from benchmarks.ours import configure, draw_parameters

    kspace, mask, ct, *_ = make_inputs(size, 5)
    config = configure(preset)
    params = draw_parameters(atlf.build(config), atlf.Measurement(kspace[:1], mask[:1], ct[:1]))
    Path(path).write_bytes(pickle.dumps((config, params, kspace, mask, ct)))
    print(path)


def first_reconstruction(path: str) -> None:
    """Reconstruct a first slice, then others; print the seconds to the first and the programs that each compiled."""
    start = time.perf_counter()
    import jax

    import atlf_jax as atlf

    compiled = 0

    def count(name: str, seconds: float, **_: Any) -> None:
        nonlocal compiled
        compiled += name == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    config, params, kspace, mask, ct = pickle.loads(Path(path).read_bytes())
    network = atlf.build(config)
    model = jax.jit(jax.tree_util.Partial(network.apply, {"params": params}))  # as load_model returns it

    def reconstruct(slices: slice) -> int:
        before = compiled
        atlf.reconstruct(kspace[slices], mask[slices], ct=ct[slices], model=model)
        return compiled - before

    counts = {"the first slice": reconstruct(slice(0, 1))}
    seconds = time.perf_counter() - start
    counts["a new slice and mask"] = reconstruct(slice(1, 2))
    counts["two slices"] = reconstruct(slice(2, 4))
    counts["the last slice, alone"] = reconstruct(slice(4, 5))
    print(json.dumps({"seconds": seconds, "compiled": counts}))


def run(code: str, *, cache: str | None = None) -> str:
    """Run code in a fresh process and return its last line."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a fresh process failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def report(results: dict[str, Any], preset: str, size: int) -> str:
    """Return the two tables: seconds, and programs compiled."""
    figures = {
        **{f"import {name}": seconds for name, seconds in results["imports"].items()},
        f"first {size}x{size} {preset}, empty compilation cache": [results["cold"]["seconds"]],
        f"first {size}x{size} {preset}, warm compilation cache": [warm["seconds"] for warm in results["warm"]],
    }
    rows: list[dict[str, Any]] = []
    for name, seconds in figures.items():
        middle, spread = median_and_iqr(seconds)
        rows.append({"from a cold process": name, "median s": middle, "iqr s": spread, "runs": len(seconds)})
    compiled = [{"then": name, "programs compiled": n} for name, n in results["cold"]["compiled"].items()]
    about = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if value != "")
    return f"{about}\n\n{markdown(rows)}\n\n{markdown(compiled)}\n"


if __name__ == "__main__":
    main()
