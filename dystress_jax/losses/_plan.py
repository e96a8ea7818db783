"""Who is compared with whom, and what the losses make of it: the shape of every loss."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ..similarities import Similarity, at_least_float32
from ..temperatures import Temperature, concrete, numbers
from . import _pairs, _partition
from ._checks import check_closed
from ._pairs import Pairs, Weights
from ._reduction import Reduction
from ._strategies import AxisName

Allowed = Callable[[Any, Any], Bool[Array, "n m"]]


class Weighed(NamedTuple):
    """How much negatives count: each pair, and the logarithm of what all of them do."""

    pairs: Weights = Weights()
    log_of_all: Float[Array, ""] | None = None

    def of_block(self, number: int, size: int) -> "Weighed":
        """The same for one of several equal blocks of candidates."""
        cut = lambda x: None if x is None else x[number * size : (number + 1) * size]
        of_candidates, of_pairs, numbers = self.pairs
        return self._replace(pairs=Weights(cut(of_candidates), of_pairs, cut(numbers)))


UNWEIGHED = Weighed()


class Further(NamedTuple):
    """Negatives of every anchor, whole on every device."""

    points: Float[Array, "k d"]
    real: Bool[Array, " k"] | None
    reduction: Reduction

    @property
    def number(self) -> Float[Array, ""]:
        """How many they are."""
        return jnp.sum(
            jnp.ones(self.points.shape[0]) if self.real is None else self.real, dtype=float
        )


class Plan(NamedTuple):
    """What the caller chose, ready for use: the one place where the shape of a loss is decided."""

    temperature: Temperature
    similarity: Similarity
    normalize: bool
    reduction: Reduction
    axis_name: AxisName | None
    label_smoothing: ArrayLike = 0.0
    further: Further | None = None
    seen: "list[Seen] | None" = None  # who is compared with whom, for `statistics`

    def points(
        self, x: Float[Array, "n d"], real: Bool[Array, " n"] | None = None
    ) -> Float[Array, "n d"]:
        """The rows on the manifold, in float32 at least; what stands in others does not matter."""
        x = at_least_float32(jnp.asarray(x))
        if real is not None:  # ones, unlike zeros or NaN, have a direction and a gradient
            x = jnp.where(real[:, None], x, 1.0)
        return self.similarity.project(x) if self.normalize else x

    def row_numbers(self, n: int) -> Int[Array, " n"]:
        """As `_pairs.row_numbers`."""
        return _pairs.row_numbers(n, self.axis_name)

    def partners(self, n: int, m: int) -> tuple[Int[Array, " n"], Int[Array, " m"]]:
        """Numbers of n rows and m >= n others: the first n share theirs, the rest have none."""
        numbers = self.row_numbers(n)
        if isinstance(m - n, int) and m == n:
            return numbers, numbers
        return numbers, jnp.concatenate([numbers, jnp.full(m - n, -1, jnp.int32)])

    def negatives(
        self,
        anchors: Float[Array, "n d"],
        candidates: Float[Array, "m d"],
        groups: tuple[Any, Any] | None,
        allowed: Allowed = _pairs.different,
        *,
        real: _pairs.Real = (None, None),
        weighed: Weighed = UNWEIGHED,
    ) -> "Negatives":
        """The candidates, and all further ones, that are negatives of the anchors."""
        of_batch = self._pairs_of(
            anchors, candidates, groups, allowed, real=real, weights=weighed.pairs
        )
        return Negatives((of_batch, *self._further(anchors, real[0])), weighed.log_of_all)

    def _pairs_of(
        self,
        anchors: Float[Array, "n d"],
        candidates: Float[Array, "m d"],
        groups: tuple[Any, Any] | None = None,
        allowed: Allowed = _pairs.different,
        *,
        real: _pairs.Real,
        weights: Weights = _pairs.ALIKE,
    ) -> Pairs:
        shared = self.temperature.for_negatives, self.similarity, self.reduction
        return Pairs(anchors, candidates, *shared, groups, allowed, real, weights)

    def _further(self, anchors: Array, real: Bool[Array, " n"] | None) -> tuple[Pairs, ...]:
        if self.further is None:
            return ()
        points, of_points, reduction = self.further
        pairs = self._pairs_of(anchors, points, real=(real, of_points))
        return (pairs._replace(reduction=reduction),)

    def sums(self, negatives: "Negatives", positives: "Positives | Pairs | None" = None) -> "Sums":
        """What the loss needs of the negatives; shown, with the positives, to whoever watches."""
        parts = []
        for pairs in negatives.parts:
            log_sum = _partition.log_partition(pairs)
            parts.append(Sums(log_sum, *(_partition.mean_logit(pairs) if self.is_smooth else ())))
        log_sum, mean, count = _joined(*parts)
        if negatives.log_of_all is not None:
            more = negatives.log_of_all.astype(log_sum.dtype)
            log_sum = log_sum + more
            if mean is not None and count is not None:  # a weight of 0 leaves all of them out
                counts = more > -jnp.inf
                mean, count = (jnp.where(counts, x, 0.0) for x in (mean + more, count))
        sums = Sums(log_sum, mean, count)
        if positives is not None:
            self.show(negatives, positives, sums)
        return sums

    @property
    def is_smooth(self) -> bool:
        """Whether the target is spread over the candidates."""
        return not concrete(self.label_smoothing) or bool(numbers(self.label_smoothing) != 0)

    def between_views(
        self,
        view_a: Float[Array, "n d"],
        view_b: Float[Array, "n d"],
        real: Bool[Array, " n"] | None = None,
        weighed: Weighed = UNWEIGHED,
        own_view: bool = False,
    ) -> tuple["Negatives", "Positives"]:
        """The other examples, in both views or the anchor's own one, for the anchors a, then b."""
        a, b = self.points(view_a, real), self.points(view_b, real)
        views = jnp.concatenate([a, b])
        sample = jnp.tile(self.row_numbers(a.shape[0]), 2)
        both = twice(real)
        if own_view:
            view = jnp.repeat(jnp.arange(2, dtype=jnp.int32), a.shape[0])
            group, allowed = (view, sample), _pairs.same_label_other_row
        else:
            group, allowed = sample, _pairs.different
        negatives = self.negatives(
            views, views, (group, group), allowed, real=(both, both), weighed=weighed
        )
        return negatives, self.positives(a, b, copies=2)

    def between_many_views(
        self,
        views: Sequence[Float[Array, "n d"]],
        targets: int,
        real: Bool[Array, " n"] | None = None,
        weighed: Weighed = UNWEIGHED,
    ) -> Float[Array, " anchors"]:
        """The mean, over the other views v < targets, of the loss of each view's anchors with v."""
        points = [self.points(view, real) for view in views]
        k, n = len(points), points[0].shape[0]
        sample, anchors = self.row_numbers(n), jnp.concatenate(points)
        groups = jnp.tile(sample, k), sample
        of_anchors = None if real is None else jnp.tile(real, k)
        by_view = lambda x: x.reshape(k, n)
        further = self._further(anchors, of_anchors)
        of_further = [self.sums(Negatives((part,), weighed.log_of_all)) for part in further]
        among, positives, parts = [], [], list(further)
        for v, of_view in enumerate(points):  # the negatives of all anchors in one view
            weights = weighed.of_block(v, n).pairs
            both = (of_anchors, real)
            parts.append(self._pairs_of(anchors, of_view, groups, real=both, weights=weights))
            among.append(self.sums(Negatives((parts[-1],), weighed.log_of_all)))
            others = jnp.repeat(jnp.arange(k) != v, n)
            with_it = self.positives(anchors, jnp.tile(of_view, (k, 1)))
            positives.append(with_it._replace(of=others))
        if self.seen is not None:
            negatives = Negatives(tuple(parts), weighed.log_of_all)
            everything = _joined(*among, *of_further)
            self.seen.append(Seen(self, negatives, tuple(positives[:targets]), everything))
        value = []
        for u in range(k):
            at = lambda x, u=u: jax.tree.map(lambda leaf: by_view(leaf)[u], x)
            with_each = [
                self.against_one(
                    _joined(*map(at, (among[u], among[v], *of_further))), at(positives[v])
                )
                for v in range(targets)
                if v != u
            ]
            value.append(functools.reduce(jnp.add, with_each) / len(with_each))
        return jnp.concatenate(value)

    def positives(
        self, a: Float[Array, "n d"], b: Float[Array, "n d"], *, copies: int = 1
    ) -> "Positives":
        """Each point a[i] with b[i], repeated for both of them with copies=2."""
        value, logit = _partition.paired_logits(
            a,
            b,
            temperature=self.temperature.for_positives,
            similarity=self.similarity.for_positives,
            copies=copies,
        )
        return Positives(value, logit)

    def show(
        self,
        negatives: "Negatives",
        positives: "Positives | Pairs",
        sums: "Sums | None",
        bias: Float[Array, ""] | None = None,
    ) -> None:
        """Shows to whoever watches who is compared with whom."""
        if self.seen is not None:
            self.seen.append(Seen(self, negatives, (positives,), sums, bias))

    def against_one(
        self, sums: "Sums", positives: "Positives", *, decoupled: bool = False
    ) -> Float[Array, " n"]:
        """The loss of each anchor with one positive."""
        over_positive = sums.log_sum - positives.logit
        value = over_positive if decoupled else jax.nn.softplus(over_positive)
        return self._smoothed(value, sums, positives.logit, 1.0)

    def against_many(
        self,
        negatives: "Negatives",
        positives: tuple[tuple[Any, Any], Allowed],
        *,
        decoupled: bool = False,
    ) -> Float[Array, " n"]:
        """The loss of each anchor, with the mean over its positives; 0 for one that has none."""
        pairs = self.many_positives(negatives, *positives)
        sums = self.sums(negatives, pairs)
        total = sums.log_sum
        if not decoupled:
            total = _partition.log_add(total, _partition.log_partition(pairs))
        mean, count = _partition.mean_logit(pairs)
        value = self._smoothed(total - mean, sums, mean, count)
        contrasted = count > 0
        if decoupled:  # all candidates may be positives
            contrasted &= sums.log_sum > -jnp.inf
        return jnp.where(contrasted, value, 0.0)

    def many_positives(
        self, negatives: "Negatives", groups: tuple[Any, Any], allowed: Allowed
    ) -> Pairs:
        """Those of the candidates that are positives of the anchors."""
        of_batch, *_ = negatives.parts
        similarity = self.similarity.for_positives
        if self.reduction.reverse_only:
            check_closed(similarity, of_batch.anchors.shape[1])
        return of_batch._replace(
            temperature=self.temperature.for_positives,
            similarity=similarity,
            groups=groups,
            allowed=allowed,
            weights=Weights(),
        )

    def _smoothed(
        self,
        value: Float[Array, " n"],
        negatives: "Sums",
        positive: Float[Array, " n"],
        count: Float[Array, " n"] | float,
    ) -> Float[Array, " n"]:
        """The cross-entropy whose target is spread, in part, over all candidates alike."""
        if negatives.mean is None or negatives.number is None:
            return value
        smoothing = jnp.asarray(self.label_smoothing, value.dtype)
        share = smoothing * negatives.number / jnp.maximum(negatives.number + count, 1.0)
        return value + share * (positive - negatives.mean)


class Negatives(NamedTuple):
    """All negatives of the anchors: those of the batch, then further ones."""

    parts: tuple[Pairs, ...]
    log_of_all: Float[Array, ""] | None = None  # logarithm of the weight of each

    def beside(self, others: "Negatives") -> "Negatives":
        """Both together, of the same anchors."""
        return self._replace(parts=self.parts + others.parts)

    def or_zero(self, value: Float[Array, " n"], sums: "Sums") -> Float[Array, " n"]:
        """The value without the positive in the sum; 0, without a gradient, without a negative."""
        masked = any(mask is not None for pairs in self.parts for mask in pairs.real)
        weighted = self.log_of_all is not None or any(pairs.weighted for pairs in self.parts)
        # Else every anchor has one: losses refuse a batch of one example.
        return jnp.where(sums.log_sum == -jnp.inf, 0.0, value) if masked or weighted else value


class Positives(NamedTuple):
    """The one positive of each anchor; `of` says which anchors have this one, None: all."""

    similarity: Float[Array, " n"]
    logit: Float[Array, " n"]
    of: Bool[Array, " n"] | None = None


class Sums(NamedTuple):
    """What negatives add up to.

    Attributes:
        log_sum: N_i, their log-partition.
        mean: the mean of their logits, where it is needed.
        number: how many they are, where it is needed.
    """

    log_sum: Float[Array, "..."]
    mean: Float[Array, "..."] | None = None
    number: Float[Array, "..."] | None = None

    def beside(self, others: "Sums") -> "Sums":
        """The sums over both together."""
        return _joined(self, others)


class Seen(NamedTuple):
    """Who is compared with whom, and how: by a softmax, or by a sigmoid with its bias."""

    plan: Plan
    negatives: Negatives
    positives: tuple[Positives | Pairs, ...]
    sums: Sums | None
    bias: Float[Array, ""] | None = None


def _joined(*parts: Sums) -> Sums:
    """The sums over all of the negatives of several parts."""
    log_sum = functools.reduce(_partition.log_add, [part.log_sum for part in parts])
    counted = [
        (part.mean, part.number)
        for part in parts
        if part.mean is not None and part.number is not None
    ]
    if not counted:
        return Sums(log_sum)
    number = functools.reduce(jnp.add, [number for _, number in counted])
    total = functools.reduce(jnp.add, [mean * number for mean, number in counted])
    return Sums(log_sum, total / jnp.maximum(number, 1.0), number)


def twice(x: Array | None) -> Array | None:
    """For the anchors of both views."""
    return None if x is None else jnp.concatenate([x, x])


def keep(value: Float[Array, " n"], real: Bool[Array, " n"] | None) -> Float[Array, " n"]:
    """Zero, without a gradient, for the anchors that only fill up the batch."""
    return value if real is None else jnp.where(real, value, 0.0)
