"""SimCLR (Chen et al. 2020): two views of each image attract, all other images repel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import losses, schemes
from ..metrics import pair_statistics
from ..models import Network
from ..temperatures import Temperature
from ._method import Embedded, Method, Outcome
from ._tower import Tower, Views

Loss = Callable[
    [Float[Array, "n d"], Float[Array, "n d"], Temperature, Int[Array, " n"]],
    Float[Array, " anchors"],
]


def simclr(
    encoder: Network,
    projector: Network,
    *,
    views: Views,
    loss: Loss,
    scheme: schemes.Scheme,
    decoupled: Callable[..., Float[Array, " anchors"]] = losses.dcl,
) -> Method:
    """SimCLR with any contrastive loss between two views and any temperature.

    Both views of a batch go through the network together, so BatchNorm takes its statistics over
    both, as in the authors' TensorFlow code.

    Args:
        encoder: images to features.
        projector: features to the embeddings that the loss compares.
        views: ``(key, uint8 images, rows) -> two views``.
        loss: ``(view_a [n d], view_b [n d], temperature, labels [n]) -> one value an anchor``.
        scheme: of the temperature that is handed to ``loss``.
        decoupled: `losses.dcl`, or the same with options of one's own; what schemes with a state
            per example look at.

    References:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
        https://arxiv.org/abs/2002.05709
    """
    tower = Tower(encoder, projector)

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

    def look(embedded, memory, batch, key):
        del memory
        views = jax.lax.stop_gradient(embedded.points)
        return schemes.of_views(**views, example=batch["index"], key=key, decoupled=decoupled)

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, key
        view_a, view_b = embedded.points["view_a"], embedded.points["view_b"]
        value = jnp.mean(loss(view_a, view_b, temperature, batch["label"]))
        metrics = pair_statistics(view_a, view_b, temperature=temperature)
        return value, Outcome(memory, metrics)

    return Method(init, embed, look, contrast, scheme, tower.encode, encoder.out_features)
