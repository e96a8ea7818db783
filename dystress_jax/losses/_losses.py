"""The losses: who the anchors and candidates are, and what is left out of the partition.

Every loss is built from the log-partition over the *negatives*, N_i, and the logit of the positive
pair, l_ip. With the positive in the denominator the loss is

    -log( exp(l_ip) / (exp(l_ip) + exp(N_i)) ) = log(1 + exp(N_i - l_ip)) = softplus(N_i - l_ip),

which keeps its relative precision, and its gradient, where the positive pair dominates.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dystress_jax.losses._partition import Strategy, log_partition, paired_logits
from dystress_jax.losses._strategies import choose, row_numbers
from dystress_jax.similarities import Similarity, as_similarity, at_least_float32, sphere
from dystress_jax.temperatures import Temperature, TemperatureLike, as_temperature

SimilarityLike = Similarity | Callable[[Array, Array], Array]


def nt_xent(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: int = 512,
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
        strategy: how the sum over the pairs is carried out, see `losses`.
        tile_size: rows and columns of a tile, where the strategy uses tiles.
        axis_name: inside `jax.shard_map`, the mesh axis over which the batch is split. The
            arguments are then this device's rows, and the result their share of the loss over the
            whole batch.

    Returns:
        The loss of each anchor, first all of `view_a`, then all of `view_b`, in float32 or
        float64. Take the mean to train.

    Raises:
        ValueError: for shapes that differ, n < 2, a bad temperature or an unknown strategy.
        TypeError: for embeddings that are not floating point.

    Example:
        >>> from dystress_jax.temperatures import dystress
        >>> view_a = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> view_b = jnp.array([[0.8, 0.6], [0.6, 0.8]])
        >>> nt_xent(view_a, view_b, temperature=dystress(0.1, 0.2)).round(4)
        Array([0.4563, 0.4563, 1.2243, 1.2243], dtype=float32)

    References:
        Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), Eq. 1; Manna et al.,
        [arXiv 2308.01140](https://arxiv.org/abs/2308.01140), for the dynamic temperature.
    """
    _check_pairs("view_a", view_a, "view_b", view_b)
    n = view_a.shape[0]
    how = choose(strategy, 2 * n, 2 * n, view_a.shape[1], tile_size, axis_name)
    plan = _plan(temperature, similarity, normalize, how, anchors=2 * n)
    a, b = plan.points(view_a), plan.points(view_b)
    views = jnp.concatenate([a, b])
    sample = jnp.tile(row_numbers(n, axis_name), 2)
    negatives = plan.negatives(views, views, exclude=(sample, sample))
    return jax.nn.softplus(negatives - plan.positives(views, jnp.concatenate([b, a])))


def info_nce(
    queries: Float[Array, "n d"],
    keys: Float[Array, "m d"],
    *,
    temperature: TemperatureLike,
    positives: Int[Array, " n"] | None = None,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: int = 512,
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
            needs m >= n. With `axis_name`, an index into this device's keys.
        similarity: one of `similarities`, or a function (a [n d], b [m d]) -> [n m].
        normalize: whether to put the rows onto the manifold of the similarity first.
        strategy: how the sum over the pairs is carried out, see `losses`.
        tile_size: rows and columns of a tile, where the strategy uses tiles.
        axis_name: inside `jax.shard_map`, the mesh axis over which the batch is split. The
            arguments are then this device's rows, and the result their share of the loss over the
            whole batch.

    Returns:
        The loss of each query, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, m < 2, a bad temperature or an unknown strategy.
        TypeError: for embeddings that are not floating point.

    Example:
        >>> queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> info_nce(queries, queries, temperature=0.5)
        Array([0.1269, 0.1269], dtype=float32)

    References:
        van den Oord et al., [arXiv 1807.03748](https://arxiv.org/abs/1807.03748), Eq. 4.
    """
    _check_rows("queries", queries, "keys", keys)
    positives = _positives(positives, queries, keys)
    (n, d), m = queries.shape, keys.shape[0]
    how = choose(strategy, n, m, d, tile_size, axis_name)
    plan = _plan(temperature, similarity, normalize, how, anchors=n)
    q, k = plan.points(queries), plan.points(keys)
    key = row_numbers(m, axis_name)
    negatives = plan.negatives(q, k, exclude=(key[positives], key))
    return jax.nn.softplus(negatives - plan.positives(q, k[positives]))


class _Plan(NamedTuple):
    """What the caller chose, ready for use."""

    temperature: Temperature
    similarity: Similarity
    normalize: bool
    strategy: Strategy

    def points(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The rows on the manifold, in float32 at least."""
        x = at_least_float32(jnp.asarray(x))
        return self.similarity.project(x) if self.normalize else x

    def negatives(
        self,
        anchors: Float[Array, "n d"],
        candidates: Float[Array, "m d"],
        *,
        exclude: tuple[Int[Array, " n"], Int[Array, " m"]] | None = None,
    ) -> Float[Array, " n"]:
        return log_partition(
            anchors,
            candidates,
            temperature=self.temperature.for_negatives,
            similarity=self.similarity,
            strategy=self.strategy,
            exclude=exclude,
        )

    def positives(self, a: Float[Array, "n d"], b: Float[Array, "n d"]) -> Float[Array, " n"]:
        temperature = self.temperature.for_positives
        return paired_logits(a, b, temperature=temperature, similarity=self.similarity)


def _plan(
    temperature: TemperatureLike,
    similarity: SimilarityLike,
    normalize: bool,
    strategy: Strategy,
    *,
    anchors: int,
) -> _Plan:
    temperature = as_temperature(temperature)
    for part in (temperature.for_positives, temperature.for_negatives):
        if part.by_anchor:
            for leaf in jax.tree.leaves(part):
                if jnp.shape(leaf)[:1] != (anchors,):
                    raise ValueError(
                        f"a temperature per anchor needs {anchors} entries here, one for each row "
                        f"of the loss; found shape {jnp.shape(leaf)}."
                    )
    return _Plan(temperature, as_similarity(similarity), normalize, strategy)


def _check_rows(name_a: str, a: Array, name_b: str, b: Array) -> None:
    for name, x in ((name_a, a), (name_b, b)):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"{name} must be floating point; found {jnp.result_type(x)}.")
        if jnp.ndim(x) != 2:
            raise ValueError(f"{name} must have shape [rows, features]; found {jnp.shape(x)}.")
    if jnp.shape(a)[1] != jnp.shape(b)[1]:
        raise ValueError(
            f"{name_a} and {name_b} must have rows of the same length; found shapes "
            f"{jnp.shape(a)} and {jnp.shape(b)}."
        )


def _check_pairs(name_a: str, a: Array, name_b: str, b: Array) -> None:
    _check_rows(name_a, a, name_b, b)
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(
            f"{name_a} and {name_b} must have the same shape, row i of both is one example; found "
            f"{jnp.shape(a)} and {jnp.shape(b)}."
        )
    if jnp.shape(a)[0] < 2:
        raise ValueError(
            f"a contrastive loss needs at least 2 examples; found {jnp.shape(a)[0]} in {name_a}."
        )


def _positives(positives: Array | None, queries: Array, keys: Array) -> Int[Array, " n"]:
    n, m = jnp.shape(queries)[0], jnp.shape(keys)[0]
    if m < 2:
        raise ValueError(f"a contrastive loss needs at least 2 keys; found {m}.")
    if positives is None:
        if m < n:
            raise ValueError(
                f"without `positives`, key i belongs to query i: keys must have at least {n} "
                f"rows; found {m}."
            )
        return jnp.arange(n)
    if jnp.shape(positives) != (n,) or not jnp.issubdtype(jnp.result_type(positives), jnp.integer):
        raise ValueError(
            f"positives must be {n} integers, one for each query; found shape "
            f"{jnp.shape(positives)} of {jnp.result_type(positives)}."
        )
    return jnp.asarray(positives)
