"""Write checkpoints while the training goes on."""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ...files import told
from ._fingerprint import PyTree, fingerprint
from ._orbax import CheckpointError, in_one_line, orbax, pass_on_interrupt, path_of, quiet
from ._records import VERSION, Record, seal_of, steps
from ._records import scores as read_scores

_OLD = ".deleted"  # ends the name of a checkpoint that is to be deleted


class Saver:
    """Writes checkpoints in the background; keeps the newest few and the best.

    Args:
        directory: made if it is not there.
        keep: how many of the newest to keep.
        scores: of the checkpoints that are there, as `restore_newest` has found them; None: they
            are read from their records.
        failed: called with the error of a checkpoint that could not be written; the default raises.
        tell: shows a person what else cannot be done, in one line.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        scores: Mapping[int, float] | None = None,
        failed: Callable[[CheckpointError], None] | None = None,
        tell: Callable[[str], None] = print,
    ):
        self._directory, self._keep = directory.absolute(), keep
        self._failed, self._tell = failed or _raise, tell
        self._scores = read_scores(directory) if scores is None else dict(scores)
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
    def best(self) -> float:
        """The highest score of a checkpoint; 0 where none has one."""
        return max(self._scores.values(), default=0.0)

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
        self._while_writing.enter_context(quiet())  # its threads tell of errors too
        with self._reporting(), orbax():
            self._writing = ocp.save_checkpointables_async(
                path_of(self._directory, step),
                {"train": {"state": state}},
                overwrite=True,
                custom_metadata={"record": record, "seal": seal_of(record)},
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
            pass_on_interrupt(error)
            self._writing = None
            self._while_writing.close()
            self._scores.pop(self._step, None)
            if jax.process_index() == 0:
                self._sweep(f"{self._step}.*")  # it takes room for nothing
            self._error = CheckpointError(
                f"checkpoint {self._step} cannot be written ({in_one_line(error)})"
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


def _raise(error: CheckpointError) -> None:
    raise error
