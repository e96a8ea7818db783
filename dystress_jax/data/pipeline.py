"""Batches of a source through grain: shuffled, divided among the processes, resumable."""

import functools
import sys

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import ArgumentError
from ._source import UNLABELLED, Batch, Source

THREADS = 2  # that load padded batches ahead


class PaddedBatch(Batch):
    """A batch whose last rows may be padding: there `mask` is False."""

    mask: Bool[np.ndarray, " b"]


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Shuffled batches without end, of whole pictures where the source has them.

    Every epoch visits the source in another order, which depends on `seed` and the epoch alone. The
    last examples of an epoch that fill no batch are left out. The batch of all processes together
    does not depend on their number: process p of P loads its rows [p b / P, (p + 1) b / P).

    If an image has several captions, each epoch uses one of them. Which one depends on `seed`, the
    epoch and the image's index alone.

    The iterator's `get_state()` is a small dict that fits in JSON. `set_state()` goes on with
    exactly the next batch, also in the middle of an epoch, and also if more was read ahead.

    Args:
        source: at least `batch_size` examples.
        batch_size: of all processes together, b; a multiple of `process_count`.
        seed: >= 0.
        threads: that load batches ahead, >= 0; 0 = load when asked.
        process_index: p, in [0, P).
        process_count: P, >= 1.

    Returns:
        An iterator of this process's `Batch`, b / P rows each.

    Raises:
        ArgumentError: the source is smaller than a batch, or the processes cannot share a batch.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["train"]
        >>> iterator = data.batches(source, batch_size=256, seed=0)
        >>> batch = next(iterator)
        >>> batch["image"].shape, batch["image"].dtype, batch["label"].shape
        ((256, 32, 32, 3), dtype('uint8'), (256,))
        >>> iterator.get_state()
        {'next_index': 1}
    """
    mine = _rows_of_process(batch_size, process_index, process_count)
    if len(source) < batch_size:
        raise ArgumentError(
            "batch_size",
            f"found {batch_size}, but there are only {len(source)} images to fill a batch; "
            f"allowed: at most {len(source)}.",
        )
    if seed < 0:
        raise ArgumentError("seed", f"found {seed}; allowed: 0 or more.")
    per_epoch = len(source) // batch_size

    def generator(*entropy: int) -> np.random.RandomState:
        # Of NumPy's generators, only this one's stream is the same in all versions.
        return np.random.RandomState(np.random.SeedSequence(entropy).generate_state(4))

    # Whole batches of rows: grain's own shuffle and batch cost 12 microseconds an image.
    @functools.lru_cache(maxsize=2)  # threads may be in two epochs at once
    def order(epoch: int) -> Int[np.ndarray, " n"]:
        return generator(seed, epoch).permutation(len(source))

    chooses = source.captions is not None and source.captions.several

    @functools.lru_cache(maxsize=2)
    def draws(epoch: int) -> Float[np.ndarray, " stored"]:
        return generator(seed, epoch, 1).random_sample(source.num_stored)

    def load(step: int) -> Batch:
        epoch, number = divmod(step, per_epoch)
        rows = order(epoch)[number * batch_size : (number + 1) * batch_size][mine]
        draw = draws(epoch)[source.index[rows]] if chooses else None
        return source.gather(rows, draw, whole=True)

    return _read_ahead(grain.MapDataset.range(sys.maxsize).map(load), threads)


def padded_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[PaddedBatch]:
    """Every example once, in order, in batches that all have the same size.

    The rows of the last batch that no example fills have `mask` False; there images are black,
    labels and indices -1, tokens 0. If an image has several captions, the first is used.

    Args:
        source: any number of examples.
        batch_size: of all processes together, b; a multiple of `process_count`.
        process_index: p, in [0, P).
        process_count: P, >= 1.

    Returns:
        An iterator of this process's `PaddedBatch`, b / P rows each; as many on every process.

    Raises:
        ArgumentError: the processes cannot share a batch.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> found = list(data.padded_batches(source, batch_size=1024))
        >>> len(source), [int(batch["mask"].sum()) for batch in found]
        (1563, [1024, 539])
    """
    mine = _rows_of_process(batch_size, process_index, process_count)

    def load(number: int) -> PaddedBatch:
        rows = np.arange(number * batch_size, (number + 1) * batch_size)[mine]
        mask = rows < len(source)
        batch = source.gather(rows[mask])
        missing = len(rows) - int(mask.sum())
        black = np.zeros((missing, *source.image_shape), np.uint8)
        nothing = np.full(missing, UNLABELLED, np.int32)
        padded: PaddedBatch = {
            "image": np.concatenate([batch["image"], black]),
            "label": np.concatenate([batch["label"], nothing]),
            "index": np.concatenate([batch["index"], nothing]),
            "mask": mask,
        }
        if "tokens" in batch:
            padded["tokens"] = np.pad(batch["tokens"], [(0, missing), (0, 0)])
        return padded

    count = -(-len(source) // batch_size)
    return _read_ahead(grain.MapDataset.range(count).map(load), THREADS)


def _rows_of_process(batch_size: int, process_index: int, process_count: int) -> slice:
    """This process's rows of a batch of all processes."""
    if not 0 <= process_index < process_count:
        raise ArgumentError(
            "process_index", f"found {process_index}; allowed: 0 to {process_count - 1}."
        )
    if batch_size < 1 or batch_size % process_count:
        raise ArgumentError(
            "batch_size",
            f"found {batch_size}; allowed: a multiple of the {process_count} processes.",
        )
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


def _read_ahead(dataset: grain.MapDataset, threads: int) -> grain.DatasetIterator:
    """Iterate with this many threads, two batches a thread ahead."""
    if threads < 0:
        raise ArgumentError("threads", f"found {threads}; allowed: 0 or more.")
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))
