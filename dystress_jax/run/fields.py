"""What can be asked of the fields: one by one, by name, and in the errors of other layers.

The settings themselves are in `config`.
"""

import contextlib
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from ..errors import ArgumentError
from .config import Config, ConfigError
from .meaning import Group, Meaning, Names, Table, taking


def defaults() -> ConfigDict:
    """Every field at its default, as the `ConfigDict` that a config file starts from.

    Returns:
        The settings as a `ConfigDict`, which config files change.

    Example:
        >>> defaults().temperature.name
        'dystress'
    """
    return to_config_dict(Config())


def to_config_dict(config: Config) -> ConfigDict:
    """The same settings as a `ConfigDict`.

    Args:
        config: the settings.

    Example:
        >>> settings = to_config_dict(Config())
        >>> settings.temperature.tau_max = 0.5
    """
    settings = ConfigDict(dataclasses.asdict(config))
    for field in fields():  # so that a value can be put where None stands
        if field.takes[1:] == (type(None),) and field.value(config) is None:
            empty = config_dict.placeholder(field.takes[0])
            settings.update_from_flattened_dict({field.name: empty})
        if field.may_be_several:
            several = config_dict.FieldReference(field.value(config), field_type=object)
            settings.update_from_flattened_dict({field.name: several})
    return settings


class Field(NamedTuple):
    """One field of `Config` under its full name, such as `temperature.tau_min`."""

    name: str
    takes: tuple[type, ...]
    default: Any
    meaning: Meaning
    only_for: Mapping[str, Names]  # with what follows from the group
    parts: Collection[str]  # of `Parts`, that read it; (): whatever the method
    axis: str  # the field that chooses who is built with the group's fields
    table: Table
    takers: Collection[str]  # the names in the table of those who have it as an argument

    @property
    def last(self) -> str:
        """The name within the group."""
        return self.name.rpartition(".")[2]

    @property
    def may_be_several(self) -> bool:
        """Whether it takes one value or several."""
        return len(self.takes) == 2 and isinstance(self.takes[1], types.GenericAlias)

    @property
    def takes_options(self) -> bool:
        """Whether it is a mapping: options, or what is named by the user."""
        return self.takes == (dict,)

    @property
    def takes_names(self) -> bool:
        """Whether it takes any number of names, none too."""
        return self.takes == (tuple[str, ...],)

    def value(self, config: Config) -> Any:
        """What a config holds there."""
        return get(config, self.name)

    def is_set(self, config: Config) -> bool:
        """Whether a config holds another value than the default."""
        return self.value(config) != self.default


@functools.cache
def fields() -> tuple[Field, ...]:
    """Every field, in the order of the table of settings.

    Example:
        >>> [field.name for field in fields()][:2]
        ['seed', 'method']
    """
    return tuple(_fields())


def _fields() -> Iterator[Field]:
    for outer in dataclasses.fields(Config):
        if not dataclasses.is_dataclass(outer.type):
            yield _describe(outer, outer.name, Group())
            continue
        for inner in dataclasses.fields(typing.cast(type, outer.type)):
            yield _describe(inner, f"{outer.name}.{inner.name}", outer.metadata["group"])


def _describe(field: dataclasses.Field, name: str, group: Group) -> Field:
    meaning: Meaning = field.metadata["meaning"]
    takers = taking(field.name, group.table) if name != group.axis else []
    only_for = {**group.only_for, **meaning.only_for}
    if takers and len(takers) < len(group.table):
        only_for[group.axis] = takers
    takes = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else ()
    kinds: Any = takes or (field.type,)
    return Field(
        name=name,
        takes=kinds,
        default={} if field.default is dataclasses.MISSING else field.default,
        meaning=meaning,
        only_for=only_for,
        parts=meaning.parts or group.parts,
        axis=group.axis,
        table=group.table,
        takers=takers,
    )


def groups() -> list[str]:
    """The names of the groups of fields.

    Example:
        >>> groups()[0]
        'data'
    """
    return [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)]


def get(config: Config, name: str) -> Any:
    """The value of a field by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def put(config: Config, name: str, value: Any) -> Config:
    """The config with another value of one field.

    Example:
        >>> put(Config(), "temperature.tau", 0.5).temperature.tau
        0.5
    """
    group, _, last = name.rpartition(".")
    if group:
        return dataclasses.replace(
            config, **{group: dataclasses.replace(getattr(config, group), **{last: value})}
        )
    return dataclasses.replace(config, **{last: value})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields in which two nested settings differ: name to (old, new).

    Example:
        >>> differences({"data": {"name": "a"}}, {"data": {"name": "b"}})
        {'data.name': ('a', 'b')}
    """
    before, after = _flatten(old), _flatten(new)
    names = list(dict.fromkeys([*before, *after]))
    missing = "(not there)"
    pairs = {n: (before.get(n, missing), after.get(n, missing)) for n in names}
    return {n: (a, b) for n, (a, b) in pairs.items() if _plain(a) != _plain(b)}


def may_change_on_resume(name: str) -> bool:
    """Whether a run may go on after the field `name`, or an option in one, has changed."""
    return any(
        field.meaning.may_change
        and (name == field.name or (field.takes_options and name.startswith(f"{field.name}.")))
        for field in fields()
    )


def is_of_a_machine(name: str) -> bool:
    """Whether processes of one run may differ in the field `name`, or in one of further images.

    Example:
        >>> [is_of_a_machine(name) for name in ("data.path", "eval_on.mine.path", "data.source")]
        [True, True, False]
    """
    name = re.sub(r"^eval_on\.\w+", "data", name)
    return any(field.meaning.of_a_machine and name == field.name for field in fields())


@contextlib.contextmanager
def as_fields(
    *where: str, options: str = "", takes: Collection[str] | None = None, **renamed: str
) -> Iterator[None]:
    """Say in the names of the fields what a function below says in those of its arguments.

    Args:
        where: the groups that the arguments come from, the nearest first.
        options: the field with the arguments that are no fields; "": that of the first group.
        takes: the arguments that can be options; None: any. The function may have called another
            one, whose arguments are none.
        renamed: arguments whose field has another name: argument to field.

    Raises:
        ConfigError: in place of an `ArgumentError`.

    Example:
        >>> with as_fields("data"):
        ...     raise ArgumentError("path", "found ''; allowed: what `name` needs.")
        Traceback (most recent call last):
        dystress_jax.run.config.ConfigError: config.data.path: found ''; allowed: what
        config.data.name needs.
    """
    try:
        yield
    except ArgumentError as error:
        names = _full_names(where) | renamed
        holder = options or ".".join([*where[:1], "options"])
        is_option = takes is None or error.argument in takes
        if is_option and any(field.name == holder for field in fields()):
            names.setdefault(error.argument, f"{holder}.{error.argument}")
        name = f"config.{names[error.argument]}" if error.argument in names else error.argument
        in_backticks = lambda m: f"config.{names[m[1]]}" if m[1] in names else m[1]
        text = re.sub(r"`(\w+)`", in_backticks, error.text)
        raise ConfigError(f"{name}: {text}") from error


def _full_names(where: Collection[str]) -> dict[str, str]:
    """Argument to field: those of the groups before those without a group."""
    found: dict[str, str] = {}
    for group in (*where, ""):
        for field in fields():
            if field.name.rpartition(".")[0] == group:
                found.setdefault(field.last, field.name)
    return found


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
