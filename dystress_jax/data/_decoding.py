"""Many images of a function that reads one: on all cores, and once where memory holds them."""

import concurrent.futures
import math
import operator
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from ..errors import ArgumentError
from ._source import UNLABELLED, UnreadableError

MEMORY_BYTES = 2**30  # decoded images of a source that stay in memory


def decoded(
    read_one: Callable[[int], tuple[Any, ...]],
    length: int,
    image_shape: tuple[int, int, int],
    classes: int,
    *numbers: tuple[int, ...],
) -> Callable[[Int[np.ndarray, " n"]], Any]:
    """Many rows of `read_one` at once, on all cores.

    Args:
        read_one: `row -> (image, label, numbers ...)`.
        length: how many rows there are.
        image_shape: of every image.
        classes: how many there are; a label is below.
        numbers: the shape of each array of integers that follows the label.
    """
    # Decoding releases the interpreter lock, so threads are enough.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    kept = math.prod((length, *image_shape)) <= MEMORY_BYTES

    def empty(count):  # pages that are never written cost nothing
        images = np.empty((count, *image_shape), np.uint8)
        return images, *(np.empty((count, *shape), np.int32) for shape in ((), *numbers))

    stored, is_read = empty(length if kept else 0), np.zeros(length if kept else 0, bool)

    def decode(rows, arrays, into):
        def one(row, at):
            try:
                values = read_one(int(row))
            except (ValueError, OSError) as error:
                raise UnreadableError(str(error)) from error
            if not isinstance(values, tuple | list) or len(values) != len(arrays):
                raise ArgumentError(
                    "read_one",
                    f"of image {row} it returns {type(values).__name__}; allowed: a tuple, the "
                    "image and its label.",
                )
            image = np.asarray(values[0])
            if image.shape != image_shape or image.dtype != np.uint8:
                raise ArgumentError(
                    "read_one",
                    f"image {row} is {image.dtype} {list(image.shape)}; allowed: uint8 "
                    f"{list(image_shape)}.",
                )
            if not _is_class(values[1], classes):
                raise ArgumentError(
                    "read_one",
                    f"image {row} has the label {values[1]!r} with {classes} `class_names`; "
                    "allowed: -1 for unlabelled, or the number of a class, from 0.",
                )
            for array, value in zip(arrays, (image, *values[1:]), strict=True):
                array[at] = value

        for _ in pool.map(one, rows, into):
            pass

    def read(rows):
        if kept:
            missing = rows[~is_read[rows]]
            decode(missing, stored, missing)
            is_read[missing] = True
            return tuple(array[rows] for array in stored)
        arrays = empty(len(rows))
        decode(rows, arrays, range(len(rows)))
        return arrays

    return read


def _is_class(label: Any, classes: int) -> bool:
    """Whether a label is -1 or the number of a class."""
    try:
        return UNLABELLED <= operator.index(label) < classes
    except TypeError:  # no integer
        return False
