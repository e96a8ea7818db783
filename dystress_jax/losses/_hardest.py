"""What the hardest pairs of an anchor have of its gradient: exact, and in linear memory.

Each similarity has a place, a whole number of four digits, in their order. Where the hardest part
of the pairs ends is found digit by digit: a pass counts the pairs by the next digit, those alone
whose digits before are the limit's.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from .._order import ordinals
from ._each_pair import EachPair, PairTile, add_in

DIGITS, BITS = 4, 8


class Limit(NamedTuple):
    """Where the hardest part of the pairs of each anchor ends.

    Attributes:
        place: its digits that are known.
        wanted: how many of the pairs whose place begins with these digits belong to the part.
    """

    place: UInt32[Array, " n"]
    wanted: Int[Array, " n"]


class _BeforeLast(NamedTuple):
    """What the pairs of each anchor have, where all digits of a limit but the last one are known.

    Attributes:
        above: the pull of those whose digits before the last are more than the limit's.
        pulls: the pull of those that share these digits, by the last one.
        counts: how many these are.
    """

    above: Float[Array, " n"]
    pulls: Float[Array, "n digits"]
    counts: Int[Array, "n digits"]


def no_counts(like: Float[Array, " n"]) -> Int[Array, "n digits"]:
    """What `count_first` begins with."""
    return jnp.zeros_like(like, jnp.int32, shape=(*like.shape, 2**BITS))


def count_first(tile: PairTile, counts: Int[Array, "n digits"]) -> Int[Array, "n digits"]:
    """Counts the pairs by their first digit, in the pass that looks at them for other numbers."""
    return _counted(counts, ordinals(tile.similarity) >> (BITS * (DIGITS - 1)), tile.counts)


def hardest_shares(
    pairs: EachPair, first: Int[Array, "n digits"], parts: Sequence[int]
) -> list[Float[Array, " n"]]:
    """What the most similar pairs have of the gradient of each anchor: three more passes.

    Args:
        pairs: all of them.
        first: how many pairs have each first digit, as `count_first` found it.
        parts: one share each: a part of 10 is the most similar tenth of the pairs, at least one.

    Returns:
        The shares. Where a part ends among pairs of equal similarity, they count in proportion.
    """
    number = jnp.sum(first, axis=1, dtype=jnp.int32)
    nowhere = jnp.zeros_like(number, jnp.uint32)
    wanted = [jnp.maximum(-(-number // part), 1) for part in parts]
    limits = tuple(_narrowed(Limit(nowhere, some), first) for some in wanted)

    def next_digit(limits: tuple[Limit, ...], shift: UInt32[Array, ""]):
        def count(tile: PairTile, limits: tuple[Limit, ...], counts):
            place = ordinals(tile.similarity) >> shift
            return tuple(
                _counted(of_part, place, tile.counts & _begins(place, limit))
                for of_part, limit in zip(counts, limits, strict=True)
            )

        counts = pairs.fold(count, tuple(jnp.zeros_like(first) for _ in limits), limits)
        return tuple(map(_narrowed, limits, counts)), None

    shifts = BITS * jnp.arange(1, DIGITS - 1, dtype=jnp.uint32)[::-1]
    limits, _ = jax.lax.scan(next_digit, limits, shifts)

    def last_digit(tile: PairTile, limits: tuple[Limit, ...], sums):
        of_all, of_parts = sums
        of_parts = tuple(map(functools.partial(_add_before_last, tile), limits, of_parts))
        return of_all + jnp.sum(jnp.where(tile.counts, tile.pull, 0.0), axis=1), of_parts

    zero = jnp.zeros_like(pairs.log_total)
    nothing = _BeforeLast(zero, jnp.zeros_like(zero, shape=first.shape), jnp.zeros_like(first))
    of_all, of_parts = pairs.fold(last_digit, (zero, tuple(nothing for _ in limits)), limits)
    return [_pull_of_hardest(*each) / of_all for each in zip(limits, of_parts, strict=True)]


def _add_before_last(tile: PairTile, limit: Limit, before: _BeforeLast) -> _BeforeLast:
    """The same with the pairs of one tile more."""
    place = ordinals(tile.similarity)
    pull = jnp.where(tile.counts, tile.pull, 0.0)
    begins = tile.counts & _begins(place, limit)
    return _BeforeLast(
        before.above + jnp.sum(jnp.where(_is_above(place, limit), pull, 0.0), axis=1),
        add_in(before.pulls, _digit(place), begins, pull),
        _counted(before.counts, place, begins),
    )


def _pull_of_hardest(limit: Limit, found: _BeforeLast) -> Float[Array, " n"]:
    """The pull of all pairs down to the limit."""
    end = _narrowed(limit, found.counts)
    digit = _digit(end.place)[:, None]
    at_limit = lambda x: jnp.take_along_axis(x, digit, axis=1)[:, 0]
    pull, count = at_limit(found.pulls), at_limit(found.counts)
    higher = jnp.arange(2**BITS, dtype=jnp.int32)[None, :] > digit
    above = found.above + jnp.sum(jnp.where(higher, found.pulls, 0.0), axis=1)
    # Of the pairs at the limit as many as are wanted.
    taken = end.wanted.astype(pull.dtype) / jnp.maximum(count, 1).astype(pull.dtype)
    return above + pull * taken


def _digit(place: UInt32[Array, "..."]) -> Int[Array, "..."]:
    return (place & jnp.uint32(2**BITS - 1)).astype(jnp.int32)


def _counted(
    counts: Int[Array, "n digits"], place: UInt32[Array, "n m"], which: Bool[Array, "n m"]
) -> Int[Array, "n digits"]:
    return add_in(counts, _digit(place), which, jnp.ones_like(place, counts.dtype))


def _begins(place: UInt32[Array, "n m"], limit: Limit) -> Bool[Array, "n m"]:
    """Whether all digits but the last one are those of the limit."""
    return (place >> BITS) == limit.place[:, None]


def _is_above(place: UInt32[Array, "n m"], limit: Limit) -> Bool[Array, "n m"]:
    """Whether all digits but the last one are more than those of the limit."""
    return (place >> BITS) > limit.place[:, None]


def _narrowed(limit: Limit, counts: Int[Array, "n digits"]) -> Limit:
    """The limit with one digit more, of how many pairs have each digit."""
    from_above = jnp.cumsum(counts[:, ::-1], axis=1, dtype=counts.dtype)[:, ::-1]
    higher = jnp.sum(from_above < limit.wanted[:, None], axis=1, dtype=jnp.int32)
    digit = jnp.maximum(2**BITS - 1 - higher, 0)
    taken = jnp.take_along_axis(from_above - counts, digit[:, None], axis=1)[:, 0]
    place = (limit.place << BITS) | digit.astype(jnp.uint32)
    return Limit(place, limit.wanted - taken)
