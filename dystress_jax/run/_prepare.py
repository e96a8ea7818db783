"""The parts of a run before its first step: what cannot work is told here."""

import contextlib
import pathlib
import time
from typing import NamedTuple

import jax

from ..run_files import CHECKPOINTS
from ..training import checkpoint
from ..training.loggers import LoggerError, importable
from . import evaluations, measuring
from ._begin_from import check_source
from ._build import build, with_images
from ._own import Own, name_own
from ._same_images import describe
from ._splits import EvaluationError, zero_shot_task
from ._workdir import check_run
from .config import Config, ConfigError
from .data import lines_about, reporting_unreadable_images_of, with_absolute_paths
from .evaluations import Evaluate
from .experiment import Experiment
from .other_images import for_other_images, open_other
from .show import note
from .tables import find


class Run(NamedTuple):
    """What stays the same from the first step to the last.

    Attributes:
        began: when this part of the run began, by `time.perf_counter`.
        workdir: of the run.
        experiment: its parts.
        evaluations: what it is measured by at its end.
        asked: of these, what somebody has asked for.
        others: the same parts with further images to measure on.
        described: fingerprints of the images that it is trained and measured on, the further ones
            by the name of their field.
    """

    began: float
    workdir: pathlib.Path
    experiment: Experiment
    evaluations: dict[str, Evaluate]
    asked: frozenset[str]
    others: dict[str, Experiment]
    described: dict[str, str]

    @property
    def config(self) -> Config:
        """The settings."""
        return self.experiment.config

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where they are."""
        return self.workdir / CHECKPOINTS


def prepare(config: Config, workdir: pathlib.Path, own: Own) -> Run:
    """Build every part; whatever cannot work fails here, before anything compiles.

    Args:
        config: the settings, checked.
        workdir: of the run, new or of an earlier part.
        own: objects of one's own in place of names.

    Raises:
        ConfigError: the settings do not fit the data, the devices, or the run in `workdir`.
    """
    began = time.perf_counter()
    config = with_absolute_paths(name_own(config, own))
    check_evaluations_and_loggers(config, own)  # told now, not when all is compiled
    check_run(config, workdir)
    if config.init_from and not checkpoint.steps(workdir / CHECKPOINTS):
        check_source(config.init_from)  # told now, not when the images are open
    devices = jax.devices()
    note(f"devices: {len(devices)} x {devices[0].device_kind}; workdir: {workdir}")
    experiment = build(config, workdir, own=own)
    for line in lines_about(config, experiment.sources):
        note(line)
    named = [config.method, *([] if config.loss_name == "softmax" else [config.loss_name])]
    if experiment.scheme is not None:
        named += [f"temperature {config.temperature.name}"]
    length = f"{experiment.schedule.total_steps:,} steps of {config.batch_size:,}"
    note(f"{', '.join(named)}; {length}")
    if experiment.measured_split(lambda source: True) is None:
        note("no test or held-out images: nothing will be measured (config.data.holdout is 0)")
    if experiment.language is not None:
        note(f"vocabulary: {experiment.language.tokenizer.vocab_size:,} tokens")
        with contextlib.suppress(EvaluationError):
            zero_shot_task(experiment)  # a wrong file is told now, not at the end
    asked, left_out = _asked_evaluations(config, own)
    if "linear_probe" in asked:
        with contextlib.suppress(EvaluationError):
            evaluations.candidates_of_probe(experiment)
    if "few_shot" in asked:
        evaluations.check_class_sizes(experiment)
    if experiment.language is None:
        left_out = [*left_out, *evaluations.OF_TEXTS]
    table, names = evaluations.EVALUATIONS, evaluations.CLOSING
    closing = {name: table[name] for name in names if name not in left_out} | asked
    others, described = _on_other_images(experiment), {"images": experiment.trained_on}
    for name, other in others.items():
        with reporting_unreadable_images_of(name, config.eval_on[name]):
            described[f"config.eval_on.{name}"] = describe(other.sources)
    return Run(began, workdir, experiment, closing, frozenset(asked), others, described)


def check_evaluations_and_loggers(config: Config, own: Own = Own()) -> None:
    """Refuse what a run would need after its first step only.

    Args:
        config: the settings, checked.
        own: objects of one's own in place of names.

    Raises:
        ConfigError: there is no such evaluation, or a logger has no package.
    """
    _asked_evaluations(config, own)
    try:
        importable(config.loggers)
    except LoggerError as error:
        raise ConfigError(f"config.loggers: {error}") from error


def _on_other_images(experiment: Experiment) -> dict[str, Experiment]:
    """The parts of the run with each of the further images that it is measured on."""
    others, shape = {}, experiment.train.image_shape
    without_own = experiment._replace(config=for_other_images(experiment.config))
    for name, on in experiment.config.eval_on.items():
        sources = open_other(experiment.config, on, shape, flag=f"config.eval_on.{name}")
        others[name] = with_images(without_own, sources)
        counts = ", ".join(f"{len(source):,} {split}" for split, source in sources.items())
        note(f"measured too on {name}: {counts}")
    return others


def _asked_evaluations(config: Config, own: Own) -> tuple[dict[str, Evaluate], list[str]]:
    """The evaluations that somebody has asked for, by name; and of the closing ones those not."""
    table, field = evaluations.EVALUATIONS, "config.evaluation"
    named = [name.strip() for name in config.evaluation.split(",") if name.strip()]
    left_out = [name.removeprefix("-") for name in named if name.startswith("-")]
    for name in left_out:
        if name not in evaluations.CLOSING:
            raise ConfigError(
                f"{field}: found {'-' + name!r}; allowed: - before what a run is measured by "
                f"without being asked, {', '.join(evaluations.CLOSING)}."
            )
    asked = {name: find(table, name, field=field) for name in named if not name.startswith("-")}
    asked |= measuring.own_table(own.evaluations)
    measuring.check_options(config, {n: f for n, f in asked.items() if n not in table})
    return asked, left_out
