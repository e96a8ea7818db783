"""A loss of the whole batch, computed by all devices of a mesh."""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array

from ..errors import ArgumentError, look_up
from ..temperatures import Function, Temperature, as_temperature
from ._strategies import TileSize

Loss = Callable[..., Array]

FOR_QUEUE: dict[str, None] = dict.fromkeys(("auto", "dense", "tiled"))
"""The strategies of a loss with a queue."""
STRATEGIES: dict[str, None] = FOR_QUEUE | dict.fromkeys(("gathered", "ring"))
"""The strategies of `on_mesh`."""
DECIDED = ("strategy", "tile_size", "axis_name")


def on_mesh(
    loss: Loss,
    mesh: Mesh,
    *,
    axis: str = "data",
    strategy: str = "auto",
    tile_size: TileSize = None,
) -> Loss:
    r"""The same loss, of a batch whose rows are split over the devices of a mesh.

    $$L_i^{\text{on mesh}}(x_1, \dots, x_n) = L_i(x_1, \dots, x_n)$$

    The result is called like the loss, on global arrays and usually inside `jax.jit`: values, their
    order and all gradients are those of the loss. How the work is shared depends on the strategy:

    | strategy           | what happens                                                       |
    |--------------------|--------------------------------------------------------------------|
    | `dense`, `tiled`   | the loss as it is; the compiler distributes it                     |
    | `gathered`, `ring` | `jax.shard_map` over the axis, see `dystress_jax.losses`           |
    | `auto`             | one device: the loss as it is; several: the better of the last two |

    A loss with an argument `queue`, such as `moco`, is the exception. Nothing travels: each device
    compares its own queries with the whole queue, by `auto`, `dense` or `tiled`.

    Args:
        loss: one of `dystress_jax.losses`, the same with options (`functools.partial`), or a
            function of your own around one. It must pass on the keywords `strategy` and
            `tile_size`, and `axis_name` if it has no `queue`.
        mesh: the devices. The axis is `jax.sharding.AxisType.Auto`.
        axis: the mesh axis over which the rows are split. Other axes are left alone.
        strategy: `auto`, `dense`, `tiled`, `gathered` or `ring`.
        tile_size: rows and columns of a tile, see `dystress_jax.losses`.

    Returns:
        The loss with the signature of `loss`, less what is decided here. Arguments that may be
        given by position are arrays, and row i of all of them belongs to example i; `queue` is
        whole on every device. Give `temperature` and options by keyword. A temperature per anchor
        has the order and the length of the values of the loss.

    Raises:
        ArgumentError: for an axis that the mesh does not have or that is not `Auto`, a strategy
            that the loss does not have, or a loss that does not take these keywords. When called:
            for rows that the devices cannot share equally, and for `positives` of `info_nce`,
            which count the keys of one device.

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
    devices = look_up(mesh.shape, axis, argument="axis")
    kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[axis]
    if kind != AxisType.Auto:
        raise ArgumentError(
            "mesh",
            f"found {axis!r}, an axis of type {kind.name}; allowed: Auto, as "
            f'jax.make_mesh(({devices},), ("{axis}",), (jax.sharding.AxisType.Auto,)) makes it.',
        )
    look_up(FOR_QUEUE if has_queue else STRATEGIES, strategy, argument="strategy")
    how: dict[str, Any] = {"strategy": strategy, "tile_size": tile_size}
    if has_queue:
        split = devices > 1
    else:
        split = strategy in ("gathered", "ring") or (strategy == "auto" and devices > 1)
        how |= {"axis_name": axis} if split else {}

    if not split:
        whole = functools.partial(loss, **how)
        whole.__signature__ = signature  # type: ignore[attr-defined]
        return whole

    def call(arguments: dict[str, Any], how: dict[str, Any]) -> Array:
        bound = inspect.BoundArguments(signature, OrderedDict(arguments))
        return loss(*bound.args, **bound.kwargs, **how)

    @functools.wraps(loss)
    def over_devices(*positional: Any, **keywords: Any) -> Array:
        bound = signature.bind(*positional, **keywords)
        bound.apply_defaults()
        arguments = bound.arguments
        if "temperature" in arguments:
            arguments["temperature"] = as_temperature(arguments["temperature"])
        # Traced, not computed: errors of the loss count the rows of the whole batch.
        jax.eval_shape(lambda: call(arguments, {"strategy": "dense", "tile_size": tile_size}))
        rows = {name: x for name, x in arguments.items() if _has_rows(signature, name)}
        queue = {name: x for name, x in arguments.items() if name == "queue"}
        others = {name: x for name, x in arguments.items() if name not in rows | queue}
        if arguments.get("positives") is not None:
            raise ArgumentError(
                "positives",
                "found an index of keys, which is not split over devices; allowed: None, key i "
                "belongs to query i. Or use `strategy` dense.",
            )
        n = _count(rows, devices, axis)
        entering, staying = _partition(_by_side(others, n))

        def shard(rows, queue, entering):
            others = _in_order(_combine(entering, staying))
            return call(rows | queue | others, how).reshape(-1, n // devices)

        specs = (PartitionSpec(axis), PartitionSpec(), _specs(entering, PartitionSpec(None, axis)))
        mapped = jax.shard_map(
            shard,
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec(None, axis),
            axis_names={axis},
            check_vma=not _has_closure(others),
        )
        return mapped(rows, queue, entering).reshape(-1)

    over_devices.__signature__ = signature  # type: ignore[attr-defined]
    return over_devices


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


def _has_rows(signature: inspect.Signature, name: str) -> bool:
    """Whether the argument is an array with one row per example."""
    parameter = signature.parameters[name]
    by_position = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return by_position and name not in ("queue", "temperature")


def _count(rows: dict[str, Array], devices: int, axis: str) -> int:
    """The number of examples, the same in all arrays and for all devices."""
    first, *_ = rows
    n = jnp.shape(rows[first])[0]
    for name, x in rows.items():
        if jnp.shape(x)[0] != n:
            raise ArgumentError(
                name,
                f"found {jnp.shape(x)[0]} rows beside {n} of `{first}`; over several devices row i "
                "of both must belong to example i. Or use `strategy` dense.",
            )
    if n % devices:
        raise ArgumentError(
            first,
            f"found {n} rows, which the {devices} devices of the mesh axis {axis!r} cannot share "
            f"equally; allowed: a multiple of {devices}.",
        )
    return n


def _is_per_anchor(node: Any) -> bool:
    return isinstance(node, Temperature) and node.is_per_anchor


def _by_side(tree: Any, n: int) -> Any:
    """Leaves per anchor as [sides, n, ...]: each side is split like the rows of the batch."""
    return _map_per_anchor(lambda leaf: jnp.reshape(leaf, (-1, n, *jnp.shape(leaf)[1:])), tree)


def _in_order(tree: Any) -> Any:
    """The inverse of `_by_side`."""
    return _map_per_anchor(lambda leaf: jnp.reshape(leaf, (-1, *jnp.shape(leaf)[2:])), tree)


def _map_per_anchor(function: Callable[[Any], Array], tree: Any) -> Any:
    change = lambda node: jax.tree.map(function, node) if _is_per_anchor(node) else node
    return jax.tree.map(change, tree, is_leaf=_is_per_anchor)


def _partition(tree: Any) -> tuple[Any, Any]:
    """What enters `shard_map` as an argument, and what stays as it is.

    Both have the structure of the tree, with None in the places of the other. Traced leaves enter,
    so that their gradients are summed over the devices. Numbers stay numbers: in a `shard_map` they
    would be traced, and the losses could not see before they start whether exp(logit) can overflow.
    """
    enters = lambda node: _is_per_anchor(node) or isinstance(node, Tracer)
    entering = lambda node: node if enters(node) else None
    staying = lambda node: None if enters(node) else node
    of = functools.partial(jax.tree.map, is_leaf=_is_per_anchor)
    return of(entering, tree), of(staying, tree)


def _combine(entering: Any, staying: Any) -> Any:
    """The inverse of `_partition`."""
    pick = lambda a, b: b if a is None else a
    is_leaf = lambda node: node is None or _is_per_anchor(node)
    return jax.tree.map(pick, entering, staying, is_leaf=is_leaf)


def _specs(entering: Any, by_side: PartitionSpec) -> Any:
    """How each entering leaf is split."""
    spec = lambda node: by_side if _is_per_anchor(node) else PartitionSpec()
    return jax.tree.map(spec, entering, is_leaf=_is_per_anchor)


def _has_closure(tree: Any) -> bool:
    """Whether a temperature is a function that closed over traced values.

    It was traced outside, where its constants did not vary over the devices as they do inside.
    """
    is_function = lambda node: isinstance(node, Function)
    return any(
        is_function(node) and node.closed_over
        for node in jax.tree.leaves(tree, is_leaf=is_function)
    )
