"""The robust loss of iSogCLR: each anchor is multiplied by its own temperature."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ..errors import ArgumentError
from ..similarities import PrecisionLike, sphere
from ..temperatures import Constant, PerAnchor, PerExample, TemperatureLike
from . import _partition
from ._checks import as_given
from ._options import Options, SimilarityLike, of_real_anchors
from ._own_devices import by_own_devices
from ._plan import Negatives, Plan, keep, twice
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
    found = as_given(temperature)
    if not isinstance(found, Constant | PerAnchor):
        raise ArgumentError(
            "temperature",
            f"found {type(found).__name__}; allowed: a number, or one for each anchor: the loss is "
            "multiplied by it.",
        )
    if weights is not None and jnp.ndim(weights) == 0:
        raise ArgumentError(
            "weights",
            "found one number, which changes no mean; allowed: one for each candidate or pair.",
        )
    plain = PerAnchor(found.tau) if isinstance(found, PerExample) else found
    options = Options(
        temperature=plain,
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
    plan, real = plan_of_views(options, view_a, view_b, where)
    n = view_a.shape[0]
    found = of_real_anchors(found, twice(real))
    others, positives = plan.between_views(
        view_a, view_b, real, options.weighed(2 * n, n, n, real=(twice(real), twice(real)))
    )
    sums = plan.sums(others, positives)
    log_total = jnp.log(_total(plan, others, real).astype(sums.log_sum.dtype))
    log_mean = others.or_zero(sums.log_sum - positives.logit - log_total, sums)
    log_mean = keep(log_mean, twice(real))
    if isinstance(found, PerExample):
        value = jax.lax.stop_gradient(log_mean)
        share = jax.lax.stop_gradient(jnp.exp(value - found.moved(value)))
        log_mean = value + share * (log_mean - value)
    return keep(2 * jnp.asarray(found.tau, log_mean.dtype) * log_mean, twice(real))


def _total(plan: Plan, negatives: Negatives, real: Bool[Array, " n"] | None) -> Float[Array, "..."]:
    """What the weights of the negatives of an anchor add up to; without weights, how many."""
    of_batch, *_ = negatives.parts
    if of_batch.weighted:
        total = _partition.total_weight(of_batch)
    else:  # 2n - 2 over the real examples of all devices
        n = of_batch.anchors.shape[0] // 2
        n = jnp.sum(jnp.ones(n) if real is None else real.astype(jnp.float32))
        total = 2 * (n if plan.axis_name is None else jax.lax.psum(n, plan.axis_name)) - 2
    if plan.further is not None:
        total = total + plan.further.number.astype(total.dtype)
    return jnp.where(total > 0, total, 1.0)
