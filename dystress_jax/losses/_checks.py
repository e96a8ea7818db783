"""What is refused of the arguments of a loss, with what was found and what is allowed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from ..errors import ArgumentError, check_same_shape
from ..similarities import Similarity
from ..temperatures import (
    PerAnchor,
    Temperature,
    TemperatureLike,
    array_of,
    as_temperature,
    concrete,
)
from ._sharded import AxisName
from ._strategies import axis_size


def as_given(temperature: TemperatureLike) -> Temperature:
    """The temperature, while nobody has looked at the numbers of an array with one per anchor."""
    found = array_of(temperature)
    if isinstance(found, np.ndarray | Array) and jnp.ndim(found) == 1 and not is_bool(found):
        return PerAnchor(jnp.asarray(found))
    return as_temperature(temperature)


def check_array(name: str, x: object) -> None:
    """Refuses what only looks like an array."""
    if x is None or isinstance(x, list | tuple | dict | str):
        raise ArgumentError(
            name, f"found {'None' if x is None else f'a {type(x).__name__}'}; allowed: an array."
        )


def check_number(name: str, x: ArrayLike) -> None:
    """Refuses what is not one number."""
    check_array(name, x)
    if isinstance(x, Temperature):
        raise ArgumentError(name, f"found a temperature, {x}; allowed: one number.")
    if jnp.ndim(x) != 0:
        raise ArgumentError(name, f"found shape {jnp.shape(x)}; allowed: one number.")


def check_smoothing(value: ArrayLike) -> None:
    """Refuses what is not one number, and concrete ones that are no share."""
    check_number("label_smoothing", value)
    if concrete(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) < 1)):
        raise ArgumentError("label_smoothing", f"found {value}; allowed: in [0, 1).")


def check_not_negative(name: str, x: ArrayLike) -> None:
    """Refuses concrete numbers below 0, and what is no number."""
    if concrete(x) and not np.all(np.asarray(x) >= 0):
        raise ArgumentError(name, f"found {np.min(np.asarray(x))}; allowed: >= 0.")


def check_measure(similarity: Similarity, length: int) -> None:
    """Refuses a measure of another shape than a matrix, which sums would spread in silence."""
    found = jax.eval_shape(similarity.between, jnp.zeros((2, length)), jnp.zeros((3, length)))
    shape = getattr(found, "shape", None)
    if shape != (2, 3):
        raise ArgumentError(
            "similarity",
            f"found the shape {shape} of 2 rows and 3; allowed: a function (a [n d], b [m d]) -> "
            "[n m], here (2, 3).",
        )


def check_closed(similarity: Similarity, length: int) -> None:
    """Refuses a measure that closes over traced values, which a custom derivative cannot reach."""
    point = jnp.zeros((1, length))
    if not concrete(*jax.make_jaxpr(similarity.between)(point, point).consts):
        raise ArgumentError(
            "similarity",
            "found a function that closes over traced values, such as a parameter to learn; "
            "allowed with `strategy` dense only. Or apply the parameter to the embeddings before "
            "the loss.",
        )


def check_rows(name_a: str, a: Array, name_b: str, b: Array) -> None:
    """Refuses what is not floating point [rows, features] with rows of the same length."""
    for name, x in ((name_a, a), (name_b, b)):
        check_array(name, x)
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"{name} must be floating point; found {jnp.result_type(x)}.")
        if jnp.ndim(x) != 2:
            raise ArgumentError(name, f"found shape {jnp.shape(x)}; allowed: [rows, features].")
        length = jnp.shape(x)[1]
        if isinstance(length, int) and length == 0:  # of a symbolic size nobody knows
            raise ArgumentError(name, "found rows of no number; allowed: of at least 1.")
    if jnp.shape(a)[1] != jnp.shape(b)[1]:
        raise ArgumentError(
            name_b,
            f"found shape {jnp.shape(b)}; allowed: rows of the same length as those of `{name_a}`, "
            f"whose shape is {jnp.shape(a)}.",
        )


def check_pairs(name_a: str, a: Array, name_b: str, b: Array, axis_name: AxisName | None) -> None:
    """Refuses what is not two arrays of one shape, for at least two examples on all devices."""
    check_rows(name_a, a, name_b, b)
    check_same_shape(name_a, jnp.shape(a), name_b, jnp.shape(b))
    check_count(name_a, jnp.shape(a)[0], axis_name)


def check_count(name: str, n: int, axis_name: AxisName | None) -> None:
    """Refuses fewer than two rows on all devices together."""
    n *= 1 if axis_name is None else axis_size(axis_name)
    if isinstance(n, int) and n < 2:  # of a symbolic size nobody knows
        raise ArgumentError(name, f"found {n} rows; allowed: at least 2.")


def check_some(name: str, n: int, instead: str = "") -> None:
    """Refuses an array without a row."""
    if isinstance(n, int) and n == 0:  # of a symbolic size nobody knows
        raise ArgumentError(name, f"found 0 rows; allowed: at least 1{instead}.")


def is_bool(x: ArrayLike) -> bool:
    """Whether it says yes or no of each entry."""
    return jnp.issubdtype(jnp.result_type(x), jnp.bool_)


def as_mask(name: str, x: Array | None, n: int, each: str) -> Bool[Array, " n"] | None:
    """Refuses what is not one bool for each example, query or key."""
    if x is None:
        return None
    check_array(name, x)
    if jnp.shape(x) != (n,) or not is_bool(x):
        raise ArgumentError(
            name,
            f"found shape {jnp.shape(x)} of {jnp.result_type(x)}; allowed: {n} bools, False for "
            f"each {each} that only fills up the batch.",
        )
    return jnp.asarray(x)


def as_labels(name: str, x: Any, n: int) -> Array:
    """Refuses what is neither one integer nor a row of bools for each example."""
    check_array(name, x)
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    one_each = shape == (n,) and jnp.issubdtype(dtype, jnp.integer)
    if not one_each and not (len(shape) == 2 and shape[0] == n and is_bool(x)):
        raise ArgumentError(
            name,
            f"found shape {shape} of {dtype}; allowed: {n} integers, one for each example, or "
            f"bools [{n}, classes].",
        )
    return jnp.asarray(x)
