"""From the settings to an `Experiment`: what cannot work fails here, before anything compiles."""

import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from .. import augment, data, losses, methods, schemes, sharding
from ..data.tokenizer import Tokenizer
from ..methods import Loss, Method, Views
from ..schemes import Scheme
from ..temperatures import as_temperature
from ..training import optim
from . import language, networks
from ._own import Own
from .checks import has_batchnorm, ignored
from .config import Config, ConfigError, arguments, as_fields, fields
from .data import describe, open_sources
from .experiment import Encode, Experiment, Schedule
from .language import Language
from .methods import ALL_LOSSES, METHODS, TOPOLOGIES, Parts
from .tables import make, options_of
from .temperature import TEMPERATURES, Facts

ONLINE_PROBE_RATE = 0.1


def build(config: Config, workdir: pathlib.Path, *, own: Own = Own()) -> Experiment:  # noqa: B008
    """Build every part of a run.

    Args:
        config: the settings, checked.
        workdir: of the run, whose vocabulary is used if it has one.
        own: objects in place of names.

    Raises:
        ConfigError: the settings do not fit the data, the devices, or each other.
    """
    mesh = sharding.make_mesh()
    _check_devices(config, mesh)
    sources, tokenizer = open_sources(config, own), None
    if config.method == "clip":
        tokenizer = language.make_tokenizer(config, sources["train"], workdir)
        sources = language.tokenize(sources, tokenizer)
    train = sources["train"]
    schedule = make_schedule(config, train)
    parts = make_parts(config, train, mesh, schedule, tokenizer, own)
    method = make_method(config, parts, own)
    scheme = make_scheme(config, method, train, schedule, own)
    if config.probe.online and train.num_classes:
        method = methods.with_online_probe(method, train.num_classes)
    encode, project = (make_encode(config, f, train) for f in (method.encode, method.project))
    return Experiment(
        config=config,
        mesh=mesh,
        sources=sources,
        schedule=schedule,
        method=method,
        scheme=scheme,
        optimizer=make_optimizer(config, schedule),
        encode=encode,
        encode_view=make_encode_view(config, method, train),
        project=project,
        embed_views=make_embed_views(method, parts.views),
        language=None if tokenizer is None else make_language(parts, tokenizer, project),
        trained_on=describe(train, tokenizer),
    )


def _check_devices(config: Config, mesh: Mesh) -> None:
    with as_fields():
        sharding.check_batch_size(config.batch_size, mesh)
    parts = config.batch.micro_batches
    if config.batch_size % (parts * mesh.size):
        raise ConfigError(
            f"config.batch.micro_batches: found {parts} with config.batch_size "
            f"{config.batch_size} on {mesh.size} devices; allowed: a divisor of the "
            f"{config.batch_size // mesh.size} images of each device."
        )


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
    interval = per_epoch if o.interval == "epoch" else 1
    rate = optim.warmup_cosine(peak, total_steps=total, warmup_steps=warmup, interval=interval)
    return Schedule(per_epoch, total, rate)


def make_parts(
    config: Config,
    source: data.Source,
    mesh: Mesh,
    schedule: Schedule,
    tokenizer: Tokenizer | None = None,
    own: Own = Own(),  # noqa: B008
) -> Parts:
    """What the method is made of."""
    size, channels = networks.view_size(config, source), source.image_shape[-1]
    recipe = make_recipe(config, augment.RECIPES[config.augment.recipe])
    normalize = make_normalize(config, source)
    encoder = functools.partial(
        networks.make_encoder, config, size=size, channels=channels, own=own
    )

    def views(key, images, rows):
        first, second = augment.two_views(key, images, recipe, size=size, rows=rows)
        return normalize(first), normalize(second)

    def view(key, images, rows):
        return normalize(augment.view(key, images, recipe.first, size=size, rows=rows))

    @functools.cache
    def towers():
        if tokenizer is None:
            raise ConfigError(
                f"config.method: {config.method} asks for towers, which only clip has; allowed: a "
                "method made of parts.encoder."
            )
        return networks.make_towers(
            config, size=size, channels=channels, vocab_size=tokenizer.vocab_size, own=own
        )

    return Parts(
        encoder=encoder,
        projector=functools.partial(networks.make_projector, config),
        head=functools.partial(networks.make_head, config),
        towers=towers,
        has_batchnorm=has_batchnorm(config),
        views=views,
        view=view,
        loss=functools.partial(make_loss, config, own),
        spread=functools.partial(spread, config, mesh),
        similarity=make(config, "topology.name", TOPOLOGIES[config.topology.name]),
        caption_noise=config.data.caption_noise,
        total_steps=schedule.total_steps,
    )


def make_recipe(config: Config, recipe: augment.Recipe) -> augment.Recipe:
    """A recipe with the filter that the settings ask for."""
    return augment.antialiased(recipe) if config.augment.antialias else recipe


def make_loss(config: Config, own: Own = Own(), softmax: Loss | None = None) -> Loss:  # noqa: B008
    """The loss that the settings name for the method, with its options.

    Args:
        config: the settings.
        own: objects in place of names.
        softmax: what `softmax` means for a method of the user's own.
    """
    entry = METHODS.get(config.method)
    if entry is None and softmax is None and config.loss_name == "softmax":
        raise ConfigError(
            f"config.method: {config.method} calls parts.loss(), which does not know what softmax "
            "means for it; allowed: parts.loss(LOSS) with a loss such as losses.info_nce."
        )
    table = {**ALL_LOSSES, "softmax": softmax} if entry is None else entry.losses
    table = {**table, "auto": table.get(config.loss_name)}
    loss = own.find(table, config, "loss.name")
    batch = [
        name
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
    ]
    options = options_of(config, "loss.name", loss, known=(*batch, *_GIVEN_TO_LOSS))
    return functools.partial(loss, **options) if options else loss


_GIVEN_TO_LOSS = ("labels", "queue", "temperature", "similarity", "axis_name")


def spread(config: Config, mesh: Mesh, loss: Loss) -> Loss:
    """The loss over the devices; one of one's own that knows no strategies is left to XLA."""
    if "strategy" not in inspect.signature(loss).parameters:
        return loss
    with as_fields("loss", loss="loss.name"):
        return losses.on_mesh(
            loss,
            mesh,
            axis=sharding.AXIS,
            strategy=config.loss.strategy,
            tile_size=config.loss.tile_size or None,
        )


def make_method(config: Config, parts: Parts, own: Own = Own()) -> Method:  # noqa: B008
    """The method that the settings name, made of the parts."""
    builders = {name: entry.build for name, entry in METHODS.items()}
    builder = own.find(builders, config, "method")
    method = make(config, "method", builder, "moco", parts=parts)
    if not isinstance(method, Method):
        raise ConfigError(
            f"config.method: {config.method} gives a {type(method).__name__}; allowed: a "
            "methods.Method."
        )
    return method


def make_scheme(
    config: Config,
    method: Method,
    source: data.Source,
    schedule: Schedule,
    own: Own = Own(),  # noqa: B008
) -> Scheme | None:
    """How the temperature evolves; None for a method that has none."""
    if method.scheme_inputs is None:
        for field in fields():
            if field.axis == "temperature.name" and field.is_set(config):
                raise ignored(config, field, "method", "with a method that has a temperature")
        return None
    facts = Facts(
        key=jax.random.key(config.seed),
        examples=source.num_stored,
        width=method.width,
        steps_per_epoch=schedule.steps_per_epoch,
        total_steps=schedule.total_steps,
        optimizer=make(
            config,
            "optimizer.name",
            _undecayed(optim.OPTIMIZERS[config.optimizer.name]),
            schedule=schedule.learning_rate,
        ),
        sigmoid=config.loss_name == "siglip",
    )
    builder = own.find(TEMPERATURES, config, "temperature.name")
    made = make(config, "temperature.name", builder, facts=facts)
    if isinstance(made, Scheme):
        return made
    if not _stands_for_a_temperature(made):
        raise ConfigError(
            f"config.temperature.name: {config.temperature.name} gives a {type(made).__name__}; "
            "allowed: a number, a Temperature, a function of the similarity, or a schemes.Scheme."
        )
    try:
        return schemes.fixed(as_temperature(made))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.temperature.name: {config.temperature.name} gives no temperature: {error}"
        ) from error


def _stands_for_a_temperature(made: object) -> bool:
    return callable(made) or isinstance(made, int | float | np.number | np.ndarray | jax.Array)


def _undecayed(build: Callable[..., Any]) -> Callable[..., Any]:
    """An optimiser for what is no weight, such as the logarithm of a scale."""

    def undecayed(schedule, momentum=0.9):
        taken = {"momentum": momentum} if "momentum" in arguments(build) else {}
        return build(schedule, weight_decay=0.0, **taken)

    return undecayed


def make_language(parts: Parts, tokenizer: Tokenizer, embed_images: Encode) -> Language:
    """What evaluation needs of the towers."""
    _, text = parts.towers()

    @jax.jit
    def embed_texts(params, stats, tokens: Int[Array, "n t"]) -> Float[Array, "n d"]:
        return methods.embed_texts(text, params, stats, tokens)

    return Language(tokenizer, parts.similarity, embed_images, embed_texts)


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
    """`(params, stats, uint8 images) -> encode` of the centre of whole images; jitted."""
    size = networks.view_size(config, source)
    top, left = ((side - size) // 2 for side in source.image_shape[:2])
    normalize = make_normalize(config, source)

    @jax.jit
    def of_images(params, stats, images: UInt8[Array, "n h w c"]) -> Float[Array, "n features"]:
        centre = images[:, top : top + size, left : left + size]
        return encode(params, stats, normalize(augment.to_float(centre)))

    return of_images


def make_encode_view(config: Config, method: Method, source: data.Source) -> Encode:
    """`(params, stats, key, uint8 images) -> features` of one weak random view each; jitted."""
    size = networks.view_size(config, source)
    normalize = make_normalize(config, source)
    recipe = make_recipe(config, augment.weak())

    @jax.jit
    def encode_view(params, stats, key, images: UInt8[Array, "n h w c"]):
        view = augment.view(key, images, recipe.first, size=size)
        return method.encode(params, stats, normalize(view))

    return encode_view


def make_embed_views(
    method: Method, views: Views
) -> Callable[..., tuple[Float[Array, "n 2 f"], Float[Array, "n 2 d"]]]:
    """`(params, stats, key, uint8 images) -> features and embeddings` of two views each; jitted."""

    @jax.jit
    def embed_views(params, stats, key, images: UInt8[Array, "n h w c"]):
        both = views(key, images, jnp.arange(len(images)))
        stacked = lambda embed: jnp.stack([embed(params, stats, view) for view in both], axis=1)
        return stacked(method.encode), stacked(method.project)

    return embed_views


def make_optimizer(config: Config, schedule: Schedule) -> optax.GradientTransformation:
    """The encoder's optimiser, and plain SGD for an online probe beside it."""
    builder = optim.OPTIMIZERS[config.optimizer.name]
    encoder = make(config, "optimizer.name", builder, schedule=schedule.learning_rate)
    if not config.probe.online:
        return encoder
    probe = optax.sgd(ONLINE_PROBE_RATE, momentum=0.9)
    return methods.with_probe_optimizer(encoder, probe)
