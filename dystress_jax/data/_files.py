"""Sources of image files that were listed before; a broken file is named, or left out."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import ArgumentError
from ._captions import Captions
from ._holdout import split_holdout
from ._images import common_shape, look_at_all
from ._paths import looks_like
from ._source import Source
from ._stamps import stamp_of_files
from ._stored import from_files
from ._unreadable import find_unreadable


class File(NamedTuple):
    """One image file.

    Attributes:
        path: where it is.
        label: -1 = none.
        captions: what is said about it.
        line: of the caption file, 0 = there is none.
        place: the caption file and the line, in words, to begin a message with.
    """

    path: str
    label: int
    captions: tuple[str, ...] = ()
    line: int = 0
    place: str = ""


class Part(NamedTuple):
    """The files of a split, and what is wrong with others: (line, words)."""

    files: Sequence[File]
    faults: Sequence[tuple[int, str]] = ()


def open_files(
    parts: dict[str, Part],
    *,
    argument: str,
    class_names: tuple[str, ...],
    image_size: int,
    whole: bool,
    holdout: float,
    captioned: bool,
    on_error: str,
) -> dict[str, Source]:
    """Sources of listed image files.

    With "raise", the first fault that can be seen without decoding raises here. A file whose fault
    shows only when it is decoded raises then, in the same words. With "skip", every image is
    decoded once, here, so that the training images never change afterwards. What cannot be used
    is left out and told in `Source.skipped`.

    Args:
        parts: the listed files; without a test part there is no test split.
        argument: the argument that faults are reported under.
        class_names: of the labels.
        image_size: side of the square that every image is brought to; 0 = as stored.
        whole: whether training sees whole pictures.
        holdout: share of the training images that is kept out, in [0, 1).
        captioned: whether the files have captions. Then every header is looked at here, since a
            file that someone wrote down is more often missing than one that was found.
        on_error: "raise" or "skip".
    """
    skip = on_error == "skip"
    image_shape = (image_size, image_size, 3)
    looked: dict[str, tuple[Part, list[tuple[int, int]]]] = {}
    if captioned or skip or not image_size:
        looked = {split: _look(part, upright=not image_size) for split, part in parts.items()}
        parts = {split: part for split, (part, _) in looked.items()}
    if not skip:
        _refuse(argument, parts)
    if not image_size:
        image_shape = common_shape(
            [file.path for part in parts.values() for file in part.files],
            [size for _, sizes in looked.values() for size in sizes],
        )

    def as_source(part: Part) -> Source:
        files = part.files
        labels = np.array([file.label for file in files], np.int32)
        paths = tuple(file.path for file in files)
        source = from_files(
            lambda row: paths[row],
            labels,
            place=lambda row: files[row].place,
            image_size=image_size,
            image_shape=image_shape,
            whole=whole,
            class_names=class_names,
            captions=Captions.of(file.captions for file in files) if captioned else None,
            stamp=functools.cache(lambda: stamp_of_files(paths)),
        )
        source = dataclasses.replace(source, paths=paths)
        return _leave_out(source, part) if skip else source

    sources = {split: as_source(part) for split, part in parts.items()}
    for split, source in sources.items():
        if not len(source):
            why = f"; the first fault: {source.skipped[0]}" if source.skipped else ""
            raise ArgumentError(argument, f"there are no {split} images that can be used{why}.")
    return split_holdout(sources.pop("train"), holdout) | sources


def _look(part: Part, upright: bool) -> tuple[Part, list[tuple[int, int]]]:
    """The files whose headers can be read, with their sizes; each other file is one fault more."""
    files, sizes, faults = [], [], list(part.faults)
    found = look_at_all([file.path for file in part.files], upright=upright)
    for file, size in zip(part.files, found, strict=True):
        if not isinstance(size, ValueError):
            files.append(file)
            sizes.append(size)
            continue
        path = file.path.replace("\0", "?")
        what = f"{size}"
        if os.path.isdir(path) or not os.path.exists(path):
            what = f"there is no image {file.path!r}{looks_like(file.path)}"
        faults.append((file.line, f"{file.place}{what}"))
    return Part(files, sorted(faults)), sizes


def _refuse(argument: str, parts: dict[str, Part]) -> None:
    """Raise for the first fault, if there is any."""
    faults = [words for part in parts.values() for _, words in part.faults]
    if faults:
        others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ArgumentError(
            argument, f"{faults[0]}{others}. `on_error`=skip leaves out what cannot be used."
        )


def _leave_out(source: Source, part: Part) -> Source:
    """Decode every image, and keep those that can be decoded."""
    broken = find_unreadable(source)
    faults = [*part.faults, *((part.files[row].line, what) for row, what in broken.items())]
    good = np.setdiff1d(np.arange(len(source)), list(broken))
    skipped = tuple(words for _, words in sorted(faults))
    return dataclasses.replace(source.take(good), skipped=skipped)
