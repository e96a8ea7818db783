"""The rows of a batch split over devices, and the values of a loss joined again."""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array

from .._placement import EVERYWHERE, is_explicit, place, sharding_of
from ..errors import ArgumentError
from ..temperatures import Function, as_temperature, is_per_anchor, map_per_anchor
from ._checks import as_given
from ._sharded import AxisName, names_of
from ._tiled import combine

T = TypeVar("T")

VIEWS = "view_a"  # the argument that may hold all views, one after another, [v n d]
# Keywords whose arrays have one entry per example, as those given by position have.
BY_ROWS = ("where", "where_keys", "where_texts", "labels", "positives", "weights")
# Arguments that are whole on every device.
WHOLE = ("queue", "where_queue", "negatives", "where_negatives")


def one_by_one(views: Any) -> Any:
    """Views that are stacked, [v n d], as v arrays: each has the rows of the batch."""
    if not isinstance(views, Array) or views.ndim != 3:
        return views
    sharding = sharding_of(views)
    if sharding is not None and is_explicit(sharding):
        each = PartitionSpec(None, *sharding.spec[1:])  # whole views: they are taken apart
        views = place(views, each, sharding.mesh)
    return tuple(views)


class Devices(NamedTuple):
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


def over_devices_of(
    loss: Callable[..., T], signature: inspect.Signature, devices: Devices, how: dict[str, Any]
) -> Callable[..., T]:
    """The loss, of rows that `jax.shard_map` splits.

    Args:
        loss: takes the keywords of `how`.
        signature: of the loss, without these.
        devices: what the rows are split over.
        how: `strategy` and, where it takes them, `tile_size` and `axis_name`.

    Returns:
        The loss with that signature, of global arrays.
    """
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


def _where_lowered(how: dict[str, Any], devices: Devices) -> dict[str, Any]:
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


def _count(rows: dict[str, Any], devices: Devices, has_mask: bool) -> int:
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


def _blocks(x: Array, *, n: int, numbers: set[int], devices: Devices) -> list[Array]:
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


def _joined(value: Array, *, devices: Devices) -> Array:
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
