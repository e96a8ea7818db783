"""Who is compared with whom: two sides, which of their pairs take part, and how much they count."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from ..similarities import Similarity
from ..temperatures import Function, Temperature
from ._reduction import Reduction
from ._sharded import AxisName


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


def row_numbers(n: int, axis_name: AxisName | None) -> Int[Array, " n"]:
    """Numbers of this device's n rows, unique over the mesh axis if there is one."""
    numbers = jnp.arange(n, dtype=jnp.int32)
    return numbers if axis_name is None else numbers + n * jax.lax.axis_index(axis_name)


class Marked(NamedTuple):
    """Rows that have several labels each, or none: such a row is a class of its own."""

    labels: Bool[Array, "n c"]
    own: Int[Array, " n"]  # the class of a row without labels, below 0 for the others


def groups_of(
    labels: Integer[Array, " n"] | Bool[Array, "n c"], numbers: Int[Array, " n"]
) -> Integer[Array, " n"] | Marked:
    """The groups that labels make, for `same` and `not_same`; without a label a row is alone.

    Args:
        labels: the classes, below 0 where there is none; or several of each row, as bools.
        numbers: of the rows, from 0.
    """
    if labels.ndim == 2:
        return Marked(labels, jnp.where(labels.any(axis=1), -1, numbers))
    return unlabelled_apart(labels, numbers)


def unlabelled_apart(
    labels: Integer[Array, " n"], numbers: Int[Array, " n"]
) -> Integer[Array, " n"]:
    """The labels, each below 0 of which is a class of its own: nobody knows what it belongs to.

    Args:
        labels: the classes.
        numbers: of the rows, from 0.
    """
    if not jnp.issubdtype(labels.dtype, jnp.signedinteger):
        return labels
    wide = labels if labels.dtype.itemsize > 4 else labels.astype(jnp.int32)
    return jnp.where(wide < 0, -1 - numbers.astype(wide.dtype), wide)


def different(a: Integer[Array, " n"], b: Integer[Array, " m"]) -> Bool[Array, "n m"]:
    """Allows pairs of different groups."""
    return a[:, None] != b[None, :]


def same(a: Any, b: Any) -> Bool[Array, "n m"]:
    """Allows pairs of one label, or `Marked` ones that have a label in common."""
    if not isinstance(a, Marked):
        return ~different(a, b)
    shared = (a.labels.astype(jnp.float32) @ b.labels.T.astype(jnp.float32)) > 0
    return shared | (~different(a.own, b.own) & (a.own >= 0)[:, None])


def not_same(a: Any, b: Any) -> Bool[Array, "n m"]:
    """Allows pairs without a common label."""
    return ~same(a, b)


def same_label_other_row(
    a: tuple[Any, Integer[Array, " n"]], b: tuple[Any, Integer[Array, " m"]]
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
    parts += [] if weight is None else [weight != 0]  # what is no number shows
    return functools.reduce(operator.and_, parts) if parts else None


def weight_of(rows: Side, columns: Side) -> Float[Array, "..."] | None:
    """How much each pair counts, 1 where one of them is not real; None: all the same."""
    if rows.weight is not None and columns.number is not None:
        weight = jnp.take(rows.weight, columns.number, axis=1)
        weight = weight if rows.real is None else jnp.where(rows.real[:, None], weight, 1.0)
    elif columns.weight is not None:
        weight = columns.weight[None, :]
    else:
        return None
    return weight if columns.real is None else jnp.where(columns.real[None, :], weight, 1.0)


class Pairs(NamedTuple):
    """Anchors and those of the candidates that they are compared with.

    Attributes:
        anchors: points on the manifold of the similarity.
        candidates: points on the manifold of the similarity.
        temperature: tau.
        similarity: s.
        reduction: how sums over the candidates are carried out.
        groups: the group of each anchor and of each candidate; None allows all pairs.
        allowed: which pairs of groups take part.
        real: which anchors and which candidates do not only fill up the batch.
        weights: how much each pair counts.
    """

    anchors: Float[Array, "n d"]
    candidates: Float[Array, "m d"]
    temperature: Temperature
    similarity: Similarity
    reduction: Reduction
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
        temperature = as_dtype(self.temperature, dtype)
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


def as_dtype(temperature: Temperature, dtype: jnp.dtype) -> Temperature:
    """The temperature, with its numbers in that dtype."""
    # What a function closes over keeps the types that the function was written for.
    is_function = lambda node: isinstance(node, Function)

    def narrow(leaf):
        if is_function(leaf):
            return leaf
        # Numbers stay numbers: a leaf that is not traced needs no gradient.
        return jnp.asarray(leaf, dtype) if isinstance(leaf, Array) else dtype.type(leaf)

    return jax.tree.map(narrow, temperature, is_leaf=is_function)
