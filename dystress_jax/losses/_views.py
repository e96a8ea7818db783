"""What losses between views take: the views, one by one, and the plan of all their anchors."""

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..errors import ArgumentError
from ._checks import as_mask, check_pairs
from ._options import Options
from ._plan import Plan, Weighed, twice


def views_of(
    view_a: Float[Array, "n d"] | Float[Array, "v n d"] | Sequence[Float[Array, "n d"]],
    view_b: Float[Array, "n d"] | None,
) -> list[Float[Array, "n d"]]:
    """All views, one by one."""
    if view_b is not None:
        return [cast(Array, view_a), view_b]
    if not isinstance(view_a, Sequence) and view_a.ndim == 2:
        raise ArgumentError(
            "view_b",
            f"found None beside one array of shape {view_a.shape}; allowed: both views, each "
            "[rows, features], or all views in one array [views, rows, features].",
        )
    views = list(view_a)
    if len(views) < 2 or any(jnp.ndim(view) != 2 for view in views):
        raise ArgumentError(
            "view_a",
            f"found views of the shapes {[jnp.shape(view) for view in views]}; allowed: two or "
            "more, each [rows, features], or a `view_b` beside it.",
        )
    return views


def plan_of_views(
    options: Options,
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    where: Bool[Array, " n"] | None,
    candidates: int = 2,
) -> tuple[Plan, Bool[Array, " n"] | None, Weighed]:
    """For all anchors of two views among the candidates of both, or of one.

    Beside it who is real, and how much the negatives count.
    """
    check_pairs("view_a", view_a, "view_b", view_b, options.axis)
    n, d = view_a.shape
    real = as_mask("where", where, n, "example")
    plan = options.plan(anchors=2 * n, candidates=candidates * n, length=d, real=twice(real))
    both = twice(real)
    return plan, real, options.weighed(2 * n, n, n, real=(both, both))
