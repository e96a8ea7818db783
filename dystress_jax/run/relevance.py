"""Which settings a run has a use for, given its other settings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..methods import accepts
from .config import OWN, Config, ConfigError
from .fields import Field, fields, get, put
from .meaning import Need, arguments
from .tables import IN_PYTHON, find, holder_of, is_ignored, is_own, needed, takes_any
from .values import built

WITH_TEMPERATURE = "with a loss that has an argument temperature"


def without_ignored(config: Config, overridden: Collection[str] = ()) -> Config:
    """Refuse what the run would ignore, and names that do not go together.

    What an override has made useless returns to its default: a field that applies to the old name
    only, and a name where the new one leaves no other than the default.
    """
    changed = set(overridden)
    for field in fields():
        unmet = _unmet(config, field)
        # A text of nothing, and None, are how a person says that it is not set.
        typed = field.name in overridden and field.value(config) not in ("", None)
        if unmet and (field.is_set(config) or typed):
            if field.name in overridden or changed.isdisjoint(unmet):
                raise ignored(config, field, *next(iter(unmet.items())))
            config = put(config, field.name, field.default)
            changed.add(field.name)
        need = None if unmet else _unmet_need(config, field)
        if need is not None:
            fitting = _fitting(config, field)
            others = [name for name in fitting if name != "auto"]  # which stands for one of them
            leaves_one = field.default in fitting and len(others) == 1
            if field.name in overridden or need.field not in changed or not leaves_one:
                raise _unfit(config, field, need, fitting)
            config = put(config, field.name, field.default)
            changed.add(field.name)
    return _without_old_options(config, changed)


def without_old_choices(config: Config, overridden: Mapping[str, Any]) -> Config:
    """Put back what is about a choice of the file that an override has replaced.

    Raises:
        ConfigError: the new choice needs one of its own.
    """
    for field in fields():
        about = field.meaning.about
        if not about or field.name in overridden or not field.is_set(config):
            continue
        new = get(config, about)
        old = overridden.get(about, new)
        argument = field.axis == about  # of what the choice builds
        if old in (None, new) or (argument and not is_own(old) and old not in field.takers):
            continue
        if argument and not is_own(new) and field.last in needed(field.table[new]):
            raise ConfigError(
                f"config.{field.name}: found {field.value(config)!r} of the config's {about} "
                f"{old}, and none for {new}; allowed: one for {new}, with "
                f"--config.{field.name}=VALUE."
            )
        config = put(config, field.name, field.default)
    return config


def _without_old_options(config: Config, overridden: Collection[str]) -> Config:
    """Take back the options of a config file for another name, which an override has replaced."""
    for axis, table in {field.axis: field.table for field in fields()}.items():
        holder = holder_of(axis)
        if axis in overridden and holder:
            builder = find(table, get(config, axis), field=f"config.{axis}")
            options = {
                name: value
                for name, value in get(config, holder).items()
                if f"{holder}.{name}" in overridden or name in arguments(builder)
            }
            config = put(config, holder, options)
    return config


def keep_explicit_defaults(config: Config, overridden: Collection[str]) -> Config:
    """Pass a field that was set to our default on to the user's own, which may have another."""
    for field in fields():
        holder = holder_of(field.axis)
        if field.name not in overridden or field.is_set(config) or not holder:
            continue
        builder = _own_builder(config, field.axis)
        if builder and field.name != field.axis and field.last in arguments(builder):
            options = {field.last: field.value(config), **get(config, holder)}
            config = put(config, holder, options)
    return config


def useless(config: Config) -> dict[str, Collection[str]]:
    """The fields and options that are of no use: name to the fields that make it so.

    Example:
        >>> [*useless(built({"temperature": {"name": "dystress"}}))["temperature.tau"]]
        ['temperature.name']
    """
    unmet = {field.name: _unmet(config, field) for field in fields()}
    found: dict[str, Collection[str]] = {name: axes.keys() for name, axes in unmet.items() if axes}
    for axis, table in {field.axis: field.table for field in fields()}.items():
        options = get(config, holder_of(axis)) if holder_of(axis) else {}
        if not options or get(config, axis).startswith(IN_PYTHON):
            continue
        builder = find(table, get(config, axis), field=f"config.{axis}")
        if not takes_any(builder):
            others = [name for name in options if name not in arguments(builder)]
            found |= {f"{holder_of(axis)}.{name}": [axis] for name in others}
    return found


def useless_of_file(settings: Mapping[str, Any]) -> Collection[str]:
    """As `useless` of the settings of a run, without importing what is the user's own.

    Args:
        settings: of its config.json.

    Raises:
        ConfigError: they are none of this version.
    """
    config = built(settings)
    for field in fields():
        value = field.value(config)
        if field.meaning.own and is_own(value) and not value.startswith(IN_PYTHON):
            config = put(config, field.name, f"{IN_PYTHON}{value.replace(':', '.')}")
    return useless(config).keys()


def ignored(config: Config, field: Field, axis: str, allowed: str) -> ConfigError:
    """The answer to a field that is set where the run would ignore it."""
    chosen = get(config, axis)
    chosen = "''" if chosen == "" else chosen
    return ConfigError(
        f"config.{field.name}: found {field.value(config)!r} with config.{axis} "
        f"{chosen}, which would ignore it; allowed: {allowed}. Delete it, or change "
        f"config.{axis}."
    )


def _unmet(config: Config, field: Field) -> dict[str, str]:
    """The choices by which a field would be ignored: the axis, and what is allowed."""
    unmet = {}
    for axis, names in field.only_for.items():
        chosen = choice(config, axis)
        if chosen not in names and not (chosen == OWN and axis == field.axis):
            needed_too = [need.among for need in _needs(config, field) if need.field == axis]
            names = [name for name in names if all(name in among for among in needed_too)] or names
            allowed = ", ".join(name or "''" for name in names)
            unmet[axis] = f"with config.{axis} {allowed}"
    builder = _own_builder(config, field.axis)
    if builder and is_ignored(field, builder):
        unmet[field.axis] = f"where the function has an argument {field.last}"
    if field.axis == "temperature.name" and not is_own(config.method):
        loss = _own_builder(config, "loss.name")
        if loss and not accepts(loss, "temperature"):
            unmet["loss.name"] = WITH_TEMPERATURE
    return unmet


def _unmet_need(config: Config, field: Field) -> Need | None:
    """What the name that a field holds goes together with, where the config has something else."""
    unmet = (need for need in _needs(config, field) if choice(config, need.field) not in need.among)
    return next(unmet, None)


def _fitting(config: Config, field: Field) -> list[str]:
    """The names that a field may hold beside all others, and all others beside them."""
    asking = [other for other in fields() if not _unmet(config, other)]

    def fits(name: str) -> bool:
        tried = put(config, field.name, name)
        if _unmet_need(tried, field) is not None:
            return False
        needs = [need for other in asking for need in _needs(tried, other)]
        return all(name in need.among for need in needs if need.field == field.name)

    return [name for name in field.meaning.among if fits(name)]


def _needs(config: Config, field: Field) -> Sequence[Need]:
    """What the name that a field holds goes together with."""
    value = field.value(config)
    return field.meaning.needs.get(value, ()) if isinstance(value, str) else ()


def _unfit(config: Config, field: Field, need: Need, fitting: Sequence[str]) -> ConfigError:
    """The answer to two names that do not go together."""
    name = field.value(config)
    [other] = [other for other in fields() if other.name == need.field]
    used = lambda choice: not _unmet(put(config, need.field, choice), field)
    among = [choice for choice in _fitting(config, other) if choice in need.among and used(choice)]
    among += [OWN] if OWN in need.among else []
    held = ", ".join(among or map(repr, need.among))  # of a field that is no choice of names
    either = [", ".join(fitting), f"{name} with config.{need.field} {held}"]
    return ConfigError(
        f"config.{field.name}: found {name} with config.{need.field} {get(config, need.field)}"
        f"{', ' if need.why else ''}{need.why}; allowed: {'; or '.join(filter(None, either))}."
    )


def choice(config: Config, axis: str) -> Any:
    """What a field holds; OWN for everything of the user's own."""
    value = get(config, axis)
    return OWN if isinstance(value, str) and is_own(value) else value


def _own_builder(config: Config, axis: str) -> Callable[..., Any] | None:
    """The function of the user's own that a field names, if it names one."""
    chosen = get(config, axis) if axis else ""
    if not is_own(chosen) or chosen.startswith(IN_PYTHON):
        return None
    return find({}, chosen, field=f"config.{axis}")
