"""The symmetric loss between images and texts of CLIP."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ..errors import ArgumentError
from ..similarities import PrecisionLike, sphere
from ..temperatures import TemperatureLike
from . import _pairs, _partition
from ._image_text import (
    Labels,
    Mask,
    Rows,
    belonging,
    flatten,
    plans_of,
    real_pairs,
    temperatures_of,
)
from ._options import Options, SimilarityLike
from ._own_devices import by_own_devices
from ._pairs import Side
from ._plan import Weighed, keep
from ._strategies import AxisName, StrategyLike, TileSize


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
        temperature: a float, an array [2n] (first of the images as anchors, then of the texts) or
            [n] (one for both anchors of a pair), a function or a `Temperature`, such as
            `temperatures.learned`.
        labels: the class or the caption of each pair, as in `supcon`: [n] integers, or [n, labels]
            bools. Pairs of images and texts that share one are positives, not negatives. An integer
            below 0, such as -1, and a row of bools without True is a class of its own. For other
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
    images, texts = flatten("images", images), flatten("texts", texts)
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
    pairs = belonging(images, texts, labels, where, where_texts, options.axis)
    (n, d), m = images.shape, texts.shape[0]
    real, real_texts = pairs.real
    anchors = real_pairs(pairs.real) if labels is None else _real_anchors(pairs.real)
    both, shape = temperatures_of(temperature, n), {"anchors": n, "candidates": m, "length": d}
    plan, back = plans_of(options, both, negatives, where_negatives, real=anchors, **shape)
    a, b = plan.points(images, real), plan.points(texts, real_texts)
    by_image, by_text = _weighed_both_ways(options, n, m, pairs.real)
    if labels is None:
        image, text = plan.partners(n, m)
        positives, same = plan.positives(a, b[:n]), back.positives(a, b[:n])
        texts_of = plan.negatives(a, b, (image, text), real=(anchors, real_texts), weighed=by_image)
        images_of = back.negatives(
            b[:n], a, (text[:n], image), real=(anchors, real), weighed=by_text
        )
        of_image = plan.against_one(plan.sums(texts_of, positives), positives)
        of_text = back.against_one(back.sums(images_of, same), same)
        return keep((of_image + of_text) / 2, anchors)

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
        # Who belongs together does not depend on them.
        a, b = (jax.lax.stop_gradient(x).astype(of_text.dtype) for x in (a, b))
        rows, columns = Side(a, image, real), Side(b, text, real_texts)
        sums = lambda term, columns: plan.reduction.row_sum(term, (), rows, columns)
        count = sums(_partition.PairCount(_pairs.same), columns)
        of_text = sums(_partner_value, (columns, of_text)) / jnp.maximum(count, 1.0)
    return keep((of_image + of_text) / 2, real)


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


def _real_anchors(real: _pairs.Real) -> Bool[Array, " n"] | None:
    """Which of images and texts with labels are anchors: each of them has a loss.

    Of other numbers of texts than of images nobody can say it for both.
    """
    images, texts = real
    if images is None or texts is None or len(images) != len(texts):
        return None
    return images | texts


def _partner_value(
    params: Any, rows: Side, columns: tuple[Side, Float[Array, " m"]]
) -> Float[Array, "n m"]:
    """The term of the columns that share a label: the value that comes with each."""
    side, value = columns
    return _partition.PairCount(_pairs.same)(params, rows, side) * value[None, :]
