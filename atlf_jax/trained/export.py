"""A trained network as a program that runs without this package: StableHLO, a card, and arrays to check it with."""

import contextlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from beartype import beartype
from jax import export as jax_export
from jax import lax

from atlf_jax.array_types import Array, Measurement
from atlf_jax.config import Config
from atlf_jax.data.files import sha256_of, write_file
from atlf_jax.data.transforms import ct_shape
from atlf_jax.models import ModelConfig, build, multiple_of
from atlf_jax.nn.backend import formulated_for
from atlf_jax.ops import adjoint, birdcage_maps, forward
from atlf_jax.program import VERSION
from atlf_jax.trained.guards import trained_for
from atlf_jax.trained.inference import for_any_size, in_turn, mirror_average

__all__ = ["CARD", "CHECK", "FORMAT", "PLATFORMS", "PROGRAM", "write"]

FORMAT = 1  # of the folder
PLATFORMS = ("cpu", "cuda")
PROGRAM, CARD, CHECK = "network.jax_export", "card.json", "check.npz"
CHECK_COILS = 4
RUN = """import jax, numpy as np
from jax import export
network = export.deserialize(bytearray(open("network.jax_export", "rb").read()))
check = np.load("check.npz")
image = jax.jit(network.call)(*(check[name] for name in {names}))
assert np.abs(image - check["image"]).max() <= 1e-4 * np.abs(check["image"]).max()
"""


@beartype
def write(
    folder: str | Path,
    config: Config,
    variables: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    shape: tuple[int, int] = (256, 256),
    coils: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a network as a program for CPU and CUDA that needs neither this package nor Flax (``Network.export``).

    Args:
        folder: it will hold the program, ``card.json`` and ``check.npz``.
        config: of the network.
        variables: of the network.
        facts: of the network.
        shape: rows and columns of the images.
        coils: k-space has a coil axis, and coil maps are one more argument.
        overwrite: replace the files of an earlier export.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds files already, or a side is not positive.
        ImportError: flatbuffers, which ``jax.export`` writes with, is not installed.
    """
    folder = Path(folder)
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}; wanted rows and columns of the images, such as (256, 256)")
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; choose another folder, or replace its files with --overwrite")
    windows = len(config.data.ct_windows) or 1
    arguments = _arguments(shape, windows, coils=coils)
    run = partial(_run, config.model, mirrors=bool(facts.get("mirror_average", False)))
    program = _program(run, variables, arguments)
    check: dict[str, Any] = _check_arrays(shape, windows, coils=coils)
    check["image"] = np.asarray(jax.jit(run)(variables, *check.values()))
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / PROGRAM, program)
    with (folder / CHECK).open("wb") as file:
        np.savez_compressed(file, **check)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    card = _card(config, facts, arguments, parameters, {name: sha256_of(folder / name) for name in (PROGRAM, CHECK)})
    write_file(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
    return folder


def _arguments(shape: tuple[int, int], windows: int, *, coils: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Return names, shapes and dtypes of what the program takes; batch and number of coils are free.

    Height and width are fixed: StableHLO has no Fourier transform of a length that is not known (openxla/stablehlo,
    issue 1366).
    """
    b, c = jax_export.symbolic_shape("b, c")
    of_coils = (b, c, *shape) if coils else (b, *shape)
    found = {
        "kspace": jax.ShapeDtypeStruct(of_coils, jnp.complex64),
        "mask": jax.ShapeDtypeStruct((b, *shape), jnp.bool_),
        "ct": jax.ShapeDtypeStruct((b, *ct_shape(windows, shape)), jnp.float32),
    }
    return found | ({"coil_maps": jax.ShapeDtypeStruct(of_coils, jnp.complex64)} if coils else {})


def _program(reconstruct: Callable[..., Array], variables: Any, arguments: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
    def run(*arrays: Array) -> Array:
        def formulated(platform: str, variables: Any, *arrays: Array) -> Array:
            with formulated_for(platform):
                return reconstruct(variables, *arrays)

        branches = {platform: partial(formulated, platform) for platform in PLATFORMS}
        return lax.platform_dependent(variables, *arrays, **branches)  # the variables are in the program once

    with _symbolic_shapes():
        exported = jax_export.export(jax.jit(run), platforms=PLATFORMS)(*arguments.values())
    return bytes(exported.serialize())


def _run(
    model: ModelConfig, variables: Mapping[str, Any], kspace: Array, mask: Array, ct: Array, *maps: Array, mirrors: bool
) -> Array:
    """Reconstruct as ``atlf.reconstruct`` does: divide by ``max|A^H y|``, call the network, give the units back."""
    coil_maps = maps[0] if maps else None
    kspace = jnp.where(mask[:, None] if maps else mask, kspace, 0)
    scale = jnp.abs(adjoint(kspace, mask, coil_maps)).max((-2, -1), keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    measurement = Measurement(kspace / (scale[:, None] if maps else scale), mask, ct, coil_maps)
    network = partial(in_turn, partial(build(model).apply, variables))
    network = partial(for_any_size, network, multiple=multiple_of(model))
    image = (mirror_average(network) if mirrors else network)(measurement).image * scale
    return image if coil_maps is None else jnp.where((coil_maps != 0).any(1), image, 0)


@contextlib.contextmanager
def _symbolic_shapes() -> Iterator[None]:
    """Do without the checks of shapes, which take a symbol for a wrong number."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _check_arrays(shape: tuple[int, int], windows: int, *, coils: bool) -> dict[str, np.ndarray]:
    """Return arguments for two images with noise: where nothing varies, networks magnify rounding errors."""
    h, w = shape
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    bump = np.exp(-2 * (x**2 + y**2))
    images = np.stack([bump * (1 + 0.5 * np.cos(9 * x + k) * np.cos(7 * y)) for k in range(2)])
    images = (images + 0.01 * np.random.default_rng(0).standard_normal(images.shape)).astype(np.complex64)
    columns = (np.arange(w) % 3 == 0) | (np.abs(np.arange(w) - w // 2) <= w // 24)
    mask = np.broadcast_to(columns, (2, h, w)).copy()
    maps = np.broadcast_to(np.asarray(birdcage_maps(shape, CHECK_COILS)), (2, CHECK_COILS, h, w)) if coils else None
    ct = np.broadcast_to(0.5 * bump, (2, *ct_shape(windows, shape)))
    kspace = np.asarray(forward(images, mask, maps), np.complex64) * 1000
    found = {"kspace": kspace, "mask": mask, "ct": np.ascontiguousarray(ct, np.float32)}
    return found | ({} if maps is None else {"coil_maps": np.ascontiguousarray(maps, np.complex64)})


def _card(
    config: Config,
    facts: Mapping[str, Any],
    arguments: Mapping[str, jax.ShapeDtypeStruct],
    parameters: int,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a reader needs in order to use the program rightly."""
    trained = trained_for(config)
    meanings = {
        "kspace": "centred: zero frequency at index n // 2, orthonormal transform; any unit, which the image keeps",
        "mask": "true = acquired, zero frequency at index n // 2; k-space off the mask is ignored",
        "ct": f"in [0, 1] on the MR grid, zeros where there is none; windows: {', '.join(trained.windows) or 'one'}",
        "coil_maps": "sensitivities S_c with sum |S_c|^2 = 1, zero where no coil sees anything",
    }
    described = [
        {"name": name, "shape": [_side(n) for n in spec.shape], "dtype": str(spec.dtype), "meaning": meanings[name]}
        for name, spec in arguments.items()
    ]
    spec = arguments["mask"]
    image = "the image, in the unit of k-space" + (
        "; real: the network was trained on images without phase, take it off before" if trained.real_image else ""
    )
    return {
        "format": FORMAT,
        "warning": "For research only: this is no medical device. Never base a finding on its images.",
        "network": config.name,
        "parameters": parameters,
        "step": facts.get("step"),
        "arguments": described,
        "result": {"shape": [_side(n) for n in spec.shape], "dtype": "complex64", "meaning": image},
        "trained_for": {name: _plain(value) for name, value in trained._asdict().items()},
        "platforms": list(PLATFORMS),
        "versions": {"atlf-jax": VERSION} | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        "readable_by": "the jax that wrote it and later ones, for at least six months (documentation of jax.export)",
        "needs": ["jax", "flatbuffers", "numpy"],
        "sha256": dict(files),
        "run": RUN.format(names=repr(tuple(arguments))),
    }


def _side(side: Any) -> int | str:
    return side if isinstance(side, int) else str(side)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in vars(value).items()} if hasattr(value, "__dict__") else value
