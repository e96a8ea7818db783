"""Strategies as values and as names, and what "auto" picks."""

import functools
import numbers
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import jax

from ..errors import ArgumentError, hint
from . import _reduction, _sharded, _tiled
from ._sharded import AxisName
from ._tiled import Tile

# Rows and columns of a tile, one number where they are the same; None: the platform's own.
TileSize = int | tuple[int, int] | None
Value = TypeVar("Value", covariant=True)
Name = Literal["auto", "dense", "tiled", "fused", "gathered", "ring"]

STRATEGIES: tuple[str, ...] = get_args(Name)
"""The strategies of `on_mesh`."""
FOR_QUEUE: tuple[str, ...] = ("auto", "dense", "tiled", "fused")
"""Those of a loss with a queue."""


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
# Measured on an H100 (docs/results/accelerator.md): every tile costs a dozen kernels, so there are
# few, long ones; up to dense_pairs the dense form is as fast and takes 128 MiB.
ACCELERATOR = Sizes(4096 * 4096, Tile(4096, ALL), Tile(4096, ALL), 2**27)
# Rows of 128 numbers, and longer ones: the tile with which the compiler, for an H100, keeps all in
# registers (docs/results/accelerator.md).
FUSED_NUMBERS = 128 * 128
FUSED_COLUMNS = 64
# Up to this many numbers every device can well hold all candidates.
GATHERED_NUMBERS = 16 * 1024 * 1024


def _check_tile(name: str, tile: TileSize) -> None:
    sizes = tile if isinstance(tile, tuple) and len(tile) == 2 else (tile,)
    if tile is not None and not all(isinstance(s, numbers.Integral) and s >= 1 for s in sizes):
        raise ArgumentError(
            name, f"found {tile}; allowed: at least 1, whole, or a pair of such numbers, or None."
        )


@dataclass(frozen=True)
class Dense:
    """See `dense`."""


@dataclass(frozen=True)
class Tiled:
    """See `tiled`."""

    tile: TileSize = None

    def __post_init__(self):
        _check_tile("tile", self.tile)


@dataclass(frozen=True)
class Fused:
    """See `fused`."""

    tile: TileSize = None

    def __post_init__(self):
        _check_tile("tile", self.tile)


@dataclass(frozen=True)
class Gathered:
    """See `gathered`."""

    axis: AxisName
    within: Dense | Tiled | Fused = Tiled()


@dataclass(frozen=True)
class Ring:
    """See `ring`."""

    axis: AxisName
    tile: TileSize = None

    def __post_init__(self):
        _check_tile("tile", self.tile)


@dataclass(frozen=True)
class Auto:
    """The better one of two, by the size: what the name "auto" stands for."""

    axis: AxisName | None = None
    tile: TileSize = None


Strategy = Dense | Tiled | Fused | Gathered | Ring


@dataclass(frozen=True)
class Recording:
    """A strategy, and a list to which a loss adds what it compares (`_plan.Seen`)."""

    strategy: Strategy | Auto
    seen: list[Any]


# With a recording: `statistics` gives one to every loss, also to a loss of the user's own, whose
# types may be checked while it runs.
StrategyLike = Name | Strategy | Recording


@runtime_checkable
class Loss(Protocol[Value]):
    """A loss as `on_mesh` and `statistics` take it: one of these, or one of your own around one.

    It gives its `strategy` to the loss inside. `on_mesh` calls it with a `tile_size` too, and with
    an `axis_name` where it has no `queue`; the other options are those of its caller.
    """

    def __call__(self, *arrays: Any, strategy: StrategyLike, **options: Any) -> Value: ...


def dense() -> Dense:
    """The whole matrix of pairs at once: O(n m) memory, and the one with forward mode.

    Example:
        >>> dense()
        Dense()
    """
    return Dense()


def tiled(tile: TileSize = None) -> Tiled:
    """A tile of the matrix at a time: O(n + m) memory, forward and backward.

    Args:
        tile: its rows and columns, one number where they are the same; None: what suits the
            platform.

    Raises:
        ArgumentError: for a tile of no rows or columns.

    Example:
        >>> tiled(256)
        Tiled(tile=256)
    """
    return Tiled(tile)


def fused(tile: TileSize = None) -> Fused:
    """As `tiled`, in one kernel that keeps its tiles in the processor: on NVIDIA GPUs.

    For products in "bfloat16" or "tensorfloat32" and rows of up to 256 numbers, a power of two. The
    compiler (Triton, by `jax.experimental.pallas`) makes slow code of float32 products. Weights of
    each pair, several labels or positives an anchor, and derivatives of a gradient are for the
    other strategies. On a CPU JAX interprets the kernel, which is slow, to try code. It was
    compiled for an H100 and has not yet been timed on one.

    Args:
        tile: rows that a program keeps, and columns that it looks at together, powers of two from
            16 on; None: what suits the length of a row.

    Raises:
        ArgumentError: for a tile of no rows or columns.

    Example:
        >>> fused()
        Fused(tile=None)

    References:
        No pair goes to memory, as in Dao et al. (FlashAttention),
        [arXiv 2205.14135](https://arxiv.org/abs/2205.14135).
    """
    return Fused(tile)


def gathered(axis: AxisName, *, within: Dense | Tiled | Fused = Tiled()) -> Gathered:
    """Every device gets all candidates, for its own rows: inside `jax.shard_map`.

    Args:
        axis: the mesh axis over which the batch is split, or several of them, the outermost first.
        within: how a device compares its rows with the candidates. With `dense()` forward mode
            works.

    Example:
        >>> gathered("data")
        Gathered(axis='data', within=Tiled(tile=None))
    """
    return Gathered(axis, within)


def ring(axis: AxisName, *, tile: TileSize = None) -> Ring:
    """Candidates travel from device to device, in blocks: inside `jax.shard_map`.

    Args:
        axis: the mesh axis over which the batch is split, or several of them, the outermost first.
        tile: rows and columns of a tile, as in `tiled`.

    Raises:
        ArgumentError: for a tile of no rows or columns.

    Example:
        >>> ring("data", tile=512)
        Ring(axis='data', tile=512)
    """
    return Ring(axis, tile)


def as_strategy(
    strategy: StrategyLike, tile_size: TileSize, axis_name: AxisName | None
) -> Strategy | Auto:
    """The value that a name, with its two companions, stands for.

    Raises:
        ArgumentError: for an unknown name, one that does not go with `axis_name`, a tile of no rows
            or columns, or companions beside a value, which has its own.
    """
    if isinstance(strategy, Strategy):
        for name, given in (("tile_size", tile_size), ("axis_name", axis_name)):
            if given is not None:
                raise ArgumentError(
                    name, f"found {given!r} beside {strategy}; allowed: None, as it has its own."
                )
        return strategy
    if isinstance(strategy, Recording):
        return strategy.strategy
    _check_tile("tile_size", tile_size)
    if axis_name is None:
        choices = {
            "dense": Dense(),
            "tiled": Tiled(tile_size),
            "fused": Fused(tile_size),
            "auto": Auto(tile=tile_size),
        }
    else:
        choices = {
            "gathered": Gathered(axis_name, Tiled(tile_size)),
            "ring": Ring(axis_name, tile_size),
            "auto": Auto(axis_name, tile_size),
        }
    if strategy not in choices:
        where = "without" if axis_name is None else "with"
        raise ArgumentError(
            "strategy",
            f"found {strategy!r}; allowed {where} `axis_name`: {', '.join(choices)}."
            f"{hint(str(strategy), choices)}",
        )
    return choices[strategy]


def axis_of(strategy: Strategy | Auto) -> AxisName | None:
    """The mesh axis over which it shares the work."""
    return getattr(strategy, "axis", None)


def on_one_device(strategy: Strategy | Auto) -> Strategy | Auto:
    """How a device compares its rows with candidates that it has anyway."""
    match strategy:
        case Gathered(_, within):
            return within
        case Ring(_, tile):
            return Tiled(tile)
        case Auto(_, tile):
            return Auto(tile=tile)
    return strategy


def prepare(strategy: Strategy | Auto, n: int, m: int, d: int) -> _reduction.Reduction:
    """Returns how to reduce terms for n anchors and m candidates of length d, per device."""
    axis = axis_of(strategy)
    devices = 1 if axis is None else axis_size(axis)
    sizes = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    symbolic = not isinstance(n * m, int)  # of `jax.export`: no tiles can be cut of it
    if isinstance(strategy, Auto):
        strategy = _better(strategy, sizes, n, m, devices * m * d, symbolic)
    if symbolic and not isinstance(strategy, Dense):
        name = type(strategy).__name__.lower()
        raise ArgumentError(
            "strategy", f"found {name!r} with a symbolic number of rows; allowed: dense, auto."
        )
    match strategy:
        case Dense():
            return _reduction.dense
        case Tiled(tile):
            tile = _as_tile(tile) or _bounded(sizes.tile, m, sizes.pairs)
            return _reduction.Reduction(
                functools.partial(_tiled.row_sum, tile=tile),
                functools.partial(_tiled.row_max, tile=tile),
                functools.partial(_tiled.fold, tile=tile),
                reverse_only=True,
            )
        case Fused(tile):
            return _in_kernels(prepare(Tiled(), n, m, d), _as_tile(tile), d)
        case Gathered(axis, within):
            return _sharded.gathered(prepare(within, n, devices * m, d), axis)
        case Ring(axis, tile):
            tile = _as_tile(tile) or _bounded(sizes.ring_tile, m, sizes.pairs)
            return _sharded.ring(tile, axis)


def _in_kernels(tiled: _reduction.Reduction, tile: Tile | None, d: int) -> _reduction.Reduction:
    """The same, with sums and maxima in kernels."""
    from . import _fused  # a compiler that nobody else waits for

    platform = jax.default_backend()
    if platform not in ("cpu", "gpu"):
        raise ArgumentError(
            "strategy", f"found fused on a {platform}; allowed: on NVIDIA GPUs. Use tiled."
        )
    rows = max(16, min(128, FUSED_NUMBERS // d))
    how = _fused.How(tile or Tile(rows, FUSED_COLUMNS), interpret=platform == "cpu")
    return tiled._replace(
        row_sum=functools.partial(_fused.row_sum, how=how),
        row_max=functools.partial(_fused.row_max, how=how),
    )


def _better(auto: Auto, sizes: Sizes, n: int, m: int, numbers: int, symbolic: bool) -> Strategy:
    """What "auto" picks; `numbers` are those of all candidates of all devices."""
    if auto.axis is None:
        return Dense() if symbolic or n * m <= sizes.dense_pairs else Tiled(auto.tile)
    if symbolic or numbers <= GATHERED_NUMBERS:
        return Gathered(auto.axis, Tiled(auto.tile))
    return Ring(auto.axis, auto.tile)


def _as_tile(tile: TileSize) -> Tile | None:
    if tile is None:
        return None
    return Tile(*tile) if isinstance(tile, tuple) else Tile(tile, tile)


def _bounded(tile: Tile, columns: int, pairs: int) -> Tile:
    """The tile with so few rows that, over all these columns, it has at most that many pairs."""
    columns = min(tile.columns, columns)
    return Tile(min(tile.rows, max(1, pairs // columns)), columns)


def axis_size(axis_name: AxisName) -> int:
    """Returns the number of devices on the axis, or says that there is no such axis."""
    try:
        return jax.lax.axis_size(axis_name)
    except NameError:
        raise ArgumentError(
            "axis_name",
            f"found {axis_name!r}, which names no mesh axis here; allowed: an axis of the "
            "jax.shard_map around the loss, or None. For whole arrays see `losses.on_mesh`.",
        ) from None
