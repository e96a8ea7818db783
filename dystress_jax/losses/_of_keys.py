"""Losses between queries and keys: InfoNCE, and MoCo with its queue."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ..errors import ArgumentError, check_same_shape
from ..similarities import PrecisionLike, rows_or_nan, sphere
from ..temperatures import TemperatureLike, concrete, numbers
from . import _pairs
from ._checks import (
    as_mask,
    check_array,
    check_count,
    check_rows,
    check_smoothing,
    check_some,
    is_bool,
)
from ._options import Options, SimilarityLike
from ._own_devices import by_own_devices
from ._plan import keep
from ._strategies import AxisName, StrategyLike, TileSize, axis_size


@by_own_devices
def info_nce(
    queries: Float[Array, "n d"],
    keys: Float[Array, "m d"],
    *,
    temperature: TemperatureLike,
    positives: Int[Array, " n"] | Int[Array, "n p"] | Bool[Array, "n c"] | None = None,
    decoupled: bool = False,
    label_smoothing: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    negatives: Float[Array, "k d"] | None = None,
    where: Bool[Array, " n"] | None = None,
    where_keys: Bool[Array, " m"] | None = None,
    where_negatives: Bool[Array, " k"] | None = None,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    precision: PrecisionLike | None = None,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
) -> Float[Array, " n"]:
    r"""InfoNCE: each query finds its key among all keys.

    $$L_i = -\frac{s_{ip_i}}{\tau(s_{ip_i})} + \log \sum_{j=1}^m \exp \frac{s_{ij}}{\tau(s_{ij})}$$

    The positive is part of the sum. Keys beyond the positives are extra negatives. With both
    arguments from one encoder and a shifted profile this is the sentence form (SimCSE) of DySTreSS.

    Args:
        queries: embeddings of the anchors, any float dtype.
        keys: embeddings of the candidates, m >= 2.
        temperature: a float, an array [n], a function or a `Temperature`.
        positives: the keys that belong to each query. None: key i belongs to query i, which needs
            m >= n. Else indices, [n], or [n, p] with p >= 1 for each query, of which equal ones
            count once; or bools, [n, m], True for those keys. The loss is the mean over them,
            as in `supcon`, and 0 for a query without any. With `axis_name` they count the keys of
            all devices, in the order of the devices. Under `jit` an index that no key has gives
            NaN.
        decoupled: leave the positive out of the sum, as `dcl` does for two views; 0 for a query
            without negatives.
        label_smoothing: see `nt_xent`.
        weights: see `nt_xent`: a number, one for each key, [m], or for each pair, [n m]. With
            `axis_name` those of a pair are this device's queries with the keys of all devices:
            first their first n, of which key i belongs to query i, then the others.
        negatives: see `nt_xent`: a queue, beside the keys of the batch.
        where: which queries are real, as in `nt_xent`. Where key i belongs to query i, so does its
            mask.
        where_keys: which keys are real, where the mask of the queries does not say it.
        where_negatives: see `nt_xent`.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        precision: see `nt_xent`.
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
    check_some("queries", n)
    options = Options(
        temperature=temperature,
        similarity=similarity,
        normalize=normalize,
        precision=precision,
        strategy=strategy,
        tile_size=tile_size,
        axis_name=axis_name,
        label_smoothing=label_smoothing,
        weights=weights,
        negatives=negatives,
        where_negatives=where_negatives,
    )
    devices = 1 if options.axis is None else axis_size(options.axis)
    check_count("keys", m, options.axis)
    real = as_mask("where", where, n, "query")
    positives = _positive_keys(positives, n, m, devices, real)
    plan = options.plan(anchors=n, candidates=m, length=d, real=real)
    real_keys = as_mask("where_keys", where_keys, m, "key")
    if real_keys is None and positives is None and real is not None:
        real_keys = jnp.concatenate([real, jnp.ones(m - n, bool)])
    q, k = plan.points(queries, real), plan.points(keys, real_keys)
    key = plan.row_numbers(m)
    both = (real, real_keys)
    _check_decoupled(decoupled, label_smoothing)
    blocks = (n, m - n) if positives is None and m != n else (m,)
    weighed = options.weighed(n, *blocks, real=both)
    among = functools.partial(plan.negatives, q, k, real=both, weighed=weighed)
    if positives is None:
        there = None if real_keys is None else real_keys[:n]  # a query may be without its key
        own, others = plan.positives(q, k[:n])._replace(of=there), among(plan.partners(n, m))
        sums = plan.sums(others, own)
        value = keep(plan.against_one(sums, own, decoupled=decoupled), there)
        return keep(others.or_zero(value, sums) if decoupled else value, real)
    key = key if is_bool(positives) else key.astype(positives.dtype)
    if positives.ndim == 1 and devices == 1 and real_keys is None:
        of_each = plan.positives(q, rows_or_nan(k, positives))
        others = among((positives, key))
        sums = plan.sums(others, of_each)
        value = plan.against_one(sums, of_each, decoupled=decoupled)
        return keep(others.or_zero(value, sums) if decoupled else value, real)
    positives = positives if positives.ndim == 2 else positives[:, None]
    value = plan.against_many(
        among((positives, key), _pairs.not_listed),
        ((positives, key), _pairs.listed),
        decoupled=decoupled,
    )
    if not is_bool(positives):
        known = jnp.all((positives >= 0) & (positives < m * devices), axis=1)
        value = jnp.where(known, value, jnp.nan)
    return keep(value, real)


@by_own_devices
def moco(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    queue: Float[Array, "k d"],
    *,
    temperature: TemperatureLike,
    decoupled: bool = False,
    label_smoothing: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    where: Bool[Array, " n"] | None = None,
    where_queue: Bool[Array, " k"] | None = None,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    precision: PrecisionLike | None = None,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
) -> Float[Array, " n"]:
    r"""The loss of MoCo: one positive key for each query, negatives from a queue only.

    $$L_i = -\frac{s_{ii}}{\tau(s_{ii})} + \log \Big( \exp \frac{s_{ii}}{\tau(s_{ii})} +
      \sum_{j=1}^k \exp \frac{q_i \cdot u_j}{\tau(q_i \cdot u_j)} \Big)$$

    The keys of the batch are no negatives of each other (where they should be, take `info_nce` with
    the queue as its `negatives`), so a device needs nothing from the others:
    call it on each device's rows with the whole queue, as `on_mesh` does.

    Args:
        queries: embeddings from the trained encoder, any float dtype.
        keys: embeddings of the same examples from the momentum encoder.
        queue: embeddings u of earlier keys.
        temperature: a float, an array [n], a function or a `Temperature`.
        decoupled: leave the positive out of the sum, as `dcl` does for two views; 0 for a query
            without negatives.
        label_smoothing: see `nt_xent`.
        weights: see `nt_xent`: a number, one for each row of the queue, [k], or for each pair,
            [n k].
        where: which queries, and their keys, are real, as in `nt_xent`.
        where_queue: which rows of the queue are real, while it is not full.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        precision: see `nt_xent`.
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
    check_same_shape("queries", jnp.shape(queries), "keys", jnp.shape(keys))
    (n, d), k = queries.shape, queue.shape[0]
    check_some("queries", n)
    check_some("queue", k, ", with `where_queue` while it is not full")
    options = Options(
        temperature=temperature,
        similarity=similarity,
        normalize=normalize,
        precision=precision,
        strategy=strategy,
        tile_size=tile_size,
        label_smoothing=label_smoothing,
        weights=weights,
    )
    _check_decoupled(decoupled, label_smoothing)
    real, real_queue = (
        as_mask("where", where, n, "query"),
        as_mask("where_queue", where_queue, k, "row"),
    )
    plan = options.plan(anchors=n, candidates=k, length=d, real=real)
    q, u = plan.points(queries, real), plan.points(queue, real_queue)
    both = (real, real_queue)
    weighed = options.weighed(n, k, real=both)
    positives = plan.positives(q, plan.points(keys, real))
    others = plan.negatives(q, u, None, real=both, weighed=weighed)
    sums = plan.sums(others, positives)
    value = plan.against_one(sums, positives, decoupled=decoupled)
    return keep(others.or_zero(value, sums) if decoupled else value, real)


def _check_decoupled(decoupled: bool, label_smoothing: ArrayLike) -> None:
    """Refuses a smooth target of what is no softmax."""
    check_smoothing(label_smoothing)
    if decoupled and not (concrete(label_smoothing) and numbers(label_smoothing) == 0):
        raise ArgumentError(
            "label_smoothing", f"found {label_smoothing} with decoupled=True; allowed: 0."
        )


def _positive_keys(
    positives: Array | None, n: int, m: int, devices: int, real: Bool[Array, " n"] | None
) -> Array | None:
    """Positives that are keys, or None where key i belongs to query i."""
    if positives is None:
        if isinstance(m - n, int) and m < n:
            raise ArgumentError(
                "keys",
                f"found {m} rows; allowed: at least {n}, because key i belongs to query i where "
                "`positives` is None.",
            )
        return None
    check_array("positives", positives)
    shape, dtype, m = jnp.shape(positives), jnp.result_type(positives), m * devices
    if is_bool(positives):
        fits = shape == (n, m)
    else:
        fits = shape[:1] == (n,) and len(shape) in (1, 2) and jnp.issubdtype(dtype, jnp.integer)
    if not fits:
        raise ArgumentError(
            "positives",
            f"found shape {shape} of {dtype}; allowed: {n} integers, one for each query, or {n} "
            f"rows of integers, or bools of shape {(n, m)}.",
        )
    if is_bool(positives):
        return jnp.asarray(positives)
    if concrete(positives) and (real is None or concrete(real)):
        known = np.asarray(positives) if real is None else np.asarray(positives)[np.asarray(real)]
        if shape == (n, m) and m > 2 and np.isin(known, (0, 1)).all():
            raise ArgumentError(
                "positives",
                "found a matrix of the integers 0 and 1; allowed: the same as bools, or the number "
                "of each positive.",
            )
        outside = [p for p in np.ravel(known).tolist() if not 0 <= p < m]
        if outside:
            raise ArgumentError(
                "positives", f"found {outside[0]}; allowed: rows of the {m} `keys`, 0 to {m - 1}."
            )
    # An integer of few bits may not count all of the keys.
    positives = jnp.asarray(positives, jnp.int32 if jnp.dtype(dtype).itemsize < 4 else None)
    if real is None:
        return positives
    real = real.reshape(n, *[1] * (positives.ndim - 1))
    return jnp.where(real, positives, jnp.zeros_like(positives))  # the others may be any number
