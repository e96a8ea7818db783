"""MoCo v2 (Chen et al. 2020): queries find their keys among a queue of earlier keys."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..metrics import pair_statistics
from ..models import Network
from ..similarities import normalize
from ..temperatures import Temperature
from ._method import Method, Outcome
from ._tower import Tower, Views, follow

QueueLoss = Callable[
    [Float[Array, "n d"], Float[Array, "n d"], Float[Array, "k d"], Temperature],
    Float[Array, " n"],
]


def moco_v2(
    encoder: Network,
    projector: Network,
    *,
    views: Views,
    loss: QueueLoss,
    temperature: Temperature,
    queue_size: int,
    momentum: float,
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
        views: ``(key, uint8 images) -> two views``.
        loss: ``(queries [n d], keys [n d], queue [k d], temperature) -> one value a query``.
        temperature: handed to ``loss``.
        queue_size: keys in the queue, a multiple of the batch size.
        momentum: m, in [0, 1].

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

    def loss_of_batch(params, stats, memory, batch, key):
        views_key, order_key = jax.random.split(key)
        query_view, key_view = views(views_key, batch["image"])
        n = query_view.shape[0]
        if queue_size % n:
            raise ValueError(
                f"queue_size must be a multiple of the batch size, so that each batch replaces the "
                f"oldest keys; found a queue of {queue_size} and a batch of {n}"
            )
        order = jax.random.permutation(order_key, n)
        shuffled = tower.keys(memory["key_params"], stats, key_view[order])
        keys = normalize(shuffled[jnp.argsort(order)])
        queries, features, stats = tower.embed(params, stats, query_view)

        queue, position = memory["queue"], memory["position"]
        value = jnp.mean(loss(queries, keys, queue, temperature))
        metrics = pair_statistics(queries, keys, negatives=queue, temperature=temperature)
        memory = {
            "key_params": memory["key_params"],
            "queue": jax.lax.dynamic_update_slice(queue, keys, (position, 0)),
            "position": (position + n) % queue_size,
        }
        return value, Outcome(stats, memory, metrics, features)

    def after_update(memory, params, step):
        del step
        key_params = follow(memory["key_params"], params, rate=1 - momentum)
        return {**memory, "key_params": key_params}

    return Method(init, loss_of_batch, tower.encode, encoder.out_features, after_update)
