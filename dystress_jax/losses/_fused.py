"""Sums of terms over columns in one kernel for NVIDIA GPUs, whose tiles never leave the processor.

In XLA a product ends in memory, so `_tiled` writes and reads every pair several times. Here each
program of a grid keeps some rows, goes through all columns, and writes one number, or one gradient,
a row. The derivative is that of the term, which `jax.vjp` takes inside the kernel: nothing here
knows what a term is. One kernel makes the gradients of the rows, another those of the columns;
where the matrix is its own transpose the first makes both.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

from ..errors import ArgumentError
from ._tiled import Term, Tile, Tree, combine, filled_up, length, split_perturbed, vary_alike

# visit(params, rows, columns, there, state) -> state of these rows; `there` [t u] says which pairs
# do not only fill up the last tiles, None: all.
Visit = Callable[[Tree, Tree, Tree, Bool[Array, "t u"] | None, Tree], Tree]

# Of 4 or 8 the one with which the compiler, for an H100, keeps all in registers.
WARPS = 8
STAGES = 2


class How(NamedTuple):
    """How a kernel is carried out.

    Attributes:
        tile: rows that a program of the grid keeps, and columns that it looks at together.
        interpret: by JAX itself, on any device: slow, to try code.
    """

    tile: Tile
    interpret: bool


class Start(NamedTuple):
    """What the state of a row begins with; without `of_rows`, that of a whole tile."""

    shape: tuple[int, ...]
    dtype: Any
    fill: float
    of_rows: bool


def row_sum(
    term: Term, params: Tree, rows: Tree, columns: Tree, *, how: How, symmetric: bool = False
) -> Float[Array, " n"]:
    """As `_tiled.row_sum`."""
    params, rows, columns = vary_alike(params, rows, columns)
    return _fused_sum(term, how, symmetric, params, rows, columns)


def row_max(
    term: Term, params: Tree, rows: Tree, columns: Tree, *, how: How, symmetric: bool = False
) -> Float[Array, " n"]:
    """As `_tiled.row_max`."""
    del symmetric
    params, rows, columns = jax.lax.stop_gradient(vary_alike(params, rows, columns))
    return _joined(term, how, params, rows, columns, -jnp.inf, jnp.maximum, jnp.max)


def _joined(
    term: Term,
    how: How,
    params: Tree,
    rows: Tree,
    columns: Tree,
    fill: float,
    join: Callable,
    reduce: Callable,
) -> Float[Array, " n"]:
    """The terms of each row as one number."""

    def visit(params, rows, columns, there, state):
        moving, fixed = _floats(rows)
        # By vjp, which resolves the derivatives of one's own: a kernel cannot hold those.
        terms, _ = jax.vjp(lambda rows: term(params, combine(rows, fixed), columns), moving)
        terms = terms if there is None else jnp.where(there, terms, fill)
        return join(state, reduce(terms, axis=1))

    start = Start((), jax.tree.leaves(rows)[0].dtype, fill, of_rows=True)
    return _for_each_row(visit, params, rows, columns, start, how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fused_sum(
    term: Term, how: How, symmetric: bool, params: Tree, rows: Tree, columns: Tree
) -> Float[Array, " n"]:
    return _joined(term, how, params, rows, columns, 0.0, jnp.add, jnp.sum)


def _fused_sum_fwd(term, how, symmetric, params, rows, columns):
    perturbed, constant = split_perturbed((params, rows, columns))
    total = _fused_sum(term, how, symmetric, *combine(perturbed, constant))
    return total, (perturbed, constant)


@jax.custom_jvp
def _differentiated_once(tree: Tree) -> Tree:
    """The same, which a kernel has no derivative for."""
    return tree


@_differentiated_once.defjvp
def _refuse(primals, tangents):
    del primals, tangents
    raise ArgumentError(
        "strategy", "found fused, in a derivative of a gradient; allowed: tiled, or dense."
    )


def _fused_sum_bwd(term, how, symmetric, saved, cotangent):
    perturbed, constant = saved
    perturbed, cotangent = _differentiated_once((perturbed, cotangent))
    params, rows, columns = combine(perturbed, constant)
    plus = functools.partial(jax.tree.map, jnp.add)

    def add_for_rows(params, rows, columns, there, totals):
        """Adds the gradients of the params and of the rows: what these columns make of them."""
        (moving_params, params), (moving, rows, own), (columns, others) = params, rows, columns
        terms = lambda p, r: term(combine(p, params), combine(r, rows), columns)
        value, pullback = jax.vjp(terms, moving_params, moving)
        weight = own[:, None] if others is None else own[:, None] + others[None, :]
        return plus(totals, pullback(_weights(weight, there, value)))

    def add_for_columns(params, columns, rows, there, total):
        """Adds the gradient of the columns, which are in the place of the rows."""
        (moving, columns), (rows, cotangent) = columns, rows
        value, pullback = jax.vjp(lambda c: term(params, rows, combine(c, columns)), moving)
        there = None if there is None else there.T
        return plus(total, *pullback(_weights(cotangent[:, None], there, value)))

    gradient_of_params, gradient_of_rows = _for_each_row(
        add_for_rows,
        (perturbed[0], constant[0]),
        (perturbed[1], constant[1], cotangent),
        (columns, cotangent if symmetric else None),
        (_zeros(perturbed[0], of_rows=False), _zeros(perturbed[1], of_rows=True)),
        how,
    )
    if symmetric:  # each pair was there in both orders, and the rows have what is the columns'
        gradient_of_params = jax.tree.map(lambda x: x / 2, gradient_of_params)
        return gradient_of_params, gradient_of_rows, jax.tree.map(jnp.zeros_like, perturbed[2])
    gradient_of_columns = _for_each_row(
        add_for_columns,
        params,
        (perturbed[2], constant[2]),
        (rows, cotangent),
        _zeros(perturbed[2], of_rows=True),
        how,
    )
    return gradient_of_params, gradient_of_rows, gradient_of_columns


_fused_sum.defvjp(_fused_sum_fwd, _fused_sum_bwd, symbolic_zeros=True)


def _zeros(tree: Tree, *, of_rows: bool) -> Tree:
    """Gradients to begin with: of each row, or of what all pairs share."""
    return jax.tree.map(lambda x: Start(x.shape[of_rows:], x.dtype, 0.0, of_rows), tree)


def _weights(
    weight: Float[Array, "..."], there: Bool[Array, "t u"] | None, value: Float[Array, "t u"]
) -> Float[Array, "t u"]:
    """What each term of a tile counts in the sum of which the gradient is taken."""
    weight = jnp.broadcast_to(weight, value.shape).astype(value.dtype)
    return weight if there is None else jnp.where(there, weight, 0.0)


def _for_each_row(
    visit: Visit, params: Tree, rows: Tree, columns: Tree, start: Tree, how: How
) -> Tree:
    """The state of each row after a visit of all columns, a tile at a time.

    What starts without rows is summed over the tiles of the rows.
    """
    starts, of_starts = jax.tree.flatten(start, is_leaf=lambda x: isinstance(x, Start))
    if not starts:
        return start
    _check(rows, columns, how)
    tile, n, m = how.tile, length(rows), length(columns)
    whole_tiles = lambda tree, size: filled_up(tree, -length(tree) % size)
    given = params, whole_tiles(rows, tile.rows), whole_tiles(columns, tile.columns)
    programs, steps = length(given[1]) // tile.rows, length(given[2]) // tile.columns
    operands, of_operands = jax.tree.flatten(jax.tree.map(_in_memory, given))
    is_whole = n % tile.rows == 0 and m % tile.columns == 0

    def kernel(*refs):
        params, rows, columns = jax.tree.unflatten(of_operands, refs[: len(operands)])
        read = lambda refs, like, at: jax.tree.map(
            lambda ref, x: ref[at].astype(x.dtype), refs, like
        )
        params = jax.tree.map(
            lambda x, like: x.reshape(like.shape), read(params, given[0], ...), given[0]
        )
        own = read(rows, given[1], ...)
        here = pl.program_id(0) * tile.rows + jnp.arange(tile.rows) < n

        def step(j, state):
            others = read(columns, given[2], pl.ds(j * tile.columns, tile.columns))
            real = j * tile.columns + jnp.arange(tile.columns) < m
            there = None if is_whole else here[:, None] & real[None, :]
            return visit(params, own, others, there, state)

        begin = [jnp.full((tile.rows,) * s.of_rows + s.shape, s.fill, s.dtype) for s in starts]
        state = jax.lax.fori_loop(0, steps, step, jax.tree.unflatten(of_starts, begin))
        for output, x in zip(refs[len(operands) :], jax.tree.leaves(state), strict=True):
            output[...] = x.reshape(output.shape)

    # A program has its own rows, and all else.
    part = lambda size, shape: pl.BlockSpec((size, *shape), lambda i: (i,) + (0,) * len(shape))
    every = lambda x: pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)
    size = lambda s: tile.rows if s.of_rows else 1
    vary = jax.typeof(jax.tree.leaves(rows)[0]).manual_axis_type
    shape = lambda s: jax.ShapeDtypeStruct(
        (programs * size(s), *s.shape), s.dtype, manual_axis_type=vary
    )
    specs = [
        *(every(_in_memory(x)) for x in jax.tree.leaves(given[0])),
        *(part(tile.rows, x.shape[1:]) for x in jax.tree.leaves(given[1])),
        *(every(x) for x in jax.tree.leaves(given[2])),
    ]
    found = pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=specs,
        out_specs=[part(size(s), s.shape) for s in starts],
        out_shape=[shape(s) for s in starts],
        compiler_params=None if how.interpret else triton.CompilerParams(WARPS, STAGES),
        interpret=how.interpret,
    )(*operands)
    cut = lambda x, s: x[:n] if s.of_rows else x.sum(0)
    return jax.tree.unflatten(of_starts, [cut(x, s) for x, s in zip(found, starts, strict=True)])


def _check(rows: Tree, columns: Tree, how: How) -> None:
    """What the compiler of these kernels takes: powers of two, and nothing picked by its number."""
    if how.interpret:
        if jax.typeof(jax.tree.leaves(rows)[0]).manual_axis_type.varying:
            raise ArgumentError(
                "strategy",
                "found fused over several CPU devices, where JAX cannot interpret a kernel; "
                "allowed: one of them, or jax.shard_map with check_vma=False.",
            )
        return
    fits = lambda sizes: all(size >= 16 and not size & (size - 1) for size in sizes)
    if not fits(how.tile):
        raise ArgumentError(
            "tile_size", f"found {tuple(how.tile)} with fused; allowed: powers of two from 16 on."
        )
    for side in (rows, columns):
        points, *others = [leaf for leaf in jax.tree.leaves(side) if leaf.ndim > 1]
        if others:
            raise ArgumentError(
                "strategy",
                "found fused with weights of each pair, or several labels or positives an anchor; "
                "allowed: one number a row. Use tiled.",
            )
        if not fits(points.shape[1:]):
            raise ArgumentError(
                "strategy",
                f"found fused with rows of {points.shape[1]} numbers; allowed: a power of two from "
                "16 on. Use tiled.",
            )


def _floats(tree: Tree) -> tuple[Tree, Tree]:
    """The leaves that are floats, and the others, each with None in the places of the other."""
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    moving = jax.tree.map(lambda x: x if is_float(x) else None, tree)
    return moving, jax.tree.map(lambda x: None if is_float(x) else x, tree)


def _in_memory(x: Array) -> Array:
    """What a kernel can read: of one axis at least, and wider than a bit."""
    x = x.astype(jnp.int32) if x.dtype == bool else x
    return x.reshape(1) if x.ndim == 0 else x
