"""Settings that a command line overrides, checked before absl parses them."""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from .checks import from_config_dict, takes, unknown
from .config import Config, ConfigError
from .fields import Field, fields, groups


def check_overrides(arguments: Iterable[str]) -> list[str]:
    """Refuse `--config.NAME=VALUE` where no field has that name, or it takes no such value.

    Args:
        arguments: of the command line; all others are passed over.

    Returns:
        The fields that are set, in their order.

    Raises:
        ConfigError: naming the nearest field, or what the field takes.

    Example:
        >>> check_overrides(["train.py", "--config.temperature.tau_min=0.07"])
        ['temperature.tau_min']
    """
    named = {field.name: field for field in fields()}
    found = []
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        field = name.removeprefix("config.")
        if field in groups():
            first = next(name for name in named if name.startswith(f"{field}."))
            raise ConfigError(
                f"{name}: found {value!r} for a group of fields; allowed: one of them, such as "
                f"config.{first}."
            )
        if field not in named:
            raise ConfigError(unknown(name, [f"config.{f}" for f in [*groups(), *named]]))
        if named[field].takes == (dict,):
            raise ConfigError(
                f"{name}: found {value!r}; allowed: one option at a time, --{name}.NAME=VALUE."
            )
        if equals and not _reads_as(value, named[field]):
            raise ConfigError(f"{name}: found {value!r}; allowed: {takes(named[field])}.")
        found.append(field)
    return found


def override(settings: ConfigDict, changes: Mapping[str, Any]) -> Config:
    """The checked settings with some fields changed, as the command line changes those of a file.

    A new name puts what the settings have set for the old one back to its default.

    Args:
        settings: of a config file.
        changes: full name of a field to its value.

    Raises:
        ConfigError: as `from_config_dict`, or there is no such field.

    Example:
        >>> from .fields import defaults
        >>> settings = defaults()
        >>> settings.temperature.tau_max = 0.5
        >>> changes = {"temperature.name": "constant", "temperature.tau": 0.3}
        >>> override(settings, changes).temperature.tau_max
        0.2
    """
    named = [field.name for field in fields()]
    for name in changes:
        if name not in named:
            raise ConfigError(unknown(f"config.{name}", [f"config.{f}" for f in named]))
    changed = settings.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return from_config_dict(changed, overridden=changes)


def take_options(arguments: Iterable[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take the options of one's own objects out of a command line.

    Returns:
        The other arguments, and the options by field: numbers, texts, tuples as Python writes
        them, anything else as text.

    Raises:
        ConfigError: an option has no value.

    Example:
        >>> take_options(["train.py", "--config.temperature.options.slope=2.5"])
        (['train.py'], {'temperature.options': {'slope': 2.5}})
    """
    holders = [field.name for field in fields() if field.takes == (dict,)]
    others, options = [], {}
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        holder, _, option = name.removeprefix("config.").rpartition(".")
        if not (argument.startswith("-") and name.startswith("config.") and holder in holders):
            others.append(argument)
        elif not equals:
            raise ConfigError(f"{name}: found no value; allowed: --{name}=VALUE.")
        else:
            options.setdefault(holder, {})[option] = _literal(value)
    return others, options


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text, text)


def _reads_as(text: str, field: Field) -> bool:
    """Whether the text of a flag is of the type; tuples are looked at later."""
    kind = field.takes[0]
    if kind is bool:
        return text.lower() in ("true", "t", "1", "false", "f", "0")
    try:
        return kind not in (int, float) or kind(text) is not None
    except ValueError:
        return False
