"""How a source is made: of arrays in memory, of a function that reads one image, of files."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from ..errors import ArgumentError
from ._captions import Captions
from ._images import read_image, read_whole_image, whole_shape
from ._source import UNLABELLED, Source, UnreadableError

Picture = tuple[UInt8[np.ndarray, "h w c"], int, tuple[int, int]]
Images = Any  # an array [n h w c] of uint8; what else is given is answered in words
Labels = Any  # an array [n] of integers, or a list
CHANNELS = (1, 3)  # of an image
MEMORY_BYTES = 2**30  # decoded images of a source that stay in memory


def from_arrays(
    images: Images,
    labels: Labels | None = None,
    *,
    class_names: Sequence[str] = (),
    captions: Captions | None = None,
) -> Source:
    """A source of images in memory; a batch is one indexing operation.

    Args:
        images: uint8 [n h w c], from 0 to 255, with 1 or 3 channels.
        labels: integers [n], the class of each image, -1 = unlabelled; None = no image has one.
        class_names: one name a class, in the order of the labels; needed with labels.
        captions: what is said about each image; None = nothing.

    Raises:
        ArgumentError: images of another type or shape; labels of another number of images, that are
            no integers, or without class names; captions of another number of images.

    Example:
        >>> from dystress_jax import data
        >>> images, labels = np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, -1])
        >>> source = data.from_arrays(images, labels, class_names=("cat", "dog"))
        >>> len(source), source.num_classes, source.image_shape
        (3, 2, (8, 8, 3))
    """
    images, class_names = np.asarray(images), _checked_names(class_names)
    _check_images(images)
    if labels is None:
        labels = np.full(len(images), UNLABELLED)
    stored = _checked_labels(labels, len(images), class_names)
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
    class_names: Sequence[str] = (),
    labels: Labels | None = None,
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
        image_shape: `(h, w, c)` of every image; c is 1 or 3.
        class_names: one name a class, in the order of the labels; needed with labels.
        labels: integers [n], the same as those of `read_one`, if they are known before an image is
            read; then nobody reads images for their labels.
        captions: what is said about each image; None = nothing.
        read_picture: `row -> (array, label, (height, width))`: the whole picture, in the top left
            corner of the array; None = `read_one` gives all there is.
        picture_shape: of these arrays.

    Raises:
        ArgumentError: another number of channels; labels of another number of images, that are no
            integers, or without class names; captions of another number of images. When it is read:
            an image of another shape or type, or a label that is no class.
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
    class_names = _checked_names(class_names)
    if len(image_shape) != 3 or image_shape[-1] not in CHANNELS:
        raise ArgumentError(
            "image_shape",
            f"found {list(image_shape)}; allowed: height, width and 1 or 3 channels.",
        )
    height, width, channels = image_shape
    image_shape = height, width, channels  # a list would be no image's shape
    stored = None if labels is None else _checked_labels(labels, length, class_names)
    _check_captions(captions, length)
    classes, read_whole = len(class_names), None
    if read_picture is not None:
        read_whole = _decoded(read_picture, length, picture_shape, classes, (2,))
    return Source(
        read=_decoded(read_one, length, image_shape, classes),
        read_whole=read_whole,
        index=np.arange(length, dtype=np.int32),
        num_stored=length,
        image_shape=image_shape,
        class_names=class_names,
        stored_labels=stored,
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
        class_names: one name a class, in the order of the labels; needed with labels.
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


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, as every split has them."""
    names = () if isinstance(class_names, str) else tuple(class_names)
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            "class_names", f"found {class_names!r}; allowed: a tuple of texts, one a class."
        )
    return names


def _check_images(images: np.ndarray) -> None:
    """They are what the views are made of: numbers from 0 to 255, gray or RGB."""
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] in CHANNELS:
        return
    mend = ""
    if np.issubdtype(images.dtype, np.floating):
        mend = " Of numbers in [0, 1] make them by (255 * images).round().astype(np.uint8)."
    elif images.ndim == 3:
        mend = " Gray images get their channel by images[..., None]."
    elif images.ndim == 4 and images.shape[1] in CHANNELS:
        mend = " Channels come last: images.transpose(0, 2, 3, 1)."
    raise ArgumentError(
        "images",
        f"found {images.dtype} {list(images.shape)}; allowed: uint8 [n, height, width, channels] "
        f"with 1 or 3 channels.{mend}",
    )


def _checked_labels(
    labels: Labels, count: int, class_names: tuple[str, ...]
) -> Int32[np.ndarray, " n"]:
    """Labels as they are stored: one an image, each the number of a class or -1."""
    found = np.asarray(labels)
    if found.shape == (0,) == (count,):  # NumPy takes an empty list for floats
        found = found.astype(np.int32)
    if found.shape != (count,) or not np.issubdtype(found.dtype, np.integer):
        raise ArgumentError(
            "labels",
            f"found {found.dtype} {list(found.shape)}; allowed: one integer an image, [{count}].",
        )
    wrong = found[(found < UNLABELLED) | (found >= len(class_names))]
    if len(wrong) and not class_names:
        raise ArgumentError(
            "class_names",
            f"found none, and the label {wrong[0]}; allowed: a name for each class, in the order "
            "of the labels.",
        )
    if len(wrong):
        raise ArgumentError(
            "labels",
            f"found {wrong[0]} with {len(class_names)} `class_names`; allowed: -1 for unlabelled, "
            "or the number of a class, from 0.",
        )
    return found.astype(np.int32)


def _is_class(label: Any, classes: int) -> bool:
    """Whether a label is -1 or the number of a class."""
    try:
        return UNLABELLED <= operator.index(label) < classes
    except TypeError:  # no integer
        return False


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
