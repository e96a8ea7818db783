"""Losses between views of the same images: NT-Xent and its decoupled forms.

Every loss is built from the log-partition over the *negatives*, N_i, and the logit of the positive
pair, l_ip. With the positive in the denominator the loss is

    -log( exp(l_ip) / (exp(l_ip) + exp(N_i)) ) = log(1 + exp(N_i - l_ip)) = softplus(N_i - l_ip),

which keeps its relative precision, and its gradient, where the positive pair dominates.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ..errors import ArgumentError
from ..similarities import PrecisionLike, sphere
from ..temperatures import TemperatureLike, check_positive
from ._checks import as_mask, check_number, check_pairs
from ._options import Options, SimilarityLike
from ._own_devices import by_own_devices
from ._plan import keep, twice
from ._strategies import AxisName, StrategyLike, TileSize
from ._views import plan_of_views, views_of


@by_own_devices
def nt_xent(
    view_a: Float[Array, "n d"] | Float[Array, "v n d"] | Sequence[Float[Array, "n d"]],
    view_b: Float[Array, "n d"] | None = None,
    *,
    temperature: TemperatureLike,
    global_views: int | None = None,
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
) -> Float[Array, " anchors"]:
    r"""The NT-Xent loss of SimCLR, with any temperature.

    Over the 2n views, with p the other view of anchor i,

    $$L_i = -\frac{s_{ip}}{\tau(s_{ip})} + \log \sum_{k \ne i} \exp \frac{s_{ik}}{\tau(s_{ik})}$$

    The positive pair is part of the sum, as in SimCLR; `dcl` leaves it out.

    More than two views, [v n d], are compared pair by pair: the loss of an anchor is the mean over
    the other views of its loss with each, as if these two were the batch. Of multi-crop, whose
    local crops look for global ones and nobody looks for a local crop, `global_views` is the number
    of global views, which come first: the mean is then over these.

    With label smoothing $\epsilon$, weights $w_{ij}$ of the negatives and the softmax
    $P_{ij} = w_{ij} e^{s_{ij} / \tau(s_{ij})} / \sum_k w_{ik} e^{s_{ik} / \tau(s_{ik})}$ over the K
    candidates, where $w_{ip} = 1$,

    $$L_i = -(1 - \epsilon) \log P_{ip} - \frac{\epsilon}{K} \sum_j \log P_{ij}$$

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype; or those of all
            views, [v n d] or v arrays [n d] with v >= 2.
        view_b: embeddings of the second view of the same examples; None: all are in `view_a`.
        temperature: a float, an array [2n] (of v views [v n]), a function or a `Temperature`.
        global_views: how many of v views are global, 2 to v; None: all.
        label_smoothing: epsilon in [0, 1): the share of the target that all candidates have alike.
        weights: w >= 0, how much negatives count: a number for all, one for each candidate, [2n],
            or one for each pair, [2n 2n], in the order of the values of the loss (of v views v n).
            0 leaves a pair out, and has no gradient. log w is a bias of the logit of a negative, so
            exp(bias) is what a bias needs. Weights that depend on the similarity alone are a
            temperature, see `temperatures.hard_negatives`; those of whole anchors go outside, into
            the mean.
        negatives: embeddings of further negatives of all anchors, [k d], such as a queue or hard
            negatives. With devices each has all of them.
        where: which examples are real, [n]; the others only fill up the batch. They are neither
            anchors nor candidates: loss 0 and no gradient, whatever their rows and their entries of
            `temperature` and `weights` hold. Divide the sum by the number of real anchors in place
            of the mean. None: all of them.
        where_negatives: which rows of `negatives` are real, [k].
        similarity: one of `similarities`, or a function (a [n d], b [m d]) -> [n m]. With
            `sphere.with_angular_margin` positives have to be nearer by an angle.
        normalize: whether to put the rows onto the manifold of the similarity (unit length for
            `sphere`) first. False trusts that they are.
        precision: of the matrix products, "float32", "tensorfloat32" or "bfloat16", see
            `Similarity.with_precision`; sums are float32. None: that of the similarity.
        strategy: how the sum over the pairs is carried out, see `dystress_jax.losses`.
        tile_size: rows and columns of a tile, where the strategy uses tiles: one number, or a
            pair; None: what suits the platform.
        axis_name: inside `jax.shard_map`, the mesh axis over which the batch is split. The
            arguments are then this device's rows, and the result their part of the loss of the
            whole batch.

    Returns:
        The loss of each anchor, first all of `view_a`, then all of `view_b` (and so on of v views),
        in float32 or float64. Take the mean to train.

    Raises:
        ArgumentError: for shapes that differ or do not fit, n < 2, a bad temperature, an unknown
            strategy, or an axis_name outside `shard_map`.
        TypeError: for embeddings that are not floating point.

    Example:
        >>> from dystress_jax.temperatures import dystress
        >>> view_a = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> view_b = jnp.array([[0.8, 0.6], [0.6, 0.8]])
        >>> nt_xent(view_a, view_b, temperature=dystress(0.1, 0.2)).round(4)
        Array([0.4563, 0.4563, 1.2243, 1.2243], dtype=float32)

    References:
        Chen et al. (SimCLR), [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), Eq. 1; Caron
        et al. (SwAV), [arXiv 2006.09882](https://arxiv.org/abs/2006.09882), for multi-crop; Manna
        et al., [arXiv 2308.01140](https://arxiv.org/abs/2308.01140), for the dynamic temperature.
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
    views = views_of(view_a, view_b)
    if len(views) == 2 and global_views is None:
        first, second = views
        plan, real, weighed = plan_of_views(options, first, second, where)
        others, positives = plan.between_views(first, second, real, weighed)
        sums = plan.sums(others, positives)
        return keep(plan.against_one(sums, positives), twice(real))
    for view in views[1:]:
        check_pairs("view_a", views[0], "view_a", view, options.axis)
    k, (n, d) = len(views), views[0].shape
    targets = k if global_views is None else global_views
    if not 2 <= targets <= k:
        raise ArgumentError("global_views", f"found {targets}; allowed: 2 to {k}, or None.")
    real = as_mask("where", where, n, "example")
    of_all = None if real is None else jnp.tile(real, k)
    plan = options.plan(anchors=k * n, candidates=n, length=d, real=of_all)
    weighed = options.weighed(k * n, *[n] * k, real=(of_all, of_all))
    return keep(plan.between_many_views(views, targets, real, weighed), of_all)


@by_own_devices
def dcl(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    joint: bool = True,
    own_view: bool = False,
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
    r"""Decoupled contrastive learning: the positive pair is not in the denominator.

    $$L_i = -\frac{s_{ip}}{\tau(s_{ip})} +
      \log \sum_{k \ne i, p} \exp \frac{s_{ik}}{\tau(s_{ik})}$$

    There is no keyword for label smoothing: without the positive in the sum there is no
    distribution over the candidates that a smooth target could be compared with.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        temperature: a float, an array [2n], a function or a `Temperature`.
        joint: True takes one logarithm of the sum over all 2n - 2 negatives, as published. False
            adds two logarithms, one over the n - 1 negatives of each view, as the DySTreSS code
            does: another loss. Where the logits are small it is larger by about ln((n - 1) / 2).
        own_view: whether the n - 1 negatives of the anchor's own view are its only ones, as in
            DHEL, which also decouples the view of the positive.
        weights: see `nt_xent`.
        negatives: see `nt_xent`; with `joint` only, as they belong to neither view.
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
        ArgumentError: as `nt_xent`.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> dcl(views, views, temperature=0.5).round(4)
        Array([-1.3069, -1.3069, -1.3069, -1.3069], dtype=float32)

    References:
        Yeh et al., [arXiv 2110.06848](https://arxiv.org/abs/2110.06848), Eq. 5; DHEL,
        [arXiv 2405.18045](https://arxiv.org/abs/2405.18045).
    """
    options = Options(
        temperature=temperature,
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
    blocks = 2 if joint else 1
    plan, real, weighed = plan_of_views(options, view_a, view_b, where, candidates=blocks)
    if joint:
        others, positives = plan.between_views(view_a, view_b, real, weighed, own_view)
        sums = plan.sums(others, positives)
        value = others.or_zero(plan.against_one(sums, positives, decoupled=True), sums)
        return keep(value, twice(real))
    if negatives is not None:
        raise ArgumentError("negatives", "found some with joint=False; allowed: None.")
    if own_view:
        raise ArgumentError("own_view", "found True with joint=False; allowed: False.")
    a, b = plan.points(view_a, real), plan.points(view_b, real)
    views, n = jnp.concatenate([a, b]), view_a.shape[0]
    sample = plan.row_numbers(n)
    groups, both = (jnp.tile(sample, 2), sample), (twice(real), real)
    positives = plan.positives(a, b, copies=2)
    in_a, in_b = (
        plan.negatives(views, view, groups, real=both, weighed=weighed.of_block(v, n))
        for v, view in enumerate((a, b))
    )
    of_a, of_b = plan.sums(in_a), plan.sums(in_b)
    plan.show(in_a.beside(in_b), positives, of_a.beside(of_b))
    value = of_a.log_sum + of_b.log_sum - positives.logit
    return keep(in_a.or_zero(in_b.or_zero(value, of_b), of_a), twice(real))


@by_own_devices
def dclw(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    temperature: TemperatureLike,
    sigma: float = 0.5,
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
    r"""Decoupled contrastive learning that weighs each positive pair by how hard it is.

    $$L_i = -w_i \frac{s_{ip}}{\tau(s_{ip})} +
      \log \sum_{k \ne i, p} \exp \frac{s_{ik}}{\tau(s_{ik})}, \qquad
      w_i = 2 - \frac{e^{s_{ip} / \sigma}}{\mathbb{E}_j\, e^{s_{jp} / \sigma}}$$

    The weights, with mean 1 over the batch, count as numbers in the gradient. Label smoothing has
    no meaning here, see `dcl`.

    Args:
        view_a: embeddings of the first view of n examples, n >= 2, any float dtype.
        view_b: embeddings of the second view of the same examples.
        temperature: a float, an array [2n], a function or a `Temperature`.
        sigma: how strongly the weights $w_i$ differ, > 0; smaller is stronger.
        weights: see `nt_xent`: of the negatives, beside the $w_i$ of the positives.
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
        ArgumentError: as `nt_xent`, and when sigma <= 0.
        TypeError: as `nt_xent`.

    Example:
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> dclw(views, views, temperature=0.5).round(4)
        Array([-1.3069, -1.3069, -1.3069, -1.3069], dtype=float32)

    References:
        Yeh et al., [arXiv 2110.06848](https://arxiv.org/abs/2110.06848), Eq. 6.
    """
    check_number("sigma", sigma)
    check_positive("sigma", sigma)
    options = Options(
        temperature=temperature,
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
    sums = plan.sums(others, positives)
    paired = plan.similarity.paired(plan.points(view_a, real), plan.points(view_b, real))
    hardness = jax.lax.stop_gradient(paired) / jnp.asarray(sigma, paired.dtype)
    on_all = lambda reduce, x: x if plan.axis_name is None else reduce(x, plan.axis_name)
    real = jnp.ones_like(hardness, bool) if real is None else real
    hardness = jnp.where(real, hardness, -jnp.inf)
    largest = on_all(jax.lax.pmax, jnp.max(hardness))
    hardness = jnp.exp(hardness - jnp.where(largest == -jnp.inf, 0.0, largest))
    both = jnp.stack([jnp.sum(hardness), jnp.sum(real.astype(hardness.dtype))])
    total, count = on_all(jax.lax.psum, both)
    weight = 2.0 - hardness * jnp.where(count > 0, count / total, 0.0)
    value = sums.log_sum - jnp.tile(weight, 2) * positives.logit
    return keep(others.or_zero(value, sums), twice(real))
