"""The keywords that losses share: checked, and resolved for the arrays that they come with."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from ..errors import ArgumentError
from ..similarities import PrecisionLike, Similarity, as_similarity, at_least_float32
from ..temperatures import (
    PerAnchor,
    Temperature,
    TemperatureLike,
    check_elementwise,
    check_positive,
    concrete,
    map_per_anchor,
)
from ._checks import (
    as_given,
    as_mask,
    check_array,
    check_closed,
    check_measure,
    check_not_negative,
    check_rows,
    check_smoothing,
    check_some,
)
from ._pairs import Real, Weights
from ._plan import Further, Plan, Weighed
from ._strategies import (
    Auto,
    AxisName,
    Recording,
    Strategy,
    StrategyLike,
    TileSize,
    as_strategy,
    axis_of,
    axis_size,
    on_one_device,
    prepare,
)

SimilarityLike = Similarity | Callable[[Array, Array], Array]
T = TypeVar("T", bound=Temperature)


def of_real_anchors(temperature: T, real: Bool[Array, " anchors"] | None) -> T:
    """The temperature, with ones for the anchors that only fill up the batch."""
    if real is None:
        return temperature

    def fill(leaf: Array) -> Array:  # before any use: a masked NaN would be one in the gradient
        there = real.reshape(-1, *[1] * (jnp.ndim(leaf) - 1))
        return jnp.where(there, leaf, jnp.ones_like(leaf))

    return map_per_anchor(fill, temperature)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keywords that losses share, then those that some have."""

    temperature: TemperatureLike
    similarity: SimilarityLike
    normalize: bool
    precision: PrecisionLike | None
    strategy: StrategyLike
    tile_size: TileSize
    axis_name: AxisName | None = None
    label_smoothing: ArrayLike = 0.0
    weights: ArrayLike | None = None
    negatives: Float[Array, "k d"] | None = None
    where_negatives: Bool[Array, " k"] | None = None

    @functools.cached_property
    def chosen(self) -> Strategy | Auto:
        """The strategy as a value."""
        return as_strategy(self.strategy, self.tile_size, self.axis_name)

    @property
    def axis(self) -> AxisName | None:
        """The mesh axis over which the rows are split, if they are."""
        return axis_of(self.chosen)

    def plan(
        self,
        *,
        anchors: int,
        candidates: int,
        length: int,
        real: Bool[Array, " anchors"] | None = None,
    ) -> Plan:
        """Resolves them for this number of anchors and candidates, and the length of their rows.

        `real` says which anchors do not only fill up the batch, None: all.
        """
        temperature = as_given(self.temperature)
        for part in (temperature.for_positives, temperature.for_negatives):
            for leaf in jax.tree.leaves(part) if part.is_per_anchor else ():
                if jnp.shape(leaf)[:1] != (anchors,):
                    raise ArgumentError(
                        "temperature",
                        f"found shape {jnp.shape(leaf)} of a temperature per anchor; allowed: "
                        f"{anchors} entries here, one for each value of the loss.",
                    )
        temperature = of_real_anchors(temperature, real)
        for part in (temperature.for_positives, temperature.for_negatives):
            if isinstance(part, PerAnchor):
                check_positive("tau", part.tau)
        check_elementwise(temperature)
        check_smoothing(self.label_smoothing)
        reduction = prepare(self.chosen, anchors, candidates, length)
        similarity = as_similarity(self.similarity)
        if self.precision is not None:
            similarity = similarity.with_precision(self.precision)
        check_measure(similarity, length)
        if reduction.reverse_only:
            check_closed(similarity, length)
        plan = Plan(
            temperature=temperature,
            similarity=similarity,
            normalize=self.normalize,
            reduction=reduction,
            axis_name=self.axis,
            label_smoothing=self.label_smoothing,
            seen=self.strategy.seen if isinstance(self.strategy, Recording) else None,
        )
        return plan._replace(further=self._further(plan, anchors, length))

    def _further(self, plan: Plan, anchors: int, length: int) -> Further | None:
        """The negatives that all anchors have beside the candidates."""
        if self.negatives is None:
            if self.where_negatives is not None:
                raise ArgumentError(
                    "where_negatives", "found a mask without `negatives`; allowed: None."
                )
            return None
        check_rows("negatives", self.negatives, "negatives", self.negatives)
        k, d = jnp.shape(self.negatives)
        check_some("negatives", k, ", or None")
        if d != length:
            raise ArgumentError(
                "negatives", f"found shape {(k, d)}; allowed: rows of {length} numbers, as others."
            )
        real = as_mask("where_negatives", self.where_negatives, k, "row")
        reduction = prepare(on_one_device(self.chosen), anchors, k, length)
        return Further(plan.points(self.negatives, real), real, reduction)

    def weighed(self, anchors: int, *blocks: int, real: Real) -> Weighed:
        """The weights for that many anchors and these blocks of candidates, on this device.

        Of those that are not real, the weights may be any number.

        Over devices candidates are counted block by block: those of the first block of all
        devices, then those of the second.
        """
        weights, candidates = self.weights, sum(blocks)
        if weights is None:
            return Weighed()
        axis = self.axis
        devices = 1 if axis is None else axis_size(axis)
        check_array("weights", weights)
        shape = jnp.shape(weights)
        allowed = (), (candidates,), (anchors, candidates * devices)
        if not jnp.issubdtype(jnp.result_type(weights), jnp.inexact):  # whole numbers, or a mask
            weights = jnp.asarray(weights, jnp.float32)
        if shape not in allowed or jnp.iscomplexobj(weights):
            raise ArgumentError(
                "weights",
                f"found shape {shape} of {jnp.result_type(weights)}; allowed: numbers of the shape "
                f"{', '.join(map(str, allowed))}: one for all negatives, for each candidate, or "
                "for each pair.",
            )
        known = _of_real_pairs(weights, real)
        if known is not None:
            check_not_negative("weights", known)
        weights = jnp.asarray(weights)
        if weights.ndim == 0:
            weight = at_least_float32(weights)
            zero = weight == 0  # leaves all out, with no gradient, as 0 for each of them
            log_of_all = jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, weight)))
            return Weighed(log_of_all=log_of_all)
        if weights.ndim == 1:
            return Weighed(Weights(weights))
        numbers, before = [], 0
        here = 0 if axis is None else jax.lax.axis_index(axis)
        for size in blocks:
            numbers.append(before + here * size + jnp.arange(size, dtype=jnp.int32))
            before += devices * size
        return Weighed(Weights(None, weights, jnp.concatenate(numbers)))


def _of_real_pairs(weights: ArrayLike, real: Real) -> ArrayLike | None:
    """The weights, with 0 for the anchors and candidates that are not real; None: not known yet."""
    rows, columns = real
    if jnp.ndim(weights) == 0:
        return weights
    if not concrete(weights, *(x for x in real if x is not None)):
        return None
    numbers = np.asarray(weights, float)
    if columns is not None:
        numbers = np.where(np.asarray(columns), numbers, 0.0)
    if rows is not None and numbers.ndim == 2:
        numbers = np.where(np.asarray(rows)[:, None], numbers, 0.0)
    return numbers
