"""What train.py and eval.py share: from a command line to settings, and mistakes told in a line."""

import difflib
import itertools
import os
import pathlib
import sys
import traceback
from collections.abc import Callable

from absl import app, flags

from .checkpoint import CheckpointError
from .config import ConfigError
from .evaluation import NotFiniteError
from .report import DivergedError

_TOLD = (ConfigError, CheckpointError, DivergedError, NotFiniteError, flags.Error, OSError)


def start(
    main: Callable[[list[str]], None],
    parse: Callable[[list[str]], list[str]],
    *,
    interrupted: str,
) -> None:
    """Run a script; what a person can put right is told without a traceback.

    Args:
        main: called with what is left of the command line.
        parse: defines and parses the flags.
        interrupted: what to say after Ctrl-C.
    """
    try:
        app.run(main, flags_parser=parse)
    except _TOLD as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        # Not sys.exit: to take down threads that compile or read meanwhile can crash.
        print(interrupted, file=sys.stderr, flush=True)
        os._exit(130)


def directory(workdir: str | pathlib.Path) -> pathlib.Path:
    """The directory that a person means.

    Raises:
        ConfigError: it is not on a file system of this machine.
    """
    if not str(workdir) or "://" in str(workdir):
        raise ConfigError(
            f"--workdir: found {str(workdir)!r}; allowed: a directory of a file system that is "
            "mounted here."
        )
    return pathlib.Path(workdir).expanduser()


def check_config_file(arguments: list[str], configs: pathlib.Path) -> None:
    """Answer to a config file that is not there before its fields are asked for.

    Raises:
        ConfigError: with the files that there are.
    """
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        path = (value if equals else following).partition(":")[0]
        if flag in ("--config", "-config") and not pathlib.Path(path).is_file():
            names = sorted(file.stem for file in configs.glob("[!_]*.py"))
            near = difflib.get_close_matches(pathlib.Path(path).stem, names, n=1)
            hint = f" Did you mean {configs / near[0]}.py?" if near else ""
            raise ConfigError(
                f"--config: there is no file {path!r}.{hint} In {configs}: {', '.join(names)}."
            )


def parse_flags(arguments: list[str]) -> list[str]:
    """Parse the flags that are defined, which runs the config file.

    Raises:
        ConfigError: the file sets what is no field, or a field to another type.
    """
    try:
        return flags.FLAGS(arguments)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            for frame in traceback.extract_tb(cause.__traceback__):
                if frame.name == "get_config":
                    where = f"{frame.filename}, line {frame.lineno}"
                    inner = cause.args[0] if cause.args else cause  # a KeyError in it
                    said = str(inner.args[0] if isinstance(inner, KeyError) else inner)
                    raise ConfigError(f"--config: {where}: {' '.join(said.split())}") from error
            cause = cause.__context__
        raise
