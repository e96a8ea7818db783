"""Any loss of the whole batch, computed by all devices of a mesh."""

import functools
import inspect
import math
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

from jax.sharding import AbstractMesh, AxisType, Mesh

from ..errors import ArgumentError, look_up
from ._over_devices import Devices, over_devices_of
from ._sharded import names_of
from ._strategies import (
    FOR_QUEUE,
    STRATEGIES,
    AxisName,
    Fused,
    Gathered,
    Loss,
    Ring,
    StrategyLike,
    TileSize,
    as_strategy,
)

T = TypeVar("T")

DECIDED = ("strategy", "tile_size", "axis_name")
# Losses that ask their arrays how these are split, each with the same that does not.
_NOT_ASKING: MutableMapping[Any, Callable] = weakref.WeakKeyDictionary()


def on_mesh(
    loss: Loss[T],
    mesh: Mesh | AbstractMesh,
    *,
    axis: AxisName = "data",
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
) -> Callable[..., T]:
    r"""The same loss, of a batch whose rows are split over the devices of a mesh.

    $$L_i^{\text{on mesh}}(x_1, \dots, x_n) = L_i(x_1, \dots, x_n)$$

    The result is called like the loss, on global arrays: values, their order and all gradients are
    those of the loss. Call it inside `jax.jit`: outside, over several devices, each call compiles
    anew, which may take seconds. How the work is shared depends on the strategy:

    | strategy           | what happens                                                       |
    |--------------------|--------------------------------------------------------------------|
    | `dense`, `tiled`   | the loss as it is; the compiler distributes it                     |
    | `gathered`, `ring` | `jax.shard_map` over the axis, see `dystress_jax.losses`           |
    | `fused`            | each device has all candidates; its own rows go in one kernel      |
    | `auto`             | one device: the loss as it is; several: `gathered` or `ring`       |

    Where the axis is `Explicit`, nothing is left to the compiler: with `dense` and `tiled` each
    device has all candidates, and its own rows are compared with them in that way.

    A loss with an argument `queue`, such as `moco`, is the exception. Nothing travels: each device
    compares its own queries with the whole queue, by `auto`, `dense`, `tiled` or `fused`.

    Args:
        loss: one of `dystress_jax.losses`, the same with options (`functools.partial`), or a
            function of your own around one. It must pass on the keywords `strategy` and
            `tile_size`, and `axis_name` if it has no `queue`.
        mesh: the devices.
        axis: the mesh axis over which the rows are split, or several of them, the outermost first.
            Other axes are left alone: with them, each group of devices does the same.
        strategy: one of the table, or a value such as
            `losses.ring("data", tile=512)` over the same axis.
        tile_size: rows and columns of a tile, see `dystress_jax.losses`.

    Returns:
        The loss with the signature of `loss`, less what is decided here. Arguments that may be
        given by position are arrays, and row i of all of them belongs to example i; so are masks,
        `labels`, `positives` and `weights`; `queue` and `negatives` are whole on every device. Of
        views that are stacked, [v n d], each is split. Give `temperature` and options
        by keyword. A temperature per anchor has the order and the length of the values of the loss;
        of `clip` it may have two entries for each.

    Raises:
        ArgumentError: for an axis that the mesh does not have, a strategy that the loss does not
            have or over another axis, or a loss that does not take these keywords. When called: for
            rows that the devices cannot share equally, or a loss that is a single number.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from dystress_jax.losses import nt_xent
        >>> mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
        >>> view_a = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> view_b = jnp.array([[0.8, 0.6], [0.6, 0.8]])
        >>> everywhere = on_mesh(nt_xent, mesh, strategy="ring")
        >>> jax.jit(lambda a, b: everywhere(a, b, temperature=0.5))(view_a, view_b).round(4)
        Array([0.6271, 0.6271, 1.1143, 1.1143], dtype=float32)
    """
    signature, has_queue = _read_signature(loss)
    devices = _devices_of(mesh, axis)
    split, how = _decide(devices, strategy, tile_size, has_queue)
    loss = loss if devices.explicit else not_asking(loss)
    if split:
        return over_devices_of(loss, signature, devices, how)
    whole = functools.partial(loss, **how)
    whole.__signature__ = signature  # type: ignore[attr-defined]
    return whole


def asks_its_arrays(asking: Callable[..., T], loss: Callable[..., T]) -> None:
    """Says that a function is that loss, once its arrays are asked how they are split."""
    _NOT_ASKING[asking] = loss


def not_asking(loss: Callable[..., T]) -> Callable[..., T]:
    """The loss where somebody has decided about the devices: its arrays are not asked."""
    if isinstance(loss, functools.partial):
        return functools.partial(not_asking(loss.func), *loss.args, **loss.keywords)
    return _NOT_ASKING.get(loss, loss) if inspect.isfunction(loss) else loss


def signature_of(loss: Callable) -> inspect.Signature:
    """The signature of a loss; of what takes a loss and all `*arrays` of it, with their names."""
    signature = inspect.signature(loss)
    parameters = signature.parameters
    takes_arrays = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    inner = loss.args[0] if isinstance(loss, functools.partial) and loss.args else None
    if not takes_arrays or not callable(inner):
        return signature
    of_inner = signature_of(inner).parameters
    kept = {name: p for name, p in parameters.items() if p.kind is not p.VAR_POSITIONAL}
    if "axis_name" not in of_inner and all(p.kind is not p.VAR_KEYWORD for p in of_inner.values()):
        kept.pop("axis_name", None)  # nothing of it travels
    both = {**of_inner, **kept}
    return signature.replace(parameters=sorted(both.values(), key=lambda p: p.kind))


def _read_signature(loss: Callable) -> tuple[inspect.Signature, bool]:
    """The signature of a loss without what `on_mesh` decides, and whether a queue is compared."""
    signature = signature_of(loss)
    parameters = signature.parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    has_queue = "queue" in parameters and "axis_name" not in parameters
    for name in DECIDED[:2] if has_queue else DECIDED:
        if not takes_all and name not in parameters:
            raise ArgumentError(
                "loss",
                f"found a function of {', '.join(parameters)}; allowed: a loss that also takes the "
                f"keyword {name}, such as those of dystress_jax.losses.",
            )
    kept = [p for name, p in parameters.items() if name not in DECIDED]
    return signature.replace(parameters=kept), has_queue


def _devices_of(mesh: Mesh | AbstractMesh, axis: AxisName) -> Devices:
    number = math.prod(look_up(mesh.shape, name, argument="axis") for name in names_of(axis))
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = frozenset(name for name, kind in types if kind == AxisType.Explicit)
    return Devices(mesh, axis, number, explicit)


def _decide(
    devices: Devices, strategy: StrategyLike, tile_size: TileSize, has_queue: bool
) -> tuple[bool, dict[str, Any]]:
    """Whether `jax.shard_map` splits the rows, and the keywords for the loss."""
    axes = names_of(devices.axis)
    how = _keywords(strategy, tile_size, devices.axis, has_queue)
    # An Explicit axis stands in the type of each array, also where it has one device only.
    several = devices.number > 1 or not devices.explicit.isdisjoint(axes)
    if has_queue:
        return several, how
    if isinstance(strategy, Gathered | Ring) or strategy in ("gathered", "ring"):
        return True, how
    is_fused = strategy == "fused" or isinstance(strategy, Fused)
    each_its_own = devices.explicit.issuperset(axes) or is_fused
    if each_its_own and strategy != "auto":
        within: Any = as_strategy(strategy, tile_size, None)  # dense, tiled or fused
        return several, {"strategy": Gathered(devices.axis, within)} if several else how
    split = strategy == "auto" and several
    return split, how | ({"axis_name": devices.axis} if split else {})


def _keywords(
    strategy: StrategyLike, tile_size: TileSize, axis: AxisName, has_queue: bool
) -> dict[str, Any]:
    """The keywords for the loss; those of an axis are left to the caller.

    A value goes as it is, and a name with its companions, which a loss of one's own may read.
    """
    if isinstance(strategy, str):
        names = dict.fromkeys(FOR_QUEUE if has_queue else STRATEGIES)
        look_up(names, strategy, argument="strategy")
        how: dict[str, Any] = {"strategy": strategy, "tile_size": tile_size}
        return how | ({"axis_name": axis} if strategy in ("gathered", "ring") else {})
    if tile_size is not None:
        raise ArgumentError(
            "tile_size", f"found {tile_size} beside {strategy}; allowed: None, as it has its own."
        )
    if isinstance(strategy, Gathered | Ring):
        if has_queue:
            raise ArgumentError(
                "strategy",
                f"found {strategy} with a queue; allowed: dense(), tiled() or fused().",
            )
        if names_of(strategy.axis) != names_of(axis):
            raise ArgumentError(
                "strategy", f"found {strategy}; allowed: one over the axis {axis!r}."
            )
    return {"strategy": strategy}
