"""BYOL (Grill et al. 2020): a view predicts what a slow copy of the encoder makes of the other."""

import jax.numpy as jnp

from ..microscope import Compared
from ..models import Network
from ..similarities import normalize, sphere
from ._method import Embedded, Method, Outcome
from ._tower import Tower, Views, follow, followed, method_of, rising_momentum, with_predictor


def byol(
    encoder: Network,
    projector: Network,
    predictor: Network,
    *,
    views: Views,
    momentum: float,
    total_steps: int,
) -> Method:
    r"""BYOL: positive pairs only, without negatives and without a temperature.

    The prediction p of each view, by encoder, projector and predictor, is regressed onto the
    normalised target t of the other view, by a target encoder and its projector:

    $$L = (2 - 2 \cos(p_1, t_2)) + (2 - 2 \cos(p_2, t_1))$$

    No gradient reaches the targets. The target encoder follows the trained one with an EMA momentum
    that rises from $m_0$ to 1 over the run, $m_k = 1 - (1 - m_0) (1 + \cos(\pi k / K)) / 2$ after
    step k of K, the first of which is k = 0.

    Nothing in the loss keeps all embeddings from becoming the same: the logged `embedding_std`, the
    standard deviation of a coordinate of the embeddings scaled to length 1, then goes to 0. It is
    near $1 / \sqrt d$ where they are spread over the whole sphere.

    Every pass takes its own BatchNorm statistics.

    Args:
        encoder: images to features.
        projector: features to embeddings. The published one is `byol` of
            `models.projector`, 4096 wide, 256 out.
        predictor: embeddings to predictions, of the same width. The published one is the same.
        views: `(key, uint8 images, rows) -> two views`.
        momentum: $m_0$, in [0, 1]; published: 0.996 for 1000 epochs of ImageNet, 0.99 for
            300.
        total_steps: K, at least 1.

    Returns:
        The method. Its memory has `target_params`. It logs `positive_similarity`, the mean cosine
        of prediction and target, and `embedding_std` of the first view.

    Raises:
        ArgumentError: a number is out of range, or the predictor does not keep the width.

    Example:
        >>> import jax
        >>> from dystress_jax import augment, methods, models
        >>> def views(key, images, rows):
        ...     return augment.two_views(key, images, augment.simclr_cifar(), size=32, rows=rows)
        >>> encoder = models.resnet("small", stem="patch")
        >>> head = models.projector("byol", in_features=encoder.out_features, hidden=64, out=32)
        >>> predictor = models.projector("byol", in_features=32, hidden=64, out=32)
        >>> method = methods.byol(
        ...     encoder, head, predictor, views=views, momentum=0.99, total_steps=1000
        ... )
        >>> params, stats, memory = jax.eval_shape(method.init, jax.random.key(0))
        >>> sorted(params), sorted(memory), method.scheme_inputs is None
        (['encoder', 'predictor', 'projector'], ['target_params'], True)

    References:
        Grill et al., [arXiv 2006.07733](https://arxiv.org/abs/2006.07733), Eq. 1 and 2 and section
        3; the authors' code (deepmind-research/byol). `embedding_std`: Chen and He,
        [arXiv 2011.10566](https://arxiv.org/abs/2011.10566), section 4.1.
    """
    tower = Tower(encoder, projector)
    predicting = with_predictor(tower, predictor)
    rate = rising_momentum(momentum, total_steps)

    def init(key):
        params, stats = predicting.init(key)
        return params, stats, {"target_params": followed(tower.part_of(params))}

    def embed(params, stats, memory, batch, key):
        view_a, view_b = views(key, batch["image"], batch["row"])
        p_a, z_a, features_a, stats = predicting.predict(params, stats, view_a)
        p_b, _, features_b, stats = predicting.predict(params, stats, view_b)
        t_a, t_b = tower.keys(memory["target_params"], stats, view_a, view_b)
        points = {"predictions_a": p_a, "predictions_b": p_b, "targets_a": t_a, "targets_b": t_b}
        points["embeddings_a"] = z_a
        return Embedded(points, jnp.stack([features_a, features_b], axis=1)), stats

    def compared(embedded, memory, batch, key):
        del memory, key
        return Compared(
            anchors=embedded.points["predictions_a"],
            positives=embedded.points["targets_b"],
            candidates=None,
            groups=None,
            labels=(batch["label"], batch["label"]),
        )

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, temperature, batch, key
        p = {name: normalize(x) for name, x in embedded.points.items()}
        a_to_b = sphere.paired(p["predictions_a"], p["targets_b"])
        b_to_a = sphere.paired(p["predictions_b"], p["targets_a"])
        metrics = {
            "positive_similarity": jnp.mean((a_to_b + b_to_a) / 2),
            "embedding_std": jnp.mean(jnp.std(p["embeddings_a"], axis=0)),
        }
        return 4 - 2 * (a_to_b + b_to_a), Outcome(memory, metrics)

    def after_update(memory, params, step):
        # That of the step which is done, as in the authors' code, whose steps count from 0.
        target_params = follow(memory["target_params"], params, rate=rate(step - 1))
        return {"target_params": target_params}

    return method_of(
        tower,
        init=init,
        embed=embed,
        contrast=contrast,
        compared=compared,
        after_update=after_update,
        followers=("target_params",),
    )
