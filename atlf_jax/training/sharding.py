"""Data parallelism: one mesh axis "data"; batches are split along it, everything else is replicated."""

from collections.abc import Sequence
from typing import Any

import jax

from atlf_jax.array_types import Batch

__all__ = ["data_mesh", "place", "replicated", "split"]


def data_mesh(*, batch_size: int, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Return the one-axis mesh over which batches are split.

    Args:
        batch_size: examples in a batch; must be a multiple of the number of devices.
        devices: the devices to use; all by default.

    Raises:
        ValueError: the batch cannot be split evenly.

    Example:
        >>> dict(data_mesh(batch_size=3, devices=jax.devices()[:1]).shape)
        {'data': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {len(devices)} devices: "
            f"give a multiple of {len(devices)}, or show fewer devices to JAX"
        )
    # Auto: under the default (Explicit) the window reshapes of attention are refused.
    return jax.make_mesh((len(devices),), ("data",), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    """Return the sharding of parameters and optimiser state: a copy on every device."""
    return jax.NamedSharding(mesh, jax.P())


def split(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    """Return the sharding of batches: split along the first axis."""
    return jax.NamedSharding(mesh, jax.P("data"))


def place(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
    """Move this process's part of a batch (numpy leaves) to the devices of the mesh."""

    def move(leaf: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(split(mesh), leaf)

    return jax.tree.map(move, batch)
