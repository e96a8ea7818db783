"""An encoder and its projection head as one, and a second one that follows it slowly."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped, UInt8

from ..models import Network

PyTree = Any
# (key, images, number of each image in the whole batch) -> two views
Views = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"], Int[Array, " n"]],
    tuple[Float[Array, "n size size c"], Float[Array, "n size size c"]],
]


class Tower(NamedTuple):
    """An encoder and a projector; params and stats hold one entry for each."""

    encoder: Network
    projector: Network

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Return ``(params, stats)``."""
        encoder_key, projector_key = jax.random.split(key)
        encoder_params, encoder_stats = self.encoder.init(encoder_key)
        projector_params, projector_stats = self.projector.init(projector_key)
        params = {"encoder": encoder_params, "projector": projector_params}
        return params, {"encoder": encoder_stats, "projector": projector_stats}

    def embed(
        self, params: PyTree, stats: PyTree, inputs: Shaped[Array, "n ..."], *, train: bool = True
    ) -> tuple[Float[Array, "n d"], Float[Array, "n features"], PyTree]:
        """Return embeddings, features and the new stats."""
        features, encoder_stats = self.encoder.apply(
            params["encoder"], stats["encoder"], inputs, train=train
        )
        embeddings, projector_stats = self.projector.apply(
            params["projector"], stats["projector"], features, train=train
        )
        return embeddings, features, {"encoder": encoder_stats, "projector": projector_stats}

    def keys(
        self, key_params: PyTree, stats: PyTree, images: Float[Array, "n h w c"]
    ) -> Float[Array, "n d"]:
        """Return the embeddings of a momentum encoder, which no gradient reaches.

        BatchNorm normalises them by the batch, so its running statistics would serve nobody: a
        momentum encoder keeps none. What else is in the stats is frozen, and the same for both.
        """
        embeddings, _, _ = self.embed(key_params, stats, images)
        return jax.lax.stop_gradient(embeddings)

    def encode(
        self, params: PyTree, stats: PyTree, images: Float[Array, "n h w c"]
    ) -> Float[Array, "n features"]:
        """Return the features, in evaluation mode."""
        features, _ = self.encoder.apply(params["encoder"], stats["encoder"], images, train=False)
        return features


def follow(key_params: PyTree, params: PyTree, *, rate: ArrayLike) -> PyTree:
    """The momentum encoder's next parameters, ``(1 - rate) key_params + rate params``.

    Args:
        key_params: the momentum encoder's.
        params: the trained ones; entries that the momentum encoder does not have are passed over.
        rate: one minus the momentum. As the momentum goes to 1 this keeps the digits.
    """
    leading = {name: params[name] for name in key_params}
    return optax.incremental_update(leading, key_params, step_size=rate)
