"""From the settings to an `Experiment`: what cannot work fails here, before anything compiles."""

import functools
import pathlib
from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from .. import data, losses, methods, optim, sharding
from ..data.tokenizer import Tokenizer
from ..methods import Method, takes_labels
from . import language, networks
from ._encoding import make_embed, make_embed_views, make_encode, make_encode_view
from ._loss import make_loss, spread
from ._own import Chosen, Own, choose, name_own
from ._same_images import describe, remembered
from ._scheme import make_scheme
from .checks import has_batchnorm
from .config import Config, ConfigError
from .data import Sources, check_labels, open_sources
from .experiment import Embed, Experiment, Schedule
from .fields import as_fields, fields
from .inputs import Inputs, make_inputs
from .language import Language
from .meaning import arguments
from .methods import TOPOLOGIES, Parts
from .relevance import ignored
from .tables import make
from .trial import try_step

ONLINE_PROBE_RATE = 0.1


def build(config: Config, workdir: pathlib.Path, *, own: Own = Own()) -> Experiment:
    """Open the images of a run and build every part of it.

    Args:
        config: the settings, checked.
        workdir: of the run, whose vocabulary is used if it has one.
        own: objects in place of names.

    Returns:
        The parts, with the images of each split.

    Raises:
        ConfigError: the settings do not fit the data, the devices, or each other.

    Example:
        >>> from dystress_jax import run
        >>> config = run.from_config_dict({"temperature": {"tau_max": 0.5}})
        >>> experiment = run.build(config, pathlib.Path("runs/new"))
        >>> len(experiment.train), experiment.method.num_features
        (2814, 64)
    """
    config = name_own(config, own)
    chosen, mesh = choose(config, own), sharding.make_mesh()
    _check_devices(config, mesh)
    sources, tokenizer = open_sources(config, chosen.source), None
    check_labels(config, sources["train"])
    if config.method == "clip":
        tokenizer = language.make_tokenizer(config, sources["train"], workdir)
        sources = language.tokenize(sources, tokenizer)
    return _assemble(config, chosen, sources, tokenizer, mesh, try_own=True)._replace(
        trained_on=describe(sources, tokenizer)
    )


def rebuild(config: Config, workdir: pathlib.Path, *, own: Own = Own()) -> Experiment:
    """Build the parts of a run that has trained, without its images, on any devices.

    Args:
        config: its settings.
        workdir: of the run, which says what its images were like, and has its vocabulary.
        own: the objects that the run was given in Python.

    Returns:
        The parts; the only source is `train`, which has no pixels.

    Raises:
        ConfigError: something of the run is missing.
    """
    tokenizer = language.saved_tokenizer(config, workdir) if config.method == "clip" else None
    return without_images(config, remembered(workdir), tokenizer, own=own)


def without_images(
    config: Config,
    train: data.Source,
    tokenizer: Tokenizer | None = None,
    *,
    own: Own = Own(),
) -> Experiment:
    """Build the parts of a run for training images that nobody looks at, on any devices.

    Args:
        config: its settings.
        train: says what the images are like.
        tokenizer: of an image-text run.
        own: the objects that the run was given in Python.

    Raises:
        ConfigError: the settings do not fit the images or each other.
    """
    config, mesh = name_own(config, own), sharding.make_mesh()
    sources = {"train": train}
    return _assemble(config, choose(config, own), sources, tokenizer, mesh, try_own=False)


def with_images(experiment: Experiment, sources: Sources) -> Experiment:
    """The parts of a run with images to evaluate on."""
    if experiment.language is not None:
        captioned = {split: s for split, s in sources.items() if s.captions is not None}
        tokenizer = experiment.language.tokenizer
        sources = {**sources, **language.tokenize(captioned, tokenizer)}
    return experiment._replace(sources=sources)


def _assemble(
    config: Config,
    chosen: Chosen,
    sources: Sources,
    tokenizer: Tokenizer | None,
    mesh: Mesh,
    *,
    try_own: bool,
) -> Experiment:
    """Make the parts for these images; `try_own` traces a step of what is the user's own."""
    train = sources["train"]
    inputs, schedule = make_inputs(config, train), make_schedule(config, train)
    parts = make_parts(config, chosen, inputs, mesh, schedule, tokenizer)
    method = make_method(config, chosen, parts)
    scheme = make_scheme(config, chosen, method, train, schedule)
    if try_own:
        try_step(config, method, scheme, train)
    check_taken(config, chosen.method)
    if config.probe.online and train.num_classes:
        method = methods.with_online_probe(method, train.num_classes)
    embed = make_embed(method, inputs)
    return Experiment(
        config=config,
        mesh=mesh,
        sources=sources,
        schedule=schedule,
        method=method,
        scheme=scheme,
        optimizer=make_optimizer(config, schedule),
        inputs=inputs,
        encode=make_encode(method, inputs),
        encode_view=make_encode_view(method, inputs),
        embed=embed,
        embed_views=make_embed_views(method, inputs.views),
        language=None if tokenizer is None else make_language(parts, tokenizer, embed),
        trained_on="",
    )


def _check_devices(config: Config, mesh: Mesh) -> None:
    with as_fields("batch"):
        sharding.check_micro_batches(config.batch.micro_batches, config.batch_size, mesh)


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
        length = "config.steps" if config.steps else "config.epochs"
        raise ConfigError(
            f"config.optimizer.warmup_epochs: found {o.warmup_epochs:g}, a warm-up of "
            f"{warmup:,} steps, which leaves none of the {total:,} in all; allowed: a shorter one. "
            f"Lower it, or raise {length}."
        )
    peak = optim.learning_rate(o.rule, o.learning_rate, config.batch_size)
    interval = per_epoch if o.interval == "epoch" else 1
    rate = optim.warmup_cosine(peak, total_steps=total, warmup_steps=warmup, interval=interval)
    return Schedule(per_epoch, total, rate)


def make_parts(
    config: Config,
    chosen: Chosen,
    inputs: Inputs,
    mesh: Mesh,
    schedule: Schedule,
    tokenizer: Tokenizer | None = None,
) -> Parts:
    """What the method is made of."""
    shape = {"size": inputs.size, "channels": inputs.channels}

    @functools.cache
    def towers():
        if tokenizer is None:
            raise ConfigError(
                f"config.method: {config.method} asks for towers, which only clip has; allowed: a "
                "method made of an encoder."
            )
        return networks.make_towers(config, chosen.model, tokenizer=tokenizer, **shape)

    return Parts(
        encoder=functools.partial(networks.make_encoder, config, chosen.model, **shape),
        projector=functools.partial(networks.make_projector, config),
        head=functools.partial(networks.make_head, config),
        towers=towers,
        has_batchnorm=has_batchnorm(config),
        views=inputs.views,
        view=inputs.view,
        loss=functools.partial(make_loss, config, chosen.loss),
        spread=functools.partial(spread, config, mesh),
        similarity=make(config, "topology.name", TOPOLOGIES[config.topology.name]),
        caption_noise=config.data.caption_noise,
        by_class=bool(config.data.prompts) and takes_labels(chosen.loss or losses.clip),
        total_steps=schedule.total_steps,
    )


def check_taken(config: Config, method: Callable[..., Method]) -> None:
    """Refuse a setting of parts that the method does not take.

    Args:
        config: the settings.
        method: what makes the method.

    Raises:
        ConfigError: it is set, and the run would ignore it.
    """
    taken = set(arguments(method))
    for field in fields():
        if field.parts and field.is_set(config) and taken.isdisjoint(field.parts):
            allowed = f"with a method that has an argument {' or '.join(field.parts)}"
            raise ignored(config, field, "method", allowed)


def make_method(config: Config, chosen: Chosen, parts: Parts) -> Method:
    """The method that the settings name, made of the parts."""
    method = make(config, "method", chosen.method, "moco", **parts._asdict())
    if not isinstance(method, Method):
        raise ConfigError(
            f"config.method: {config.method} gives a {type(method).__name__}; allowed: a "
            "methods.Method."
        )
    return method


def make_language(parts: Parts, tokenizer: Tokenizer, embed: Embed) -> Language:
    """What evaluation needs of the towers."""
    _, text = parts.towers()

    def embed_images(params, stats, images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
        _, embeddings = embed(params, stats, images)
        return embeddings

    @jax.jit
    def embed_texts(params, stats, tokens: Int[Array, "n t"]) -> Float[Array, "n d"]:
        return methods.embed_texts(text, params, stats, tokens)

    return Language(tokenizer, parts.similarity, embed_images, embed_texts)


def make_optimizer(config: Config, schedule: Schedule) -> optax.GradientTransformation:
    """The encoder's optimiser, and plain SGD for an online probe beside it."""
    builder = optim.OPTIMIZERS[config.optimizer.name]
    encoder = make(config, "optimizer.name", builder, schedule=schedule.learning_rate)
    if config.optimizer.clip_norm:
        encoder = optax.chain(optax.clip_by_global_norm(config.optimizer.clip_norm), encoder)
    if not config.probe.online:
        return encoder
    probe = optax.sgd(ONLINE_PROBE_RATE, momentum=0.9)
    return methods.with_probe_optimizer(encoder, probe)
