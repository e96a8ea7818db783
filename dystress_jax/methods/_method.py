"""What every method offers to the training step and to evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray

PyTree = Any
Batch = dict[str, jax.Array]  # "image": uint8 [n h w c]; "label" and "index": int32 [n]


class Outcome(NamedTuple):
    """What a loss evaluation leaves besides the loss."""

    stats: PyTree  # running statistics after this batch
    metrics: dict[str, Float[Array, ""]]
    features: Float[Array, "rows features"]  # of the views, in blocks of one row an image


class Method(NamedTuple):
    """A self-supervised method as pure functions.

    Attributes:
        init: ``key -> (params, stats)``.
        loss: ``(params, stats, batch, key) -> (scalar loss, Outcome)``, in training mode.
        encode: ``(params, stats, images) -> features``, in evaluation mode; images are float.
        num_features: the width of ``features``.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, PyTree]]
    loss: Callable[[PyTree, PyTree, Batch, PRNGKeyArray], tuple[Float[Array, ""], Outcome]]
    encode: Callable[[PyTree, PyTree, Float[Array, "n h w c"]], Float[Array, "n features"]]
    num_features: int
