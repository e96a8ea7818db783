"""What the hardest pairs of an anchor have of its gradient: exact, and in linear memory.

The place of a pair between the least and the greatest similarity of its anchor is a number of a few
digits. Where the hardest part of the pairs ends is found digit by digit: a pass counts the pairs by
the next digit, those alone whose digits before are the limit's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._each_pair import EachPair, Tile, count_in

# Together 24 bits, as many as the similarities of float32 have.
DIGITS, BITS = 4, 6


class Range(NamedTuple):
    """The least similarity of each anchor, and how far the greatest is from it."""

    low: Float[Array, " n"]
    width: Float[Array, " n"]

    def place(self, similarity: Float[Array, "n m"]) -> Int[Array, "n m"]:
        """Where each similarity lies, from 0 to 2^24 - 1."""
        places = 2 ** (DIGITS * BITS)
        at = (similarity - self.low[:, None]) / self.width[:, None]
        return jnp.clip(jnp.floor(at * places), 0, places - 1).astype(jnp.int32)


class Limit(NamedTuple):
    """Where the hardest part of the pairs of each anchor ends.

    Attributes:
        place: its digits that are known.
        wanted: how many of the pairs whose place begins with these digits belong to the part.
    """

    place: Int[Array, " n"]
    wanted: Int[Array, " n"]


def hardest_shares(
    pairs: EachPair,
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    number: Float[Array, " n"],
    parts: Sequence[int],
) -> list[Float[Array, " n"]]:
    """What the most similar pairs have of the gradient of each anchor.

    Args:
        pairs: all of them.
        low: the least similarity of each anchor.
        high: the greatest.
        number: how many pairs each anchor has.
        parts: one share each: a part of 10 is the most similar tenth of the pairs, at least one.

    Returns:
        The shares. Pairs whose similarities differ by less than 2^-24 of the range count as equal;
        where the part ends among them, they count in proportion.
    """
    some = jnp.isfinite(low) & (high > low)
    own = Range(jnp.where(some, low, 0.0), jnp.where(some, high - low, 1.0))
    number = number.astype(jnp.int32)
    known = jnp.zeros_like(number)
    limits = tuple(Limit(known, jnp.maximum(-(-number // part), 1)) for part in parts)

    def next_digit(limits: tuple[Limit, ...], shift: Int[Array, ""]):
        def count(tile: Tile, both: tuple[Range, tuple[Limit, ...]], counts):
            own, limits = both
            place = own.place(tile.similarity) >> shift
            return tuple(
                count_in(of_part, place & (2**BITS - 1), tile.counts & _begins(place, limit))
                for of_part, limit in zip(counts, limits, strict=True)
            )

        nothing = tuple(jnp.zeros_like(known, shape=(*known.shape, 2**BITS)) for _ in limits)
        counts = pairs.fold(count, nothing, (own, limits))
        return tuple(map(_narrowed, limits, counts)), None

    shifts = BITS * jnp.arange(DIGITS, dtype=jnp.int32)[::-1]
    limits, _ = jax.lax.scan(next_digit, limits, shifts)

    def add(tile: Tile, both: tuple[Range, tuple[Limit, ...]], sums):
        own, limits = both
        place = own.place(tile.similarity)
        pull = jnp.where(tile.counts, tile.pull, 0.0)
        among = lambda which, x: jnp.sum(jnp.where(which, x, 0), axis=1, dtype=x.dtype)
        of_all, of_parts = sums
        of_parts = tuple(
            (
                above + among(place > limit.place[:, None], pull),
                there + among(place == limit.place[:, None], pull),
                count + among(place == limit.place[:, None], tile.counts.astype(jnp.int32)),
            )
            for (above, there, count), limit in zip(of_parts, limits, strict=True)
        )
        return of_all + jnp.sum(pull, axis=1), of_parts

    zero = jnp.zeros_like(low)
    nothing = zero, tuple((zero, zero, known) for _ in limits)
    of_all, of_parts = pairs.fold(add, nothing, (own, limits))
    # Of the pairs at the limit as many as are wanted.
    taken = lambda limit, count: limit.wanted.astype(low.dtype) / count.astype(low.dtype)
    return [
        (above + there * taken(limit, jnp.maximum(count, 1))) / of_all
        for (above, there, count), limit in zip(of_parts, limits, strict=True)
    ]


def _begins(place: Int[Array, "n m"], limit: Limit) -> Bool[Array, "n m"]:
    """Whether all digits but the last one are those of the limit."""
    return (place >> BITS) == limit.place[:, None]


def _narrowed(limit: Limit, counts: Int[Array, "n base"]) -> Limit:
    """The limit with one digit more, of how many pairs have each digit."""
    from_above = jnp.cumsum(counts[:, ::-1], axis=1, dtype=counts.dtype)[:, ::-1]
    higher = jnp.sum(from_above < limit.wanted[:, None], axis=1, dtype=jnp.int32)
    digit = jnp.maximum(2**BITS - 1 - higher, 0)
    taken = jnp.take_along_axis(from_above - counts, digit[:, None], axis=1)[:, 0]
    return Limit((limit.place << BITS) | digit, limit.wanted - taken)
