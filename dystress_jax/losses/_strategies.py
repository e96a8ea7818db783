"""The names of the strategies, and what "auto" picks."""

import functools

import jax

from ..errors import ArgumentError, hint
from . import _sharded, _tiled
from ._partition import Strategy, dense

# Up to this many pairs the dense form takes at most a sixth more time than tiles, and it works with
# forward mode. Measured on a CPU, whose cache holds such a matrix (docs/results/loss.md), not on
# accelerators: there it only bounds the memory, 4 MiB a matrix in float32.
DENSE_PAIRS = 1024 * 1024
# Up to this many numbers every device can well hold all candidates.
GATHERED_NUMBERS = 16 * 1024 * 1024
# Large enough for products at full speed; in the ring small beside a block of the rows.
TILE, RING_TILE = 1024, 512


def choose(
    name: str, n: int, m: int, d: int, tile_size: int | None, axis_name: str | None
) -> Strategy:
    """Returns the strategy of that name for n anchors and m candidates of length d, per device."""
    if tile_size is not None and tile_size < 1:
        raise ArgumentError("tile_size", f"found {tile_size}; allowed: at least 1, or None.")
    symbolic = not isinstance(n * m, int)  # of `jax.export`: no tiles can be cut of it
    tile, ring_tile = (tile_size, tile_size) if tile_size else (TILE, RING_TILE)
    tiled = Strategy(
        functools.partial(_tiled.row_sum, tile_size=tile),
        functools.partial(_tiled.row_max, tile_size=tile),
        one_pass=True,
        reverse_only=True,
    )
    if axis_name is None:
        if name == "auto":
            name = "dense" if symbolic or n * m <= DENSE_PAIRS else "tiled"
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
