"""The settings that `--config` names: a config of this package, a file, or a run."""

import pathlib
import re
import sys
import traceback
from collections.abc import Collection, Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from ..errors import causes, hint
from ..files import near
from ..run_files import SETTINGS_FILE
from ._saved import read_config
from .command_line import words
from .config import ConfigError
from .fields import to_config_dict

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def find(arguments: list[str]) -> list[str]:
    """The command line with the path of its config file in place of a name, before all other flags.

    A bare name is a config of `dystress_jax.configs`; everything else is the path of a file, which
    may import its neighbours, or of a run, whose settings are meant. What overrides its fields may
    stand before it on the command line.

    Raises:
        ConfigError: there is no such file, with those that there are, or what a config file is.
    """
    program, *others = arguments
    files, found = [], []
    for text, flag, value in words(others, {"config"}.__contains__, value="NAME_OR_FILE"):
        if flag == "config" and value is not None:
            name, colon, of_file = value.partition(":")
            file = _config_file(name)
            if files or (colon and file.name == SETTINGS_FILE):
                found_there = f"{name}{colon}{of_file}" if colon else f"a second one, {name}"
                raise ConfigError(f"--config: found {found_there}; allowed: one name, file or run.")
            files.append(f"--config={file}{colon}{of_file}")
        else:
            found.append(text)
    return [program, *files, *found]


def parse(arguments: list[str]) -> list[str]:
    """Parse the flags that are defined, and the settings of a config file, the first run's if none.

    Args:
        arguments: of `find`.
    """
    workdir = run_as_config(arguments)
    if workdir is not None:
        arguments = [each for each in arguments if not each.startswith("--config=")]
        define_run(workdir, arguments)
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
        arguments: of `find`.
    """
    files = _config_files(arguments)
    return next((file.parent for file in files if file.name == SETTINGS_FILE), None)


def name_of(arguments: list[str]) -> str:
    """What the config file, or the run in place of one, is called.

    Args:
        arguments: of `find`.
    """
    for file in _config_files(arguments):
        return file.absolute().parent.name if file.name == SETTINGS_FILE else file.stem
    return "quickstart"


def define_run(workdir: pathlib.Path, arguments: list[str]) -> None:
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


def names() -> list[str]:
    """What `--config` finds by name."""
    return sorted(file.stem for file in CONFIGS.glob("[!_]*.py"))


def _config_file(name: str) -> pathlib.Path:
    path = pathlib.Path(name).expanduser()
    if path.name == name and name in names() and not path.is_file():
        path = CONFIGS / f"{name}.py"
    elif (path / SETTINGS_FILE).is_file():
        path /= SETTINGS_FILE
    if not path.is_file():
        known = names()
        raise ConfigError(
            f"--config: found {name!r}, which is no file; allowed: the path of a file or of a run, "
            f"or a name: {', '.join(known)}.{hint(path.stem, known)}"
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
        for cause in causes(error):
            if said := _fault_of_a_config_file(cause, files):
                raise ConfigError(f"--config: {said}") from error
        raise
    if not isinstance(found, ConfigDict):
        raise ConfigError(
            f"--config: get_config gives a {type(found).__name__}; allowed: a ConfigDict, as "
            "run.defaults() makes it."
        )
    return rest


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
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {re.sub(_CAST, _other_type, text)}"


# What ml_collections says of a value of another type.
_CAST = (
    r"Could not override field '([\w.]+)' \(reference\)\. (.+) is of original type "
    r"<class '(\w+)'> and cannot be casted to type <class '(\w+)'>"
)


def _other_type(match: re.Match[str]) -> str:
    name, value, kind, allowed = match.groups()
    more = ", names with commas between them" if (kind, allowed) == ("list", "str") else ""
    called = {"str": "text", "int": "whole number", "float": "number"}.get(allowed, allowed)
    return f"{name}: found {value}, a {kind}; allowed: a {called}{more}."
