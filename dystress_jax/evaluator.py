"""Evaluation from start to end: the run's parts, a checkpoint, one evaluation. No mathematics."""

import dataclasses
import functools
import pathlib
from typing import Any

import tqdm

from . import checkpoint, evaluation, experiment, sharding
from . import config as config_lib
from .config import Config, ConfigError
from .state import abstract_state


def evaluate(config: Config, workdir: pathlib.Path, name: str, which: str) -> dict[str, Any]:
    """Evaluate the encoder of a run on its test images, or the held-out ones if it has no test.

    Args:
        config: the run's settings; those of the evaluation may differ from what it trained with.
        workdir: of the run.
        name: ``knn`` or ``linear_probe``.
        which: ``newest``, ``best``, or a step.

    Returns:
        Accuracies, protocol, checkpoint step, split and seed, ready for JSON.

    Raises:
        ConfigError: there is no such checkpoint, or nothing to evaluate on.
        CheckpointError: the checkpoint cannot be used.
    """
    trained = config_lib.read_json(workdir / "config.json")
    changes = config_lib.differences(dataclasses.asdict(trained), dataclasses.asdict(config))
    for field, (old, new) in changes.items():
        if field != "seed" and not config_lib.may_change_on_resume(field):
            raise ConfigError(
                f"config.{field}: found {new!r}, but the run was trained with {old!r}; allowed: "
                "settings of the evaluation, config.knn, config.probe and config.seed."
            )
    mesh = sharding.make_mesh()
    sources = experiment.open_sources(config)
    train = sources["train"]
    split = "test" if "test" in sources else "holdout"
    if split not in sources:
        raise ConfigError("config.data: found neither test nor held-out images to evaluate on.")
    if not (train.has_labels and sources[split].has_labels):
        raise ConfigError(
            "config.data: found images without labels, which accuracy is measured by."
        )
    method = experiment.make_method(config, train, mesh)
    schedule = experiment.make_schedule(config, train)
    optimizer = experiment.make_optimizer(config, schedule)
    directory = workdir / "checkpoints"
    step = _choose_step(directory, which)
    restored = checkpoint.restore(directory, step, abstract_state(method, optimizer, mesh=mesh))
    experiment.check_images(restored.record["images"], train)
    state = restored.state
    network = (state.params, state.stats)
    encode = functools.partial(experiment.make_encode(config, method, train), *network)
    if name == "knn":
        result = evaluation.evaluate_knn(
            encode,
            train,
            sources[split],
            k=config.knn.k,
            temperature=config.knn.temperature,
            mesh=mesh,
        )
    else:
        probe = config.probe
        candidates = probe.learning_rates if probe.solver == "sgd" else probe.l2
        if len(candidates) > 1 and split == "holdout":
            field = "learning_rates" if probe.solver == "sgd" else "l2"
            raise ConfigError(
                f"config.probe.{field}: found {candidates}, but without test images the held-out "
                "ones are what is measured, and must not choose too; allowed: one number."
            )
        view = experiment.make_encode_view(config, method, train)
        encode_view = functools.partial(view, *network)
        result = evaluation.evaluate_linear_probe(
            encode,
            train,
            sources[split],
            holdout=sources.get("holdout") if split == "test" else None,
            encode_view=encode_view if probe.features == "augmented" else None,
            solver=probe.solver,
            candidates=candidates,
            epochs=probe.epochs,
            batch_size=probe.batch_size,
            seed=config.seed,
            mesh=mesh,
            progress=functools.partial(tqdm.tqdm, unit="step", dynamic_ncols=True),
        )
    return {
        **result._asdict(),
        "split": split,
        "checkpoint_step": step,
        "seed": config.seed,
        "trained_with_seed": trained.seed,
    }


def _choose_step(directory: pathlib.Path, name: str) -> int:
    there = checkpoint.steps(directory)
    if not there:
        raise ConfigError(f"--workdir: found no checkpoint in {directory}")
    if name == "newest":
        return there[-1]
    if name == "best":
        knn = checkpoint.knn_by_step(directory)
        if not knn:
            raise ConfigError("--checkpoint: found best, but kNN was measured at no checkpoint")
        return max(knn, key=lambda step: knn[step])
    if not name.isdecimal() or int(name) not in there:
        steps = ", ".join(map(str, there))
        raise ConfigError(f"--checkpoint: found {name!r}; allowed: newest, best, {steps}")
    return int(name)
