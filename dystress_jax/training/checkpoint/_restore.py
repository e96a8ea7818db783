"""Bring a checkpoint back, and check that it is what was saved."""

import gc
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ...files import told
from ._fingerprint import PyTree, fingerprint
from ._orbax import CheckpointError, path_of, quiet, reading
from ._records import VERSION, Record, of_another_version, read, scores_in, steps


class Restored(NamedTuple):
    """What came back from disk.

    Attributes:
        step: steps done.
        state: the arrays.
        record: what was saved beside them.
        damaged: checkpoints that cannot be read: the reason, and where each is now.
        scores: of the checkpoints whose record was read and has one, as `scores` has them.
    """

    step: int
    state: PyTree
    record: Record
    damaged: list[tuple[str, pathlib.Path]]
    scores: dict[int, float]


def restore(directory: pathlib.Path, step: int, abstract: PyTree) -> Restored:
    """Read one checkpoint and check it.

    Args:
        directory: of all checkpoints.
        step: which one, at least 0.
        abstract: the state's shapes, types and placement.

    Returns:
        The state on its devices, and the record.

    Raises:
        CheckpointError: it cannot be read, or its fingerprint does not fit.

    Example:
        >>> from dystress_jax.training.checkpoint import Saver
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        >>> abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
        >>> restore(directory, 10, abstract).state
        {'w': Array([1., 1., 1.], dtype=float32)}
    """
    metadata, record = read(directory, step)
    if record["version"] != VERSION:
        raise of_another_version(directory)
    with reading(directory, step):
        _check_shapes(metadata.metadata["train"]["state"], abstract)
        wanted = {"train": {"state": abstract}}
        found = ocp.load_checkpointables(path_of(directory, step), wanted)["train"]["state"]
    if int(fingerprint(found)) != record["fingerprint"]:
        raise CheckpointError(f"checkpoint {step} is damaged (its fingerprint does not fit)")
    return Restored(step, found, record, [], scores_in({step: record}))


def restore_newest(directory: pathlib.Path, abstract: PyTree) -> Restored | None:
    """Read the newest checkpoint that is whole; damaged ones are moved out of the way.

    They go to `damaged/` beside `directory`, since nothing is deleted that a person may want
    to look at. Of those that are older than the one that is used only the record is looked at,
    once: it says whether it is whole, and its score.

    Args:
        directory: of all checkpoints of a run.
        abstract: the state's shapes, types and placement.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
        FileError: a damaged one cannot be moved.

    Example:
        >>> from dystress_jax.training.checkpoint import Saver
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        >>> abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
        >>> found = restore_newest(directory, abstract)
        >>> found.step, found.damaged, found.scores
        (10, [], {10: 0.5})
    """
    restored, records, damaged = None, {}, {}
    with quiet():
        for step in reversed(steps(directory)):
            try:
                if restored is None:
                    restored = restore(directory, step, abstract)
                else:
                    records[step] = read(directory, step)[1]
            except CheckpointError as error:
                damaged[step] = str(error)
        if damaged:
            gc.collect()  # what Orbax has left behind complains when it goes
    if restored is not None:
        moved = _move_aside(directory, list(damaged))
        return restored._replace(
            damaged=list(zip(damaged.values(), moved, strict=True)),
            scores=scores_in({restored.step: restored.record, **records}),
        )
    if damaged:
        raise CheckpointError(
            f"none of the checkpoints in {directory} can be used: "
            + "; ".join(damaged.values())
            + ". Were they written by another version or model? Use a new --workdir."
        )
    return None


def _check_shapes(saved: PyTree, expected: PyTree) -> None:
    """Orbax would cut or pad an array of another shape, and round one of another type."""

    def kinds(tree: PyTree) -> dict[str, tuple[str, tuple[int, ...]]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(p, simple=True, separator="."): (str(x.dtype), tuple(x.shape))
            for p, x in leaves
        }

    def words(leaf: PyTree) -> PyTree:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.eval_shape(jax.random.key_data, leaf)
        return leaf

    found, wanted = kinds(saved), kinds(jax.tree.map(words, expected))
    for name in sorted({*found, *wanted}):
        (dtype, shape), (dtype_wanted, shape_wanted) = (
            of.get(name, ("", "none")) for of in (found, wanted)
        )
        if shape != shape_wanted:
            raise ValueError(
                f"it is of another model: {name} has shape {shape}, expected {shape_wanted}"
            )
        if dtype != dtype_wanted:
            raise ValueError(
                f"it was written in another precision: {name} has {dtype}, expected "
                f"{dtype_wanted}; JAX_ENABLE_X64 must be as it was"
            )


def _move_aside(directory: pathlib.Path, bad: list[int]) -> list[pathlib.Path]:
    """Move checkpoints to names in `damaged/` that are free; returns these."""
    if not bad:
        return []
    place = directory.parent / "damaged"
    multihost_utils.sync_global_devices("all have read the damaged checkpoints")
    moved = []
    for step in bad:
        free = (place / f"{step}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
        moved.append(next(path for path in free if not os.path.lexists(path)))
        if jax.process_index() == 0:
            with told(directory / str(step), "moved to damaged/"):
                place.mkdir(exist_ok=True)
                (directory / str(step)).rename(moved[-1])
    multihost_utils.sync_global_devices("damaged checkpoints moved")
    return moved
