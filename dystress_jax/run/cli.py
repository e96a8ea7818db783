"""What train.py and eval.py share: from a command line to settings, and one-line errors."""

import difflib
import itertools
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from ..errors import UserError
from .checks import from_config_dict
from .config import Config, ConfigError
from .overrides import check_overrides, take_options

_TOLD = (UserError, flags.Error, OSError)


class Command:
    """The --config overrides of a command line."""

    def __init__(self) -> None:
        self._overridden: list[str] = []
        self._options: dict[str, dict[str, Any]] = {}

    def read(self, arguments: list[str]) -> list[str]:
        """Check and remember the overrides; return what the flags are to parse.

        Raises:
            ConfigError: an override names no field, or gives it what it does not take.
        """
        others, self._options = take_options(arguments)
        options = [f"{field}.{name}" for field, of in self._options.items() for name in of]
        self._overridden = [*check_overrides(others), *options]
        return others

    def settings(self, parsed: ConfigDict) -> Config:
        """The checked settings of the parsed config.

        Raises:
            ConfigError: as `from_config_dict`.
        """
        settings = parsed.to_dict()
        for field, options in self._options.items():
            group, _, last = field.rpartition(".")
            holder = settings[group] if group else settings
            holder[last] = {**holder[last], **options}
        return from_config_dict(settings, overridden=self._overridden)


def start(
    main: Callable[[list[str], Command], None],
    parse: Callable[[list[str], Command], list[str]],
    *,
    interrupted: str,
) -> None:
    """Run a script; what a person can put right is told without a traceback.

    Args:
        main: called with what is left of the command line.
        parse: defines and parses the flags.
        interrupted: what to say after Ctrl-C.
    """
    command = Command()
    try:
        app.run(lambda rest: main(rest, command), flags_parser=lambda all: parse(all, command))
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
    """Report a missing config file before anything else.

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
