"""SimCLR (Chen et al. 2020): two views of each image attract, all other images repel."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..metrics import pair_statistics
from ..models import Network
from ..temperatures import Temperature
from ._method import Method, Outcome
from ._tower import Tower, Views

Loss = Callable[[Float[Array, "n d"], Float[Array, "n d"], Temperature], Float[Array, " rows"]]


def simclr(
    encoder: Network, projector: Network, *, views: Views, loss: Loss, temperature: Temperature
) -> Method:
    """SimCLR with any contrastive loss and any temperature.

    Both views of a batch go through the network together, so BatchNorm takes its statistics over
    both, as in the authors' TensorFlow code.

    Args:
        encoder: images to features.
        projector: features to the embeddings that the loss compares.
        views: ``(key, uint8 images) -> two views``.
        loss: ``(view_a [n d], view_b [n d], temperature) -> one value an anchor``.
        temperature: handed to ``loss``.

    References:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
        https://arxiv.org/abs/2002.05709
    """
    tower = Tower(encoder, projector)

    def init(key):
        return *tower.init(key), ()

    def loss_of_batch(params, stats, memory, batch, key):
        view_a, view_b = views(key, batch["image"])
        # Row by row, a then b: both views of an image stay on the device that holds the image.
        images = jnp.stack([view_a, view_b], axis=1).reshape(-1, *view_a.shape[1:])
        embeddings, features, stats = tower.embed(params, stats, images)
        pairs = embeddings.reshape(-1, 2, embeddings.shape[-1])
        value = jnp.mean(loss(pairs[:, 0], pairs[:, 1], temperature))
        metrics = pair_statistics(pairs[:, 0], pairs[:, 1], temperature=temperature)
        return value, Outcome(stats, memory, metrics, features)

    return Method(init, loss_of_batch, tower.encode, encoder.out_features)
