"""Whole numbers in the order of floating-point numbers: to find the k-th of them bit by bit."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32


def ordinals(x: Float[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A number for each, the larger the larger; equal ones, in float32, have the same.

    The bits of a float32 have the order of its absolute value: of positive numbers the bit of the
    sign is set, of negative ones all bits are turned.

    Args:
        x: not NaN.

    Example:
        >>> ordinals(jnp.array([-jnp.inf, -1.0, -0.0, 0.0, 2.0])).argsort()
        Array([0, 1, 2, 3, 4], dtype=int32)
    """
    x = x.astype(jnp.float32)
    x = jnp.where(x == 0, 0.0, x)  # zeros of both signs are equal
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = jnp.uint32(2**31)
    return jnp.where(bits < sign, bits | sign, ~bits)
