"""From the settings of an experiment to its parts: sources, method, optimiser.

The trainer and the evaluations build the same parts from the same config here, so that what is
evaluated is what was trained.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, UInt8

from . import augment, data, losses, methods, models, optim, sharding, temperatures
from .config import VITS, Config, ConfigError, Temperature
from .methods import Method

ONLINE_PROBE_RATE = 0.1


class Schedule(NamedTuple):
    """How long a run is and its learning rate at every step."""

    steps_per_epoch: int
    total_steps: int
    learning_rate: Callable[[jax.Array], jax.Array]


def open_sources(config: Config) -> dict[str, data.Source]:
    """The splits that the data has: ``train``, and ``holdout`` and ``test`` where there are any."""
    d = config.data
    try:
        return data.open_splits(
            d.source, name=d.name, path=d.path, image_size=d.image_size, holdout=d.holdout
        )
    except ValueError as error:  # its messages begin with the field's name
        raise ConfigError(f"config.{error}") from error


def describe_images(source: data.Source) -> str:
    """Enough to notice that a file or folder has other images than it had."""
    return f"{len(source)} of {list(source.image_shape)} in {source.num_classes} classes"


def check_images(then: str, source: data.Source) -> None:
    """Refuse training images that are not those of the run, as `describe_images` told them.

    Raises:
        ConfigError: with both descriptions.
    """
    now = describe_images(source)
    if now != then:
        raise ConfigError(
            f"config.data: the run has trained on other images: {then} then, {now} now. Give it "
            "the same images, or a new --workdir."
        )


def view_size(config: Config, source: data.Source) -> int:
    """The side of the images that the encoder sees."""
    height, width, _ = source.image_shape
    if not config.augment.size and height != width:
        raise ConfigError(
            f"config.augment.size: found 0 with images of {height} x {width}; allowed: the side of "
            "the square views, in pixels."
        )
    size = config.augment.size or height
    if config.model.stem == "patch" and size < 8:
        raise ConfigError(
            f"config.model.stem: found patch with views of {size} x {size}, which leave nothing to "
            "convolve; allowed: cifar, or views of at least 8 x 8."
        )
    if size > min(height, width):
        raise ConfigError(
            f"config.augment.size: found {size} with images of {height} x {width}; allowed: at "
            f"most {min(height, width)}. Raise config.data.image_size or lower it."
        )
    return size


def make_temperature(settings: Temperature) -> temperatures.Temperature:
    """The temperature that ``config.temperature`` names."""
    t = settings
    if t.name == "constant":
        return temperatures.constant(t.tau)
    if t.name == "dystress":
        return temperatures.dystress(t.tau_min, t.tau_max, stop_gradient=t.stop_gradient)
    return temperatures.shifted_dystress(
        t.tau_min, t.tau_max, shift=t.shift, width=t.width, stop_gradient=t.stop_gradient
    )


def make_loss(config: Config, mesh: Mesh) -> methods.Loss:
    """NT-Xent (SimCLR) or InfoNCE (MoCo v3) over the whole batch, wherever its rows are.

    ``dense`` and ``tiled`` are written for the whole batch and left to the compiler; ``gathered``
    and ``ring`` say themselves what travels between the devices, and ``auto`` takes one of these as
    soon as there are several.
    """
    compute = functools.partial(
        losses.info_nce if config.method == "moco_v3" else losses.nt_xent,
        strategy=config.loss.strategy,
        tile_size=config.loss.tile_size,
    )

    def whole(view_a, view_b, temperature):
        return compute(view_a, view_b, temperature=temperature)

    def shard(view_a, view_b, temperature):
        return compute(view_a, view_b, temperature=temperature, axis_name=sharding.AXIS)

    if config.loss.strategy in ("dense", "tiled") or (
        config.loss.strategy == "auto" and mesh.size == 1
    ):
        return whole
    rows = PartitionSpec(sharding.AXIS)
    return jax.shard_map(shard, mesh=mesh, in_specs=(rows, rows, PartitionSpec()), out_specs=rows)


def make_queue_loss(config: Config, mesh: Mesh) -> methods.QueueLoss:
    """MoCo's loss; each device compares its own queries with the whole queue."""

    def shard(queries, keys, queue, temperature):
        return losses.moco(
            queries,
            keys,
            queue,
            temperature=temperature,
            strategy=config.loss.strategy,
            tile_size=config.loss.tile_size,
        )

    rows, whole = PartitionSpec(sharding.AXIS), PartitionSpec()
    return jax.shard_map(shard, mesh=mesh, in_specs=(rows, rows, whole, whole), out_specs=rows)


def make_encoder(config: Config, source: data.Source) -> models.Network:
    """The encoder that ``config.model`` names, for the views of a source."""
    m = config.model
    shared = {"channels": source.image_shape[-1], "dtype": jnp.dtype(config.dtype)}
    if m.name not in VITS:
        return models.resnet(m.name, stem=m.stem, bn_groups=bn_groups(config), **shared)
    size = view_size(config, source)
    if size % m.patch:
        raise ConfigError(
            f"config.model.patch: found {m.patch} with views of {size} x {size}; allowed: a "
            "divisor of their side, for example "
            f"{max(p for p in range(1, m.patch) if size % p == 0)}."
        )
    try:
        return models.vit(
            m.name,
            patch=m.patch,
            heads=m.heads or None,
            freeze_patches=m.freeze_patches,
            **shared,
        )
    except ValueError as error:  # its messages begin with the argument's name
        raise ConfigError(f"config.model.{error}") from error


def bn_groups(config: Config) -> int:
    """Groups of the batch with BatchNorm statistics of their own: MoCo v2's."""
    return config.moco.bn_groups if config.method == "moco_v2" else 1


def make_heads(config: Config, encoder: models.Network) -> list[models.Network]:
    """The projector, and MoCo v3's predictor after it."""
    p = config.projector
    is_vit = config.model.name in VITS
    own = "moco_v3_vit" if is_vit and config.method == "moco_v3" else config.method
    head = functools.partial(
        models.projector,
        hidden=p.hidden or encoder.out_features,
        out=p.out,
        bn_groups=bn_groups(config),
        dtype=jnp.dtype(config.dtype),
    )
    heads = [head(own if p.name == "auto" else p.name, in_features=encoder.out_features)]
    if config.method == "moco_v3":
        heads.append(head("moco_v3" if is_vit else "dystress_cifar", in_features=p.out))
    return heads


def make_method(config: Config, source: data.Source, mesh: Mesh) -> Method:
    """The networks, their views and their loss, as one method."""
    size = view_size(config, source)
    encoder = make_encoder(config, source)
    networks = [encoder, *make_heads(config, encoder)]
    recipe = augment.RECIPES[config.augment.recipe]
    normalize = make_normalize(config, source)

    def views(key, images):
        first, second = augment.two_views(key, images, recipe, size=size)
        return normalize(first), normalize(second)

    shared = {"views": views, "temperature": make_temperature(config.temperature)}
    m = config.moco
    match config.method:
        case "simclr":
            method = methods.simclr(*networks, loss=make_loss(config, mesh), **shared)
        case "moco_v2":
            method = methods.moco_v2(
                *networks,
                loss=make_queue_loss(config, mesh),
                queue_size=m.queue_size,
                momentum=m.momentum,
                **shared,
            )
        case _:
            method = methods.moco_v3(
                *networks,
                loss=make_loss(config, mesh),
                momentum=m.momentum,
                total_steps=make_schedule(config, source).total_steps,
                scale_by_tau=m.scale_by_tau,
                **shared,
            )
    if config.probe.online and source.num_classes:
        method = methods.with_online_probe(method, source.num_classes)
    return method


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


def make_encode(config: Config, method: Method, source: data.Source):
    """``(params, stats, uint8 images) -> features`` of whole images, in evaluation mode; jitted."""
    size = view_size(config, source)
    top, left = ((side - size) // 2 for side in source.image_shape[:2])
    normalize = make_normalize(config, source)

    @jax.jit
    def encode(params, stats, images: UInt8[Array, "n h w c"]) -> Float[Array, "n features"]:
        centre = images[:, top : top + size, left : left + size]
        return method.encode(params, stats, normalize(augment.to_float(centre)))

    return encode


def make_encode_view(config: Config, method: Method, source: data.Source):
    """``(params, stats, key, uint8 images) -> features`` of one weak random view each; jitted."""
    size = view_size(config, source)
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
        o.name, schedule.learning_rate, momentum=o.momentum, weight_decay=o.weight_decay
    )
    if not config.probe.online:
        return encoder
    probe = optax.sgd(ONLINE_PROBE_RATE, momentum=0.9)
    return methods.with_probe_optimizer(encoder, probe)
