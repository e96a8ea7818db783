"""A number that tells whether arrays came back as they were saved."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

PyTree = Any


@jax.jit
def fingerprint(tree: PyTree) -> UInt32[Array, ""]:
    """A number that changes when any one 32-bit word of a tree does.

    Each leaf's words are summed with odd weights modulo 2^32; odd numbers are invertible there, so
    no change of a single word can cancel.

    Args:
        tree: arrays of any shape and type, keys too.

    Example:
        >>> a = fingerprint({"w": jnp.ones(3)})
        >>> bool(a == fingerprint({"w": jnp.ones(3).at[1].set(1.0000001)}))
        False
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        width = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
        words = jax.lax.bitcast_convert_type(leaf, width).reshape(-1).astype(jnp.uint32)
        odd = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        total = total * jnp.uint32(0x9E3779B1) + jnp.sum(words * odd, dtype=jnp.uint32)
    return total
