"""MoCo v3 (Chen et al. 2021): a momentum encoder and a predictor, without a queue."""

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
from ._tower import Tower, Views, follow, followed, method_of, rising_momentum, with_predictor


def moco_v3(
    encoder: Network,
    projector: Network,
    predictor: Network,
    *,
    views: Views,
    momentum: float,
    total_steps: int,
    scale_by_tau: bool = True,
    loss: Loss = losses.info_nce,
    spread: Spread = on_one_device,
) -> Method:
    r"""MoCo v3 with any temperature.

    Each view of an image is once the query, through encoder, projector and predictor, and once the
    key, through the momentum encoder and its projector; the other images of the batch are the
    negatives:

    $$L = \ell(q_1, k_2) + \ell(q_2, k_1)$$

    The EMA momentum rises from $m_0$ to 1 along half a cosine over the run,
    $m_t = 1 - (1 - m_0) (1 + \cos(\pi t / T)) / 2$.

    Every pass takes its own BatchNorm statistics, since the two views may be drawn differently.

    Args:
        encoder: images to features; a ViT keeps its patch embedding frozen if it was made so.
        projector: features to embeddings.
        predictor: embeddings to queries, of the same width.
        views: `(key, uint8 images, rows) -> two views`.
        momentum: $m_0$, in [0, 1].
        total_steps: T, at least 1.
        scale_by_tau: multiply the loss by the published factor $2 \tau$, which makes the size of
            the gradient independent of a constant temperature. Where the temperature depends on the
            pair, it is that of the query's positive pair, $2 \tau(s_{ii})$; in the gradient it
            counts as a number.
        loss: `(queries [n d], keys [n d], *, temperature) -> [n]`, such as `losses.info_nce`.
        spread: puts a loss over the devices, such as `losses.on_mesh` with a mesh.

    Returns:
        The method. Its memory has `key_params`.

    Raises:
        ArgumentError: a number is out of range, or the predictor does not keep the width.

    Example:
        >>> from dystress_jax import augment, methods, models
        >>> def views(key, images, rows):
        ...     return augment.two_views(key, images, augment.simclr_cifar(), size=32, rows=rows)
        >>> encoder = models.resnet("small", stem="patch")
        >>> head = models.projector("byol", in_features=encoder.out_features, hidden=64, out=32)
        >>> predictor = models.projector("byol", in_features=32, hidden=64, out=32)
        >>> method = methods.moco_v3(
        ...     encoder, head, predictor, views=views, momentum=0.99, total_steps=1000
        ... )
        >>> params, stats, memory = jax.eval_shape(method.init, jax.random.key(0))
        >>> sorted(params), sorted(memory)
        (['encoder', 'predictor', 'projector'], ['key_params'])

    References:
        Chen et al., [arXiv 2104.02057](https://arxiv.org/abs/2104.02057), Algorithm 1 and section
        3; the authors' code (facebookresearch/moco-v3).
    """
    tower = Tower(encoder, projector)
    predicting = with_predictor(tower, predictor)
    rate = rising_momentum(momentum, total_steps)
    decoupled = spread(functools.partial(losses.info_nce, decoupled=True))
    has_temperature, loss = accepts(loss, "temperature"), spread(loss)

    def init(key):
        params, stats = predicting.init(key)
        return params, stats, {"key_params": followed(tower.part_of(params))}

    def embed(params, stats, memory, batch, key):
        view_a, view_b = views(key, batch["image"], batch["row"])
        q_a, _, features_a, stats = predicting.predict(params, stats, view_a)
        q_b, _, features_b, stats = predicting.predict(params, stats, view_b)
        k_a, k_b = tower.keys(memory["key_params"], stats, view_a, view_b)
        points = {"queries_a": q_a, "queries_b": q_b, "keys_a": k_a, "keys_b": k_b}
        return Embedded(points, jnp.stack([features_a, features_b], axis=1)), stats

    def ways(embedded):
        p = embedded.points
        return (p["queries_a"], p["keys_b"]), (p["queries_b"], p["keys_a"])

    def scheme_inputs(embedded, memory, batch, key):
        del memory
        return of_both_ways(decoupled, ways(embedded), batch, key)

    def compared(embedded, memory, batch, key):
        del memory, key
        return first_way(ways(embedded), batch)

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, batch, key
        values = both_ways(loss, ways(embedded), temperature)
        # The sum of the two means is twice the mean of all.
        factor = jnp.full(len(values), 2.0, values.dtype)
        if scale_by_tau and temperature is not None:
            factor *= 2 * both_ways(_positive_tau, ways(embedded), temperature)
        (queries, keys), _ = ways(embedded)
        metrics = pair_statistics(queries, keys, temperature=temperature)
        return values, Outcome(memory, metrics, factor)

    def after_update(memory, params, step):
        return {"key_params": follow(memory["key_params"], params, rate=rate(step))}

    return method_of(
        tower,
        init=init,
        embed=embed,
        contrast=contrast,
        scheme_inputs=scheme_inputs if has_temperature else None,
        compared=compared,
        after_update=after_update,
        followers=("key_params",),
    )


def _positive_tau(queries, keys, *, temperature):
    """The temperature of each query's positive pair; in the gradient it counts as a number."""
    q, k = (normalize(x) for x in (queries, keys))
    positive = sphere.paired(q, k)
    return jax.lax.stop_gradient(temperature.for_positives(positive))
