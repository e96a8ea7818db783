"""Images that a person has at hand, arrays or files of any size, as one array."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ..errors import ArgumentError
from ._images import fit_array, in_gray, read_image
from ._source import Source, UnreadableError

Given = Any  # an array [n h w c] of uint8, or a sequence of paths and arrays [h w c]


def as_images(given: Given, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """Bring images of any size to one shape, as the sources do when they open a data set.

    The shorter side, in proportion to the shape, is resized; then the centre is kept.

    Args:
        given: uint8 images [n h w c], or a sequence of paths and of uint8 images [h w c], each of
            its own size. Files may have any mode; arrays have the channels of `shape`.
        shape: (h, w, c) of what comes back; c is 1 or 3, or that of arrays of this size.

    Raises:
        ArgumentError: it is something else, or has other channels.
        UnreadableError: a file is no image.

    Example:
        >>> as_images(np.zeros((2, 40, 60, 3), np.uint8), (32, 32, 3)).shape
        (2, 32, 32, 3)
    """
    if isinstance(given, str | pathlib.Path | bytes):
        raise ArgumentError("images", f"found {given!r}; allowed: a list of paths.")
    if not isinstance(given, Sequence):
        given = _array(given, 4)
        if given.shape[-1] != shape[-1]:
            raise _other_channels(given.shape[1:], shape[-1])
        if given.shape[1:] == shape:
            return given
    if not len(given):
        return np.zeros((0, *shape), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(lambda one: _as_image(one, shape), given)))


def resized(source: Source, shape: tuple[int, int, int]) -> Source:
    """The same images in another shape, as `as_images` brings them to it.

    Args:
        source: images of any size.
        shape: (h, w, c) of the new images; c is that of the source, or 1 where it decodes files.

    Raises:
        ArgumentError: they have other channels.

    Example:
        >>> from dystress_jax import data
        >>> source = data.from_arrays(np.zeros((2, 40, 60, 3), np.uint8))
        >>> data.resized(source, (32, 32, 3))[0]["image"].shape
        (32, 32, 3)
    """
    if source.of_files and shape[-1] == 1:
        source = _in_gray(source)
    if source.image_shape == shape:
        return source
    if source.image_shape[-1] != shape[-1]:
        raise _other_channels(source.image_shape, shape[-1])

    def read(rows):
        images, labels = source.read(rows)
        return as_images(images, shape), labels

    return dataclasses.replace(source, read=read, image_shape=shape)


def _in_gray(source: Source) -> Source:
    """The same files with one channel, as `as_images` decodes them for it."""
    height, width, channels = source.image_shape
    if channels == 1:
        return source
    read_rgb, read_whole_rgb = source.read, source.read_whole

    def read(rows):
        images, labels = read_rgb(rows)
        return in_gray(images), labels

    def read_whole(rows):
        assert read_whole_rgb is not None
        pictures, labels, extents = read_whole_rgb(rows)
        return in_gray(pictures), labels, extents

    return dataclasses.replace(
        source,
        read=read,
        read_whole=None if read_whole_rgb is None else read_whole,
        image_shape=(height, width, 1),
    )


def _other_channels(found: tuple[int, ...], channels: int) -> ArgumentError:
    return ArgumentError(
        "images",
        f"found {found[-1]} channel{'s' * (found[-1] > 1)} in images {list(found)}; allowed: "
        f"{channels}, as the encoder was trained with.",
    )


def _as_image(one: Any, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    height, width, channels = shape
    if isinstance(one, str | os.PathLike):
        try:
            # Of one side a JPEG is decoded as it was for training.
            side = height if height == width else 0
            one = read_image(os.path.expanduser(one), side, gray=channels == 1)
        except ValueError as error:
            raise UnreadableError(str(error)) from error
    one = _array(one, 3)
    if one.shape[-1] != channels:
        raise _other_channels(one.shape, channels)
    if one.shape == shape:
        return one
    if height == width and channels in (1, 3):
        return fit_array(one, height)
    planes = [Image.fromarray(one[..., channel]) for channel in range(channels)]
    size = (width, height)
    fitted = [ImageOps.fit(plane, size, method=Image.Resampling.BICUBIC) for plane in planes]
    return np.stack([np.asarray(plane) for plane in fitted], axis=-1)


def _array(images: Any, rank: int) -> UInt8[np.ndarray, "..."]:
    """An array of uint8 with so many axes.

    Raises:
        ArgumentError: it is none.
    """
    array = np.asarray(images)
    axes = "[n h w c]" if rank == 4 else "[h w c]"
    if array.dtype != np.uint8 or array.ndim != rank or 0 in array.shape[1:]:
        raise ArgumentError(
            "images",
            f"found {array.dtype}{list(array.shape)}; allowed: uint8{axes}, or a list of these and "
            "of paths.",
        )
    return array
