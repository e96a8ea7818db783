"""Every evaluation by name: `evaluate(experiment, state, ...) -> Result`.

The closing table of a run and `dystress eval` measure by the same functions, with
`measuring.measure`, which gives each what it shares with the others.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from .. import data, evaluation
from ..evaluation import EmbeddedImages, Result, features
from ..evaluation.few_shot import check_shots
from ..training import TrainState
from ._splits import (
    EvaluationError,
    captioned_split,
    labelled_split,
    measured_split,
    validation,
    zero_shot_task,
)
from .config import Config, ConfigError
from .experiment import EncodeImages, Experiment
from .fields import as_fields
from .meaning import arguments, taking

Embedded = Callable[[str], EmbeddedImages]  # of a split
ALL_LABELS = 1.0  # nobody asks for a share
DRAWS = 5  # seeds where nobody says how many, and a single one says little
REPRESENTED = 10_000  # images at most, of which every pair is looked at


@runtime_checkable
class Evaluate(Protocol):
    """An evaluation, ours or the user's own.

    Its further arguments are options of one's own. Where it has them, `encode` is the encoder of
    the state, images to features, and `embedded` gives the embeddings of a split of an image-text
    run: both remember what they have made, for all evaluations.
    """

    def __call__(
        self, experiment: Experiment, state: TrainState, /, *args: Any, **options: Any
    ) -> Result:
        """Measure a state of a run."""
        ...


def knn(experiment: Experiment, state: TrainState, *, encode: EncodeImages) -> Result:
    """Nearest neighbours of the test images, or of the held-out ones if there is no test."""
    return knn_of(experiment, encode, labelled_split(experiment))


def knn_of(experiment: Experiment, encode: EncodeImages, split: str) -> Result:
    """Nearest neighbours by any features, among at most `knn.bank` labelled training images."""
    settings = experiment.config.knn
    result = evaluation.evaluate_knn(
        encode,
        data.subset(data.labelled(experiment.train), settings.bank),
        experiment.sources[split],
        k=settings.k,
        temperature=settings.temperature,
        mesh=experiment.mesh,
    )
    return result._replace(split=split)


def baselines(experiment: Experiment, state: TrainState) -> Result:
    """What the encoder must beat, by nearest neighbours: itself untrained, pixels and colours."""
    del state
    split, settings = labelled_split(experiment), experiment.config.knn
    result = evaluation.evaluate_baselines(
        experiment.encoder(experiment.init_state()),
        data.subset(data.labelled(experiment.train), settings.bank),
        experiment.sources[split],
        temperature=_first(settings.temperature),
        mesh=experiment.mesh,
    )
    return result._replace(split=split)


def _first(value: float | tuple[float, ...]) -> float:
    return value[0] if isinstance(value, tuple) else value


def linear_probe(experiment: Experiment, state: TrainState, *, encode: EncodeImages) -> Result:
    """A linear classifier on the frozen features, of all labels or a share of them."""
    split, train = labelled_split(experiment), experiment.train
    config, probe = experiment.config, experiment.config.probe
    candidates = candidates_of_probe(experiment)
    view = functools.partial(experiment.encode_view, state.params, state.stats)
    result = evaluation.evaluate_linear_probe(
        encode,
        train,
        experiment.sources[split],
        holdout=validation(experiment, split),
        encode_view=view if probe.features == "augmented" else None,
        solver=probe.solver,
        candidates=candidates,
        epochs=probe.epochs,
        batch_size=probe.batch_size,
        fractions=_shares(config),
        seeds=_seeds(config),
        mesh=experiment.mesh,
        progress=_progress(),
    )
    return result._replace(split=split)


def candidates_of_probe(experiment: Experiment) -> tuple[float, ...]:
    """The rates, or the strengths of L2, of which a linear probe has one classifier each.

    Raises:
        ConfigError: several, and no images that may choose.
        EvaluationError: nothing to measure by.
    """
    probe, split = experiment.config.probe, labelled_split(experiment)
    field = "learning_rates" if probe.solver == "sgd" else "l2"
    candidates = getattr(probe, field)
    if len(candidates) > 1 and validation(experiment, split) is None:
        why = (
            "without test images the held-out ones are what is measured, and must not choose too"
            if split == "holdout"
            else "there are no held-out images with labels to choose by (config.data.holdout is "
            f"{experiment.config.data.holdout:g})"
        )
        raise ConfigError(
            f"config.probe.{field}: found {candidates}, but {why}; allowed: one number."
        )
    return candidates


def transfer(experiment: Experiment, state: TrainState, *, encode: EncodeImages) -> Result:
    """Logistic regression on frozen features, its L2 chosen on held-out images."""
    split = labelled_split(experiment)
    result = evaluation.evaluate_transfer(
        encode,
        experiment.train,
        experiment.sources[split],
        holdout=validation(experiment, split),
        seeds=_seeds(experiment.config),
        mesh=experiment.mesh,
    )
    return result._replace(split=split)


def few_labels(experiment: Experiment, state: TrainState, *, encode: EncodeImages) -> Result:
    """Logistic regression on frozen features with shares of the labels."""
    split, config = labelled_split(experiment), experiment.config
    labels, asked = config.labels, config.labels.share != ALL_LABELS
    with as_fields("labels", fractions="labels.share" if asked else "labels.fractions"):
        result = evaluation.evaluate_few_labels(
            encode,
            experiment.train,
            experiment.sources[split],
            holdout=validation(experiment, split),
            fractions=_shares(config) if asked else labels.fractions,
            seeds=_seeds(config, DRAWS),
            mesh=experiment.mesh,
        )
    return result._replace(split=split)


def few_shot(experiment: Experiment, state: TrainState, *, encode: EncodeImages) -> Result:
    """Logistic regression on frozen features of a few images of each class."""
    split, settings = labelled_split(experiment), experiment.config.labels
    with as_fields("labels"):
        result = evaluation.evaluate_few_shot(
            encode,
            experiment.train,
            experiment.sources[split],
            shots=settings.shots,
            seeds=_seeds(experiment.config, DRAWS),
            mesh=experiment.mesh,
        )
    return result._replace(split=split)


def check_class_sizes(experiment: Experiment) -> None:
    """Refuse more shots than a class has images, where labels are known without the images.

    Raises:
        ConfigError: with the size of the smallest class.
    """
    if experiment.train.stored_labels is not None:
        with as_fields("labels"):
            check_shots(experiment.config.labels.shots, experiment.train.labels())


def _seeds(config: Config, default: int = 1) -> tuple[int, ...]:
    count = config.labels.seeds or default
    return tuple((config.seed + i) % 2**32 for i in range(count))  # NumPy has no others


def _shares(config: Config) -> tuple[float, ...]:
    share = config.labels.share
    return share if isinstance(share, tuple) else (share,)


def _progress() -> Callable[[range], Iterable[int]]:
    quiet = jax.process_index() != 0
    return functools.partial(tqdm.tqdm, unit="step", dynamic_ncols=True, disable=quiet)


def finetune(experiment: Experiment, state: TrainState) -> Result:
    """The whole network trained on the labels, of all images or a share of them."""
    split, config, method = labelled_split(experiment), experiment.config, experiment.method
    if method.encoder is None:
        raise EvaluationError(
            f"config.method: found {config.method}, which does not say what is to be fine-tuned; "
            "allowed: a methods.Method with an `encoder`."
        )
    inputs = experiment.inputs
    with as_fields("finetune", fractions="labels.share"):
        result = evaluation.evaluate_finetune(
            method.encoder,
            state.params["encoder"],
            state.stats["encoder"],
            experiment.train,
            experiment.sources[split],
            view=inputs.weak_view,
            centre=inputs.centre,
            settings=finetuning(config),
            fractions=_shares(config),
            seeds=_seeds(config),
            mesh=experiment.mesh,
            progress=_progress(),
        )
    result.protocol["recipe"] = config.finetune.recipe
    return result._replace(split=split)


def finetuning(config: Config) -> evaluation.Finetuning:
    """The recipe for fine-tuning, with what the settings change of it."""
    f, recipe = config.finetune, evaluation.FINETUNE_RECIPES[config.finetune.recipe]
    changes = {name: value for name, value in dataclasses.asdict(f).items() if value is not None}
    del changes["recipe"]
    for name, of_recipe in (("optimizer", "auto"), ("batch_size", 0), ("epochs", 0)):
        if changes[name] == of_recipe:
            del changes[name]
    if "epochs" in changes:
        changes["few_epochs"] = 0
    return dataclasses.replace(recipe, **changes)


def retrieval(experiment: Experiment, state: TrainState, *, embedded: Embedded) -> Result:
    """Which images find their texts, and the other way round."""
    _check_language(experiment)
    split = captioned_split(experiment)
    images = embedded(split)
    return evaluation.evaluate_retrieval(images)._replace(split=split)


def zero_shot(experiment: Experiment, state: TrainState, *, embedded: Embedded) -> Result:
    """Classification by descriptions of the classes."""
    _check_language(experiment)
    task = zero_shot_task(experiment)
    images = embedded(task.split)._replace(source=task.source)
    result = evaluation.evaluate_zero_shot(
        images,
        templates=evaluation.templates(experiment.config.zero_shot.prompts),
        class_names=task.class_names,
    )
    return result._replace(split=task.split)


def _check_language(experiment: Experiment) -> None:
    if experiment.language is None:
        without = [
            n for n, evaluate in EVALUATIONS.items() if "embedded" not in arguments(evaluate)
        ]
        raise EvaluationError(
            f"--evaluation: found a run with config.method {experiment.config.method}, which has "
            f"no texts; allowed: {', '.join(without)}"
        )


def representation(experiment: Experiment, state: TrainState) -> Result:
    """How features and embeddings lie on the sphere: what the analysis of DySTreSS rests on."""
    split = measured_split(experiment, lambda source: True, "anything")
    return representation_of(experiment, state, split, at_most=REPRESENTED)


def representation_of(
    experiment: Experiment, state: TrainState, split: str, *, at_most: int
) -> Result:
    """The representation of the images of a split, evenly chosen if there are more."""
    source, trained = data.subset(experiment.sources[split], at_most), (state.params, state.stats)

    def views(images):
        # The views depend on the place in the batch: another key for every batch.
        key = jax.random.fold_in(jax.random.key(0), jnp.sum(images, dtype=jnp.uint32))
        return experiment.embed_views(*trained, key, images)

    # Features and embeddings of whole images, and those of view a and of view b: a pass each.
    embed = functools.partial(features.embed_source, source=source, mesh=experiment.mesh)
    whole, both = embed(functools.partial(experiment.embed, *trained)), embed(views)
    labels, results = source.labels(), []
    for prefix, of_images, of_views in zip(("features_", "embeddings_"), whole, both, strict=True):
        embeddings = of_images.reshape(len(of_images), -1)
        view_a, view_b = np.moveaxis(of_views.reshape(len(of_views), 2, -1), 1, 0)
        results.append(
            evaluation.evaluate_representation(embeddings, view_a, view_b, labels, prefix=prefix)
        )
    protocol = {name: value for result in results for name, value in result.protocol.items()}
    protocol["recipe"] = experiment.config.augment.recipe
    return Result(tuple(row for result in results for row in result.rows), protocol, split)


EVALUATIONS: dict[str, Evaluate] = {
    "knn": knn,
    "baselines": baselines,
    "linear_probe": linear_probe,
    "finetune": finetune,
    "transfer": transfer,
    "few_labels": few_labels,
    "few_shot": few_shot,
    "retrieval": retrieval,
    "zero_shot": zero_shot,
    "representation": representation,
}
_DRAWN = ("labels.share", "labels.seeds")  # how much of the labels is drawn, and how often
# The settings that each reads, beside the seed and where the images are: fields, or their groups.
READS: dict[str, tuple[str, ...]] = {
    "knn": ("knn",),
    "baselines": ("knn.temperature", "knn.bank"),
    "linear_probe": ("probe", *_DRAWN),
    "finetune": ("finetune", *_DRAWN),
    "transfer": ("labels.seeds",),
    "few_labels": ("labels.fractions", *_DRAWN),
    "few_shot": ("labels.shots", "labels.seeds"),
    "retrieval": (),
    "zero_shot": ("zero_shot",),
    "representation": (),
}


def readers(field: str) -> tuple[str, ...]:
    """The evaluations that read a setting of their own; none read what is not of one.

    Args:
        field: its full name.

    Example:
        >>> readers("knn.k"), readers("labels.shots"), readers("batch_size")
        (('knn',), ('few_shot',), ())
    """
    holders = (field, field.partition(".")[0])
    return tuple(name for name, read in READS.items() if not {*read}.isdisjoint(holders))


# What a run ends with, as far as it can be measured.
OF_TEXTS = taking("embedded", EVALUATIONS)
CLOSING = ("knn", "baselines", *OF_TEXTS)
