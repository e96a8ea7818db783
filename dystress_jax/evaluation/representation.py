"""How embeddings lie on the sphere: spread, structure of the classes, similarities of pairs."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import metrics
from ..errors import ArgumentError
from ..similarities import normalize, sphere
from ._result import Result, Row
from .features import check_finite

Rows = Float[np.ndarray, "n d"] | Float[Array, "n d"]


def evaluate_representation(
    embeddings: Rows,
    view_a: Rows,
    view_b: Rows,
    labels: Int[np.ndarray, " n"],
    *,
    prefix: str = "",
) -> Result:
    r"""Measure the embeddings of images, and of two random views of each image, on the sphere.

    All embeddings are scaled to length 1 first. $x_i$ is the embedding of image i, $a_i$ and
    $b_i$ are those of its views, $y_i$ is its class.

    | row | formula | over |
    |---|---|---|
    | `alignment` | $\mathbb{E}\, \lvert a_i - b_i \rvert^2$ | images |
    | `uniformity` | $\log \mathbb{E}\, e^{-2 \lvert x_i - x_j \rvert^2}$ | pairs of images |
    | `tolerance` | $\mathbb{E}\, x_i^T x_j$ | pairs of images of one class |
    | `tolerance_all_pairs` | $\mathbb{E}\, x_i^T x_j\, 1_{y_i = y_j}$ | pairs of labelled images |
    | `inter_class_uniformity` | uniformity of the class means | pairs of classes |
    | `effective_rank` | exponential of the entropy of the singular values of $x$ | images |
    | `true_positive_similarity` | $\mathbb{E}\, a_i^T b_i$ | images |
    | `true_negative_similarity` | $\mathbb{E}\, a_i^T b_j$ | pairs of images of two classes |
    | `false_negative_similarity` | $\mathbb{E}\, a_i^T b_j$ | pairs of images of one class |

    A pair is two different images. All pairs count, a block of them at a time, so that the memory
    grows with the number of images, not with its square. A row without anything to take the mean
    over is left out: those of classes without labels, `tolerance` and `false_negative_similarity`
    if no class has two images, and so on.

    Args:
        embeddings: of the images as they are: the encoder's features or what the loss compares.
        view_a: of a random view of each image.
        view_b: of another one.
        labels: the class of each image, -1 where it is not known.
        prefix: before the name of each row, such as `features_`, to tell two kinds of embeddings
            apart.

    Returns:
        The rows, plain numbers.

    Raises:
        ArgumentError: there is no image.
        NotFiniteError: an embedding is NaN or infinite.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
        >>> result = evaluate_representation(x, x, -x, np.array([0, 0, 1]), prefix="features_")
        >>> result.value("features_alignment"), result.value("features_tolerance")
        (4.0, 0.6)

    References:
        Alignment and uniformity: Wang and Isola,
        [arXiv 2005.10242](https://arxiv.org/abs/2005.10242). Tolerance: Wang and Liu,
        [arXiv 2012.09740](https://arxiv.org/abs/2012.09740), Eq. 9. Effective rank: Roy and
        Vetterli, EUSIPCO 2007. True and false negatives: Manna et al.,
        [arXiv 2308.01140](https://arxiv.org/abs/2308.01140).
    """
    count, dimension = embeddings.shape
    if not count:
        raise ArgumentError("embeddings", "found none; allowed: those of at least one image.")
    for rows in (embeddings, view_a, view_b):
        check_finite(np.asarray(rows))
    x, a, b = (normalize(jnp.asarray(e)) for e in (embeddings, view_a, view_b))
    known = np.flatnonzero(labels >= 0)
    classes, sizes = np.unique(labels[known], return_counts=True)
    values = _of_images(x, a, b)
    if known.size:
        values |= _of_classes(x[known], a[known], b[known], jnp.asarray(labels[known]))
    same_class, two_classes = sizes.max(initial=0) > 1, len(classes) > 1
    has_pairs = {  # whether there is anything to take the mean over
        "alignment": True,
        "uniformity": count > 1,
        "tolerance": same_class,
        "tolerance_all_pairs": known.size > 1,
        "inter_class_uniformity": two_classes,
        "effective_rank": True,
        "true_positive_similarity": True,
        "true_negative_similarity": two_classes,
        "false_negative_similarity": same_class,
    }
    protocol = {
        "evaluation": "representation",
        "images": count,
        "labelled_images": known.size,
        "classes": len(classes),
        f"{prefix}dimension": dimension,
    }
    rows = (
        Row(prefix + name, float(values[name]), share=False)
        for name, there in has_pairs.items()
        if there
    )
    return Result(tuple(rows), protocol)


@jax.jit
def _of_images(
    x: Float[Array, "n d"], a: Float[Array, "n d"], b: Float[Array, "n d"]
) -> dict[str, Float[Array, ""]]:
    return {
        "alignment": metrics.alignment(a, b),
        "uniformity": metrics.uniformity(x),
        "effective_rank": metrics.effective_rank(x),
        "true_positive_similarity": jnp.mean(sphere.paired(a, b)),
    }


@jax.jit
def _of_classes(
    x: Float[Array, "n d"], a: Float[Array, "n d"], b: Float[Array, "n d"], labels: Int[Array, " n"]
) -> dict[str, Float[Array, ""]]:
    return {
        "tolerance": metrics.tolerance(x, labels),
        "tolerance_all_pairs": metrics.tolerance(x, labels, all_pairs=True),
        "inter_class_uniformity": metrics.inter_class_uniformity(x, labels),
        **metrics.negative_similarities(a, b, labels),
    }
