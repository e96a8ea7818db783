"""A loss of the whole batch, computed by all devices of a mesh: a given one, or the arrays' own.

An array tells over which devices it is split, unless it is traced and the axes of its mesh are
`Auto`: then the compiler decides that after the program is written.
"""

import functools
import inspect
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ..errors import ArgumentError, look_up
from ..temperatures import Function, as_temperature, is_per_anchor, map_per_anchor
from ._checks import as_given
from ._strategies import (
    AxisName,
    Dense,
    Fused,
    Gathered,
    Recording,
    Ring,
    StrategyLike,
    Tiled,
    TileSize,
)

Loss = Callable[..., Any]
P = ParamSpec("P")
T = TypeVar("T")

FOR_QUEUE: dict[str, None] = dict.fromkeys(("auto", "dense", "tiled", "fused"))
"""The strategies of a loss with a queue."""
STRATEGIES: dict[str, None] = FOR_QUEUE | dict.fromkeys(("gathered", "ring"))
"""The strategies of `on_mesh`."""
DECIDED = ("strategy", "tile_size", "axis_name")
# Keywords whose arrays have one entry per example, as those given by position have.
BY_ROWS = ("where", "where_keys", "where_texts", "labels", "positives", "weights")
WHOLE = ("queue", "where_queue", "negatives", "where_negatives")
VIEWS = "view_a"  # may hold all views, one after another, [v n d]


def on_mesh(
    loss: Callable[..., T],
    mesh: Mesh | AbstractMesh,
    *,
    axis: AxisName = "data",
    strategy: StrategyLike = "auto",
    tile_size: TileSize = None,
) -> Callable[..., T]:
    r"""The same loss, of a batch whose rows are split over the devices of a mesh.

    $$L_i^{\text{on mesh}}(x_1, \dots, x_n) = L_i(x_1, \dots, x_n)$$

    The result is called like the loss, on global arrays and usually inside `jax.jit`: values, their
    order and all gradients are those of the loss. How the work is shared depends on the strategy:

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
    signature, has_queue = _read(loss)
    over = _over(mesh, axis)
    split, how = _decided(over, strategy, tile_size, has_queue)
    loss = loss if over.explicit else _unasked(loss)
    if split:
        return _over_devices(loss, signature, over, how)
    whole = functools.partial(loss, **how)
    whole.__signature__ = signature  # type: ignore[attr-defined]
    return whole


class _Over(NamedTuple):
    """What the rows are split over.

    Attributes:
        mesh: the devices.
        axis: of the mesh, or several.
        devices: how many the axis has.
        explicit: the axes of the mesh that are `Explicit`.
    """

    mesh: Mesh | AbstractMesh
    axis: AxisName
    devices: int
    explicit: frozenset[str]


def _over(mesh: Mesh | AbstractMesh, axis: AxisName) -> _Over:
    devices = math.prod(look_up(mesh.shape, name, argument="axis") for name in _names(axis))
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = frozenset(name for name, kind in types if kind == AxisType.Explicit)
    return _Over(mesh, axis, devices, explicit)


def _decided(
    over: _Over, strategy: StrategyLike, tile_size: TileSize, has_queue: bool
) -> tuple[bool, dict[str, Any]]:
    """Whether `jax.shard_map` splits the rows, and the keywords for the loss."""
    axes = _names(over.axis)
    how = _how(strategy, tile_size, over.axis, has_queue)
    # An Explicit axis stands in the type of each array, also where it has one device only.
    several = over.devices > 1 or not over.explicit.isdisjoint(axes)
    if has_queue:
        return several, how
    if isinstance(strategy, Gathered | Ring) or strategy in ("gathered", "ring"):
        return True, how
    each_its_own = over.explicit.issuperset(axes) or _is_fused(strategy)
    if each_its_own and strategy != "auto":
        within = how["strategy"] if not isinstance(strategy, str) else _WITHIN[strategy](tile_size)
        return several, {"strategy": Gathered(over.axis, within)} if several else how
    split = strategy == "auto" and several
    return split, how | ({"axis_name": over.axis} if split else {})


def _over_devices(
    loss: Callable[..., T], signature: inspect.Signature, over: _Over, how: dict[str, Any]
) -> Callable[..., T]:
    """The loss, of rows that `jax.shard_map` splits."""
    mesh, axis, devices, explicit = over
    # Over axes that are Explicit or over which nothing is split, each device does the same. None
    # stands for all of them, but those over which a `vmap` around the loss is split.
    manual = explicit | set(_names(axis))
    manual = set() if manual == set(mesh.axis_names) else manual
    place = functools.partial(_place, mesh=mesh) if explicit else (lambda x, spec: x)
    by_rows, by_side, whole = PartitionSpec(axis), PartitionSpec(None, axis), PartitionSpec()

    def call(arguments: dict[str, Any], how: dict[str, Any]) -> Any:
        named = {name: x for name, x in arguments.items() if name in signature.parameters}
        passed_on = {name: x for name, x in arguments.items() if name not in named}
        bound = inspect.BoundArguments(signature, OrderedDict(named))
        return loss(*bound.args, **bound.kwargs, **passed_on, **how)

    @functools.wraps(loss)
    def over_devices(*positional: Any, **keywords: Any) -> Any:
        bound = signature.bind(*positional, **keywords)
        bound.apply_defaults()
        arguments = _by_name(bound)
        if arguments.get("temperature") is not None:
            # With a mask some of the numbers do not matter: the loss itself looks at them.
            read = as_temperature if arguments.get("where") is None else as_given
            arguments["temperature"] = read(arguments["temperature"])
        # Traced, not computed: errors of the loss count the rows of the whole batch.
        alone = {"strategy": "dense", "tile_size": None}
        jax.eval_shape(lambda: call(place(arguments, whole), alone))
        if VIEWS in arguments and arguments.get("view_b") is None:
            arguments[VIEWS] = one_by_one(arguments[VIEWS])
        rows = {name: x for name, x in arguments.items() if _has_rows(signature, name, x)}
        shared = {name: x for name, x in arguments.items() if name in WHOLE}
        others = {name: x for name, x in arguments.items() if name not in rows | shared}
        n = _count(rows, devices, axis, "where" in signature.parameters)
        own_order = arguments.get("positives") is not None  # they count rows in the order given
        parts, treedef = jax.tree.flatten(rows)
        entering, staying = _split_entering(others)

        def shard(parts, shared, entering):
            others = _in_order(_combine(entering, staying))
            rows = [part[0] if len(part) == 1 else jnp.concatenate(part) for part in parts]
            arguments = treedef.unflatten(rows) | shared | others
            by_side = functools.partial(_sides, n=n // devices)
            here, all_known = how, manual or all(map(_is_bound, mesh.axis_names))
            if how["strategy"] == "auto" and "axis_name" in how and not all_known:
                # JAX 0.10 cannot lower the gradient of gathered rows in a vmap split over an axis.
                here = how | {"strategy": "ring"}
            return jax.tree.map(by_side, call(arguments, here))

        def cut(x):
            """The rows that belong to those of the first array, and further ones, split apart."""
            m = jnp.shape(x)[0]
            if own_order or m <= n:
                return [x]
            x = place(x, whole)
            starts = range(n, m, n) if VIEWS in arguments else [n]
            return jnp.split(x, list(starts))

        specs = (by_rows, whole, _specs(entering, by_side))
        mapped = jax.shard_map(
            shard,
            mesh=mesh,
            in_specs=specs,
            out_specs=by_side,
            axis_names=manual,
            check_vma=not _has_closure(others),
        )

        def on_all(parts, shared, entering):
            of_rows = place([cut(x) for x in parts], by_rows)
            entering = _by_side(place(entering, whole), n)
            entering = map_per_anchor(lambda leaf: place(leaf, by_side), entering)
            return jax.tree.map(in_order, mapped(of_rows, place(shared, whole), entering))

        def in_order(value):
            if value.shape[0] == 1:
                return value[0]
            return place(place(value, whole).reshape(-1, *value.shape[2:]), by_rows)

        # Step by step, outside jit, a shard_map takes no derivatives such as those of the tiles.
        return jax.jit(on_all)(parts, shared, entering)

    over_devices.__signature__ = signature  # type: ignore[attr-defined]
    return over_devices


def by_own_devices(loss: Callable[P, T]) -> Callable[P, T]:
    """The loss, computed by the devices over which its arrays are split, where they tell so."""
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def placed(*positional: P.args, **keywords: P.kwargs) -> T:
        strategy = keywords.get("strategy", "auto")
        named = keywords.get("axis_name") is not None
        if named or isinstance(strategy, Gathered | Ring | Recording):
            return loss(*positional, **keywords)
        if len(positional) > 1 or keywords.get("view_b") is not None:
            pass  # two views
        elif positional and next(iter(signature.parameters)) == VIEWS:
            views: Any = (one_by_one(positional[0]),)
            positional = views
        elif VIEWS in keywords:
            keywords[VIEWS] = one_by_one(keywords[VIEWS])
        shardings = [_sharding(x) for x in jax.tree.leaves((positional, keywords))]
        split = [s for s in shardings if s is not None and _is_split(s)]
        if not split:
            return loss(*positional, **keywords)
        mesh = next((s.mesh for s in split if isinstance(s.mesh, Mesh)), split[0].mesh)
        explicit = AxisType.Explicit in mesh.axis_types
        axes = next((_names(s.spec[0]) for s in split if s.spec and s.spec[0] is not None), ())
        if axes and (explicit or strategy == "auto"):
            how: Any = {name: keywords.pop(name) for name in DECIDED[:2] if name in keywords}
            keywords.pop("axis_name", None)
            axis = axes[0] if len(axes) == 1 else axes
            return on_mesh(loss, mesh, axis=axis, **how)(*positional, **keywords)
        if explicit:  # the numbers of a row are split, which is of no use here
            bound = signature.bind(*positional, **keywords)
            whole = functools.partial(_place, spec=PartitionSpec(), mesh=mesh)
            positional, keywords = whole(bound.args), whole(bound.kwargs)
        return loss(*positional, **keywords)

    _UNASKED[placed] = loss
    return placed


# What a loss is where somebody else has decided about the devices.
_UNASKED: MutableMapping[Any, Loss] = weakref.WeakKeyDictionary()


def _unasked(loss: Loss) -> Loss:
    """The loss, whose arrays are not asked how they are split."""
    if isinstance(loss, functools.partial):
        return functools.partial(_unasked(loss.func), *loss.args, **loss.keywords)
    return _UNASKED.get(loss, loss) if inspect.isfunction(loss) else loss


def _sharding(x: Any) -> NamedSharding | None:
    """How an array is split over a mesh, where that is known."""
    if not isinstance(x, jax.Array):
        return None
    if isinstance(x, Tracer):
        sharding = jax.typeof(x).sharding
        mesh = sharding.mesh
        return None if mesh.empty or AxisType.Explicit not in mesh.axis_types else sharding
    return x.sharding if isinstance(x.sharding, NamedSharding) else None


def _is_split(sharding: NamedSharding) -> bool:
    """Whether an array is split; over an Explicit axis it is so by its type, even on one device."""
    if AxisType.Explicit in sharding.mesh.axis_types:
        return any(sharding.spec)
    return not sharding.is_fully_replicated


def _place(tree: Any, spec: PartitionSpec, *, mesh: Mesh | AbstractMesh) -> Any:
    """Lays all arrays over the mesh in that way."""
    move = lambda x: jax.sharding.reshard(x, NamedSharding(mesh, spec))
    return jax.tree.map(lambda x: move(x) if isinstance(x, jax.Array) else x, tree)


def _names(axis: AxisName | None) -> tuple[str, ...]:
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


def _is_bound(axis: str) -> bool:
    """Whether it is an axis of the `shard_map` around, and not of a `vmap` around that."""
    try:
        jax.lax.axis_size(axis)
    except NameError:
        return False
    return True


def _is_fused(strategy: StrategyLike) -> bool:
    return strategy == "fused" or isinstance(strategy, Fused)


_WITHIN = {"dense": lambda tile_size: Dense(), "tiled": Tiled, "fused": Fused}


def _how(
    strategy: StrategyLike, tile_size: TileSize, axis: AxisName, has_queue: bool
) -> dict[str, Any]:
    """The keywords for the loss; those of an axis are left to the caller.

    A value goes as it is, and a name with its companions, which a loss of one's own may read.
    """
    if isinstance(strategy, str):
        look_up(FOR_QUEUE if has_queue else STRATEGIES, strategy, argument="strategy")
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
        if _names(strategy.axis) != _names(axis):
            raise ArgumentError(
                "strategy", f"found {strategy}; allowed: one over the axis {axis!r}."
            )
    return {"strategy": strategy}


def _read(loss: Loss) -> tuple[inspect.Signature, bool]:
    """The signature of a loss without what `on_mesh` decides, and whether a queue is compared."""
    signature = inspect.signature(loss)
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


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments, those too that a function takes as `**how`."""
    arguments = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
    return arguments


def one_by_one(views: Any) -> Any:
    """Views that are stacked, [v n d], as v arrays: each has the rows of the batch."""
    if not isinstance(views, Array) or views.ndim != 3:
        return views
    sharding = _sharding(views)
    if sharding is not None and AxisType.Explicit in sharding.mesh.axis_types:
        each = PartitionSpec(None, *sharding.spec[1:])  # whole views: they are taken apart
        views = _place(views, each, mesh=sharding.mesh)
    return tuple(views)


def _has_rows(signature: inspect.Signature, name: str, argument: Any) -> bool:
    """Whether the argument is an array with one row per example."""
    if name == "weights" and (argument is None or jnp.ndim(argument) == 0):
        return False
    if name in BY_ROWS or name not in signature.parameters:
        return name in BY_ROWS
    parameter = signature.parameters[name]
    by_keyword = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
    return not by_keyword and name not in (*WHOLE, "temperature")


def _count(rows: dict[str, Any], devices: int, axis: AxisName, has_mask: bool) -> int:
    """The number of rows of the first array; those of all can be shared equally."""
    first, *_ = rows
    remedy = " Fill up the batch, and leave these rows out with `where`." if has_mask else ""
    for name, tree in rows.items():
        for x in jax.tree.leaves(tree):
            if jnp.shape(x)[0] % devices:
                raise ArgumentError(
                    name,
                    f"found {jnp.shape(x)[0]} rows, which the {devices} devices of the mesh axis "
                    f"{axis!r} cannot share equally; allowed: a multiple of {devices}.{remedy}",
                )
    return jnp.shape(jax.tree.leaves(rows[first])[0])[0]


def _sides(value: Array, n: int) -> Array:
    """What a device has of the values, [sides, n, ...] for its n rows."""
    if jnp.ndim(value) == 0 or value.shape[0] % n:
        raise ArgumentError(
            "loss",
            f"found values of the shape {jnp.shape(value)} for {n} rows of a device; allowed: one "
            "for each row, or as many for all of them. Take the mean outside.",
        )
    return value.reshape(-1, n, *value.shape[1:])


def _by_side(tree: Any, n: int) -> Any:
    """Leaves per anchor as [sides, n, ...]: each side is split like the rows of the batch."""
    return map_per_anchor(lambda leaf: jnp.reshape(leaf, (-1, n, *jnp.shape(leaf)[1:])), tree)


def _in_order(tree: Any) -> Any:
    """The inverse of `_by_side`."""
    return map_per_anchor(lambda leaf: jnp.reshape(leaf, (-1, *jnp.shape(leaf)[2:])), tree)


def _split_entering(tree: Any) -> tuple[Any, Any]:
    """What enters `shard_map` as an argument, and what stays as it is.

    Both have the structure of the tree, with None in the places of the other. Traced leaves enter,
    so that their gradients are summed over the devices. Numbers stay numbers: in a `shard_map` they
    would be traced, and the losses could not see before they start whether exp(logit) can overflow.
    """
    entering = lambda node: node if _enters(node) else None
    staying = lambda node: None if _enters(node) else node
    of = functools.partial(jax.tree.map, is_leaf=is_per_anchor)
    return of(entering, tree), of(staying, tree)


def _enters(node: Any) -> bool:
    if is_per_anchor(node) or isinstance(node, Tracer):
        return True
    sharding = _sharding(node)
    return sharding is not None and AxisType.Explicit in sharding.mesh.axis_types


def _combine(entering: Any, staying: Any) -> Any:
    """The inverse of `_split_entering`."""
    pick = lambda a, b: b if a is None else a
    is_leaf = lambda node: node is None or is_per_anchor(node)
    return jax.tree.map(pick, entering, staying, is_leaf=is_leaf)


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
