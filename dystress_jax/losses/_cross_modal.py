"""Losses between two kinds of embeddings, such as images and texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from ..errors import ArgumentError
from ..similarities import PrecisionLike, Similarity, sphere
from ..temperatures import Constant, TemperatureLike, array_of, check_positive
from . import _pairs, _partition
from ._checks import (
    as_labels,
    as_mask,
    check_array,
    check_count,
    check_number,
    check_rows,
    check_same_shape,
    check_some,
)
from ._options import (
    Options,
    SimilarityLike,
)
from ._own_devices import by_own_devices
from ._pairs import Side
from ._plan import (
    Weighed,
    keep,
)
from ._strategies import AxisName, StrategyLike, TileSize

Labels = Integer[Array, "_"] | Bool[Array, "_ _"]
Rows = Float[Array, "_ ..."]
Mask = Bool[Array, "_"]


@by_own_devices
def clip(
    images: Float[Array, "n ..."],
    texts: Float[Array, "m ..."],
    *,
    temperature: TemperatureLike,
    labels: Labels | Sequence[Labels] | None = None,
    label_smoothing: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    negatives: Rows | Sequence[Rows | None] | None = None,
    where: Bool[Array, " n"] | None = None,
    where_texts: Bool[Array, " m"] | None = None,
    where_negatives: Mask | Sequence[Mask | None] | None = None,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    precision: PrecisionLike | None = None,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
) -> Float[Array, " n"]:
    r"""The symmetric loss of CLIP: each image finds its text and each text its image.

    $$L_i = \tfrac12 \Big( -2\, l_{ii} + \log \sum_j e^{l_{ij}} + \log \sum_j e^{l_{ji}} \Big),
      \qquad l_{ij} = \frac{s_{ij}}{\tau(s_{ij})}$$

    Args:
        images: embeddings of n images, n >= 2, any float dtype. Further axes, such as the tokens
            of an oblique embedding, are flattened.
        texts: embeddings of their texts. Without labels text i belongs to image i, and texts beyond
            n are further negatives of the images.
        temperature: a float, an array [n] with one entry for both anchors of a pair, a function
            or a `Temperature`, such as `temperatures.learned`.
        labels: the class or the caption of each pair, as in `supcon`: [n] integers, or [n, labels]
            bools. Pairs of images and texts that share one are positives, not negatives. For other
            numbers of texts than of images two arrays, (those of the images, those of the texts).
        label_smoothing: see `nt_xent`.
        weights: see `nt_xent`: a number, one for each example, [n], the same for its image and its
            text, or one for each pair of an image and a text, [n n]. For other numbers of texts
            than of images a number only.
        negatives: embeddings of further texts, [k ...], that are negatives of all images, such as
            hard captions or a queue, whole on every device; or a pair, (further texts, further
            images), of which the second are negatives of all texts.
        where: which images, and their texts, are real, as in `nt_xent`.
        where_texts: which texts are real, where the mask of the images does not say it.
        where_negatives: which rows of `negatives` are real, one mask for each of its arrays.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        precision: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The mean of both directions for each image, in float32 or float64: its own loss and that of
        its text. With labels the loss of an anchor is the mean over its positives, 0 for one that
        has none; with those of both sides, the second part is the mean over the texts of an image.

    Raises:
        ArgumentError: as `nt_xent`.
        TypeError: as `nt_xent`.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> clip(images, images, temperature=0.5)
        Array([0.1269, 0.1269], dtype=float32)

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), Figure 3.
    """
    images, texts = _flatten("images", images), _flatten("texts", texts)
    options = Options(
        temperature=temperature,
        similarity=similarity,
        normalize=normalize,
        precision=precision,
        strategy=strategy,
        tile_size=tile_size,
        axis_name=axis_name,
        label_smoothing=label_smoothing,
        weights=weights,
    )
    pairs = _belonging(images, texts, labels, where, where_texts, options.axis)
    (n, d), m = images.shape, texts.shape[0]
    real, real_texts = pairs.real
    # Of the images with all texts, and of the texts with all images.
    plan, back = (
        replace(options, negatives=further, where_negatives=there).plan(
            anchors=n, candidates=m, length=d, real=_real_pairs(pairs.real, labels is None)
        )
        for further, there in _further_both_ways(negatives, where_negatives)
    )
    a, b = plan.points(images, real), plan.points(texts, real_texts)
    by_image, by_text = _weighed_both_ways(options, n, m, pairs.real)
    if labels is None:
        image, text = plan.partners(n, m)
        pair = _real_pairs(pairs.real, whole=True)
        positives = plan.positives(a, b[:n])
        texts_of = plan.negatives(a, b, (image, text), real=(pair, real_texts), weighed=by_image)
        images_of = back.negatives(b[:n], a, (text[:n], image), real=(pair, real), weighed=by_text)
        of_image = plan.against_one(plan.sums(texts_of, positives), positives)
        of_text = back.against_one(back.sums(images_of, positives), positives)
        return keep((of_image + of_text) / 2, pair)

    def against(plan, a, b, groups, real, weighed):
        negatives = plan.negatives(a, b, groups, _pairs.not_same, real=real, weighed=weighed)
        return plan.against_many(negatives, (groups, _pairs.same))

    image, text = pairs.labels
    if n != m and plan.temperature.is_per_anchor:
        raise ArgumentError(
            "temperature",
            f"found one per anchor, with {n} images and {m} texts; allowed: as many of both, or "
            "one of another kind.",
        )
    of_image = against(plan, a, b, (image, text), (real, real_texts), by_image)
    of_text = against(back, b, a, (text, image), (real_texts, real), by_text)
    of_text = keep(of_text, real_texts)
    if isinstance(labels, tuple | list):
        a, b = jax.lax.stop_gradient((a, b))  # who belongs together does not depend on them
        rows, columns = Side(a, image, real), Side(b, text, real_texts)
        sums = lambda term, columns: plan.reduction.row_sum(term, (), rows, columns)
        count = sums(_partition.PairCount(_pairs.same), columns)
        of_text = sums(_partner_value, (columns, of_text)) / jnp.maximum(count, 1.0)
    return keep((of_image + of_text) / 2, real)


def _real_pairs(real: _pairs.Real, whole: bool) -> Bool[Array, " n"] | None:
    """Which images and their texts are anchors.

    Without labels a whole pair alone has a loss; half of one is still a candidate. With labels
    each of them has one; of other numbers of texts than of images nobody can say it for both.
    """
    images, texts = real
    if images is None or texts is None:
        return None
    if whole:
        return images & texts[: len(images)]
    return images | texts if len(images) == len(texts) else None


def _further_both_ways(
    negatives: Rows | Sequence[Rows | None] | None,
    where: Mask | Sequence[Mask | None] | None,
) -> tuple[tuple[Rows | None, Mask | None], ...]:
    """Further texts, then further images, each as rows with their mask."""
    both: Any = _pair("negatives", negatives) or (negatives, None)
    real: Any = _pair("where_negatives", where) or (where, None)
    return tuple(
        (None if x is None else _flatten("negatives", x), mask)
        for x, mask in zip(both, real, strict=True)
    )


def _pair(name: str, x: Any) -> tuple[Any, Any] | None:
    """What is given for each side, or None for one array."""
    if not isinstance(x, tuple | list):
        return None
    if len(x) != 2:
        raise ArgumentError(name, f"found {len(x)} of them; allowed: an array, or a pair.")
    return x[0], x[1]


def _weighed_both_ways(
    options: Options, n: int, m: int, real: _pairs.Real
) -> tuple[Weighed, Weighed]:
    """The weights of the texts for each image, and of the images for each text."""
    if options.weights is None or jnp.ndim(options.weights) == 0:
        weighed = options.weighed(n, m, real=real)
        return weighed, weighed
    if isinstance(m - n, int) and m != n:
        raise ArgumentError(
            "weights",
            f"found shape {jnp.shape(options.weights)} with {n} images and {m} texts; allowed: one "
            "number.",
        )
    of_texts = options.weighed(n, n, real=real)
    if jnp.ndim(options.weights) == 1:
        return of_texts, of_texts
    weights = jnp.asarray(options.weights)
    if options.axis is not None:  # this device has rows: it needs the columns of its own texts
        weights = jax.lax.all_to_all(weights, options.axis, 1, 0, tiled=True)
    return of_texts, replace(options, weights=weights.T).weighed(n, n, real=(real[1], real[0]))


def _partner_value(
    params: Any, rows: Side, columns: tuple[Side, Float[Array, " m"]]
) -> Float[Array, "n m"]:
    """The term of the columns that share a label: the value that comes with each."""
    side, value = columns
    return _partition.PairCount(_pairs.same)(params, rows, side) * value[None, :]


@by_own_devices
def siglip(
    images: Float[Array, "n ..."],
    texts: Float[Array, "m ..."],
    *,
    scale: ArrayLike,
    bias: ArrayLike,
    labels: Labels | Sequence[Labels] | None = None,
    weights: ArrayLike | None = None,
    where: Bool[Array, " n"] | None = None,
    where_texts: Bool[Array, " m"] | None = None,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    precision: PrecisionLike | None = None,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
) -> Float[Array, " n"]:
    r"""The sigmoid loss of SigLIP: is this text the text of this image, for every pair.

    $$L_i = -\sum_j w_{ij} \log \sigma\big( z_{ij} (t\, s_{ij} + b) \big), \qquad
      z_{ii} = 1, \; z_{ij} = -1 \text{ for } i \ne j, \qquad w_{ij} = 1$$

    There is no keyword for further negatives: they are texts beyond n. Nor is there one for label
    smoothing, as the target of a pair is no distribution.

    Args:
        images: embeddings of n images, n >= 2, any float dtype. Further axes are flattened.
        texts: embeddings of their texts. Without labels text i belongs to image i, and texts beyond
            n belong to none.
        scale: t > 0, usually e^t' with t' learned from ln 10.
        bias: b, any number; usually learned from -10.
        labels: the class or the caption of each pair, as in `supcon`: [n] integers, or [n, labels]
            bools. Pairs of images and texts that share one are positives, not negatives. For other
            numbers of texts than of images two arrays, (those of the images, those of the texts).
        weights: w >= 0, how much negatives count: a number for all, one for each text, [m], or one
            for each pair of an image and a text, [n m], with `axis_name` as in `info_nce`.
            Positives count 1.
        where: which images, and their texts, are real, as in `nt_xent`.
        where_texts: which texts are real, where the mask of the images does not say it.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        precision: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The sum over the texts for each image, in float32 or float64; its mean is the published
        loss.

    Raises:
        ArgumentError: as `nt_xent`, and when scale <= 0, or scale or bias is not one number.
        TypeError: as `nt_xent`.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> siglip(images, images, scale=10.0, bias=-5.0)
        Array([0.0134, 0.0134], dtype=float32)

    References:
        Zhai et al., [arXiv 2303.15343](https://arxiv.org/abs/2303.15343), Eq. 1.
    """
    images, texts = _flatten("images", images), _flatten("texts", texts)
    check_number("scale", scale)
    check_number("bias", bias)
    check_positive("scale", scale)
    options = Options(
        temperature=Constant(1.0 / array_of(scale)),
        similarity=similarity,
        normalize=normalize,
        precision=precision,
        strategy=strategy,
        tile_size=tile_size,
        axis_name=axis_name,
        weights=weights,
    )
    pairs = _belonging(images, texts, labels, where, where_texts, options.axis)
    (n, d), m = images.shape, texts.shape[0]
    plan = options.plan(anchors=n, candidates=m, length=d)
    real, real_texts = pairs.real
    a, b = plan.points(images, real), plan.points(texts, real_texts)
    groups = plan.partners(n, m) if labels is None else pairs.labels
    blocks = (n, m - n) if isinstance(m - n, int) and m > n else (m,)
    how = {"real": pairs.real, "weighed": options.weighed(n, *blocks, real=pairs.real)}
    negatives = plan.negatives(a, b, groups, _pairs.not_same, **how)
    bias = jnp.asarray(array_of(bias), a.dtype)
    plan.show(negatives, plan.many_positives(negatives, groups, _pairs.same), None, bias)
    _, rows, columns = negatives.parts[0].sides()
    scale = jnp.asarray(array_of(scale), rows.points.dtype)
    of_all = None if negatives.log_of_all is None else jnp.exp(negatives.log_of_all)
    term = PairSigmoid(plan.reduction.measure(plan.similarity))
    value = plan.reduction.row_sum(term, (scale, bias, of_all), rows, columns)
    return keep(value, real)


@dataclass(frozen=True)
class PairSigmoid:
    """The term -w_ij log sigmoid(z_ij (t s_ij + b)), z = 1 within a group and -1 between groups.

    Within a group w is 1.
    """

    similarity: Similarity

    def __call__(
        self, params: tuple[Array, Array, Array | None], rows: Side, columns: Side
    ) -> Float[Array, "n m"]:
        scale, bias, of_all = params
        value = self.similarity.between(rows.points, columns.points)
        same = _pairs.same(rows.group, columns.group)
        if self.similarity.positive is not None:
            value = jnp.where(same, self.similarity.positive(value), value)
        logit = scale * value + bias  # not by `logits`: at a scale of 0 there is a gradient too
        term = jax.nn.softplus(jnp.where(same, -logit, logit))
        of_pairs = _pairs.weight_of(rows, columns)
        if of_pairs is not None:  # those of rows that only fill up the batch may be anything
            for real, axis in ((rows.real, 1), (columns.real, 0)):
                if real is not None:
                    of_pairs = jnp.where(jnp.expand_dims(real, axis), of_pairs, 0.0)
        for weight in (of_pairs, of_all):
            term = term if weight is None else jnp.where(same, term, weight * term)
        return term if columns.real is None else jnp.where(columns.real[None, :], term, 0.0)


class _Belonging(NamedTuple):
    """What belongs together, and what only fills up the batch: of the images, and of the texts."""

    labels: tuple[Any, Any]
    real: _pairs.Real


def _belonging(
    images: Float[Array, "n d"],
    texts: Float[Array, "m d"],
    labels: Labels | Sequence[Labels] | None,
    where: Bool[Array, " n"] | None,
    where_texts: Bool[Array, " m"] | None,
    axis: AxisName | None,
) -> _Belonging:
    """Checks all that a loss of images and texts takes."""
    check_rows("images", images, "texts", texts)
    n, m = images.shape[0], texts.shape[0]
    check_count("images" if labels is None else "texts", n if labels is None else m, axis)
    check_some("images", n)
    real = as_mask("where", where, n, "image")
    real_texts = as_mask("where_texts", where_texts, m, "text")
    of_both = _pair("labels", labels)
    if of_both is not None:
        labels = of_both
        of_images, of_texts = as_labels("labels", labels[0], n), as_labels("labels", labels[1], m)
        if of_images.shape[1:] != of_texts.shape[1:]:
            raise ArgumentError(
                "labels",
                f"found shapes {of_images.shape} and {of_texts.shape}; allowed: integers twice, or "
                "bools twice, for the same labels.",
            )
        wider = jnp.promote_types(of_images.dtype, of_texts.dtype)
        both = of_images.astype(wider), of_texts.astype(wider)
        return _Belonging(both, (real, real_texts))
    if labels is not None:
        check_same_shape("images", images, "texts", texts)
        label = as_labels("labels", labels, n)
        return _Belonging((label, label), (real, real if real_texts is None else real_texts))
    if isinstance(m - n, int) and m < n:
        raise ArgumentError(
            "texts",
            f"found {m} rows; allowed: at least {n}, because text i belongs to image i where "
            "`labels` is None.",
        )
    if real is not None and real_texts is None:
        real_texts = jnp.concatenate([real, jnp.ones(m - n, bool)])
    if real_texts is not None and real is None:
        real = jnp.ones(n, bool)
    return _Belonging((None, None), (real, real_texts))


def _flatten(name: str, x: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    check_array(name, x)
    if jnp.ndim(x) == 0:
        raise ArgumentError(name, "found one number; allowed: [rows, features].")
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
