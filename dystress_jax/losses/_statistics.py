"""What a loss and its temperature do to the pairs of a batch, anchor by anchor, in linear memory.

A loss shows who is compared with whom; the same strategy then visits the pairs twice more. The
microscope of a run is another look: of a few anchors on one device, with true and false negatives
apart and the exact order of each anchor's negatives.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..errors import ArgumentError
from ..similarities import Similarity
from ..temperatures import Temperature, TemperatureLike
from . import _partition
from ._on_mesh import Loss, by_own_devices
from ._partition import Pairs, Side
from ._plan import Positives, Seen
from ._strategies import AxisName, StrategyLike, TileSize, Watched, as_strategy

LOG_TAU = (-3.0, 1.0)  # ends of the histogram of log10 tau
# Bins between the least and the greatest similarity of an anchor, for its hardest negatives.
OWN_BINS = 128


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
        positive_logit: the logit of the positive, of several their mean.
        positive_probability: their softmax probability among positives and negatives.
        entropy: of the softmax over the negatives, in nats.
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
    loss: Loss,
    *arrays: Any,
    temperature: TemperatureLike,
    bins: int = 64,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
    **options: Any,
) -> Statistics:
    r"""What a loss with its temperature does to each anchor: two more passes, in linear memory.

    With the softmax $q_{ij} = e^{l_{ij} - N_i}$ over the negatives j of anchor i (weights are part
    of it), its entropy, the number of effective negatives and the share of j in the gradient that
    pushes the anchor away are

    $$H_i = -\sum_j q_{ij} \log q_{ij}, \qquad e^{H_i}, \qquad
      \frac{q_{ij} |dl_{ij} / ds_{ij}|}{\sum_k q_{ik} |dl_{ik} / ds_{ik}|}$$

    The derivative is that of training: a temperature with `stop_gradient` counts as a number in it.

    Args:
        loss: one of `dystress_jax.losses` with a softmax (all but `siglip`), the same with options
            (`functools.partial`), or a function of your own around one.
        *arrays: what the loss takes by position.
        temperature: as the loss takes it.
        bins: of the histograms, >= 1.
        strategy: as the loss takes it, and the same memory, with `bins` numbers for each anchor.
        tile_size: as the loss takes it.
        axis_name: as the loss takes it. For whole arrays over a mesh take
            `on_mesh(functools.partial(statistics, loss), mesh)`.
        **options: further keywords of the loss.

    Returns:
        `Statistics`, with one row for each anchor, in the order of the values of the loss; of
        `clip` first the images, then the texts. Rows that only fill up the batch have no negatives.
        The limit of the most similar 1 % or 10 % is found to a 128th of the range of the
        similarities of the anchor: the bin in which it lies counts in part, its pairs alike. Of
        more than two views the negatives are those in all views. No gradients.

    Raises:
        ArgumentError: as the loss, for a loss without a softmax, and when bins < 1.

    Example:
        >>> from . import nt_xent
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> found = statistics(nt_xent, views, views, temperature=0.5)
        >>> found.effective_negatives
        Array([2.882, 4.   , 2.882, 2.882, 4.   , 2.882], dtype=float32)
        >>> found.negatives.similarity.mean
        Array([-0.5,  0. , -0.5, -0.5,  0. , -0.5], dtype=float32)
    """
    how = {"strategy": strategy, "tile_size": tile_size, "axis_name": axis_name}
    of_loss = by_own_devices(functools.partial(_statistics, loss))
    return of_loss(*arrays, temperature=temperature, bins=bins, **how, **options)


def _statistics(
    loss: Loss,
    *arrays: Any,
    temperature: TemperatureLike,
    bins: int,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
    **options: Any,
) -> Statistics:
    """The same, on the devices where it is called."""
    if bins < 1:
        raise ArgumentError("bins", f"found {bins}; allowed: at least 1.")
    seen: list[Seen] = []
    watched = Watched(as_strategy(strategy, tile_size, axis_name), seen)
    loss(*arrays, temperature=temperature, strategy=watched, **options)
    if not seen:
        raise ArgumentError(
            "loss",
            f"found {getattr(loss, '__name__', loss)!r}; allowed: a loss of dystress_jax.losses "
            "with a softmax, or one that hands its `strategy` on to one.",
        )
    parts = [jax.lax.stop_gradient(_of(each, bins)) for each in seen]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


class _Sums(NamedTuple):
    """Sums over pairs, of each anchor."""

    number: Array
    entropy: Array
    pull: Array
    similarity: tuple[Array, Array, Array]  # sum, least, greatest
    tau: tuple[Array, Array, Array]


class _Bins(NamedTuple):
    """Histograms over pairs, of each anchor."""

    similarity: Array
    tau: Array
    own: Array  # how many, between the anchor's own least and greatest similarity
    pull: Array  # their part in the gradient


class _Seen(NamedTuple):
    """Each pair of a tile."""

    counts: Bool[Array, "n m"]
    similarity: Float[Array, "n m"]
    tau: Float[Array, "n m"]
    log_weight: Float[Array, "n m"]  # the logarithm of q
    pull: Float[Array, "n m"]  # q |dl / ds|


def _of(seen: Seen, bins: int) -> Statistics:
    """The statistics of one set of anchors."""
    log_sum = seen.sums.log_sum
    more = seen.negatives.log_of_all
    # The weight of all negatives alike does not change how they are spread.
    shift = log_sum if more is None else log_sum - more.astype(log_sum.dtype)
    sums, histograms = _spread_over(seen.negatives.parts, shift, bins)
    hardest = _hardest(histograms, sums)
    logit, probability, positives = _of_positives(seen, log_sum, bins)
    return Statistics(
        logit,
        probability,
        sums.entropy,
        jnp.exp(sums.entropy),
        hardest(0.01),
        hardest(0.1),
        positives,
        _kind(sums, histograms),
    )


def _of_positives(seen: Seen, log_sum: Array, bins: int) -> tuple[Array, Array, Kind]:
    """Mean logit, probability, and similarities and temperatures of the positives."""
    first = seen.positives[0]
    if isinstance(first, Pairs):
        log_positive = _partition.log_partition(first)
        logit, count = _partition.mean_logit(first)
        shift = jnp.where(jnp.isfinite(log_positive), log_positive, 0.0)
        kind = _kind(*_spread_over((first,), shift, bins))
        logit = jnp.where(count > 0, logit, jnp.nan)
        return logit, _probability(log_positive, log_sum), kind
    several = [each for each in seen.positives if isinstance(each, Positives)]
    column = lambda values: jnp.stack(values, axis=1)
    value = column([each.similarity for each in several])
    logits = column([each.logit for each in several])
    everybody = jnp.ones(value.shape[:1], bool)
    counts = column([everybody if each.of is None else each.of for each in several])
    real = seen.negatives.parts[0].real[0]
    counts = counts if real is None else counts & real[:, None]
    similarity, temperature = seen.plan.similarity, seen.plan.temperature.for_positives
    cosine = similarity.as_cosine(value)
    tau = _partition.cast(temperature, value.dtype)(cosine)
    count = jnp.sum(counts.astype(value.dtype), axis=1)
    mean = lambda x: jnp.sum(jnp.where(counts, x, 0.0), axis=1) / count
    pairs = _Seen(counts, cosine, tau, 0 * value, 0 * value)
    sums = _add_sums(pairs, _no_sums(value[:, 0]))
    kind = _kind(sums, _add_bins(pairs, sums, _no_bins(value[:, 0], bins)))
    return mean(logits), mean(_probability(logits, log_sum[:, None])), kind


def _probability(logit: Array, log_sum: Array) -> Array:
    """Of what has that logit beside negatives with that log-partition."""
    return jax.nn.sigmoid(jnp.where(log_sum == logit, 0.0, logit - log_sum))


def _spread_over(parts: tuple[Pairs, ...], shift: Array, bins: int) -> tuple[_Sums, _Bins]:
    """Sums, and then histograms, over the candidates of all parts."""
    sums = _no_sums(shift)
    for pairs in parts:
        sums = _visit(pairs, shift, sums, lambda found, own, sums: _add_sums(found, sums))
    histograms = _no_bins(shift, bins)
    for pairs in parts:
        histograms = _visit(pairs, shift, histograms, _add_bins, own=sums)
    return sums, histograms


def _visit(pairs: Pairs, shift: Array, state: Any, add: Callable, own: Any = None) -> Any:
    """Folds `state = add(pairs of a tile, own, state)`; `own` is what belongs to the rows."""
    temperature, rows, columns = pairs.sides()

    def visit(rows, columns, there, state):
        (rows, own) = rows
        return add(_look(pairs, temperature, rows, columns, there), own, state)

    return pairs.strategy.fold(visit, (rows._replace(shift=shift), own), columns, state)


def _look(
    pairs: Pairs,
    temperature: Temperature,
    rows: Side,
    columns: Side,
    there: Bool[Array, " m"] | None,
) -> _Seen:
    """Each pair of rows and columns."""
    similarity: Similarity = pairs.similarity
    temperature = temperature if rows.temperature is None else rows.temperature
    value = similarity.between(rows.points, columns.points)
    logit, slope = jax.jvp(
        lambda v: _partition.logits(similarity, temperature, v), (value,), (jnp.ones_like(value),)
    )
    counts = _partition.takes_part_in(pairs.allowed, rows, columns)
    counts = jnp.ones((1, 1), bool) if counts is None else counts
    counts = counts if there is None else counts & there[None, :]
    counts = jnp.broadcast_to(counts, value.shape)
    weight = _partition.weight_of(rows, columns)
    if weight is not None:
        logit = logit + jnp.log(jnp.where(weight > 0, weight, 1.0))
    assert rows.shift is not None
    log_weight = jnp.where(counts, logit - rows.shift[:, None], -jnp.inf)
    cosine = similarity.as_cosine(value)
    pull = jnp.exp(log_weight) * jnp.abs(slope)
    return _Seen(counts, cosine, temperature(cosine), log_weight, pull)


def _no_sums(like: Array) -> _Sums:
    zero = jnp.zeros_like(like)
    nothing = zero, jnp.full_like(zero, jnp.inf), jnp.full_like(zero, -jnp.inf)
    return _Sums(zero, zero, zero, nothing, nothing)


def _add_sums(found: _Seen, sums: _Sums) -> _Sums:
    total = lambda x: jnp.sum(jnp.where(found.counts, x, 0.0), axis=1)

    def spread(x, before):
        least = jnp.min(jnp.where(found.counts, x, jnp.inf), axis=1)
        greatest = jnp.max(jnp.where(found.counts, x, -jnp.inf), axis=1)
        return (
            before[0] + total(x),
            jnp.minimum(before[1], least),
            jnp.maximum(before[2], greatest),
        )

    finite = jnp.where(found.counts, found.log_weight, 0.0)
    return _Sums(
        sums.number + jnp.sum(found.counts.astype(sums.number.dtype), axis=1),
        sums.entropy - total(jnp.exp(finite) * finite),
        sums.pull + total(found.pull),
        spread(found.similarity, sums.similarity),
        spread(found.tau, sums.tau),
    )


def _no_bins(like: Array, bins: int) -> _Bins:
    zeros = lambda number: jnp.zeros_like(like, shape=(*like.shape, number))
    return _Bins(zeros(bins), zeros(bins), zeros(OWN_BINS), zeros(OWN_BINS))


def _add_bins(found: _Seen, own: _Sums, bins: _Bins) -> _Bins:
    _, low, high = own.similarity
    some = jnp.isfinite(low) & (high > low)
    start, width = jnp.where(some, low, -1.0), jnp.where(some, high - low, 2.0)
    at = (found.similarity - start[:, None]) / width[:, None]
    alike = jnp.ones_like(found.similarity)
    add = lambda histogram, at, mass: _add(histogram, at, jnp.where(found.counts, mass, 0.0))
    log_low, log_high = LOG_TAU
    return _Bins(
        add(bins.similarity, (found.similarity + 1) / 2, alike),
        add(bins.tau, (jnp.log10(found.tau) - log_low) / (log_high - log_low), alike),
        add(bins.own, at, alike),
        add(bins.pull, at, found.pull),
    )


def _add(
    histogram: Float[Array, "n bins"], at: Float[Array, "n m"], mass: Float[Array, "n m"]
) -> Float[Array, "n bins"]:
    """Adds each mass to the bin at that part of the range; what lies outside to the last ones."""
    number = histogram.shape[1]
    index = jnp.clip(jnp.floor(at * number), 0, number - 1).astype(jnp.int32)
    row = jnp.arange(histogram.shape[0], dtype=jnp.int32)[:, None]
    return histogram.at[row, index].add(mass)


def _hardest(bins: _Bins, sums: _Sums) -> Callable[[float], Array]:
    """The share of the gradient that the most similar part of the negatives has."""
    own, pull = bins.own[:, ::-1], bins.pull[:, ::-1]
    before = jnp.cumsum(own, axis=1) - own

    def share(part: float) -> Array:
        number = jnp.maximum(jnp.ceil(part * sums.number), 1.0)[:, None]
        taken = jnp.clip((number - before) / jnp.maximum(own, 1.0), 0.0, 1.0)
        return jnp.sum(taken * pull, axis=1) / sums.pull

    return share


def _kind(sums: _Sums, bins: _Bins) -> Kind:
    def spread(found, histogram):
        total, low, high = found
        return Spread(total / sums.number, low, high, histogram)

    return Kind(
        sums.number,
        spread(sums.similarity, bins.similarity),
        spread(sums.tau, bins.tau),
    )
