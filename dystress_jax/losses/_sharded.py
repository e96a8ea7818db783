"""Sums of terms whose columns are spread over the devices of a mesh axis, inside `jax.shard_map`.

Each device has its own rows and its own columns, and gets the sums of its rows over the columns of
all devices. Differentiating gives the gradients of the global sum: what other devices' rows owe to
this device's columns comes back to it.
"""

import functools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._reduction import Reduction
from ._tiled import (
    EVERY_TILE,
    Masked,
    Term,
    Tile,
    Tree,
    add_gradients,
    add_sums,
    combine,
    fold_tiles,
    keep_largest,
    length,
    per_row,
    split_perturbed,
    tiles,
    vary_alike,
)

# Several axes count as one: the rows are split over all of them, the first one outermost.
AxisName = str | tuple[str, ...]


def names_of(axis: AxisName) -> tuple[str, ...]:
    """One axis, or several that count as one, as a tuple."""
    return (axis,) if isinstance(axis, str) else tuple(axis)


def gathered(local: Reduction, axis_name: AxisName) -> Reduction:
    """All columns on every device: one collective, O(all columns) memory.

    Its transpose, a reduce-scatter, brings the gradients home.
    """

    def gather(columns: Tree) -> Tree:
        return jax.lax.all_gather(columns, axis_name, tiled=True)

    def row_sum(term, params, rows, columns, *, symmetric=False):
        del symmetric  # the rows are not all of the columns
        params, rows, columns = vary_alike(params, rows, columns)
        return local.row_sum(term, params, rows, gather(columns))

    def row_max(term, params, rows, columns, *, symmetric=False):
        del symmetric
        return local.row_max(term, params, rows, gather(jax.lax.stop_gradient(columns)))

    def fold(visit, rows, columns, state):
        rows, columns, state = vary_alike(*jax.lax.stop_gradient((rows, columns)), state)
        return local.fold(visit, rows, gather(columns), state)

    agree = functools.partial(_on_all, axis_name)
    return Reduction(row_sum, row_max, fold, local.reverse_only, agree)


def ring(tile: Tile, axis_name: AxisName) -> Reduction:
    """The columns travel around the devices, block by block: memory for two blocks.

    The next block is under way while the present one is used. In the backward pass the gradient
    of a block travels with it, collecting what each device owes it, and is home at the end.
    """

    def tiled(params, rows, columns):
        return vary_alike(params, tiles(rows, tile.rows), tiles(columns, tile.columns))

    def row_sum(term, params, rows, columns, *, symmetric=False):
        del symmetric  # the rows are not all of the columns
        n = length(rows)
        params, rows, columns = tiled(params, rows, columns)
        total = _ring_sum(Masked(term, 0.0), axis_name, params, rows, columns)
        return cast(Array, total).reshape(-1)[:n]

    def row_max(term, params, rows, columns, *, symmetric=False):
        del symmetric
        n = length(rows)
        params, rows, columns = jax.lax.stop_gradient(tiled(params, rows, columns))
        visit = lambda block, largest: keep_largest(
            Masked(term, -jnp.inf), EVERY_TILE, params, rows, block, largest
        )
        lowest = jnp.full_like(per_row(rows), -jnp.inf)
        return _travel(axis_name, columns, lowest, visit).reshape(-1)[:n]

    def fold(visit, rows, columns, state):
        n = length(rows)
        state, _ = tiles(state, tile.rows)
        state, rows, columns = jax.lax.stop_gradient(tiled(state, rows, columns))
        rows, _ = rows
        see = lambda block, state: fold_tiles(visit, rows, block, state)
        state = _travel(axis_name, columns, state, see)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], state)

    agree = functools.partial(_on_all, axis_name)
    return Reduction(row_sum, row_max, fold, reverse_only=True, agree=agree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring_sum(
    term: Term, axis_name: AxisName, params: Tree, rows: Tree, columns: Tree
) -> Float[Array, "k t"]:
    """The sum of each row over the columns of all devices, rows and columns in tiles."""
    visit = lambda block, total: add_sums(term, EVERY_TILE, params, rows, block, total)
    return _travel(axis_name, columns, per_row(rows), visit)


def _ring_sum_fwd(term, axis_name, params, rows, columns):
    perturbed, constant = split_perturbed((params, rows, columns))
    return _ring_sum(term, axis_name, *combine(perturbed, constant)), (perturbed, constant)


def _ring_sum_bwd(term, axis_name, saved, cotangent):
    (*resident, columns), (*constant_resident, constant_columns) = saved

    def visit(blocks, gradients):
        block, constant_block = blocks
        perturbed, constant = (*resident, block), (*constant_resident, constant_block)
        gradients = add_gradients(term, EVERY_TILE, perturbed, constant, cotangent, gradients)
        return *gradients[:2], _next_device(axis_name, gradients[2])

    # Zeros that wait for the cotangent: constants would be there during the forward pass already.
    zeros = jax.tree.map(lambda x: jnp.full_like(x, 0.0 * cotangent[0, 0]), saved[0])
    return _travel(axis_name, (columns, constant_columns), zeros, visit)


_ring_sum.defvjp(_ring_sum_fwd, _ring_sum_bwd, symbolic_zeros=True)


def _travel(
    axis_name: AxisName, block: Tree, state: Tree, visit: Callable[[Tree, Tree], Tree]
) -> Tree:
    """Sends every device's block once around, folding `state = visit(block, state)`."""

    def step(_, carry):
        block, state = carry
        return _next_device(axis_name, block), visit(block, state)

    steps = jax.lax.axis_size(axis_name) - 1
    block, state = jax.lax.fori_loop(0, steps, step, (block, state))
    return visit(block, state)


def _next_device(axis_name: AxisName, tree: Tree) -> Tree:
    size = jax.lax.axis_size(axis_name)
    return jax.lax.ppermute(tree, axis_name, [(i, (i + 1) % size) for i in range(size)])


def _on_all(axis_name: AxisName, decision: Bool[Array, ""]) -> Bool[Array, ""]:
    return jax.lax.pmin(decision.astype(jnp.int32), axis_name) == 1
