"""The training of a whole network on labels."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from .. import augment, data, models, optim, sharding
from ..errors import ArgumentError
from ._finetune_settings import FINETUNE_OPTIMIZERS, Finetuning
from ._label_batches import label_batches
from ._mixing import mixed
from .linear_head import Progress

PyTree = Any
UNDECAYED = ("positions", "class_token", "class_tokens")  # whatever their shape
View = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"] | augment.Pictures], Float[Array, "n size size c"]
]


class Trained(NamedTuple):
    """A network before or after it was trained on labels.

    Attributes:
        params: `encoder` and `head` (kernel and bias of the classifier).
        stats: the running statistics of the encoder.
    """

    params: dict[str, PyTree]
    stats: PyTree


def make_fit(
    encoder: models.Network,
    start: Trained,
    images: int,
    *,
    view: View,
    settings: Finetuning,
    mesh: Mesh,
) -> Callable[[Trained, data.Source, int, Progress], Trained]:
    """What trains an encoder and a classifier on labels; it compiles once, for any number of seeds.

    Args:
        encoder: images to features.
        start: where it begins, of which shapes and names are looked at.
        images: how many it is trained on, at least 1.
        view: key and uint8 images to random views.
        settings: how; `batch_size` is a multiple of the devices, and no more than the images.
        mesh: the devices that share each batch.

    Returns:
        `(start, source, seed, progress) -> Trained`, the network after the last step. The seed is
        that of the orders, the views and the mixing; images labelled -1 do not count; `progress`
        wraps the range of all steps.

    Raises:
        ArgumentError: the warm-up leaves no step, or the layers of the encoder are not known.
    """
    per_epoch = images // settings.batch_size
    total_steps, classes = settings.epochs * per_epoch, start.params["head"]["bias"].shape[0]
    optimizer = _optimizer(settings, start.params, per_epoch=per_epoch, total_steps=total_steps)

    def step(trained, optimizer_state, batch, key):
        view_key, mix_key = jax.random.split(key)
        images = view(view_key, augment.seen(batch))
        known = batch["label"] >= 0
        targets = jax.nn.one_hot(batch["label"], classes)  # of -1 it is zeros
        smoothing = settings.label_smoothing
        targets = (targets * (1 - smoothing) + smoothing / classes) * known[:, None]
        images, targets = mixed(mix_key, images, targets, settings.mixup, settings.cutmix)

        def loss(params):
            x, stats = encoder.apply(params["encoder"], trained.stats, images, train=True)
            entropy = optax.losses.softmax_cross_entropy(classify(params["head"], x), targets)
            return jnp.sum(entropy) / jnp.maximum(jnp.sum(known), 1), stats

        grads, stats = jax.grad(loss, has_aux=True)(trained.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, trained.params)
        params = jax.tree.map(jnp.add, trained.params, updates)
        return Trained(params, stats), optimizer_state

    whole = sharding.replicated(mesh)
    step = jax.jit(step, out_shardings=whole, donate_argnums=(0, 1))
    # Copies, since the first step would give the arrays of the run away.
    copied = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=whole)
    begin = jax.jit(optimizer.init, out_shardings=whole)

    def fit(start: Trained, source: data.Source, seed: int, progress: Progress) -> Trained:
        batches = label_batches(source, batch_size=settings.batch_size, seed=seed, mesh=mesh)
        trained, key = copied(start), jax.random.key(seed)
        optimizer_state = begin(trained.params)
        for number in progress(range(total_steps)):
            batch, step_key = next(batches), jax.random.fold_in(key, number)
            jax.block_until_ready(trained)
            trained, optimizer_state = step(trained, optimizer_state, batch, step_key)
        return trained

    return fit


def classify(head: Mapping[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n classes"]:
    """The logits of a linear classifier, in float32."""
    with jax.default_matmul_precision("float32"):
        return x.astype(jnp.float32) @ head["kernel"] + head["bias"][None]


def _optimizer(
    settings: Finetuning, params: dict[str, PyTree], *, per_epoch: int, total_steps: int
) -> optax.GradientTransformation:
    warmup = round(settings.warmup_epochs * per_epoch)
    if warmup >= total_steps:
        raise ArgumentError(
            "warmup_epochs",
            f"found {settings.warmup_epochs:g}, a warm-up of {warmup:,} steps, which leaves none "
            f"of the {total_steps:,} in all; allowed: a shorter one.",
        )
    peak = optim.learning_rate("linear", settings.learning_rate, settings.batch_size)
    final = min(settings.final_rate, peak)
    schedule = optim.warmup_cosine(peak, total_steps=total_steps, warmup_steps=warmup, final=final)

    def decays(path: tuple[Any, ...], leaf: Array) -> bool:
        last = path[-1]  # of a dictionary, of an object, or of a list, where nothing has a name
        name = getattr(last, "key", getattr(last, "name", None))
        return jnp.ndim(leaf) > 1 and name not in UNDECAYED

    mask = jax.tree_util.tree_map_with_path(decays, params)
    direction = FINETUNE_OPTIMIZERS[settings.optimizer](settings.weight_decay, mask)
    scale = optax.identity()
    if settings.layer_decay < 1:
        try:
            layers, last = models.depths(params["encoder"])
        except ArgumentError as error:
            raise ArgumentError("layer_decay", f"{error.text} Or 1.") from error
        factor = lambda layer: settings.layer_decay ** (last - layer)
        scales = {
            "encoder": jax.tree.map(factor, layers),
            "head": jax.tree.map(lambda leaf: 1.0, params["head"]),
        }
        scale = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))
    return optax.chain(direction, optax.scale_by_learning_rate(schedule), scale)
