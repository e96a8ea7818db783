"""Where arrays are: over which devices of a mesh their rows are split, as far as they tell.

An array tells it, unless it is traced and the axes of its mesh are `Auto`: then the compiler
decides that after the program is written.
"""

from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ._strategies import AxisName

VIEWS = "view_a"  # the argument that may hold all views, one after another, [v n d]
EVERYWHERE = PartitionSpec()  # whole on every device


def names_of(axis: AxisName) -> tuple[str, ...]:
    """One axis, or several that count as one, as a tuple."""
    return (axis,) if isinstance(axis, str) else tuple(axis)


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


def one_by_one(views: Any) -> Any:
    """Views that are stacked, [v n d], as v arrays: each has the rows of the batch."""
    if not isinstance(views, Array) or views.ndim != 3:
        return views
    sharding = sharding_of(views)
    if sharding is not None and is_explicit(sharding):
        each = PartitionSpec(None, *sharding.spec[1:])  # whole views: they are taken apart
        views = place(views, each, sharding.mesh)
    return tuple(views)
