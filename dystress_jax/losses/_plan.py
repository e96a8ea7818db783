"""From what the caller of a loss passes to what the losses work with: checks and defaults."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..errors import ArgumentError
from ..similarities import Similarity, as_similarity, at_least_float32
from ..temperatures import Temperature, TemperatureLike, as_temperature, concrete
from . import _partition
from ._strategies import (
    Auto,
    AxisName,
    Strategy,
    StrategyLike,
    TileSize,
    as_strategy,
    axis_of,
    axis_size,
    prepare,
)

Allowed = Callable[[Any, Any], Bool[Array, "n m"]]
SimilarityLike = Similarity | Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Options:
    """The keywords that all losses share, in the order of their signatures."""

    temperature: TemperatureLike
    similarity: SimilarityLike
    normalize: bool
    strategy: StrategyLike
    tile_size: TileSize
    axis_name: AxisName | None = None

    @functools.cached_property
    def chosen(self) -> Strategy | Auto:
        """The strategy as a value."""
        return as_strategy(self.strategy, self.tile_size, self.axis_name)

    @property
    def axis(self) -> AxisName | None:
        """The mesh axis over which the rows are split, if they are."""
        return axis_of(self.chosen)

    def plan(self, *, anchors: int, candidates: int, length: int) -> "Plan":
        """Resolves them for this number of anchors and candidates, and the length of their rows."""
        temperature = as_temperature(self.temperature)
        for part in (temperature.for_positives, temperature.for_negatives):
            for leaf in jax.tree.leaves(part) if part.is_per_anchor else ():
                if jnp.shape(leaf)[:1] != (anchors,):
                    raise ArgumentError(
                        "temperature",
                        f"found shape {jnp.shape(leaf)} of a temperature per anchor; allowed: "
                        f"{anchors} entries here, one for each value of the loss.",
                    )
        chosen = prepare(self.chosen, anchors, candidates, length)
        similarity = as_similarity(self.similarity)
        if chosen.reverse_only:
            _check_closed(similarity, length)
        return Plan(temperature, similarity, self.normalize, chosen, self.axis)


class Plan(NamedTuple):
    """What the caller chose, ready for use."""

    temperature: Temperature
    similarity: Similarity
    normalize: bool
    strategy: _partition.Strategy
    axis_name: AxisName | None

    def points(
        self, x: Float[Array, "n d"], real: Bool[Array, " n"] | None = None
    ) -> Float[Array, "n d"]:
        """The rows on the manifold, in float32 at least; what stands in others does not matter."""
        x = at_least_float32(jnp.asarray(x))
        if real is not None:  # ones, unlike zeros or NaN, have a direction and a gradient
            x = jnp.where(real[:, None], x, 1.0)
        return self.similarity.project(x) if self.normalize else x

    def row_numbers(self, n: int) -> Int[Array, " n"]:
        """Numbers of this device's n rows, unique over the mesh axis if there is one."""
        numbers = jnp.arange(n, dtype=jnp.int32)
        if self.axis_name is None:
            return numbers
        return numbers + n * jax.lax.axis_index(self.axis_name)

    def partners(self, n: int, m: int) -> tuple[Int[Array, " n"], Int[Array, " m"]]:
        """Numbers of n rows and m >= n others: the first n share theirs, the rest have none."""
        numbers = self.row_numbers(n)
        if isinstance(m - n, int) and m == n:
            return numbers, numbers
        return numbers, jnp.concatenate([numbers, jnp.full(m - n, -1, jnp.int32)])

    def between_views(
        self,
        view_a: Float[Array, "n d"],
        view_b: Float[Array, "n d"],
        real: Bool[Array, " n"] | None = None,
    ) -> tuple[Float[Array, " 2*n"], Float[Array, " 2*n"]]:
        """N_i over the views of all other examples, and l_ip, for the anchors a, then b."""
        a, b = self.points(view_a, real), self.points(view_b, real)
        views = jnp.concatenate([a, b])
        sample = jnp.tile(self.row_numbers(a.shape[0]), 2)
        both = twice(real)
        negatives = _partition.log_partition(
            views,
            views,
            temperature=self.temperature.for_negatives,
            similarity=self.similarity,
            strategy=self.strategy,
            groups=(sample, sample),
            real=(both, both),
        )
        return negatives, self.positives(a, b, copies=2)

    def negatives(
        self,
        anchors: Float[Array, "n d"],
        candidates: Float[Array, "m d"],
        *,
        groups: tuple[Any, Any] | None,
        allowed: Allowed = _partition.different,
        real: _partition.Real = (None, None),
    ) -> Float[Array, " n"]:
        """N_i, the log-partition over the candidates that are no positives."""
        return _partition.log_partition(
            anchors,
            candidates,
            temperature=self.temperature.for_negatives,
            similarity=self.similarity,
            strategy=self.strategy,
            groups=groups,
            allowed=allowed,
            real=real,
        )

    def positives(
        self, a: Float[Array, "n d"], b: Float[Array, "n d"], *, copies: int = 1
    ) -> Float[Array, " anchors"]:
        """l_i, the logit of each point a[i] with b[i], repeated for both of them with copies=2."""
        return _partition.paired_logits(
            a,
            b,
            temperature=self.temperature.for_positives,
            similarity=self.similarity,
            copies=copies,
        )

    def against_many(
        self,
        anchors: Float[Array, "n d"],
        candidates: Float[Array, "m d"],
        *,
        negatives: tuple[tuple[Any, Any], Allowed],
        positives: tuple[tuple[Any, Any], Allowed],
        real: _partition.Real = (None, None),
        decoupled: bool = False,
    ) -> Float[Array, " n"]:
        """The loss of each anchor, with the mean over its positives; 0 for one that has none."""
        groups, allowed = positives
        shared = {
            "temperature": self.temperature.for_positives,
            "similarity": self.similarity,
            "strategy": self.strategy,
            "groups": groups,
            "allowed": allowed,
            "real": real,
        }
        total = self.negatives(
            anchors, candidates, groups=negatives[0], allowed=negatives[1], real=real
        )
        if not decoupled:
            total = _partition.log_add(
                total, _partition.log_partition(anchors, candidates, **shared)
            )
        mean, count = _partition.mean_logit(anchors, candidates, **shared)
        return jnp.where(count > 0, total - mean, 0.0)


def twice(x: Array | None) -> Array | None:
    """For the anchors of both views."""
    return None if x is None else jnp.concatenate([x, x])


def keep(value: Float[Array, " n"], real: Bool[Array, " n"] | None) -> Float[Array, " n"]:
    """Zero, without a gradient, for the anchors that only fill up the batch."""
    return value if real is None else jnp.where(real, value, 0.0)


def _check_closed(similarity: Similarity, length: int) -> None:
    """Refuses a measure that closes over traced values, which a custom derivative cannot reach."""
    point = jnp.zeros((1, length))
    if not concrete(*jax.make_jaxpr(similarity.between)(point, point).consts):
        raise ArgumentError(
            "similarity",
            "found a function that closes over traced values, such as a parameter to learn; "
            "allowed with `strategy` dense only. Or apply the parameter to the embeddings before "
            "the loss.",
        )


def check_rows(name_a: str, a: Array, name_b: str, b: Array) -> None:
    """Refuses what is not floating point [rows, features] with rows of the same length."""
    for name, x in ((name_a, a), (name_b, b)):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"{name} must be floating point; found {jnp.result_type(x)}.")
        if jnp.ndim(x) != 2:
            raise ArgumentError(name, f"found shape {jnp.shape(x)}; allowed: [rows, features].")
    if jnp.shape(a)[1] != jnp.shape(b)[1]:
        raise ArgumentError(
            name_b,
            f"found shape {jnp.shape(b)}; allowed: rows of the same length as those of `{name_a}`, "
            f"whose shape is {jnp.shape(a)}.",
        )


def check_pairs(name_a: str, a: Array, name_b: str, b: Array, axis_name: AxisName | None) -> None:
    """Refuses what is not two arrays of one shape, for at least two examples on all devices."""
    check_rows(name_a, a, name_b, b)
    check_same_shape(name_a, a, name_b, b)
    check_count(name_a, jnp.shape(a)[0], axis_name)


def check_same_shape(name_a: str, a: Array, name_b: str, b: Array) -> None:
    """Refuses two arrays whose rows do not belong together one by one."""
    if jnp.shape(a) != jnp.shape(b):
        raise ArgumentError(
            name_b,
            f"found shape {jnp.shape(b)}; allowed: {jnp.shape(a)}, that of `{name_a}`: row i of "
            "both belongs to example i.",
        )


def check_count(name: str, n: int, axis_name: AxisName | None) -> None:
    """Refuses fewer than two rows on all devices together."""
    n *= 1 if axis_name is None else axis_size(axis_name)
    if isinstance(n, int) and n < 2:  # of a symbolic size nobody knows
        raise ArgumentError(name, f"found {n} rows; allowed: at least 2, or nothing is contrasted.")


def check_integers(name: str, x: Array, n: int, each: str) -> None:
    """Refuses what is not one integer for each example or query."""
    if jnp.shape(x) != (n,) or not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        raise ArgumentError(
            name,
            f"found shape {jnp.shape(x)} of {jnp.result_type(x)}; allowed: {n} integers, one for "
            f"each {each}.",
        )


def is_bool(x: Array) -> bool:
    """Whether it says yes or no of each entry."""
    return jnp.issubdtype(jnp.result_type(x), jnp.bool_)


def as_mask(name: str, x: Array | None, n: int, each: str) -> Bool[Array, " n"] | None:
    """Refuses what is not one bool for each example, query or key."""
    if x is None:
        return None
    if jnp.shape(x) != (n,) or not is_bool(x):
        raise ArgumentError(
            name,
            f"found shape {jnp.shape(x)} of {jnp.result_type(x)}; allowed: {n} bools, False for "
            f"each {each} that only fills up the batch.",
        )
    return jnp.asarray(x)


def as_labels(name: str, x: Array, n: int) -> Array:
    """Refuses what is neither one integer nor a row of bools for each example."""
    if jnp.ndim(x) == 2 and is_bool(x) and jnp.shape(x)[0] == n:
        return jnp.asarray(x)
    check_integers(name, x, n, "example")
    return jnp.asarray(x)
