"""The two ways to make a source: of arrays in memory, and of a function that reads one image."""

import concurrent.futures
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt8

from ._captions import Captions
from ._source import UNLABELLED, Source, UnreadableError

MEMORY_BYTES = 2**30  # decoded images of a source that stay in memory


def from_arrays(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"] | None = None,
    *,
    class_names: tuple[str, ...] = (),
    captions: Captions | None = None,
) -> Source:
    """A source in memory; a batch is one indexing operation."""
    known = np.full(len(images), UNLABELLED) if labels is None else labels
    stored = known.astype(np.int32)
    return Source(
        read=lambda rows: (images[rows], stored[rows]),
        index=np.arange(len(images), dtype=np.int32),
        num_stored=len(images),
        image_shape=images.shape[1:],
        class_names=class_names,
        stored_labels=stored,
        captions=captions,
    )


def from_reader(
    read_one: Callable[[int], tuple[UInt8[np.ndarray, "h w c"], int]],
    *,
    length: int,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    labels: Int[np.ndarray, " n"] | None = None,
    captions: Captions | None = None,
) -> Source:
    """A source that reads and decodes one image at a time, on all cores.

    Small data sets stay in memory once decoded, so only the first epoch pays for the decoding.
    """
    # Decoding releases the interpreter lock, so threads are enough.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    kept = math.prod((length, *image_shape)) <= MEMORY_BYTES
    # Pages that are never written cost nothing.
    all_images = np.empty((length if kept else 0, *image_shape), np.uint8)
    all_labels = np.empty(length if kept else 0, np.int32)
    is_read = np.zeros(length if kept else 0, bool)

    def decode(rows, images, labels, into):
        def one(row, at):
            try:
                images[at], labels[at] = read_one(int(row))
            except (ValueError, OSError) as error:
                raise UnreadableError(str(error)) from error

        for _ in pool.map(one, rows, into):
            pass

    def read(rows):
        if kept:
            missing = rows[~is_read[rows]]
            decode(missing, all_images, all_labels, missing)
            is_read[missing] = True
            return all_images[rows], all_labels[rows]
        images = np.empty((len(rows), *image_shape), np.uint8)
        labels = np.empty(len(rows), np.int32)
        decode(rows, images, labels, range(len(rows)))
        return images, labels

    return Source(
        read=read,
        index=np.arange(length, dtype=np.int32),
        num_stored=length,
        image_shape=image_shape,
        class_names=class_names,
        stored_labels=None if labels is None else labels.astype(np.int32),
        captions=captions,
    )


def find_unreadable(source: Source) -> dict[int, str]:
    """What is wrong with the examples that cannot be read, by position; reads every image once."""

    def fault(row: int) -> str:
        try:
            source.gather(np.array([row]))
        except ValueError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return {row: what for row, what in enumerate(pool.map(fault, range(len(source)))) if what}
