"""The robust losses of iSogCLR: each anchor is multiplied by its own temperature."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ..errors import ArgumentError
from ..similarities import PrecisionLike, sphere
from ..temperatures import Constant, PerAnchor, PerExample, Temperature, TemperatureLike
from . import _partition
from ._checks import as_given
from ._image_text import (
    Mask,
    Rows,
    belonging,
    flatten,
    plans_of,
    real_pairs,
    temperatures_of,
)
from ._options import Options, SimilarityLike, of_real_anchors
from ._own_devices import by_own_devices
from ._plan import Negatives, Plan, Positives, keep, twice
from ._strategies import AxisName, StrategyLike, TileSize
from ._views import plan_of_views


@by_own_devices
def rgcl(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    weights: ArrayLike | None = None,
    negatives: Float[Array, "k d"] | None = None,
    where: Bool[Array, " n"] | None = None,
    where_negatives: Bool[Array, " k"] | None = None,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    precision: PrecisionLike | None = None,
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
    axis_name: AxisName | None = None,
) -> Float[Array, " 2*n"]:
    r"""The robust global contrastive loss of iSogCLR and TempNet.

    With $h_{ij} = s_{ij} - s_{ip}$ over the 2n - 2 negatives j of anchor i,

    $$L_i = 2 \tau_i \log \mathbb{E}_j \, e^{h_{ij} / \tau_i}$$

    The positive is not in the sum (so label smoothing has no meaning here, see `dcl`), and the
    factor $\tau_i$ gives anchors of any temperature the
    same pull on their positive: `nt_xent` with the same temperatures pulls harder where it is
    small. The factor 2 makes the mean over the 2n anchors the sum of the means over both views, as
    the authors have it.

    A temperature of `schemes.isogclr` or `schemes.tempnet` brings a running mean $u_i$ of
    $\mathbb{E}_j e^{h_{ij} / \tau_i}$ over earlier batches. The gradient is then that of the mean
    over the data set and not over the batch, as the authors estimate it: it is multiplied by
    $\mathbb{E}_j e^{h_{ij} / \tau_i} / u_i$, and the value stays.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        temperature: a float, an array [2n], or that of a scheme; it may not depend on the
            similarity.
        weights: see `nt_xent`: one for each candidate or each pair. The mean over the negatives is
            then the weighted one, with those of `negatives` counting 1; one number for all would
            not change it.
        negatives: see `nt_xent`.
        where: see `nt_xent`.
        where_negatives: see `nt_xent`.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        precision: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The loss of each anchor, in the order of `nt_xent`. It can be negative; 0, without a
        gradient, for an anchor without negatives.

    Raises:
        ArgumentError: as `nt_xent`, for a temperature that depends on the similarity, and for one
            number as weights.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> rgcl(views, views, temperature=0.5)
        Array([-2., -2., -2., -2.], dtype=float32)

    References:
        Qiu et al. (iSogCLR), [arXiv 2305.11965](https://arxiv.org/abs/2305.11965), and the authors'
        code ([zhqiu/contrastive-learning-iSogCLR](https://github.com/zhqiu/contrastive-learning-iSogCLR)).
        The running mean: Yuan et al. (SogCLR),
        [arXiv 2202.12387](https://arxiv.org/abs/2202.12387).
    """
    found = _of_an_anchor(temperature)
    if weights is not None and jnp.ndim(weights) == 0:
        raise ArgumentError(
            "weights",
            "found one number, which changes no mean; allowed: one for each candidate or pair.",
        )
    options = Options(
        temperature=_plain(found),
        similarity=similarity,
        normalize=normalize,
        precision=precision,
        strategy=strategy,
        tile_size=tile_size,
        axis_name=axis_name,
        weights=weights,
        negatives=negatives,
        where_negatives=where_negatives,
    )
    plan, real, weighed = plan_of_views(options, view_a, view_b, where)
    others, positives = plan.between_views(view_a, view_b, real, weighed)
    number = 2 * _number_of(plan, view_a.shape[0], real) - 2
    return 2 * _robust(plan, others, positives, number, found, twice(real))


@by_own_devices
def clip_rgcl(
    images: Float[Array, "n ..."],
    texts: Float[Array, "m ..."],
    *,
    temperature: TemperatureLike,
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
    r"""The robust loss of iSogCLR and TempNet between images and texts.

    Each image i with its temperature $\tau_i$ among the other texts, and each text with its own
    $\tau'_i$ among the other images:

    $$L_i = \tau_i \log \mathbb{E}_{j \ne i} \, e^{(s_{ij} - s_{ii}) / \tau_i}
      + \tau'_i \log \mathbb{E}_{j \ne i} \, e^{(s_{ji} - s_{ii}) / \tau'_i}$$

    What holds for `rgcl`, holds here: the running means of a temperature of `schemes.isogclr` or
    `schemes.tempnet` make the gradient that of the mean over the data set.

    Args:
        images: embeddings of n images, n >= 2, any float dtype. Further axes, such as the tokens
            of an oblique embedding, are flattened.
        texts: embeddings of their texts. Text i belongs to image i, and texts beyond n are further
            negatives of the images.
        temperature: a float, an array [2n] (first of the images as anchors, then of the texts) or
            [n] (one for both anchors of a pair), or that of a scheme; it may not depend on the
            similarity.
        negatives: see `clip`.
        where: see `clip`.
        where_texts: see `clip`.
        where_negatives: see `clip`.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        precision: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The sum of both directions for each image. It can be negative; a direction without negatives
        adds 0, without a gradient.

    Raises:
        ArgumentError: as `clip`, and for a temperature that depends on the similarity.
        TypeError: as `nt_xent`.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> clip_rgcl(images, images, temperature=0.5)
        Array([-2., -2.], dtype=float32)

    References:
        Qiu et al. (iSogCLR), [arXiv 2305.11965](https://arxiv.org/abs/2305.11965); Qiu et al.
        (TempNet), [arXiv 2404.04575](https://arxiv.org/abs/2404.04575). The authors' code of
        iSogCLR leaves the positive pair in the sum, that of TempNet does not.
    """
    found = _of_an_anchor(temperature)
    images, texts = flatten("images", images), flatten("texts", texts)
    options = Options(
        temperature=_plain(found),
        similarity=similarity,
        normalize=normalize,
        precision=precision,
        strategy=strategy,
        tile_size=tile_size,
        axis_name=axis_name,
    )
    pairs = belonging(images, texts, None, where, where_texts, options.axis)
    (n, d), m, pair = images.shape, texts.shape[0], real_pairs(pairs.real)
    real, real_texts = pairs.real
    tau, tau_of_texts = temperatures_of(found, n)
    both, shape = (_plain(tau), _plain(tau_of_texts)), {"anchors": n, "candidates": m, "length": d}
    plan, back = plans_of(options, both, negatives, where_negatives, real=pair, **shape)
    a, b = plan.points(images, real), plan.points(texts, real_texts)
    image, text = plan.partners(n, m)
    texts_of = plan.negatives(a, b, (image, text), real=(pair, real_texts))
    images_of = back.negatives(b[:n], a, (text[:n], image), real=(pair, real))
    number, back_number = _number_of(plan, m, real_texts) - 1, _number_of(plan, n, real) - 1
    of_image = _robust(plan, texts_of, plan.positives(a, b[:n]), number, tau, pair)
    positives = back.positives(a, b[:n])
    return of_image + _robust(back, images_of, positives, back_number, tau_of_texts, pair)


def _of_an_anchor(temperature: TemperatureLike) -> Constant | PerAnchor:
    """The temperature, which all pairs of an anchor share."""
    found = as_given(temperature)
    if not isinstance(found, Constant | PerAnchor):
        raise ArgumentError(
            "temperature",
            f"found {type(found).__name__}; allowed: a number, or one for each anchor: the loss is "
            "multiplied by it.",
        )
    return found


def _plain(temperature: Temperature) -> Temperature:
    """The same without running means, which are no part of a logit."""
    is_more = isinstance(temperature, PerExample)
    return PerAnchor(temperature.tau) if is_more else temperature


def _robust(
    plan: Plan,
    negatives: Negatives,
    positives: Positives,
    number: Float[Array, ""],
    temperature: Any,
    real: Bool[Array, " n"] | None,
) -> Float[Array, " n"]:
    """tau_i log E_j exp(h_ij / tau_i) of each anchor, `number` counting those of the batch."""
    found = of_real_anchors(temperature, real)
    sums = plan.sums(negatives, positives)
    log_total = jnp.log(_total(plan, negatives, number).astype(sums.log_sum.dtype))
    log_mean = negatives.or_zero(sums.log_sum - positives.logit - log_total, sums)
    log_mean = keep(log_mean, real)
    if isinstance(found, PerExample):
        value = jax.lax.stop_gradient(log_mean)
        share = jax.lax.stop_gradient(jnp.exp(value - found.moved(value)))
        log_mean = value + share * (log_mean - value)
    return keep(jnp.asarray(found.tau, log_mean.dtype) * log_mean, real)


def _number_of(plan: Plan, n: int, real: Bool[Array, " n"] | None) -> Float[Array, ""]:
    """How many of n rows are real, on all devices together."""
    here = jnp.sum(jnp.ones(n) if real is None else real.astype(jnp.float32))
    return here if plan.axis_name is None else jax.lax.psum(here, plan.axis_name)


def _total(plan: Plan, negatives: Negatives, number: Float[Array, ""]) -> Float[Array, "..."]:
    """What the weights of the negatives of an anchor add up to; without weights, how many."""
    of_batch, *_ = negatives.parts
    total = _partition.total_weight(of_batch) if of_batch.weighted else number
    if plan.further is not None:
        total = total + plan.further.number.astype(total.dtype)
    return jnp.where(total > 0, total, 1.0)
