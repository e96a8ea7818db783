"""Sums of terms over columns, one tile of the matrix at a time: O(n + m) memory, any size.

The derivative is written here once for every term: the backward pass visits the same tiles and
takes `jax.vjp` of each, so nothing but the inputs is kept between the two passes. What the term is,
a weight with a temperature or anything else, is the caller's.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

Tree = Any
# term(params, rows, columns) -> [n m], where every leaf of rows and of columns has one entry per
# row or column in its leading axis, and params is whatever all pairs share.
Term = Callable[[Tree, Tree, Tree], Float[Array, "n m"]]


def row_sum(
    term: Term,
    params: Tree,
    rows: Tree,
    columns: Tree,
    *,
    tile_size: int,
    symmetric: bool = False,
) -> Float[Array, " n"]:
    """Sums `term(params, rows, columns)` over the columns; differentiable in all but the term.

    Args:
        term: the function to sum.
        params: what all pairs share.
        rows: one entry per row.
        columns: one entry per column.
        tile_size: largest number of rows and of columns of a tile.
        symmetric: the caller's promise that rows and columns are the same and the matrix is its
            own transpose. A tile above the diagonal then serves both its rows and its columns:
            half of the products and of the exponentials.

    Returns:
        The sum of each row.
    """
    n = length(rows)
    params, rows, columns = vary_alike(params, tiles(rows, tile_size), tiles(columns, tile_size))
    total = _tiled_sum(Masked(term, 0.0), symmetric, params, rows, columns)
    return cast(Array, total).reshape(-1)[:n]


def row_max(
    term: Term,
    params: Tree,
    rows: Tree,
    columns: Tree,
    *,
    tile_size: int,
    symmetric: bool = False,
) -> Float[Array, " n"]:
    """Returns the largest term of each row, as a number without a gradient."""
    n = length(rows)
    params, rows, columns = jax.lax.stop_gradient(
        vary_alike(params, tiles(rows, tile_size), tiles(columns, tile_size))
    )
    lowest = jnp.full_like(per_row(rows), -jnp.inf)
    masked = Masked(term, -jnp.inf)
    return keep_largest(masked, symmetric, params, rows, columns, lowest).reshape(-1)[:n]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tiled_sum(
    term: Term, symmetric: bool, params: Tree, rows: Tree, columns: Tree
) -> Float[Array, "k t"]:
    """`row_sum` of tiled rows and columns, whose leaves have shape [tiles, tile, ...]."""
    return add_sums(term, symmetric, params, rows, columns, per_row(rows))


def _tiled_sum_fwd(term, symmetric, params, rows, columns):
    perturbed, constant = partition((params, rows, columns))
    return _tiled_sum(term, symmetric, *combine(perturbed, constant)), (perturbed, constant)


def _tiled_sum_bwd(term, symmetric, saved, cotangent):
    perturbed, constant = saved
    zeros = jax.tree.map(jnp.zeros_like, perturbed)
    return add_gradients(term, symmetric, perturbed, constant, cotangent, zeros)


_tiled_sum.defvjp(_tiled_sum_fwd, _tiled_sum_bwd, symbolic_zeros=True)


def add_sums(
    term: Term,
    symmetric: bool,
    params: Tree,
    rows: Tree,
    columns: Tree,
    total: Float[Array, "k t"],
) -> Float[Array, "k t"]:
    """Adds the sum of each row to `total`."""

    def add(i, j, total):
        terms = term(params, _at(rows, i), _at(columns, j))
        total = _put(total, i, _at(total, i) + jnp.sum(terms, axis=1))
        if symmetric:
            mirrored = jnp.where(i == j, 0.0, jnp.sum(terms, axis=0))
            total = _put(total, j, _at(total, j) + mirrored)
        return total

    return _for_each_tile(rows, columns, symmetric, add, total)


def add_gradients(
    term: Term,
    symmetric: bool,
    perturbed: Tree,
    constant: Tree,
    cotangent: Float[Array, "k t"],
    gradients: Tree,
) -> Tree:
    """Adds the gradients of the weighted sum of rows to those of (params, rows, columns)."""
    _, rows, columns = combine(perturbed, constant)
    plus = functools.partial(jax.tree.map, jnp.add)

    def add(i, j, gradients):
        select = lambda operands: (operands[0], _at(operands[1], i), _at(operands[2], j))
        terms = lambda operands: term(*combine(operands, select(constant)))
        value, pullback = jax.vjp(terms, select(perturbed))
        weight = _at(cotangent, i)[:, None]
        if symmetric:
            weight = weight + jnp.where(i == j, 0.0, _at(cotangent, j))[None, :]
        ((of_params, of_rows, of_columns),) = pullback(jnp.broadcast_to(weight, value.shape))
        return (
            plus(gradients[0], of_params),
            _put(gradients[1], i, plus(_at(gradients[1], i), of_rows)),
            _put(gradients[2], j, plus(_at(gradients[2], j), of_columns)),
        )

    return _for_each_tile(rows, columns, symmetric, add, gradients)


def keep_largest(
    term: Term,
    symmetric: bool,
    params: Tree,
    rows: Tree,
    columns: Tree,
    largest: Float[Array, "k t"],
) -> Float[Array, "k t"]:
    """Raises `largest` to the largest term of each row."""

    def raise_to(i, j, largest):
        terms = term(params, _at(rows, i), _at(columns, j))
        largest = _put(largest, i, jnp.maximum(_at(largest, i), jnp.max(terms, axis=1)))
        if symmetric:
            largest = _put(largest, j, jnp.maximum(_at(largest, j), jnp.max(terms, axis=0)))
        return largest

    return _for_each_tile(rows, columns, symmetric, raise_to, largest)


class Masked(NamedTuple):
    """A term of tiles, with a constant in place of the pairs that only fill up the last tile."""

    term: Term
    fill: float

    def __call__(self, params: Tree, rows: Tree, columns: Tree) -> Float[Array, "t u"]:
        (rows, real_rows), (columns, real_columns) = rows, columns
        terms = self.term(params, rows, columns)
        if real_rows is not None:
            terms = jnp.where(real_rows[:, None], terms, self.fill)
        if real_columns is not None:
            terms = jnp.where(real_columns[None, :], terms, self.fill)
        return terms


def tiles(tree: Tree, tile_size: int) -> tuple[Tree, Bool[Array, "k t"] | None]:
    """Cuts each leaf [n ...] into [tiles, tile, ...], all of one size, and says what is real."""
    n = length(tree)
    count = -(-n // tile_size)
    size = -(-n // count)
    missing = count * size - n

    def cut(leaf):
        # Repeated entries, unlike zeros, are entries that every term accepts.
        widths = [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
        leaf = jnp.pad(leaf, widths, mode="edge") if missing else leaf
        return leaf.reshape(count, size, *leaf.shape[1:])

    real = (jnp.arange(count * size) < n).reshape(count, size) if missing else None
    return jax.tree.map(cut, tree), real


def _for_each_tile(rows: Tree, columns: Tree, symmetric: bool, body: Callable, state: Tree) -> Tree:
    """Folds `state = body(i, j, state)` over all tiles, or those on and above the diagonal.

    One flat loop rather than two nested ones: the compiler then drops what nobody uses, such as
    gradients of a temperature that is not learned.
    """
    k, l = length(rows), length(columns)
    i, j = np.triu_indices(k) if symmetric else np.indices((k, l)).reshape(2, -1)
    i, j = jnp.asarray(i), jnp.asarray(j)
    return jax.lax.fori_loop(0, i.size, lambda step, state: body(i[step], j[step], state), state)


def _at(tree: Tree, i: Int[Array, ""]) -> Tree:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _put(tree: Tree, i: Int[Array, ""], value: Tree) -> Tree:
    put = lambda x, v: jax.lax.dynamic_update_index_in_dim(x, v, i, axis=0)
    return jax.tree.map(put, tree, value)


def length(tree: Tree) -> int:
    """Returns the length of the leading axis."""
    return jax.tree.leaves(tree)[0].shape[0]


def per_row(tiles: Tree) -> Float[Array, "k t"]:
    """Zeros of one number per row, of the type (and the mesh axes) of the first leaf."""
    leaf = jax.tree.leaves(tiles)[0]
    return jnp.zeros_like(leaf, shape=leaf.shape[:2])


def _is_float(leaf: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def vary_alike(*trees: Tree) -> Tree:
    """Makes all floats and masks vary over the same mesh axes inside `shard_map`.

    Otherwise the gradient of a replicated leaf would be summed over the devices tile by tile
    instead of once, and a mask could not travel with its block. Adding zeros is how to say so
    without naming the axes; it compiles to nothing.
    """
    floats = [leaf for leaf in jax.tree.leaves(trees) if _is_float(leaf)]
    zero = lambda dtype: sum(jnp.zeros_like(leaf, shape=(), dtype=dtype) for leaf in floats)

    def vary(x):
        if _is_float(x):
            return x + zero(x.dtype)
        return x | (zero(jnp.float32) != 0) if x.dtype == bool else x

    return jax.tree.map(vary, trees)


def partition(tree: Tree) -> tuple[Tree, Tree]:
    """Splits what `symbolic_zeros` hands over into the leaves to differentiate and the rest.

    Both have the structure of the tree, with None in the places of the other.
    """
    moves = lambda leaf: leaf.perturbed and _is_float(leaf.value)
    perturbed = jax.tree.map(lambda leaf: leaf.value if moves(leaf) else None, tree)
    constant = jax.tree.map(lambda leaf: None if moves(leaf) else leaf.value, tree)
    return perturbed, constant


def combine(perturbed: Tree, constant: Tree) -> Tree:
    """The inverse of `partition`."""
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, perturbed, constant, is_leaf=lambda leaf: leaf is None)
