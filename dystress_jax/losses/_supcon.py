"""The supervised contrastive loss: all views of a class are positives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from ..similarities import PrecisionLike, sphere
from ..temperatures import TemperatureLike
from . import _pairs
from ._checks import as_labels
from ._options import Options, SimilarityLike
from ._own_devices import by_own_devices
from ._plan import keep, twice
from ._strategies import AxisName, StrategyLike, TileSize
from ._views import plan_of_views


@by_own_devices
def supcon(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    labels: Integer[Array, " n"] | Bool[Array, "n c"],
    *,
    temperature: TemperatureLike,
    label_smoothing: ArrayLike = 0.0,
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
    r"""Supervised contrastive loss: all views of the same class are positives.

    $$L_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \frac{s_{ip}}{\tau(s_{ip})} +
      \log \sum_{k \ne i} \exp \frac{s_{ik}}{\tau(s_{ik})}, \qquad
      P_i = \{ p \ne i : y_p = y_i \}$$

    With all labels different it is `nt_xent`.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        labels: the class of each example, [n]; one below 0, such as -1, is that of an unlabelled
            example, which has its other view alone as a positive. Or bools, [n, classes], True for
            each class that it has, which may be none: then a class in common makes two examples
            positives.
        temperature: a float, an array [2n], a function or a `Temperature`.
        label_smoothing: see `nt_xent`; the rest of the target is shared by the positives.
        weights: see `nt_xent`.
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
        The loss of each anchor, in the order of `nt_xent`, without the factor tau / tau_base of
        the authors' code.

    Raises:
        ArgumentError: as `nt_xent`, and when labels are neither n integers nor n rows of bools.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> supcon(views, views, jnp.array([0, 0]), temperature=0.5).round(4)
        Array([1.5729, 1.5729, 1.5729, 1.5729], dtype=float32)

    References:
        Khosla et al., [arXiv 2004.11362](https://arxiv.org/abs/2004.11362), Eq. 2.
    """
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
        negatives=negatives,
        where_negatives=where_negatives,
    )
    plan, real, weighed = plan_of_views(options, view_a, view_b, where)
    n = view_a.shape[0]
    views = jnp.concatenate([plan.points(view_a, real), plan.points(view_b, real)])
    real = twice(real)
    label = _pairs.groups_of(as_labels("labels", labels, n), plan.row_numbers(n))
    label = jax.tree.map(twice, label)
    other = (label, plan.row_numbers(2 * n))
    both = (real, real)
    negatives_of = plan.negatives(
        views, views, (label, label), _pairs.not_same, real=both, weighed=weighed
    )
    positives = (other, other), _pairs.same_label_other_row
    return keep(plan.against_many(negatives_of, positives), real)
