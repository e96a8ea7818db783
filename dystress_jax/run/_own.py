"""Objects of the user's own that are given in Python, in place of names in the settings."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..data import SOURCES, Source
from ..evaluation import Result
from ..methods import Loss, Method
from ..models import ENCODERS, Network
from ..schemes import Scheme
from ..temperatures import TemperatureLike
from .checks import from_config_dict
from .config import Config, ConfigError
from .fields import fields, get, put
from .methods import ALL_LOSSES, METHODS
from .relevance import ignored
from .tables import IN_PYTHON, find, is_ignored
from .temperature import TEMPERATURES

_AXES = {  # what each object stands for
    "temperature": "temperature.name",
    "loss": "loss.name",
    "method": "method",
    "model": "model.name",
    "source": "data.source",
}
_MADE = ("temperature.name", "model.name")  # given as they are; the others are called


class Own(NamedTuple):
    """Objects of one's own in place of names in the settings; None: as the settings say.

    Attributes:
        temperature: anything that a loss takes as temperature, or a `schemes.Scheme`.
        loss: called as those of the method, such as `losses.nt_xent`.
        method: `(...) -> methods.Method`, of arguments with the names of some of `Parts`.
        model: the encoder.
        source: `(...) -> {"train": data.Source, ...}`.
        evaluations: name to `(experiment, state) -> Result`, for the end of `run.train`.

    Example:
        >>> Own(temperature=lambda similarity: 0.1 + 0.1 * similarity**2).loss is None
        True
    """

    temperature: TemperatureLike | Scheme | None = None
    loss: Loss | None = None
    method: Callable[..., Method] | None = None
    model: Network | None = None
    source: Callable[..., dict[str, Source]] | None = None
    evaluations: Mapping[str, Callable[..., Result]] = types.MappingProxyType({})

    def given(self) -> dict[str, Any]:
        """The objects by the fields that they stand for."""
        found = {axis: getattr(self, name) for name, axis in _AXES.items()}
        return {axis: made for axis, made in found.items() if made is not None}


class Chosen(NamedTuple):
    """The functions that build a run's parts: those that the settings name, or that were given.

    Attributes:
        source: opens the data.
        model: makes the encoder.
        method: makes the method of its parts.
        loss: itself; None: what softmax means for a method of the user's own.
        temperature: makes the temperature or its scheme.
    """

    source: Callable[..., dict[str, Source]]
    model: Callable[..., Network]
    method: Callable[..., Method]
    loss: Loss | None
    temperature: Callable[..., Any]


def choose(config: Config, own: Own = Own()) -> Chosen:
    """Find what the settings name, once for the whole run.

    Args:
        config: the settings.
        own: objects in place of names.

    Raises:
        ConfigError: the settings name nothing that there is.
    """
    given = own.given()

    def of(axis: str, table: Mapping[str, Any]) -> Any:
        return _builder(axis, given[axis]) if axis in given else _named(config, axis, table)

    builders = {name: entry.build for name, entry in METHODS.items()}
    entry = METHODS.get(config.method)
    table = {**ALL_LOSSES, "softmax": None} if entry is None else {"softmax": None, **entry.losses}
    table["auto"] = table.get(config.loss_name)
    return Chosen(
        source=of("data.source", SOURCES),
        model=of("model.name", ENCODERS),
        method=of("method", builders),
        loss=of("loss.name", table),
        temperature=of("temperature.name", TEMPERATURES),
    )


def _named(config: Config, axis: str, table: Mapping[str, Any]) -> Any:
    return find(table, get(config, axis), field=f"config.{axis}")


def _builder(axis: str, made: Any) -> Callable[..., Any]:
    """What gives the object that was given."""
    return functools.partial(lambda made: made, made) if axis in _MADE else made


def name_own(config: Config, own: Own) -> Config:
    """The settings with the names of the objects that were given.

    Raises:
        ConfigError: `config` is no `Config`; an object is no function where one is called, or
            would ignore a field that is set; or the settings name an object that is not given.
    """
    if not isinstance(config, Config):
        raise ConfigError(
            f"config: found a {type(config).__name__}; allowed: a run.Config, which "
            "run.from_config_dict makes of settings."
        )
    for axis in _AXES.values():
        if get(config, axis).startswith(IN_PYTHON) and axis not in own.given():
            _named(config, axis, {})
    for axis, made in own.given().items():
        if axis not in _MADE and not callable(made):
            raise ConfigError(
                f"config.{axis}: found a {type(made).__name__} in own=; allowed: a function."
            )
        config = put(config, axis, IN_PYTHON + name_of(made))
        builder = _builder(axis, made)
        for field in fields():
            if field.axis == axis and field.is_set(config) and is_ignored(field, builder):
                raise ignored(config, field, axis, "its default")
    return from_config_dict(dataclasses.asdict(config))


def check_given_again(trained: Config, config: Config) -> None:
    """Refuse to go on without the objects that a run was given.

    Args:
        trained: the run's settings.
        config: those that it shall go on with.

    Raises:
        ConfigError: naming the first object that is missing.
    """
    for axis in _AXES.values():
        if not get(config, axis).startswith(IN_PYTHON):
            then = get(trained, axis)
            if then.startswith(IN_PYTHON):
                find({}, then, field=f"config.{axis}")


def name_of(made: Any) -> str:
    """What to call an object: with its numbers if it shows them, so that it is told from others."""
    shown = getattr(made, "__qualname__", None) or repr(made)
    return type(made).__qualname__ if " at 0x" in shown else shown.rpartition("<locals>.")[2]
