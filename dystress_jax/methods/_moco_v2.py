"""MoCo v2 (Chen et al. 2020): queries find their keys among a queue of earlier keys."""

import functools

import jax
import jax.numpy as jnp

from .. import losses, schemes
from ..metrics import pair_statistics
from ..microscope import Compared
from ..models import Network
from ..similarities import normalize
from ._method import Embedded, Loss, Method, Outcome, Spread, accepts, given, on_one_device
from ._queue import check_queue, new_queue, push
from ._tower import Tower, Views, check_momentum, follow, followed, method_of


def moco_v2(
    encoder: Network,
    projector: Network,
    *,
    views: Views,
    queue_size: int,
    momentum: float,
    loss: Loss = losses.moco,
    spread: Spread = on_one_device,
    shuffle: bool = True,
) -> Method:
    r"""MoCo v2 with any temperature.

    The first view of an image is the query. Its key is the embedding of the second view by an
    encoder that follows the trained one,

    $$\theta_k \gets m \theta_k + (1 - m) \theta_q$$

    and its negatives are the keys of earlier batches, in a queue of which each batch replaces the
    oldest. The queue starts with random directions.

    Where BatchNorm works on groups of the batch (`bn_groups` of `models.resnet`), the statistics
    of a group betray which images are in it, and so which query belongs to which key. Keys are
    therefore grouped in another, random order than queries: the counterpart of the authors'
    shuffling between GPUs. With one group, the whole batch, or without BatchNorm, the order makes
    no difference, but over several devices it costs: each is sent the images of all.

    Args:
        encoder: images to features.
        projector: features to the embeddings that the loss compares.
        views: `(key, uint8 images, rows) -> two views`.
        queue_size: keys in the queue, a multiple of the batch size.
        momentum: the EMA momentum m, in [0, 1].
        loss: `(queries [n d], keys [n d], queue [k d], *, temperature) -> [n]`, such as
            `losses.moco`.
        spread: puts a loss over the devices, such as `losses.on_mesh` with a mesh.
        shuffle: whether keys are grouped in an order of their own; False: the encoder has no
            BatchNorm that works on groups.

    Returns:
        The method. Its memory has `key_params`; `queue`, whose rows have length 1; and
        `position`, the row of the oldest key.

    Raises:
        ArgumentError: a number is out of range; when the loss is traced, the queue is no multiple
            of the batch.

    Example:
        >>> from dystress_jax import augment, methods, models
        >>> def views(key, images, rows):
        ...     return augment.two_views(key, images, augment.simclr_cifar(), size=32, rows=rows)
        >>> encoder = models.resnet("small", stem="patch")
        >>> head = models.projector("moco_v2", in_features=encoder.out_features, out=32)
        >>> method = methods.moco_v2(encoder, head, views=views, queue_size=4096, momentum=0.99)
        >>> params, stats, memory = jax.eval_shape(method.init, jax.random.key(0))
        >>> memory["queue"].shape, sorted(memory)
        ((4096, 32), ['key_params', 'position', 'queue'])

    References:
        He et al., [arXiv 1911.05722](https://arxiv.org/abs/1911.05722), Algorithm 1 and section
        3.3; Chen et al., [arXiv 2003.04297](https://arxiv.org/abs/2003.04297); the authors' code
        (facebookresearch/moco).
    """
    check_queue(queue_size, 1)
    check_momentum(momentum)
    tower = Tower(encoder, projector)
    decoupled = spread(functools.partial(losses.moco, decoupled=True))
    of_keys = "shuffled_keys" if shuffle else "keys"
    has_temperature, loss = accepts(loss, "temperature"), spread(loss)

    def init(key):
        tower_key, queue_key = jax.random.split(key)
        params, stats = tower.init(tower_key)
        queue = new_queue(queue_key, size=queue_size, width=projector.out_features)
        return params, stats, {"key_params": followed(params), **queue}

    def order(key, n):
        # The two views have the first two numbers, so the number of images is free.
        return jax.random.permutation(jax.random.fold_in(key, n), n)

    def prepare(batch, key):
        n = len(batch["row"])
        check_queue(queue_size, n)
        if not shuffle:
            return batch
        shuffled = order(key, n)
        moved = lambda x: jax.tree.map(lambda leaf: leaf[shuffled], x)
        return {**batch, "key_image": moved(batch["image"]), "key_row": moved(batch["row"])}

    def embed(params, stats, memory, batch, key):
        query_view, key_view = views(key, batch["image"], batch["row"])
        if shuffle:
            _, key_view = views(key, batch["key_image"], batch["key_row"])
        queries, features, stats = tower.embed(params, stats, query_view)
        (keys,) = tower.keys(memory["key_params"], stats, key_view)
        points = {"queries": queries, of_keys: normalize(keys)}
        return Embedded(points, features[:, None]), stats

    def in_order(embedded, key):
        keys = embedded.points[of_keys]
        return keys[jnp.argsort(order(key, len(keys)))] if shuffle else keys

    def scheme_inputs(embedded, memory, batch, key):
        queries = jax.lax.stop_gradient(embedded.points["queries"])
        keys, queue = in_order(embedded, key), memory["queue"]
        return schemes.SchemeInputs(
            anchors=queries,
            positives=keys,
            decoupled=lambda temperature: decoupled(queries, keys, queue, temperature=temperature),
            negatives=queue_size,
            example=batch["index"],
            side=jnp.zeros_like(batch["index"]),
            key=key,
        )

    def compared(embedded, memory, batch, key):
        unknown = jnp.full(queue_size, -1, jnp.int32)
        return Compared(
            anchors=embedded.points["queries"],
            positives=in_order(embedded, key),
            candidates=memory["queue"],
            groups=(batch["row"], unknown),
            labels=(batch["label"], unknown),
        )

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, batch
        queries, keys = embedded.points["queries"], in_order(embedded, key)
        queue = memory["queue"]
        values = loss(queries, keys, queue, **given(temperature))
        metrics = pair_statistics(queries, keys, negatives=queue, temperature=temperature)
        return values, Outcome(push(memory, queue=keys), metrics)

    def after_update(memory, params, step):
        del step
        key_params = follow(memory["key_params"], params, rate=1 - momentum)
        return {**memory, "key_params": key_params}

    return method_of(
        tower,
        init=init,
        embed=embed,
        contrast=contrast,
        scheme_inputs=scheme_inputs if has_temperature else None,
        compared=compared,
        prepare=prepare,
        after_update=after_update,
        followers=("key_params",),
    )
