"""How a source is made: of arrays in memory, of a function that reads one image, of files."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from ..errors import ArgumentError
from ._captions import Captions
from ._decoding import decoded
from ._images import read_image, read_whole_image, whole_shape
from ._source import UNLABELLED, Source
from ._stamps import digest

Picture = tuple[UInt8[np.ndarray, "h w c"], int, tuple[int, int]]
Images = Any  # an array [n h w c] of uint8; what else is given is answered in words
Labels = Any  # an array [n] of integers, or a list
CHANNELS = (1, 3)  # of an image


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
        stamp=functools.cache(lambda: f"all pixels {digest([np.ascontiguousarray(images).data])}"),
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
        read_whole = decoded(read_picture, length, picture_shape, classes, (2,))
    return Source(
        read=decoded(read_one, length, image_shape, classes),
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


def _check_captions(captions: Captions | None, count: int) -> None:
    """As many images have captions as there are."""
    if captions is not None and len(captions) != count:
        raise ArgumentError(
            "captions", f"found those of {len(captions)} images; allowed: of all {count} images."
        )
