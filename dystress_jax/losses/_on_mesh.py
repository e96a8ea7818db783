"""Any loss of the whole batch, computed by all devices of a mesh."""

import functools
import inspect
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
from jaxtyping import Array

from ..errors import ArgumentError, look_up
from ..temperatures import Function, as_temperature, is_per_anchor, map_per_anchor
from ._checks import as_given
from ._placement import (
    EVERYWHERE,
    VIEWS,
    is_explicit,
    names_of,
    one_by_one,
    place,
    sharding_of,
)
from ._strategies import (
    FOR_QUEUE,
    STRATEGIES,
    AxisName,
    Dense,
    Fused,
    Gathered,
    Loss,
    Ring,
    StrategyLike,
    Tiled,
    TileSize,
)
from ._tiled import combine

T = TypeVar("T")

DECIDED = ("strategy", "tile_size", "axis_name")
# Keywords whose arrays have one entry per example, as those given by position have.
BY_ROWS = ("where", "where_keys", "where_texts", "labels", "positives", "weights")
# Arguments that are whole on every device.
WHOLE = ("queue", "where_queue", "negatives", "where_negatives")
# How a device compares its rows with all candidates, by name: from a tile_size to a strategy.
WITHIN = {"dense": lambda tile_size: Dense(), "tiled": Tiled, "fused": Fused}
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
    anew, which takes some tenths of a second. How the work is shared depends on the strategy:

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
        by keyword. A temperature per anchor has the order and the length of the values of the loss.

    Raises:
        ArgumentError: for an axis that the mesh does not have, a strategy that the loss does not
            have or over another axis, or a loss that does not take these keywords. When called: for
            rows that the devices cannot share equally, or a loss that is a single number.

    Example:
        >>> from . import nt_xent
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
        return _over_devices(loss, signature, devices, how)
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


class _Devices(NamedTuple):
    """What the rows are split over.

    Attributes:
        mesh: the devices.
        axis: of the mesh, or several.
        number: how many devices the axis has.
        explicit: the axes of the mesh that are `Explicit`.
    """

    mesh: Mesh | AbstractMesh
    axis: AxisName
    number: int
    explicit: frozenset[str]

    @property
    def manual(self) -> set[str]:
        """The axes that `jax.shard_map` takes over: that of the rows, and those that are Explicit.

        Over an axis over which nothing is split, each device does the same. An empty set stands for
        all axes but those over which a `vmap` around the loss is split.
        """
        axes = self.explicit | set(names_of(self.axis))
        return set() if axes == set(self.mesh.axis_names) else set(axes)

    @property
    def by_rows(self) -> PartitionSpec:
        """How [n, ...] is split."""
        return PartitionSpec(self.axis)

    @property
    def by_side(self) -> PartitionSpec:
        """How [sides, n, ...] is split."""
        return PartitionSpec(None, self.axis)

    def place(self, tree: Any, spec: PartitionSpec) -> Any:
        """Lays all arrays over the mesh in that way, where the compiler does not do so."""
        return place(tree, spec, self.mesh) if self.explicit else tree


def _devices_of(mesh: Mesh | AbstractMesh, axis: AxisName) -> _Devices:
    number = math.prod(look_up(mesh.shape, name, argument="axis") for name in names_of(axis))
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = frozenset(name for name, kind in types if kind == AxisType.Explicit)
    return _Devices(mesh, axis, number, explicit)


def _decide(
    devices: _Devices, strategy: StrategyLike, tile_size: TileSize, has_queue: bool
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
        within = how["strategy"] if not isinstance(strategy, str) else WITHIN[strategy](tile_size)
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


def _over_devices(
    loss: Callable[..., T], signature: inspect.Signature, devices: _Devices, how: dict[str, Any]
) -> Callable[..., T]:
    """The loss, of rows that `jax.shard_map` splits."""
    mesh, manual, by_rows, by_side = devices.mesh, devices.manual, devices.by_rows, devices.by_side
    call = functools.partial(_call, loss, signature)

    @functools.wraps(loss)
    def over_devices(*positional: Any, **keywords: Any) -> Any:
        arguments = _arguments(signature, positional, keywords)
        # Traced, not computed: errors of the loss count the rows of the whole batch.
        alone = {"strategy": "dense", "tile_size": None}
        jax.eval_shape(lambda: call(devices.place(arguments, EVERYWHERE), alone))
        if VIEWS in arguments and arguments.get("view_b") is None:
            arguments[VIEWS] = one_by_one(arguments[VIEWS])
        rows = {name: x for name, x in arguments.items() if _has_rows(signature, name, x)}
        _refuse_stacked(rows)
        shared = {name: x for name, x in arguments.items() if name in WHOLE}
        others = {name: x for name, x in arguments.items() if name not in rows | shared}
        n = _count(rows, devices, "where" in signature.parameters)
        own_order = arguments.get("positives") is not None  # they count rows in the order given
        given = [rows[name] for name in rows if name not in BY_ROWS]
        numbers = {jnp.shape(x)[0] for x in jax.tree.leaves(given)}
        blocks = functools.partial(_blocks, n=n, numbers=numbers, devices=devices)
        parts, treedef = jax.tree.flatten(rows)
        entering, staying = _split_entering(others)

        def on_each(parts, shared, entering):
            """What a device does with its rows of each block of each array."""
            rows = [part[0] if len(part) == 1 else jnp.concatenate(part) for part in parts]
            others = _in_order(combine(entering, staying))
            values = call(treedef.unflatten(rows) | shared | others, _where_lowered(how, devices))
            return jax.tree.map(functools.partial(_sides, n=n // devices.number), values)

        split = jax.shard_map(
            on_each,
            mesh=mesh,
            in_specs=(by_rows, EVERYWHERE, _specs(entering, by_side)),
            out_specs=by_side,
            axis_names=manual,
            check_vma=not _has_closure(others),
        )

        def on_all(parts, shared, entering):
            parts = devices.place([[x] if own_order else blocks(x) for x in parts], by_rows)
            entering = _by_side(devices.place(entering, EVERYWHERE), n)
            entering = map_per_anchor(lambda leaf: devices.place(leaf, by_side), entering)
            values = split(parts, devices.place(shared, EVERYWHERE), entering)
            return jax.tree.map(functools.partial(_joined, devices=devices), values)

        # Step by step, outside jit, a shard_map takes no derivatives such as those of the tiles.
        return jax.jit(on_all)(parts, shared, entering)

    over_devices.__signature__ = signature  # type: ignore[attr-defined]
    return over_devices


def _arguments(signature: inspect.Signature, positional: Any, keywords: Any) -> dict[str, Any]:
    """All arguments by name, those too that a function takes as `**how`."""
    bound = signature.bind(*positional, **keywords)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
    if arguments.get("temperature") is not None:
        # With a mask some of the numbers do not matter: the loss itself looks at them.
        read = as_temperature if arguments.get("where") is None else as_given
        arguments["temperature"] = read(arguments["temperature"])
    return arguments


def _call(
    loss: Callable[..., T],
    signature: inspect.Signature,
    arguments: dict[str, Any],
    how: dict[str, Any],
) -> T:
    """The loss of arguments by name."""
    named = {name: x for name, x in arguments.items() if name in signature.parameters}
    passed_on = {name: x for name, x in arguments.items() if name not in named}
    bound = inspect.BoundArguments(signature, OrderedDict(named))
    return loss(*bound.args, **bound.kwargs, **passed_on, **how)


def _where_lowered(how: dict[str, Any], devices: _Devices) -> dict[str, Any]:
    """The keywords for the loss, on a device, without what JAX cannot lower there."""
    all_known = devices.manual or all(map(_is_bound, devices.mesh.axis_names))
    if how["strategy"] == "auto" and "axis_name" in how and not all_known:
        # JAX 0.10 cannot lower the gradient of gathered rows in a vmap split over an axis.
        return how | {"strategy": "ring"}
    return how


def _is_bound(axis: str) -> bool:
    """Whether it is an axis of the `shard_map` around, and not of a `vmap` around that."""
    try:
        jax.lax.axis_size(axis)
    except NameError:
        return False
    return True


def _has_rows(signature: inspect.Signature, name: str, argument: Any) -> bool:
    """Whether the argument is an array with one row per example."""
    if name == "weights":
        # One for all, or one for each row of a queue, is whole on every device.
        whole = (0, 1) if "queue" in signature.parameters else (0,)
        return argument is not None and jnp.ndim(argument) not in whole
    if name in BY_ROWS or name not in signature.parameters:
        return name in BY_ROWS
    parameter = signature.parameters[name]
    by_keyword = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
    return not by_keyword and name not in (*WHOLE, "temperature")


def _count(rows: dict[str, Any], devices: _Devices, has_mask: bool) -> int:
    """The number of rows of the first array; those of all can be shared equally."""
    first, *_ = rows
    remedy = " Fill up the batch, and leave these rows out with `where`." if has_mask else ""
    for name, tree in rows.items():
        for x in jax.tree.leaves(tree):
            if jnp.shape(x)[0] % devices.number:
                raise ArgumentError(
                    name,
                    f"found {jnp.shape(x)[0]} rows, which the {devices.number} devices of the mesh "
                    f"axis {devices.axis!r} cannot share equally; allowed: a multiple of "
                    f"{devices.number}.{remedy}",
                )
    return jnp.shape(jax.tree.leaves(rows[first])[0])[0]


def _refuse_stacked(rows: dict[str, Any]) -> None:
    """Refuses arrays whose first axis may be that of views, of which no name tells it."""
    for name, tree in rows.items():
        for x in jax.tree.leaves(tree):
            if jnp.ndim(x) > 2:
                raise ArgumentError(
                    name,
                    f"found shape {jnp.shape(x)} of a loss of your own; allowed: [rows, features], "
                    f"or a first argument called {VIEWS} for views that are stacked, [v n d].",
                )


def _blocks(x: Array, *, n: int, numbers: set[int], devices: _Devices) -> list[Array]:
    """The rows that belong to those of the first array, and further ones, split apart.

    The further ones are one block where an array has as many rows, such as keys; else there is a
    block of n rows for each view.
    """
    m = jnp.shape(x)[0]
    if m <= n:
        return [x]
    return jnp.split(devices.place(x, EVERYWHERE), [n] if m in numbers else list(range(n, m, n)))


def _sides(value: Array, n: int) -> Array:
    """What a device has of the values, [sides, n, ...] for its n rows."""
    if jnp.ndim(value) == 0 or value.shape[0] % n:
        raise ArgumentError(
            "loss",
            f"found values of the shape {jnp.shape(value)} for {n} rows of a device; allowed: one "
            "for each row, or as many for all of them. Take the mean outside.",
        )
    return value.reshape(-1, n, *value.shape[1:])


def _joined(value: Array, *, devices: _Devices) -> Array:
    """The values [sides, n, ...] of all devices in the order of those of the loss."""
    if value.shape[0] == 1:
        return value[0]
    value = devices.place(value, EVERYWHERE).reshape(-1, *value.shape[2:])
    return devices.place(value, devices.by_rows)


def _by_side(tree: Any, n: int) -> Any:
    """Leaves per anchor as [sides, n, ...]: each side is split like the rows of the batch."""
    return map_per_anchor(lambda leaf: jnp.reshape(leaf, (-1, n, *jnp.shape(leaf)[1:])), tree)


def _in_order(tree: Any) -> Any:
    """The inverse of `_by_side`."""
    return map_per_anchor(lambda leaf: jnp.reshape(leaf, (-1, *jnp.shape(leaf)[2:])), tree)


def _split_entering(tree: Any) -> tuple[Any, Any]:
    """What enters `shard_map` as an argument, and what stays as it is; `combine` is the inverse.

    Both have the structure of the tree, with None in the places of the other. Traced leaves enter,
    so that their gradients are summed over the devices. Numbers stay numbers: in a `shard_map` they
    would be traced, and the losses could not see before they start whether exp(logit) can overflow.
    """
    nothing_of = lambda node: jax.tree.map(lambda leaf: None, node)
    entering = lambda node: node if _enters(node) else None
    staying = lambda node: nothing_of(node) if _enters(node) else node
    of = functools.partial(jax.tree.map, is_leaf=is_per_anchor)
    return of(entering, tree), of(staying, tree)


def _enters(node: Any) -> bool:
    return is_per_anchor(node) or isinstance(node, Tracer) or is_explicit(sharding_of(node))


def _specs(entering: Any, by_side: PartitionSpec) -> Any:
    """How each entering leaf is split."""
    spec = lambda node: by_side if is_per_anchor(node) else PartitionSpec()
    return jax.tree.map(spec, entering, is_leaf=is_per_anchor)


def _has_closure(tree: Any) -> bool:
    """Whether a temperature is a function that closed over traced values.

    It was traced outside, where its constants did not vary over the devices as they do inside.
    """
    is_function = lambda node: isinstance(node, Function)
    return any(
        is_function(node) and node.closed_over
        for node in jax.tree.leaves(tree, is_leaf=is_function)
    )
