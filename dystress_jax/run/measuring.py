"""Measure states of a run, by any evaluation: in the end, while it goes on, and afterwards."""

import contextlib
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .. import evaluation
from ..errors import ArgumentError
from ..evaluation import EmbeddedImages, Result, features
from ..training import TrainState
from .config import Config, ConfigError
from .data import reporting_unreadable_images_of
from .evaluations import (
    EVALUATIONS,
    Embedded,
    Evaluate,
    knn_of,
    readers,
    representation_of,
)
from .experiment import Experiment
from .meaning import arguments
from .tables import check_type, telling

# Arguments by which an evaluation shares with the others what is computed once.
SHARED = ("encode", "embedded")
# Images at most, of which every pair is looked at while a run goes on.
REPRESENTED_IN_TRAINING = 1_000
# Shorter flags of `dystress eval`, and their fields.
SHORT = {"seeds": "labels.seeds", "label_fraction": "labels.share"}


def measure(
    evaluate: Evaluate,
    experiment: Experiment,
    state: TrainState,
    *,
    name: str,
    shared: Mapping[str, Any] | None = None,
) -> Result:
    """What an evaluation measures.

    Args:
        evaluate: an entry of the table, or the user's own, which is given its options.
        experiment: the parts of the run.
        state: of the run.
        name: of the evaluation, for errors.
        shared: as `shared_by` makes it, where several evaluations do.

    Raises:
        ConfigError: it refuses the images or the settings, or returns no `Result`, or one that does
            not fit in JSON; or one of the user's own fails, whatever it raises.
        EvaluationError: there is nothing to measure by.
    """
    shared = shared or shared_by(experiment, state)
    taken, options = arguments(evaluate), {**experiment.config.evaluation_options, **shared}
    given = {n: v for n, v in options.items() if n in taken}
    told = contextlib.nullcontext()
    if name not in EVALUATIONS:  # whatever the user's own raises, the others are measured
        told = telling(f"evaluation: {name}", "a function that returns an evaluation.Result")
    with told:
        try:
            result = evaluate(experiment, state, **given)
        except ArgumentError as error:
            raise ConfigError(f"evaluation: {name} cannot be measured: {error}") from error
    if not isinstance(result, Result):
        raise ConfigError(
            f"evaluation: {name} gives a {type(result).__name__}; allowed: an evaluation.Result."
        )
    plain = lambda value: value if isinstance(value, int | float) else float(value)
    try:
        rows = tuple(row._replace(value=plain(row.value)) for row in result.rows)
        json.dumps(result._replace(rows=rows).to_json(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"evaluation: {name} gives what does not fit in JSON ({error}); allowed: a number in "
            "each row, and in the protocol numbers of Python, texts, and lists and dicts of these."
        ) from error
    return result._replace(rows=rows, notes=(*result.notes, *_uncounted(result)))


class NotMeasuredError(ConfigError):
    """Some evaluations have refused the run; it is trained, and the others are measured."""


def raise_together(refused: Sequence[ConfigError]) -> None:
    """Raise what several evaluations have refused, once the others are measured.

    Args:
        refused: the errors, a line each; of none nothing is raised.

    Raises:
        NotMeasuredError: if there is one.
    """
    if refused:
        raise NotMeasuredError("\n".join(map(str, refused))) from refused[0]


def _uncounted(result: Result) -> tuple[str, ...]:
    found = result.confusion
    if found is None or found.counts is not None:
        return ()
    return (f"no confusion matrix: the {len(found.class_names):,} classes are too many for one",)


def shared_by(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What the evaluations of a state share: each image is encoded once for all of them."""
    return {
        "encode": features.Remembering(experiment.encoder(state)),
        "embedded": _embedded_by(experiment, state),
    }


def _embedded_by(experiment: Experiment, state: TrainState) -> Embedded:
    """The images of a split as the towers of a state embed them, once for all who ask."""

    @functools.cache
    def embedded(split: str) -> EmbeddedImages:
        encoder = experiment.towers(state.params, state.stats)
        return evaluation.embed_images(encoder, experiment.sources[split], mesh=experiment.mesh)

    return embedded


def watch(
    experiment: Experiment, state: TrainState, others: Mapping[str, Experiment]
) -> dict[str, float]:
    """What is logged while a run goes on; empty where there is nothing to measure by.

    Args:
        experiment: the parts of the run, whose held-out images are measured.
        state: of the run.
        others: the same parts with other images, by name.
    """
    logged, encode = {}, experiment.encoder(state)
    for name, other in others.items():
        split = other.measured_split(lambda source: source.has_labels)
        if split is not None and other.train.has_labels:
            with reporting_unreadable_images_of(name, experiment.config.eval_on[name]):
                logged[f"knn_{name}"] = knn_of(other, encode, split).value("top1")
    holdout = experiment.sources.get("holdout")
    if holdout is None:
        return logged
    # Of an encoder that diverges, the loss of the next step says so.
    with contextlib.suppress(evaluation.NotFiniteError):
        found = representation_of(experiment, state, "holdout", at_most=REPRESENTED_IN_TRAINING)
        logged |= {row.name: row.value for row in found.rows}
    if experiment.train.has_labels and holdout.has_labels:
        logged["knn"] = knn_of(experiment, encode, "holdout").value("top1")
    return logged


def own_table(own: Mapping[str, Evaluate]) -> dict[str, Evaluate]:
    """The evaluations of the user's own by name, refused where a name is one of ours.

    Raises:
        ConfigError: results are kept, and summed up, by name.
    """
    for name, evaluate in own.items():
        if EVALUATIONS.get(name, evaluate) is not evaluate:
            raise ConfigError(
                f"evaluations: found {name!r}, which is one of ours; allowed: another name."
            )
    return dict(own)


def check_drawn(wanted: Collection[str], given: Collection[str]) -> None:
    """Refuse a share of the labels for an evaluation of ours that takes none, and seeds for none.

    Args:
        wanted: names of evaluations.
        given: the fields that were set for them.

    Raises:
        ConfigError: with the evaluations that do. Beside the others the numbers of one that takes
            no share would look like those of the share.
    """
    for flag, field in SHORT.items():
        reading = readers(field)
        without = [name for name in wanted if name in EVALUATIONS and name not in reading]
        each = without and field == "labels.share"
        if field in given and (each or len(without) == len(wanted)):
            raise ConfigError(
                f"--{flag} (config.{field}): found with --evaluation={','.join(without)}, which "
                f"would ignore it; allowed: with {', '.join(reading)}."
            )


def unread(wanted: Collection[str], given: Collection[str]) -> list[str]:
    """What to say of settings of other evaluations, a line each.

    Args:
        wanted: names of evaluations.
        given: the fields that were set for them.

    Example:
        >>> unread(["knn", "transfer"], ["knn.k", "probe.epochs"])
        ['config.probe.epochs counts for nothing here: only linear_probe reads it']
    """
    return [
        f"config.{field} counts for nothing here: only {', '.join(reading)} "
        f"read{'s' * (len(reading) == 1)} it"
        for field in sorted(given)
        if (reading := readers(field))
        and all(n in EVALUATIONS and n not in reading for n in wanted)
    ]


def check_options(config: Config, own: Mapping[str, Evaluate]) -> None:
    """Refuse an option that no evaluation of the user's own takes, or a text for a number.

    Raises:
        ConfigError: with the arguments that there are.
    """
    taken = [n for evaluate in own.values() for n in arguments(evaluate)[2:] if n not in SHARED]
    for name, value in config.evaluation_options.items():
        if name not in taken:
            raise ConfigError(
                f"config.evaluation_options.{name}: found {value!r}, but no evaluation of your own "
                f"has such an argument; allowed: {', '.join(taken) or 'none'}."
            )
        for evaluate in own.values():
            check_type(f"config.evaluation_options.{name}", value, evaluate)


def read_by(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of some settings those that an evaluation reads; of one's own nobody knows, so all.

    Example:
        >>> read_by("knn", {"knn.k": 5, "probe.epochs": 2, "seed": 1})
        {'knn.k': 5, 'seed': 1}
    """
    if name not in EVALUATIONS:
        return dict(settings)
    return {
        field: value
        for field, value in settings.items()
        if name in (readers(field) or (name,)) and not field.startswith("evaluation_options")
    }
