"""The pairwise loss between images and texts of SigLIP."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ..similarities import PrecisionLike, Similarity, sphere
from ..temperatures import Constant, array_of, check_positive
from . import _pairs
from ._checks import check_number
from ._image_text import Labels, belonging, flatten
from ._options import Options, SimilarityLike
from ._own_devices import by_own_devices
from ._pairs import Side
from ._plan import keep
from ._strategies import AxisName, StrategyLike, TileSize


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
            bools. Pairs of images and texts that share one are positives, not negatives. An integer
            below 0, such as -1, and a row of bools without True is a class of its own. For other
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
    images, texts = flatten("images", images), flatten("texts", texts)
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
    pairs = belonging(images, texts, labels, where, where_texts, options.axis)
    (n, d), m = images.shape, texts.shape[0]
    plan = options.plan(anchors=n, candidates=m, length=d)
    real, real_texts = pairs.real
    a, b = plan.points(images, real), plan.points(texts, real_texts)
    groups = plan.partners(n, m) if labels is None else pairs.labels
    blocks = (n, m - n) if isinstance(m - n, int) and m > n else (m,)
    weighed = options.weighed(n, *blocks, real=pairs.real)
    negatives = plan.negatives(a, b, groups, _pairs.not_same, real=pairs.real, weighed=weighed)
    bias = jnp.asarray(array_of(bias), a.dtype)
    plan.show(negatives, plan.many_positives(negatives, groups, _pairs.same), None, bias)
    _, rows, columns = negatives.parts[0].sides()
    dtype = rows.points.dtype
    scale, of_all = jnp.asarray(array_of(scale), dtype), negatives.log_of_all
    of_all = None if of_all is None else jnp.exp(of_all).astype(dtype)
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
        value = self.similarity.between(rows.points, columns.points).astype(rows.points.dtype)
        same = _pairs.same(rows.group, columns.group)
        if self.similarity.positive is not None:
            value = jnp.where(same, self.similarity.positive(value), value)
        logit = scale * value + bias  # not by `logits`: at a scale of 0 there is a gradient too
        term = jax.nn.softplus(jnp.where(same, -logit, logit))
        for weight in (_pairs.weight_of(rows, columns), of_all):
            term = term if weight is None else jnp.where(same, term, weight * term)
        return term if columns.real is None else jnp.where(columns.real[None, :], term, 0.0)
