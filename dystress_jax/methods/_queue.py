"""Embeddings of earlier batches, of which each new batch replaces the oldest."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Shaped

from ..errors import ArgumentError, at_least_one
from ..similarities import normalize

Memory = dict[str, Any]


def new_queue(key: PRNGKeyArray, *, size: int, width: int) -> Memory:
    """A queue of random directions.

    Args:
        key: randomness of the directions.
        size: embeddings in the queue, at least 1.
        width: of an embedding, at least 1.

    Returns:
        `queue` [size width], whose rows have length 1, and `position`, the row of the oldest.
    """
    queue = normalize(jax.random.normal(key, (size, width), jnp.float32))
    return {"queue": queue, "position": jnp.int32(0)}


def push(memory: Memory, **newest: Shaped[Array, "n ..."]) -> Memory:
    """The memory with a batch in place of its oldest rows.

    Args:
        memory: as `new_queue` makes it; it may hold further arrays with a row for each embedding.
        **newest: the new rows of each of these arrays, by name; n divides the size of the queue.
    """
    position, size = memory["position"], len(memory["queue"])
    replace = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
        old, new.astype(old.dtype), position, axis=0
    )
    replaced = {name: replace(memory[name], rows) for name, rows in newest.items()}
    return {**memory, **replaced, "position": (position + len(newest["queue"])) % size}


def check_queue(queue_size: int, batch_size: int) -> None:
    """Refuse a queue of which a batch cannot replace the oldest part.

    Args:
        queue_size: embeddings in the queue, at least 1.
        batch_size: embeddings that a step puts into it, at least 1.

    Raises:
        ArgumentError: with the nearest sizes that work.

    Example:
        >>> check_queue(12, 8)
        Traceback (most recent call last):
        dystress_jax.errors.ArgumentError: queue_size: found 12 with `batch_size` 8; allowed: a
        multiple of the batch, which replaces the oldest embeddings, the nearest: 8 or 16.
    """
    at_least_one(queue_size=queue_size)
    if queue_size % batch_size:
        lower = queue_size - queue_size % batch_size
        nearest = " or ".join(str(size) for size in (lower, lower + batch_size) if size)
        raise ArgumentError(
            "queue_size",
            f"found {queue_size} with `batch_size` {batch_size}; allowed: a multiple of the batch, "
            f"which replaces the oldest embeddings, the nearest: {nearest}.",
        )
