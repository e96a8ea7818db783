"""Orbax as it is used here: quiet, and with one error for all that can go wrong on a disk."""

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator

from etils.epath.gpath import PosixGPath
from orbax.checkpoint import v1 as ocp

from ...errors import UserError, causes

# In JSON, beside the arrays of a checkpoint.
_DESCRIPTIONS = ("_CHECKPOINT_METADATA", "train/_METADATA", "train/_sharding")


class CheckpointError(UserError, RuntimeError):
    """No checkpoint can be used, though there are some, or none can be written."""


def path_of(directory: pathlib.Path, step: int) -> str:
    """Where a checkpoint lies."""
    return str(directory.absolute() / str(step))


class _Path(PosixGPath):
    """A path whose own brackets are no pattern where Orbax looks for files below it."""

    def glob(self, pattern: str) -> Iterator["_Path"]:
        """As of `pathlib`."""
        return map(_Path, pathlib.Path(self).glob(pattern))


@contextlib.contextmanager
def orbax() -> Iterator[None]:
    """Within it Orbax takes names as they are, and says nothing by itself."""
    context = ocp.Context()
    context.file.path_class = _Path
    with context, quiet():
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
def reading(directory: pathlib.Path, step: int) -> Iterator[None]:
    """Within it all that goes wrong is a `CheckpointError`, with the file that is at fault."""
    try:
        with orbax():
            yield
    except Exception as error:  # Orbax, tensorstore and json each raise their own
        pass_on_interrupt(error)
        faults, (*_, first) = _faults(directory / str(step)), causes(error)
        if not faults and isinstance(first, KeyError | TypeError | StopIteration):
            faults = [f"a file in {directory / str(step)} is missing or cut short"]
        if faults:
            said = "; ".join(faults)
            raise CheckpointError(f"checkpoint {step} is damaged ({said})") from error
        raise CheckpointError(f"checkpoint {step} cannot be read ({in_one_line(error)})") from error


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


def pass_on_interrupt(error: BaseException) -> None:
    """Orbax wraps a Ctrl-C in errors of its own."""
    if any(isinstance(e, KeyboardInterrupt) for e in causes(error)):
        raise KeyboardInterrupt from error


def in_one_line(error: BaseException) -> str:
    """The error that started a chain, in one line."""
    *_, error = causes(error)
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return said if len(said) <= 320 else f"{said[:150]} ... {said[-150:]}"  # paths are long
