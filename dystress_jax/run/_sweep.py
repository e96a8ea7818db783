"""Many runs: one for each combination of settings and each seed, one after another."""

import hashlib
import itertools
import pathlib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ..files import parse_json
from ..training.log import DivergedError
from ._own import Own
from ._saved import read_config
from ._train import train
from ._workdir import SUMMARY_FILE
from .checks import built, useless
from .config import Config, ConfigError
from .overrides import changed_by, override
from .show import note

LONGEST_NAME = 120  # characters of a directory; file systems take 255


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
    short, found = _short_names([*over]), {}
    for of, values in itertools.product(range(seeds), itertools.product(*over.values())):
        changes = dict(zip(over, values, strict=True))
        changed, _ = changed_by(settings, changes)
        raw = built(changed)
        idle = {name for name, axes in useless(raw).items() if not over.keys().isdisjoint(axes)}
        kept = {name: value for name, value in changes.items() if name not in idle}
        flags = {name: old for name, old in overridden.items() if name not in idle}
        said = [f"{short[name]}={_as_name(value)}" for name, value in kept.items()]
        kept["seed"] = raw.seed + of
        name = _directory([*said, f"seed={kept['seed']}"])
        config = override(settings, kept, overridden=flags)
        found.setdefault(name, Combination(name, config, kept))
    return [*found.values()]


def sweep(
    runs: Sequence[Combination], workdir: pathlib.Path | str, *, own: Own = Own()
) -> dict[str, dict[str, Any]]:
    """Train the runs one after another, each in a directory of `workdir`.

    What is complete is left as it is, what has begun goes on: the same call goes on after a break.
    A run that diverges does not end the others.

    Args:
        runs: of `combinations`.
        workdir: made if it is not there.
        own: objects of one's own in place of names, for all runs.

    Returns:
        The summary of each run that is complete, by its name; of one that has diverged the error,
        as `diverged`.

    Raises:
        ConfigError: as `train`. The other errors of `train` end the sweep too.

    Example:
        >>> from dystress_jax import run
        >>> settings = run.defaults()
        >>> settings.update(batch_size=32, steps=2, knn_every=0)
        >>> runs = run.combinations(settings, {"temperature.tau_max": [0.2, 0.5]}, seeds=1)
        >>> found = run.sweep(runs, "runs/tau_max")
        devices: ...
        >>> [*found]
        ['tau_max=0.2_seed=0', 'tau_max=0.5_seed=0']
    """
    found = {}
    for number, one in enumerate(runs, start=1):
        place, counted = pathlib.Path(workdir, one.name), f"run {number} of {len(runs)}"
        summary = _summary_of(place, one.config)
        if summary is not None:
            note(f"{counted}: {place} is complete")
        else:
            note(f"\n{counted}: {place}")
            try:
                summary = train(one.config, place, own=own)
            except DivergedError as error:
                note(f"DivergedError: {error}")
                summary = {"diverged": str(error)}
        if "stopped_after" in summary:
            break
        found[one.name] = summary
    return found


def _summary_of(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
    """The closing numbers of a run that is complete with these very settings."""
    try:
        summary = parse_json((workdir / SUMMARY_FILE).read_bytes())
        return summary if read_config(workdir) == config else None
    except (OSError, ValueError):
        return None


def _check_varied(over: Mapping[str, Sequence[Any]], overridden: Mapping[str, Any]) -> None:
    for name, values in over.items():
        if name == "seed":
            raise ConfigError(
                f"--over.seed: found {_as_name(list(values))}; allowed: --seeds=N, which begin at "
                "config.seed."
            )
        if name in overridden:
            raise ConfigError(
                f"--over.{name}: found beside --config.{name}; allowed: one of the two."
            )
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"--over.{name}: found a value twice; allowed: each once.")


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Fields by the last part of their names, where that says enough.

    Example:
        >>> _short_names(["temperature.name", "temperature.tau", "knn.k", "few.k"])
        {'temperature.name': 'temperature', 'temperature.tau': 'tau', 'knn.k': 'knn.k',
        'few.k': 'few.k'}
    """
    last = {name: name.removesuffix(".name").rpartition(".")[2] for name in names}
    short = list(last.values())
    return {name: one if short.count(one) == 1 else name for name, one in last.items()}


def _as_name(value: Any) -> str:
    """A value as a part of the name of a directory."""
    return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-") or "none"


def _directory(parts: Sequence[str]) -> str:
    """The name of a directory; in one that is too long a number stands for the middle."""
    name = "_".join(parts)
    if len(name) <= LONGEST_NAME:
        return name
    *settings, seed = parts
    digest = hashlib.sha256("_".join(settings).encode()).hexdigest()[:12]
    return f"{name[: LONGEST_NAME // 2]}-{digest}_{seed}"
