"""From loose settings to a `Config`: every check that needs no data and no devices."""

import difflib
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ..data import SOURCES
from ..errors import hint
from ..evaluation import templates
from ..methods import accepts, check_queue
from ..temperatures import check_range, check_scales
from .config import (
    ALIASES,
    BATCH_NORMED,
    OWN,
    RENAMED_FIELDS,
    RENAMED_VALUES,
    Config,
    ConfigError,
    Need,
    arguments,
)
from .fields import Field, as_fields, fields, get, groups, put
from .methods import METHODS
from .tables import IN_PYTHON, find, holder_of, is_ignored, is_own, needed, takes_any

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
FEW = 12  # names in a line beside the one that is meant
WITH_TEMPERATURE = "with a loss that has an argument temperature"


def from_config_dict(
    settings: Mapping[str, Any] | ConfigDict,
    *,
    overridden: Mapping[str, Any] = types.MappingProxyType({}),
) -> Config:
    """Turn loose settings into a checked `Config`.

    A setting that the run would ignore is refused; one at its default only where the command line
    has set it: a config file may have every field. If the command line changes a name, settings of
    the file that do not apply to the new name, or are about the old one alone, return to their
    defaults.

    Args:
        settings: nested mapping, for example a `ConfigDict`; missing fields take their default.
        overridden: fields that the command line has set, and options as `GROUP.options.NAME`, to
            what the file has there.

    Raises:
        ConfigError: an unknown field, a wrong type, a value out of range, a setting that would be
            ignored, or values that contradict each other.

    Example:
        >>> from_config_dict({"temperature": {"tau_min": 0.07}}).temperature.tau_min
        0.07
    """
    plain = settings.to_dict() if isinstance(settings, ConfigDict) else settings
    if not isinstance(plain, Mapping):
        raise ConfigError(f"config: found {type(plain).__name__}; allowed: a ConfigDict.")
    config = built(plain)
    config = _without_old_choices(config, overridden)
    config = without_ignored(config, overridden)
    config = _keep_explicit_defaults(config, overridden)
    if "epochs" in overridden and config.steps:
        raise ConfigError(
            f"config.epochs: found {config.epochs} with config.steps {config.steps}, which comes "
            "first; allowed: with config.steps=0."
        )
    _check_relations(config)
    return config


def put_back(settings: Mapping[str, Any], config: Config) -> list[str]:
    """What was put back to its default because a flag has made it useless, a line each.

    Args:
        settings: what `from_config_dict` was given.
        config: what it made of them.

    Example:
        >>> settings = {"temperature": {"name": "constant", "tau_max": 0.5}}
        >>> config = from_config_dict(settings, overridden={"temperature.name": "dystress"})
        >>> put_back(settings, config)
        ['config.temperature.tau_max: 0.5 of the config is not used with these flags; now 0.2']
    """
    given, lines = built(settings), []
    for field in fields():
        old, new = field.value(given), field.value(config)
        if field.takes == (dict,):
            names = [f"{field.name}.{name}" for name in old if name not in new]
            lines += [f"config.{name}: is not used with these flags; left out" for name in names]
        elif old != new:
            lines.append(
                f"config.{field.name}: {old} of the config is not used with these flags; now "
                f"{new!r}"
            )
    return lines


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
    lasts = {other: other.rpartition(".")[2].lstrip("-") for other in known}
    # Within a group the group's own name says nothing of how alike two names are.
    own = [other for other in known if other.rpartition(".")[0] == group]
    for among in [own, known] if group.count(".") == 0 else [own]:
        near = difflib.get_close_matches(last, [lasts[other] for other in among], n=1)
        if near:
            same = dict.fromkeys(other for other in among if lasts[other] == near[0])
            return f" Did you mean {' or '.join([*same][:3])}?"
    return "" if own else hint(name, known)


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
    full, kinds, allowed = f"config.{field.name}", field.takes, field.meaning
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
        if not isinstance(value, tuple | list) or not all(_is_number(v) for v in value):
            raise wrong
        kind, _ = typing.get_args(kinds[0])
        if kind is int and not all(float(v).is_integer() for v in value):
            raise wrong
        return tuple(kind(v) for v in value)
    if kinds[0] is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {name: _checked_option(option, f"{full}.{name}") for name, option in value.items()}
    if kinds[0] is float and _is_number(value):
        value = float(value)
    if type(value) is not kinds[0]:
        raise wrong
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{full}: found {value}; allowed: a finite number.")
    if allowed.among:
        return _checked_name(str(value), field)
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


def useless(config: Config) -> dict[str, Collection[str]]:
    """The fields and options that are of no use: name to the fields that make it so.

    Example:
        >>> [*useless(from_config_dict({"temperature": {"name": "dystress"}}))["temperature.tau"]]
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


def _without_old_choices(config: Config, overridden: Mapping[str, Any]) -> Config:
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


def _keep_explicit_defaults(config: Config, overridden: Collection[str]) -> Config:
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


def _own_builder(config: Config, axis: str) -> Callable[..., Any] | None:
    """The function of the user's own that a field names, if it names one."""
    chosen = get(config, axis) if axis else ""
    if not is_own(chosen) or chosen.startswith(IN_PYTHON):
        return None
    return find({}, chosen, field=f"config.{axis}")


def _unmet(config: Config, field: Field) -> dict[str, str]:
    """The choices by which a field would be ignored: the axis, and what is allowed."""
    unmet = {}
    for axis, names in field.only_for.items():
        chosen = _choice(config, axis)
        if chosen not in names and not (chosen == OWN and axis == field.axis):
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
    for name, needs in field.meaning.needs.items():
        for need in needs if name == field.value(config) else ():
            if _choice(config, need.field) not in need.among:
                return need
    return None


def _choice(config: Config, axis: str) -> Any:
    """What a field holds; OWN for everything of the user's own."""
    value = get(config, axis)
    return OWN if isinstance(value, str) and is_own(value) else value


def _fitting(config: Config, field: Field) -> list[str]:
    """The names that a field may hold beside all others."""
    names = field.meaning.among
    return [n for n in names if _unmet_need(put(config, field.name, n), field) is None]


def _unfit(config: Config, field: Field, need: Need, fitting: Sequence[str]) -> ConfigError:
    """The answer to two names that do not go together."""
    name = field.value(config)
    [other] = [other for other in fields() if other.name == need.field]
    among = [choice for choice in [*_fitting(config, other), OWN] if choice in need.among]
    either = [", ".join(fitting), f"{name} with config.{need.field} {', '.join(among)}"]
    return ConfigError(
        f"config.{field.name}: found {name} with config.{need.field} {get(config, need.field)}"
        f"{', ' if need.why else ''}{need.why}; allowed: {'; or '.join(filter(None, either))}."
    )


def ignored(config: Config, field: Field, axis: str, allowed: str) -> ConfigError:
    """The answer to a field that is set where the run would ignore it."""
    return ConfigError(
        f"config.{field.name}: found {field.value(config)!r} with config.{axis} "
        f"{get(config, axis)}, which would ignore it; allowed: {allowed}. Delete it, or change "
        f"config.{axis}."
    )


def _check_relations(config: Config) -> None:
    """Every check that needs more than one field and is no matter of what applies."""
    _check_data(config)
    _check_batch(config)
    _check_temperature(config)
    _check_queue(config)
    _check_bn_groups(config)
    _check_prompts(config)
    _check_probe(config)
    _check_eval_on(config)


def _check_data(config: Config) -> None:
    d = config.data
    if not is_own(d.source) and not d.path and "path" in needed(SOURCES[d.source]):
        raise ConfigError(
            f"config.data.path: found '' with config.data.source {d.source}; allowed: the path of "
            "the directory or the file."
        )
    for name in ("mean", "std"):
        found = getattr(config.augment, name)
        if len(found) not in (1, 3) or (name == "std" and min(found) <= 0):
            raise ConfigError(
                f"config.augment.{name}: found {found}; allowed: 1 or 3 numbers"
                + (" above 0." if name == "std" else ".")
            )
    if config.knn_every and not d.holdout:
        raise ConfigError(
            f"config.data.holdout: found 0 with config.knn_every {config.knn_every}; allowed: a "
            "share above 0, on which kNN is measured during training, or config.knn_every=0."
        )


def _check_probe(config: Config) -> None:
    probe = config.probe
    for name in ("learning_rates", "l2"):
        found = getattr(probe, name)
        if not found or min(found) <= 0:
            raise ConfigError(f"config.probe.{name}: found {found}; allowed: numbers above 0.")


def _check_eval_on(config: Config) -> None:
    """Further images are named, and described by fields of `data`."""
    known = [field.last for field in fields() if field.name.startswith("data.")]
    for name, on in config.eval_on.items():
        full = f"config.eval_on.{name}"
        if not isinstance(on, Mapping) or not name.isidentifier():
            raise ConfigError(
                f"{full}: found {on!r}; allowed: a name, and below it fields of data, such as "
                "config.eval_on.sketches.source and config.eval_on.sketches.path."
            )
        for field in on:
            if field not in known:
                raise ConfigError(unknown(f"{full}.{field}", [f"{full}.{k}" for k in known]))


def _check_batch(config: Config) -> None:
    parts, batch = config.batch.micro_batches, config.batch_size
    if batch % parts or batch // parts < 2:
        divisors = [d for d in range(1, batch // 2 + 1) if batch % d == 0]
        near = min(divisors, key=lambda d: abs(d - parts))
        raise ConfigError(
            f"config.batch.micro_batches: found {parts} with config.batch_size {batch}; allowed: a "
            f"divisor of the batch that leaves at least 2 images a piece, the nearest: {near}."
        )


def _check_temperature(config: Config) -> None:
    """Numbers of a temperature that must lie between others; one's own may have its own."""
    t = config.temperature
    if is_own(t.name):
        return
    with as_fields("temperature"):
        check_range(t.tau_min, t.tau_max)
        check_scales(t.min_scale, t.max_scale)
    if t.name == "macl" and config.loss.options.get("decoupled"):
        raise ConfigError(
            "config.loss.options.decoupled: found True with config.temperature.name macl, which "
            "weighs by the probability of the positive; allowed: False."
        )
    if t.name == "isogclr" and not t.tau_min <= t.tau <= t.tau_max:
        raise ConfigError(
            f"config.temperature.tau: found {t.tau}; allowed for isogclr: from tau_min "
            f"{t.tau_min} to tau_max {t.tau_max}."
        )
    low, high = 1 / t.max_scale, 1 / t.min_scale
    if t.name == "learned" and not low / (1 + 1e-6) <= t.tau <= high * (1 + 1e-6):
        raise ConfigError(
            f"config.temperature.tau: found {t.tau}, a scale of {1 / t.tau:.4g}, with "
            f"config.temperature.min_scale {t.min_scale} and max_scale {t.max_scale}; allowed: "
            f"from {low:.4g} to {high:.4g}."
        )


def _check_prompts(config: Config) -> None:
    for group, prompts in (("data", config.data.prompts), ("zero_shot", config.zero_shot.prompts)):
        if prompts or group == "zero_shot":  # the data may have captions of their own
            with as_fields(group, name=f"{group}.prompts"):
                templates(prompts)


def _check_queue(config: Config) -> None:
    if _takes(config, "queue_size"):
        with as_fields("moco"):
            check_queue(config.moco.queue_size, config.batch_size)


def _check_bn_groups(config: Config) -> None:
    batch, groups = config.batch_size, config.moco.bn_groups
    parts = config.batch.micro_batches
    if not (_takes(config, "bn_groups") and has_batchnorm(config)):
        return
    if (batch // parts) % groups or batch // parts // groups < 2:
        raise ConfigError(
            f"config.moco.bn_groups: found {groups} with config.batch_size {batch}"
            + (f" in {parts} micro-batches" if parts > 1 else "")
            + "; allowed: a number of groups that divides "
            + ("each of them" if parts > 1 else "the batch")
            + ", with at least 2 images in each."
        )


def _takes(config: Config, argument: str) -> bool:
    """Whether a method of ours has an argument."""
    return not is_own(config.method) and argument in arguments(METHODS[config.method].build)


def has_batchnorm(config: Config) -> bool:
    """Whether the encoder normalises over the batch; of the user's own it is assumed."""
    return _choice(config, "model.name") in BATCH_NORMED


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
