"""MoCo v3 (Chen et al. 2021): a momentum encoder and a predictor, without a queue."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .. import losses, schemes
from ..metrics import pair_statistics
from ..models import Network
from ..similarities import normalize, sphere
from ..temperatures import Temperature
from ._method import Embedded, Method, Outcome
from ._tower import Tower, Views, follow

KeyLoss = Callable[[Float[Array, "n d"], Float[Array, "n d"], Temperature], Float[Array, " n"]]


_decoupled = functools.partial(losses.info_nce, decoupled=True)


def moco_v3(
    encoder: Network,
    projector: Network,
    predictor: Network,
    *,
    views: Views,
    loss: KeyLoss,
    scheme: schemes.Scheme,
    momentum: float,
    total_steps: int,
    scale_by_tau: bool = True,
    decoupled: Callable[..., Float[Array, " n"]] = _decoupled,
) -> Method:
    r"""MoCo v3 with any temperature.

    Each view of an image is once the query, through encoder, projector and predictor, and once the
    key, through the momentum encoder and its projector; the other images of the batch are the
    negatives:

    .. math:: L = \ell(q_1, k_2) + \ell(q_2, k_1)

    The momentum rises from :math:`m_0` to 1 along half a cosine over the run,
    :math:`m_t = 1 - (1 - m_0) (1 + \cos(\pi t / T)) / 2`.

    Every pass takes its own BatchNorm statistics, since the two views may be drawn differently.

    Args:
        encoder: images to features; a ViT keeps its patch embedding frozen if it was made so.
        projector: features to embeddings.
        predictor: embeddings to queries, of the same width.
        views: ``(key, uint8 images, rows) -> two views``.
        loss: ``(queries [n d], keys [n d], temperature) -> one value a query``.
        scheme: of the temperature that is handed to ``loss``.
        momentum: :math:`m_0`, in [0, 1].
        total_steps: T, at least 1.
        scale_by_tau: multiply the loss by the published factor :math:`2 \tau`, which makes the size
            of the gradient independent of a constant temperature. Where the temperature depends on
            the pair, it is that of the query's positive pair, :math:`2 \tau(s_{ii})`; in the
            gradient it counts as a number.
        decoupled: the loss without the positive in the denominator; what schemes with a state per
            example look at.

    Returns:
        The method. Its memory has ``key_params``.

    Raises:
        ValueError: a number is out of range, or the predictor does not keep the width.

    References:
        Chen et al., https://arxiv.org/abs/2104.02057, algorithm 1 and section 3;
        facebookresearch/moco-v3.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1]; found {momentum}")
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1; found {total_steps}")
    if predictor.out_features != projector.out_features:
        raise ValueError(
            "queries and keys must have the same width; found a predictor to "
            f"{predictor.out_features} after a projector to {projector.out_features}"
        )
    tower = Tower(encoder, projector)
    rate = optax.cosine_decay_schedule(1 - momentum, total_steps)

    def init(key):
        tower_key, predictor_key = jax.random.split(key)
        key_params, stats = tower.init(tower_key)
        predictor_params, predictor_stats = predictor.init(predictor_key)
        params = {**key_params, "predictor": predictor_params}
        return params, {**stats, "predictor": predictor_stats}, {"key_params": key_params}

    def query(params, stats, view):
        embeddings, features, tower_stats = tower.embed(params, stats, view)
        predictions, predictor_stats = predictor.apply(
            params["predictor"], stats["predictor"], embeddings, train=True
        )
        return predictions, features, {**tower_stats, "predictor": predictor_stats}

    def embed(params, stats, memory, batch, key):
        view_a, view_b = views(key, batch["image"], batch["row"])
        points = {
            "keys_a": tower.keys(memory["key_params"], stats, view_a),
            "keys_b": tower.keys(memory["key_params"], stats, view_b),
        }
        points["queries_a"], features_a, stats = query(params, stats, view_a)
        points["queries_b"], features_b, stats = query(params, stats, view_b)
        return Embedded(points, jnp.stack([features_a, features_b], axis=1)), stats

    def halves(temperature):
        """The temperature of the first views' queries and that of the second views'."""
        if not temperature.by_anchor:
            return temperature, temperature
        half = lambda side: jax.tree.map(lambda leaf: jnp.split(leaf, 2)[side], temperature)
        return half(0), half(1)

    def look(embedded, memory, batch, key):
        del memory
        p = jax.lax.stop_gradient(embedded.points)
        n = len(batch["index"])

        def both(temperature):
            of_a, of_b = halves(temperature)
            a = decoupled(p["queries_a"], p["keys_b"], temperature=of_a)
            return jnp.concatenate([a, decoupled(p["queries_b"], p["keys_a"], temperature=of_b)])

        return schemes.Batch(
            anchors=jnp.concatenate([p["queries_a"], p["queries_b"]]),
            positives=jnp.concatenate([p["keys_b"], p["keys_a"]]),
            decoupled=both,
            negatives=n - 1,
            example=jnp.tile(batch["index"], 2),
            side=jnp.repeat(jnp.arange(2), n),
            key=key,
        )

    def compare(queries, keys, temperature):
        values = loss(queries, keys, temperature)
        if scale_by_tau:
            positive = sphere.paired(normalize(queries), normalize(keys))
            values *= 2 * jax.lax.stop_gradient(temperature.for_positives(positive))
        return jnp.mean(values)

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, batch, key
        p = embedded.points
        of_a, of_b = halves(temperature)
        value = compare(p["queries_a"], p["keys_b"], of_a)
        value += compare(p["queries_b"], p["keys_a"], of_b)
        metrics = pair_statistics(p["queries_a"], p["keys_b"], temperature=of_a)
        return value, Outcome(memory, metrics)

    def after_update(memory, params, step):
        return {"key_params": follow(memory["key_params"], params, rate=rate(step))}

    return Method(
        init,
        embed,
        look,
        contrast,
        scheme,
        tower.encode,
        encoder.out_features,
        after_update=after_update,
    )
