"""From loose settings to a `Config`, each value by itself: its name, its type, its range."""

import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import hint
from .config import ALIASES, RENAMED_FIELDS, RENAMED_VALUES, Config, ConfigError
from .fields import Field, fields, groups, put
from .tables import is_own

_TAKES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    tuple[float, ...]: "a tuple of numbers",
    tuple[int, ...]: "a tuple of whole numbers",
    tuple[str, ...]: "names, with commas between them",
    dict: "names and values",
}
# What PyTorch's users write, with the last part of our names.
SHORT = {"bs": "batch_size", "lr": "learning_rate", "wd": "weight_decay"}
FEW = 12  # names in a line beside the one that is meant


def built(settings: Mapping[str, Any]) -> Config:
    """The settings, each by itself: of the right name, type and range.

    Args:
        settings: nested mapping; missing fields take their default.

    Raises:
        ConfigError: an unknown field, a wrong type, or a value out of range.
    """
    config, named = Config(), {field.name: field for field in fields()}
    known = [f"config.{name}" for name in [*groups(), *named]]
    for outer, value in settings.items():
        if outer not in groups():
            if outer not in named:
                raise ConfigError(unknown(f"config.{outer}", known))
            config = put(config, outer, _checked(value, named[outer]))
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"config.{outer}: found {value!r}; allowed: a group of fields.")
        for inner, content in value.items():
            name = f"{outer}.{inner}"
            if name not in named:
                raise ConfigError(unknown(f"config.{name}", known))
            config = put(config, name, _checked(content, named[name]))
    return config


def _checked(value: Any, field: Field) -> Any:
    """The value of one field: its type, its range, its name of today."""
    full, kinds = f"config.{field.name}", field.takes
    value = value.item() if isinstance(value, np.generic) else value
    wrong = ConfigError(f"{full}: found {value!r}; allowed: {takes(field)}.")
    if value is None:
        if type(None) in kinds:
            return None
        raise wrong
    if field.may_be_several and isinstance(value, tuple | list):
        if not value or any(isinstance(one, tuple | list) for one in value):
            raise wrong
        return tuple(_checked(one, field) for one in value)
    if field.takes_names:
        if not isinstance(value, tuple | list) or len(set(value)) < len(value):
            raise wrong
        return tuple(_checked_name(str(name), field) for name in value)
    if isinstance(kinds[0], types.GenericAlias):  # tuple[float, ...] or tuple[int, ...]
        value = (value,) if _is_number(value) else value
        if not isinstance(value, tuple | list) or not all(_is_number(v) for v in value):
            raise wrong
        kind, _ = typing.get_args(kinds[0])
        numbers = [_as_float(v) for v in value]
        if kind is int and not all(v.is_integer() for v in numbers):
            raise wrong
        return tuple(_in_range(kind(v), field) for v in numbers)
    if kinds[0] is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {name: _checked_option(option, f"{full}.{name}") for name, option in value.items()}
    if kinds[0] is float and _is_number(value):
        value = _as_float(value)
    if type(value) is not kinds[0]:
        raise wrong
    return _checked_name(str(value), field) if field.meaning.among else _in_range(value, field)


def _in_range(value: Any, field: Field) -> Any:
    full, allowed = f"config.{field.name}", field.meaning
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{full}: found {value}; allowed: a finite number.")
    for holds, limit in (
        (allowed.above is None or value > allowed.above, f"above {allowed.above}"),
        (allowed.at_least is None or value >= allowed.at_least, f">= {allowed.at_least}"),
        (allowed.at_most is None or value <= allowed.at_most, f"<= {allowed.at_most}"),
        (allowed.below is None or value < allowed.below, f"below {allowed.below}"),
    ):
        if not holds:
            raise ConfigError(f"{full}: found {value}; allowed: {limit}.")
    return value


def _checked_option(value: Any, full: str) -> Any:
    """An option as config.json gives it back; sequences are tuples, whoever wrote them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return tuple(_checked_option(part, full) for part in value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _checked_option(part, full) for name, part in value.items()}
    raise ConfigError(
        f"{full}: found {value!r}; allowed: what config.json can hold: numbers, texts, True, "
        "False, None, and tuples and dicts of these."
    )


def _checked_name(value: str, field: Field) -> str:
    full, among = f"config.{field.name}", list(field.meaning.among)
    value = ALIASES.get(field.name, {}).get(value, value)
    if value in among or (field.meaning.own and is_own(value)):
        return value
    renamed = RENAMED_VALUES.get(field.name, {})
    if value in renamed:
        raise ConfigError(f"{full}: {value} is now called {renamed[value]}.")
    own = ", or MODULE:OBJECT of your own" if field.meaning.own else ""
    raise ConfigError(
        f"{full}: found {value!r}; allowed: {', '.join(among)}{own}.{hint(value, among)}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: int | float) -> float:
    """A number that is too large for a float is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def takes(field: Field) -> str:
    """What a field takes, in words."""
    return " or ".join(_TAKES.get(kind, "None") for kind in field.takes)


def unknown(name: str, known: Sequence[str]) -> str:
    """The answer to a field that does not exist.

    Args:
        name: the dotted name.
        known: those that there are, groups included.
    """
    renamed = RENAMED_FIELDS.get(name.removeprefix("config."))
    if renamed:
        return f"{name}: is now called config.{renamed}."
    group = name.rpartition(".")[0]
    own = [other for other in known if other.rpartition(".")[0] == group]
    near = meant(name, known)
    shown = own or [other for other in known if other.count(".") == 1]
    if near and len(shown) > FEW:
        return f"{name}: no such field.{near}"
    return f"{name}: no such field.{near} Allowed: {', '.join(shown)}."


def meant(name: str, known: Sequence[str]) -> str:
    """The words `Did you mean NAME?` after a space: of the same group first, then of any.

    Args:
        name: the dotted name of what does not exist.
        known: those that there are, groups included.

    Example:
        >>> known = ["config.knn", "config.optimizer.learning_rate", "config.knn.k"]
        >>> meant("config.knn.K", known), meant("config.learning_rate", known)
        (' Did you mean config.knn.k?', ' Did you mean config.optimizer.learning_rate?')
    """
    group, _, last = name.lower().rpartition(".")
    last = SHORT.get(last, last)
    lasts = {other: other.rpartition(".")[2].lstrip("-") for other in known}
    # Within a group the group's own name says nothing of how alike two names are.
    own = [other for other in known if other.rpartition(".")[0] == group]
    for among in [own, known] if group.count(".") == 0 else [own]:
        near = difflib.get_close_matches(last, [lasts[other] for other in among], n=1)
        if near:
            same = dict.fromkeys(other for other in among if lasts[other] == near[0])
            return f" Did you mean {' or '.join([*same][:3])}?"
    return "" if own else hint(name, known)
