"""Compile networks for GPUs that are not there: ``python -m benchmarks.compile_for_gpu --out=runs/gpu``.

Needs the CUDA plugin of JAX, ``pip install 'atlf-jax[cuda12]'`` or ``[cuda13]``, and neither a GPU nor a driver; on the
CPU of this machine a training step of ``faithful`` takes some minutes and 4 GiB of memory. XLA chooses without trying
variants out, so a program on a real card may differ in its matrix products and convolutions.

A row says whether the program compiles, the temporaries that XLA plans, kernels, library calls, loops, collectives and
their bytes, FLOP and bytes by the program's own text, and two times: "roofline", of all FLOP and bytes at the card's
published rates, and "model", of one operation after the other, each at least a launch of 2.5 us. Both are bounds from
below, not measurements: ``benchmarks.accelerator`` measures.

Tasks: inference; gradient, of the mean square error; step, the whole program of ``train.py`` with Adam, averages and
norms. With ``--devices`` the batch is split over as many cards, of ``--hosts`` machines.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # where constants are computed; programs are compiled for the card below
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the plugin says that there is no driver

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from atlf_jax.array_types import Batch, Measurement
from atlf_jax.models import build
from atlf_jax.nn.backend import formulated_for
from atlf_jax.objectives import Supervised
from atlf_jax.training import Span, Stage, TrainConfig
from atlf_jax.training.sharding import AXES
from atlf_jax.training.step import TrainState, compile_stage
from benchmarks.gpu_program import CARDS, read_program
from benchmarks.ours import configure
from benchmarks.table import markdown

TASKS = ("inference", "gradient", "step")
GIB = 2**30


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_for_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--presets", nargs="+", default=["faithful"], choices=["faithful", "robust", "compact", "best", "istanet_plus"])
    add("--tasks", nargs="+", default=["inference", "gradient"], choices=TASKS)
    add("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    add("--batches", nargs="+", type=int, default=[1], help="over all devices")
    add("--size", type=int, default=256, help="height and width in pixels")
    add("--cards", nargs="+", default=["h200"], choices=list(CARDS))
    add("--devices", type=int, default=1)
    add("--hosts", type=int, default=1)
    add("--parameter-shards", type=int, default=1, help="as train.parameter_shards")
    add("--remat", action="store_true", help="recompute in the backward pass")
    add("--out", type=Path, required=True, help="folder for table.md, results.json and the programs' texts")
    arguments = parser.parse_args(argv)
    if arguments.devices % arguments.hosts or arguments.devices % arguments.parameter_shards:
        parser.error("--devices must be a multiple of --hosts and of --parameter-shards")
    if any(batch % arguments.devices for batch in arguments.batches):
        parser.error("--batches must be multiples of --devices")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Compile every case; write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    (out / "programs").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for card in arguments.cards:
        mesh = mesh_of(card, arguments.devices, arguments.hosts, arguments.parameter_shards)
        for preset in arguments.presets:
            for task in arguments.tasks:
                for dtype in arguments.dtypes:
                    for batch in arguments.batches:
                        case = {"card": card, "network": preset, "task": task, "dtype": dtype, "batch": batch}
                        case |= {"devices": f"{arguments.devices} of {arguments.hosts}", "remat": arguments.remat}
                        name = "-".join(str(value).replace(" ", "") for value in case.values())
                        row = case | measure(case, arguments, mesh, out / "programs" / f"{name}.txt")
                        rows.append(row)
                        print(row, flush=True)
                        (out / "results.json").write_text(json.dumps(rows, indent=1))
                        (out / "table.md").write_text(f"jax {jax.__version__}\n\n{markdown(rows)}\n")
    print((out / "table.md").read_text())


def mesh_of(card: str, devices: int, hosts: int, parameter_shards: int = 1) -> Mesh:
    """Return a mesh, as training's, of cards that are described and not there.

    Raises:
        SystemExit: the CUDA plugin of JAX is not installed.
    """
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=CARDS[card].description,
            topology=f"1x{hosts}x{devices // hosts}",
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise SystemExit(
            f"no compiler for CUDA here ({str(error).splitlines()[0]}); pip install 'atlf-jax[cuda12]' or '[cuda13]'"
        ) from error
    return Mesh(np.array(described.devices).reshape(-1, parameter_shards), AXES)


def measure(case: dict[str, Any], arguments: argparse.Namespace, mesh: Mesh, file: Path) -> dict[str, Any]:
    """Compile one case and read its program; its text is kept."""
    card = CARDS[case["card"]]
    config = configure(case["network"], remat=case["remat"], dtype=case["dtype"])
    start = time.perf_counter()
    try:
        with formulated_for("cuda"), jax.set_mesh(mesh):
            lowered = lower(case["task"], build(config), mesh, case["batch"], arguments.size)
            program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # too large for the card, or a fault of the compiler
        return {"compiles": "no", "note": " ".join(str(error).split())[:120]}
    text = program.as_text()
    file.write_text(text)
    counts = read_program(text, card, bfloat16=case["dtype"] == "bfloat16")
    memory = program.memory_analysis()
    return {
        "compiles": f"{time.perf_counter() - start:.0f} s",
        "temporaries GiB": memory.temp_size_in_bytes / GIB,
        "arguments GiB": memory.argument_size_in_bytes / GIB,
        "kernels": counts.kernels,
        "library calls": sum(counts.library.values()),
        "loops": counts.loops,
        "copies": counts.copies,
        "collectives": sum(counts.collectives.values()),
        "collective MB": counts.collective_bytes / 1e6,
        "TFLOP": counts.flop / 1e12,
        "GB": counts.bytes / 1e9,
        "roofline ms": counts.roofline_seconds * 1e3,
        "model ms": counts.model_seconds * 1e3,
        "note": ", ".join(f"{number} {name}" for name, number in counts.collectives.items()),
    }


def lower(task: str, model: Any, mesh: Mesh, batch: int, size: int) -> Any:
    """Return the program of a task, traced for the cards of a mesh."""
    shape = jax.ShapeDtypeStruct
    image, real = shape((batch, size, size), jnp.complex64), shape((batch, size, size), jnp.float32)
    measurement = Measurement(image, shape((batch, 1, size), bool), real, None)
    whole = Batch(measurement, image, shape((batch,), jnp.float32), shape((batch,), jnp.int32))

    def init() -> Any:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), measurement)
        return model.init(jax.random.key(0), zeros)

    variables = jax.eval_shape(init)

    def loss(variables: Any, batch: Batch) -> Any:
        return jnp.mean(jnp.abs(model.apply(variables, batch.measurement).image - batch.target) ** 2)

    if task == "step":
        config = TrainConfig(batch_size=batch, parameter_shards=mesh.shape[AXES[1]])
        span = Span(Stage("reconstruction", Supervised(), steps=100), 0, 100)
        programs = compile_stage(span, config=config, model=model, mesh=mesh)
        params = variables["params"]
        others = {name: tree for name, tree in variables.items() if name != "params"}
        state = TrainState(shape((), jnp.int32), params, params, others, ())
        return programs.step.lower(jax.eval_shape(programs.begin, state), whole)
    function = jax.value_and_grad(loss) if task == "gradient" else lambda v, b: model.apply(v, b.measurement).image
    everywhere, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXES))
    return jax.jit(function, in_shardings=(everywhere, split)).lower(variables, whole)


if __name__ == "__main__":
    main()
