"""Where arrays live: one mesh axis, `data`; batches split along it, everything else replicated.

The same code serves one device and many, one process and many: a mesh of one is no special case.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .errors import ArgumentError

AXIS = "data"
"""The name of the one axis of a mesh."""


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices of all processes (or of `devices`) along the axis `data`.

    Its axis is `Auto`: under `jax.jit` XLA places the collectives, so a program written for
    the whole batch computes the same on any number of devices.

    Args:
        devices: None: all of all processes.

    Example:
        >>> make_mesh(jax.devices()[:1]).shape["data"]
        1
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array.

    Args:
        mesh: the devices.

    Example:
        >>> place = replicated(make_mesh())
        >>> jax.device_put(np.zeros(3), place).is_fully_replicated
        True
    """
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh) -> NamedSharding:
    """The first axis is cut into equal parts, one a device.

    Args:
        mesh: the devices.

    Example:
        >>> mesh = make_mesh()
        >>> rows = jax.device_put(np.zeros((2 * mesh.size, 3)), split_rows(mesh))
        >>> rows.addressable_shards[0].data.shape
        (2, 3)
    """
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_mesh(mesh: Mesh) -> None:
    """Refuse a mesh over which a training step is not split as it should be.

    Args:
        mesh: the devices.

    Raises:
        ArgumentError: it has no axis `data`, or the axis is Explicit, as `jax.make_mesh` makes it.

    Example:
        >>> check_mesh(make_mesh(jax.devices()[:1]))
    """
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get(AXIS) != AxisType.Auto:
        found = ", ".join(f"{name} ({kind.name})" for name, kind in kinds.items())
        raise ArgumentError(
            "mesh",
            f"found the axes {found}; allowed: an axis {AXIS} that is Auto, as sharding.make_mesh "
            "makes it: the compiler places what a step of a whole network needs. Losses take "
            "Explicit axes too.",
        )


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuse a batch that the devices cannot share equally.

    Args:
        batch_size: examples of all devices together, at least 1.
        mesh: the devices.

    Raises:
        ArgumentError: naming both numbers and the nearest batch sizes that work.

    Example:
        >>> check_batch_size(256, make_mesh(jax.devices()[:1]))
    """
    devices = mesh.size
    if batch_size % devices:
        lower = batch_size - batch_size % devices
        nearest = [size for size in (lower, lower + devices) if size > 0]
        raise ArgumentError(
            "batch_size",
            f"found {batch_size}, which {devices} devices cannot share equally; allowed: a "
            f"multiple of {devices}, the nearest: {' or '.join(map(str, nearest))}.",
        )


def check_micro_batches(micro_batches: int, batch_size: int, mesh: Mesh) -> None:
    """Refuse micro-batches that do not cut the share of each device equally.

    Args:
        micro_batches: how many, at least 1.
        batch_size: as for `check_batch_size`.
        mesh: the devices.

    Raises:
        ArgumentError: as `check_batch_size`; or naming the numbers and what is to be divided.

    Example:
        >>> check_micro_batches(4, 256, make_mesh(jax.devices()[:1]))
    """
    check_batch_size(batch_size, mesh)
    if batch_size % (micro_batches * mesh.size):
        raise ArgumentError(
            "micro_batches",
            f"found {micro_batches} with a batch of {batch_size} on {mesh.size} devices; allowed: "
            f"a divisor of the {batch_size // mesh.size} examples of each device.",
        )


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a batch onto the mesh as parts of the global batch.

    Args:
        batch: arrays by name, each with a row an example of this process.
        mesh: the devices, of all processes.

    Raises:
        ArgumentError: the devices cannot share the rows equally.

    Example:
        >>> mesh = make_mesh()
        >>> batch = shard_batch({"label": np.arange(2 * mesh.size)}, mesh)
        >>> batch["label"].shape == (2 * mesh.size,)
        True
    """
    for rows in {len(x) for x in batch.values()}:
        check_batch_size(rows * jax.process_count(), mesh)
    sharding = split_rows(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
