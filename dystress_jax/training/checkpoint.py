"""Checkpoints: asynchronous, atomic, checked bit by bit when they come back.

A checkpoint is the whole train state and a record, such as the position in the data. Orbax finds
most damage by itself, but it returns array bytes and metadata as they are on disk; the fingerprint
of the state, which is part of the record, and the seal of the record find a flipped bit there too.
"""

import contextlib
import gc
import hashlib
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils.epath.gpath import PosixGPath
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32
from orbax.checkpoint import v1 as ocp

from ..errors import UserError
from ..files import told

PyTree = Any
Record = dict[str, Any]  # what is saved beside the arrays, such as the data position; plain JSON


VERSION = 3  # of what a checkpoint holds; others are refused
_OLD = ".deleted"  # ends the name of a checkpoint that is to be deleted
# In JSON, beside the arrays of a checkpoint.
_DESCRIPTIONS = ("_CHECKPOINT_METADATA", "train/_METADATA", "train/_sharding")


class CheckpointError(UserError, RuntimeError):
    """No checkpoint can be used, though there are some, or none can be written."""


class Restored(NamedTuple):
    """What came back from disk.

    Attributes:
        step: steps done.
        state: the arrays.
        record: what was saved beside them.
        damaged: checkpoints that cannot be read: the reason, and where each is now.
    """

    step: int
    state: PyTree
    record: Record
    damaged: list[tuple[str, pathlib.Path]]


class Saver:
    """Writes checkpoints in the background; keeps the newest few and the best.

    Args:
        directory: made if it is not there.
        keep: how many of the newest to keep.
        failed: called with the error of a checkpoint that could not be written; the default raises.
        tell: shows a person what else cannot be done, in one line.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        failed: Callable[[CheckpointError], None] | None = None,
        tell: Callable[[str], None] = print,
    ):
        self._directory, self._keep = directory.absolute(), keep
        self._failed, self._tell = failed or _raise, tell
        self._scores = scores(directory)
        self._writing: Any = None
        self._while_writing = contextlib.ExitStack()
        self._step = -1  # of the newest that was asked for
        self._error: CheckpointError | None = None  # why it is not on disk
        self._undeletable: set[str] = set()
        with told(self._directory, "written"):
            self._directory.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            for path in self._directory.iterdir():  # what a kill has left
                if _is_leftover(path.name):
                    self._delete(path)

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint that is whole on disk."""
        return max(steps(self._directory), default=None)

    @property
    def error(self) -> CheckpointError | None:
        """Why the newest checkpoint that was asked for is not on disk; None if it is."""
        return self._error

    def save(self, step: int, state: PyTree, record: Record) -> None:
        """Start to write a checkpoint; returns once the state may change again.

        Args:
            step: steps done.
            state: arrays.
            record: comes back with it; its entry `score`, if there is one, says how good it is.

        Raises:
            CheckpointError: it, or the one before, cannot be written; unless `failed` goes on.
        """
        self.wait()
        self._step, self._error = step, None
        record = {**record, "version": VERSION, "step": step}
        record["fingerprint"] = int(fingerprint(state))
        if record.get("score") is not None:
            self._scores[step] = record["score"]
        self._while_writing.enter_context(_quiet())  # its threads tell of errors too
        with self._reporting(), _orbax():
            self._writing = ocp.save_checkpointables_async(
                _path(self._directory, step),
                {"train": {"state": state}},
                overwrite=True,
                custom_metadata={"record": record, "seal": _seal(record)},
            )

    def check(self) -> None:
        """Look whether the checkpoint that is being written has failed, without waiting.

        Raises:
            CheckpointError: it has; unless `failed` goes on.
        """
        if self._writing is not None:
            self._finish(timeout=0)

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            CheckpointError: it cannot be written; unless `failed` goes on.
        """
        if self._writing is not None:
            self._finish(timeout=None)

    def _finish(self, timeout: float | None) -> None:
        # A save whose result nobody asks for keeps its thread, its event loop and three files.
        with self._reporting():
            try:
                self._writing.result(timeout=timeout)
            except TimeoutError:
                if timeout is None:
                    raise
                return  # it is still being written
            self._writing = None
            self._while_writing.close()
            self._forget()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and tensorstore each raise their own
            _pass_on_interrupt(error)
            self._writing = None
            self._while_writing.close()
            self._scores.pop(self._step, None)
            if jax.process_index() == 0:
                self._sweep(f"{self._step}.*")  # it takes room for nothing
            self._error = CheckpointError(
                f"checkpoint {self._step} cannot be written ({_first(error)})"
            )
            self._failed(self._error)

    def _forget(self) -> None:
        """Delete all but the newest few and the best."""
        if jax.process_index() != 0:
            return
        present = steps(self._directory)
        scored = [(self._scores[step], step) for step in present if step in self._scores]
        kept = {*present[-self._keep :], *([max(scored)[1]] if scored else [])}
        for step in set(present) - kept:
            # Under another name first: what a kill leaves half deleted is no checkpoint.
            path = self._directory / str(step)
            old = path.with_name(f"{step}{_OLD}")
            try:
                path.rename(old)
            except OSError as error:
                self._cannot_delete(path, error)
            else:
                self._delete(old)

    def _sweep(self, names: str) -> None:
        """Delete what a failed save has left, until it stays away.

        Orbax tells of the first array that it cannot write; tensorstore still writes the others.
        """
        absent = 0
        for _ in range(100):
            left = list(self._directory.glob(names))
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            absent = 0 if left else absent + 1
            if absent == 5:
                return
            time.sleep(0.05)
        for path in self._directory.glob(names):
            self._delete(path)

    def _delete(self, path: pathlib.Path) -> None:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._cannot_delete(path, error)

    def _cannot_delete(self, path: pathlib.Path, error: OSError) -> None:
        if path.name not in self._undeletable:
            self._tell(f"{path} is no longer needed but cannot be deleted: {error.strerror}")
        self._undeletable.add(path.name)


def _is_leftover(name: str) -> bool:
    step, _, rest = name.partition(".")
    return step.isdecimal() and (f".{rest}" == _OLD or rest.startswith("orbax-checkpoint-tmp"))


def steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a finished checkpoint, oldest first.

    Args:
        directory: of all checkpoints of a run; it need not be there.

    Raises:
        FileError: there is something of that name that is no directory.

    Example:
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> steps(directory)
        [10]
    """
    if not directory.exists():
        return []
    with told(directory, "read"):
        names = [path.name for path in directory.iterdir()]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    return sorted(number for number in numbers if str(number) in names)


def scores(directory: pathlib.Path) -> dict[int, float]:
    """How good the checkpoints are whose record says so: step to score.

    Args:
        directory: of all checkpoints of a run.

    Example:
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> scores(directory)
        {10: 0.5}
    """
    found = {step: read_record(directory, step).get("score") for step in steps(directory)}
    return {step: score for step, score in found.items() if score is not None}


def check_version(directory: pathlib.Path) -> None:
    """Refuse checkpoints of another version of this package.

    Args:
        directory: of all checkpoints of a run; without any nothing is refused.

    Raises:
        CheckpointError: in one line.

    Example:
        >>> check_version(pathlib.Path("new/checkpoints"))
    """
    record = newest_record(directory)
    if record and record["version"] != VERSION:
        raise _of_another_version(directory)


def _of_another_version(directory: pathlib.Path) -> CheckpointError:
    return CheckpointError(
        f"{directory} holds checkpoints of another version of dystress_jax, which this one cannot "
        "read. Use that version, or a new --workdir."
    )


def read_record(directory: pathlib.Path, step: int) -> Record:
    """What was saved beside the arrays of one checkpoint; empty if it is damaged.

    Args:
        directory: of all checkpoints of a run.
        step: which one, at least 0.

    Example:
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> read_record(directory, 10)["score"]
        0.5
    """
    try:
        return _read(directory, step)[1]
    except CheckpointError:
        return {}


def newest_record(directory: pathlib.Path) -> Record:
    """The record of the newest checkpoint that has one; empty without any.

    Args:
        directory: of all checkpoints of a run.

    Example:
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> newest_record(directory)["step"]
        10
    """
    records = (read_record(directory, step) for step in reversed(steps(directory)))
    return next((record for record in records if record), {})


def _read(directory: pathlib.Path, step: int) -> tuple[Any, Record]:
    """Orbax's metadata of a checkpoint and our record, if they are whole.

    Raises:
        CheckpointError: they are not.
    """
    with _reading(directory, step):
        metadata: Any = ocp.checkpointables_metadata(_path(directory, step))
        record = metadata.custom_metadata["record"]
        seal = metadata.custom_metadata.get("seal")
        version = record["version"]
    if seal is None and isinstance(version, int) and version < VERSION:
        return metadata, record  # of another version, which had no seal
    if seal != _seal(record) or record["step"] != step:
        raise CheckpointError(f"checkpoint {step} is damaged (its record is not what was saved)")
    return metadata, record


def _seal(record: Record) -> str:
    """A digest of a record, which changes when anything in it does."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


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
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        >>> abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
        >>> restore(directory, 10, abstract).state
        {'w': Array([1., 1., 1.], dtype=float32)}
    """
    metadata, record = _read(directory, step)
    if record["version"] != VERSION:
        raise _of_another_version(directory)
    with _reading(directory, step):
        _check_shapes(metadata.metadata["train"]["state"], abstract)
        wanted = {"train": {"state": abstract}}
        found = ocp.load_checkpointables(_path(directory, step), wanted)["train"]["state"]
    if int(fingerprint(found)) != record["fingerprint"]:
        raise CheckpointError(f"checkpoint {step} is damaged (its fingerprint does not fit)")
    return Restored(step, found, record, [])


def restore_newest(directory: pathlib.Path, abstract: PyTree) -> Restored | None:
    """Read the newest checkpoint that is whole; damaged ones are moved out of the way.

    They go to `damaged/` beside `directory`, since nothing is deleted that a person may want
    to look at. Of those that are older than the one that is used only the record is looked at.

    Args:
        directory: of all checkpoints of a run.
        abstract: the state's shapes, types and placement.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
        FileError: a damaged one cannot be moved.

    Example:
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        >>> abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
        >>> found = restore_newest(directory, abstract)
        >>> found.step, found.damaged
        (10, [])
    """
    restored, damaged = None, {}
    with _quiet():
        for step in reversed(steps(directory)):
            try:
                if restored is None:
                    restored = restore(directory, step, abstract)
                else:
                    _read(directory, step)
            except CheckpointError as error:
                damaged[step] = str(error)
        if damaged:
            gc.collect()  # what Orbax has left behind complains when it goes
    if restored is not None:
        moved = _move_aside(directory, list(damaged))
        return restored._replace(damaged=list(zip(damaged.values(), moved, strict=True)))
    if damaged:
        raise CheckpointError(
            f"none of the checkpoints in {directory} can be used: "
            + "; ".join(damaged.values())
            + ". Were they written by another version or model? Use a new --workdir."
        )
    return None


@jax.jit
def fingerprint(tree: PyTree) -> UInt32[Array, ""]:
    """A number that changes when any one 32-bit word of a tree does.

    Each leaf's words are summed with odd weights modulo 2^32; odd numbers are invertible there, so
    no change of a single word can cancel.

    Args:
        tree: arrays of any shape and type, keys too.

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


class _Path(PosixGPath):
    """A path whose own brackets are no pattern where Orbax looks for files below it."""

    def glob(self, pattern: str) -> Iterator["_Path"]:
        """As of `pathlib`."""
        return map(_Path, pathlib.Path(self).glob(pattern))


@contextlib.contextmanager
def _orbax() -> Iterator[None]:
    context = ocp.Context()
    context.file.path_class = _Path
    with context, _quiet():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """One line of ours says what pages of traces in the log would."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _reading(directory: pathlib.Path, step: int) -> Iterator[None]:
    try:
        with _orbax():
            yield
    except Exception as error:  # Orbax, tensorstore and json each raise their own
        _pass_on_interrupt(error)
        faults, (*_, first) = _faults(directory / str(step)), _chain(error)
        if not faults and isinstance(first, KeyError | TypeError | StopIteration):
            faults = [f"a file in {directory / str(step)} is missing or cut short"]
        if faults:
            said = "; ".join(faults)
            raise CheckpointError(f"checkpoint {step} is damaged ({said})") from error
        raise CheckpointError(f"checkpoint {step} cannot be read ({_first(error)})") from error


def _faults(place: pathlib.Path) -> list[str]:
    """What is wrong with the files of a checkpoint that say what is in it, as far as it shows."""
    found = []
    sizes = sorted(place.glob("train/array_metadatas/*"))
    for path in (*(place / name for name in _DESCRIPTIONS), *sizes):
        try:
            json.loads(path.read_bytes())
        except FileNotFoundError:
            found.append(f"{path.relative_to(place)} is missing")
        except ValueError:
            found.append(f"{path.relative_to(place)} is cut short")
        except OSError:
            pass  # what Orbax says of it tells more
    return found


def _raise(error: CheckpointError) -> None:
    raise error


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


def _pass_on_interrupt(error: BaseException) -> None:
    """Orbax wraps a Ctrl-C in errors of its own."""
    if any(isinstance(e, KeyboardInterrupt) for e in _chain(error)):
        raise KeyboardInterrupt from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it."""
    while error is not None:
        yield error
        within = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = within or error.__cause__ or error.__context__


def _first(error: BaseException) -> str:
    """The error that started a chain, in one line."""
    *_, error = _chain(error)
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return said if len(said) <= 320 else f"{said[:150]} ... {said[-150:]}"  # paths are long


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
