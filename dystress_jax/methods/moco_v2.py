"""MoCo v2 (Chen et al. 2020): queries find their keys among a queue of earlier keys."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import losses, schemes
from ..metrics import pair_statistics
from ..models import Network
from ..similarities import normalize
from ..temperatures import Temperature
from ._method import Embedded, Method, Outcome
from ._tower import Tower, Views, follow

QueueLoss = Callable[
    [Float[Array, "n d"], Float[Array, "n d"], Float[Array, "k d"], Temperature],
    Float[Array, " n"],
]


_decoupled = functools.partial(losses.moco, decoupled=True)


def moco_v2(
    encoder: Network,
    projector: Network,
    *,
    views: Views,
    loss: QueueLoss,
    scheme: schemes.Scheme,
    queue_size: int,
    momentum: float,
    decoupled: Callable[..., Float[Array, " n"]] = _decoupled,
) -> Method:
    r"""MoCo v2 with any temperature.

    The first view of an image is the query. Its key is the embedding of the second view by an
    encoder that follows the trained one,

    .. math:: \theta_k \gets m \theta_k + (1 - m) \theta_q

    and its negatives are the keys of earlier batches, in a queue of which each batch replaces the
    oldest. The queue starts with random directions.

    Where BatchNorm works on groups of the batch (``bn_groups`` of `models.resnet`), the statistics
    of a group betray which images are in it, and so which query belongs to which key. Keys are
    therefore grouped in another, random order than queries: the counterpart of the authors'
    shuffling between GPUs. With one group, the whole batch, the order makes no difference.

    Args:
        encoder: images to features.
        projector: features to the embeddings that the loss compares.
        views: ``(key, uint8 images, rows) -> two views``.
        loss: ``(queries [n d], keys [n d], queue [k d], temperature) -> one value a query``.
        scheme: of the temperature that is handed to ``loss``.
        queue_size: keys in the queue, a multiple of the batch size.
        momentum: m, in [0, 1].
        decoupled: the loss without the positive in the denominator; what schemes with a state per
            example look at.

    Returns:
        The method. Its memory has ``key_params``; ``queue``, whose rows have length 1; and
        ``position``, the row of the oldest key.

    Raises:
        ValueError: a number is out of range; when the loss is traced, the queue is no multiple of
            the batch.

    References:
        He et al., https://arxiv.org/abs/1911.05722, algorithm 1 and section 3.3; Chen et al.,
        https://arxiv.org/abs/2003.04297; facebookresearch/moco.
    """
    if queue_size < 1:
        raise ValueError(f"queue_size must be at least 1; found {queue_size}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1]; found {momentum}")
    tower = Tower(encoder, projector)

    def init(key):
        tower_key, queue_key = jax.random.split(key)
        params, stats = tower.init(tower_key)
        queue = normalize(jax.random.normal(queue_key, (queue_size, projector.out_features)))
        return params, stats, {"key_params": params, "queue": queue, "position": jnp.int32(0)}

    def order(key, n):
        return jax.random.permutation(jax.random.fold_in(key, 1), n)

    def prepare(batch, key):
        n = len(batch["image"])
        if queue_size % n:
            raise ValueError(
                f"queue_size must be a multiple of the batch size, so that each batch replaces the "
                f"oldest keys; found a queue of {queue_size} and a batch of {n}"
            )
        shuffled = order(key, n)
        return {**batch, "key_image": batch["image"][shuffled], "key_row": batch["row"][shuffled]}

    def embed(params, stats, memory, batch, key):
        query_view, _ = views(key, batch["image"], batch["row"])
        _, key_view = views(key, batch["key_image"], batch["key_row"])
        keys = normalize(tower.keys(memory["key_params"], stats, key_view))
        queries, features, stats = tower.embed(params, stats, query_view)
        return Embedded({"queries": queries, "shuffled_keys": keys}, features[:, None]), stats

    def in_order(embedded, key):
        keys = embedded.points["shuffled_keys"]
        return keys[jnp.argsort(order(key, len(keys)))]

    def look(embedded, memory, batch, key):
        queries = jax.lax.stop_gradient(embedded.points["queries"])
        keys, queue = in_order(embedded, key), memory["queue"]
        return schemes.Batch(
            anchors=queries,
            positives=keys,
            decoupled=lambda temperature: decoupled(queries, keys, queue, temperature=temperature),
            negatives=queue_size,
            example=batch["index"],
            side=jnp.zeros_like(batch["index"]),
            key=key,
        )

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, batch
        queries, keys = embedded.points["queries"], in_order(embedded, key)
        queue, position = memory["queue"], memory["position"]
        value = jnp.mean(loss(queries, keys, queue, temperature))
        metrics = pair_statistics(queries, keys, negatives=queue, temperature=temperature)
        memory = {
            "key_params": memory["key_params"],
            "queue": jax.lax.dynamic_update_slice(queue, keys, (position, 0)),
            "position": (position + len(keys)) % queue_size,
        }
        return value, Outcome(memory, metrics)

    def after_update(memory, params, step):
        del step
        key_params = follow(memory["key_params"], params, rate=1 - momentum)
        return {**memory, "key_params": key_params}

    return Method(
        init,
        embed,
        look,
        contrast,
        scheme,
        tower.encode,
        encoder.out_features,
        prepare,
        after_update,
    )
