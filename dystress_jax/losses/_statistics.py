"""What a loss and its temperature do to the pairs of a batch, anchor by anchor, in linear memory.

A loss shows who is compared with whom; the same strategy then visits the pairs again. The
microscope of a run is another look: of a few anchors on one device, with true and false negatives
apart and the exact order of each anchor's negatives.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..errors import ArgumentError, at_least_one
from ..temperatures import TemperatureLike
from . import _pairs, _partition
from ._each_pair import EachPair, PairTile, add_in
from ._hardest import count_first, hardest_shares, no_counts
from ._own_devices import by_own_devices
from ._pairs import Pairs
from ._plan import Positives, Seen, Sums
from ._strategies import AxisName, Loss, Recording, StrategyLike, TileSize, as_strategy

LOG_TAU = (-3.0, 1.0)  # ends of the histogram of log10 tau


class Spread(NamedTuple):
    """How a number is spread over the pairs of each anchor.

    Attributes:
        mean: the mean; NaN for an anchor without a pair.
        low: the least; infinite for an anchor without a pair.
        high: the greatest.
        histogram: how many pairs lie in each bin; what lies outside counts in the first or last.
    """

    mean: Float[Array, " anchors"]
    low: Float[Array, " anchors"]
    high: Float[Array, " anchors"]
    histogram: Float[Array, "anchors bins"]


class Kind(NamedTuple):
    """The pairs of one kind.

    Attributes:
        number: how many each anchor has.
        similarity: s on the scale of the cosine; bins of equal width from -1 to 1.
        tau: the temperature; bins of equal width in log10 tau, from 0.001 to 10.
    """

    number: Float[Array, " anchors"]
    similarity: Spread
    tau: Spread


class Statistics(NamedTuple):
    """What `statistics` finds, of each anchor.

    Attributes:
        positive_logit: the logit of the positive, of several their mean; of `siglip` with its bias.
        positive_probability: their softmax probability among positives and negatives; of `siglip`
            the mean of their sigmoids.
        entropy: of the shares q of the negatives, in nats.
        effective_negatives: e to the entropy: as many equally hard negatives have it.
        hardest_1_percent: share of the most similar 1 % of the negatives, at least one of them, in
            the gradient that pushes the anchor away.
        hardest_10_percent: the same of 10 %.
        positives: their similarities and temperatures.
        negatives: the same of the negatives.
    """

    positive_logit: Float[Array, " anchors"]
    positive_probability: Float[Array, " anchors"]
    entropy: Float[Array, " anchors"]
    effective_negatives: Float[Array, " anchors"]
    hardest_1_percent: Float[Array, " anchors"]
    hardest_10_percent: Float[Array, " anchors"]
    positives: Kind
    negatives: Kind

    @property
    def similarity_edges(self) -> Float[Array, " edges"]:
        """Of the bins of the histograms of similarities."""
        return jnp.linspace(-1.0, 1.0, self.negatives.similarity.histogram.shape[1] + 1)

    @property
    def tau_edges(self) -> Float[Array, " edges"]:
        """Of the bins of the histograms of temperatures."""
        return 10 ** jnp.linspace(*LOG_TAU, self.negatives.tau.histogram.shape[1] + 1)


def statistics(
    loss: Loss[Any],
    *arrays: Any,
    temperature: TemperatureLike | None = None,
    bins: int = 64,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
    **options: Any,
) -> Statistics:
    r"""What a loss with its temperature does to each anchor: four more passes, in linear memory.

    The share q of a negative j is what it has of the gradient by the logits of the negatives:
    that of a softmax with its log-partition N, weights being part of it, and of `siglip`, whose
    pairs each have a sigmoid of their own,

    $$q_{ij} = e^{l_{ij} - N_i}, \qquad q_{ij} = \frac{\sigma(l_{ij})}{\sum_k \sigma(l_{ik})}
      \text{ with } l_{ij} = t\, s_{ij} + b$$

    With it the entropy, the number of effective negatives and what j has of the gradient that
    pushes the anchor away are

    $$H_i = -\sum_j q_{ij} \log q_{ij}, \qquad e^{H_i}, \qquad
      \frac{q_{ij} |dl_{ij} / ds_{ij}|}{\sum_k q_{ik} |dl_{ik} / ds_{ik}|}$$

    The derivative is that of training: a temperature with `stop_gradient` counts as a number in it.
    The microscope of a run takes the entropy of these last shares, not of q: the two are equal
    where the temperature is the same for all negatives of an anchor.

    Args:
        loss: one of `dystress_jax.losses`, the same with options (`functools.partial`), or a
            function of your own around one.
        *arrays: what the loss takes by position.
        temperature: as the loss takes it; None: it takes none, as `siglip` with its `scale`.
        bins: of the histograms, >= 1.
        strategy: as the loss takes it, and the same memory, with one or two thousand numbers for
            each anchor.
        tile_size: as the loss takes it.
        axis_name: as the loss takes it. For whole arrays over a mesh take
            `on_mesh(functools.partial(statistics, loss), mesh)`.
        **options: further keywords of the loss.

    Returns:
        `Statistics`, with one row for each anchor, in the order of the values of the loss; of
        `clip` first the images, then the texts. Rows that only fill up the batch have no negatives.
        The most similar 1 % and 10 % are exact; where their limit lies among pairs of equal
        similarity, in float32, these count in proportion. To find an exact limit in linear memory
        takes more than one pass. Of more than two views the negatives are those in all views. No
        gradients.

    Raises:
        ArgumentError: as the loss, for a function without one of these losses, and when bins < 1.

    Example:
        >>> from dystress_jax.losses import nt_xent
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> found = statistics(nt_xent, views, views, temperature=0.5)
        >>> found.effective_negatives
        Array([2.882, 4.   , 2.882, 2.882, 4.   , 2.882], dtype=float32)
        >>> found.negatives.similarity.mean
        Array([-0.5,  0. , -0.5, -0.5,  0. , -0.5], dtype=float32)
    """
    how = {"strategy": strategy, "tile_size": tile_size, "axis_name": axis_name}
    how |= {} if temperature is None else {"temperature": temperature}
    of_loss = by_own_devices(functools.partial(_statistics, loss))
    return of_loss(*arrays, bins=bins, **how, **options)


def _statistics(
    loss: Loss[Any],
    *arrays: Any,
    bins: int,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
    **options: Any,
) -> Statistics:
    """The same, on the devices where it is called."""
    at_least_one(bins=bins)
    seen: list[Seen] = []
    recording = Recording(as_strategy(strategy, tile_size, axis_name), seen)
    loss(*arrays, strategy=recording, **options)
    if not seen:
        raise ArgumentError(
            "loss",
            f"found {getattr(loss, '__name__', loss)!r}; allowed: a loss of dystress_jax.losses, "
            "or one that hands its `strategy` on to one.",
        )
    parts = [jax.lax.stop_gradient(_of_anchors(each, bins)) for each in seen]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


class _SpreadSums(NamedTuple):
    """How a number is spread over the pairs of each anchor, before the division."""

    total: Array
    low: Array
    high: Array
    histogram: Array


class _PairSums(NamedTuple):
    """Sums over pairs, of each anchor."""

    number: Array
    logit: Array
    share: Array
    entropy: Array
    similarity: _SpreadSums
    tau: _SpreadSums


def _of_anchors(seen: Seen, bins: int) -> Statistics:
    """The statistics of one set of anchors."""
    pairs = _negatives(seen)

    def add(tile: PairTile, own: Any, both: tuple[_PairSums, Array]) -> tuple[_PairSums, Array]:
        found, first = both
        return _add_tile(tile, own, found), count_first(tile, first)

    like = pairs.log_total
    found, first = pairs.fold(add, (_no_pairs(like, bins), no_counts(like)))
    of_1_percent, of_10_percent = hardest_shares(pairs, first, (100, 10))
    logit, probability, positives = _of_positives(seen, bins)
    return Statistics(
        logit,
        probability,
        found.entropy,
        jnp.exp(found.entropy),
        of_1_percent,
        of_10_percent,
        positives,
        _as_kind(found),
    )


def _negatives(seen: Seen) -> EachPair:
    """All negatives, with what their shares in the gradient add up to."""
    if seen.bias is not None:
        return EachPair.of_sigmoid(seen.negatives.parts, seen.bias)
    assert seen.sums is not None
    total, more = seen.sums.log_sum, seen.negatives.log_of_all
    # The weight of all negatives alike does not change how they are spread.
    total = total if more is None else total - more.astype(total.dtype)
    return EachPair(seen.negatives.parts, total)


def _of_positives(seen: Seen, bins: int) -> tuple[Array, Array, Kind]:
    """Mean logit, probability, and similarities and temperatures of the positives."""
    first = seen.positives[0]
    if seen.sums is None:
        assert isinstance(first, Pairs)
        return _of_many_in_sigmoid(first, seen.bias, bins)
    if isinstance(first, Pairs):
        return _of_many_in_softmax(first, seen.sums.log_sum, bins)
    return _of_one_each(seen, seen.sums, bins)


def _of_many_in_softmax(
    positives: Pairs, log_sum: Float[Array, " n"], bins: int
) -> tuple[Array, Array, Kind]:
    """Of many positives an anchor, beside negatives with that log-partition."""
    of_positives = _partition.log_partition(positives)
    shift = jnp.where(jnp.isfinite(of_positives), of_positives, 0.0)
    sums = _over_all(EachPair((positives,), shift), bins)
    return sums.logit / sums.number, _probability(of_positives, log_sum), _as_kind(sums)


def _of_many_in_sigmoid(
    positives: Pairs, bias: Float[Array, ""] | None, bins: int
) -> tuple[Array, Array, Kind]:
    """Of many positives an anchor, where a sigmoid says of each by itself how probable it is."""
    _, rows, _ = positives.sides()
    zero = jnp.zeros_like(rows.points, shape=rows.points.shape[:1])
    sums = _over_all(EachPair((positives,), zero, bias), bins)
    return sums.logit / sums.number, sums.share / sums.number, _as_kind(sums)


def _of_one_each(seen: Seen, sums: Sums, bins: int) -> tuple[Array, Array, Kind]:
    """Of one positive an anchor in each view."""
    several = [each for each in seen.positives if isinstance(each, Positives)]
    column = lambda values: jnp.stack(values, axis=1)
    value = column([each.similarity for each in several])
    logits = column([each.logit for each in several])
    everybody = jnp.ones(value.shape[:1], bool)
    counts = column([everybody if each.of is None else each.of for each in several])
    real = seen.negatives.parts[0].real[0]
    counts = counts if real is None else counts & real[:, None]
    cosine = seen.plan.similarity.as_cosine(value)
    tau = _pairs.as_dtype(seen.plan.temperature.for_positives, value.dtype)(cosine)
    zero = jnp.zeros_like(value)
    tile = PairTile(counts, cosine, tau, logits, log_share=zero, pull=zero)
    found = _add_tile(tile, None, _no_pairs(value[:, 0], bins))
    probability = _probability(logits, sums.log_sum[:, None])
    of_all = jnp.sum(jnp.where(counts, probability, 0.0), axis=1)
    return found.logit / found.number, of_all / found.number, _as_kind(found)


def _probability(logit: Array, log_sum: Array) -> Array:
    """Of what has that logit beside negatives with that log-partition."""
    return jax.nn.sigmoid(jnp.where(log_sum == logit, 0.0, logit - log_sum))


def _over_all(pairs: EachPair, bins: int) -> _PairSums:
    """Sums and histograms over all pairs."""
    return pairs.fold(_add_tile, _no_pairs(pairs.log_total, bins))


def _no_pairs(like: Array, bins: int) -> _PairSums:
    zero = jnp.zeros_like(like)
    empty = jnp.zeros_like(like, shape=(*like.shape, bins))
    spread = _SpreadSums(zero, zero + jnp.inf, zero - jnp.inf, empty)
    return _PairSums(zero, zero, zero, zero, spread, spread)


def _add_tile(tile: PairTile, own: Any, found: _PairSums) -> _PairSums:
    del own
    only = lambda x, other: jnp.where(tile.counts, x, other)
    total = lambda x: jnp.sum(only(x, 0.0), axis=1)

    def spread(x: Array, at: Array, before: _SpreadSums) -> _SpreadSums:
        return _SpreadSums(
            before.total + total(x),
            jnp.minimum(before.low, jnp.min(only(x, jnp.inf), axis=1)),
            jnp.maximum(before.high, jnp.max(only(x, -jnp.inf), axis=1)),
            _count_bins(before.histogram, at, tile.counts),
        )

    log_share = only(tile.log_share, 0.0)
    share = jnp.exp(log_share)
    log_low, log_high = LOG_TAU
    of_tau = (jnp.log10(tile.tau) - log_low) / (log_high - log_low)
    return _PairSums(
        found.number + jnp.sum(tile.counts.astype(found.number.dtype), axis=1),
        found.logit + total(tile.logit),
        found.share + total(share),
        found.entropy - total(share * log_share),
        spread(tile.similarity, (tile.similarity + 1) / 2, found.similarity),
        spread(tile.tau, of_tau, found.tau),
    )


def _count_bins(
    histogram: Float[Array, "n bins"], at: Float[Array, "n m"], counts: Bool[Array, "n m"]
) -> Float[Array, "n bins"]:
    """Counts each pair at that part of the range; what lies outside counts in the last bins."""
    bins = histogram.shape[1]
    index = jnp.clip(jnp.floor(at * bins), 0, bins - 1).astype(jnp.int32)
    return add_in(histogram, index, counts, jnp.ones_like(at, histogram.dtype))


def _as_kind(found: _PairSums) -> Kind:
    def of(spread: _SpreadSums) -> Spread:
        return Spread(spread.total / found.number, *spread[1:])

    return Kind(found.number, of(found.similarity), of(found.tau))
