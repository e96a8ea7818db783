"""Refuse numbers that are no temperature. What is traced is not known yet, and passes."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..errors import ArgumentError, known
from ._temperature import NumberLike, array_of


def concrete(*values: NumberLike) -> bool:
    """Whether all values are known while a program is traced."""
    return not any(isinstance(array_of(value), Tracer) for value in values)


def numbers(value: NumberLike) -> np.ndarray:
    """Concrete numbers as NumPy sees them."""
    return np.asarray(array_of(value))


def as_floats(similarity: Array | float) -> Array:
    """Similarities that are whole numbers, or no array, as floats."""
    floats = jnp.asarray(similarity)
    return floats if jnp.issubdtype(floats.dtype, jnp.inexact) else floats.astype(float)


def check_positive(argument: str, value: NumberLike) -> None:
    """Refuses a concrete number that is not > 0; traced ones pass."""
    if concrete(value) and not np.all(numbers(value) > 0):
        raise ArgumentError(argument, f"found {value}; allowed: > 0.")


def check_range(tau_min: NumberLike, tau_max: NumberLike) -> None:
    """Refuses concrete numbers unless 0 < tau_min <= tau_max; traced ones pass."""
    check_positive("tau_min", tau_min)
    if concrete(tau_min, tau_max) and np.any(numbers(tau_min) > numbers(tau_max)):
        raise ArgumentError("tau_min", f"found {tau_min}; allowed: <= `tau_max` = {tau_max}.")


def check_scales(min_scale: float, max_scale: float) -> tuple[float, float]:
    """Returns both numbers, and refuses what are no limits of 1 / tau."""
    min_scale, max_scale = known(min_scale=min_scale, max_scale=max_scale)
    check_positive("min_scale", min_scale)
    if not min_scale < max_scale:
        raise ArgumentError(
            "max_scale",
            f"found {max_scale}; allowed: more than `min_scale` = {min_scale}, they are the limits "
            "of 1 / tau.",
        )
    return min_scale, max_scale
