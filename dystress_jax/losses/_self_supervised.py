"""Losses between views of one kind: who the anchors and candidates are, and which pairs count.

Every loss is built from the log-partition over the *negatives*, N_i, and the logit of the positive
pair, l_ip. With the positive in the denominator the loss is

    -log( exp(l_ip) / (exp(l_ip) + exp(N_i)) ) = log(1 + exp(N_i - l_ip)) = softplus(N_i - l_ip),

which keeps its relative precision, and its gradient, where the positive pair dominates.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from ..errors import ArgumentError
from ..similarities import rows_or_nan, sphere
from ..temperatures import TemperatureLike, check_positive, concrete
from . import _partition
from ._plan import (
    Options,
    Plan,
    SimilarityLike,
    check_count,
    check_integers,
    check_pairs,
    check_rows,
    check_same_shape,
)
from ._strategies import TileSize


def nt_xent(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " 2*n"]:
    r"""The NT-Xent loss of SimCLR, with any temperature.

    Over the 2n views, with p the other view of anchor i,

    $$L_i = -\frac{s_{ip}}{\tau(s_{ip})} + \log \sum_{k \ne i} \exp \frac{s_{ik}}{\tau(s_{ik})}$$

    The positive pair is part of the sum, as in SimCLR; `dcl` leaves it out.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        temperature: a float, an array [2n], a function or a `Temperature`.
        similarity: one of `similarities`, or a function (a [n d], b [m d]) -> [n m].
        normalize: whether to put the rows onto the manifold of the similarity (unit length for
            `sphere`) first. False trusts that they are.
        strategy: how the sum over the pairs is carried out, see `dystress_jax.losses`.
        tile_size: rows and columns of a tile, where the strategy uses tiles; None: 1024, in
            the ring 512.
        axis_name: inside `jax.shard_map`, the mesh axis over which the batch is split. The
            arguments are then this device's rows, and the result their part of the loss of the
            whole batch.

    Returns:
        The loss of each anchor, first all of `view_a`, then all of `view_b`, in float32 or
        float64. Take the mean to train.

    Raises:
        ArgumentError: for shapes that differ, n < 2, a bad temperature, an unknown strategy, or an
            axis_name outside `shard_map`.
        TypeError: for embeddings that are not floating point.

    Example:
        >>> from ..temperatures import dystress
        >>> view_a = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> view_b = jnp.array([[0.8, 0.6], [0.6, 0.8]])
        >>> nt_xent(view_a, view_b, temperature=dystress(0.1, 0.2)).round(4)
        Array([0.4563, 0.4563, 1.2243, 1.2243], dtype=float32)

    References:
        Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), Eq. 1; Manna et al.,
        [arXiv 2308.01140](https://arxiv.org/abs/2308.01140), for the dynamic temperature.
    """
    options = Options(temperature, similarity, normalize, strategy, tile_size, axis_name)
    plan = _plan_of_views(options, view_a, view_b)
    negatives, positives = plan.between_views(view_a, view_b)
    return jax.nn.softplus(negatives - positives)


def dcl(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    joint: bool = True,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " 2*n"]:
    r"""Decoupled contrastive learning: the positive pair is not in the denominator.

    $$L_i = -\frac{s_{ip}}{\tau(s_{ip})} +
      \log \sum_{k \ne i, p} \exp \frac{s_{ik}}{\tau(s_{ik})}$$

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        temperature: a float, an array [2n], a function or a `Temperature`.
        joint: True takes one logarithm of the sum over all 2n - 2 negatives, as published. False
            adds two logarithms, one over the n - 1 negatives of each view, as the DySTreSS code
            does: another loss, larger by about ln(n - 1).
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The loss of each anchor, in the order of `nt_xent`. It can be negative.

    Raises:
        ArgumentError: as `nt_xent`.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> dcl(views, views, temperature=0.5).round(4)
        Array([-1.3069, -1.3069, -1.3069, -1.3069], dtype=float32)

    References:
        Yeh et al., [arXiv 2110.06848](https://arxiv.org/abs/2110.06848), Eq. 5.
    """
    options = Options(temperature, similarity, normalize, strategy, tile_size, axis_name)
    plan = _plan_of_views(options, view_a, view_b, candidates=2 if joint else 1)
    if joint:
        negatives, positives = plan.between_views(view_a, view_b)
        return negatives - positives
    a, b = plan.points(view_a), plan.points(view_b)
    views = jnp.concatenate([a, b])
    sample = plan.row_numbers(a.shape[0])
    groups = (jnp.tile(sample, 2), sample)
    in_a, in_b = plan.negatives(views, a, groups=groups), plan.negatives(views, b, groups=groups)
    return in_a + in_b - plan.positives(a, b, copies=2)


def dclw(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    sigma: float = 0.5,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " 2*n"]:
    r"""Decoupled contrastive learning that weighs each positive pair by how hard it is.

    $$L_i = -w_i \frac{s_{ip}}{\tau(s_{ip})} +
      \log \sum_{k \ne i, p} \exp \frac{s_{ik}}{\tau(s_{ik})}, \qquad
      w_i = 2 - \frac{e^{s_{ip} / \sigma}}{\mathbb{E}_j\, e^{s_{jp} / \sigma}}$$

    The weights, with mean 1 over the batch, count as numbers in the gradient.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        temperature: a float, an array [2n], a function or a `Temperature`.
        sigma: how strongly the weights differ, > 0; smaller is stronger.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The loss of each anchor, in the order of `nt_xent`. It can be negative.

    Raises:
        ArgumentError: as `nt_xent`, and when sigma <= 0.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> dclw(views, views, temperature=0.5).round(4)
        Array([-1.3069, -1.3069, -1.3069, -1.3069], dtype=float32)

    References:
        Yeh et al., [arXiv 2110.06848](https://arxiv.org/abs/2110.06848), Eq. 6.
    """
    check_positive("sigma", sigma)
    options = Options(temperature, similarity, normalize, strategy, tile_size, axis_name)
    plan = _plan_of_views(options, view_a, view_b)
    negatives, positives = plan.between_views(view_a, view_b)
    paired = plan.similarity.paired(plan.points(view_a), plan.points(view_b))
    hardness = jax.lax.stop_gradient(paired) / sigma
    largest = jnp.max(hardness)
    largest = largest if axis_name is None else jax.lax.pmax(largest, axis_name)
    hardness = jnp.exp(hardness - largest)
    mean = jnp.mean(hardness)
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    return negatives - jnp.tile(2.0 - hardness / mean, 2) * positives


def info_nce(
    queries: Float[Array, "n d"],
    keys: Float[Array, "m d"],
    *,
    temperature: TemperatureLike,
    positives: Int[Array, " n"] | None = None,
    decoupled: bool = False,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " n"]:
    r"""InfoNCE: each query finds its key among all keys.

    $$L_i = -\frac{s_{ip_i}}{\tau(s_{ip_i})} + \log \sum_{j=1}^m \exp \frac{s_{ij}}{\tau(s_{ij})}$$

    The positive is part of the sum. Keys beyond the positives are extra negatives. With both
    arguments from one encoder and a shifted profile this is the sentence form (SimCSE) of DySTreSS.

    Args:
        queries: embeddings of the anchors, any float dtype.
        keys: embeddings of the candidates, m >= 2.
        temperature: a float, an array [n], a function or a `Temperature`.
        positives: index of the key that belongs to each query; default 0, 1, ..., n - 1, which
            needs m >= n. With `axis_name`, an index into this device's keys. Under `jit` an index
            that no key has gives NaN.
        decoupled: leave the positive out of the sum, as `dcl` does for two views.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The loss of each query, in float32 or float64.

    Raises:
        ArgumentError: for shapes that do not fit, m < 2, a bad temperature, an unknown strategy, or
            an axis_name outside `shard_map`.
        TypeError: for embeddings that are not floating point.

    Example:
        >>> queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> info_nce(queries, queries, temperature=0.5)
        Array([0.1269, 0.1269], dtype=float32)

    References:
        van den Oord et al., [arXiv 1807.03748](https://arxiv.org/abs/1807.03748), Eq. 4.
    """
    check_rows("queries", queries, "keys", keys)
    (n, d), m = queries.shape, keys.shape[0]
    check_count("keys", m, axis_name)
    positives = _positive_keys(positives, n, m)
    options = Options(temperature, similarity, normalize, strategy, tile_size, axis_name)
    plan = options.plan(anchors=n, candidates=m, length=d)
    q, k = plan.points(queries), plan.points(keys)
    key = plan.row_numbers(m)
    negatives = plan.negatives(q, k, groups=(key[positives], key))
    return _contrast(negatives - plan.positives(q, rows_or_nan(k, positives)), decoupled)


def moco(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    queue: Float[Array, "k d"],
    *,
    temperature: TemperatureLike,
    decoupled: bool = False,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
) -> Float[Array, " n"]:
    r"""The loss of MoCo: one positive key for each query, negatives from a queue only.

    $$L_i = -\frac{s_{ii}}{\tau(s_{ii})} + \log \Big( \exp \frac{s_{ii}}{\tau(s_{ii})} +
      \sum_{j=1}^k \exp \frac{q_i \cdot u_j}{\tau(q_i \cdot u_j)} \Big)$$

    The keys of the batch are no negatives of each other, so a device needs nothing from the others:
    call it on each device's rows with the whole queue, as `on_mesh` does.

    Args:
        queries: embeddings from the trained encoder, any float dtype.
        keys: embeddings of the same examples from the momentum encoder.
        queue: embeddings u of earlier keys.
        temperature: a float, an array [n], a function or a `Temperature`.
        decoupled: leave the positive out of the sum, as `dcl` does for two views.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.

    Returns:
        The loss of each query, in float32 or float64. Gradients reach all three arrays: put
        `jax.lax.stop_gradient` around the keys and the queue to train as MoCo does.

    Raises:
        ArgumentError: for shapes that do not fit, a bad temperature or an unknown strategy.
        TypeError: for embeddings that are not floating point.

    Example:
        >>> queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> moco(queries, queries, -queries, temperature=0.5)
        Array([0.1429, 0.1429], dtype=float32)

    References:
        He et al., [arXiv 1911.05722](https://arxiv.org/abs/1911.05722), Eq. 1.
    """
    check_rows("queries", queries, "queue", queue)
    check_rows("queries", queries, "keys", keys)
    check_same_shape("queries", queries, "keys", keys)
    (n, d), k = queries.shape, queue.shape[0]
    options = Options(temperature, similarity, normalize, strategy, tile_size)
    plan = options.plan(anchors=n, candidates=k, length=d)
    q = plan.points(queries)
    negatives = plan.negatives(q, plan.points(queue), groups=None)
    return _contrast(negatives - plan.positives(q, plan.points(keys)), decoupled)


def supcon(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    labels: Integer[Array, " n"],
    *,
    temperature: TemperatureLike,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " 2*n"]:
    r"""Supervised contrastive loss: all views of the same class are positives.

    $$L_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \frac{s_{ip}}{\tau(s_{ip})} +
      \log \sum_{k \ne i} \exp \frac{s_{ik}}{\tau(s_{ik})}, \qquad
      P_i = \{ p \ne i : y_p = y_i \}$$

    With all labels different it is `nt_xent`.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        labels: the class of each example.
        temperature: a float, an array [2n], a function or a `Temperature`.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The loss of each anchor, in the order of `nt_xent`, without the factor tau / tau_base of
        the authors' code.

    Raises:
        ArgumentError: as `nt_xent`, and when labels are not n integers.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> supcon(views, views, jnp.array([0, 0]), temperature=0.5).round(4)
        Array([1.5729, 1.5729, 1.5729, 1.5729], dtype=float32)

    References:
        Khosla et al., [arXiv 2004.11362](https://arxiv.org/abs/2004.11362), Eq. 2.
    """
    options = Options(temperature, similarity, normalize, strategy, tile_size, axis_name)
    plan = _plan_of_views(options, view_a, view_b)
    n = view_a.shape[0]
    check_integers("labels", labels, n, "example")
    views = jnp.concatenate([plan.points(view_a), plan.points(view_b)])
    label = jnp.tile(jnp.asarray(labels), 2)
    if label.dtype.itemsize < 4:
        label = label.astype(jnp.int32)  # the numbers of the rows stand beside it
    label_and_row = jnp.stack([label, plan.row_numbers(2 * n).astype(label.dtype)], axis=1)
    shared = {
        "temperature": plan.temperature.for_positives,
        "similarity": plan.similarity,
        "strategy": plan.strategy,
    }
    negatives = plan.negatives(views, views, groups=(label, label))
    positives = _partition.log_partition(
        views,
        views,
        groups=(label_and_row, label_and_row),
        allowed=_partition.same_label_other_row,
        **shared,
    )
    mean_positive = _partition.mean_logit(views, groups=label_and_row, **shared)
    return jnp.logaddexp(negatives, positives) - mean_positive


def _plan_of_views(
    options: Options, view_a: Float[Array, "n d"], view_b: Float[Array, "n d"], candidates: int = 2
) -> Plan:
    """For all anchors of two views among the candidates of both, or of one at a time."""
    check_pairs("view_a", view_a, "view_b", view_b, options.axis_name)
    n, d = view_a.shape
    return options.plan(anchors=2 * n, candidates=candidates * n, length=d)


def _contrast(negatives_over_positive: Float[Array, " n"], decoupled: bool) -> Float[Array, " n"]:
    """The loss from N_i - l_ip, with or without the positive in the denominator."""
    return negatives_over_positive if decoupled else jax.nn.softplus(negatives_over_positive)


def _positive_keys(positives: Array | None, n: int, m: int) -> Int[Array, " n"]:
    if positives is None:
        if isinstance(m - n, int) and m < n:
            raise ArgumentError(
                "keys",
                f"found {m} rows; allowed: at least {n}, because key i belongs to query i where "
                "`positives` is None.",
            )
        return jnp.arange(n)
    check_integers("positives", positives, n, "query")
    if concrete(positives):
        outside = [p for p in np.asarray(positives).tolist() if not 0 <= p < m]
        if outside:
            raise ArgumentError(
                "positives", f"found {outside[0]}; allowed: rows of the {m} `keys`, 0 to {m - 1}."
            )
    return jnp.asarray(positives)
