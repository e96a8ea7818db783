"""A loss that asks its arrays over which devices they are split, and is computed by these."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from .._placement import EVERYWHERE, is_explicit, place, sharding_of
from ._on_mesh import DECIDED, asks_its_arrays, on_mesh, signature_of
from ._over_devices import VIEWS, one_by_one
from ._sharded import names_of
from ._strategies import Gathered, Loss, Recording, Ring

P = ParamSpec("P")
T = TypeVar("T")


def by_own_devices(loss: Callable[P, T]) -> Callable[P, T]:
    """The loss, computed by the devices over which its arrays are split, where they tell so."""
    signature = signature_of(loss)

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
        shardings = [sharding_of(x) for x in jax.tree.leaves((positional, keywords))]
        split = [s for s in shardings if s is not None and _is_split(s)]
        if not split:
            return loss(*positional, **keywords)
        mesh = next((s.mesh for s in split if isinstance(s.mesh, Mesh)), split[0].mesh)
        explicit = AxisType.Explicit in mesh.axis_types
        bound = signature.bind(*positional, **keywords)
        # A queue that is split beside a batch that is not says nothing of the batch.
        rows = lambda x: getattr(x, "shape", ())[:1]
        first, *others = jax.tree.leaves((bound.args, bound.kwargs))
        batch = [x for x in (first, *others) if rows(x) == rows(first)]
        by_row = [s.spec[0] for s in map(sharding_of, batch) if s is not None and s.spec]
        axes = next((names_of(spec) for spec in by_row if spec is not None), ())
        if axes and (explicit or strategy == "auto"):
            how: Any = {name: keywords.pop(name) for name in DECIDED[:2] if name in keywords}
            keywords.pop("axis_name", None)
            axis = axes[0] if len(axes) == 1 else axes
            with_strategy = cast(Loss[T], loss)  # which P does not say
            return on_mesh(with_strategy, mesh, axis=axis, **how)(*positional, **keywords)
        if explicit:  # the numbers of a row are split, which is of no use here
            whole = functools.partial(place, spec=EVERYWHERE, mesh=mesh)
            positional, keywords = whole(bound.args), whole(bound.kwargs)
        return loss(*positional, **keywords)

    asks_its_arrays(placed, loss)
    return placed


def _is_split(sharding: NamedSharding) -> bool:
    """Whether an array is split; over an Explicit axis it is so by its type, even on one device."""
    if is_explicit(sharding):
        return any(sharding.spec)
    return not sharding.is_fully_replicated
