"""Image files in folders: one folder a class, or all together, or named by a caption file."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ArgumentError
from ._files import File, Part, find_root, open_files, part_folders
from ._images import check_image_size
from ._pairs import open_pairs
from ._source import UNLABELLED, Source, in_order
from ._stored import check_on_error

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Found(NamedTuple):
    """One image and the sub-folder of its part that it is in, "" = none."""

    path: str
    folder: str


def open_folder(
    *,
    path: str,
    captions: str = "",
    image_size: int = 0,
    holdout: float = 0.1,
    on_error: str = "raise",
) -> dict[str, Source]:
    """Image files below a folder, in RGB.

    With a sub-folder `train`, that is the training part, and the first of `test`, `val`, `valid`
    and `validation` that is there is the test part. Without, everything is the training part.

    A part is either flat, with all images directly in it and without labels, or it has one
    sub-folder a class; what is deeper below belongs to the class too. One class for all images, or
    one for every image, does not say which images belong together: such a part is unlabelled.

    Args:
        path: the folder.
        captions: a .csv, .tsv or .jsonl file that names the images and says what they show, as in
            `open_pairs`; then sub-folders are no classes. It is looked for below `path`, then from
            the current directory. "" = no captions.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept. 0 = as stored, which must be one size.
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
            path=path, captions=captions, image_size=image_size, holdout=holdout, on_error=on_error
        )
    root = find_root(path)
    parts = {split: _list_images(folder) for split, folder in part_folders(root).items()}
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
    return open_files(
        {split: Part(found) for split, found in files.items()},
        argument="path",
        class_names=class_names,
        image_size=image_size,
        holdout=holdout,
        captioned=False,
        on_error=on_error,
    )


def _list_images(part: pathlib.Path) -> list[Found]:
    """The images of a part in the order of their names."""
    found, visited = [], set()
    for folder, folders, names in os.walk(part, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to where we have been
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = pathlib.Path(folder).relative_to(part).parts
        found += [
            Found(os.path.join(folder, name), inside[0] if inside else "")
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    found.sort()
    if not found:
        raise ArgumentError(
            "path",
            f"there are no images below {part}; looked for files ending in {', '.join(SUFFIXES)}.",
        )
    flat = next((file for file in found if not file.folder), None)
    nested = next((file for file in found if file.folder), None)
    if flat and nested:
        raise ArgumentError(
            "path",
            f"{part} has images beside sub-folders of images, for example {flat.path} and "
            f"{nested.path}; allowed: all in sub-folders, one a class, or none.",
        )
    return found


def _class_names(files: Sequence[Found]) -> tuple[str, ...]:
    """The folders in order; none if they do not say which images belong together."""
    names = in_order(file.folder for file in files)
    return names if 1 < len(names) < len(files) else ()
