"""SimCLR (Chen et al. 2020): two views of each image attract, all other images repel."""

import jax
import jax.numpy as jnp

from .. import losses, schemes
from ..losses._pairs import unlabelled_apart
from ..metrics import pair_statistics
from ..microscope import Compared
from ..models import Network
from ._method import (
    Embedded,
    Loss,
    Method,
    Outcome,
    Spread,
    accepts,
    given,
    on_one_device,
    takes_labels,
)
from ._tower import Tower, Views, method_of


def simclr(
    encoder: Network,
    projector: Network,
    *,
    views: Views,
    loss: Loss = losses.nt_xent,
    spread: Spread = on_one_device,
) -> Method:
    """SimCLR with any contrastive loss between two views and any temperature.

    Both views of a batch go through the network together, so BatchNorm takes its statistics over
    both, as in the authors' TensorFlow code.

    Args:
        encoder: images to features.
        projector: features to the embeddings that the loss compares.
        views: `(key, uint8 images, rows) -> two views`.
        loss: `(view_a [n d], view_b [n d], *, temperature) -> [2n]`, one value an anchor, all of a
            first. A loss with an argument `labels`, such as `losses.supcon`, is given them, -1 for
            an image without one.
        spread: puts a loss over the devices, such as `losses.on_mesh` with a mesh.

    Example:
        >>> from dystress_jax import augment, methods, models
        >>> def views(key, images, rows):
        ...     return augment.two_views(key, images, augment.simclr_cifar(), size=32, rows=rows)
        >>> encoder = models.resnet("small", stem="patch")
        >>> head = models.projector("simclr", in_features=encoder.out_features, out=32)
        >>> method = methods.simclr(encoder, head, views=views)
        >>> params, stats, memory = jax.eval_shape(method.init, jax.random.key(0))
        >>> sorted(params), memory, method.num_features, method.width
        (['encoder', 'projector'], (), 64, 32)

    References:
        Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709).
    """
    tower = Tower(encoder, projector)
    supervised = takes_labels(loss)
    has_temperature = accepts(loss, "temperature")
    loss, dcl = spread(loss), spread(losses.dcl)

    def init(key):
        return *tower.init(key), ()

    def embed(params, stats, memory, batch, key):
        del memory
        view_a, view_b = views(key, batch["image"], batch["row"])
        # Row by row, a then b: both views of an image stay on the device that holds the image.
        images = jnp.stack([view_a, view_b], axis=1).reshape(-1, *view_a.shape[1:])
        embeddings, features, stats = tower.embed(params, stats, images)
        pairs = embeddings.reshape(-1, 2, embeddings.shape[-1])
        points = {"view_a": pairs[:, 0], "view_b": pairs[:, 1]}
        return Embedded(points, features.reshape(len(pairs), 2, -1)), stats

    def scheme_inputs(embedded, memory, batch, key):
        del memory
        points = jax.lax.stop_gradient(embedded.points)
        return schemes.of_views(**points, example=batch["index"], key=key, decoupled=dcl)

    def groups(batch):
        return unlabelled_apart(batch["label"], batch["row"]) if supervised else batch["row"]

    def compared(embedded, memory, batch, key):
        del memory, key
        view_a, view_b = embedded.points["view_a"], embedded.points["view_b"]
        group, labels = groups(batch), batch["label"]
        return Compared(
            anchors=view_a,
            positives=view_b,
            candidates=jnp.concatenate([view_a, view_b]),
            groups=(group, jnp.tile(group, 2)),
            labels=(labels, jnp.tile(labels, 2)),
        )

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, key
        view_a, view_b = embedded.points["view_a"], embedded.points["view_b"]
        labels = {"labels": batch["label"]} if supervised else {}
        values = loss(view_a, view_b, **labels, **given(temperature))
        found = pair_statistics(view_a, view_b, temperature=temperature, groups=groups(batch))
        return values, Outcome(memory, found)

    return method_of(
        tower,
        init=init,
        embed=embed,
        contrast=contrast,
        scheme_inputs=scheme_inputs if has_temperature else None,
        compared=compared,
    )
