"""What every method offers to the training step and to evaluation."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..microscope import Compared
from ..models import Network
from ..schemes import SchemeInputs
from ..temperatures import Temperature

PyTree = Any
DeviceBatch = dict[str, Any]
"""A batch on the devices, by name: `image`, uint8 [n h w c] or `augment.Pictures`; `label` and
`index`, int32 [n]; `row`, int32 [n], the number of the example in the whole batch; and `tokens`,
int32 [n t], where images have captions."""
Loss = Callable[..., Float[Array, " anchors"]]
"""Any of `losses`: embeddings to one value an anchor. One without an argument `temperature` makes a
method that has none."""
Spread = Callable[[Loss], Loss]
"""From a loss to the same over the devices of a run: `losses.on_mesh` with its mesh."""


def on_one_device(loss: Loss) -> Loss:
    """Leave a loss as it is."""
    return loss


def accepts(loss: Loss, argument: str) -> bool:
    """Whether a loss can be given an argument by its name.

    Args:
        loss: any, also with options, by `functools.partial`.
        argument: the name.

    Example:
        >>> accepts(lambda view_a, view_b, *, temperature: view_a[:, 0], "temperature")
        True
        >>> accepts(lambda view_a, view_b: view_a[:, 0], "temperature")
        False
    """
    parameters = inspect.signature(loss).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def takes_labels(loss: Loss) -> bool:
    """Whether a loss has an argument `labels`, and so can be told which pairs are of one class.

    Args:
        loss: any, also with options, by `functools.partial`.

    Example:
        >>> from dystress_jax import losses
        >>> takes_labels(losses.supcon), takes_labels(losses.nt_xent)
        (True, False)
    """
    return "labels" in inspect.signature(loss).parameters


def given(temperature: Temperature | None) -> dict[str, Temperature]:
    """What a loss is given of the temperature: nothing where the method has none."""
    return {} if temperature is None else {"temperature": temperature}


class Embedded(NamedTuple):
    """What the networks make of a batch; every leaf has one entry an example in its first axis."""

    points: dict[str, Float[Array, "n d"]]  # what the loss compares
    features: Float[Array, "n views features"]  # of the trained encoder


class Outcome(NamedTuple):
    """What a loss leaves besides its value.

    Attributes:
        memory: the method's memory after this batch.
        metrics: numbers for the log.
        factor: what the loss of each anchor is multiplied by before the mean; None: 1.
    """

    memory: PyTree
    metrics: dict[str, Float[Array, ""]]
    factor: Float[Array, " anchors"] | None = None


def _keep_memory(memory: PyTree, params: PyTree, step: Int[Array, ""]) -> PyTree:
    del params, step
    return memory


def _no_prepare(batch: DeviceBatch, key: PRNGKeyArray) -> DeviceBatch:
    del key
    return batch


class Method(NamedTuple):
    """A way to learn from images, as pure functions.

    Three pytrees hold all that a method changes, and all three are in the train state: `params`, a
    dict of networks, which the optimiser trains; `stats`, the networks' running statistics and
    frozen arrays; and `memory`, what the method itself remembers, such as a momentum encoder or a
    queue of keys. It is `()` for a method that remembers nothing.

    The loss comes in two parts. `embed` works example by example (BatchNorm apart), so the step
    may give it the batch in pieces; `contrast` sees the embeddings of the whole batch.

    A method does not know its scheme. If it has a temperature, `scheme_inputs` says what a scheme
    may look at, and `contrast` is given the temperature of the step.

    Attributes:
        init: `key -> (params, stats, memory)`.
        embed: `(params, stats, memory, batch, key) -> (Embedded, stats)`, in training mode.
        contrast: `(params, embedded, temperature, memory, batch, key) -> (loss of each anchor,
            Outcome)`; the step takes the mean.
        encode: `(params, stats, images) -> features`, in evaluation mode; images are float.
        num_features: the width of the features.
        width: the width of the embeddings that the loss compares.
        project: `(params, stats, images) -> embeddings`, in evaluation mode.
        scheme_inputs: `(embedded, memory, batch, key) -> SchemeInputs`, what a scheme may look at.
            None: the method has no temperature, and `contrast` is given None.
        compared: `(embedded, memory, batch, key) -> microscope.Compared`, the pairs that the loss
            compares, for the records of a run. None: nothing is recorded.
        encoder: the network behind `encode`, to be fine-tuned. Its parameters and its statistics
            are the entries `encoder` of `params` and `stats`. None: it cannot be.
        prepare: `(batch, key) -> batch`, what needs the whole batch before it is cut into pieces.
        after_update: `(memory, params, step) -> memory` once the optimiser has moved `params`;
            `step` counts the steps that are done with it. By default memory stays as it is.
        followers: the entries of `memory` that are momentum encoders. Each has entries of `params`,
            and begins as these where a run starts from weights. For a record of the pairs
            `scheme_inputs` and `compared` are not given them.
        beside: `(params, embedded, batch) -> (scalar, metrics)`, what is minimised beside the loss
            and does not show in it, such as a probe's; None: nothing.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, PyTree, PyTree]]
    embed: Callable[[PyTree, PyTree, PyTree, DeviceBatch, PRNGKeyArray], tuple[Embedded, PyTree]]
    contrast: Callable[
        [PyTree, Embedded, Temperature | None, PyTree, DeviceBatch, PRNGKeyArray],
        tuple[Float[Array, " anchors"], Outcome],
    ]
    encode: Callable[[PyTree, PyTree, Float[Array, "n h w c"]], Float[Array, "n features"]]
    num_features: int
    width: int
    project: Callable[[PyTree, PyTree, Float[Array, "n h w c"]], Float[Array, "n d"]]
    scheme_inputs: Callable[[Embedded, PyTree, DeviceBatch, PRNGKeyArray], SchemeInputs] | None = (
        None
    )
    compared: Callable[[Embedded, PyTree, DeviceBatch, PRNGKeyArray], Compared] | None = None
    encoder: Network | None = None
    prepare: Callable[[DeviceBatch, PRNGKeyArray], DeviceBatch] = _no_prepare
    after_update: Callable[[PyTree, PyTree, Int[Array, ""]], PyTree] = _keep_memory
    followers: tuple[str, ...] = ()
    beside: (
        Callable[
            [PyTree, Embedded, DeviceBatch], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]
        ]
        | None
    ) = None
