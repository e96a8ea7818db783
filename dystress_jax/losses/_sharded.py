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

from dystress_jax.losses._partition import Strategy
from dystress_jax.losses._tiled import Term, Tree, join, split, vary_alike


def gathered(local: Strategy, axis_name: str) -> Strategy:
    """All columns on every device: one collective, O(all columns) memory.

    Its transpose, a reduce-scatter, brings the gradients home.
    """

    def gather(columns: Tree) -> Tree:
        return jax.lax.all_gather(columns, axis_name, tiled=True)

    def row_sum(term, params, rows, columns, *, symmetric=False):
        del symmetric  # the rows are not all of the columns
        params, rows, columns = vary_alike(params, rows, columns)
        return local.row_sum(term, params, rows, gather(columns))

    def row_max(term, params, rows, columns):
        return local.row_max(term, params, rows, gather(jax.lax.stop_gradient(columns)))

    agree = functools.partial(_on_all, axis_name)
    return Strategy(row_sum, row_max, local.one_pass, local.reverse_only, agree)


def ring(local: Strategy, axis_name: str) -> Strategy:
    """The columns travel around the devices, block by block: memory for two blocks.

    The next block is under way while the present one is used. In the backward pass the gradient
    of a block travels with it and is home after the last step.
    """

    def row_sum(term, params, rows, columns, *, symmetric=False):
        del symmetric  # the rows are not all of the columns
        operands = vary_alike(params, rows, columns)
        return cast(Array, _ring_sum(local.row_sum, term, axis_name, *operands))

    def row_max(term, params, rows, columns):
        operands = jax.lax.stop_gradient(vary_alike(params, rows, columns))
        params, rows, columns = operands
        largest = lambda block: local.row_max(term, params, rows, block)
        visit = lambda block, so_far: jnp.maximum(so_far, largest(block))
        return _travel(axis_name, columns, largest(columns), visit)

    agree = functools.partial(_on_all, axis_name)
    return Strategy(row_sum, row_max, local.one_pass, local.reverse_only, agree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _ring_sum(
    local_sum: Callable, term: Term, axis_name: str, params: Tree, rows: Tree, columns: Tree
) -> Float[Array, " n"]:
    here = lambda block: local_sum(term, params, rows, block)
    return _travel(axis_name, columns, here(columns), lambda block, total: total + here(block))


def _ring_sum_fwd(local_sum, term, axis_name, params, rows, columns):
    moving, fixed = split((params, rows, columns))
    return _ring_sum(local_sum, term, axis_name, *join(moving, fixed)), (moving, fixed)


def _ring_sum_bwd(local_sum, term, axis_name, saved, cotangent):
    ((*resident, columns), (*fixed_resident, fixed_columns)) = saved

    def gradients(block, fixed_block):
        fixed = (*fixed_resident, fixed_block)
        here = lambda *moving: local_sum(term, *join(moving, fixed))
        return jax.vjp(here, *resident, block)[1](cotangent)

    def visit(blocks, so_far):
        *of_resident, of_block = gradients(*blocks)
        # The gradient of this block is one device behind: it comes while we compute.
        plus = lambda a, b: jax.tree.map(jnp.add, a, b)
        return plus(so_far[0], of_resident), plus(_next_device(axis_name, so_far[1]), of_block)

    *of_resident, of_block = gradients(columns, fixed_columns)
    of_resident, of_block = _travel(
        axis_name, (columns, fixed_columns), (of_resident, of_block), visit
    )
    return *of_resident, _next_device(axis_name, of_block)


_ring_sum.defvjp(_ring_sum_fwd, _ring_sum_bwd, symbolic_zeros=True)


def _travel(axis_name: str, block: Tree, state: Tree, visit: Callable[[Tree, Tree], Tree]) -> Tree:
    """Sends every device's block once around, folding `state = visit(block, state)`.

    The own block is not visited: the caller starts the state with it.
    """
    steps = jax.lax.axis_size(axis_name) - 1
    if steps == 0:
        return state

    def step(_, carry):
        block, state = carry
        return _next_device(axis_name, block), visit(block, state)

    first = _next_device(axis_name, block)
    block, state = jax.lax.fori_loop(0, steps - 1, step, (first, state))
    return visit(block, state)


def _next_device(axis_name: str, tree: Tree) -> Tree:
    size = jax.lax.axis_size(axis_name)
    return jax.lax.ppermute(tree, axis_name, [(i, (i + 1) % size) for i in range(size)])


def _on_all(axis_name: str, decision: Bool[Array, ""]) -> Bool[Array, ""]:
    return jax.lax.pmin(decision.astype(jnp.int32), axis_name) == 1
