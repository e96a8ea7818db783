"""The mathematics of every loss: logits, their log-partition, and the logit of a positive pair.

Nothing here knows which loss it serves. What a pair contributes is a term, a function of a row and
a column; a strategy sums terms over the columns and knows nothing of what they mean.
"""

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Integer

from ..similarities import Similarity
from ..temperatures import Function, Temperature

# Several axes count as one: the rows are split over all of them, the first one outermost.
AxisName = str | tuple[str, ...]


class Side(NamedTuple):
    """One side of the pairs; each leaf has one entry per row (column) in its leading axis."""

    points: Float[Array, "n d"]
    group: Any = None  # what `allowed` compares, or None where all pairs are allowed
    real: Bool[Array, " n"] | None = None  # not a row that only fills up the batch
    temperature: Temperature | None = None
    shift: Float[Array, " n"] | None = None
    weight: Array | None = None  # of each column; or of a row, one for each number of a column
    number: Integer[Array, " n"] | None = None  # of a column among the weights of a row


class Weights(NamedTuple):
    """How much each pair counts, >= 0: of a candidate, or of an anchor and a candidate's number."""

    of_candidates: Float[Array, " m"] | None = None
    of_pairs: Float[Array, "n c"] | None = None
    numbers: Integer[Array, " m"] | None = None


ALIKE = Weights()
Real = tuple[Bool[Array, " n"] | None, Bool[Array, " m"] | None]


class Strategy(NamedTuple):
    """A way to reduce terms, `term(params, rows, columns) -> [n m]`, over the columns.

    Attributes:
        row_sum: (term, params, rows, columns, *, symmetric) -> the sum of each row, differentiable
            in all but the term. `symmetric` promises that rows and columns are the same and the
            matrix its own transpose.
        row_max: (term, params, rows, columns, *, symmetric) -> the largest term of each row, which
            counts as a number in gradients.
        fold: (visit, rows, columns, state) -> the state of each row after
            `state = visit(rows, columns, there, state)` of all columns, some at a time and in any
            order; `there` says which of them do not only fill up a tile, None: all. No gradients.
        one_pass: whether it pays to avoid `row_max` where exp cannot overflow.
        reverse_only: whether forward mode is out of the question anyway.
        agree: makes a decision the same on all devices that work together.
    """

    row_sum: Callable[..., Float[Array, " n"]]
    row_max: Callable[..., Float[Array, " n"]]
    fold: Callable[[Callable, Any, Any, Any], Any]
    one_pass: bool
    reverse_only: bool
    agree: Callable[[Bool[Array, ""]], Bool[Array, ""]] = lambda decision: decision


def _dense_sum(
    term: Callable, params: Any, rows: Any, columns: Any, *, symmetric: bool = False
) -> Float[Array, " n"]:
    del symmetric  # a tile could be used twice, the whole matrix cannot
    return jnp.sum(term(params, rows, columns), axis=1)


def _dense_max(
    term: Callable, params: Any, rows: Any, columns: Any, *, symmetric: bool = False
) -> Float[Array, " n"]:
    del symmetric
    return jax.lax.stop_gradient(jnp.max(term(params, rows, columns), axis=1))


def _dense_fold(visit: Callable, rows: Any, columns: Any, state: Any) -> Any:
    return visit(*jax.lax.stop_gradient((rows, columns)), None, state)


dense = Strategy(_dense_sum, _dense_max, _dense_fold, one_pass=False, reverse_only=False)
"""The reference: the whole matrix of terms at once, O(n m) memory."""


def logits(
    similarity: Similarity, temperature: Temperature, value: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns value / tau: the only place where a loss forms a logit."""
    # The reciprocal serves the gradient as well, and a division is the most expensive operation.
    return value * jnp.reciprocal(temperature(similarity.as_cosine(value)))


def different(a: Integer[Array, " n"], b: Integer[Array, " m"]) -> Bool[Array, "n m"]:
    """Allows pairs of different groups."""
    return a[:, None] != b[None, :]


def same(
    a: Integer[Array, " n"] | Bool[Array, "n c"], b: Integer[Array, " m"] | Bool[Array, "m c"]
) -> Bool[Array, "n m"]:
    """Allows pairs of one label; with several labels each, those that have one in common."""
    if a.ndim == 1:
        return ~different(a, b)
    return (a.astype(jnp.float32) @ b.T.astype(jnp.float32)) > 0


def not_same(a: Array, b: Array) -> Bool[Array, "n m"]:
    """Allows pairs without a common label."""
    return ~same(a, b)


def same_label_other_row(
    a: tuple[Array, Integer[Array, " n"]], b: tuple[Array, Integer[Array, " m"]]
) -> Bool[Array, "n m"]:
    """Allows pairs of the same label in different rows, of (labels, rows)."""
    return same(a[0], b[0]) & different(a[1], b[1])


def listed(
    a: Integer[Array, "n p"] | Bool[Array, "n c"], b: Integer[Array, " m"]
) -> Bool[Array, "n m"]:
    """Allows columns whose numbers the row lists, or that it marks."""
    if a.dtype == bool:
        return jnp.take(a, b, axis=1)
    return jnp.any(a[:, :, None] == b[None, None, :], axis=1)


def not_listed(a: Array, b: Integer[Array, " m"]) -> Bool[Array, "n m"]:
    """Allows the other columns."""
    return ~listed(a, b)


def takes_part_in(
    allowed: Callable[[Any, Any], Bool[Array, "n m"]], rows: Side, columns: Side
) -> Bool[Array, "n m"] | None:
    """Which pairs take part; None: all of them."""
    parts = []
    if rows.group is not None and columns.group is not None:
        parts.append(allowed(rows.group, columns.group))
    # Rows too: the matrix of two equal sides stays its own transpose.
    parts += [] if rows.real is None else [rows.real[:, None]]
    parts += [] if columns.real is None else [columns.real[None, :]]
    weight = weight_of(rows, columns)
    parts += [] if weight is None else [weight > 0]
    return functools.reduce(operator.and_, parts) if parts else None


def weight_of(rows: Side, columns: Side) -> Float[Array, "..."] | None:
    """How much each pair counts; None: all the same."""
    if rows.weight is not None and columns.number is not None:
        return jnp.take(rows.weight, columns.number, axis=1)
    return None if columns.weight is None else columns.weight[None, :]


@dataclass(frozen=True)
class PairLogit:
    """The term l_ij + log w_ij, with `excluded` in place of the pairs that are not allowed."""

    similarity: Similarity
    allowed: Callable[[Any, Any], Bool[Array, "n m"]] = different
    excluded: float = -math.inf

    def __call__(self, temperature: Temperature, rows: Side, columns: Side) -> Float[Array, "n m"]:
        if rows.temperature is not None:
            temperature = rows.temperature
        value = self.similarity.between(rows.points, columns.points)
        logit = logits(self.similarity, temperature, value)
        takes_part = takes_part_in(self.allowed, rows, columns)
        weight = weight_of(rows, columns)
        if weight is not None:  # weights of no pair are 1: their logarithm is a number
            logit = logit + jnp.log(jnp.where(weight > 0, weight, 1.0))
        return logit if takes_part is None else jnp.where(takes_part, logit, self.excluded)


@dataclass(frozen=True)
class PairCount:
    """The term 1 for the pairs that are allowed, else 0."""

    allowed: Callable[[Any, Any], Bool[Array, "n m"]]

    def __call__(self, params: Any, rows: Side, columns: Side) -> Float[Array, "n m"]:
        del params
        takes_part = takes_part_in(self.allowed, rows, columns)
        shape = rows.points.shape[0], columns.points.shape[0]
        counts = jnp.ones(shape, bool) if takes_part is None else takes_part
        return jnp.broadcast_to(counts, shape).astype(rows.points.dtype)


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


class Pairs(NamedTuple):
    """Anchors and those of the candidates that they are compared with.

    Attributes:
        anchors: points on the manifold of the similarity.
        candidates: points on the manifold of the similarity.
        temperature: tau.
        similarity: s.
        strategy: how sums over the candidates are carried out.
        groups: the group of each anchor and of each candidate; None allows all pairs.
        allowed: which pairs of groups take part.
        real: which anchors and which candidates do not only fill up the batch.
        weights: how much each pair counts.
    """

    anchors: Float[Array, "n d"]
    candidates: Float[Array, "m d"]
    temperature: Temperature
    similarity: Similarity
    strategy: Strategy
    groups: tuple[Any, Any] | None = None
    allowed: Callable[[Any, Any], Bool[Array, "n m"]] = different
    real: Real = (None, None)
    weights: Weights = ALIKE

    @property
    def symmetric(self) -> bool:
        """Whether both sides are the same, and the matrix its own transpose."""
        return (
            self.similarity.symmetric
            and self.candidates is self.anchors
            and (self.groups is None or self.groups[0] is self.groups[1])
            and self.real[0] is self.real[1]
            and not self.temperature.is_per_anchor
            and not self.weighted
        )

    @property
    def weighted(self) -> bool:
        """Whether pairs count differently."""
        return self.weights.of_candidates is not None or self.weights.of_pairs is not None

    def sides(self) -> tuple[Temperature, Side, Side]:
        """The temperature, the rows and the columns, in one float dtype."""
        dtype = jnp.promote_types(self.anchors.dtype, self.candidates.dtype)
        as_wide = lambda x: None if x is None else x.astype(dtype)
        anchor_group, candidate_group = self.groups or (None, None)
        temperature = cast(self.temperature, dtype)
        per_anchor = temperature if temperature.is_per_anchor else None
        of_candidates, of_pairs, numbers = self.weights
        rows = Side(
            self.anchors.astype(dtype),
            anchor_group,
            self.real[0],
            per_anchor,
            weight=as_wide(of_pairs),
        )
        columns = Side(
            self.candidates.astype(dtype),
            candidate_group,
            self.real[1],
            weight=as_wide(of_candidates),
            number=numbers,
        )
        return temperature, rows, columns


def log_partition(pairs: Pairs) -> Float[Array, " n"]:
    r"""The log-partition of each anchor over its candidates.

    $$\log \sum_{j \text{ allowed}} w_{ij} \exp(s_{ij} / \tau(s_{ij}))$$

    Args:
        pairs: who is compared with whom, and how.

    Returns:
        The log-partition, -inf for an anchor without any allowed candidate.
    """
    strategy, symmetric = pairs.strategy, pairs.symmetric
    temperature, rows, columns = pairs.sides()
    dtype = rows.points.dtype
    # A weight may be as small or as large as it likes.
    bounded = strategy.one_pass and not pairs.weighted
    fits = bounded and _fits(pairs.temperature, pairs.similarity, dtype)
    similarity = pairs.similarity
    measure = similarity.for_reverse_mode() if strategy.reverse_only else similarity
    logit = PairLogit(measure, pairs.allowed)
    weight = PairWeight(logit)

    def direct():
        return _log(strategy.row_sum(weight, temperature, rows, columns, symmetric=symmetric))

    def shifted():
        shift = strategy.row_max(logit, temperature, rows, columns, symmetric=symmetric)
        shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
        relative = rows._replace(shift=shift)
        return shift + _log(strategy.row_sum(weight, temperature, relative, columns))

    if isinstance(fits, bool):
        return direct() if fits else shifted()
    return jax.lax.cond(strategy.agree(fits), direct, shifted)


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


def cast(temperature: Temperature, dtype: jnp.dtype) -> Temperature:
    # What a function closes over keeps the types that the function was written for.
    is_function = lambda node: isinstance(node, Function)

    def narrow(leaf):
        if is_function(leaf):
            return leaf
        # Numbers stay numbers: a leaf that is not traced needs no gradient.
        return jnp.asarray(leaf, dtype) if isinstance(leaf, Array) else dtype.type(leaf)

    return jax.tree.map(narrow, temperature, is_leaf=is_function)


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
    temperature, rows, columns = pairs.sides()
    reduce = lambda term: pairs.strategy.row_sum(
        term, temperature, rows, columns, symmetric=pairs.symmetric
    )
    count = reduce(PairCount(pairs.allowed))
    total = reduce(PairLogit(pairs.similarity, pairs.allowed, excluded=0.0))
    return total / jnp.maximum(count, 1.0), count


def total_weight(pairs: Pairs) -> Float[Array, " n"]:
    """Returns what the weights of the allowed candidates of each anchor add up to."""
    temperature, rows, columns = pairs.sides()
    return pairs.strategy.row_sum(GivenWeight(pairs.allowed), temperature, rows, columns)


def paired_logits(
    a: Float[Array, "n d"],
    b: Float[Array, "n d"],
    *,
    temperature: Temperature,
    similarity: Similarity,
    copies: int = 1,
) -> tuple[Float[Array, " anchors"], Float[Array, " anchors"]]:
    """The similarity and the logit of each a[i] with b[i], repeated for as many anchors."""
    value = jnp.concatenate([similarity.paired(a, b)] * copies)
    return value, logits(similarity, cast(temperature, a.dtype), value)
