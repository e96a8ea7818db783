"""What the commands share: from a command line to settings, help, and one-line errors."""

import difflib
import hashlib
import os
import pathlib
import platform
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ..errors import UserError, end_with_the_pipe, hint
from ..files import near
from ..training import processes
from ._environment import find_devices
from ._saved import SETTINGS_FILE, read_config
from .checks import from_config_dict, put_back
from .config import Config, ConfigError
from .fields import Field, fields, to_config_dict
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
CACHE_BYTES = 2 * 2**30
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


class Command:
    """The --config overrides of a command line, and the other images that it names.

    Attributes:
        on: fields of `config.data` for the other images.
        over: the fields that are varied, and their values.
        given: what `read` was given, a word for each field of the settings.
        put_back: what the flags have made useless of the config file, a line each.
        config_name: what the config is called.
    """

    def __init__(self) -> None:
        self.on: dict[str, Any] = {}
        self.over: dict[str, list[Any]] = {}
        self.given: list[str] = []
        self.put_back: list[str] = []
        self.config_name = ""
        self._overridden: list[str] = []
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
        self._overridden = [*check_overrides(others), *options]
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
        file = {name: _default_of_flag(f"config.{name}") for name in self._overridden}
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
    flags.DEFINE_bool(
        "compilation_cache",
        True,
        "Keep compiled programs in the user's cache directory, or in JAX_COMPILATION_CACHE_DIR.",
    )
    if any(argument in _HELP for argument in argv[1:]):
        end_with_the_pipe()
        print(_help(described or "", set(flags.FLAGS) - defined_elsewhere, settings))
        return
    logging.set_verbosity(logging.WARNING)

    def main(rest: list[str]) -> None:
        if rest[1:]:
            raise ConfigError(f"found {rest[1:]}; allowed: flags, as --NAME=VALUE")
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


def keep_compiled_programs() -> str:
    """Make the same program compile once, for all runs of this user on this kind of machine.

    Not with several devices that are CPUs: there a program that was kept has lost the order of its
    collectives (jaxlib 0.10), and its devices may wait for each other for ever.

    Returns:
        What to tell: where they are kept, and how to keep none.

    Raises:
        ConfigError: JAX has no device.
    """
    devices = find_devices()
    if len(devices) > 1 and devices[0].platform == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        return "compiled programs: not kept (with several CPU devices they could hang)"
    if not flags.FLAGS.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    if not jax.config.values["jax_enable_compilation_cache"]:
        return "compiled programs: not kept"
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
        place = pathlib.Path(home, "dystress_jax", _machine())
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            jax.config.update("jax_enable_compilation_cache", False)
            return f"compiled programs: not kept ({place}: {error.strerror})"
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    place = jax.config.values["jax_compilation_cache_dir"]
    return f"compiled programs: kept in {place} (switch off: --nocompilation_cache)"


def _machine() -> str:
    """The kind of CPU: a home directory may serve several, and programs of one crash another."""
    try:
        told = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        told = platform.processor()
    kind = re.findall(r"^(?:flags|Features|model name)\s*:.*", told, re.MULTILINE) or [told]
    digest = hashlib.sha256("\n".join(sorted(set(kind))).encode()).hexdigest()[:8]
    return f"{platform.machine()}-{digest}"


def in_full(arguments: list[str], short: Mapping[str, str]) -> list[str]:
    """The command line with `--config.FIELD=VALUE` in place of a shorter flag.

    Args:
        arguments: of the command line.
        short: the shorter flags, and their fields.

    Example:
        >>> in_full(["eval", "--seeds=3", "--x", "1"], {"seeds": "labels.seeds"})
        ['eval', '--config.labels.seeds=3', '--x', '1']
    """
    found, rest = [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        field = short.get(flag.lstrip("-")) if flag.startswith("-") else None
        if field is not None:
            if not equals and (value := next(rest, None)) is None:
                raise ConfigError(f"{flag}: found no value; allowed: {flag}=VALUE.")
            argument = f"--config.{field}={value}"
        found.append(argument)
    return found


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


def find_config_file(arguments: list[str]) -> list[str]:
    """The command line with the path of its config file in place of a name, before all other flags.

    A bare name is a config of `dystress_jax.configs`; everything else is the path of a file, which
    may import its neighbours, or of a run, whose settings are meant. What overrides its fields may
    stand before it on the command line.

    Raises:
        ConfigError: there is no such file, with those that there are, or what a config file is.
    """
    program, *others = arguments
    files, found, rest = [], [], iter(others)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            name, colon, of_file = (value if equals else next(rest, "")).partition(":")
            file = _config_file(name)
            if files or (colon and file.name == SETTINGS_FILE):
                found_there = f"{name}{colon}{of_file}" if colon else f"a second one, {name}"
                raise ConfigError(f"--config: found {found_there}; allowed: one name, file or run.")
            files.append(f"--config={file}{colon}{of_file}")
        else:
            found.append(argument)
    return [program, *files, *found]


def parse_with_config_file(arguments: list[str]) -> list[str]:
    """Parse the flags that are defined, and the settings of a config file, the first run's if none.

    Args:
        arguments: of `find_config_file`.
    """
    workdir = run_as_config(arguments)
    if workdir is not None:
        arguments = [each for each in arguments if not each.startswith("--config=")]
        define_config_of_run(workdir, arguments)
        return parse_flags(arguments)
    config_flags.DEFINE_config_file(
        "config",
        str(CONFIGS / "quickstart.py"),
        "The experiment: a name, a file or a run; override its fields with --config.FIELD=VALUE.",
        sys_argv=arguments,
    )
    return parse_flags(arguments)


def run_as_config(arguments: list[str]) -> pathlib.Path | None:
    """The run whose settings take the place of a config file, if one does.

    Args:
        arguments: of `find_config_file`.
    """
    files = _config_files(arguments)
    return next((file.parent for file in files if file.name == SETTINGS_FILE), None)


def config_name(arguments: list[str]) -> str:
    """What the config file, or the run in place of one, is called.

    Args:
        arguments: of `find_config_file`.
    """
    for file in _config_files(arguments):
        return file.absolute().parent.name if file.name == SETTINGS_FILE else file.stem
    return "quickstart"


def define_config_of_run(workdir: pathlib.Path, arguments: list[str]) -> None:
    """Define `--config.FIELD`, which overrides the settings of a run.

    Args:
        workdir: of the run.
        arguments: of the command line.

    Raises:
        ConfigError: there is no run, or it cannot be read.
    """
    if not (workdir / SETTINGS_FILE).is_file():
        raise ConfigError(
            f"--workdir: found no run in {workdir} (no {SETTINGS_FILE}).{near(workdir)}"
        )
    config_flags.DEFINE_config_dict(
        "config",
        to_config_dict(read_config(workdir)),
        "Override its fields with --config.FIELD=VALUE.",
        sys_argv=arguments,
    )


def config_names() -> list[str]:
    """What `--config` finds by name."""
    return sorted(file.stem for file in CONFIGS.glob("[!_]*.py"))


def _config_file(name: str) -> pathlib.Path:
    path = pathlib.Path(name).expanduser()
    if path.name == name and name in config_names() and not path.is_file():
        path = CONFIGS / f"{name}.py"
    elif (path / SETTINGS_FILE).is_file():
        path /= SETTINGS_FILE
    if not path.is_file():
        names = config_names()
        raise ConfigError(
            f"--config: found {name!r}, which is no file; allowed: the path of a file or of a run, "
            f"or a name: {', '.join(names)}.{hint(path.stem, names)}"
        )
    if path.name == SETTINGS_FILE:
        return path
    if path.suffix != ".py":
        raise ConfigError(
            f"--config: found {path}; allowed: a Python file, NAME.py, with a function "
            "get_config, or a run, whose settings are meant."
        )
    if str(path.absolute().parent) not in sys.path:
        sys.path.append(str(path.absolute().parent))
    return path


def _config_files(arguments: list[str]) -> Iterator[pathlib.Path]:
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--config":
            yield pathlib.Path(value.partition(":")[0])


def parse_flags(arguments: list[str]) -> list[str]:
    """Parse the flags that are defined; this runs the config file.

    Raises:
        ConfigError: the file cannot be run, sets what is no field, or a field to another type.
    """
    try:
        rest = flags.FLAGS(arguments)
        found = flags.FLAGS.config
    except Exception as error:
        files = [path.absolute() for path in _config_files(arguments)]
        for cause in _causes(error):
            if said := _fault_of_a_config_file(cause, files):
                raise ConfigError(f"--config: {said}") from error
        raise
    if not isinstance(found, ConfigDict):
        raise ConfigError(
            f"--config: get_config gives a {type(found).__name__}; allowed: a ConfigDict, as "
            "run.defaults() makes it."
        )
    return rest


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fault_of_a_config_file(error: BaseException, files: Collection[pathlib.Path]) -> str | None:
    """Where in a config file an error comes from, and what it says; None if from elsewhere."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, AttributeError) and error.name == "get_config":
        file = getattr(error.obj, "__file__", "the file")
        return f"{file} has no function get_config; allowed: one that returns a ConfigDict."
    frames = traceback.extract_tb(error.__traceback__)
    frames = [f for f in frames if pathlib.Path(f.filename).absolute() in files]
    if not frames:
        return None
    said = error.args[0] if error.args else error  # a KeyError in it
    text = " ".join(str(said.args[0] if isinstance(said, KeyError) else said).split())
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {text}"
