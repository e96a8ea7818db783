"""From loose settings to a checked `Config`: every check that needs no data and no devices."""

import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ..data import SOURCES
from ..evaluation import templates
from ..methods import check_queue
from ..temperatures import check_range, check_scales
from .config import BATCH_NORMED, Config, ConfigError
from .fields import as_fields, fields
from .meaning import arguments
from .methods import METHODS
from .relevance import choice, keep_explicit_defaults, without_ignored, without_old_choices
from .tables import is_own, needed
from .values import built, unknown


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
    config = without_old_choices(config, overridden)
    config = without_ignored(config, overridden)
    config = keep_explicit_defaults(config, overridden)
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
        if field.takes_options:
            names = [f"{field.name}.{name}" for name in old if name not in new]
            lines += [f"config.{name}: is not used with these flags; left out" for name in names]
        elif old != new:
            lines.append(
                f"config.{field.name}: {old} of the config is not used with these flags; now "
                f"{new!r}"
            )
    return lines


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
        if len(found) not in (1, 3):
            raise ConfigError(f"config.augment.{name}: found {found}; allowed: 1 or 3 numbers.")
    if config.knn_every and not d.holdout:
        raise ConfigError(
            f"config.data.holdout: found 0 with config.knn_every {config.knn_every}; allowed: a "
            "share above 0, on which kNN is measured during training, or config.knn_every=0."
        )


def _check_probe(config: Config) -> None:
    probe = config.probe
    for name in ("learning_rates", "l2"):
        found = getattr(probe, name)
        if not found:
            raise ConfigError(f"config.probe.{name}: found none; allowed: numbers above 0.")


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
    return choice(config, "model.name") in BATCH_NORMED
