"""Evaluation from start to end: the run's parts, a checkpoint, one evaluation. No mathematics."""

import dataclasses
import pathlib
from typing import Any

from ..evaluation import Result
from ..files import parse_json
from ..training import TrainState, checkpoint
from ._build import build
from ._environment import usable_jax
from ._own import Own, check_given_again, name_of, name_own
from .checks import from_config_dict
from .config import Config, ConfigError
from .data import check_same, reporting_unreadable_images
from .evaluations import EVALUATIONS, Evaluate, check_options, measure
from .experiment import Experiment
from .fields import differences, may_change_on_resume, put
from .tables import find


def read_config(path: pathlib.Path) -> Config:
    """The settings of a run, from its config.json.

    Raises:
        ConfigError: the file is damaged, or holds what is no setting of this version.
        CheckpointError: the run is of another version.
    """
    checkpoint.check_version(path.parent / "checkpoints")
    try:
        settings = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: found no settings that can be read ({error})") from error
    try:
        return from_config_dict(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


@usable_jax()
def restore(
    workdir: pathlib.Path | str,
    which: str = "newest",
    *,
    config: Config | None = None,
    own: Own = Own(),  # noqa: B008
) -> tuple[Experiment, TrainState]:
    """The parts of a run and its state at a checkpoint.

    Args:
        workdir: of the run.
        which: `newest`, `best`, or a step.
        config: its settings, where something of them shall differ; None: as it was trained.
        own: the objects that the run was given in Python.

    Raises:
        ConfigError: there is no such checkpoint, or the images are not those of the run.
        CheckpointError: the checkpoint cannot be used.
    """
    workdir = pathlib.Path(workdir)
    trained = read_config(workdir / "config.json")
    return _restore(config or trained, workdir, which, own)


def _restore(
    config: Config, workdir: pathlib.Path, which: str, own: Own
) -> tuple[Experiment, TrainState]:
    directory = workdir / "checkpoints"
    experiment = build(config, workdir, own=own)
    step = choose_step(directory, which)
    check_same(experiment.trained_on, directory)
    return experiment, checkpoint.restore(directory, step, experiment.abstract_state()).state


@reporting_unreadable_images
@usable_jax()
def evaluate(
    config: Config,
    workdir: pathlib.Path | str,
    evaluation: str | Evaluate,
    which: str = "newest",
    *,
    own: Own = Own(),  # noqa: B008
) -> tuple[Result, dict[str, Any]]:
    """Evaluate the encoder of a run on its test images, or the held-out ones if it has no test.

    Args:
        config: the run's settings; those of the evaluation may differ from what it trained with.
        workdir: of the run.
        evaluation: one of `EVALUATIONS`, or a function of one's own, `(experiment, state) ->
            Result`: itself, or its name `MODULE:OBJECT`.
        which: `newest`, `best`, or a step.
        own: the objects that the run was given in Python.

    Returns:
        The result, and all of it ready for JSON, with the checkpoint, the settings that differ
        from those of the training, and the seeds.

    Raises:
        ConfigError: the settings are not those of the run, or there is nothing to evaluate on, or
            an image cannot be read.
        CheckpointError: the checkpoint cannot be used.
    """
    workdir = pathlib.Path(workdir)
    if isinstance(evaluation, str):
        name, function = evaluation, find(EVALUATIONS, evaluation, field="--evaluation")
    else:
        name, function = name_of(evaluation), evaluation
    trained = read_config(workdir / "config.json")
    config = name_own(config, own)
    if name not in EVALUATIONS:
        check_options(config, {name: function})
    check_given_again(trained, config)
    changes = differences(dataclasses.asdict(trained), dataclasses.asdict(config))
    for field, (old, new) in changes.items():
        if field != "seed" and not may_change_on_resume(field):
            raise ConfigError(
                f"config.{field}: found {new!r}, but the run was trained with {old!r}; allowed: "
                "settings of the evaluation: config.knn, config.probe, config.labels, "
                "config.zero_shot and config.seed."
            )
    if "knn.bank" not in changes:
        # A run compares with some training images while it goes on; here there is time for all.
        config = put(config, "knn.bank", 0)
    experiment, state = _restore(config, workdir, which, own)
    result = measure(function, experiment, state, name=name)
    return result, {
        **result.to_json(),
        "checkpoint_step": int(state.step),
        "settings": {field: new for field, (_, new) in changes.items()},
        "seed": config.seed,
        "trained_with_seed": trained.seed,
    }


def choose_step(directory: pathlib.Path, name: str) -> int:
    """The step of a checkpoint: `newest`, `best`, or a number.

    Raises:
        ConfigError: there is none.
    """
    there = checkpoint.steps(directory)
    if not there:
        raise ConfigError(
            f"--workdir: found no checkpoint in {directory}; allowed: a run that has saved one "
            "(config.checkpoint_every)."
        )
    if name == "newest":
        return there[-1]
    if name == "best":
        scores = checkpoint.scores(directory)
        if not scores:
            raise ConfigError(
                "--checkpoint: found best, but kNN was measured at no checkpoint; allowed: newest, "
                + ", ".join(map(str, there))
            )
        return max(scores, key=lambda step: scores[step])
    if not name.isdecimal() or int(name) not in there:
        steps = ", ".join(map(str, there))
        raise ConfigError(f"--checkpoint: found {name!r}; allowed: newest, best, {steps}")
    return int(name)
