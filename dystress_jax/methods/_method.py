"""What every method offers to the training step and to evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import schemes
from ..temperatures import Temperature

PyTree = Any
# "image": uint8 [n h w c]; "label" and "index": int32 [n]; "tokens": int32 [n t] where images have
# captions; "row": int32 [n], the number of the example in the whole batch.
Batch = dict[str, jax.Array]


class Embedded(NamedTuple):
    """What the networks make of a batch; every leaf has one entry an example in its first axis."""

    points: dict[str, Float[Array, "n d"]]  # what the loss compares
    features: Float[Array, "n views features"]  # of the trained encoder


class Outcome(NamedTuple):
    """What a loss leaves besides its value."""

    memory: PyTree  # the method's memory after this batch
    metrics: dict[str, Float[Array, ""]]


def _keep(memory: PyTree, params: PyTree, step: Int[Array, ""]) -> PyTree:
    del params, step
    return memory


def _as_it_is(batch: Batch, key: PRNGKeyArray) -> Batch:
    del key
    return batch


class Method(NamedTuple):
    """A contrastive method as pure functions.

    Three pytrees hold all that a method changes, and all three are in the train state: ``params``,
    which the optimiser trains; ``stats``, the networks' running statistics and frozen arrays; and
    ``memory``, what the method itself remembers, such as a momentum encoder or a queue of keys. It
    is ``()`` for a method that remembers nothing. The temperature's scheme has a state beside them.

    The loss comes in two parts. ``embed`` works example by example (BatchNorm apart), so the step
    may give it the batch in pieces; ``contrast`` sees the embeddings of the whole batch.

    Attributes:
        init: ``key -> (params, stats, memory)``.
        embed: ``(params, stats, memory, batch, key) -> (Embedded, stats)``, in training mode.
        look: ``(embedded, memory, batch, key) -> schemes.Batch``, what the scheme may look at.
        contrast: ``(params, embedded, temperature, memory, batch, key) -> (scalar loss, Outcome)``.
        scheme: the temperature's.
        encode: ``(params, stats, images) -> features``, in evaluation mode; images are float.
        num_features: the width of ``features``.
        prepare: ``(batch, key) -> batch``, what needs the whole batch before it is cut into pieces.
        after_update: ``(memory, params, step) -> memory`` once the optimiser has moved ``params``;
            ``step`` counts the steps that are done with it. By default memory stays as it is.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, PyTree, PyTree]]
    embed: Callable[[PyTree, PyTree, PyTree, Batch, PRNGKeyArray], tuple[Embedded, PyTree]]
    look: Callable[[Embedded, PyTree, Batch, PRNGKeyArray], schemes.Batch]
    contrast: Callable[
        [PyTree, Embedded, Temperature, PyTree, Batch, PRNGKeyArray],
        tuple[Float[Array, ""], Outcome],
    ]
    scheme: schemes.Scheme
    encode: Callable[[PyTree, PyTree, Float[Array, "n h w c"]], Float[Array, "n features"]]
    num_features: int
    prepare: Callable[[Batch, PRNGKeyArray], Batch] = _as_it_is
    after_update: Callable[[PyTree, PyTree, Int[Array, ""]], PyTree] = _keep
