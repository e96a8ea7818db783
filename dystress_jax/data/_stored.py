"""How a source is made: of arrays in memory, of a function that reads one image, of files."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from ..errors import ArgumentError
from ._captions import Captions
from ._images import read_image, read_whole_image, whole_shape
from ._source import UNLABELLED, Source, UnreadableError

Picture = tuple[UInt8[np.ndarray, "h w c"], int, tuple[int, int]]
MEMORY_BYTES = 2**30  # decoded images of a source that stay in memory


def from_arrays(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"] | None = None,
    *,
    class_names: tuple[str, ...] = (),
    captions: Captions | None = None,
) -> Source:
    """A source of images in memory; a batch is one indexing operation.

    Args:
        images: with 1 or 3 channels.
        labels: numbers of classes, -1 = unlabelled; None = no image has a label.
        class_names: one name a class, in the order of the labels; empty without labels.
        captions: what is said about each image; None = nothing.

    Raises:
        ArgumentError: labels without class names, or captions of another number of images.

    Example:
        >>> from dystress_jax import data
        >>> images, labels = np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, -1])
        >>> source = data.from_arrays(images, labels, class_names=("cat", "dog"))
        >>> len(source), source.num_classes, source.image_shape
        (3, 2, (8, 8, 3))
    """
    known = np.full(len(images), UNLABELLED) if labels is None else labels
    stored = known.astype(np.int32)
    _check_labels(stored, class_names)
    _check_captions(captions, len(images))
    return Source(
        read=lambda rows: (images[rows], stored[rows]),
        index=np.arange(len(images), dtype=np.int32),
        num_stored=len(images),
        image_shape=images.shape[1:],
        class_names=class_names,
        stored_labels=stored,
        captions=captions,
        stamp=functools.cache(lambda: f"all pixels {_digest([np.ascontiguousarray(images).data])}"),
    )


def from_reader(
    read_one: Callable[[int], tuple[UInt8[np.ndarray, "h w c"], int]],
    *,
    length: int,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...] = (),
    labels: Int[np.ndarray, " n"] | None = None,
    captions: Captions | None = None,
    read_picture: Callable[[int], Picture] | None = None,
    picture_shape: tuple[int, int, int] = (0, 0, 0),
) -> Source:
    """A source that reads and decodes one image at a time, on all cores.

    If all decoded images take at most 1 GiB, they stay in memory. Then only the first epoch pays
    for the decoding.

    Args:
        read_one: `row in [0, n) -> (image, label)`, label -1 = unlabelled. It is called from
            several threads at once. Its ValueError or OSError says that the image cannot be read.
        length: how many images there are, n, at least 1.
        image_shape: `(h, w, c)` of every image.
        class_names: one name a class, in the order of the labels; empty without labels.
        labels: the same labels as those of `read_one`, if they are known before an image is read;
            then nobody reads images for their labels.
        captions: what is said about each image; None = nothing.
        read_picture: `row -> (array, label, (height, width))`: the whole picture, in the top left
            corner of the array; None = `read_one` gives all there is.
        picture_shape: of these arrays.

    Raises:
        ArgumentError: labels without class names, or captions of another number of images; when it
            is read: an image of another shape or type.
        UnreadableError: when it is read: an image that cannot be read.

    Example:
        >>> from dystress_jax import data
        >>> def gray(row):
        ...     return np.full((8, 8, 3), row, np.uint8), row % 2
        >>> source = data.from_reader(
        ...     gray, length=5, image_shape=(8, 8, 3), class_names=("even", "odd")
        ... )
        >>> int(source[3]["image"].mean()), int(source[3]["label"])
        (3, 1)
    """
    if labels is not None:
        _check_labels(labels, class_names)
    _check_captions(captions, length)
    read_whole = None
    if read_picture is not None:
        read_whole = _decoded(read_picture, length, picture_shape, (), (2,))
    return Source(
        read=_decoded(read_one, length, image_shape, ()),
        read_whole=read_whole,
        index=np.arange(length, dtype=np.int32),
        num_stored=length,
        image_shape=image_shape,
        class_names=class_names,
        stored_labels=None if labels is None else labels.astype(np.int32),
        captions=captions,
    )


def from_files(
    file: Callable[[int], str | bytes],
    labels: Int[np.ndarray, " n"],
    *,
    place: Callable[[int], str],
    image_size: int,
    image_shape: tuple[int, int, int],
    whole: bool,
    class_names: tuple[str, ...],
    captions: Captions | None,
    stamp: Callable[[], str],
) -> Source:
    """A source of image files, which are decoded as `read_image` and `read_whole_image` do.

    Args:
        file: the path of a row, or the content of its file.
        labels: of all rows, -1 = unlabelled.
        place: of a row, in words, before what is wrong with its image.
        image_size: side of the square that every image is brought to; 0 = as stored.
        image_shape: of every image.
        whole: whether training sees whole pictures; without an `image_size` images are whole.
        class_names: one name a class, in the order of the labels; empty without labels.
        captions: what is said about each image; None = nothing.
        stamp: what is cheap to know of all files.
    """

    def naming(read: Callable[..., Any], row: int) -> Any:
        try:
            return read(file(row), image_size)
        except (ValueError, OSError) as error:
            raise ValueError(f"{place(row)}{error}") from error

    def read_one(row: int):
        return naming(read_image, row), int(labels[row])

    def read_whole(row: int):
        picture, extent = naming(read_whole_image, row)
        return picture, int(labels[row]), extent

    source = from_reader(
        read_one,
        read_picture=read_whole if whole and image_size else None,
        picture_shape=whole_shape(image_shape),
        length=len(labels),
        image_shape=image_shape,
        class_names=class_names,
        labels=labels,
        captions=captions,
    )
    return dataclasses.replace(source, stamp=stamp, of_files=True)


def _decoded(
    read_one: Callable[[int], tuple[Any, ...]],
    length: int,
    image_shape: tuple[int, int, int],
    *numbers: tuple[int, ...],
) -> Callable[[Int[np.ndarray, " n"]], Any]:
    """Many rows of `read_one` at once, on all cores.

    Args:
        read_one: `row -> (image, numbers ...)`.
        length: how many rows there are.
        image_shape: of every image.
        numbers: the shape of each array of integers that follows the image.
    """
    # Decoding releases the interpreter lock, so threads are enough.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    kept = math.prod((length, *image_shape)) <= MEMORY_BYTES

    def empty(count):  # pages that are never written cost nothing
        images = np.empty((count, *image_shape), np.uint8)
        return images, *(np.empty((count, *shape), np.int32) for shape in numbers)

    stored, is_read = empty(length if kept else 0), np.zeros(length if kept else 0, bool)

    def decode(rows, arrays, into):
        def one(row, at):
            try:
                values = read_one(int(row))
            except (ValueError, OSError) as error:
                raise UnreadableError(str(error)) from error
            image = values[0]
            if image.shape != image_shape or image.dtype != np.uint8:
                raise ArgumentError(
                    "read_one",
                    f"image {row} is {image.dtype} {list(image.shape)}; allowed: uint8 "
                    f"{list(image_shape)}.",
                )
            for array, value in zip(arrays, values, strict=True):
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


def stamp_of_files(paths: Sequence[str | os.PathLike]) -> str:
    """The names and sizes of all files; not their times, which a copy of the data has anew."""
    sizes = sizes_of_files(paths)
    said = (f"{os.path.basename(path)}\0{size}\0" for path, size in zip(paths, sizes, strict=True))
    return f"file sizes {_digest(line.encode(errors='surrogateescape') for line in said)}"


def sizes_of_files(paths: Sequence[str | os.PathLike]) -> list[int]:
    """How many bytes each file has; -1 where there is none.

    Args:
        paths: of the files.

    Example:
        >>> from dystress_jax import data
        >>> data.sizes_of_files(["nowhere.png"])
        [-1]
    """

    def size(path: str | os.PathLike) -> int:
        try:
            return os.stat(path).st_size
        except (OSError, ValueError):
            return -1

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(size, paths))


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    content = hashlib.sha256()
    for part in parts:
        content.update(part)
    return content.hexdigest()[:12]


def _check_labels(labels: Int[np.ndarray, " n"], class_names: tuple[str, ...]) -> None:
    """Every label is the number of a class, or -1."""
    wrong = labels[(labels < UNLABELLED) | (labels >= len(class_names))]
    if len(wrong):
        raise ArgumentError(
            "labels",
            f"found {wrong[0]} with {len(class_names)} `class_names`; allowed: -1 for unlabelled, "
            "or the number of a class, from 0.",
        )


def _check_captions(captions: Captions | None, count: int) -> None:
    """As many images have captions as there are."""
    if captions is not None and len(captions) != count:
        raise ArgumentError(
            "captions", f"found those of {len(captions)} images; allowed: of all {count} images."
        )


ON_ERROR = ("raise", "skip")


def check_on_error(on_error: str) -> None:
    """Refuse what says neither to stop at an image that cannot be read nor to leave it out."""
    if on_error not in ON_ERROR:
        raise ArgumentError("on_error", f"found {on_error!r}; allowed: {', '.join(ON_ERROR)}.")


def leave_out_unreadable(source: Source) -> Source:
    """Decode every image once, and keep those that can be read; the others are in `skipped`."""
    broken = find_unreadable(source)
    good = np.setdiff1d(np.arange(len(source)), list(broken))
    if not len(good):
        raise ArgumentError("path", f"no image can be read; the first fault: {broken[0]}.")
    return dataclasses.replace(source.take(good), skipped=tuple(broken.values()))


def find_unreadable(source: Source) -> dict[int, str]:
    """What is wrong with each example that cannot be read, by position; reads every image once."""

    def fault(row: int) -> str:
        try:
            source.gather(np.array([row]))
        except ValueError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return {row: what for row, what in enumerate(pool.map(fault, range(len(source)))) if what}
