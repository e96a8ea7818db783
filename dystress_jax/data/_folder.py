"""Image files in folders, one folder a class or all together without labels."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from ._files import File, Part, open_files
from ._source import UNLABELLED, Source, in_order

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("test", "val", "valid", "validation")


class Found(NamedTuple):
    """One image and the sub-folder of its part that it is in, "" = none."""

    path: str
    folder: str


def open_folder(*, path: str, image_size: int, holdout: float, on_error: str) -> dict[str, Source]:
    """Sources of the image files below ``path``, in RGB.

    With a sub-folder ``train``, that is the training part, and the first of ``test``, ``val`` and
    ``validation`` that is there the test part. Without, everything is the training part.

    A part is either flat, all images directly in it and without labels, or has one sub-folder a
    class; what is deeper below belongs to the class too. One class for everything, or one for
    every image, does not say which images belong together: such a part counts as unlabelled.
    """
    root = pathlib.Path(path)
    if not path or not root.is_dir():
        raise ValueError(f"data.path: there is no folder {path!r}")
    parts = {split: _list_images(folder) for split, folder in part_folders(root).items()}
    class_names = _class_names(parts["train"])
    unknown = sorted({file.folder for file in parts.get("test", ())} - {"", *class_names})
    if class_names and unknown:
        raise ValueError(
            f"data.path: the test images of {root} have the class {unknown[0]!r}, which the "
            "training images have not"
        )
    number = {name: i for i, name in enumerate(class_names)}
    files = {
        split: [File(file.path, number.get(file.folder, UNLABELLED)) for file in found]
        for split, found in parts.items()
    }
    return open_files(
        {split: Part(found) for split, found in files.items()},
        field="data.path",
        class_names=class_names,
        image_size=image_size,
        holdout=holdout,
        captioned=False,
        on_error=on_error,
    )


def part_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Where the training images are and, if there are any, the test images."""
    tests = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    if not (root / "train").is_dir():
        if tests:
            raise ValueError(f"data.path: {root} has a folder {tests[0].name}, but no folder train")
        return {"train": root}
    train = {"train": root / "train"}
    return {**train, "test": tests[0]} if tests else train


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
        raise ValueError(
            f"data.path: there are no images below {part}; looked for files ending in "
            f"{', '.join(SUFFIXES)}"
        )
    flat = next((file for file in found if not file.folder), None)
    nested = next((file for file in found if file.folder), None)
    if flat and nested:
        raise ValueError(
            f"data.path: {part} has images beside sub-folders of images, for example {flat.path} "
            f"and {nested.path}; allowed: all in sub-folders, one a class, or none"
        )
    return found


def _class_names(files: Sequence[Found]) -> tuple[str, ...]:
    """The folders in order; none if they do not say which images belong together."""
    names = in_order(file.folder for file in files)
    return names if 1 < len(names) < len(files) else ()
