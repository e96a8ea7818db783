"""From the settings to what is minimised: the loss over the devices, and the temperature."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from . import data, losses, methods, optim, schemes, sharding, similarities, temperatures
from .config import Config
from .similarities import Similarity
from .temperatures import Temperature

PER_SAMPLE_RHO, PER_SAMPLE_RATE = 0.4, 0.03
TEMPNET_RHO, TEMPNET_RATE = 7.0, 3e-5


def make_similarity(config: Config) -> Similarity:
    """What compares images with texts: the topology."""
    g = config.topology
    if g.name == "oblique":
        return similarities.oblique(g.tokens, mean=g.match_range)
    if g.name == "oblique_geodesic":
        return similarities.oblique_geodesic(g.tokens)
    return getattr(similarities, g.name)


def make_scheme(
    config: Config,
    source: data.Source,
    *,
    steps_per_epoch: int,
    total_steps: int,
    learning_rate: optim.Schedule,
    width: int,
) -> schemes.Scheme:
    """How the temperature that ``config.temperature`` names evolves.

    Args:
        config: the settings.
        source: whose examples may each have a temperature.
        steps_per_epoch: for schedules in epochs.
        total_steps: for schedules over the run.
        learning_rate: of what the optimiser trains.
        width: of the embeddings.
    """
    t = config.temperature
    stops = {"stop_gradient": t.stop_gradient}
    match t.name:
        case "constant":
            return schemes.fixed(t.tau)
        case "dystress":
            return schemes.fixed(temperatures.dystress(t.tau_min, t.tau_max, **stops))
        case "shifted_dystress":
            shape = {"shift": t.shift, "width": t.width}
            return schemes.fixed(
                temperatures.shifted_dystress(t.tau_min, t.tau_max, **shape, **stops)
            )
        case "free":
            return schemes.fixed(temperatures.temperature_free())
        case "cosine_schedule":
            steps = t.half_period * steps_per_epoch
            tau = schemes.cosine_oscillation(t.tau_min, t.tau_max, half_period=steps)
            return schemes.scheduled(temperatures.constant, tau=tau)
        case "linear_schedule":
            tau = optax.linear_schedule(t.tau_min, t.tau_max, total_steps)
            return schemes.scheduled(temperatures.constant, tau=tau)
        case "macl":
            return schemes.macl(tau=t.tau, alpha=t.alpha, threshold=t.threshold)
        case "learned":
            scale = optim.make_optimizer(
                config.optimizer.name, learning_rate, momentum=config.optimizer.momentum
            )
            options = {
                "log_scale": -math.log(t.tau),
                "min_scale": t.min_scale,
                "max_scale": t.max_scale,
            }
            if config.loss.name == "siglip":
                return schemes.learned_scale_and_bias(scale, bias=t.bias, **options)
            return schemes.learned_scale(scale, **options)
    shared = {
        "sides": 1 if config.method == "moco_v2" else 2,
        "tau_min": t.tau_min,
        "tau_max": t.tau_max,
    }
    if t.name == "per_sample":
        return schemes.isogclr(
            source.num_stored,
            tau_init=t.tau,
            rho=t.rho or PER_SAMPLE_RHO,
            learning_rate=t.learning_rate or PER_SAMPLE_RATE,
            **shared,
        )
    return schemes.tempnet(
        jax.random.fold_in(jax.random.key(config.seed), 1),
        width,
        source.num_stored,
        optax.adam(t.learning_rate or TEMPNET_RATE),
        rho=t.rho or TEMPNET_RHO,
        **shared,
    )


def make_view_loss(config: Config, mesh: Mesh) -> methods.Loss:
    """SimCLR's: NT-Xent, DCL or the supervised one."""

    def nt_xent(view_a, view_b, temperature, labels, **how):
        del labels
        return losses.nt_xent(view_a, view_b, temperature=temperature, **how)

    def dcl(view_a, view_b, temperature, labels, **how):
        del labels
        return losses.dcl(view_a, view_b, temperature=temperature, **how)

    def supcon(view_a, view_b, temperature, labels, **how):
        return losses.supcon(view_a, view_b, labels, temperature=temperature, **how)

    compute = {"nt_xent": nt_xent, "dcl": dcl, "supcon": supcon}[config.loss.name]
    spread = _weighed(config, _spread(compute, config, mesh, sides=2))

    def loss(view_a, view_b, temperature, labels):
        # An image without a label is a class of its own.
        alone = -1 - jnp.arange(len(labels), dtype=labels.dtype)
        return spread(view_a, view_b, temperature, jnp.where(labels < 0, alone, labels))

    return loss


def make_key_loss(config: Config, mesh: Mesh) -> methods.KeyLoss:
    """MoCo v3's InfoNCE over the batch."""

    def info_nce(queries, keys, temperature, **how):
        return losses.info_nce(queries, keys, temperature=temperature, **how)

    return _weighed(config, _spread(info_nce, config, mesh, sides=1))


def make_queue_loss(config: Config, mesh: Mesh) -> methods.QueueLoss:
    """MoCo v2's; each device compares its own queries with the whole queue."""
    loss = _over_queue(losses.moco, config, mesh)
    return _weighed(config, loss)


def make_pair_loss(config: Config, mesh: Mesh, similarity: Similarity) -> methods.PairLoss:
    """CLIP's symmetric loss or SigLIP's, between images and texts."""

    def clip(images, texts, temperature, **how):
        return losses.clip(images, texts, temperature=temperature, similarity=similarity, **how)

    def siglip(images, texts, temperature, **how):
        return losses.siglip(
            images,
            texts,
            scale=temperature.scale,
            bias=temperature.bias,
            similarity=similarity,
            **how,
        )

    compute = siglip if config.loss.name == "siglip" else clip
    return _weighed(config, _spread(compute, config, mesh, sides=1))


def make_decoupled(config: Config, mesh: Mesh) -> Callable[..., Float[Array, " anchors"]]:
    """The method's loss without the positive in the denominator, for schemes per example."""
    if config.method == "moco_v2":
        spread_queue = _over_queue(functools.partial(losses.moco, decoupled=True), config, mesh)
        return lambda q, k, queue, *, temperature: spread_queue(q, k, queue, temperature)

    def dcl(view_a, view_b, temperature, **how):
        return losses.dcl(view_a, view_b, temperature=temperature, **how)

    def info_nce(queries, keys, temperature, **how):
        return losses.info_nce(queries, keys, temperature=temperature, decoupled=True, **how)

    compute, sides = (info_nce, 1) if config.method == "moco_v3" else (dcl, 2)
    spread = _spread(compute, config, mesh, sides=sides)
    return lambda a, b, *, temperature: spread(a, b, temperature)


def _weighed(config: Config, loss: Callable[..., Array]) -> Callable[..., Array]:
    """The loss as MACL weighs it, if the temperature is MACL's."""
    if config.temperature.name != "macl":
        return loss
    return lambda *arguments: schemes.macl_reweight(loss(*arguments))


def _how(config: Config) -> dict[str, Any]:
    return {"strategy": config.loss.strategy, "tile_size": config.loss.tile_size or None}


def _spread(
    compute: Callable[..., Array], config: Config, mesh: Mesh, *, sides: int
) -> Callable[..., Array]:
    """``compute(a, b, temperature, *rows) -> [sides * n]`` over the whole batch, wherever it is.

    ``dense`` and ``tiled`` are written for the whole batch and left to the compiler; ``gathered``
    and ``ring`` say themselves what travels between the devices, and ``auto`` takes one of these as
    soon as there are several. The order of the anchors is the same everywhere.
    """
    strategy = config.loss.strategy
    if strategy in ("dense", "tiled") or (strategy == "auto" and mesh.size == 1):
        return functools.partial(compute, **_how(config))
    rows, by_side = PartitionSpec(sharding.AXIS), PartitionSpec(None, sharding.AXIS)

    def spread(a, b, temperature, *of_rows):
        moving, still = _separate(temperature, lambda leaf: leaf.reshape(sides, -1))

        def shard(a, b, moving, *of_rows):
            merged = _merge(moving, still, lambda leaf: leaf.reshape(-1))
            how = {**_how(config), "axis_name": sharding.AXIS}
            return compute(a, b, merged, *of_rows, **how).reshape(sides, -1)

        spec = by_side if temperature.by_anchor else PartitionSpec()
        specs = (rows, rows, spec, *[rows] * len(of_rows))
        mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=by_side)
        return mapped(a, b, moving, *of_rows).reshape(-1)

    return spread


def _over_queue(compute: Callable[..., Array], config: Config, mesh: Mesh) -> methods.QueueLoss:
    rows, whole = PartitionSpec(sharding.AXIS), PartitionSpec()

    def spread(queries, keys, queue, temperature):
        moving, still = _separate(temperature, lambda leaf: leaf)

        def shard(queries, keys, queue, moving):
            merged = _merge(moving, still, lambda leaf: leaf)
            return compute(queries, keys, queue, temperature=merged, **_how(config))

        spec = rows if temperature.by_anchor else whole
        specs = (rows, rows, whole, spec)
        mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=rows)
        return mapped(queries, keys, queue, moving)

    return spread


def _separate(temperature: Temperature, shape: Callable[[Array], Array]) -> tuple[Any, Any]:
    """The leaves that are traced, and the temperature whose numbers stay numbers.

    A number that entered `shard_map` would be traced there, and the losses could not see before
    they start whether exp(logit) can overflow.
    """
    leaves, structure = jax.tree.flatten(temperature)
    if not any(isinstance(leaf, Tracer) for leaf in leaves):
        return (), temperature
    moving = [shape(leaf) if temperature.by_anchor else leaf for leaf in leaves]
    return moving, (structure, temperature.by_anchor)


def _merge(moving: Any, still: Any, shape: Callable[[Array], Array]) -> Temperature:
    """The inverse of `_separate`, on a device."""
    if isinstance(still, Temperature):
        return still
    structure, by_anchor = still
    leaves = [shape(leaf) if by_anchor else leaf for leaf in moving]
    return jax.tree.unflatten(structure, leaves)
