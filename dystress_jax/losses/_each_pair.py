"""Every pair of some anchors, a tile at a time: what it is, and how hard it pushes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from ..temperatures import Temperature
from . import _pairs, _partition
from ._pairs import Pairs, Side


class PairTile(NamedTuple):
    """Each pair of some rows and columns.

    Attributes:
        counts: whether it takes part; what stands for the others is of no use.
        similarity: on the scale of the cosine.
        tau: its temperature.
        logit: s / tau, with the bias of a sigmoid.
        log_share: the logarithm of its share q in the gradient by the logits.
        pull: q |dl / ds|, its part in the gradient by the similarities.
    """

    counts: Bool[Array, "n m"]
    similarity: Float[Array, "n m"]
    tau: Float[Array, "n m"]
    logit: Float[Array, "n m"]
    log_share: Float[Array, "n m"]
    pull: Float[Array, "n m"]


# add(tile, own, state) -> state, where every leaf of own and of state has one entry per anchor.
Add = Callable[[PairTile, Any, Any], Any]


class EachPair(NamedTuple):
    """The pairs of some anchors with candidates of one kind or several.

    Attributes:
        parts: the same anchors, with the candidates of each kind.
        log_total: the logarithm of the sum of e^l over all of them; of a sigmoid that of sigma(l).
        bias: that of a loss with a sigmoid in place of the softmax.
    """

    parts: tuple[Pairs, ...]
    log_total: Float[Array, " n"]
    bias: Float[Array, ""] | None = None

    @classmethod
    def of_sigmoid(cls, parts: tuple[Pairs, ...], bias: Float[Array, ""]) -> "EachPair":
        """Those of a loss with a sigmoid, whose sum is still to be found."""
        _, rows, _ = parts[0].sides()
        zero = jnp.zeros_like(rows.points, shape=rows.points.shape[:1])
        pairs = cls(parts, zero, bias)

        def add(tile: PairTile, own: Any, total: Float[Array, " n"]) -> Float[Array, " n"]:
            del own
            return _partition.log_add(total, jax.nn.logsumexp(tile.log_share, axis=1))

        total = pairs.fold(add, zero - jnp.inf)
        return pairs._replace(log_total=jnp.where(jnp.isfinite(total), total, 0.0))

    def fold(self, add: Add, state: Any, own: Any = None) -> Any:
        """The state of each anchor after `add` of all pairs; `own` is what belongs to anchors."""
        for pairs in self.parts:
            state = self._fold_part(pairs, add, state, own)
        return state

    def _fold_part(self, pairs: Pairs, add: Add, state: Any, own: Any) -> Any:
        temperature, rows, columns = pairs.sides()

        def visit(
            anchors: tuple[Side, Float[Array, " n"], Any],
            columns: Side,
            there: Bool[Array, " m"] | None,
            state: Any,
        ) -> Any:
            rows, log_total, own = anchors
            tile = self._look(pairs, temperature, rows, log_total, columns, there)
            return add(tile, own, state)

        anchors = rows, self.log_total, own
        return pairs.reduction.fold(visit, anchors, columns, state)

    def _look(
        self,
        pairs: Pairs,
        temperature: Temperature,
        rows: Side,
        log_total: Float[Array, " n"],
        columns: Side,
        there: Bool[Array, " m"] | None,
    ) -> PairTile:
        """Each pair of rows and columns."""
        similarity = pairs.similarity
        temperature = temperature if rows.temperature is None else rows.temperature
        value = similarity.between(rows.points, columns.points).astype(rows.points.dtype)
        logit, slope = jax.jvp(
            lambda v: _partition.logits(similarity, temperature, v),
            (value,),
            (jnp.ones_like(value),),
        )
        counts = _pairs.takes_part_in(pairs.allowed, rows, columns)
        counts = jnp.ones((1, 1), bool) if counts is None else counts
        counts = counts if there is None else counts & there[None, :]
        counts = jnp.broadcast_to(counts, value.shape)
        log_weight = logit
        if self.bias is not None:
            logit = logit + self.bias.astype(logit.dtype)
            log_weight = jax.nn.log_sigmoid(logit)
        weight = _pairs.weight_of(rows, columns)
        if weight is not None:
            log_weight = log_weight + jnp.log(jnp.where(weight != 0, weight, 1.0))
        log_share = jnp.where(counts, log_weight - log_total[:, None], -jnp.inf)
        cosine = similarity.as_cosine(value)
        pull = jnp.exp(log_share) * jnp.abs(slope)
        return PairTile(counts, cosine, temperature(cosine), logit, log_share, pull)


def add_in(
    totals: Num[Array, "n bins"],
    index: Int[Array, "n m"],
    which: Bool[Array, "n m"],
    values: Num[Array, "n m"],
) -> Num[Array, "n bins"]:
    """Adds, of each anchor, the values of the pairs that it asks for to the bins of that index."""
    n, bins = totals.shape
    row = jnp.arange(n, dtype=jnp.int32)[:, None]
    index = jnp.where(which, row * bins + index, n * bins)  # the others have no bin
    return totals.reshape(-1).at[index].add(values, mode="drop").reshape(n, bins)
