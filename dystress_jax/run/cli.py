"""What the commands share: from a command line to settings, help, and one-line errors."""

import difflib
import os
import pathlib
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from ..errors import UserError, end_with_the_pipe, hint
from ..training import processes
from . import compiled_programs
from .checks import from_config_dict, put_back
from .command_line import words
from .config import Config, ConfigError
from .fields import Field, fields
from .overrides import (
    changed_by,
    check_overrides,
    joined,
    take_from_absl,
    take_images,
    take_options,
    take_varied,
    without_old_sources,
)
from .values import meant

_PREFIXES = {"on": "eval and dystress embed", "over": "sweep"}  # of flags of some commands
_TOLD = (UserError, flags.Error)
_HELP = ("-h", "-help", "--help", "--helpfull", "--helpshort")


class Command:
    """The --config overrides of a command line, and the other images that it names.

    Attributes:
        on: fields of `config.data` for the other images.
        over: the fields that are varied, and their values.
        given: what `read` was given, a word for each field of the settings.
        put_back: what the flags have made useless of the config file, a line each.
        config_name: what the config is called.
        overridden: the fields that flags set.
    """

    def __init__(self) -> None:
        self.on: dict[str, Any] = {}
        self.over: dict[str, list[Any]] = {}
        self.given: list[str] = []
        self.put_back: list[str] = []
        self.config_name = ""
        self.overridden: list[str] = []
        self._options: dict[str, dict[str, Any]] = {}
        self._several: dict[str, Any] = {}

    def read(self, arguments: list[str]) -> list[str]:
        """Check and remember the overrides; return what the flags are to parse.

        Raises:
            ConfigError: an override names no field, or gives it what it does not take.
        """
        _, *self.given = together = joined(arguments)
        others, self._options = take_options(together)
        options = [f"{field}.{name}" for field, of in self._options.items() for name in of]
        self.overridden = [*check_overrides(others), *options]
        others, self._several = take_from_absl(others)
        return others

    def read_on(self, arguments: list[str]) -> list[str]:
        """Check and remember the other images; return what the flags are to parse.

        Args:
            arguments: of the command line.

        Raises:
            ConfigError: there is no such field, or it takes no such value.
        """
        others, self.on = take_images(arguments)
        return others

    def read_over(self, arguments: list[str]) -> list[str]:
        """Check and remember the fields that are varied; return what the flags are to parse.

        Args:
            arguments: of the command line.

        Raises:
            ConfigError: there is no such field, or it takes no such value.
        """
        others, self.over = take_varied(arguments)
        return others

    def settings(self, parsed: ConfigDict) -> Config:
        """The checked settings of the parsed config.

        Raises:
            ConfigError: as `from_config_dict`.
        """
        settings, overridden = self.loose(parsed)
        config = from_config_dict(settings, overridden=overridden)
        self.put_back += put_back(settings, config)
        return config

    def loose(self, parsed: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings before they are checked, and what the file has where a flag changes it."""
        settings, _ = changed_by(parsed, self._several)
        # A flag's default is what the config file has: the parsed config no longer knows it.
        file = {name: _default_of_flag(f"config.{name}") for name in self.overridden}
        for field, options in self._options.items():
            group, _, last = field.rpartition(".")
            holder = settings[group] if group else settings
            if field == "eval_on":
                holder[last], told = without_old_sources(holder[last], options)
                self.put_back += told
            holder[last] = _merged(holder[last], options)
        return settings, file


def _default_of_flag(name: str) -> Any:
    return flags.FLAGS[name].default if name in flags.FLAGS else None


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {n: _merged(old[n], v) for n, v in new.items() if isinstance(v, dict) and n in old}
    return {**old, **new, **both}


def start(
    argv: list[str],
    *,
    described: str | None,
    define: Callable[[], None],
    parse: Callable[[list[str], Command], list[str]],
    run: Callable[[Command], None],
    settings: Mapping[str, str],
) -> None:
    """Run a command; what a person can put right is told without a traceback.

    Args:
        argv: the command and what follows it.
        described: what the command is and examples, for `--help`.
        define: defines the flags that need nothing of the command line.
        parse: defines the others, and parses all.
        run: called when all is parsed.
        settings: for `--help`: what flags begin with that are fields, and those fields' names.
    """
    command, defined_elsewhere = Command(), set(flags.FLAGS)
    if any(action == "error" for action, *_ in warnings.filters):
        warnings.simplefilter("default")  # the libraries that we use warn of themselves
    define()
    compiled_programs.define()
    if any(argument in _HELP for argument in argv[1:]):
        end_with_the_pipe()
        print(_help(described or "", set(flags.FLAGS) - defined_elsewhere, settings))
        return
    logging.set_verbosity(logging.WARNING)

    def main(rest: list[str]) -> None:
        if rest[1:]:
            flag = "config" if rest[1].endswith(".py") else "workdir"
            meant = f" Did you mean --{flag}={rest[1]}?" if flag in flags.FLAGS else ""
            raise ConfigError(f"found {rest[1]!r}; allowed: flags, as --NAME=VALUE.{meant}")
        run(command)

    try:
        app.run(main, argv, flags_parser=lambda all: parse(all, command))
    except _TOLD as error:
        prefixes = re.findall(r"--(\w+)\.", " ".join(settings))
        _leave(_said(error, argv[1:], prefixes))
    except Exception:
        if not processes.has_joined():
            raise
        _leave(traceback.format_exc())


def _said(error: Exception, arguments: Sequence[str], prefixes: Sequence[str]) -> str:
    """What absl says of flags, in the words of the other errors.

    Args:
        error: of absl, or one of ours.
        arguments: of the command line.
        prefixes: what flags begin with that are fields, such as `config`.
    """
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"ConfigError: --{error.flagname}: no such flag.{_near(error.flagname, prefixes)}"
    number = re.match(r"flag --(\w+)=(.*): invalid literal for int", str(error), re.DOTALL)
    if number is not None:
        return f"ConfigError: --{number[1]}: found {number[2]!r}; allowed: a whole number."
    missing = re.match(r"flag --(\w+)=None: Flag --\1 must have a value", str(error))
    if missing is None:
        return f"{type(error).__name__}: {error}"
    name = missing[1]
    for before, word in zip(["", *arguments], arguments, strict=False):
        flag, _, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and flag not in flags.FLAGS and hint(flag, [name]):
            return f"ConfigError: --{flag}: no such flag. Did you mean --{name}?"
        of_flag = before.startswith("-") and "=" not in before
        if name == "workdir" and not (word.startswith("-") or of_flag):
            return f"ConfigError: found {word!r}; allowed: flags. Did you mean --workdir={word}?"
    return f"ConfigError: --{name}: found none. {flags.FLAGS[name].help}"


def _near(name: str, prefixes: Sequence[str]) -> str:
    """Which flag is meant by one that does not exist, in words; nothing if none is near."""
    prefix, dot, field = name.partition(".")
    if dot and prefix in _PREFIXES and prefix not in prefixes:
        return f" It is a flag of dystress {_PREFIXES[prefix]}."
    if dot and prefix not in prefixes and (near := difflib.get_close_matches(prefix, prefixes)):
        return f" Did you mean --{near[0]}.{field}?"
    own = [flag for flag in flags.FLAGS if flag.partition(".")[0] not in prefixes]
    if not dot and (near := difflib.get_close_matches(name, own, n=1, cutoff=0.8)):
        return f" Did you mean --{near[0]}?"
    known = [f"--config.{field.name}" for field in fields() if "config" in flags.FLAGS]
    return meant(f"--config.{name}", [*known, *(f"--{flag}" for flag in flags.FLAGS)])


def _help(described: str, names: Collection[str], settings: Mapping[str, str]) -> str:
    """What a command is, its flags, and the fields of the settings."""
    parts = [described.strip(), "\nFlags:"]
    for name in sorted(names):
        flag = flags.FLAGS[name]
        no, value = ("[no]", "") if flag.boolean else ("", f"={name.rpartition('_')[2].upper()}")
        default = "" if flag.default in (None, "", True, False) else f" Default: {flag.default}."
        parts += _wrapped(f"--{no}{name}{value}", f"{flag.help}{default}")
    for prefix, group in settings.items():
        title = "Of the images" if group else "Fields of the settings"
        parts.append(f"\n{title}, with their defaults:")
        for field in fields():
            if field.name.startswith(group):
                flag = f"{prefix}{field.name.removeprefix(group)}={field.default}"
                parts += _wrapped(flag, f"{field.meaning.doc}{_choices(field)}")
    return "\n".join(parts)


def _choices(field: Field) -> str:
    """The names that a field takes, in words."""
    names = [name or "''" for name in field.meaning.among]
    own = ["MODULE:OBJECT"] if field.meaning.own else []
    return f": {', '.join([*names, *own])}" if names else ""


def _wrapped(flag: str, text: str) -> list[str]:
    indent = " " * 6
    return [f"  {flag}", *textwrap.wrap(text, 90, initial_indent=indent, subsequent_indent=indent)]


def _leave(said: str) -> NoReturn:
    if not processes.has_joined():
        sys.exit(said)
    # Not sys.exit: JAX would wait for the other processes, which may wait for this one.
    print(said, file=sys.stderr, flush=True)
    os._exit(1)


def in_full(arguments: list[str], short: Mapping[str, str]) -> list[str]:
    """The command line with `--config.FIELD=VALUE` in place of a shorter flag.

    Args:
        arguments: of the command line.
        short: the shorter flags, and their fields.

    Example:
        >>> in_full(["eval", "--seeds=3", "--x", "1"], {"seeds": "labels.seeds"})
        ['eval', '--config.labels.seeds=3', '--x', '1']
    """
    return [
        f"--config.{short[word.flag]}={word.value}" if word.flag in short else word.text
        for word in words(arguments, short.__contains__)
    ]


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
