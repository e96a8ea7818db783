"""Sums of terms over columns, one tile of the matrix at a time: O(n + m) memory, any size.

The derivative is written here once for every term: the backward pass visits the same tiles and
takes `jax.vjp` of each, so nothing but the inputs is kept between the two passes. What the term is,
a weight with a temperature or anything else, is the caller's.

Where rows and columns are the same and the matrix is its own transpose, each pair is visited once:
with k tiles around a circle, tile i meets itself and those up to half a circle ahead. All tiles
then have equally many columns, side by side, and any number of them can go in one step.
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
# visit(rows, columns, there, state) -> state, where every leaf of state has one entry per row.
Visit = Callable[[Tree, Tree, Bool[Array, " m"] | None, Tree], Tree]


class Tile(NamedTuple):
    """Largest number of rows and of columns of a tile."""

    rows: int
    columns: int


class Walk(NamedTuple):
    """Which rows meet which columns, step by step.

    Attributes:
        symmetric: whether each pair is visited once, for its row and for its column.
        window: how many tiles of columns, side by side, a tile of rows meets in one step.
    """

    symmetric: bool
    window: int


EVERY_TILE = Walk(symmetric=False, window=1)
# Accelerators multiply matrices in blocks of this many rows.
ALIGNED = 64


def row_sum(
    term: Term,
    params: Tree,
    rows: Tree,
    columns: Tree,
    *,
    tile: Tile,
    symmetric: bool = False,
) -> Float[Array, " n"]:
    """Sums `term(params, rows, columns)` over the columns; differentiable in all but the term.

    Args:
        term: the function to sum.
        params: what all pairs share.
        rows: one entry per row.
        columns: one entry per column.
        tile: its size.
        symmetric: the caller's promise that rows and columns are the same and the matrix is its
            own transpose. Half of the products and of the exponentials then do.

    Returns:
        The sum of each row.
    """
    n = length(rows)
    walk, rows, columns = _cut(rows, columns, tile, symmetric)
    params, rows, columns = vary_alike(params, rows, columns)
    total = _tiled_sum(Masked(term, 0.0), walk, params, rows, columns)
    return cast(Array, total).reshape(-1)[:n]


def row_max(
    term: Term,
    params: Tree,
    rows: Tree,
    columns: Tree,
    *,
    tile: Tile,
    symmetric: bool = False,
) -> Float[Array, " n"]:
    """Returns the largest term of each row, as a number without a gradient."""
    n = length(rows)
    walk, rows, columns = _cut(rows, columns, tile, symmetric)
    params, rows, columns = jax.lax.stop_gradient(vary_alike(params, rows, columns))
    lowest = jnp.full_like(per_row(rows), -jnp.inf)
    masked = Masked(term, -jnp.inf)
    return keep_largest(masked, walk, params, rows, columns, lowest).reshape(-1)[:n]


def fold(visit: Visit, rows: Tree, columns: Tree, state: Tree, *, tile: Tile) -> Tree:
    """Returns the state of each row after a visit of all columns, without a gradient."""
    n = length(rows)
    rows, columns = jax.lax.stop_gradient((rows, columns))
    (rows, columns), state = vary_alike((rows, columns), state)
    (rows, _), columns = tiles(rows, tile.rows), tiles(columns, tile.columns)
    state, _ = tiles(state, tile.rows)
    state = fold_tiles(visit, rows, columns, state)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], state)


def fold_tiles(visit: Visit, rows: Tree, columns: Tree, state: Tree) -> Tree:
    """Folds `visit` over all tiles of the columns, for each tile of the rows."""

    def step(i, j, state):
        of_columns, there = _at(columns, j)
        return _put(state, i, visit(_at(rows, i), of_columns, there, _at(state, i)))

    return _for_each_tile(rows, columns, EVERY_TILE, step, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tiled_sum(
    term: Term, walk: Walk, params: Tree, rows: Tree, columns: Tree
) -> Float[Array, "k t"]:
    """`row_sum` of tiled rows and columns, whose leaves have shape [tiles, tile, ...]."""
    return add_sums(term, walk, params, rows, columns, per_row(rows))


def _tiled_sum_fwd(term, walk, params, rows, columns):
    perturbed, constant = split_perturbed((params, rows, columns))
    return _tiled_sum(term, walk, *combine(perturbed, constant)), (perturbed, constant)


def _tiled_sum_bwd(term, walk, saved, cotangent):
    perturbed, constant = saved
    zeros = jax.tree.map(jnp.zeros_like, perturbed)
    return add_gradients(term, walk, perturbed, constant, cotangent, zeros)


_tiled_sum.defvjp(_tiled_sum_fwd, _tiled_sum_bwd, symbolic_zeros=True)


def add_sums(
    term: Term,
    walk: Walk,
    params: Tree,
    rows: Tree,
    columns: Tree,
    total: Float[Array, "k t"],
) -> Float[Array, "k t"]:
    """Adds the sum of each row to `total`."""

    def add(i, j, sums):
        of_rows, of_columns = sums
        terms = term(params, _at(rows, i), _side_by_side(columns, j, walk))
        of_rows = _put(of_rows, i, _at(of_rows, i) + jnp.sum(terms, axis=1))
        if walk.symmetric:
            own = _is_own(i, j, terms)
            of_columns = _add_side_by_side(
                of_columns, j, jnp.where(own, 0.0, jnp.sum(terms, axis=0)), walk
            )
        return of_rows, of_columns

    mirrored = per_row(columns) if walk.symmetric else None
    total, mirrored = _for_each_tile(rows, columns, walk, add, (total, mirrored))
    return total if mirrored is None else _home(mirrored, total, jnp.add)


def add_gradients(
    term: Term,
    walk: Walk,
    perturbed: Tree,
    constant: Tree,
    cotangent: Float[Array, "k t"],
    gradients: Tree,
) -> Tree:
    """Adds the gradients of the weighted sum of rows to those of (params, rows, columns)."""
    _, rows, columns = combine(perturbed, constant)
    plus = functools.partial(jax.tree.map, jnp.add)
    of_columns_too = _around(cotangent) if walk.symmetric else None

    def add(i, j, gradients):
        select = lambda tree: (tree[0], _at(tree[1], i), _side_by_side(tree[2], j, walk))
        terms = lambda operands: term(*combine(operands, select(constant)))
        value, pullback = jax.vjp(terms, select(perturbed))
        weight = _at(cotangent, i)[:, None]
        if of_columns_too is not None:
            mirrored = _side_by_side(of_columns_too, j, walk)
            weight = weight + jnp.where(_is_own(i, j, value), 0.0, mirrored)[None, :]
        ((of_params, of_rows, of_columns),) = pullback(jnp.broadcast_to(weight, value.shape))
        return (
            plus(gradients[0], of_params),
            _put(gradients[1], i, plus(_at(gradients[1], i), of_rows)),
            _add_side_by_side(gradients[2], j, of_columns, walk),
        )

    return _for_each_tile(rows, columns, walk, add, gradients)


def keep_largest(
    term: Term,
    walk: Walk,
    params: Tree,
    rows: Tree,
    columns: Tree,
    largest: Float[Array, "k t"],
) -> Float[Array, "k t"]:
    """Raises `largest` to the largest term of each row."""

    def raise_to(i, j, best):
        of_rows, of_columns = best
        terms = term(params, _at(rows, i), _side_by_side(columns, j, walk))
        of_rows = _put(of_rows, i, jnp.maximum(_at(of_rows, i), jnp.max(terms, axis=1)))
        if walk.symmetric:
            best = jnp.max(terms, axis=0)
            of_columns = _add_side_by_side(of_columns, j, best, walk, add=jnp.maximum)
        return of_rows, of_columns

    mirrored = jnp.full_like(per_row(columns), -jnp.inf) if walk.symmetric else None
    largest, mirrored = _for_each_tile(rows, columns, walk, raise_to, (largest, mirrored))
    return largest if mirrored is None else _home(mirrored, largest, jnp.maximum)


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


def tiles(tree: Tree, size: int) -> tuple[Tree, Bool[Array, "k t"] | None]:
    """Cuts each leaf [n ...] into [tiles, tile, ...], all of one size, and says what is real."""
    count = -(-length(tree) // size)
    return _tiles(tree, count, -(-length(tree) // count))


def _tiles(tree: Tree, count: int, size: int) -> tuple[Tree, Bool[Array, "k t"] | None]:
    n = length(tree)
    missing = count * size - n
    cut = lambda leaf: leaf.reshape(count, size, *leaf.shape[1:])
    real = (jnp.arange(count * size) < n).reshape(count, size) if missing else None
    return jax.tree.map(cut, filled_up(tree, missing)), real


def filled_up(tree: Tree, missing: int) -> Tree:
    """Each leaf with so many more entries, which fill up the last tile.

    They are repeated ones: unlike zeros, these are entries that every term accepts.
    """
    widths = lambda leaf: [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
    return jax.tree.map(lambda x: jnp.pad(x, widths(x), mode="edge") if missing else x, tree)


def _cut(rows: Tree, columns: Tree, tile: Tile, symmetric: bool) -> tuple[Walk, Tree, Tree]:
    """Both sides in tiles, and the way through them.

    Of a symmetric matrix with five tiles, in windows of three, these meet:

        columns   0 1 2 3 4 0 1    the first ones once more: no window has to turn back
        rows 0    x x x
        rows 1      x x x
        rows 2        x x x
        rows 3          x x x
        rows 4            x x x
    """
    if not symmetric:
        return EVERY_TILE, tiles(rows, tile.rows), tiles(columns, tile.columns)
    n = length(rows)
    count, window = _circle(n, tile)
    size = -(-n // count)
    if window > 1:
        size = -(-size // ALIGNED) * ALIGNED
    rows = _tiles(rows, count, size)
    return Walk(True, window), rows, _around(rows)


def _circle(n: int, tile: Tile) -> tuple[int, int]:
    """How many tiles n rows are around the circle, and how many of them one meets in a step."""
    count = -(-n // tile.rows)
    if tile.columns < 2 * tile.rows or count <= 2:
        return count, 1
    met = count // 2 + 1  # itself, and those up to half a circle ahead
    steps = -(-met * tile.rows // tile.columns)
    window = -(-met // steps)
    # So many tiles that each meets steps * window of them, no less in its last step. They are an
    # odd number: no two are opposite, which would meet twice.
    return 2 * steps * window - 1, window


def _for_each_tile(rows: Tree, columns: Tree, walk: Walk, body: Callable, state: Tree) -> Tree:
    """Folds `state = body(i, j, state)` over tiles i of rows and those of columns from j on.

    One flat loop rather than two nested ones: the compiler then drops what nobody uses, such as
    gradients of a temperature that is not learned.
    """
    k, l = length(rows), length(columns)
    if walk.symmetric:
        i, ahead = np.indices((k, k // 2 + 1))[:, :, :: walk.window].reshape(2, -1)
        once = (2 * ahead < k) | (2 * i < k)  # of two opposite tiles one meets the other
        i, j = i[once], (i + ahead)[once]
    else:
        i, j = np.indices((k, l)).reshape(2, -1)
    i, j = jnp.asarray(i), jnp.asarray(j)
    return jax.lax.fori_loop(0, i.size, lambda step, state: body(i[step], j[step], state), state)


def _around(tree: Tree) -> Tree:
    """Repeats the first half of the tiles at the end, so that nobody has to turn back."""
    return jax.tree.map(lambda x: jnp.concatenate([x, x[: len(x) // 2]]), tree)


def _home(
    mirrored: Float[Array, "l t"], to: Float[Array, "k t"], join: Callable
) -> Float[Array, "k t"]:
    """Joins to each tile what both of its copies around the circle collected."""
    first, again = mirrored[: len(to)], mirrored[len(to) :]
    to = join(to, first)
    return jnp.concatenate([join(to[: len(again)], again), to[len(again) :]])


def _is_own(i: Int[Array, ""], j: Int[Array, ""], terms: Float[Array, "t u"]) -> Bool[Array, " u"]:
    """The columns that are the rows themselves, where each pair is there in both orders."""
    rows, columns = terms.shape
    return (i == j) & (jnp.arange(columns) < rows)


def _at(tree: Tree, i: Int[Array, ""]) -> Tree:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _put(tree: Tree, i: Int[Array, ""], value: Tree) -> Tree:
    put = lambda x, v: jax.lax.dynamic_update_index_in_dim(x, v, i, axis=0)
    return jax.tree.map(put, tree, value)


def _side_by_side(tree: Tree, j: Int[Array, ""], walk: Walk) -> Tree:
    """Tile j and those that follow it in the window, as one."""
    some = lambda x: jax.lax.dynamic_slice_in_dim(x, j, walk.window)
    return jax.tree.map(lambda x: some(x).reshape(-1, *x.shape[2:]), tree)


def _add_side_by_side(
    tree: Tree, j: Int[Array, ""], value: Tree, walk: Walk, add: Callable = jnp.add
) -> Tree:
    def put(x, v):
        before = jax.lax.dynamic_slice_in_dim(x, j, walk.window)
        return jax.lax.dynamic_update_slice_in_dim(x, add(before, v.reshape(before.shape)), j, 0)

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
    """Makes all leaves vary over the same mesh axes inside `shard_map`.

    Otherwise the gradient of a replicated leaf would be summed over the devices tile by tile
    instead of once, and a mask or a group could not travel with its block. Adding zeros is how to
    say so without naming the axes; it compiles to nothing.
    """
    floats = [leaf for leaf in jax.tree.leaves(trees) if _is_float(leaf)]
    zero = lambda dtype: sum(jnp.zeros_like(leaf, shape=(), dtype=dtype) for leaf in floats)

    def vary(x):
        if x.dtype == bool:
            return x | (zero(jnp.float32) != 0)
        return x + zero(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x

    return jax.tree.map(vary, trees)


def split_perturbed(tree: Tree) -> tuple[Tree, Tree]:
    """Splits what `symbolic_zeros` hands over into the leaves to differentiate and the rest.

    Both have the structure of the tree, with None in the places of the other.
    """
    moves = lambda leaf: leaf.perturbed and _is_float(leaf.value)
    perturbed = jax.tree.map(lambda leaf: leaf.value if moves(leaf) else None, tree)
    constant = jax.tree.map(lambda leaf: None if moves(leaf) else leaf.value, tree)
    return perturbed, constant


def combine(perturbed: Tree, constant: Tree) -> Tree:
    """A tree that was split, whole again: the inverse of `split_perturbed`, and of its like."""
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, perturbed, constant, is_leaf=lambda leaf: leaf is None)
