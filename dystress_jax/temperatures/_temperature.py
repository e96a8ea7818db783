"""What a temperature is: data that is called with similarities; and what may stand for one."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

# A number or an array; tree operations may put anything into a leaf, so it is not checked.
Leaf = Any


class Temperature:
    """Base of all temperatures: an elementwise function of the similarity, and a pytree.

    Similarities reach it on the scale of the cosine, -1 (opposite) to 1 (aligned); rounding may
    exceed that range by a few units in the last place. A loss gives it its leaves as floats: what
    is an index or a choice is a static field.
    """

    def __post_init__(self):
        """Take variables of a module library, such as `nnx.Param`, by their arrays."""
        for each in dataclasses.fields(self) if dataclasses.is_dataclass(self) else ():
            value = getattr(self, each.name)
            if array_of(value) is not value:
                object.__setattr__(self, each.name, array_of(value))

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns tau > 0 for each similarity, in the shape of the similarities [n] or [n m]."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__, which returns tau")

    def lower_bound(self) -> ArrayLike | None:
        """Returns a number that tau never falls below, or None when there is none to promise.

        The losses use it to see, before they compute any logit, whether exp(logit) can overflow.
        """
        return None

    @property
    def is_per_anchor(self) -> bool:
        """Whether every leaf has one entry per anchor in its leading axis.

        The losses then call it with as many rows of similarities, [n] or [n m]: a leaf t [n] counts
        there as t.reshape(-1, *[1] * (similarity.ndim - 1)).
        """
        return False

    @property
    def for_positives(self) -> "Temperature":
        """The temperature of positive pairs."""
        return self

    @property
    def for_negatives(self) -> "Temperature":
        """The temperature of negative pairs."""
        return self


@runtime_checkable
class HoldsArray(Protocol):
    """A variable of a module library, such as `nnx.Param`."""

    def __jax_array__(self) -> Array:
        """Returns the array."""
        ...


NumberLike = ArrayLike | HoldsArray


TemperatureLike = Temperature | NumberLike | Callable[[Array], Array]
"""What a loss takes: a number, one an anchor, a `Temperature`, or a function of the similarity."""


def array_of(value: Any) -> Any:
    """The array that a `HoldsArray` holds; else the value."""
    if isinstance(value, Tracer | Array | type) or not hasattr(value, "__jax_array__"):
        return value
    return value.__jax_array__()
