"""The mathematics of every loss: logits, their log-partition, and the logit of a positive pair.

Nothing here knows which loss it serves. What a pair contributes is a term, a function of a row and
a column; a strategy sums terms over the columns and knows nothing of what they mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dystress_jax.similarities import Similarity
from dystress_jax.temperatures import Temperature


class Side(NamedTuple):
    """One side of the pairs; each leaf has one entry per row (column) in its leading axis."""

    points: Float[Array, "n d"]
    group: Int[Array, " n"] | None = None
    temperature: Temperature | None = None
    shift: Float[Array, " n"] | None = None


class Strategy(NamedTuple):
    """A way to reduce terms, `term(params, rows, columns) -> [n m]`, over the columns."""

    row_sum: Callable[..., Float[Array, " n"]]
    """(term, params, rows, columns) -> the sum of each row, differentiable in all but the term."""
    row_max: Callable[..., Float[Array, " n"]]
    """(term, params, rows, columns) -> the largest term of each row, a number in gradients."""


def _dense_sum(term: Callable, params: Any, rows: Any, columns: Any) -> Float[Array, " n"]:
    return jnp.sum(term(params, rows, columns), axis=1)


def _dense_max(term: Callable, params: Any, rows: Any, columns: Any) -> Float[Array, " n"]:
    return jax.lax.stop_gradient(jnp.max(term(params, rows, columns), axis=1))


dense = Strategy(_dense_sum, _dense_max)
"""The reference: the whole matrix of terms at once, O(n m) memory."""


def logits(
    similarity: Similarity, temperature: Temperature, value: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns value / tau: the only place where a logit is formed."""
    return value / temperature(similarity.as_cosine(value))


@dataclass(frozen=True)
class PairLogit:
    """The term l_ij, with -inf where both sides belong to the same group."""

    similarity: Similarity

    def __call__(self, temperature: Temperature, rows: Side, columns: Side) -> Float[Array, "n m"]:
        if rows.temperature is not None:
            temperature = rows.temperature
        value = self.similarity.between(rows.points, columns.points)
        logit = logits(self.similarity, temperature, value)
        if rows.group is None or columns.group is None:
            return logit
        return jnp.where(_same(rows.group, columns.group), -jnp.inf, logit)


@dataclass(frozen=True)
class PairWeight:
    """The term exp(l_ij - shift_i)."""

    similarity: Similarity

    def __call__(self, temperature: Temperature, rows: Side, columns: Side) -> Float[Array, "n m"]:
        logit = PairLogit(self.similarity)(temperature, rows, columns)
        # Excluded pairs are -inf before the exponential, so that neither the value nor the
        # gradient can overflow there.
        return jnp.exp(logit if rows.shift is None else logit - rows.shift[:, None])


def _same(a: Int[Array, " n"], b: Int[Array, " m"]) -> Bool[Array, "n m"]:
    return a[:, None] == b[None, :]


def log_partition(
    anchors: Float[Array, "n d"],
    candidates: Float[Array, "m d"],
    *,
    temperature: Temperature,
    similarity: Similarity,
    strategy: Strategy,
    exclude: tuple[Int[Array, " n"], Int[Array, " m"]] | None = None,
) -> Float[Array, " n"]:
    r"""The log-partition of each anchor over the candidates.

    $$\log \sum_{j \text{ allowed}} \exp(s_{ij} / \tau(s_{ij}))$$

    Args:
        anchors: points on the manifold of the similarity.
        candidates: points on the manifold of the similarity.
        temperature: tau.
        similarity: s.
        strategy: how the sum is carried out.
        exclude: a group number for each anchor and each candidate; pairs of the same group are
            left out. None allows all pairs.

    Returns:
        The log-partition, -inf for an anchor without any allowed candidate.
    """
    anchor_group, candidate_group = (None, None) if exclude is None else exclude
    columns = Side(candidates, candidate_group)
    rows = Side(anchors, anchor_group, temperature if temperature.by_anchor else None)
    shift = strategy.row_max(PairLogit(similarity), temperature, rows, columns)
    shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
    total = strategy.row_sum(
        PairWeight(similarity), temperature, rows._replace(shift=shift), columns
    )
    return shift + _log(total)


def _log(total: Float[Array, " n"]) -> Float[Array, " n"]:
    """log(total), with log(0) = -inf and a zero gradient there."""
    empty = total == 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))


def paired_logits(
    a: Float[Array, "n d"],
    b: Float[Array, "n d"],
    *,
    temperature: Temperature,
    similarity: Similarity,
) -> Float[Array, " n"]:
    """Returns the logit of each point a[i] with b[i]."""
    return logits(similarity, temperature, similarity.paired(a, b))
