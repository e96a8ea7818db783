"""Settings that a command line overrides, checked before absl parses them."""

import ast
import contextlib
import copy
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from .checks import from_config_dict
from .command_line import words
from .config import Config, ConfigError
from .fields import Field, fields, groups
from .values import takes, unknown


def joined(arguments: Iterable[str]) -> list[str]:
    """The command line with `--config.FIELD=VALUE` in place of `--config.FIELD VALUE`.

    Raises:
        ConfigError: a field has no value.

    Example:
        >>> joined(["train", "--config.seed", "1", "--config.data.outside", "--config.method=byol"])
        ['train', '--config.seed=1', '--config.data.outside', '--config.method=byol']
    """
    known = {f"config.{field.name}" for field in fields() if field.takes[0] is not bool}
    options = tuple(f"config.{field.name}." for field in fields() if field.takes_options)
    takes_value = lambda flag: flag in known or flag.startswith(options)
    return [word.text for word in words(arguments, takes_value)]


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
    for _, name, value in words(arguments):
        if not name.startswith("config."):
            continue
        field, said = name.removeprefix("config."), value or ""
        if field in groups():
            first = next(name for name in named if name.startswith(f"{field}."))
            raise ConfigError(
                f"{name}: found {said!r} for a group of fields; allowed: one of them, such as "
                f"config.{first}."
            )
        if field not in named:
            raise ConfigError(unknown(name, [f"config.{f}" for f in [*groups(), *named]]))
        if named[field].takes_options:
            raise ConfigError(
                f"{name}: found {said!r}; allowed: one option at a time, --{name}.NAME=VALUE."
            )
        if value is not None and not _reads_as(value, named[field]):
            raise ConfigError(f"{name}: found {value!r}; allowed: {takes(named[field])}.")
        found.append(field)
    return found


def override(
    settings: ConfigDict | Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    overridden: Mapping[str, Any] = types.MappingProxyType({}),
) -> Config:
    """The checked settings with some fields changed, as the command line changes those of a file.

    A new name puts what the settings have set for the old one back to its default.

    Args:
        settings: of a config file.
        changes: full name of a field, or of an option, to its value.
        overridden: fields that have been changed already, to what the file has there.

    Raises:
        ConfigError: as `from_config_dict`, or there is no such field.

    Example:
        >>> from dystress_jax.run.fields import defaults
        >>> settings = defaults()
        >>> settings.temperature.tau_max = 0.5
        >>> changes = {"temperature.name": "constant", "temperature.tau": 0.3}
        >>> override(settings, changes).temperature.tau_max
        0.2
    """
    changed, before = changed_by(settings, changes)
    return from_config_dict(changed, overridden={**before, **overridden})


def changed_by(
    settings: ConfigDict | Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with some fields changed, unchecked, and what these held before.

    Raises:
        ConfigError: there is no such field.

    Example:
        >>> changed_by({"temperature": {"tau": 0.1}}, {"temperature.tau": 0.5})
        ({'temperature': {'tau': 0.5}}, {'temperature.tau': 0.1})
    """
    named = [field.name for field in fields()]
    options = [field.name for field in fields() if field.takes_options]
    plain = settings.to_dict() if isinstance(settings, ConfigDict) else settings
    changed, before = copy.deepcopy(dict(plain)), {}
    for name, value in changes.items():
        is_option = any(name.startswith(f"{holder}.") for holder in options)
        if name not in named and not is_option:
            raise ConfigError(unknown(f"config.{name}", [f"config.{f}" for f in named]))
        *groups, last = name.split(".")
        place = changed
        for group in groups:
            place = place.setdefault(group, {})
        before[name], place[last] = place.get(last), value
    return changed, before


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
    holders = [field.name for field in fields() if field.takes_options]
    others, options = [], {}
    is_option = tuple(f"config.{holder}." for holder in holders)
    for text, flag, value in words(arguments, lambda flag: flag.startswith(is_option)):
        name = flag.removeprefix("config.")
        holder = next((h for h in holders if flag.startswith(f"config.{h}.")), None)
        if holder is None or value is None:
            others.append(text)
        else:
            *outer, last = name.removeprefix(f"{holder}.").split(".")
            place = options.setdefault(holder, {})
            for part in outer:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise ConfigError(
                        f"config.{name}: found beside config.{holder}.{part}={place!r}; allowed: "
                        "one of the two."
                    )
            place[last] = _literal(value)
    return others, options


def take_from_absl(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take several values, and None, out of a checked command line, as absl reads neither.

    Example:
        >>> take_from_absl(["eval", "--config.knn.k=20,200", "--config.seed=1"])
        (['eval', '--config.seed=1'], {'knn.k': (20, 200)})
        >>> take_from_absl(["train", "--config.microscope.every=None"])
        (['train'], {'microscope.every': None})
    """
    named = {f"config.{field.name}": field for field in fields()}
    others, found = [], {}
    for text, flag, value in words(arguments):
        field = named.get(flag)
        if field is None:
            others.append(text)
        elif value is not None and (field.may_be_several or field.takes_names):
            found[field.name] = _several(value, field)
        elif value is not None and _is_none(value, field):
            found[field.name] = None
        else:
            found.pop(field.name, None)  # the last of several flags counts
            others.append(text)
    return others, found


def _is_none(text: str, field: Field) -> bool:
    return type(None) in field.takes and text.lower() == "none"


def _several(text: str, field: Field) -> Any:
    parts = [_read(part, field) for part in text.strip("()[] ").split(",") if part.strip()]
    return parts[0] if len(parts) == 1 and not field.takes_names else tuple(parts)


def take_varied(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Take the fields that are varied, `--over.FIELD=VALUE,VALUE`, out of a command line.

    Commas within brackets belong to a value.

    Returns:
        The other arguments, and the values by the name of the field or of the option.

    Raises:
        ConfigError: a field does not exist, takes no such value, or has none.

    Example:
        >>> take_varied(["sweep", "--over.temperature.tau=0.1,0.2", "--config.seed=3"])
        (['sweep', '--config.seed=3'], {'temperature.tau': [0.1, 0.2]})
    """
    named = {field.name: field for field in fields()}
    others, found = [], {}
    is_varied = lambda flag: flag.startswith("over.")
    for text, flag, several in words(arguments, is_varied, value="VALUE,VALUE"):
        if not is_varied(flag) or several is None:
            others.append(text)
            continue
        name = flag.removeprefix("over.")
        for part in map(str.strip, _apart(several)):
            of_field, _ = take_options([f"--config.{name}={part}"])
            check_overrides(of_field)
            found.setdefault(name, []).append(_typed(part, named[name] if of_field else None))
    return others, found


def _apart(text: str) -> list[str]:
    """The parts between commas that stand in no brackets.

    Example:
        >>> _apart("0.1,(1,2),[3,(4,5)]")
        ['0.1', '(1,2)', '[3,(4,5)]']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _typed(text: str, field: Field | None) -> Any:
    """The value of a flag that has been checked; of an option, which is no field, any literal."""
    if field is None:
        return _literal(text)
    if field.takes_names or field.may_be_several:
        return _several(text, field)
    if isinstance(field.takes[0], types.GenericAlias):
        return _literal(text)
    if field.takes[0] is str and text.startswith("(") and text.endswith(")"):
        text = text[1:-1]  # they hold its commas together
    return _read(text, field)


def without_old_sources(
    images: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The further images of a config, without what is about a source that flags replace.

    Args:
        images: the `eval_on` of the config.
        changes: that of the flags.

    Returns:
        What goes on, and what does not, a line each.

    Example:
        >>> images = {"sketches": {"source": "folder", "path": "/photos", "holdout": 0.5}}
        >>> kept, told = without_old_sources(images, {"sketches": {"source": "tfds"}})
        >>> kept, len(told)
        ({'sketches': {'source': 'folder', 'holdout': 0.5}}, 1)
    """
    kept, told = dict(images), []
    of_source = [f for f in fields() if f.axis == f.meaning.about == "data.source"]
    for name, on in images.items():
        new = changes.get(name)
        if not isinstance(on, Mapping) or not isinstance(new, Mapping):
            continue
        if new.get("source", on.get("source")) == on.get("source"):
            continue
        gone = [f.last for f in of_source if f.last in on and f.last not in new]
        kept[name] = {field: value for field, value in on.items() if field not in gone}
        told += [
            f"config.eval_on.{name}.{field}: {on[field]!r} of the config is not used with these "
            "flags; left out"
            for field in gone
        ]
    return kept, told


def take_images(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take the other images out of a command line: `--on.FIELD` of `config.data`, or `--FIELD`.

    Args:
        arguments: of the command line.

    Returns:
        The other arguments, and the values by the name in `config.data`.

    Raises:
        ConfigError: in the names of the flags.

    Example:
        >>> take_images(["eval", "--on.source=folder", "--limit", "50", "--k=1"])
        (['eval', '--k=1'], {'source': 'folder', 'limit': 50})
    """
    named = {field.last: field for field in fields() if field.name.startswith("data.")}
    others, found = [], {}
    is_images = lambda flag: flag.startswith("on.") or flag.partition(".")[0] in named
    for text, flag, value in words(arguments, is_images):
        if not is_images(flag) or value is None:
            others.append(text)
            continue
        name = flag.removeprefix("on.")
        holder, _, option = name.partition(".")
        with calling_images("on"):
            if option and holder in named and named[holder].takes_options:
                found.setdefault(holder, {})[option] = _literal(value)
                continue
            check_overrides([f"--config.data.{name}={value}"])
        found[name] = _read(value, named[name])
    check_says_which(found)
    return others, found


def check_says_which(on: Mapping[str, Any], flag: str = "--on") -> None:
    """Refuse fields of other images that do not say of which.

    Args:
        on: the fields of `config.data` that are set for them; none: there are no other images.
        flag: what errors call the group.
    """
    if on and "source" not in on:
        name = next(iter(on))
        raise ConfigError(
            f"{flag}.{name}: found {on[name]!r} without {flag}.source; allowed: with it, such as "
            f"{flag}.source=folder. {flag} is for other images; the run's own keep its settings."
        )


@contextlib.contextmanager
def calling_images(flag: str) -> Iterator[None]:
    """Say the flag where an error says `config.data`: `on`, or `config.eval_on.NAME`."""
    try:
        yield
    except ConfigError as error:
        dashes = "" if flag.startswith("config.") else "--"
        said = str(error).replace("config.data.", f"{dashes}{flag}.")
        raise type(error)(said.replace("config.data:", f"{dashes}{flag}:")) from error


def _read(text: str, field: Field) -> Any:
    kind = field.takes[0]
    if _is_none(text, field):
        return None
    if field.takes_names:
        return text.strip(" '\"")
    if kind is bool:
        return text.lower() in ("true", "t", "1")
    return kind(text) if kind in (int, float) else text


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text, text)


def _reads_as(text: str, field: Field) -> bool:
    """Whether the text of a flag is of the type; tuples are looked at later."""
    kind = field.takes[0]
    if _is_none(text, field):
        return True
    if kind is bool:
        return text.lower() in ("true", "t", "1", "false", "f", "0")
    try:
        if field.may_be_several:
            return _several(text, field) != ()
        return kind not in (int, float) or kind(text) is not None
    except ValueError:
        return False
