"""The names of the strategies, and what "auto" picks."""

import functools
from typing import NamedTuple

import jax

from ..errors import ArgumentError, hint
from . import _sharded, _tiled
from ._partition import Strategy, dense
from ._tiled import Tile

# Rows and columns of a tile, one number where they are the same; None: the platform's own.
TileSize = int | tuple[int, int] | None


class Sizes(NamedTuple):
    """What suits a platform.

    Attributes:
        dense_pairs: up to this many pairs "auto" is dense.
        tile: rows and columns of a tile.
        ring_tile: the same in the ring.
        pairs: a tile of the default size has at most this many pairs, so that memory stays linear.
    """

    dense_pairs: int
    tile: Tile
    ring_tile: Tile
    pairs: int


ALL = 2**31 - 1
# Measured on a CPU (docs/results/loss.md): a tile should fit into its cache, and up to dense_pairs
# the dense form takes at most a sixth more time and works with forward mode.
CPU = Sizes(1024 * 1024, Tile(1024, 1024), Tile(512, 512), ALL)
# A kernel has to be long: few rows, all columns.
ACCELERATOR = Sizes(1024 * 1024, Tile(4096, ALL), Tile(4096, ALL), 2**27)
# Up to this many numbers every device can well hold all candidates.
GATHERED_NUMBERS = 16 * 1024 * 1024


def choose(
    name: str, n: int, m: int, d: int, tile_size: TileSize, axis_name: str | None
) -> Strategy:
    """Returns the strategy of that name for n anchors and m candidates of length d, per device."""
    sizes = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    symbolic = not isinstance(n * m, int)  # of `jax.export`: no tiles can be cut of it
    if symbolic or tile_size is not None:
        tile = ring_tile = _as_tile(1 if tile_size is None else tile_size)
    else:
        tile, ring_tile = (_bounded(tile, m, sizes.pairs) for tile in (sizes.tile, sizes.ring_tile))
    tiled = Strategy(
        functools.partial(_tiled.row_sum, tile=tile),
        functools.partial(_tiled.row_max, tile=tile),
        one_pass=True,
        reverse_only=True,
    )
    if axis_name is None:
        if name == "auto":
            name = "dense" if symbolic or n * m <= sizes.dense_pairs else "tiled"
        choices = {"dense": dense, "tiled": tiled}
    else:
        if name == "auto":
            numbers = axis_size(axis_name) * m * d
            name = "gathered" if numbers <= GATHERED_NUMBERS else "ring"
        axis_size(axis_name)
        choices = {
            "gathered": _sharded.gathered(tiled, axis_name),
            "ring": _sharded.ring(ring_tile, axis_name),
        }
    if symbolic and name != "dense":
        raise ArgumentError(
            "strategy", f"found {name!r} with a symbolic number of rows; allowed: dense, auto."
        )
    if name not in choices:
        where = "without" if axis_name is None else "with"
        known = [*choices, "auto"]
        raise ArgumentError(
            "strategy",
            f"found {name!r}; allowed {where} `axis_name`: {', '.join(known)}.{hint(name, known)}",
        )
    return choices[name]


def _as_tile(tile_size: int | tuple[int, int]) -> Tile:
    rows, columns = tile_size if isinstance(tile_size, tuple) else (tile_size, tile_size)
    if min(rows, columns) < 1:
        raise ArgumentError("tile_size", f"found {tile_size}; allowed: at least 1, or None.")
    return Tile(rows, columns)


def _bounded(tile: Tile, columns: int, pairs: int) -> Tile:
    """The tile with so few rows that, over all these columns, it has at most that many pairs."""
    columns = min(tile.columns, columns)
    return Tile(min(tile.rows, max(1, pairs // columns)), columns)


def axis_size(axis_name: str) -> int:
    """Returns the number of devices on the axis, or says that there is no such axis."""
    try:
        return jax.lax.axis_size(axis_name)
    except NameError:
        raise ArgumentError(
            "axis_name",
            f"found {axis_name!r}, which names no mesh axis here; allowed: an axis of the "
            "jax.shard_map around the loss, or None. For whole arrays see `losses.on_mesh`.",
        ) from None
