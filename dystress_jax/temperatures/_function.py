"""Whatever a user writes for a temperature, as a `Temperature`: numbers, arrays, functions."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AxisType
from jax.tree_util import register_dataclass
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ._checks import as_floats, concrete
from ._constant import Constant, PerAnchor, constant, per_anchor
from ._temperature import Leaf, NumberLike, Temperature, TemperatureLike, array_of


@register_dataclass
@dataclass(frozen=True)
class Function(Temperature):
    """A plain elementwise function, with the traced values it closes over made explicit."""

    closed_over: Leaf
    function: Callable[..., Array] = field(metadata={"static": True})
    dtype: np.dtype = field(metadata={"static": True})  # that the closed over values came with

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        scalar = lambda s: jnp.asarray(self.function(s, *self.closed_over))
        similarity = as_floats(similarity)
        try:
            return jnp.vectorize(scalar)(similarity.astype(self.dtype)).astype(similarity.dtype)
        except ValueError as error:
            if not self.closed_over or "manual axes" not in str(error):
                raise
            # What is closed over was traced apart from a similarity that differs by device.
            raise ArgumentError(
                "temperature",
                "found a function that closes over traced values, inside a shard_map; allowed: a "
                "Temperature of your own, a pytree class with these values as leaves (as at the "
                "top of dystress_jax.temperatures), or check_vma=False for the shard_map.",
            ) from error


T = TypeVar("T", bound=Temperature)


@overload
def as_temperature(temperature: T) -> T: ...
@overload
def as_temperature(temperature: NumberLike) -> Constant | PerAnchor: ...
@overload
def as_temperature(temperature: TemperatureLike) -> Temperature: ...
def as_temperature(temperature: TemperatureLike) -> Temperature:
    """Returns the Temperature that a float, an array [n], a function or a Temperature stands for.

    Args:
        temperature: a float or scalar array (`constant`), an array [n] (`per_anchor`), an
            elementwise function of the similarity, or a Temperature, which is returned as it is.
            What holds an array, such as an `nnx.Param`, counts as the array.
            A function may close over traced values, such as a parameter to learn. Inside a
            `shard_map` of your own (not that of `losses.on_mesh`) write such a one as a
            Temperature, or pass check_vma=False to the `shard_map`.

    Returns:
        The temperature.

    Raises:
        ArgumentError: when a float or array is <= 0, an array has more than one axis, or a function
            cannot be traced, such as one with a Python `if`.
        TypeError: when it is none of these (a bool is none), or a Temperature that is no pytree.

    Example:
        >>> as_temperature(0.1)
        Constant(tau=0.1)
        >>> as_temperature(lambda s: 0.1 + 0.1 * s**2)(jnp.array([0.0, 1.0]))
        Array([0.1, 0.2], dtype=float32)
    """
    temperature = array_of(temperature)
    if isinstance(temperature, bool) or getattr(temperature, "dtype", None) == np.bool_:
        raise TypeError("temperature must be a number; found a bool.")
    if isinstance(temperature, Temperature):
        if jax.tree_util.all_leaves([temperature]):
            raise TypeError(
                f"temperature: {type(temperature).__name__} is no pytree; write "
                "@jax.tree_util.register_dataclass above its @dataclasses.dataclass(frozen=True)."
            )
        return temperature
    if _is_schedule(temperature):
        raise TypeError(
            "temperature: found a schedule, a function of the step; allowed: a function of the "
            "similarity. With schemes.scheduled(temperatures.constant, tau=schedule) it is a "
            "scheme, whose `resolve` gives the temperature of each step."
        )
    if callable(temperature):
        # A custom derivative cannot reach what a function closes over: hand it over as leaves.
        scalar = jnp.zeros(())
        traced = _traced(temperature, scalar)
        if concrete(*traced.consts):
            return Function((), temperature, scalar.dtype)
        return Function(
            tuple(traced.consts), functools.partial(_replay, traced.jaxpr), scalar.dtype
        )
    if isinstance(temperature, float | int | np.number | np.ndarray | Array):
        if np.iscomplexobj(temperature):
            raise TypeError("temperature must be real; found complex numbers.")
        return per_anchor(temperature) if jnp.ndim(temperature) else constant(temperature)
    hint = ""
    if hasattr(temperature, "resolve"):
        hint = " Of a scheme give what `scheme.resolve(state, inputs)` returns in this step."
    raise TypeError(
        "temperature must be a float, an array with one entry per anchor, a Temperature or an "
        f"elementwise function of the similarity; found {type(temperature).__name__}.{hint}"
    )


def _is_schedule(temperature: Any) -> bool:
    """Whether it is a function of the step, by where it comes from: of optax or of ours."""
    home = getattr(temperature, "__module__", None) or ""
    return callable(temperature) and home.startswith(("optax.", "dystress_jax.schemes."))


def _traced(function: Callable, similarity: Float[Array, ""]) -> ClosedJaxpr:
    def tau(similarity):
        tau = function(similarity)
        if isinstance(tau, Temperature):
            raise TypeError(
                f"temperature returned a {type(tau).__name__}: give what it returns, called with "
                "its numbers, and not the function that makes it."
            )
        return tau

    with _written_in_jax(), _without_mesh():
        return jax.make_jaxpr(tau)(similarity)


@contextlib.contextmanager
def _without_mesh() -> Iterator[None]:
    """Under `jax.set_mesh` a program holds the mesh that it was traced for, and fits no other.

    A loss replays it inside a shard_map, whose axes are of another kind.
    """
    axes = jax.sharding.get_abstract_mesh().axis_types
    if not axes or AxisType.Manual in axes:  # none, or a shard_map of the user's own
        yield
        return
    nowhere = jax.sharding.AbstractMesh((), ())
    with jax.sharding.use_abstract_mesh(nowhere), jax.disable_jit():  # each jit holds it too
        yield


def _replay(function: Jaxpr, similarity: Float[Array, ""], *closed_over: Array) -> Array:
    return eval_jaxpr(function, closed_over, similarity)[0]


def check_elementwise(temperature: Temperature) -> None:
    """Refuses a temperature whose tau has another shape than the similarities.

    Strategies call it with rows, tiles and whole matrices of similarities: what has entries of its
    own for the rows or columns of one of them would be wrong in the others.
    """
    positives, negatives = temperature.for_positives, temperature.for_negatives
    for part in (positives,) if positives is negatives else (positives, negatives):
        rows = jnp.shape(jax.tree.leaves(part)[0])[0] if part.is_per_anchor else 1
        shapes = (rows,), (rows, 1)
        for shape, found in zip(shapes, _shapes_of_tau(part, shapes), strict=True):
            if found not in ((), shape):
                raise ArgumentError(
                    "temperature",
                    f"found one whose tau has shape {found} for similarities of shape {shape}; "
                    "allowed: the same shape, as tau depends on each similarity alone and the "
                    "numbers of a temperature are scalars. One tau for each anchor is an array [n] "
                    "as `temperature`, or a pytree class with is_per_anchor, in which a leaf t "
                    "[n] counts as t.reshape(-1, *[1] * (s.ndim - 1)) beside similarities s.",
                )


def _shapes_of_tau(part: Temperature, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    similarities = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    # Shapes alone matter here, and wrong ones should come out.
    of_types, of_ranks = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with _written_in_jax(), of_types, of_ranks:
        tau = jax.eval_shape(lambda *similarities: [*map(part, similarities)], *similarities)
    return jax.tree.map(lambda x: x.shape, tau)


@contextlib.contextmanager
def _written_in_jax() -> Iterator[None]:
    """Says in words that a temperature cannot be traced."""
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise ArgumentError(
            "temperature",
            "found one that needs to see numbers, as a Python `if` and NumPy do; allowed: one "
            "written with jax.numpy. jnp.where takes the place of `if`.",
        ) from error
