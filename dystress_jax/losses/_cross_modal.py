"""Losses between two kinds of embeddings, such as images and texts."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..similarities import Similarity, sphere
from ..temperatures import Constant, TemperatureLike, check_positive
from ._partition import Side, logits
from ._plan import Options, SimilarityLike, check_pairs
from ._strategies import TileSize


def clip(
    images: Float[Array, "n ..."],
    texts: Float[Array, "n ..."],
    *,
    temperature: TemperatureLike,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " n"]:
    r"""The symmetric loss of CLIP: each image finds its text and each text its image.

    $$L_i = \tfrac12 \Big( -2\, l_{ii} + \log \sum_j e^{l_{ij}} + \log \sum_j e^{l_{ji}} \Big),
      \qquad l_{ij} = \frac{s_{ij}}{\tau(s_{ij})}$$

    Args:
        images: embeddings of n images, n >= 2, any float dtype. Further axes, such as the tokens
            of an oblique embedding, are flattened.
        texts: embeddings of their texts, of the same shape.
        temperature: a float, an array [n] with one entry for both anchors of a pair, a function
            or a `Temperature`, such as `temperatures.learned`.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The mean of both directions for each pair, in float32 or float64.

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
    images, texts = _flatten(images), _flatten(texts)
    check_pairs("images", images, "texts", texts, axis_name)
    n, d = images.shape
    options = Options(temperature, similarity, normalize, strategy, tile_size, axis_name)
    plan = options.plan(anchors=n, candidates=n, length=d)
    a, b = plan.points(images), plan.points(texts)
    pair = plan.row_numbers(n)
    positives = plan.positives(a, b)
    of_image = jax.nn.softplus(plan.negatives(a, b, groups=(pair, pair)) - positives)
    of_text = jax.nn.softplus(plan.negatives(b, a, groups=(pair, pair)) - positives)
    return (of_image + of_text) / 2


def siglip(
    images: Float[Array, "n ..."],
    texts: Float[Array, "n ..."],
    *,
    scale: ArrayLike,
    bias: ArrayLike,
    similarity: SimilarityLike = sphere,
    normalize: bool = True,
    strategy: str = "auto",
    tile_size: TileSize = None,
    axis_name: str | None = None,
) -> Float[Array, " n"]:
    r"""The sigmoid loss of SigLIP: is this text the text of this image, for every pair.

    $$L_i = -\sum_j \log \sigma\big( z_{ij} (t\, s_{ij} + b) \big), \qquad
      z_{ii} = 1, \; z_{ij} = -1 \text{ for } i \ne j$$

    Args:
        images: embeddings of n images, n >= 2, any float dtype. Further axes are flattened.
        texts: embeddings of their texts, of the same shape.
        scale: t > 0, usually e^t' with t' learned from ln 10.
        bias: b, usually learned from -10.
        similarity: see `nt_xent`.
        normalize: see `nt_xent`.
        strategy: see `nt_xent`.
        tile_size: see `nt_xent`.
        axis_name: see `nt_xent`.

    Returns:
        The sum over the texts for each image, in float32 or float64; its mean is the published
        loss.

    Raises:
        ArgumentError: as `nt_xent`, and when scale <= 0.
        TypeError: as `nt_xent`.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> siglip(images, images, scale=10.0, bias=-5.0)
        Array([0.0134, 0.0134], dtype=float32)

    References:
        Zhai et al., [arXiv 2303.15343](https://arxiv.org/abs/2303.15343), Eq. 1.
    """
    images, texts = _flatten(images), _flatten(texts)
    check_pairs("images", images, "texts", texts, axis_name)
    check_positive("scale", scale)
    n, d = images.shape
    # The scale is applied below, in place of a temperature.
    options = Options(1.0, similarity, normalize, strategy, tile_size, axis_name)
    plan = options.plan(anchors=n, candidates=n, length=d)
    a, b = plan.points(images), plan.points(texts)
    pair = plan.row_numbers(n)
    params = (Constant(jnp.asarray(1.0 / scale, a.dtype)), jnp.asarray(bias, a.dtype))
    term = PairSigmoid(plan.similarity)
    return plan.strategy.row_sum(term, params, Side(a, pair), Side(b, pair))


@dataclass(frozen=True)
class PairSigmoid:
    """The term -log sigmoid(z_ij (l_ij + b)), with z = 1 within a group and -1 between groups."""

    similarity: Similarity

    def __call__(
        self, params: tuple[Constant, Array], rows: Side, columns: Side
    ) -> Float[Array, "n m"]:
        temperature, bias = params
        value = self.similarity.between(rows.points, columns.points)
        logit = logits(self.similarity, temperature, value) + bias
        matches = rows.group[:, None] == columns.group[None, :]
        return jax.nn.softplus(jnp.where(matches, -logit, logit))


def _flatten(x: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    return x.reshape(x.shape[0], -1)
