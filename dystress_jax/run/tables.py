"""From a name in the settings to what it builds: an entry of a table, or one's own object."""

import contextlib
import importlib
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from ..errors import UserError, hint
from .config import Config, ConfigError
from .fields import Field, as_fields, fields, get
from .meaning import arguments

Entry = TypeVar("Entry")
IN_PYTHON = "python:"  # how config.json names an object that was given in Python


def is_own(name: str) -> bool:
    """Whether a name is `MODULE:OBJECT`, an object of the user's own."""
    return ":" in name


# Of a temperature of one's own that has an argument more, most often the similarity itself.
_MADE = (
    " The function that is named here returns the temperature, which is itself a function of the "
    "similarity: def mine(): return lambda similarity: 0.1 + 0.1 * similarity**2."
)


def find(table: Mapping[str, Entry], name: str, *, field: str) -> Entry | Any:
    """The entry of a table, or the object that `MODULE:OBJECT` names.

    A module is looked for on Python's path and in the current directory.

    Args:
        table: what there is, by name.
        name: which one.
        field: where the name stands, for errors.

    Raises:
        ConfigError: there is no such entry, module or object.
    """
    if not is_own(name):
        if name in table:
            return table[name]
        raise ConfigError(
            f"{field}: found {name!r}; allowed: {', '.join(table)}, MODULE:OBJECT."
            f"{hint(name, table)}"
        )
    if name.startswith(IN_PYTHON):
        raise ConfigError(
            f"{field}: the run was given {name.removeprefix(IN_PYTHON)} in Python, which no file "
            "can hold. Give it again: run.train or run.evaluate with own=."
        )
    module, _, path = name.partition(":")
    if module.endswith(".py"):
        *folders, file = module.removeprefix("./").removesuffix(".py").split("/")
        near = f" Did you mean {'.'.join([*folders, file])}:{path}?" if path else ""
        near = "" if "" in folders or ".." in folders or "~" in folders else near
        raise ConfigError(f"{field}: found {name!r}; allowed: MODULE:OBJECT, without .py.{near}")
    if not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
        raise ConfigError(f"{field}: found {name!r}; allowed: MODULE:OBJECT, as in my_code:mine.")
    found = _import(module, field)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise ConfigError(
                f"{field}: found {name!r}, but there is no {attribute}; allowed: a function of "
                f"{module}.{hint(attribute, dir(found))}"
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise ConfigError(
            f"{field}: found {name!r}, which is a {type(found).__name__}; allowed: a function."
        )
    return found


def _import(module: str, field: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # for good: what is imported may import its neighbours later
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the file does when it is read
        raise ConfigError(
            f"{field}: the module {module} cannot be imported ({type(error).__name__}: {error}); "
            f"allowed: one in the current directory, {here}, or on PYTHONPATH."
        ) from error


def make(
    config: Config,
    axis: str,
    builder: Callable[..., Any],
    *also: str,
    renamed: Mapping[str, str] | None = None,
    **known: Any,
) -> Any:
    """Build what `axis` names.

    Each argument of a builder of ours comes from the field of its name, else from what the run
    provides, else from the options. The user's own has its own defaults: each argument comes from
    an option, else from a field that is set or required, else from what the run provides.

    Args:
        config: the settings.
        axis: the field that has named the builder.
        builder: an entry of a table, or the user's own.
        *also: further groups whose fields its errors may name.
        renamed: arguments whose field has another name.
        **known: what the run knows.

    Raises:
        ConfigError: as `options_of`; or what the builder refuses, in the names of the fields.
    """
    options = options_of(config, axis, builder, known)
    given = {name: value for name, value in known.items() if name in arguments(builder)}
    groups, takes = (*_group_of(axis), *also), {*arguments(builder), *options}
    with as_fields(*groups, options=holder_of(axis), takes=takes, **(renamed or {})):
        return builder(**{**given, **settings_of(config, axis, builder), **options})


def settings_of(config: Config, axis: str, builder: Callable[..., Any]) -> dict[str, Any]:
    """The fields that a builder is given. None means as published: it is not handed on."""
    required = needed(builder)
    found = {
        field.last: field.value(config)
        for field in _fields_of(axis, builder)
        if not is_own(get(config, axis)) or field.is_set(config) or field.last in required
    }
    return {name: value for name, value in found.items() if value is not None}


def options_of(
    config: Config, axis: str, builder: Callable[..., Any], known: Collection[str]
) -> dict[str, Any]:
    """The options of what `axis` names.

    Args:
        config: the settings.
        axis: the field that has named the builder.
        builder: what takes the options.
        known: the arguments that the run gives.

    Raises:
        ConfigError: an option is no argument of the builder, or it is given elsewhere; or nothing
            gives an argument that the builder needs.
    """
    name, holder = get(config, axis), holder_of(axis)
    options = dict(get(config, holder)) if holder else {}
    own = is_own(name)
    elsewhere = {
        field.last: f"config.{field.name}"
        for field in _fields_of(axis, builder)
        if not own or field.is_set(config)
    }
    elsewhere = {**dict.fromkeys(known, "to leave it out, since the run sets it"), **elsewhere}
    free = [argument for argument in arguments(builder) if argument not in elsewhere]
    for option, value in options.items():
        full = f"config.{holder}.{option}"
        if option in elsewhere:
            raise ConfigError(f"{full}: found {value!r}; allowed: {elsewhere[option]}.")
        if option not in free and not takes_any(builder):
            raise ConfigError(
                f"{full}: found {value!r}, but {name} has no such argument; allowed: "
                f"{', '.join(free) or 'none'}.{hint(option, free)}"
            )
        check_type(full, value, builder)
    there = {*known, *options, *settings_of(config, axis, builder)}
    for argument in needed(builder):
        if argument not in there:
            where = elsewhere.get(argument, f"config.{holder}.{argument}=VALUE")
            raise ConfigError(
                f"config.{axis}: the argument {argument} of {name} has no value; allowed: {where}, "
                "or a default in the function."
                + (f" The run gives {', '.join(known)}." if known else "")
                + (_MADE if axis == "temperature.name" and len(needed(builder)) == 1 else "")
            )
    return options


def check_type(full: str, value: Any, builder: Callable[..., Any]) -> None:
    """Refuse a text for a number, which the builder would tell in the words of XLA."""
    parameter = inspect.signature(builder).parameters.get(full.rpartition(".")[2])
    if parameter is None or not isinstance(value, str):
        return
    kind = parameter.annotation
    if kind is parameter.empty:
        kind = type(parameter.default)
    if kind in (int, float, "int", "float"):
        raise ConfigError(f"{full}: found {value!r}; allowed: a number.")


def holder_of(axis: str) -> str:
    """The field with the options of what `axis` names; "" where there can be none."""
    name = ".".join([*_group_of(axis), "options"]) if _group_of(axis) else f"{axis}_options"
    return name if any(field.name == name for field in fields()) else ""


def is_ignored(field: Field, builder: Callable[..., Any]) -> bool:
    """Whether a builder of the user's own lacks an argument that those of the table have."""
    return bool(field.takers) and field.last not in arguments(builder)


def _fields_of(axis: str, builder: Callable[..., Any]) -> list[Field]:
    """The fields of the group that a builder has as arguments."""
    of_group = (f for f in fields() if f.axis == axis and f.name != axis and f.takes != (dict,))
    taken = arguments(builder)
    return [field for field in of_group if field.last in taken]


def _group_of(axis: str) -> list[str]:
    """The group of a field; none at the top."""
    return axis.split(".")[:-1]


def needed(builder: Callable[..., Any]) -> list[str]:
    """The arguments of a builder that have no default."""
    parameters = inspect.signature(builder).parameters
    return [
        name for name in arguments(builder) if parameters[name].default is inspect.Parameter.empty
    ]


def takes_any(builder: Callable[..., Any]) -> bool:
    """Whether a builder takes arguments of any name."""
    parameters = inspect.signature(builder).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


@contextlib.contextmanager
def telling(whose: str, allowed: str) -> Iterator[None]:
    """Say what is wrong with the user's own, whatever it raises, and in which line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        raise ConfigError(
            f"{whose} fails with {type(error).__name__} ({first}); allowed: {allowed}."
            f"{_where(error)}"
        ) from error


def _where(error: Exception) -> str:
    """The innermost line of what is neither this library nor installed."""
    others = (str(pathlib.Path(__file__).parents[1]), sysconfig.get_path("stdlib"), "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(others) and "site-packages" not in frame.filename:
            return f" The line: {frame.filename}, {frame.lineno}."
    return ""
