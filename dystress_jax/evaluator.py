"""Evaluation from start to end: the run's parts, a checkpoint, one evaluation. No mathematics."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import tqdm

from . import checkpoint, data, evaluation, experiment, image_text
from . import config as config_lib
from .config import Config, ConfigError
from .experiment import Experiment
from .state import TrainState


@experiment.images_read_whenever()
def evaluate(config: Config, workdir: pathlib.Path, name: str, which: str) -> dict[str, Any]:
    """Evaluate the encoder of a run on its test images, or the held-out ones if it has no test.

    Args:
        config: the run's settings; those of the evaluation may differ from what it trained with.
        workdir: of the run.
        name: ``knn``, ``linear_probe``, ``zero_shot`` or ``retrieval``.
        which: ``newest``, ``best``, or a step.

    Returns:
        Accuracies, protocol, checkpoint step, split and seed, ready for JSON.

    Raises:
        ConfigError: there is no such checkpoint, nothing to evaluate on, or an image cannot be
            read.
        CheckpointError: the checkpoint cannot be used.
    """
    trained = config_lib.read_json(workdir / "config.json")
    changes = config_lib.differences(dataclasses.asdict(trained), dataclasses.asdict(config))
    for field, (old, new) in changes.items():
        if field != "seed" and not config_lib.may_change_on_resume(field):
            raise ConfigError(
                f"config.{field}: found {new!r}, but the run was trained with {old!r}; allowed: "
                "settings of the evaluation: config.knn, config.probe, config.zero_shot and "
                "config.seed."
            )
    parts = experiment.build(config, workdir)
    directory = workdir / "checkpoints"
    step = _choose_step(directory, which)
    experiment.check_data(parts, directory)
    restored = checkpoint.restore(directory, step, parts.abstract_state())
    measure = {
        "knn": _knn,
        "linear_probe": _linear_probe,
        "zero_shot": _zero_shot,
        "retrieval": _retrieval,
    }[name]
    split, numbers = measure(parts, restored.state)
    return {
        **numbers,
        "split": split,
        "checkpoint_step": step,
        "seed": config.seed,
        "trained_with_seed": trained.seed,
    }


def _split(parts: Experiment, fits: Callable[[data.Source], bool], needed: str) -> str:
    """The images to measure on."""
    split = parts.measured_split(fits)
    if split is None:
        there = [s for s in ("test", "holdout") if s in parts.sources]
        found = (
            f"{' and '.join(there)} images without {needed}" if there else "only training images"
        )
        raise ConfigError(
            f"config.data: found {found}; allowed: test or held-out images with {needed}, which "
            "this evaluation measures by."
        )
    return split


def _labelled_split(parts: Experiment) -> str:
    if not parts.train.has_labels:
        raise ConfigError(
            "config.data: found training images without labels; allowed: labelled ones, which this "
            "evaluation learns from."
        )
    return _split(parts, lambda source: source.has_labels, "labels")


def _knn(parts: Experiment, state: TrainState) -> tuple[str, dict[str, Any]]:
    split, knn = _labelled_split(parts), parts.config.knn
    result = evaluation.evaluate_knn(
        functools.partial(parts.encode, state.params, state.stats),
        parts.train,
        parts.sources[split],
        k=knn.k,
        temperature=knn.temperature,
        mesh=parts.mesh,
    )
    return split, result._asdict()


def _linear_probe(parts: Experiment, state: TrainState) -> tuple[str, dict[str, Any]]:
    config, train, split = parts.config, parts.train, _labelled_split(parts)
    network = (state.params, state.stats)
    probe = config.probe
    candidates = probe.learning_rates if probe.solver == "sgd" else probe.l2
    holdout = parts.sources.get("holdout") if split == "test" else None
    if len(candidates) > 1 and holdout is None:
        field = "learning_rates" if probe.solver == "sgd" else "l2"
        why = (
            "without test images the held-out ones are what is measured, and must not choose too"
            if split == "holdout"
            else "config.data.holdout is 0 and there are no images to choose by"
        )
        raise ConfigError(
            f"config.probe.{field}: found {candidates}, but {why}; allowed: one number."
        )
    view = experiment.make_encode_view(config, parts.method, train)
    result = evaluation.evaluate_linear_probe(
        functools.partial(parts.encode, *network),
        train,
        parts.sources[split],
        holdout=holdout,
        encode_view=functools.partial(view, *network) if probe.features == "augmented" else None,
        solver=probe.solver,
        candidates=candidates,
        epochs=probe.epochs,
        batch_size=probe.batch_size,
        seed=config.seed,
        mesh=parts.mesh,
        progress=functools.partial(tqdm.tqdm, unit="step", dynamic_ncols=True),
    )
    return split, result._asdict()


def _zero_shot(parts: Experiment, state: TrainState) -> tuple[str, dict[str, Any]]:
    found = image_text.zero_shot(parts, _embedder(parts, state))
    if found is None:
        _split(parts, lambda source: True, "labels or captions")  # there is one, or it says so
        raise ConfigError(
            "config.data: found no labels to classify by; allowed: "
            "config.zero_shot.classes=captions"
        )
    return found[0], found[1]._asdict()


def _retrieval(parts: Experiment, state: TrainState) -> tuple[str, dict[str, Any]]:
    embed = _embedder(parts, state)
    split = _split(parts, lambda source: source.captions is not None, "captions")
    found = evaluation.evaluate_retrieval(embed(split))
    return split, {**found.recalls, "chance": found.chance, "protocol": found.protocol}


def _embedder(parts: Experiment, state: TrainState) -> Callable[[str], evaluation.Embedded]:
    if parts.language is None:
        raise ConfigError(
            f"--evaluation: found a run with config.method {parts.config.method}, which has no "
            "texts; allowed: knn, linear_probe"
        )
    return image_text.embedder(parts, state)


def _choose_step(directory: pathlib.Path, name: str) -> int:
    there = checkpoint.steps(directory)
    if not there:
        raise ConfigError(
            f"--workdir: found no checkpoint in {directory}; allowed: a run that has saved one "
            "(config.checkpoint_every)."
        )
    if name == "newest":
        return there[-1]
    if name == "best":
        knn = checkpoint.knn_by_step(directory)
        if not knn:
            raise ConfigError(
                "--checkpoint: found best, but kNN was measured at no checkpoint; allowed: newest, "
                + ", ".join(map(str, there))
            )
        return max(knn, key=lambda step: knn[step])
    if not name.isdecimal() or int(name) not in there:
        steps = ", ".join(map(str, there))
        raise ConfigError(f"--checkpoint: found {name!r}; allowed: newest, best, {steps}")
    return int(name)
