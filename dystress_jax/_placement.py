"""Where arrays are: over which devices of a mesh they are split, as far as they tell.

An array tells it, unless it is traced and the axes of its mesh are `Auto`: then the compiler
decides that after the program is written.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

P = ParamSpec("P")
T = TypeVar("T")

EVERYWHERE = PartitionSpec()  # whole on every device


def sharding_of(x: Any) -> NamedSharding | None:
    """How an array is split over a mesh, where that is known."""
    if not isinstance(x, jax.Array):
        return None
    if isinstance(x, Tracer):
        sharding = jax.typeof(x).sharding
        mesh = sharding.mesh
        return None if mesh.empty or AxisType.Explicit not in mesh.axis_types else sharding
    return x.sharding if isinstance(x.sharding, NamedSharding) else None


def is_explicit(sharding: NamedSharding | None) -> bool:
    """Whether it is known, and part of the type of the array."""
    return sharding is not None and AxisType.Explicit in sharding.mesh.axis_types


def place(tree: Any, spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> Any:
    """Lays all arrays over the mesh in that way."""
    move = lambda x: jax.sharding.reshard(x, NamedSharding(mesh, spec))
    return jax.tree.map(lambda x: move(x) if isinstance(x, jax.Array) else x, tree)


def whole(tree: Any) -> Any:
    """The same arrays, those that are split over Explicit axes whole on every device."""
    found = (s for s in map(sharding_of, jax.tree.leaves(tree)) if s and is_explicit(s))
    mesh = next((s.mesh for s in found if any(s.spec)), None)
    return tree if mesh is None else place(tree, EVERYWHERE, mesh)


def like_rows_of(x: Any, rows: Any) -> Any:
    """One number for each row of an array, split as these are over an Explicit axis."""
    sharding = sharding_of(x)
    if sharding is None or not is_explicit(sharding) or not any(sharding.spec[:1]):
        return rows
    return place(rows, PartitionSpec(*sharding.spec[:1]), sharding.mesh)


def of_whole_arrays(function: Callable[P, T]) -> Callable[P, T]:
    """The function, for arrays that an Explicit mesh splits too: each device computes it of all.

    Over `Auto` axes, and on one device, nothing changes.
    """

    @functools.wraps(function)
    def placed(*positional: P.args, **keywords: P.kwargs) -> T:
        positional, keywords = whole((positional, keywords))
        return function(*positional, **keywords)

    return placed
