"""Image files in folders: one folder a class, or all together, or named by a caption file."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ArgumentError
from ._files import File, Part, open_files
from ._images import check_image_size
from ._pairs import open_pairs
from ._paths import (
    SUFFIXES,
    composed,
    find_root,
    holds_images,
    is_hidden,
    none_of_the_data,
    part_folders,
    split_of,
)
from ._source import UNLABELLED, Source, in_order
from ._unreadable import check_on_error


class Found(NamedTuple):
    """One image and the class that its sub-folder stands for, "" = none."""

    path: str
    folder: str


class Listed(NamedTuple):
    """What there is in a part: images, faults, and the endings of other files."""

    images: Sequence[Found]
    faults: Sequence[str]
    others: Sequence[str]


def open_folder(
    *,
    path: str,
    captions: str = "",
    outside: bool = False,
    image_size: int = 0,
    whole: bool = True,
    holdout: float = 0.1,
    on_error: str = "raise",
) -> dict[str, Source]:
    """Image files below a folder, in RGB.

    The images of a class are in `train/CLASS` and `test/CLASS`, or all in `CLASS`. With a
    sub-folder `train` (or `training`, in capitals or not), that is the training part, and the first
    of `test`, `testing`, `validation`, `valid`, `dev` and `val` that is there is the test part.
    Without, everything is the training part. Both may be in one more folder, alone in `path`.

    A part is either flat, with all images directly in it and without labels, or it has one
    sub-folder a class; what is deeper below belongs to the class too. One class for all images, or
    one for every image, does not say which images belong together: such a part is unlabelled.

    A link to nowhere, a folder that cannot be read, a second link to one folder and what is called
    like an image but is no regular file are faults. `Source.notes` says which files and folders are
    none of the data: those without an ending of images, and those beside the parts.

    Args:
        path: the folder.
        captions: a .csv, .tsv or .jsonl file that names the images and says what they show, as in
            `open_pairs`; then sub-folders are no classes. It is looked for below `path`, then from
            the current directory. "" = no captions.
        outside: whether a caption file may name images that are not below `path`: by an absolute
            path, by `..`, or by a link.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept. 0 = as stored, which must be one size.
        whole: whether training draws its crops from whole pictures, whose shorter side is reduced
            to `image_size`, and not from their central squares. Pictures longer than 3 : 2 are
            reduced further. Without an `image_size` images are whole anyway.
        holdout: share of the training images that is kept out, [0, 1).
        on_error: "raise" for the first line or file that cannot be used. "skip" leaves it out and
            lists it in `Source.skipped`; for that every image is decoded once here.

    Returns:
        The splits, as `open_splits` has them.

    Raises:
        ArgumentError: the folder or the caption file cannot be used.
    """
    check_image_size(image_size)
    check_on_error(on_error)
    if captions:
        return open_pairs(
            path=path,
            captions=captions,
            outside=outside,
            image_size=image_size,
            whole=whole,
            holdout=holdout,
            on_error=on_error,
        )
    root = find_root(path)
    folders, unused = part_folders(root)
    if unused and "test" not in folders and any(map(holds_images, unused)):
        raise ArgumentError(
            "path",
            f"{folders['train']} would be all training images, beside other folders of images such "
            f"as {unused[0]}; allowed: train/CLASS and test/CLASS, or classes of which none is "
            "called like a split.",
        )
    notes = none_of_the_data(unused)
    listed = {split: _list_images(folder) for split, folder in folders.items()}
    others = collections.Counter(ending for part in listed.values() for ending in part.others)
    if others:
        said = ", ".join(f"{count:,} {ending}" for ending, count in sorted(others.items()))
        notes.append(f"files that are no images by their names: {said}")
    parts = {split: part.images for split, part in listed.items()}
    class_names = _class_names(parts["train"])
    unknown = sorted({file.folder for file in parts.get("test", ())} - {"", *class_names})
    if class_names and unknown:
        raise ArgumentError(
            "path",
            f"the test images of {root} have the class {unknown[0]!r}, which the training images "
            "do not have.",
        )
    number = {name: i for i, name in enumerate(class_names)}
    files = {
        split: [File(file.path, number.get(file.folder, UNLABELLED)) for file in found]
        for split, found in parts.items()
    }
    sources = open_files(
        {
            split: Part(found, [(0, fault) for fault in listed[split].faults])
            for split, found in files.items()
        },
        argument="path",
        class_names=class_names,
        image_size=image_size,
        whole=whole,
        holdout=holdout,
        captioned=False,
        on_error=on_error,
    )
    return sources | {"train": dataclasses.replace(sources["train"], notes=tuple(notes))}


def lies_among_images(path: str, place: pathlib.Path) -> bool:
    """Whether an image that is written at a place would be one of those below a folder.

    Args:
        path: a folder of images, as for `open_folder` without captions.
        place: a file or a directory, which need not be there.

    Raises:
        ArgumentError: there is no such folder, or its parts do not fit together.

    Example:
        >>> from dystress_jax import data
        >>> pathlib.Path("photos/cats").mkdir(parents=True)
        >>> data.lies_among_images("photos", pathlib.Path("photos/runs/first"))
        True
        >>> data.lies_among_images("photos", pathlib.Path("runs/first"))
        False
    """
    parts, _ = part_folders(find_root(path))
    real = pathlib.Path(os.path.realpath(place))
    for folder in map(os.path.realpath, parts.values()):
        if real.is_relative_to(folder):
            below = real.relative_to(folder).parts
            return not any(map(is_hidden, below))  # these are not looked into
    return False


def _list_images(part: pathlib.Path) -> Listed:
    """The images of a part in the order of their names."""
    found: list[Found] = []
    faults: list[str] = []
    others: list[str] = []
    visited: dict[str, str] = {}

    def visit(folder: str, name: str) -> None:
        real = os.path.realpath(folder)
        if real in visited:
            if not pathlib.Path(folder).is_relative_to(visited[real]):  # no link back upwards
                faults.append(f"{folder} is the same folder as {visited[real]}")
            return
        visited[real] = folder
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            faults.append(f"cannot read the folder {folder}: {error.strerror}")
            return
        for entry in entries:
            if is_hidden(entry.name):
                continue
            is_image = entry.name.lower().endswith(SUFFIXES)
            if entry.is_dir():
                if name and split_of(entry.name) not in ("", "train"):
                    raise ArgumentError(
                        "path",
                        f"{folder} has a folder {entry.name} in it, whose images would be trained "
                        "on; allowed: train/CLASS and test/CLASS.",
                    )
                visit(entry.path, name or composed(entry.name))
            elif entry.is_symlink() and not os.path.exists(entry.path):
                faults.append(f"{entry.path} is a link to nowhere")
            elif is_image and entry.is_file():
                found.append(Found(entry.path, name))
            elif is_image:
                faults.append(f"{entry.path} is no regular file")
            else:
                others.append(os.path.splitext(entry.name)[1].lower() or "without an ending")

    visit(str(part), "")
    found.sort()
    if not found:
        why = f"; the first fault: {faults[0]}" if faults else ""
        raise ArgumentError(
            "path",
            f"there are no images below {part}; looked for files ending in {', '.join(SUFFIXES)}"
            f"{why}.",
        )
    flat = next((file for file in found if not file.folder), None)
    nested = next((file for file in found if file.folder), None)
    if flat and nested:
        raise ArgumentError(
            "path",
            f"{part} has images beside sub-folders of images, for example {flat.path} and "
            f"{nested.path}; allowed: all in sub-folders, one a class, or none.",
        )
    return Listed(found, faults, others)


def _class_names(files: Sequence[Found]) -> tuple[str, ...]:
    """The folders in order; none if they do not say which images belong together."""
    names = in_order(file.folder for file in files)
    return names if 1 < len(names) < len(files) else ()
