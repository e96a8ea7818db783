"""Which pairs a loss compares."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from ..similarities import Similarity, sphere


class Compared(NamedTuple):
    """Who is compared with whom in a batch.

    Attributes:
        anchors: embeddings that look for their positive.
        positives: the positive of each anchor.
        candidates: embeddings that an anchor is told apart from; None: there are none.
        groups: a number for each anchor and for each candidate. The pairs of different numbers are
            the negatives, the others do not count.
        labels: the class of each anchor and of each candidate; -1: unknown.
        similarity: how they are compared.
    """

    anchors: Float[Array, "n d"]
    positives: Float[Array, "n d"]
    candidates: Float[Array, "m d"] | None
    groups: tuple[Int[Array, " n"], Int[Array, " m"]] | None
    labels: tuple[Int[Array, " n"], Int[Array, " m"]]
    similarity: Similarity = sphere
