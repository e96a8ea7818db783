"""NNCLR (Dwibedi et al. 2021): the nearest earlier embedding stands in for one of the views."""

import functools

import jax
import jax.numpy as jnp

from .. import losses
from ..metrics import pair_statistics
from ..models import Network
from ..schemes._scheme import both_ways
from ..similarities import normalize, sphere
from ._both_ways import first_way, of_both_ways
from ._method import Embedded, Loss, Method, Outcome, Spread, accepts, on_one_device
from ._queue import check_queue, new_queue, push
from ._tower import Tower, Views, method_of, with_predictor


def nnclr(
    encoder: Network,
    projector: Network,
    predictor: Network,
    *,
    views: Views,
    queue_size: int,
    loss: Loss = losses.info_nce,
    spread: Spread = on_one_device,
) -> Method:
    r"""NNCLR with any temperature.

    Each embedding z is replaced by its nearest neighbour in a queue Q of earlier embeddings. The
    neighbour is the anchor; its positive is the prediction $p = g(z)$ of the other view:

    $$L = \tfrac12 \ell(\mathrm{nn}(z_1, Q), p_2) + \tfrac12 \ell(\mathrm{nn}(z_2, Q), p_1), \qquad
      \mathrm{nn}(z, Q) = \arg\min_{q \in Q} |z - q|$$

    All embeddings have length 1. No gradient reaches a neighbour, so the encoder learns through the
    predictions only. After the loss the embeddings of the first view replace the oldest in the
    queue, which starts with random directions.

    The anchors are the neighbours and the candidates the predictions, so a temperature per anchor
    is that of the image whose neighbour it is. In the authors' text, section 3.2, each prediction
    also has to find its neighbour among those of the batch; `loss=losses.clip` does both.

    Every pass takes its own BatchNorm statistics.

    Args:
        encoder: images to features.
        projector: features to embeddings. The published one is `simclr3` of `models.projector`
            with an offset in its last BatchNorm too, 2048 wide, 256 out.
        predictor: embeddings to predictions, of the same width. The published one is
            `byol` of `models.projector`, 4096 wide.
        views: `(key, uint8 images, rows) -> two views`.
        queue_size: embeddings in the queue, a multiple of the batch size; published: 98,304.
        loss: `(neighbours [n d], predictions [n d], *, temperature) -> [n]`, such as
            `losses.info_nce`.
        spread: puts a loss over the devices, such as `losses.on_mesh` with a mesh.

    Returns:
        The method. Its memory has `queue`, whose rows have length 1; `labels`, the label of each
        row, -1 where there is none; and `position`, the row of the oldest embedding. It logs
        `neighbour_same_label`, the share of labelled anchors whose neighbour has the same label,
        NaN in a batch without a label.

    Raises:
        ArgumentError: the queue is empty, or the predictor does not keep the width; when the step
            is traced, the queue is no multiple of the batch.

    Example:
        >>> from dystress_jax import augment, methods, models
        >>> def views(key, images, rows):
        ...     return augment.two_views(key, images, augment.simclr_cifar(), size=32, rows=rows)
        >>> encoder = models.resnet("small", stem="patch")
        >>> head = models.projector("byol", in_features=encoder.out_features, hidden=64, out=32)
        >>> predictor = models.projector("byol", in_features=32, hidden=64, out=32)
        >>> method = methods.nnclr(encoder, head, predictor, views=views, queue_size=4096)
        >>> params, stats, memory = jax.eval_shape(method.init, jax.random.key(0))
        >>> memory["queue"].shape, memory["labels"].shape
        ((4096, 32), (4096,))

    References:
        Dwibedi et al., [arXiv 2104.14548](https://arxiv.org/abs/2104.14548), Eq. 3 and 4 and
        section 3.2; the logged share is in solo-learn's code (`nnclr.py`, `train_nn_acc`).
    """
    check_queue(queue_size, 1)
    tower = Tower(encoder, projector)
    predicting = with_predictor(tower, predictor)
    decoupled = spread(functools.partial(losses.info_nce, decoupled=True))
    has_temperature, loss = accepts(loss, "temperature"), spread(loss)

    def init(key):
        networks_key, queue_key = jax.random.split(key)
        params, stats = predicting.init(networks_key)
        memory = new_queue(queue_key, size=queue_size, width=projector.out_features)
        return params, stats, {**memory, "labels": jnp.full(queue_size, -1, jnp.int32)}

    def prepare(batch, key):
        del key
        check_queue(queue_size, len(batch["row"]))
        return batch

    def embed(params, stats, memory, batch, key):
        del memory
        view_a, view_b = views(key, batch["image"], batch["row"])
        p_a, z_a, features_a, stats = predicting.predict(params, stats, view_a)
        p_b, z_b, features_b, stats = predicting.predict(params, stats, view_b)
        points = {"embeddings_a": z_a, "predictions_a": p_a}
        points |= {"embeddings_b": z_b, "predictions_b": p_b}
        return Embedded(points, jnp.stack([features_a, features_b], axis=1)), stats

    def nearest(embeddings, memory):
        """The row of each embedding's neighbour in the queue."""
        points = normalize(embeddings)
        return jnp.argmax(sphere.between(points, memory["queue"]), axis=1)

    def ways(embedded, memory):
        """Who is compared with whom, and the rows of the neighbours of a and of b."""
        points = jax.lax.stop_gradient(embedded.points)
        of_a, of_b = (nearest(points[f"embeddings_{view}"], memory) for view in "ab")
        queue, p = memory["queue"], embedded.points
        pairs = (queue[of_a], p["predictions_b"]), (queue[of_b], p["predictions_a"])
        return pairs, jnp.concatenate([of_a, of_b])

    def scheme_inputs(embedded, memory, batch, key):
        pairs, _ = ways(embedded, memory)
        return of_both_ways(decoupled, pairs, batch, key)

    def compared(embedded, memory, batch, key):
        del key
        return first_way(ways(embedded, memory)[0], batch)

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, key
        pairs, rows = ways(embedded, memory)
        values = both_ways(loss, pairs, temperature)
        metrics = pair_statistics(*pairs[0], temperature=temperature)
        labels = jnp.tile(batch["label"], 2)
        same = labels == memory["labels"][rows]
        metrics["neighbour_same_label"] = jnp.mean(same, where=labels >= 0)
        newest = normalize(embedded.points["embeddings_a"])
        return values, Outcome(push(memory, queue=newest, labels=batch["label"]), metrics)

    return method_of(
        tower,
        init=init,
        embed=embed,
        contrast=contrast,
        scheme_inputs=scheme_inputs if has_temperature else None,
        compared=compared,
        prepare=prepare,
    )
