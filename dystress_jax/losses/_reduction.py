"""How terms are summed over the columns: what a reduction is, and the reference.

A term is a function of a row and a column. Whoever sums it knows nothing of what it means.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..similarities import Similarity


class Reduction(NamedTuple):
    """A way to reduce terms, `term(params, rows, columns) -> [n m]`, over the columns.

    Attributes:
        row_sum: (term, params, rows, columns, *, symmetric) -> the sum of each row, differentiable
            in all but the term. `symmetric` promises that rows and columns are the same and the
            matrix its own transpose.
        row_max: (term, params, rows, columns, *, symmetric) -> the largest term of each row, which
            counts as a number in gradients.
        fold: (visit, rows, columns, state) -> the state of each row after
            `state = visit(rows, columns, there, state)` of all columns, some at a time and in any
            order; `there` says which of them do not only fill up a tile, None: all. No gradients.
        reverse_only: whether it goes over the pairs part by part: then forward mode is out of the
            question, and it pays to avoid `row_max` where exp cannot overflow.
        agree: makes a decision the same on all devices that work together.
    """

    row_sum: Callable[..., Float[Array, " n"]]
    row_max: Callable[..., Float[Array, " n"]]
    fold: Callable[[Callable, Any, Any, Any], Any]
    reverse_only: bool
    agree: Callable[[Bool[Array, ""]], Bool[Array, ""]] = lambda decision: decision

    def measure(self, similarity: Similarity) -> Similarity:
        """The similarity, with the faster gradient where nobody can ask for forward mode."""
        return similarity.for_reverse_mode() if self.reverse_only else similarity


def _dense_sum(
    term: Callable, params: Any, rows: Any, columns: Any, *, symmetric: bool = False
) -> Float[Array, " n"]:
    del symmetric  # a tile could be used twice, the whole matrix cannot
    return jnp.sum(term(params, rows, columns), axis=1)


def _dense_max(
    term: Callable, params: Any, rows: Any, columns: Any, *, symmetric: bool = False
) -> Float[Array, " n"]:
    del symmetric
    return jax.lax.stop_gradient(jnp.max(term(params, rows, columns), axis=1))


def _dense_fold(visit: Callable, rows: Any, columns: Any, state: Any) -> Any:
    return visit(*jax.lax.stop_gradient((rows, columns)), None, state)


dense = Reduction(_dense_sum, _dense_max, _dense_fold, reverse_only=False)
"""The reference: the whole matrix of terms at once, O(n m) memory."""
