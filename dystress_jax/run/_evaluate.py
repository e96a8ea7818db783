"""Evaluation from start to end: the run's parts, a checkpoint, one evaluation. No mathematics."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..evaluation import Result
from ..run_files import CHECKPOINTS
from ..training import TrainState
from ._build import build, rebuild, with_images
from ._environment import usable_jax
from ._own import Own, check_given_again, choose, name_of, name_own
from ._same_images import changed_images, check_same, describe
from ._saved import read_config, state_at
from .config import Config, ConfigError
from .data import OTHER_IMAGES, images_from_anywhere, open_own, reporting_unreadable_images
from .evaluations import EVALUATIONS, Evaluate, readers
from .experiment import Experiment
from .fields import differences, may_change_on_resume, put
from .measuring import (
    check_drawn,
    check_options,
    measure,
    own_table,
    raise_together,
    read_by,
    shared_by,
    unread,
)
from .other_images import for_other_images, open_other
from .overrides import calling_images
from .show import note
from .tables import find

# What every evaluation reads: the seed, where the images and the texts are, options of one's own.
_WHERE = ("data.path", "data.captions", "data.outside", "text.vocabulary")
_OF_ALL = ("seed", *_WHERE, "evaluation_options")
CHOSEN_BY = "the checkpoint was chosen by kNN on these held-out images: the numbers are too good"
Measured = Callable[[str, Result, dict[str, Any]], None]  # name, result, and all for JSON


@usable_jax()
def restore(
    workdir: pathlib.Path | str,
    checkpoint: str | int = "newest",
    *,
    config: Config | None = None,
    own: Own = Own(),
) -> tuple[Experiment, TrainState]:
    """The parts of a run and its state at a checkpoint.

    Args:
        workdir: of the run.
        checkpoint: `newest`, `best`, or a step.
        config: its settings, where something of them shall differ; None: as it was trained.
        own: the objects that the run was given in Python.

    Returns:
        The parts, with the images of each split, and the state on all devices.

    Raises:
        ConfigError: there is no such checkpoint, or the images are not those of the run.
        CheckpointError: the checkpoint cannot be used.

    Example:
        >>> import numpy as np
        >>> from dystress_jax import run
        >>> experiment, state = run.restore("runs/quickstart")
        >>> encode = experiment.encoder(state)
        >>> encode(experiment.train.gather(np.arange(8))["image"]).shape
        (8, 64)
    """
    workdir = pathlib.Path(workdir)
    experiment = build(config or read_config(workdir), workdir, own=own)
    check_same(experiment.trained_on, workdir / CHECKPOINTS)
    return experiment, state_at(workdir, checkpoint, experiment.abstract_state())


def evaluate(
    workdir: pathlib.Path | str,
    evaluation: str | Evaluate,
    checkpoint: str | int = "newest",
    *,
    config: Config | None = None,
    on: Mapping[str, Any] | None = None,
    own: Own = Own(),
) -> tuple[Result, dict[str, Any]]:
    """Evaluate the encoder of a run on its test images, or the held-out ones if it has no test.

    Args:
        workdir: of the run.
        evaluation: one of `EVALUATIONS`, or a function of one's own, `(experiment, state) ->
            Result`: itself, or its name `MODULE:OBJECT`.
        checkpoint: `newest`, `best`, or a step.
        config: its settings, where those of the evaluation shall differ; None: as it was trained.
        on: other images than the run's, to learn from and to measure on: fields of `config.data`,
            such as `source` and `path`. Their classes may be others.
        own: the objects that the run was given in Python.

    Returns:
        The result, and all of it ready for JSON, with the checkpoint, the other images, the
        settings that it reads and that differ from those of the training, and the seeds.

    Raises:
        ConfigError: the settings are not those of the run, or there is nothing to evaluate on, or
            an image cannot be read.
        CheckpointError: the checkpoint cannot be used.

    Example:
        >>> from dystress_jax import run
        >>> result, numbers = run.evaluate("runs/quickstart", "knn")
        >>> [row.name for row in result.rows], numbers["split"]
        (['top1', 'top5'], 'test')
    """
    every = evaluate_all(workdir, [evaluation], checkpoint, config=config, on=on, own=own)
    [found] = every.values()
    return found


@usable_jax()
def evaluate_all(
    workdir: pathlib.Path | str,
    wanted: Sequence[str | Evaluate],
    checkpoint: str | int = "newest",
    *,
    config: Config | None = None,
    given: Collection[str] = (),
    on: Mapping[str, Any] | None = None,
    own: Own = Own(),
    measured: Measured = lambda name, result, numbers: None,
) -> dict[str, tuple[Result, dict[str, Any]]]:
    """What `evaluate` gives for several evaluations, by name; the images are opened once.

    Where one is refused, the others are measured before that is raised.

    Args:
        workdir: of the run.
        wanted: the evaluations.
        checkpoint: `newest`, `best`, or a step.
        config: as for `evaluate`.
        given: fields of `config` that somebody has set for these evaluations, be it to what they
            were in the run.
        on: other images than the run's.
        own: the objects that the run was given in Python.
        measured: called with each name, result and numbers as soon as they are there, so that they
            can be kept before a later evaluation fails.

    Raises:
        ConfigError: as of `evaluate`.
        CheckpointError: the checkpoint cannot be used.

    Example:
        >>> from dystress_jax import run
        >>> list(run.evaluate_all("runs/quickstart", ["knn"]))
        ['knn']
    """
    workdir = pathlib.Path(workdir)
    if isinstance(wanted, str):
        wanted = [wanted]
    if not wanted:
        raise ConfigError(f"--evaluation: found none; allowed: {', '.join(EVALUATIONS)}.")
    trained = read_config(workdir)
    config = name_own(config or trained, own)
    functions = _find(wanted, config)
    changes = _changes(trained, config)
    check_drawn(functions, {*given, *changes})
    for line in unread(functions, given):  # not of `changes`: Python has one object for many
        note(line)
    given = {*given, *changes}
    # A run compares with some training images while it goes on; here there is time for all.
    if "knn.bank" in given:
        changes["knn.bank"] = config.knn.bank
    else:
        config = put(config, "knn.bank", 0)
    if on:
        config = for_other_images(config, keep=given)
    found, refused = {}, []
    with reporting_unreadable_images(config, workdir, on=on):
        experiment, notes = _with_images(config, workdir, on, own)
        state = state_at(workdir, checkpoint, experiment.abstract_state())
        shared = shared_by(experiment, state)
        for name, function in functions.items():
            try:
                with calling_images("on") if on else contextlib.nullcontext():
                    result = measure(function, experiment, state, name=name, shared=shared)
            except ConfigError as error:  # the others may have what they need
                refused.append(error)
                continue
            chosen_by = checkpoint == "best" and result.split == "holdout" and not on
            more = [CHOSEN_BY] if chosen_by else []
            result = result._replace(notes=(*result.notes, *notes, *more))
            numbers = {
                **result.to_json(),
                "checkpoint_step": int(state.step),
                "settings": read_by(name, changes),
                "on": images_from_anywhere(on or {}),
                "seed": config.seed,
                "trained_with_seed": trained.seed,
            }
            found[name] = result, numbers
            measured(name, result, numbers)
    raise_together(refused)
    return found


def _find(wanted: Sequence[str | Evaluate], config: Config) -> dict[str, Evaluate]:
    """The evaluations by name; the settings may have options for one's own."""
    functions: dict[str, Evaluate] = {}
    for one in wanted:
        if isinstance(one, str):
            functions[one] = find(EVALUATIONS, one, field="--evaluation")
        else:
            functions |= own_table({name_of(one): one})
    ours = {name: f for name, f in functions.items() if name not in EVALUATIONS}
    if ours:
        check_options(config, ours)
    return functions


def _changes(trained: Config, config: Config) -> dict[str, Any]:
    """The settings in which an evaluation differs from the run.

    Raises:
        ConfigError: one of them would make it another run.
    """
    check_given_again(trained, config)
    changes = differences(dataclasses.asdict(trained), dataclasses.asdict(config))
    for field, (old, new) in changes.items():
        if not (field.startswith(_OF_ALL) or (readers(field) and may_change_on_resume(field))):
            raise ConfigError(
                f"config.{field}: found {new!r}, but the run was trained with {old!r}; allowed: "
                "settings of the evaluation: config.knn, config.probe, config.labels, "
                "config.finetune, config.zero_shot, config.evaluation_options and config.seed; and "
                f"other images with {OTHER_IMAGES}."
            )
    return {field: new for field, (_, new) in changes.items()}


def _with_images(
    config: Config, workdir: pathlib.Path, on: Mapping[str, Any] | None, own: Own
) -> tuple[Experiment, list[str]]:
    """The parts of a run with the images to evaluate on, and what is to be said of these."""
    experiment = rebuild(config, workdir, own=own)
    shape = experiment.train.image_shape
    if on:
        return with_images(experiment, open_other(config, on, shape)), []
    sources = open_own(config, choose(config, own).source, workdir / CHECKPOINTS)
    if sources["train"].image_shape != shape:
        raise ConfigError(
            f"config.data: found images {list(sources['train'].image_shape)}, but the run was "
            f"trained with {list(shape)}; allowed: such images, or any with --on.source."
        )
    experiment, notes = with_images(experiment, sources), []
    tokenizer = None if experiment.language is None else experiment.language.tokenizer
    now = describe(experiment.sources, tokenizer)
    for of, change in changed_images(now, workdir / CHECKPOINTS).items():
        notes.append(f"the {of} images are others than those of the run: {change}")
    return experiment, notes
