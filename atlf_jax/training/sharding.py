"""Where arrays lie: batches are split over all devices; parameters are copied to each, or divided among some (FSDP).

The mesh has two axes. Batches are split along both. Along ``parameters``, which has one device unless
``train.parameter_shards`` says otherwise, large parameters and their optimiser state are divided too: they are gathered
when they are used, and their gradients are summed into the parts.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from atlf_jax.array_types import Array

__all__ = ["data_mesh", "divided", "own_rows", "place", "put", "replicated", "split"]

AXES = ("data", "parameters")
SMALLEST_DIVIDED = 2**16  # elements of an array: smaller ones are copied, since a message costs more than they do


def data_mesh(
    *, batch_size: int, devices: Sequence[jax.Device] | None = None, parameter_shards: int = 1
) -> jax.sharding.Mesh:
    """Return the mesh over which batches are split.

    Args:
        batch_size: examples in a batch; must be a multiple of the number of devices.
        devices: the devices to use; all by default, those of all processes.
        parameter_shards: devices among which parameters are divided; must divide the number of devices.

    Raises:
        ValueError: the batch or the parameters cannot be split evenly.

    Example:
        >>> dict(data_mesh(batch_size=3, devices=jax.devices()[:1]).shape)
        {'data': 1, 'parameters': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {len(devices)} devices: "
            f"give a multiple of {len(devices)}, or show fewer devices to JAX"
        )
    if len(devices) % parameter_shards:
        raise ValueError(
            f"train.parameter_shards is {parameter_shards} and there are {len(devices)} devices; give a divisor of "
            f"{len(devices)}"
        )
    # Auto: under the default (Explicit) the window reshapes of attention are refused.
    auto = jax.sharding.AxisType.Auto
    shape = (len(devices) // parameter_shards, parameter_shards)
    return jax.make_mesh(shape, AXES, devices=devices, axis_types=(auto, auto))


def replicated(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    """Return the sharding of what every device has a copy of."""
    return jax.NamedSharding(mesh, jax.P())


def split(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    """Return the sharding of batches: split along the first axis."""
    return jax.NamedSharding(mesh, jax.P(AXES))


def divided(mesh: jax.sharding.Mesh, rules: Sequence[tuple[str, int]] = ()) -> Callable[[Any], Any] | None:
    """Return a function that divides the arrays of a tree within a compiled program; None where none are.

    An array of ``SMALLEST_DIVIDED`` elements or more is divided along the largest axis that the devices divide.

    Args:
        mesh: of ``data_mesh``.
        rules: exceptions, as pairs of a pattern of parameter names and an axis; the first that matches holds, and -1
            copies the array to every device. An optimiser's array has the name of its parameter.
    """
    shards = mesh.shape[AXES[1]]
    if shards == 1:
        return None

    def constrain(path: tuple[Any, ...], leaf: Array) -> Array:
        name = "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        axis = _axis(name, leaf.shape, shards, rules)
        spec = jax.P() if axis < 0 else jax.P(*[None] * axis, AXES[1])
        return jax.lax.with_sharding_constraint(leaf, jax.NamedSharding(mesh, spec))

    return lambda tree: jax.tree_util.tree_map_with_path(constrain, tree)


def _axis(name: str, shape: tuple[int, ...], shards: int, rules: Sequence[tuple[str, int]]) -> int:
    """Return the axis along which an array is divided, -1 for none."""
    chosen = next((axis for pattern, axis in rules if fnmatchcase(name, pattern)), None)
    if chosen is not None:
        if chosen >= len(shape):
            return -1  # a scalar of the optimiser that has the parameter's name
        if chosen >= 0 and shape[chosen] % shards:
            raise ValueError(
                f"train.shard_rules divides axis {chosen} of {name}, of shape {shape}, among {shards} devices; give an "
                "axis that they divide, or -1"
            )
        return chosen
    whole = [axis for axis, length in enumerate(shape) if length % shards == 0]
    if not whole or int(np.prod(shape)) < SMALLEST_DIVIDED:
        return -1
    return max(whole, key=lambda axis: shape[axis])


def own_rows(mesh: jax.sharding.Mesh, batch_size: int) -> tuple[int, int]:
    """Return the rows of a batch that lie on devices of this process, as (first, number); all where it is alone.

    Args:
        mesh: of ``data_mesh``.
        batch_size: of all devices.

    Raises:
        ValueError: this process has no devices in the mesh, or they are not neighbours in it.
    """
    indices = [index for index in split(mesh).addressable_devices_indices_map((batch_size,)).values() if index]
    rows = sorted(row for (rows_of_device,) in indices for row in range(*rows_of_device.indices(batch_size)))
    if not rows or rows != list(range(rows[0], rows[0] + len(rows))):
        raise ValueError("every process must have devices of its own, next to each other in the mesh")
    return rows[0], len(rows)


def place(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Move this process's rows of a batch (numpy leaves) to the devices of the mesh."""

    def move(leaf: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(split(mesh), leaf)

    with jax.transfer_guard("allow"):
        return jax.tree.map(move, batch)


def put(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Return an array that every process holds whole as one array on the devices of all."""
    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
