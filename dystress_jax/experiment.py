"""From the settings of an experiment to its parts: data, method, optimiser.

The trainer and the evaluations build the same parts from the same config here, so that what is
evaluated is what was trained.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from . import (
    augment,
    checkpoint,
    data,
    evaluation,
    methods,
    networks,
    objective,
    optim,
    sharding,
    vocabulary,
)
from .config import Config, ConfigError
from .data.tokenizer import Tokenizer
from .methods import Method
from .similarities import Similarity
from .state import TrainState, abstract_state

ONLINE_PROBE_RATE = 0.1

Encode = Callable[..., Float[Array, "n features"]]


class Schedule(NamedTuple):
    """How long a run is and its learning rate at every step."""

    steps_per_epoch: int
    total_steps: int
    learning_rate: Callable[[jax.Array], jax.Array]


class Language(NamedTuple):
    """What clip has besides an encoder of images."""

    tokenizer: Tokenizer
    similarity: Similarity
    embed_images: Encode  # (params, stats, uint8 images) -> embeddings
    embed_texts: Encode  # (params, stats, tokens) -> embeddings


class Experiment(NamedTuple):
    """The parts of a run that stay the same from the first step to the last."""

    config: Config
    mesh: Mesh
    sources: dict[str, data.Source]
    schedule: Schedule
    method: Method
    optimizer: optax.GradientTransformation
    encode: Encode  # (params, stats, uint8 images) -> features
    language: Language | None
    trained_on: str  # as the checkpoints remember it, for `check_data`

    @property
    def train(self) -> data.Source:
        """The training images."""
        return self.sources["train"]

    def measured_split(self, fits: Callable[[data.Source], bool]) -> str | None:
        """What is measured at the end: the test or the held-out images, the first that fit."""
        splits = [split for split in ("test", "holdout") if split in self.sources]
        return next((split for split in splits if fits(self.sources[split])), None)

    def abstract_state(self) -> TrainState:
        """What a checkpoint of the run must fit."""
        return abstract_state(self.method, self.optimizer, mesh=self.mesh)


def build(config: Config, workdir: pathlib.Path) -> Experiment:
    """Build every part; whatever cannot work fails here, before anything compiles.

    Args:
        config: the settings, checked.
        workdir: of the run, whose vocabulary is used if it has one.

    Raises:
        ConfigError: the settings do not fit the data, the devices, or each other.
    """
    mesh = sharding.make_mesh()
    _check_devices(config, mesh)
    sources = open_sources(config)
    tokenizer = None
    if config.method == "clip":
        tokenizer = vocabulary.make_tokenizer(config, sources["train"], workdir)
        sources = vocabulary.tokenize(sources, tokenizer)
    train = sources["train"]
    schedule = make_schedule(config, train)
    if tokenizer is None:
        method, language = make_method(config, train, mesh, schedule), None
    else:
        method, language = make_clip(config, train, mesh, schedule, tokenizer)
    if config.probe.online and train.num_classes:
        method = methods.with_online_probe(method, train.num_classes)
    optimizer = make_optimizer(config, schedule)
    encode = make_encode(config, method.encode, train)
    trained_on = describe_data(train, tokenizer)
    return Experiment(
        config, mesh, sources, schedule, method, optimizer, encode, language, trained_on
    )


def _check_devices(config: Config, mesh: Mesh) -> None:
    try:
        sharding.check_batch_size(config.batch_size, mesh)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    parts = config.batch.micro_batches
    if config.batch_size % (parts * mesh.size):
        raise ConfigError(
            f"config.batch.micro_batches: found {parts} with config.batch_size "
            f"{config.batch_size} on {mesh.size} devices; allowed: a divisor of the "
            f"{config.batch_size // mesh.size} images of each device."
        )


def open_sources(config: Config) -> dict[str, data.Source]:
    """The splits that the data has: ``train``, and ``holdout`` and ``test`` where there are any."""
    d = config.data
    try:
        sources = data.open_splits(
            d.source,
            name=d.name,
            path=d.path,
            image_size=d.image_size,
            holdout=d.holdout,
            captions=d.captions,
            on_error=d.on_error,
            imbalance_ratio=d.imbalance_ratio,
            limit=d.limit,
        )
    except ValueError as error:  # its messages begin with the field's name
        raise ConfigError(f"config.{error}") from error
    if config.method == "clip" and d.prompts:
        templates = evaluation.templates(d.prompts)
        try:
            sources = {
                split: data.captions_from_labels(source, templates)
                if source.has_labels or split == "train"
                else source
                for split, source in sources.items()
            }
        except ValueError as error:
            raise ConfigError(f"config.data.prompts: {error}") from error
    if config.loss.name == "supcon" and not sources["train"].has_labels:
        raise ConfigError(
            "config.loss.name: found supcon with images without labels; allowed: nt_xent or dcl, "
            "which need none."
        )
    return sources


@contextlib.contextmanager
def images_read_whenever() -> Iterator[None]:
    """For all that reads images: one that cannot be read is for the user to put right.

    Raises:
        ConfigError: which image, and why it cannot be read.
    """
    try:
        yield
    except data.UnreadableError as error:
        raise ConfigError(
            f"config.data: {error}. What was saved before is whole: replace the file, and the same "
            "command goes on; or start in a new --workdir with config.data.on_error=skip, which "
            "leaves such images out."
        ) from error


IMAGES_COMPARED = 64  # spread over the data: all of them may take long to read


def describe_data(source: data.Source, tokenizer: Tokenizer | None = None) -> str:
    """Enough to notice that there are other images, captions or words than there were."""
    some = data.subset(source, IMAGES_COMPARED)
    images = some.gather(np.arange(len(some)))
    content = hashlib.sha256(json.dumps(source.class_names).encode())
    for array in (source.index, images["image"], images["label"]):
        content.update(np.ascontiguousarray(array).tobytes())
    said = (
        f"{len(source)} of {list(source.image_shape)} in {source.num_classes} classes, "
        f"content {content.hexdigest()[:12]}"
    )
    if source.captions is not None:
        captions = hashlib.sha256()
        for stored in source.index:  # JSON says where the captions of each image end
            captions.update(json.dumps(source.captions[int(stored)]).encode())
        said += f", captions {captions.hexdigest()[:12]}"
    return said if tokenizer is None else f"{said}, vocabulary {tokenizer.fingerprint}"


def check_data(parts: Experiment, checkpoints: pathlib.Path) -> None:
    """Refuse training data that are not those of the run, as its checkpoints remember them.

    Raises:
        ConfigError: with both descriptions.
    """
    now = parts.trained_on
    then = checkpoint.newest_record(checkpoints).get("data", now)
    if now != then:
        raise ConfigError(
            f"config.data: the run has trained on other images: {then} then, {now} now. Give it "
            "the same images, captions and vocabulary, or a new --workdir."
        )


def make_method(config: Config, source: data.Source, mesh: Mesh, schedule: Schedule) -> Method:
    """SimCLR or MoCo: the networks, their views and their loss, as one method."""
    size = networks.view_size(config, source)
    encoder = networks.make_encoder(config, source)
    parts = [encoder, *networks.make_heads(config, encoder)]
    recipe = augment.RECIPES[config.augment.recipe]
    normalize = make_normalize(config, source)

    def views(key, images, rows):
        first, second = augment.two_views(key, images, recipe, size=size, rows=rows)
        return normalize(first), normalize(second)

    shared = {
        "views": views,
        "scheme": _make_scheme(config, source, schedule, parts[-1].out_features),
        "decoupled": objective.make_decoupled(config, mesh),
    }
    m = config.moco
    match config.method:
        case "simclr":
            return methods.simclr(*parts, loss=objective.make_view_loss(config, mesh), **shared)
        case "moco_v2":
            return methods.moco_v2(
                *parts,
                loss=objective.make_queue_loss(config, mesh),
                queue_size=m.queue_size,
                momentum=m.momentum,
                **shared,
            )
    return methods.moco_v3(
        *parts,
        loss=objective.make_key_loss(config, mesh),
        momentum=m.momentum,
        total_steps=schedule.total_steps,
        scale_by_tau=m.scale_by_tau,
        **shared,
    )


def make_clip(
    config: Config, source: data.Source, mesh: Mesh, schedule: Schedule, tokenizer: Tokenizer
) -> tuple[Method, Language]:
    """Clip: two towers, one view of each image, and what evaluation needs of them."""
    size = networks.view_size(config, source)
    image, text = networks.make_towers(config, source, tokenizer.vocab_size)
    how = augment.RECIPES[config.augment.recipe].first
    normalize = make_normalize(config, source)
    similarity = objective.make_similarity(config)

    def view(key, images, rows):
        return normalize(augment.view(key, images, how, size=size, rows=rows))

    method = methods.clip(
        image,
        text,
        view=view,
        loss=objective.make_pair_loss(config, mesh, similarity),
        similarity=similarity,
        scheme=_make_scheme(config, source, schedule, image[1].out_features),
        wrong_pairs=config.data.wrong_pairs,
        sigmoid=config.loss.name == "siglip",
    )

    @jax.jit
    def embed_texts(params, stats, tokens: Int[Array, "n t"]) -> Float[Array, "n d"]:
        return methods.embed_texts(text, params, stats, tokens)

    embed_images = make_encode(config, functools.partial(methods.embed_images, image), source)
    return method, Language(tokenizer, similarity, embed_images, embed_texts)


def _make_scheme(config: Config, source: data.Source, schedule: Schedule, width: int):
    return objective.make_scheme(config, source, width=width, **schedule._asdict())


def make_normalize(
    config: Config, source: data.Source
) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n h w c"]]:
    """Subtract the mean and divide by the standard deviation that the config names."""
    channels = source.image_shape[-1]
    for name in ("mean", "std"):
        found = getattr(config.augment, name)
        if len(found) not in (1, channels):
            raise ConfigError(
                f"config.augment.{name}: found {len(found)} numbers for images of {channels} "
                f"channel{'s' * (channels > 1)}; allowed: one number, or one a channel."
            )
    return functools.partial(augment.normalize, mean=config.augment.mean, std=config.augment.std)


def make_encode(config: Config, encode: Callable[..., Array], source: data.Source) -> Encode:
    """``(params, stats, uint8 images) -> encode`` of whole images; jitted."""
    size = networks.view_size(config, source)
    top, left = ((side - size) // 2 for side in source.image_shape[:2])
    normalize = make_normalize(config, source)

    @jax.jit
    def of_images(params, stats, images: UInt8[Array, "n h w c"]) -> Float[Array, "n features"]:
        centre = images[:, top : top + size, left : left + size]
        return encode(params, stats, normalize(augment.to_float(centre)))

    return of_images


def make_encode_view(config: Config, method: Method, source: data.Source):
    """``(params, stats, key, uint8 images) -> features`` of one weak random view each; jitted."""
    size = networks.view_size(config, source)
    normalize = make_normalize(config, source)

    @jax.jit
    def encode_view(params, stats, key, images: UInt8[Array, "n h w c"]):
        view = augment.view(key, images, augment.weak().first, size=size)
        return method.encode(params, stats, normalize(view))

    return encode_view


def make_schedule(config: Config, source: data.Source) -> Schedule:
    """Steps and learning rate; the last images of an epoch that fill no batch are left out."""
    per_epoch = len(source) // config.batch_size
    if per_epoch < 1:
        raise ConfigError(
            f"config.batch_size: found {config.batch_size}, but there are only {len(source)} "
            f"training images; allowed: at most {len(source)}."
        )
    total = config.steps or config.epochs * per_epoch
    o = config.optimizer
    warmup = round(o.warmup_epochs * per_epoch)
    if warmup >= total:
        raise ConfigError(
            f"config.optimizer.warmup_epochs: found {o.warmup_epochs} ({warmup} steps) in a run of "
            f"{total} steps; allowed: fewer than the run has."
        )
    peak = optim.learning_rate(o.rule, o.learning_rate, config.batch_size)
    return Schedule(
        per_epoch, total, optim.warmup_cosine(peak, total_steps=total, warmup_steps=warmup)
    )


def make_optimizer(config: Config, schedule: Schedule) -> optax.GradientTransformation:
    """The encoder's optimiser, and plain SGD for an online probe beside it."""
    o = config.optimizer
    encoder = optim.make_optimizer(
        o.name,
        schedule.learning_rate,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        decay_vectors=o.decay_vectors,
    )
    if not config.probe.online:
        return encoder
    probe = optax.sgd(ONLINE_PROBE_RATE, momentum=0.9)
    return methods.with_probe_optimizer(encoder, probe)


def with_absolute_paths(config: Config) -> Config:
    """The same files from any directory: the run may go on, and be evaluated, from another."""
    d, t, z = config.data, config.text, config.zero_shot
    absolute = lambda path: path and str(pathlib.Path(path).expanduser().absolute())
    path = absolute(d.path)
    captions = d.captions
    if d.source == "folder" and captions:
        below = [pathlib.Path(path, part, captions).is_file() for part in (".", "train")]
        if not any(below) and pathlib.Path(captions).expanduser().is_file():
            captions = absolute(captions)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(d, path=path, captions=captions),
        text=dataclasses.replace(t, vocabulary=absolute(t.vocabulary)),
        zero_shot=dataclasses.replace(z, class_names=absolute(z.class_names)),
    )
