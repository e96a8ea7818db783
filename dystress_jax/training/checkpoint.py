"""Checkpoints: asynchronous, atomic, checked bit by bit when they come back.

A checkpoint is the whole train state, its fingerprint, and a record, such as the position in the
data. Orbax finds most damage by itself, but it returns array bytes as they are on
disk; the fingerprint finds a flipped bit there too.
"""

import logging
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32
from orbax.checkpoint import v1 as ocp

from ..errors import UserError

PyTree = Any
Record = dict[str, Any]  # what is saved beside the arrays, such as the data position; plain JSON


VERSION = 2  # of what a checkpoint holds; others are refused


class CheckpointError(UserError, RuntimeError):
    """No checkpoint can be used, though there are some."""


class Restored(NamedTuple):
    """What came back from disk."""

    step: int
    state: PyTree
    record: Record
    damaged: list[tuple[int, str]]  # newer checkpoints that could not be read: step, reason


class Saver:
    """Writes checkpoints in the background; keeps the newest few and the best.

    Args:
        directory: made if it is not there.
        keep: how many of the newest to keep.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int):
        self._scores = scores(directory)
        self._writing: Any = None
        self._checkpointer = ocp.training.Checkpointer(
            str(directory.absolute()),
            preservation_policy=_NewestAndBest(keep, self._scores),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, counting one that is being written."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: PyTree, record: Record) -> None:
        """Start to write a checkpoint; returns once the state may change again.

        Args:
            step: steps done.
            state: arrays.
            record: comes back with it; its entry `score`, if there is one, says how good it is.
        """
        if record.get("score") is not None:
            self._scores[step] = record["score"]
        self._wait()
        self._writing = self._checkpointer.save_checkpointables_async(
            step,
            {"train": {"state": state, "fingerprint": fingerprint(state)}},
            force=True,
            custom_metadata={"record": {**record, "version": VERSION}},
        )

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._wait()
        self._checkpointer.close()

    def _wait(self) -> None:
        # A save whose result nobody asks for keeps its thread, its event loop and three files.
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()


def steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a finished checkpoint, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def scores(directory: pathlib.Path) -> dict[int, float]:
    """How good the checkpoints are whose record says so: step to score."""
    found = {step: read_record(directory, step).get("score") for step in steps(directory)}
    return {step: score for step, score in found.items() if score is not None}


def check_version(directory: pathlib.Path) -> None:
    """Refuse checkpoints of another version of this package.

    Raises:
        CheckpointError: in one line.
    """
    record = newest_record(directory)
    if record and record.get("version") != VERSION:
        raise CheckpointError(
            f"{directory} holds checkpoints of another version of dystress_jax, which this one "
            "cannot read. Use that version, or a new --workdir."
        )


def read_record(directory: pathlib.Path, step: int) -> Record:
    """What was saved beside the arrays of one checkpoint; empty if it is damaged."""
    metadata: Any = ocp.checkpointables_metadata(_path(directory, step))
    return (metadata.custom_metadata or {}).get("record", {})


def newest_record(directory: pathlib.Path) -> Record:
    """The record of the newest checkpoint that has one; empty without any."""
    records = (read_record(directory, step) for step in reversed(steps(directory)))
    return next((record for record in records if record), {})


def restore(directory: pathlib.Path, step: int, abstract: PyTree) -> Restored:
    """Read one checkpoint and check it.

    Args:
        directory: of all checkpoints.
        step: which one.
        abstract: the state's shapes, types and placement.

    Raises:
        CheckpointError: it cannot be read, or its fingerprint does not fit.
    """
    wanted = {
        "state": abstract,
        "fingerprint": jax.ShapeDtypeStruct(
            (), jnp.uint32, sharding=jax.tree.leaves(abstract)[0].sharding
        ),
    }
    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # one line of ours says what a page of traces would
    try:
        path = _path(directory, step)
        metadata: Any = ocp.checkpointables_metadata(path)
        record = metadata.custom_metadata["record"]
        _check_shapes(metadata.metadata["train"]["state"], abstract)
        found = ocp.load_checkpointables(path, {"train": wanted})["train"]
    except Exception as error:  # Orbax, tensorstore and json each raise their own
        if any(isinstance(e, KeyboardInterrupt) for e in _chain(error)):  # Orbax wraps it
            raise KeyboardInterrupt from error
        raise CheckpointError(f"checkpoint {step} cannot be read ({_first(error)})") from error
    finally:
        quiet.setLevel(level)
    if int(fingerprint(found["state"])) != int(found["fingerprint"]):
        raise CheckpointError(f"checkpoint {step} is damaged (its fingerprint does not fit)")
    return Restored(step, found["state"], record, [])


def restore_newest(directory: pathlib.Path, abstract: PyTree) -> Restored | None:
    """Read the newest checkpoint that is whole; damaged newer ones are moved out of the way.

    They go to `damaged/` beside `directory`, since nothing is deleted that a person may want
    to look at.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    damaged = []
    for step in reversed(steps(directory)):
        try:
            restored = restore(directory, step, abstract)
        except CheckpointError as error:
            damaged.append((step, str(error)))
            continue
        for bad, _ in damaged:
            _move_aside(directory, bad)
        return restored._replace(damaged=damaged)
    if damaged:
        raise CheckpointError(
            f"none of the checkpoints in {directory} can be used: "
            + "; ".join(reason for _, reason in damaged)
            + ". Were they written by another version or model? Use a new --workdir."
        )
    return None


@jax.jit
def fingerprint(tree: PyTree) -> UInt32[Array, ""]:
    """A number that changes when any one 32-bit word of a tree does.

    Each leaf's words are summed with odd weights modulo 2^32; odd numbers are invertible there, so
    no change of a single word can cancel.

    Example:
        >>> a = fingerprint({"w": jnp.ones(3)})
        >>> bool(a == fingerprint({"w": jnp.ones(3).at[1].set(1.0000001)}))
        False
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        width = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
        words = jax.lax.bitcast_convert_type(leaf, width).reshape(-1).astype(jnp.uint32)
        odd = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        total = total * jnp.uint32(0x9E3779B1) + jnp.sum(words * odd, dtype=jnp.uint32)
    return total


class _NewestAndBest:
    """Orbax asks it after each save which checkpoints to keep."""

    def __init__(self, newest: int, scores: dict[int, float]):
        self._newest, self._scores = newest, scores

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        present = [c.step for c in checkpoints]
        scored = [(self._scores[step], step) for step in present if step in self._scores]
        kept = {*present[-self._newest :], *([max(scored)[1]] if scored else [])}
        return [step in kept for step in present]


def _check_shapes(saved: PyTree, expected: PyTree) -> None:
    """Orbax would cut or pad an array of another shape."""

    def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(p, simple=True, separator="."): tuple(x.shape) for p, x in leaves
        }

    def words(leaf: PyTree) -> PyTree:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.eval_shape(jax.random.key_data, leaf)
        return leaf

    found, wanted = shapes(saved), shapes(jax.tree.map(words, expected))
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"it is of another model: {name} has shape {found.get(name, 'none')}, "
                f"expected {wanted.get(name, 'none')}"
            )


def _path(directory: pathlib.Path, step: int) -> str:
    return str(directory.absolute() / str(step))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first(error: BaseException) -> str:
    """The error that started a chain, in one line."""
    *_, error = _chain(error)
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _move_aside(directory: pathlib.Path, step: int) -> None:
    if jax.process_index() == 0:
        place = directory.parent / "damaged"
        place.mkdir(exist_ok=True)
        shutil.rmtree(place / str(step), ignore_errors=True)
        (directory / str(step)).rename(place / str(step))
    multihost_utils.sync_global_devices("damaged checkpoint moved")
