"""Measures of a representation: how it spreads, and what the temperature does to it.

All of them take embeddings as they come and scale the rows to length 1 themselves, except
`effective_rank`, which measures the features as they are. Where an embedding has a NaN, so has the
result.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._placement import of_whole_arrays
from .errors import ArgumentError, check_same_shape
from .similarities import Similarity, at_least_float32, normalize, rows_or_nan, sphere
from .temperatures import TemperatureLike, as_temperature, check_elementwise, concrete, of_anchors

__all__ = [
    "alignment",
    "effective_rank",
    "equilibrium_gap",
    "inter_class_uniformity",
    "negative_similarities",
    "pair_statistics",
    "recall_at_k",
    "tolerance",
    "uniformity",
]

Scalar = Float[Array, ""]


def alignment(
    a: Float[Array, "n d"], b: Float[Array, "n d"], *, alpha: float = 2.0
) -> Float[Array, ""]:
    r"""How far apart the two views of an example lie.

    $$\mathbb{E}\, |a_i - b_i|^\alpha$$

    Args:
        a: embeddings of one view.
        b: embeddings of the other view, row by row.
        alpha: the exponent, > 0.

    Returns:
        The mean over the rows; 0 when both views agree, at most 2^alpha.

    Raises:
        ArgumentError: when the shapes differ.

    Example:
        >>> alignment(jnp.eye(2), -jnp.eye(2))
        Array(4., dtype=float32)

    References:
        Wang and Isola, [arXiv 2005.10242](https://arxiv.org/abs/2005.10242), Eq. 6.
    """
    check_same_shape("a", a.shape, "b", b.shape)
    squared = jnp.sum((normalize(a) - normalize(b)) ** 2, axis=-1)
    equal = squared == 0  # the power's gradient at 0 is infinite for alpha < 2
    return jnp.mean(jnp.where(equal, 0.0, jnp.where(equal, 1.0, squared) ** (alpha / 2)))


@of_whole_arrays
def uniformity(x: Float[Array, "n d"], t: float = 2.0, *, num_tokens: int = 1) -> Float[Array, ""]:
    r"""How evenly the embeddings cover the sphere.

    $$\log \mathbb{E}_{i < j}\, e^{-t |x_i - x_j|^2}$$

    The DySTreSS code averages over all i, j, so it counts each row as its own pair; this function
    follows Wang and Isola and does not.

    Args:
        x: embeddings, n >= 2.
        t: the width of the Gaussian kernel, > 0.
        num_tokens: a divisor of d, for embeddings on the oblique manifold: each of the tokens is
            measured on its own sphere, and the mean of the results is returned.

    Returns:
        0 for collapsed embeddings, lower is more uniform, at least -4 t.

    Raises:
        ArgumentError: when num_tokens does not divide the row length.

    Example:
        >>> uniformity(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        Array(-8., dtype=float32)

    References:
        Wang and Isola, [arXiv 2005.10242](https://arxiv.org/abs/2005.10242), Eq. 7 and their code.
    """
    n, d = x.shape
    if num_tokens < 1 or d % num_tokens:
        raise ArgumentError(
            "num_tokens", f"found {num_tokens}; allowed: a divisor of the row length {d}."
        )
    tokens = x.reshape(n, num_tokens, d // num_tokens).swapaxes(0, 1)

    def of_token(token):
        token = normalize(token)
        return _log_mean_kernel(token, jnp.arange(n), jnp.ones(n, token.dtype), t)

    return jnp.mean(jax.lax.map(of_token, tokens))


@of_whole_arrays
def inter_class_uniformity(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    t: float = 2.0,
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""How evenly the class means cover the sphere.

    $$\log \mathbb{E}_{a \ne b}\, e^{-t |\mu_a - \mu_b|^2}, \qquad \mu_a \text{ the mean of class }
      a, \text{ scaled to length } 1$$

    Args:
        x: embeddings.
        labels: the class of each row, any integers; at least two classes.
        t: the width of the Gaussian kernel, > 0.
        where: the rows that count, with no label of another; None: all.

    Returns:
        0 when all class means coincide, lower is more uniform.

    Raises:
        ArgumentError: when there is not one label for each row.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> inter_class_uniformity(x, jnp.array([0, 0, 1]))
        Array(-8., dtype=float32)

    References:
        Our reading of Manna et al., [arXiv 2308.01140](https://arxiv.org/abs/2308.01140), whose own
        formula we have not seen.
    """
    check_same_shape("x", x.shape[:1], "labels", labels.shape)
    x = normalize(x)
    # Each row carries its class mean and one share of its class, so the number of classes need
    # not be known and the function can be compiled.
    same = lambda label: (labels == label).astype(x.dtype)
    sums, counts = _by_row(lambda label: (_product(same(label), x), jnp.sum(same(label))), labels)
    shares = 1.0 / counts if where is None else jnp.where(where, 1.0 / counts, 0.0)
    return _log_mean_kernel(normalize(sums), labels, shares, t)


@of_whole_arrays
def tolerance(
    x: Float[Array, "n d"], labels: Int[Array, " n"], *, all_pairs: bool = False
) -> Float[Array, ""]:
    r"""How similar examples of the same class are.

    $$\mathbb{E}_{x, y}[\, f(x)^T f(y) \mid l(x) = l(y) ] \quad\text{or, over all pairs,}\quad
      \mathbb{E}_{x, y}[\, f(x)^T f(y)\, 1_{l(x) = l(y)} ]$$

    Args:
        x: embeddings.
        labels: the class of each row; some class must have two rows.
        all_pairs: False takes the mean over pairs of the same class (i != j), which the numbers
            published with the metric have the size of; True takes the printed formula literally,
            the mean over all pairs i != j with 0 for different classes.

    Returns:
        The mean cosine; higher is more tolerant.

    Raises:
        ArgumentError: when there is not one label for each row.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> tolerance(x, jnp.array([0, 0, 1]))
        Array(0.6, dtype=float32)

    References:
        Wang and Liu, [arXiv 2012.09740](https://arxiv.org/abs/2012.09740), Eq. 9.
    """
    check_same_shape("x", x.shape[:1], "labels", labels.shape)
    x, n = normalize(x), x.shape[0]
    (total, pairs), _ = _sums_by_class(x, x, labels)
    return total / (n * (n - 1) if all_pairs else pairs)


@of_whole_arrays
def negative_similarities(
    view_a: Float[Array, "n d"], view_b: Float[Array, "n d"], labels: Int[Array, " n"]
) -> dict[str, Scalar]:
    r"""How similar the views of different images are, by whether they are of one class.

    $$\mathbb{E}[\, a_i^T b_j \mid y_i \ne y_j ] \quad\text{(true negatives)}, \qquad
      \mathbb{E}[\, a_i^T b_j \mid y_i = y_j,\, i \ne j ] \quad\text{(false negatives)}$$

    A contrastive loss without labels pushes both apart.

    Args:
        view_a: embeddings of one view.
        view_b: embeddings of the other view, row by row.
        labels: the class of each row, any integers.

    Returns:
        The mean cosines true_negative_similarity and false_negative_similarity; NaN where there
        is no such pair.

    Raises:
        ArgumentError: when the shapes of the views differ, or there is not one label for each row.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> found = negative_similarities(x, x, jnp.array([0, 0, 1]))
        >>> {name: round(float(value), 3) for name, value in found.items()}
        {'true_negative_similarity': 0.4, 'false_negative_similarity': 0.6}

    References:
        Manna et al., [arXiv 2308.01140](https://arxiv.org/abs/2308.01140).
    """
    check_same_shape("view_a", view_a.shape, "view_b", view_b.shape)
    check_same_shape("view_a", view_a.shape[:1], "labels", labels.shape)
    same, other = _sums_by_class(normalize(view_a), normalize(view_b), labels)
    return {
        "true_negative_similarity": other[0] / other[1],
        "false_negative_similarity": same[0] / same[1],
    }


@of_whole_arrays
def effective_rank(x: Float[Array, "n d"]) -> Float[Array, ""]:
    r"""How many directions the features use.

    $$\exp\Big(-\sum_k p_k \log p_k\Big), \qquad p_k = \sigma_k / \sum_j \sigma_j$$

    with the singular values of the feature matrix, neither centred nor normalised.

    Args:
        x: features.

    Returns:
        Between 1 and min(n, d); 1 for features that are all 0.

    Example:
        >>> effective_rank(jnp.eye(4))
        Array(4., dtype=float32)

    References:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007; as a measure of self-supervised
        features, Garrido et al., [arXiv 2210.02885](https://arxiv.org/abs/2210.02885).
    """
    x = at_least_float32(x)
    scale = jnp.max(jnp.abs(x))  # of which the result does not depend, and squares may overflow
    singular = jnp.linalg.svd(x / jnp.where(scale == 0, 1.0, scale), compute_uv=False)
    total = jnp.sum(singular)
    p = singular / jnp.where(total == 0, 1.0, total)
    used = p != 0  # the slope of the entropy at 0 is infinite
    return jnp.exp(jnp.sum(jnp.where(used, jax.scipy.special.entr(jnp.where(used, p, 1.0)), 0.0)))


@of_whole_arrays
def recall_at_k(
    queries: Float[Array, "n d"],
    keys: Float[Array, "m d"],
    *,
    k: int,
    positives: Int[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """The share of queries whose key is among the k most similar ones.

    Args:
        queries: embeddings to look up.
        keys: embeddings to find, compared by their cosine.
        k: how many keys count as found, 1 <= k <= m.
        positives: index of the key that belongs to each query; default 0, 1, ..., n - 1.

    Returns:
        Between 0 and 1; NaN where a positive is no key. Keys that tie with the right one count
        against the query. Several right keys: `evaluation.retrieval_ranks`.

    Raises:
        ArgumentError: when k is not in [1, m], or there are fewer keys than queries and no
            positives.

    Example:
        >>> recall_at_k(jnp.eye(3), jnp.eye(3)[jnp.array([0, 2, 1])], k=1)
        Array(0.3333, dtype=float32)
    """
    n, m = queries.shape[0], keys.shape[0]
    if k < 1 or (isinstance(m, int) and k > m):  # of symbolic sizes nobody knows
        raise ArgumentError("k", f"found {k}; allowed: 1 to {m}, the number of keys.")
    if positives is None:
        if isinstance(m - n, int) and m < n:
            raise ArgumentError(
                "keys",
                f"found {m} for {n} queries; allowed: at least as many, since key i belongs to "
                "query i without `positives`.",
            )
        positives = jnp.arange(n)
    queries, keys = normalize(queries), normalize(keys)

    def found(query):
        point, positive = query
        similarity = _product(keys, point)
        own = rows_or_nan(similarity, positive)
        others = jnp.arange(m) != positive
        hit = jnp.sum((similarity >= own) & others) < k
        known = ~(jnp.isnan(similarity).any() | jnp.isnan(own))
        return jnp.where(known, hit.astype(jnp.float32), jnp.nan)

    return jnp.mean(_by_row(found, (queries, positives)))


def equilibrium_gap(
    candidates: int, wrong_share: ArrayLike, *, sigmoid: bool = False
) -> Float[Array, "..."]:
    r"""The gap between positive and negative logits at which noisy pairs stop moving it.

    $$g^* = \ln \frac{(N - 1)(1 - p)}{p}, \qquad
      g^*_{sigmoid} = \ln \frac{(1 - p)(N - 1 - p)}{p^2}$$

    Where a share p of the pairs is wrong, the loss is least when the softmax gives the true partner
    the probability 1 - p and shares p among the N - 1 others, all at the same logit; the sigmoid
    gives the true partner 1 - p too and each of the others p / (N - 1). A learned
    temperature then settles near (s_pos - s_neg) / g*: the noisier the pairs, the higher.

    Args:
        candidates: N >= 2, how many the wrong partner is drawn from: the batch size where pairs are
            permuted within each batch, and the size of the data set where the wrong partner is
            drawn from all of it, anew each time.
        wrong_share: p in [0, 1], the share of pairs that are not each other's; an array gives as
            many gaps.
        sigmoid: of SigLIP's loss, in place of one with a softmax.

    Returns:
        The gap; infinite without wrong pairs, 0 where the pairs are as good as random.

    Raises:
        ArgumentError: when candidates < 2 or p is not in [0, 1].

    Example:
        >>> equilibrium_gap(256, 0.5)
        Array(5.541, dtype=float32)

    References:
        Equilibrium and its sign: Sun, [arXiv 2209.02127](https://arxiv.org/abs/2209.02127); the
        closed form is derived here, from the optimum of InfoNCE (van den Oord et al.,
        [arXiv 1807.03748](https://arxiv.org/abs/1807.03748), section 2.3).
    """
    if candidates < 2:
        raise ArgumentError("candidates", f"found {candidates}; allowed: at least 2.")
    if concrete(wrong_share) and not all(0 <= share <= 1 for share in np.ravel(wrong_share)):
        raise ArgumentError("wrong_share", f"found {wrong_share}; allowed: in [0, 1].")
    p = jnp.asarray(wrong_share)
    p = p if p.dtype == jnp.float64 else p.astype(jnp.float32)
    if sigmoid:
        return jnp.log1p(-p) + jnp.log(candidates - 1 - p) - 2 * jnp.log(p)
    return math.log(candidates - 1) + jnp.log1p(-p) - jnp.log(p)


@of_whole_arrays
def pair_statistics(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike | None,
    similarity: Similarity = sphere,
    negatives: Float[Array, "k d"] | None = None,
    groups: Int[Array, " n"] | None = None,
    max_anchors: int = 256,
) -> dict[str, Scalar]:
    """Mean similarity and mean temperature of positive and of negative pairs.

    Cheap enough for every logged step: it looks at the first `max_anchors` examples only.

    Args:
        view_a: embeddings of the first view, n >= 2.
        view_b: embeddings of the second view.
        temperature: what the loss uses; a temperature per anchor may have n entries or, as in
            `nt_xent`, 2n, of which the first n belong to `view_a`; None: it uses none.
        similarity: of the embeddings, in whose own units it is returned.
        negatives: embeddings that `view_a` is compared with instead, such as the queue of MoCo.
        groups: a number for each example: those that share it, such as their class, are no
            negatives of each other; None: each is a group of its own.
        max_anchors: the largest number of examples to compare with each other, >= 2.

    Returns:
        The scalars positive_similarity and negative_similarity, and with a temperature positive_tau
        and negative_tau; by default the negatives are the other rows of `view_b`. NaN for negatives
        where there are none.

    Example:
        >>> statistics = pair_statistics(jnp.eye(2), jnp.eye(2), temperature=0.1)
        >>> {name: round(float(value), 3) for name, value in statistics.items()}
        {'positive_similarity': 1.0, 'negative_similarity': 0.0, 'positive_tau': 0.1,
         'negative_tau': 0.1}
    """
    n = min(view_a.shape[0], max_anchors)
    a, b = (similarity.project(at_least_float32(view[:n])) for view in (view_a, view_b))
    positive = similarity.paired(a, b)
    if negatives is None:
        negative = similarity.between(a, b)
        group = jnp.arange(n) if groups is None else groups[:n]
        apart = group[:, None] != group[None, :]
    else:
        further = similarity.project(at_least_float32(negatives[:max_anchors]))
        negative, apart = similarity.between(a, further), None
    mean_of_negatives = functools.partial(jnp.mean, where=apart)
    similarities = {
        "positive_similarity": jnp.mean(positive),
        "negative_similarity": mean_of_negatives(negative),
    }
    if temperature is None:
        return similarities
    temperature = as_temperature(temperature)
    check_elementwise(temperature)

    def tau(part, values):
        tau = of_anchors(part, slice(n))(similarity.as_cosine(values))
        return jnp.broadcast_to(tau, values.shape)

    return similarities | {
        "positive_tau": jnp.mean(tau(temperature.for_positives, positive)),
        "negative_tau": mean_of_negatives(tau(temperature.for_negatives, negative)),
    }


# Accelerators would round float32 products to fewer bits.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _by_row(function: Callable, rows):
    """Applies function to each row, a few hundred at a time: O(n) memory for O(n^2) pairs."""
    if not isinstance(jax.tree.leaves(rows)[0].shape[0], int):  # symbolic, as of `jax.export`
        return jax.vmap(function)(rows)
    return jax.lax.map(function, rows, batch_size=256)


def _sums_by_class(
    a: Float[Array, "n d"], b: Float[Array, "n d"], labels: Int[Array, " n"]
) -> tuple[tuple[Scalar, Scalar], tuple[Scalar, Scalar]]:
    """The sum of a_i . b_j over the pairs i != j of one class and the number of these pairs.

    Then the same of the pairs of two classes.
    """
    indices = jnp.arange(a.shape[0])

    def row(anchor):
        point, label, index = anchor
        products = _product(b, point)
        same = labels == label
        return [
            (jnp.sum(jnp.where(pairs, products, 0.0)), jnp.sum(pairs.astype(a.dtype)))
            for pairs in (same & (indices != index), ~same)
        ]

    (same, same_pairs), (other, other_pairs) = jax.tree.map(
        jnp.sum, _by_row(row, (a, labels, indices))
    )
    # A row with NaN shows, also where no pair has it.
    broken = jnp.isnan(a).any() | jnp.isnan(b).any()
    same, other = (jnp.where(broken, jnp.nan, total) for total in (same, other))
    return (same, same_pairs), (other, other_pairs)


def _log_mean_kernel(
    points: Float[Array, "n d"], groups: Int[Array, " n"], weights: Float[Array, " n"], t: float
) -> Float[Array, ""]:
    """Log of the weighted mean of exp(-t |x_i - x_j|^2) over pairs of different groups.

    The points are of length 1, or 0: those of embeddings that are all zero.
    """
    lengths = jnp.any(points != 0, axis=-1).astype(points.dtype)

    def row(anchor):
        point, length, group = anchor
        allowed = jnp.where(groups == group, 0.0, weights)
        squared = length + lengths - 2.0 * _product(points, point)
        return jax.nn.logsumexp(-t * squared, b=allowed), jnp.sum(allowed)

    log_sums, totals = _by_row(row, (points, lengths, groups))
    return jax.nn.logsumexp(log_sums, b=weights) - jnp.log(jnp.sum(weights * totals))
