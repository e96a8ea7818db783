"""A symmetric loss: each view is the anchor once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..microscope import Compared
from ..schemes import SchemeInputs
from ..temperatures import Temperature, of_anchors
from ._method import DeviceBatch, Loss, given

# (anchors, candidates) of one way and of the other; candidate i is the positive of anchor i.
Ways = tuple[
    tuple[Float[Array, "n d"], Float[Array, "n d"]],
    tuple[Float[Array, "n d"], Float[Array, "n d"]],
]


def both_ways(loss: Loss, ways: Ways, temperature: Temperature | None) -> Float[Array, " 2*n"]:
    """The loss of the anchors of the first way, then that of the anchors of the second.

    Args:
        loss: `(anchors, candidates, *, temperature) -> [n]`.
        ways: who is compared with whom.
        temperature: one for each of the 2n anchors, in this order; or any that is the same for all;
            None: the loss takes none.
    """
    n = len(ways[0][0])
    of = lambda rows: given(None if temperature is None else of_anchors(temperature, rows))
    first, second = ways
    return jnp.concatenate([loss(*first, **of(slice(n))), loss(*second, **of(slice(n, None)))])


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
    ways = jax.lax.stop_gradient(ways)
    n = len(batch["index"])
    return SchemeInputs(
        anchors=jnp.concatenate([anchors for anchors, _ in ways]),
        positives=jnp.concatenate([candidates for _, candidates in ways]),
        decoupled=lambda temperature: both_ways(decoupled, ways, temperature),
        negatives=n - 1,
        example=jnp.tile(batch["index"], 2),
        side=jnp.repeat(jnp.arange(2), n),
        key=key,
    )


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
