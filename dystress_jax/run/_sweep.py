"""Many runs: one for each combination of settings and each seed, one after another."""

import contextlib
import itertools
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ..files import parse_json
from ..run_files import DIVERGED_FILE, ENDS
from ..training.log import DivergedError
from ..weights import WeightsError
from ._own import Own, name_own
from ._prepare import check_evaluations_and_loggers
from ._saved import digest_of
from ._settings_names import LONGEST_NAME, in_a_name, number_of
from ._train import train
from .config import Config, ConfigError
from .data import with_absolute_paths
from .evaluations import readers
from .fields import fields
from .measuring import NotMeasuredError
from .overrides import changed_by, override
from .relevance import useless
from .show import note
from .values import built


class Combination(NamedTuple):
    """One of the runs of a sweep.

    Attributes:
        name: of its directory.
        config: its settings.
        changes: those that make it another run than the others, by the full names of the fields.
    """

    name: str
    config: Config
    changes: dict[str, Any]


def combinations(
    settings: ConfigDict | Mapping[str, Any],
    over: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 3,
    overridden: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[Combination]:
    """Every combination of the values, with each seed.

    A field that a combination would ignore is left out of it, as `temperature.tau` beside a
    temperature that has none.

    Args:
        settings: of a config file, the same for all.
        over: full name of a field, or of an option, to its values.
        seeds: runs of each combination, at least 1; their seeds are `seed` of the settings, and
            those after it.
        overridden: fields of `settings` that a command line has changed, to what the file has.

    Returns:
        The runs: the first seed of all combinations, then the second, so that there is early
        something to compare.

    Raises:
        ConfigError: a combination cannot be used.

    Example:
        >>> from dystress_jax import run
        >>> over = {"temperature.name": ["constant", "dystress"], "temperature.tau": [0.1, 0.5]}
        >>> found = run.combinations(run.defaults(), over, seeds=2)
        >>> [one.name for one in found if one.config.seed == 1]
        ['temperature=constant_tau=0.1_seed=1', 'temperature=constant_tau=0.5_seed=1',
        'temperature=dystress_seed=1']
    """
    if seeds < 1:
        raise ConfigError(f"--seeds: found {seeds}; allowed: at least 1.")
    _check_varied(over, overridden)
    found: dict[str, Combination] = {}
    for of, values in itertools.product(range(seeds), itertools.product(*over.values())):
        changes = dict(zip(over, values, strict=True))
        try:
            one = _combination(settings, changes, of, overridden)
        except ConfigError as error:
            said = ", ".join(f"{name}={value}" for name, value in changes.items())
            raise ConfigError(f"{error}{f' In the combination {said}.' if said else ''}") from error
        found.setdefault(repr(one.changes), one)
    return _with_names_of_their_own([*found.values()])


def _combination(
    settings: ConfigDict | Mapping[str, Any],
    changes: dict[str, Any],
    of: int,
    overridden: Mapping[str, Any],
) -> Combination:
    """The run with these values and that seed, without what others of the values make useless."""
    changed, _ = changed_by(settings, changes)
    raw = built(changed)
    idle = {name for name, axes in useless(raw).items() if not changes.keys().isdisjoint(axes)}
    kept = {name: value for name, value in changes.items() if name not in idle}
    flags = {name: old for name, old in overridden.items() if name not in idle}
    config = override(settings, {**kept, "seed": raw.seed + of}, overridden=flags)
    check_evaluations_and_loggers(config)
    return Combination(_directory(kept, config.seed), config, {**kept, "seed": config.seed})


def sweep(
    runs: Sequence[Combination], workdir: pathlib.Path | str, *, own: Own = Own()
) -> dict[str, dict[str, Any]]:
    """Train the runs one after another, each in a directory of `workdir`.

    What is complete is left as it is, what has begun goes on: the same call goes on after a break.
    A run that diverges does not end the others, nor does one that cannot begin, or that an
    evaluation refuses.

    Args:
        runs: of `combinations`.
        workdir: made if it is not there.
        own: objects of one's own in place of names, for all runs.

    Returns:
        The summary of each run that is complete, by its name; of one that has diverged the error,
        as `diverged`, and of one that cannot begin, or that an evaluation refuses, as `refused`.

    Raises:
        CheckpointError: as `train`.
        FileError: as `train`.

    Example:
        >>> from dystress_jax import run
        >>> settings = run.defaults()
        >>> settings.update(batch_size=32, steps=2, knn_every=0)
        >>> runs = run.combinations(settings, {"temperature.tau_max": [0.2, 0.5]}, seeds=1)
        >>> found = run.sweep(runs, "runs/tau_max")
        <BLANKLINE>
        run 1 of 2: runs/tau_max/tau_max=0.2_seed=0
        ...
        >>> [*found]
        ['tau_max=0.2_seed=0', 'tau_max=0.5_seed=0']
    """
    found = {}
    for number, one in enumerate(runs, start=1):
        place, counted = pathlib.Path(workdir, one.name), f"run {number} of {len(runs)}"
        config = with_absolute_paths(name_own(one.config, own))
        summary = _known(place, config)
        if summary is None:
            note(f"\n{counted}: {place}")
            try:
                summary = train(one.config, place, own=own)
            except DivergedError as error:
                note(f"DivergedError: {error}")
                summary = _known(place, config) or {"diverged": str(error)}
            except (ConfigError, WeightsError) as error:  # the others may have what they need
                how = "trained, but" if isinstance(error, NotMeasuredError) else "not trained"
                note(f"{counted}: {place} is {how}: {error}")
                summary = {"refused": str(error)}
        elif "diverged" in summary:
            note(
                f"{counted}: {place} has diverged; to try it again, delete {place / DIVERGED_FILE}"
            )
        else:
            note(f"{counted}: {place} is complete")
        if "stopped_after" in summary:
            break
        found[one.name] = summary
    return found


def _known(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
    """How a run with these very settings has ended; None: it has not."""
    digest = digest_of(config)
    for ended in ENDS:
        with contextlib.suppress(OSError, ValueError):
            found = parse_json((workdir / ended).read_bytes())
            if isinstance(found, dict) and found.get("settings_digest") == digest:
                return found
    return None


def _check_varied(over: Mapping[str, Sequence[Any]], overridden: Mapping[str, Any]) -> None:
    for name, values in over.items():
        if name == "seed":
            raise ConfigError(
                f"--over.seed: found {', '.join(map(str, values))}; allowed: --seeds=N, from "
                "config.seed on."
            )
        if reason := _instead_of_varying(name):
            raise ConfigError(
                f"--over.{name}: found, but runs that differ in it are trained alike; allowed: "
                f"{reason}."
            )
        if name in overridden:
            raise ConfigError(
                f"--over.{name}: found beside --config.{name}; allowed: one of the two."
            )
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"--over.{name}: found a value twice; allowed: each once.")


def _instead_of_varying(name: str) -> str:
    """What to do instead, where a setting is of no training; "" where it is of one.

    Example:
        >>> _instead_of_varying("temperature.tau"), _instead_of_varying("log_every")
        ('', '--config.log_every=VALUE, for all runs')
    """
    if reading := readers(name):
        return (
            "to train once, and to measure that run with each value by dystress eval: "
            f"--evaluation={reading[0]} --config.{name}=VALUE"
        )
    if any(field.name == name and field.meaning.of_no_number for field in fields()):
        return f"--config.{name}=VALUE, for all runs"
    return ""


def short_name(name: str) -> str:
    """A field by the last part of its name, where no other field has it.

    Args:
        name: its full name, or that of an option.

    Example:
        >>> [short_name(f"temperature.{name}") for name in ("name", "tau", "learning_rate")]
        ['temperature', 'tau', 'temperature.learning_rate']
    """
    if name.endswith(".name"):
        return name.removesuffix(".name")
    last = lambda name: name.removesuffix(".name").rpartition(".")[2]
    others = [last(field.name) for field in fields() if field.name != name]
    return name if last(name) in others else last(name)


def _directory(changes: Mapping[str, Any], seed: int) -> str:
    """The name of a directory; in one that is too long a number stands for the end."""
    parts = [f"{short_name(name)}={in_a_name(value)}" for name, value in changes.items()]
    name = "_".join([*parts, f"seed={seed}"])
    return name if len(name.encode()) <= LONGEST_NAME else _numbered(parts[0][:20], changes, seed)


def _numbered(begins: str, changes: Mapping[str, Any], seed: int) -> str:
    """A name that is another one for any other values."""
    return f"{begins}-{number_of(changes)}_seed={seed}"


def _with_names_of_their_own(runs: Sequence[Combination]) -> list[Combination]:
    """The runs, where two of one name have a number in it too; not all systems tell a from A."""
    names = [one.name.casefold() for one in runs]
    found = []
    for one in runs:
        if names.count(one.name.casefold()) > 1:
            values = {name: value for name, value in one.changes.items() if name != "seed"}
            begins = one.name.removesuffix(f"_seed={one.config.seed}")
            one = one._replace(name=_numbered(begins, values, one.config.seed))
        found.append(one)
    return found
