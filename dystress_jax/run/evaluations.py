"""Every evaluation by name, each `evaluate(experiment, state) -> Result`.

The closing table of a run and `dystress eval` measure by the same functions.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from .. import data, evaluation
from ..errors import ArgumentError
from ..evaluation import EmbeddedImages, Result, features
from ..training import TrainState
from .config import Config, ConfigError, arguments
from .experiment import EncodeImages, Experiment
from .fields import as_fields

Embedded = Callable[[str], EmbeddedImages]  # of a split
# Arguments by which an evaluation shares with the others what is computed once.
SHARED = ("encode", "embedded")
WITH_SHARE = ("linear_probe", "finetune", "few_labels")  # of the labels
WITH_SEEDS = (*WITH_SHARE, "transfer", "few_shot")
ALL_LABELS = 1.0  # nobody asks for a share
DRAWS = 5  # seeds where nobody says how many, and a single one says little
# Images at most, of which every pair is looked at: after the run, and while it goes on.
REPRESENTED, REPRESENTED_IN_TRAINING = 10_000, 1_000
LABELS_ELSEWHERE = (
    "labelled images of another source, by --on.source and --on.path of dystress eval"
)
WITHOUT_LABELS = f"--evaluation=representation, which needs no labels; or {LABELS_ELSEWHERE}"
ZERO_SHOT_LABELS = "--config.zero_shot.classes=labels, which takes the classes of the images"


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


class EvaluationError(ConfigError):
    """The run has nothing that this evaluation could measure by."""


def knn(experiment: Experiment, state: TrainState, *, encode: EncodeImages | None = None) -> Result:
    """Nearest neighbours of the test images, or of the held-out ones if there is no test."""
    split = _labelled_split(experiment)
    return knn_of(experiment, encode or experiment.encoder(state), split)


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
    split, settings = _labelled_split(experiment), experiment.config.knn
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


def linear_probe(
    experiment: Experiment, state: TrainState, *, encode: EncodeImages | None = None
) -> Result:
    """A linear classifier on the frozen features, of all labels or a share of them."""
    split, train = _labelled_split(experiment), experiment.train
    config, probe = experiment.config, experiment.config.probe
    candidates = probe.learning_rates if probe.solver == "sgd" else probe.l2
    holdout = _validation(experiment, split)
    if len(candidates) > 1 and holdout is None:
        field = "learning_rates" if probe.solver == "sgd" else "l2"
        why = (
            "without test images the held-out ones are what is measured, and must not choose too"
            if split == "holdout"
            else "there are no held-out images with labels to choose by (config.data.holdout is "
            f"{config.data.holdout:g})"
        )
        raise ConfigError(
            f"config.probe.{field}: found {candidates}, but {why}; allowed: one number."
        )
    view = functools.partial(experiment.encode_view, state.params, state.stats)
    result = evaluation.evaluate_linear_probe(
        encode or experiment.encoder(state),
        train,
        experiment.sources[split],
        holdout=holdout,
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


def finetune(experiment: Experiment, state: TrainState) -> Result:
    """The whole network trained on the labels, of all images or a share of them."""
    split, config, method = _labelled_split(experiment), experiment.config, experiment.method
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


def _shares(config: Config) -> tuple[float, ...]:
    share = config.labels.share
    return share if isinstance(share, tuple) else (share,)


def check_labels(wanted: Collection[str], changes: Container[str]) -> None:
    """Refuse a share of the labels for an evaluation of ours that draws none, and seeds for none.

    Args:
        wanted: names of evaluations.
        changes: the fields that were set for them.

    Raises:
        ConfigError: with the evaluations that do.
    """
    ours = [name for name in wanted if name in EVALUATIONS]
    for name in ours if "labels.share" in changes else ():
        if name not in WITH_SHARE:
            raise ConfigError(
                f"--label_fraction (config.labels.share): found with --evaluation={name}, which "
                f"takes no share of the labels; allowed: with {', '.join(WITH_SHARE)}."
            )
    if "labels.seeds" in changes and len(ours) == len(wanted) and not set(ours) & {*WITH_SEEDS}:
        raise ConfigError(
            f"--seeds (config.labels.seeds): found with --evaluation={','.join(ours)}, where "
            f"nothing is drawn by them; allowed: with {', '.join(WITH_SEEDS)}."
        )


def _seeds(config: Config, default: int = 1) -> range:
    return range(config.seed, config.seed + (config.labels.seeds or default))


def _progress() -> Callable[[range], Iterable[int]]:
    quiet = jax.process_index() != 0
    return functools.partial(tqdm.tqdm, unit="step", dynamic_ncols=True, disable=quiet)


def retrieval(
    experiment: Experiment, state: TrainState, *, embedded: Embedded | None = None
) -> Result:
    """Which images find their texts, and the other way round."""
    split = captioned_split(experiment)
    images = (embedded or embedded_by(experiment, state))(split)
    return evaluation.evaluate_retrieval(images)._replace(split=split)


def zero_shot(
    experiment: Experiment, state: TrainState, *, embedded: Embedded | None = None
) -> Result:
    """Classification by descriptions of the classes."""
    task = zero_shot_task(experiment)
    images = (embedded or embedded_by(experiment, state))(task.split)._replace(source=task.source)
    result = evaluation.evaluate_zero_shot(
        images,
        templates=evaluation.templates(experiment.config.zero_shot.prompts),
        class_names=task.class_names,
    )
    return result._replace(split=task.split)


def transfer(
    experiment: Experiment, state: TrainState, *, encode: EncodeImages | None = None
) -> Result:
    """Logistic regression on frozen features, its L2 chosen on held-out images."""
    split = _labelled_split(experiment)
    result = evaluation.evaluate_transfer(
        encode or experiment.encoder(state),
        experiment.train,
        experiment.sources[split],
        holdout=_validation(experiment, split),
        seeds=_seeds(experiment.config),
        mesh=experiment.mesh,
    )
    return result._replace(split=split)


def few_labels(
    experiment: Experiment, state: TrainState, *, encode: EncodeImages | None = None
) -> Result:
    """Logistic regression on frozen features with shares of the labels."""
    split, config = _labelled_split(experiment), experiment.config
    labels, asked = config.labels, config.labels.share != ALL_LABELS
    with as_fields("labels", fractions="labels.share" if asked else "labels.fractions"):
        result = evaluation.evaluate_few_labels(
            encode or experiment.encoder(state),
            experiment.train,
            experiment.sources[split],
            holdout=_validation(experiment, split),
            fractions=_shares(config) if asked else labels.fractions,
            seeds=_seeds(config, DRAWS),
            mesh=experiment.mesh,
        )
    return result._replace(split=split)


def few_shot(
    experiment: Experiment, state: TrainState, *, encode: EncodeImages | None = None
) -> Result:
    """Logistic regression on frozen features of a few images of each class."""
    split, settings = _labelled_split(experiment), experiment.config.labels
    with as_fields("labels"):
        result = evaluation.evaluate_few_shot(
            encode or experiment.encoder(state),
            experiment.train,
            experiment.sources[split],
            shots=settings.shots,
            seeds=_seeds(experiment.config, DRAWS),
            mesh=experiment.mesh,
        )
    return result._replace(split=split)


def _validation(experiment: Experiment, split: str) -> data.Source | None:
    """The held-out images, where they have labels and are not what is measured."""
    holdout = experiment.sources.get("holdout") if split == "test" else None
    return holdout if holdout is not None and holdout.has_labels else None


def representation(experiment: Experiment, state: TrainState) -> Result:
    """How features and embeddings lie on the sphere: what the analysis of DySTreSS rests on."""
    split = _measured_split(experiment, lambda source: True, "anything")
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

    embed = functools.partial(features.embed_source, source=source, mesh=experiment.mesh)
    width = experiment.method.num_features
    # Features and embeddings of whole images, and those of view a and of view b: a pass each.
    flat = lambda of, x: jnp.concatenate([y.reshape(len(x), -1) for y in of(x)], axis=1)
    whole = embed(functools.partial(flat, functools.partial(experiment.embed, *trained)))
    both = embed(functools.partial(flat, views))
    found = {
        "features_": (whole[:, :width], both[:, : 2 * width]),
        "embeddings_": (whole[:, width:], both[:, 2 * width :]),
    }
    labels, results = source.labels(), []
    for prefix, (embeddings, pairs) in found.items():
        view_a, view_b = np.split(pairs, 2, axis=1)
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
# What a run ends with, as far as it can be measured.
OF_TEXTS = ("retrieval", "zero_shot")
CLOSING = ("knn", "baselines", *OF_TEXTS)


# Groups of settings that some of our evaluations read and the others do not.
READ_BY = {
    "knn": ("knn", "baselines"),
    "probe": ("linear_probe",),
    "labels": WITH_SEEDS,
    "finetune": ("finetune",),
    "zero_shot": ("zero_shot",),
    "evaluation_options": (),
}


def read_by(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of some settings those that an evaluation reads; of one's own nobody knows, so all.

    Example:
        >>> read_by("knn", {"knn.k": 5, "probe.epochs": 2, "seed": 1})
        {'knn.k': 5, 'seed': 1}
    """
    if name not in EVALUATIONS:
        return dict(settings)
    read = lambda field: name in READ_BY.get(field.partition(".")[0], (name,))
    return {field: value for field, value in settings.items() if read(field)}


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
            not fit in JSON.
        EvaluationError: there is nothing to measure by.
    """
    shared = shared or shared_by(experiment, state)
    taken, options = arguments(evaluate), {**experiment.config.evaluation_options, **shared}
    try:
        result = evaluate(experiment, state, **{n: v for n, v in options.items() if n in taken})
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


def _uncounted(result: Result) -> tuple[str, ...]:
    found = result.confusion
    if found is None or found.counts is not None:
        return ()
    return (f"no confusion matrix: the {len(found.class_names):,} classes are too many for one",)


def check_options(config: Config, own: Mapping[str, Evaluate]) -> None:
    """Refuse an option that no evaluation of the user's own takes.

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


class ZeroShotTask(NamedTuple):
    """What zero-shot classification is measured on.

    Attributes:
        split: which images.
        source: the split, labelled with what is to be told apart.
        class_names: one for each label.
    """

    split: str
    source: data.Source
    class_names: tuple[str, ...]


def zero_shot_task(experiment: Experiment) -> ZeroShotTask:
    """The images and the names of their classes.

    Raises:
        EvaluationError: there are no images with classes.
        ConfigError: the file of class names does not fit.
    """
    _check_language(experiment)
    z = experiment.config.zero_shot
    if z.classes == "captions":
        split = captioned_split(experiment, instead=ZERO_SHOT_LABELS)
        source = data.classes_from_captions(experiment.sources[split])
    else:
        split = experiment.measured_split(lambda source: source.has_labels)
        if split is None:
            _measured_split(experiment, lambda source: True, "labels or captions")
            raise EvaluationError(
                "config.data: found no labels to classify by; allowed: "
                "config.zero_shot.classes=captions"
            )
        source = experiment.sources[split]
    if not z.class_names:
        return ZeroShotTask(split, source, source.class_names)
    with as_fields("zero_shot", path="zero_shot.class_names"):
        names = data.read_class_names(z.class_names, source.num_classes)
    return ZeroShotTask(split, source, names)


def captioned_split(experiment: Experiment, *, instead: str = "") -> str:
    """The images that retrieval is measured on.

    Args:
        experiment: the parts of the run.
        instead: what an error allows beside captions, where images have labels.
    """
    _check_language(experiment)
    has_labels = experiment.measured_split(lambda source: source.has_labels) is not None
    return _measured_split(
        experiment,
        lambda source: source.captions is not None,
        "captions",
        instead=instead if has_labels else "",
    )


def shared_by(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What the evaluations of a state share: each image is encoded once for all of them."""
    return {
        "encode": features.Remembering(experiment.encoder(state)),
        "embedded": embedded_by(experiment, state),
    }


def embedded_by(experiment: Experiment, state: TrainState) -> Embedded:
    """The images of a split as the towers of a state embed them, once for all who ask."""

    @functools.cache
    def embedded(split: str) -> EmbeddedImages:
        encoder = experiment.towers(state.params, state.stats)
        return evaluation.embed_images(encoder, experiment.sources[split], mesh=experiment.mesh)

    return embedded


def _check_language(experiment: Experiment) -> None:
    if experiment.language is None:
        without = [
            n for n, evaluate in EVALUATIONS.items() if "embedded" not in arguments(evaluate)
        ]
        raise EvaluationError(
            f"--evaluation: found a run with config.method {experiment.config.method}, which has "
            f"no texts; allowed: {', '.join(without)}"
        )


def _labelled_split(experiment: Experiment) -> str:
    any_images = experiment.measured_split(lambda source: True) is not None
    instead = WITHOUT_LABELS if any_images else LABELS_ELSEWHERE
    if not experiment.train.has_labels:
        raise EvaluationError(
            "config.data: found training images without labels; allowed: labelled ones, which this "
            f"evaluation learns from; or {instead}."
        )
    return _measured_split(experiment, lambda source: source.has_labels, "labels", instead=instead)


def _measured_split(
    experiment: Experiment,
    fits: Callable[[data.Source], bool],
    needed: str,
    *,
    instead: str = "",
) -> str:
    """The images to measure on."""
    split = experiment.measured_split(fits)
    if split is None:
        there = [s for s in ("test", "holdout") if s in experiment.sources]
        found = (
            f"{' and '.join(there)} images without {needed}" if there else "only training images"
        )
        raise EvaluationError(
            f"config.data: found {found}; allowed: test or held-out images with {needed}, which "
            f"this evaluation measures by{instead and f'; or {instead}'}."
        )
    return split
