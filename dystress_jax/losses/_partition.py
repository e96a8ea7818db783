"""The mathematics of every loss: logits, their log-partition, and the logit of a positive pair.

Nothing here knows which loss it serves. What a pair contributes is a term, a function of a row and
a column; a reduction sums terms over the columns and knows nothing of what they mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ..similarities import Similarity
from ..temperatures import Temperature
from ._pairs import Pairs, Side, as_dtype, different, takes_part_in, weight_of


def logits(
    similarity: Similarity, temperature: Temperature, value: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""The logit of each similarity, as the losses form it.

    $$l = \frac{s}{\tau(s)}$$

    Every loss has its logits from here, but `siglip`: it multiplies by its scale t, since 1 / t
    would have no gradient at t = 0.

    Args:
        similarity: what the values are of; the temperature sees them on the scale of the cosine.
        temperature: tau.
        value: similarities, any shape.

    Returns:
        The logits, in the dtype of the values.

    Example:
        >>> from dystress_jax.similarities import sphere
        >>> from dystress_jax.temperatures import dystress
        >>> logits(sphere, dystress(0.1, 0.2), jnp.array([-1.0, 0.0, 1.0]))
        Array([-5.,  0.,  5.], dtype=float32)

    References:
        Manna et al. (DySTreSS), [arXiv 2308.01140](https://arxiv.org/abs/2308.01140).
    """
    # The reciprocal serves the gradient as well, and a division is the most expensive operation.
    return value * jnp.reciprocal(temperature(similarity.as_cosine(value)))


@dataclass(frozen=True)
class PairLogit:
    """The term l_ij + log w_ij, with `excluded` in place of the pairs that are not allowed."""

    similarity: Similarity
    allowed: Callable[[Any, Any], Bool[Array, "n m"]] = different
    excluded: float = -math.inf

    def __call__(self, temperature: Temperature, rows: Side, columns: Side) -> Float[Array, "n m"]:
        if rows.temperature is not None:
            temperature = rows.temperature
        # A similarity of one's own may give another dtype, which tiles cannot take.
        value = self.similarity.between(rows.points, columns.points).astype(rows.points.dtype)
        logit = logits(self.similarity, temperature, value)
        takes_part = takes_part_in(self.allowed, rows, columns)
        weight = weight_of(rows, columns)
        if weight is not None:  # weights of no pair are 1: their logarithm is a number
            logit = logit + jnp.log(jnp.where(weight != 0, weight, 1.0))
        return logit if takes_part is None else jnp.where(takes_part, logit, self.excluded)


@dataclass(frozen=True)
class PairCount:
    """The term 1 for the pairs that are allowed, else 0."""

    allowed: Callable[[Any, Any], Bool[Array, "n m"]]

    def __call__(self, params: Any, rows: Side, columns: Side) -> Float[Array, "n m"]:
        del params
        takes_part = takes_part_in(self.allowed, rows, columns)
        shape = rows.points.shape[0], columns.points.shape[0]
        one = jnp.ones_like(rows.points, shape=shape)  # of these mesh axes inside `shard_map`
        return one if takes_part is None else jnp.where(takes_part, one, 0.0)


@dataclass(frozen=True)
class GivenWeight:
    """The term w_ij of the pairs that are allowed, else 0."""

    allowed: Callable[[Any, Any], Bool[Array, "n m"]]

    def __call__(self, params: Any, rows: Side, columns: Side) -> Float[Array, "n m"]:
        counts = PairCount(self.allowed)(params, rows, columns)
        weight = weight_of(rows, columns)
        return counts if weight is None else jnp.where(counts > 0, weight, 0.0)


@dataclass(frozen=True)
class PairWeight:
    """The term exp(l_ij - shift_i)."""

    logit: PairLogit

    def __call__(self, temperature: Temperature, rows: Side, columns: Side) -> Float[Array, "n m"]:
        # Pairs that are not allowed are -inf before the exponential, so that neither the value nor
        # the gradient can overflow there.
        logit = self.logit(temperature, rows, columns)
        return jnp.exp(logit if rows.shift is None else logit - rows.shift[:, None])


def log_partition(pairs: Pairs) -> Float[Array, " n"]:
    r"""The log-partition of each anchor over its candidates.

    $$\log \sum_{j \text{ allowed}} w_{ij} \exp(s_{ij} / \tau(s_{ij}))$$

    Args:
        pairs: who is compared with whom, and how.

    Returns:
        The log-partition, -inf for an anchor without any allowed candidate.
    """
    reduction, symmetric = pairs.reduction, pairs.symmetric
    temperature, rows, columns = pairs.sides()
    dtype = rows.points.dtype
    # A weight may be as small or as large as it likes.
    bounded = reduction.reverse_only and not pairs.weighted
    fits = bounded and _fits(pairs.temperature, pairs.similarity, dtype)
    logit = PairLogit(reduction.measure(pairs.similarity), pairs.allowed)
    weight = PairWeight(logit)

    def direct():
        return _log(reduction.row_sum(weight, temperature, rows, columns, symmetric=symmetric))

    def shifted():
        shift = reduction.row_max(logit, temperature, rows, columns, symmetric=symmetric)
        shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
        relative = rows._replace(shift=shift)
        return shift + _log(reduction.row_sum(weight, temperature, relative, columns))

    if isinstance(fits, bool):
        return direct() if fits else shifted()
    return jax.lax.cond(reduction.agree(fits), direct, shifted)


def _fits(
    temperature: Temperature, similarity: Similarity, dtype: jnp.dtype
) -> bool | Bool[Array, ""]:
    """Whether exp(logit) can neither overflow nor vanish, so that no shift is needed.

    Known before any logit is: from the range of the similarity and the bound that the temperature
    declares. A bool where the bound is a number, an array where it is traced.
    """
    bound = temperature.lower_bound()
    largest = max(abs(similarity.low), abs(similarity.high))
    if bound is None or math.isinf(largest):
        return False
    # 70 in float32: exp(+-70), times the number of candidates, is far from both ends.
    limit = 0.79 * math.log(float(jnp.finfo(dtype).max))
    if isinstance(bound, Tracer):
        return _all_true(largest <= limit * bound)
    return bool(largest <= limit * np.asarray(bound).min())


@jax.custom_batching.custom_vmap
def _all_true(decision: Bool[Array, ""]) -> Bool[Array, ""]:
    """One decision for a whole `vmap`: a batch of decisions would carry out both branches."""
    return decision


@_all_true.def_vmap
def _all_true_vmap(axis_size, in_batched, decision):
    del axis_size, in_batched
    return _all_true(jnp.all(decision, axis=0)), False


def _log(total: Float[Array, " n"]) -> Float[Array, " n"]:
    """log(total), with log(0) = -inf and a zero gradient there."""
    empty = total == 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))


def log_add(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, " n"]:
    """log(exp(a) + exp(b)), with a zero gradient where both are -inf."""
    empty = (a == -jnp.inf) & (b == -jnp.inf)
    total = jnp.logaddexp(jnp.where(empty, 0.0, a), jnp.where(empty, 0.0, b))
    return jnp.where(empty, -jnp.inf, total)


def mean_logit(pairs: Pairs) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Returns the mean logit of each anchor with its allowed candidates, and how many these are."""
    sides = pairs.sides()
    reduce = lambda term, sides: pairs.reduction.row_sum(term, *sides, symmetric=pairs.symmetric)
    count = reduce(PairCount(pairs.allowed), jax.lax.stop_gradient(sides))
    measure = pairs.reduction.measure(pairs.similarity)
    total = reduce(PairLogit(measure, pairs.allowed, excluded=0.0), sides)
    return total / jnp.maximum(count, 1.0), count


def total_weight(pairs: Pairs) -> Float[Array, " n"]:
    """Returns what the weights of the allowed candidates of each anchor add up to."""
    temperature, rows, columns = pairs.sides()
    return pairs.reduction.row_sum(GivenWeight(pairs.allowed), temperature, rows, columns)


def paired_logits(
    a: Float[Array, "n d"],
    b: Float[Array, "n d"],
    *,
    temperature: Temperature,
    similarity: Similarity,
    copies: int = 1,
) -> tuple[Float[Array, " anchors"], Float[Array, " anchors"]]:
    """The similarity and the logit of each a[i] with b[i], repeated for as many anchors."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    value = jnp.concatenate([similarity.paired(a, b).astype(dtype)] * copies)
    return value, logits(similarity, as_dtype(temperature, a.dtype), value)
