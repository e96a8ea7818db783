"""What every method offers to the training step and to evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

PyTree = Any
Batch = dict[str, jax.Array]  # "image": uint8 [n h w c]; "label" and "index": int32 [n]


class Outcome(NamedTuple):
    """What a loss evaluation leaves besides the loss."""

    stats: PyTree  # running statistics after this batch
    memory: PyTree  # the method's memory after this batch
    metrics: dict[str, Float[Array, ""]]
    features: Float[Array, "rows features"]  # of the views, in blocks of one row an image


def _keep(memory: PyTree, params: PyTree, step: Int[Array, ""]) -> PyTree:
    del params, step
    return memory


class Method(NamedTuple):
    """A self-supervised method as pure functions.

    Three pytrees hold all that a method changes, and all three are in the train state: ``params``,
    which the optimiser trains; ``stats``, the networks' running statistics and frozen arrays; and
    ``memory``, what the method itself remembers, such as a momentum encoder or a queue of keys. It
    is ``()`` for a method that remembers nothing.

    Attributes:
        init: ``key -> (params, stats, memory)``.
        loss: ``(params, stats, memory, batch, key) -> (scalar loss, Outcome)``, in training mode.
        encode: ``(params, stats, images) -> features``, in evaluation mode; images are float.
        num_features: the width of ``features``.
        after_update: ``(memory, params, step) -> memory`` once the optimiser has moved ``params``;
            ``step`` counts the steps that are done with it. By default memory stays as it is.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, PyTree, PyTree]]
    loss: Callable[[PyTree, PyTree, PyTree, Batch, PRNGKeyArray], tuple[Float[Array, ""], Outcome]]
    encode: Callable[[PyTree, PyTree, Float[Array, "n h w c"]], Float[Array, "n features"]]
    num_features: int
    after_update: Callable[[PyTree, PyTree, Int[Array, ""]], PyTree] = _keep
