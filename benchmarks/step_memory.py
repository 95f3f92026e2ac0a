"""Peak memory and time of one forward and backward step: ``python benchmarks/step_memory.py faithful 256 [--remat]``.

Prints one line; the peak is that of the whole process (``ru_maxrss``), so run one preset a process.
"""

import argparse
import dataclasses
import resource
import time

import jax
import jax.numpy as jnp

from atlf_jax.array_types import Measurement
from atlf_jax.models import PRESETS, build


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("size", type=int)
    parser.add_argument("--remat", action="store_true")
    arguments = parser.parse_args()
    config, n = PRESETS[arguments.preset](), arguments.size
    parts = {
        name: dataclasses.replace(getattr(config, name), remat=arguments.remat) for name in ("fusion", "reconstruction")
    }
    model = build(dataclasses.replace(config, **parts))
    key = jax.random.key(0)
    kspace = jax.random.normal(key, (1, n, n), jnp.complex64)
    measurement = Measurement(kspace, jnp.ones((1, 1, n), bool), jnp.ones((1, n, n)))
    variables = jax.jit(model.init)(key, measurement)

    def loss(variables, measurement):
        return jnp.square(jnp.abs(model.apply(variables, measurement).image)).mean()

    start = time.perf_counter()
    step = jax.jit(jax.grad(loss)).lower(variables, measurement).compile()
    compiled = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(step(variables, measurement))
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{arguments.preset} {n}x{n}{' remat' if arguments.remat else ''}: peak {peak:.2f} GiB, "
        f"step {min(times):.1f} s, compilation {compiled:.0f} s, jax {jax.__version__}"
    )


if __name__ == "__main__":
    main()
