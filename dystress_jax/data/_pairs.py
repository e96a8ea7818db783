"""Image files that a CSV, TSV or JSON Lines file names, with captions."""

import collections
import dataclasses
import os
import pathlib
from typing import NamedTuple

from ..errors import ArgumentError
from ..files import near
from ._caption_file import Entry, Fault, read_entries
from ._files import File, Part, open_files
from ._paths import (
    TEST_NAMES,
    TRAIN_NAMES,
    Inside,
    find_root,
    none_of_the_data,
    part_folders,
    split_of,
)
from ._source import UNLABELLED, Source, in_order

SAFE = "; `outside` allows images anywhere, for files that you trust"


class Listing(NamedTuple):
    """The lines of a caption file that belong to a split; their images are below `folder`."""

    file: pathlib.Path
    folder: pathlib.Path
    lines: list[Entry | Fault]


def open_pairs(
    *,
    path: str,
    captions: str,
    outside: bool,
    image_size: int,
    whole: bool,
    holdout: float,
    on_error: str,
) -> dict[str, Source]:
    """The images below a folder that a caption file names.

    The file is looked for below `path`, then from the current directory. All its images are
    training images, unless a column `split` says otherwise, by the names that sub-folders of
    splits have.

    If there is no such file below `path`, but one in its sub-folder `train`, that folder is the
    training part, and that of the test images has a file of the same name. Image paths start from
    `path`, or from the part's folder.

    | column, or name in JSON Lines | |
    |---|---|
    | `path`, `file_name` or `image` | of the image |
    | `caption` or `text` | in JSON Lines one text or a list |
    | `label` | optional: the name of the class; `-1` = unlabelled |
    | `split` | optional |

    Others are ignored. An image that several lines name is one example with all their captions.
    The arguments are those of `open_folder`.
    """
    root = find_root(path)
    try:
        listings, notes = _listings(root, captions)
    except ArgumentError as error:
        raise ArgumentError("captions", error.text) from error
    entries = [e for found in listings.values() for e in found.lines if isinstance(e, Entry)]
    class_names = in_order({entry.label for entry in entries} - {""})
    number = {name: i for i, name in enumerate(class_names)} | {"": UNLABELLED}
    inside = None if outside else Inside(root)
    parts = {split: _part(listing, number, inside) for split, listing in listings.items()}
    if "test" in parts:
        parts["test"] = _without(parts["test"], parts["train"])
    sources = open_files(
        parts,
        argument="captions",
        class_names=class_names,
        image_size=image_size,
        whole=whole,
        holdout=holdout,
        captioned=True,
        on_error=on_error,
    )
    return sources | {"train": dataclasses.replace(sources["train"], notes=tuple(notes))}


def _listings(root: pathlib.Path, captions: str) -> tuple[dict[str, Listing], list[str]]:
    """The lines of each split, and a note of what is there beside them."""
    below, here = root / captions, pathlib.Path(captions)
    in_train = _in_train(root, captions)
    if in_train.is_file() and not below.is_file():
        listings = {}
        folders, unused = part_folders(root)
        for split, folder in folders.items():
            file = folder / captions
            if not file.is_file():
                raise ArgumentError("captions", f"there is no file {file}.{near(file)}")
            listings[split] = Listing(file, folder, read_entries(file))
        return listings, none_of_the_data(unused)
    file = below if below.is_file() else here
    if not file.is_file():
        raise ArgumentError(
            "captions", f"there is no file {below}, {in_train} or {here.absolute()}.{near(below)}"
        )
    return _by_column(Listing(file, root, read_entries(file)))


def _in_train(root: pathlib.Path, captions: str) -> pathlib.Path:
    """Where the caption file of the training part would be."""
    try:
        train = part_folders(root)[0]["train"]
    except ArgumentError:  # no matter if the file is elsewhere
        train = root
    return (root / "train" if train == root else train) / captions


def lies_below(path: str, captions: str) -> bool:
    """Whether the folder at a path holds this caption file, so that it is looked for there.

    Args:
        path: a folder of images.
        captions: the name of the caption file.

    Example:
        >>> from dystress_jax import data
        >>> pathlib.Path("photos").mkdir(exist_ok=True)
        >>> pathlib.Path("photos/captions.csv").touch()
        >>> data.lies_below("photos", "captions.csv"), data.lies_below("photos", "other.csv")
        (True, False)
    """
    root = pathlib.Path(path)
    return (root / captions).is_file() or _in_train(root, captions).is_file()


def _by_column(listing: Listing) -> tuple[dict[str, Listing], list[str]]:
    """The lines of one file by what they say their split is, and a note of splits beside these."""
    allowed = ", ".join((*TRAIN_NAMES, *TEST_NAMES))

    def by_name(line: Entry | Fault) -> Entry | Fault:
        if isinstance(line, Fault) or not line.split:
            return line
        split = split_of(line.split)
        if not split:
            return Fault(line.line, f"the split is {line.split!r}; allowed: {allowed}")
        return line._replace(split=split)

    lines = [by_name(line) for line in listing.lines]
    splits = collections.Counter(line.split for line in lines if isinstance(line, Entry))
    tests = [name for name in TEST_NAMES if name in splits]

    def of(*names: str) -> list[Entry | Fault]:
        return [line for line in lines if isinstance(line, Entry) and line.split in names]

    faults = [line for line in lines if isinstance(line, Fault)]
    train = {"train": listing._replace(lines=[*of("", "train"), *faults])}
    if not tests:
        return train, []
    unused = ", ".join(f"{splits[name]:,} of {name}" for name in tests[1:])
    notes = [f"lines of {listing.file} that are none of the data: {unused}"] if unused else []
    return train | {"test": listing._replace(lines=of(tests[0]))}, notes


def _without(test: Part, train: Part) -> Part:
    """The test part without images that are trained on."""
    lines = {file.path: file.line for file in train.files}
    faults = [
        (file.line, f"{file.place}a training image too, by line {lines[file.path]}")
        for file in test.files
        if file.path in lines
    ]
    kept = [file for file in test.files if file.path not in lines]
    return Part(kept, sorted([*test.faults, *faults]))


def _part(listing: Listing, number: dict[str, int], inside: Inside | None) -> Part:
    """One file an image, with the captions of all its lines."""
    files: dict[str, File] = {}
    faults = []
    for found in listing.lines:
        place = f"{listing.file}, line {found.line}: "
        if isinstance(found, Fault):
            faults.append((found.line, place + found.what))
            continue
        path = os.path.normpath(listing.folder / found.image)
        if inside is not None and path not in inside:
            faults.append((found.line, f"{place}the image {found.image} is not below `path`{SAFE}"))
            continue
        label = number[found.label]
        before = files.setdefault(path, File(path, label, (), found.line, place))
        if UNLABELLED not in (label, before.label) and before.label != label:
            faults.append((found.line, f"{place}another label than in line {before.line}"))
        else:
            files[path] = before._replace(
                captions=before.captions + found.captions, label=max(label, before.label)
            )
    return Part(list(files.values()), sorted(faults))
