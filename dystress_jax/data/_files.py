"""Sources of image files that were listed one by one; what is broken is named, or left out."""

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._captions import Captions
from ._holdout import split_holdout
from ._images import look_at_all, read_image
from ._source import Source
from ._stored import find_unreadable, from_reader


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
    """The files of a split, and what was wrong with others: (line, words)."""

    files: Sequence[File]
    faults: Sequence[tuple[int, str]] = ()


def open_files(
    parts: dict[str, Part],
    *,
    field: str,
    class_names: tuple[str, ...],
    image_size: int,
    holdout: float,
    captioned: bool,
    on_error: str,
) -> dict[str, Source]:
    """Sources of listed image files.

    With ``on_error="raise"`` the first fault that can be known without decoding raises here, and a
    file that only turns out to be broken when it is decoded raises then, with the same words. With
    "skip" every image is decoded once, here, so that what there is to train on never changes
    afterwards; what cannot be used is left out and told in ``Source.skipped``.

    Args:
        parts: the listed files; without a test part there is no test split.
        field: the setting that faults are reported under.
        class_names: of the labels.
        image_size: as in `open_splits`.
        holdout: as in `open_splits`.
        captioned: whether the files have captions; then every header is looked at here, since a
            file that someone wrote down is more often missing than one that was found.
        on_error: "raise" or "skip".
    """
    skip = on_error == "skip"
    image_shape = (image_size, image_size, 3)
    if captioned or skip or not image_size:
        looked = {split: _look(part, upright=not image_size) for split, part in parts.items()}
        parts = {split: part for split, (part, _) in looked.items()}
        if not skip:
            _refuse(field, parts)
        if not image_size:
            image_shape = _common_shape(
                [file.path for part in parts.values() for file in part.files],
                [size for _, sizes in looked.values() for size in sizes],
            )

    def as_source(part: Part) -> Source:
        files = part.files
        labels = np.array([file.label for file in files], np.int32)

        def read_one(row: int):
            try:
                return read_image(files[row].path, image_size), int(labels[row])
            except ValueError as error:
                raise ValueError(f"{files[row].place}{error}") from error

        source = from_reader(
            read_one,
            length=len(files),
            image_shape=image_shape,
            class_names=class_names,
            labels=labels,
            captions=Captions.of(file.captions for file in files) if captioned else None,
        )
        return _leave_out(source, part) if skip else source

    sources = {split: as_source(part) for split, part in parts.items()}
    for split, source in sources.items():
        if not len(source):
            why = f"; the first: {source.skipped[0]}" if source.skipped else ""
            raise ValueError(f"{field}: there are no {split} images that can be used{why}")
    train = split_holdout(sources.pop("train"), holdout)
    if "holdout" in train:  # what was left out is told once, with train
        train["holdout"] = dataclasses.replace(train["holdout"], skipped=())
    return train | sources


def _look(part: Part, upright: bool) -> tuple[Part, list[tuple[int, int]]]:
    """The files whose headers can be read, with their sizes, and one fault more for each other."""
    files, sizes, faults = [], [], list(part.faults)
    found = look_at_all([file.path for file in part.files], upright=upright)
    for file, size in zip(part.files, found, strict=True):
        if not isinstance(size, ValueError):
            files.append(file)
            sizes.append(size)
        elif os.path.isfile(file.path.replace("\0", "?")):
            faults.append((file.line, f"{file.place}{size}"))
        else:
            faults.append((file.line, f"{file.place}there is no image {file.path!r}"))
    return Part(files, sorted(faults)), sizes


def _refuse(field: str, parts: dict[str, Part]) -> None:
    """Raise for the first fault, if there is any."""
    faults = [words for part in parts.values() for _, words in part.faults]
    if faults:
        others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(
            f"{field}: {faults[0]}{others}. data.on_error=skip leaves out what cannot be used"
        )


def _leave_out(source: Source, part: Part) -> Source:
    """Decode every image, and keep those that can be."""
    broken = find_unreadable(source)
    faults = [*part.faults, *((part.files[row].line, what) for row, what in broken.items())]
    good = np.setdiff1d(np.arange(len(source)), list(broken))
    skipped = tuple(words for _, words in sorted(faults))
    return dataclasses.replace(source.take(good), skipped=skipped)


def _common_shape(paths: Sequence[str], sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """The one shape of all these images."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"data.image_size is 0, but the images have several sizes: {paths[0]} is "
                f"{sizes[0][0]} x {sizes[0][1]}, {path} is {size[0]} x {size[1]}; set it to the "
                "side that all are brought to"
            )
    height, width = sizes[0] if sizes else (0, 0)
    return height, width, 3
