"""A symmetric loss: each view is the anchor once."""

import jax
from jaxtyping import PRNGKeyArray

from ..microscope import Compared
from ..schemes import SchemeInputs
from ..schemes._scheme import Ways, of_ways
from ._method import DeviceBatch, Loss


def of_both_ways(
    decoupled: Loss, ways: Ways, batch: DeviceBatch, key: PRNGKeyArray
) -> SchemeInputs:
    """What a scheme may look at.

    Args:
        decoupled: the loss with the positive left out of the sum.
        ways: who is compared with whom.
        batch: whose examples the anchors are.
        key: randomness of the step.
    """
    examples = batch["index"], batch["index"]
    return of_ways(jax.lax.stop_gradient(ways), decoupled, examples=examples, key=key)


def first_way(ways: Ways, batch: DeviceBatch) -> Compared:
    """The pairs of the first way; those of the other are alike."""
    anchors, candidates = ways[0]
    same_for_both = lambda x: (x, x)
    return Compared(
        anchors=anchors,
        positives=candidates,
        candidates=candidates,
        groups=same_for_both(batch["row"]),
        labels=same_for_both(batch["label"]),
    )
