"""One look at the pairs of a batch: histograms, distances between them, and single numbers."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped, UInt32

from .. import metrics
from .._order import ordinals
from .._placement import of_whole_arrays
from ..losses._pairs import unlabelled_apart
from ..similarities import Similarity, at_least_float32
from ..temperatures import LearnedWithBias, Temperature, check_elementwise, of_anchors
from ._compared import Compared

MAX_ANCHORS = 1024
PAIRS_AT_ONCE = 2**20
# True and false negatives are those of other classes and those of the anchor's own.
KINDS = ("positive", "negative", "true_negative", "false_negative")

SIMILARITY_BINS = 200
# Ends of the logarithms of 10, and an odd number of bins: 0.1 lies in the middle of one.
TAU_BINS = (-3.0, 1.0, 255)
WEIGHT_BINS = (-8.0, 0.0, 128)

Found = dict[str, Array]
Fetched = Mapping[str, Any]  # the same on the host


@of_whole_arrays
def look(
    compared: Compared, temperature: Temperature | None, *, max_anchors: int = MAX_ANCHORS
) -> Found:
    r"""What a temperature does to the pairs of a batch.

    With the logit $l_{ij} = s_{ij} / \tau(s_{ij})$ of anchor i and its negative j, the weight

    $$w_{ij} = \frac{e^{l_{ij}}\, |dl_{ij} / ds_{ij}|}
                    {\sum_k e^{l_{ik}}\, |dl_{ik} / ds_{ik}|}$$

    is the share of j in the gradient that pushes anchor i away, the same with the positive in the
    denominator of the loss and without it (of a temperature with a bias, which SigLIP has,
    $\sigma(l + b)$ takes the place of $e^l$). The derivative is that of training: a temperature
    with `stop_gradient` counts as a number in it.

    Args:
        compared: the pairs; of more than `max_anchors` anchors the first are looked at.
        temperature: what the loss uses, for one anchor each the first entries belong to these
            anchors; None: the method has none, and only similarities are measured.
        max_anchors: at least 2.

    Returns:
        Arrays by name. Histograms have a row for each of `KINDS`: `similarity` (counts, between
        `similarity_edges`, on the scale of the cosine), `tau` (counts, between `tau_edges`),
        `weight` (counts, between `weight_edges`) and `gradient` (the mean over the anchors of the
        weight that lies at each similarity). `value_edges` are the similarity's own values at the
        `similarity_edges`. What lies outside counts in the first or last bin,
        NaN in none. With a temperature there are curves at the `similarity_edges`, those of a
        negative: `curve_tau`, `curve_logit`, `curve_slope` (of the logit, in the gradient) and
        `curve_log_weight` (of $e^{l}\,|dl/ds|$); of several anchors the mean. `anchors` are those
        that were looked at, for `complete`. Everything else is a single number, see `scalars`; NaN
        where it cannot be said, such as measures of classes without labels.

    Example:
        >>> from dystress_jax import temperatures
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> rows = jnp.arange(3)
        >>> pairs = Compared(x, x, x, groups=(rows, rows), labels=(rows, rows))
        >>> found = jax.jit(lambda: look(pairs, temperatures.constant(0.5)))()
        >>> found["similarity"].sum(axis=1)
        Array([3, 6, 6, 0], dtype=int32)
        >>> found["effective_negatives"]
        Array(1.627, dtype=float32)
    """
    n = min(len(compared.anchors), max_anchors)
    anchors, positives = (at_least_float32(x[:n]) for x in (compared.anchors, compared.positives))
    labels, similarity = compared.labels[0][:n], compared.similarity
    points = similarity.project(anchors)
    positive = similarity.paired(points, similarity.project(positives))
    others = None
    if compared.candidates is not None:
        others = similarity.project(at_least_float32(compared.candidates))
    ends = (*_ends(compared, points, positive, others), SIMILARITY_BINS)
    found = _of_embeddings(anchors, positives, labels)
    found["value_edges"] = _edges(ends)
    found["similarity_edges"] = similarity.as_cosine(found["value_edges"])
    if temperature is not None:
        check_elementwise(temperature)
        found |= {"tau_edges": 10 ** _edges(TAU_BINS), "weight_edges": 10 ** _edges(WEIGHT_BINS)}
        found |= _curves(temperature, similarity, found["value_edges"], n)
    of_positives = _of_positives(positive, temperature, similarity, ends)
    if others is None or compared.groups is None:
        return found | {name: _with_kinds(h, None) for name, h in of_positives.items()}

    rows = _Anchor(points, compared.groups[0][:n], labels, jnp.arange(n))
    candidates = _Candidates(others, compared.groups[1], compared.labels[1])
    of_anchor = functools.partial(_of_anchor, candidates, temperature, similarity, ends, n)
    at_once = max(1, PAIRS_AT_ONCE // len(others))
    spread, numbers = jax.lax.map(of_anchor, rows, batch_size=at_once)
    for name, histogram_of in spread.items():
        total = jnp.sum(histogram_of, axis=0)
        found[name] = _with_kinds(
            of_positives.get(name), total / n if name == "gradient" else total
        )
    if numbers:  # none without a temperature
        found |= dict(zip(numbers, jnp.mean(jnp.stack([*numbers.values()]), axis=1), strict=True))
    bins = found["similarity"].astype(points.dtype)
    kinds = [[KINDS.index(kind) for kind in pair] for pair in _DISTANCES.values()]
    first, second = jnp.moveaxis(bins[jnp.array(kinds)], 1, 0)
    distances = jax.vmap(earth_movers_distance, (0, 0, None))
    apart = distances(first, second, found["similarity_edges"])
    return found | dict(zip(_DISTANCES, apart, strict=True))


_DISTANCES = {
    "emd_positive_negative": ("positive", "negative"),
    "emd_positive_true": ("positive", "true_negative"),
    "emd_positive_false": ("positive", "false_negative"),
    "emd_true_false": ("true_negative", "false_negative"),
}
_HISTOGRAMS = ("similarity", "tau", "weight", "gradient")


def complete(found: Fetched) -> dict[str, Any]:
    """A look with the effective rank of its anchors in place of the anchors themselves.

    Not in the program of the look: with a busy processor the singular values of XLA take up to a
    second there. Here they are the roots of the eigenvalues of the smaller matrix of products, in
    float64.

    Args:
        found: as `look` returns it, fetched.

    Example:
        >>> complete({"anchors": np.eye(3, dtype=np.float32)})
        {'effective_rank': np.float32(3.0)}
    """
    anchors = np.asarray(found["anchors"], np.float64)
    rank = np.nan
    if np.isfinite(anchors).all():
        length = np.linalg.norm(anchors, axis=1, keepdims=True)
        points = anchors / np.where(length > 0, length, 1.0)
        small = points if points.shape[0] < points.shape[1] else points.T
        singular = np.sqrt(np.clip(np.linalg.eigvalsh(small @ small.T), 0.0, None))
        share = singular[singular > 0] / max(singular.sum(), np.finfo(np.float64).tiny)
        rank = np.exp(-np.sum(share * np.log(share)))
    kept = {name: value for name, value in found.items() if name != "anchors"}
    return kept | {"effective_rank": np.float32(rank)}


def histograms(found: Fetched) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The histograms of a look, by name and kind: edges and counts, those without a pair left out.

    Args:
        found: as `look` returns it, fetched.

    Returns:
        Edges [bins + 1] and counts [bins] for each name, such as `similarity_positive`.

    Example:
        >>> found = {
        ...     "similarity": np.array([[0, 3], [2, 4], [0, 0], [0, 0]]),
        ...     "similarity_edges": np.array([-1.0, 0.0, 1.0]),
        ... }
        >>> shown = histograms(found)
        >>> list(shown), shown["similarity_negative"][1].tolist()
        (['similarity_positive', 'similarity_negative'], [2, 4])
    """
    shown = {}
    for name in _HISTOGRAMS:
        if name not in found:
            continue
        edges = found["similarity_edges" if name == "gradient" else f"{name}_edges"]
        for kind, counts in zip(KINDS, found[name], strict=True):
            if np.sum(counts) > 0:
                shown[f"{name}_{kind}"] = (np.asarray(edges), np.asarray(counts))
    return shown


def scalars(found: Fetched) -> dict[str, float]:
    """The single numbers of a look, those that could not be said left out.

    `alignment`, `uniformity` and `effective_rank` of the anchors, scaled to length 1,
    `tolerance` and `inter_class_uniformity` of those that have a label (see `metrics`);
    `entropy` of the weights of an anchor, and `effective_negatives`, e to the entropy;
    `hardest_1_percent` and `hardest_10_percent`, what the most similar negatives have of the
    weights; `hardest_for_80_percent`, how many of the most similar negatives have 80 % of them;
    `emd_positive_negative`, `emd_positive_true`, `emd_positive_false` and `emd_true_false`, how far
    apart the histograms of the similarities of two kinds are (true and false negatives).
    What is said of an anchor is the mean over the anchors.

    Args:
        found: as `look` returns it, fetched.

    Example:
        >>> scalars({"entropy": np.float32(1.5), "tolerance": np.float32("nan"), "tau": np.ones(3)})
        {'entropy': 1.5}
    """
    numbers = {name: float(value) for name, value in found.items() if np.ndim(value) == 0}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def earth_movers_distance(
    a: Float[Array, " bins"], b: Float[Array, " bins"], edges: Float[Array, " edges"]
) -> Float[Array, ""]:
    r"""How far the mass of one histogram must be moved to make the other.

    $$\int |F_a(s) - F_b(s)|\, ds$$

    with the cumulative shares F. Each bin's mass counts as lying in its middle, so that the
    distance of the samples differs from it by at most the width of a bin.

    Args:
        a: mass in each bin, any total > 0.
        b: mass in each bin, any total > 0.
        edges: of the bins, ascending.

    Returns:
        The distance in the units of the edges; NaN where a histogram is empty.

    Example:
        >>> edges = jnp.array([0.0, 1.0, 2.0, 3.0])
        >>> earth_movers_distance(jnp.array([1.0, 0, 0]), jnp.array([0.0, 0, 2]), edges)
        Array(2., dtype=float32)
    """
    share = lambda mass: mass / jnp.sum(mass)
    middles = (edges[1:] + edges[:-1]) / 2
    return jnp.sum(jnp.abs(jnp.cumsum(share(a) - share(b)))[:-1] * jnp.diff(middles))


class _Anchor(NamedTuple):
    """One row of the pairs."""

    point: Float[Array, " d"]
    group: Int[Array, ""]
    label: Int[Array, ""]
    row: Int[Array, ""]


class _Candidates(NamedTuple):
    """The columns of the pairs."""

    points: Float[Array, "m d"]
    groups: Int[Array, " m"]
    labels: Int[Array, " m"]


def _of_embeddings(
    anchors: Float[Array, "n d"], positives: Float[Array, "n d"], labels: Int[Array, " n"]
) -> Found:
    # An anchor without a label is alone in a class of its own, which no pair has.
    known = labels >= 0
    classes = unlabelled_apart(labels, jnp.arange(len(labels)))
    return {
        "anchors": anchors,
        "alignment": metrics.alignment(anchors, positives),
        "uniformity": metrics.uniformity(anchors),
        "tolerance": metrics.tolerance(anchors, classes),
        "inter_class_uniformity": metrics.inter_class_uniformity(anchors, classes, where=known),
    }


def _ends(compared, points, positive, others) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
    """Of the similarity, in its own units; where it has no limits, those of this batch."""
    low, high = compared.similarity.low, compared.similarity.high
    if not (math.isinf(low) or math.isinf(high)):
        return low, high
    low, high = jnp.min(positive), jnp.max(positive)
    if others is not None:
        between = lambda point: compared.similarity.between(point[None], others)[0]
        ends = lambda point: (jnp.min(between(point)), jnp.max(between(point)))
        lows, highs = jax.lax.map(ends, points, batch_size=max(1, PAIRS_AT_ONCE // len(others)))
        low, high = jnp.minimum(low, jnp.min(lows)), jnp.maximum(high, jnp.max(highs))
    return low, jnp.where(high > low, high, low + 1)


Bins = tuple[Any, Any, int]  # lowest edge, highest edge, number


def _edges(bins: Bins) -> Float[Array, " edges"]:
    low, high, number = bins
    return jnp.linspace(low, high, number + 1)


def _number(name: str) -> int:
    return {"tau": TAU_BINS[2], "weight": WEIGHT_BINS[2]}.get(name, SIMILARITY_BINS)


def _bin(values: Float[Array, " m"], bins: Bins) -> Int[Array, " m"]:
    """The bin of each value: outside values are in the first or the last, NaN in none."""
    low, high, number = bins
    at = jnp.floor((values - low) / (high - low) * number)
    return jnp.where(jnp.isnan(values), number, jnp.clip(at, 0, number - 1)).astype(jnp.int32)


def _add(
    bins: Int[Array, " m"],
    kind: Int[Array, " m"],
    mass: Shaped[Array, " m"],
    shape: tuple[int, int],
) -> Shaped[Array, "kinds bins"]:
    """The mass of each kind in each bin; a kind or a bin too many counts nowhere."""
    return jnp.zeros(shape, mass.dtype).at[kind, bins].add(mass, mode="drop")


def _with_kinds(positive, negatives):
    """One row for each of `KINDS`; negatives are those of unknown, of other, of the same class."""
    if negatives is None:
        negatives = jnp.zeros((3, len(positive)), positive.dtype)
    if positive is None:
        positive = jnp.zeros_like(negatives[0])
    return jnp.concatenate([positive[None], jnp.sum(negatives, axis=0)[None], negatives[1:]])


def _for_rows(part: Temperature, n: int, row: Int[Array, ""] | None = None) -> Temperature:
    """The temperature of the first n anchors, or of one of them."""
    return of_anchors(part, slice(n) if row is None else row[None])


def _logits(
    part: Temperature, similarity: Similarity, values: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]:
    """Temperature and logit of the pairs of one anchor, and the logit's slope in the gradient."""
    tau_of = lambda value: part(similarity.as_cosine(value)[None])[0]
    # A division, so that a look in parts has the numbers of a look at once: with the reciprocal of
    # `losses.logits` their last digits differ.
    logit, slope = jax.jvp(lambda v: v / tau_of(v), (values,), (jnp.ones_like(values),))
    return tau_of(values), logit, slope


def _of_positives(
    positive: Float[Array, " n"],
    temperature: Temperature | None,
    similarity: Similarity,
    ends: Bins,
) -> Found:
    """The histograms of the positive pairs."""
    n = len(positive)
    bins = {"similarity": _bin(positive, ends)}
    if temperature is not None:
        tau = _for_rows(temperature.for_positives, n)(similarity.as_cosine(positive))
        bins["tau"] = _bin(jnp.log10(tau), TAU_BINS)
    one_kind, ones = jnp.zeros(n, jnp.int32), jnp.ones(n, jnp.int32)
    return {name: _add(at, one_kind, ones, (1, _number(name)))[0] for name, at in bins.items()}


def _of_anchor(
    candidates: _Candidates,
    temperature: Temperature | None,
    similarity: Similarity,
    ends: Bins,
    n: int,
    anchor: _Anchor,
) -> tuple[Found, Found]:
    """The histograms of the negatives of one of n anchors, and how their weights are spread."""
    values = similarity.between(anchor.point[None], candidates.points)[0]
    counts = anchor.group != candidates.groups
    known = (anchor.label >= 0) & (candidates.labels >= 0)
    # The number of a kind among the negatives; one more is no negative.
    kind = jnp.where(known, jnp.where(anchor.label == candidates.labels, 2, 1), 0)
    kind = jnp.where(counts, kind, 3)
    histogram = lambda name, bins, mass: _add(bins, kind, mass, (3, _number(name)))
    ones = jnp.ones(len(values), jnp.int32)
    at = _bin(values, ends)
    spread = {"similarity": histogram("similarity", at, ones)}
    if temperature is None:
        return spread, {}
    tau, logit, slope = _logits(
        _for_rows(temperature.for_negatives, n, anchor.row), similarity, values
    )
    weight = _weights(_pull(temperature, logit), slope, counts)
    spread |= {
        "tau": histogram("tau", _bin(jnp.log10(tau), TAU_BINS), ones),
        "weight": histogram("weight", _bin(jnp.log10(weight), WEIGHT_BINS), ones),
        "gradient": histogram("gradient", at, weight),
    }
    return spread, _of_weights(weight, values, counts)


def _pull(temperature: Temperature, logit: Float[Array, " m"]) -> Float[Array, " m"]:
    """The logarithm of what stands before the logit's slope in the gradient."""
    if isinstance(temperature, LearnedWithBias):
        return jax.nn.log_sigmoid(logit + temperature.bias)
    return logit


def _curves(
    temperature: Temperature, similarity: Similarity, at: Float[Array, " edges"], n: int
) -> Found:
    """What a negative at each of these similarities would have; of several anchors the mean."""
    part = temperature.for_negatives

    def of_row(row: Int[Array, ""]) -> tuple[Array, ...]:
        tau, logit, slope = _logits(_for_rows(part, n, row), similarity, at)
        return tau, logit, slope, _pull(temperature, logit) + jnp.log(jnp.abs(slope))

    rows = jnp.arange(n if part.is_per_anchor else 1)
    names = ("curve_tau", "curve_logit", "curve_slope", "curve_log_weight")
    mean = lambda values: jnp.mean(values, axis=0)
    return dict(zip(names, map(mean, jax.lax.map(of_row, rows)), strict=True))


def _weights(
    pull: Float[Array, " m"], slope: Float[Array, " m"], counts: Bool[Array, " m"]
) -> Float[Array, " m"]:
    log_weight = jnp.where(counts, pull + jnp.log(jnp.abs(slope)), -jnp.inf)
    return jnp.where(jnp.any(counts), jax.nn.softmax(log_weight), jnp.nan)


def _of_weights(
    weight: Float[Array, " m"], values: Float[Array, " m"], counts: Bool[Array, " m"]
) -> Found:
    """How the weights of one anchor are spread."""
    entropy = jnp.sum(jax.scipy.special.entr(weight))
    number = jnp.sum(counts).astype(weight.dtype)
    each = jnp.stack([counts.astype(weight.dtype), jnp.where(counts, weight, 0.0)])
    part = lambda share: jnp.maximum(jnp.ceil(share * number), 1)
    # So many pairs, so many, and so much of the weights.
    goals, of = jnp.stack([part(0.01), part(0.1), jnp.asarray(0.8)]), jnp.array([0, 0, 1])
    place = ordinals(values)
    limit = _limits_of(place, each[of], goals)[:, None]
    which = jnp.stack([place[None, :] > limit, place[None, :] == limit])
    # Pairs [0] and weights [1] above each limit and at it.
    above, at = jnp.sum(jnp.where(which[:, None], each[None, :, None], 0.0), axis=-1)
    # Of the pairs at a limit, which are equally hard, as many as are wanted.
    targets = jnp.arange(3)
    some = (goals - above[of, targets]) / at[of, targets]
    count, share = above[0] + jnp.ceil(some * at[0]), above[1] + some * at[1]
    said = lambda value: jnp.where(number > 0, value, jnp.nan)
    return {
        "entropy": entropy,
        "effective_negatives": jnp.exp(entropy),
        "hardest_1_percent": said(share[0]),
        "hardest_10_percent": said(share[1]),
        "hardest_for_80_percent": said(count[2]),
    }


def _limits_of(
    place: UInt32[Array, " m"], masses: Float[Array, "k m"], goals: Float[Array, " k"]
) -> UInt32[Array, " k"]:
    """From which place on the pairs have that much of each mass, found bit by bit: no sorting."""

    def next_bit(i: Int[Array, ""], limit: UInt32[Array, " k"]) -> UInt32[Array, " k"]:
        higher = limit | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        mass = jnp.sum(jnp.where(place[None, :] >= higher[:, None], masses, 0.0), axis=1)
        return jnp.where(mass >= goals, higher, limit)

    return jax.lax.fori_loop(0, 32, next_bit, jnp.zeros_like(goals, jnp.uint32))
