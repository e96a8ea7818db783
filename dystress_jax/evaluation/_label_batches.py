"""Batches to learn labels from, split over the devices."""

from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from .. import data, sharding


def label_batches(
    source: data.Source, *, batch_size: int, seed: int, mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Images with their labels, without an end.

    Whoever takes a step with each should wait for the step before: steps that nobody waits for
    pile up, and several CPU devices then wait for each other.
    """
    batches = data.batches(
        source,
        batch_size=batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in batches:
        shown = {k: v for k, v in batch.items() if k in ("image", "extent", "label")}
        yield sharding.shard_batch(shown, mesh)
