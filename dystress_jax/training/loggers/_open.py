"""The loggers by name, opened together; one that fails does not end a run."""

import importlib
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from ...errors import UserError
from ...files import parse_json, write_json
from ._run import Begun, Histograms, Logger
from ._services import Mlflow, Trackio, Wandb

FILE = "loggers.json"
"""What the services call the run, in its directory."""


def _tensorboard(run: Begun) -> Logger:
    from ._tensorboard import TensorBoard  # its package is loaded where it is named

    return TensorBoard(run)


LOGGERS: dict[str, Callable[[Begun], Logger]] = {
    "tensorboard": _tensorboard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}
"""The loggers by name; those but `tensorboard` need a package of that name."""


class LoggerError(UserError, RuntimeError):
    """A logger that cannot begin."""


class Loggers:
    """Several loggers as one.

    Args:
        opened: the loggers by name.
        tell: shows a person what one of them cannot do, in one line.
    """

    def __init__(self, opened: Mapping[str, Logger], tell: Callable[[str], None]):
        self._opened, self._tell = dict(opened), tell

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""
        self._each(lambda logger: logger.scalars(step, numbers))

    def histograms(self, step: int, shown: Histograms) -> None:
        """Show edges and counts by name."""
        self._each(lambda logger: logger.histograms(step, shown))

    def images(self, step: int, shown: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Show pictures by name; grey ones in three channels, since Trackio takes no single one."""
        coloured = {n: np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x for n, x in shown.items()}
        self._each(lambda logger: logger.images(step, coloured))

    def close(self, *, failed: bool = False) -> None:
        """End the run, or this part of it, in each of them."""
        self._each(lambda logger: logger.close(failed=failed))
        self._opened = {}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._opened)

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._opened.items()):
            try:
                do(logger)
            except Exception as error:  # whatever a service says: days of training are worth more
                self._tell(f"{name} has failed, the run goes on without it ({_first_line(error)})")
                del self._opened[name]


NO_LOGGERS = Loggers({}, print)
"""None at all, for processes that tell nothing."""


def importable(names: Collection[str]) -> None:
    """Refuse loggers whose package is not there, before anything has begun.

    Args:
        names: of `LOGGERS`.

    Raises:
        LoggerError: what to install.

    Example:
        >>> importable(["tensorboard"])
    """
    for name in names:
        if name == "tensorboard":
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise LoggerError(
                f"found {name}, whose package cannot be imported ({_first_line(error)}); allowed: "
                f"with it, pip install {name}; or without this logger."
            ) from error


def open_loggers(names: Sequence[str], run: Begun) -> Loggers:
    """Begin the run in each logger, or go on with it where an earlier part has begun it.

    Args:
        names: of `LOGGERS`.
        run: what begins; `known_as` is filled in here.

    Returns:
        All of them as one.

    Raises:
        LoggerError: one cannot begin, or its package is not installed.

    Example:
        >>> run = Begun(pathlib.Path("mine"), "mine", "tries", {}, {}, 0, None, print)
        >>> loggers = open_loggers([], run)
        >>> loggers.scalars(10, {"loss": 1.5})
        >>> bool(loggers)
        False
    """
    importable(names)
    known, opened = _known(run.workdir), {}
    for name in names:
        try:
            opened[name] = LOGGERS[name](run._replace(known_as=known.get(name)))
        except Exception as error:
            Loggers(opened, run.tell).close(failed=True)
            raise LoggerError(
                f"{name} cannot begin ({_first_line(error)}); allowed: what {name} asks for, or "
                "without this logger."
            ) from error
        called = opened[name].known_as
        if called is not None and called != known.get(name):
            known[name] = called
            write_json(run.workdir / FILE, known)
    return Loggers(opened, run.tell)


def _known(workdir: pathlib.Path) -> dict[str, str]:
    """What the services call the run; nothing where the file is damaged."""
    try:
        found = parse_json((workdir / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: called for name, called in found.items() if isinstance(called, str)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
