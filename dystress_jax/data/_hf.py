"""Hugging Face data sets on disk: saved by `datasets`, or parquet files; read in place."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from ..errors import ArgumentError
from ._captions import Captions
from ._hf_tables import Table, open_tables, unused_files
from ._holdout import split_holdout
from ._images import check_image_size, common_shape, look_at_all
from ._paths import Inside, composed, find_root
from ._source import UNLABELLED, Source, class_name, in_order
from ._stamps import stamp_of_files
from ._stored import from_files
from ._unreadable import check_on_error, leave_out_unreadable

LABELS = ("label", "labels", "fine_label", "class")
BYTES = ("binary", "large_binary", "binary_view")
STRINGS = ("string", "large_string", "string_view")
FLOATS = ("halffloat", "float", "double")
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
HEADERS = 1024  # images whose headers are looked at together


def open_hf(
    *,
    path: str,
    captions: str = "",
    image_column: str = "",
    label_column: str = "",
    outside: bool = False,
    image_size: int = 0,
    whole: bool = True,
    holdout: float = 0.1,
    on_error: str = "raise",
) -> dict[str, Source]:
    """A Hugging Face data set on disk, in RGB. Nothing is downloaded, and nothing is written.

    The folder was made by `save_to_disk` of `datasets`: of a DatasetDict, or of one Dataset, whose
    images are then the training images. Or the folder, or its sub-folder `data`, holds parquet
    files. Their names begin with the split, as in train-00000-of-00002.parquet; if no name does,
    all are training images.

    The training images are the split `train`. The test images are `test`, `validation`,
    `valid`, `dev` or `val`: the first that has labels and captions, if the training images have
    them.
    These names may be in capitals; `training` and `testing` are names too.

    A saved data set is memory-mapped. Parquet files cannot be read row by row: a whole row group is
    read, and kept in memory until those of the split take more than 4 GiB. So it is better to save
    a larger data set once with `save_to_disk`.

    Args:
        path: the folder.
        captions: the column of captions: strings, or lists of strings. "" = no captions.
        image_column: the column of images: `datasets.Image`, structs with `bytes`, or bytes. "" =
            the only one.
        label_column: the column of labels: `datasets.ClassLabel`, integers or strings, but not both
            in different files; integers may be whole floats, as pandas makes them beside gaps. -1,
            "", null and NaN = unlabelled. "" = the first of `label`, `labels`, `fine_label` and
            `class` that is there, else the only ClassLabel; if there is none, the images have no
            labels.
        outside: whether a path in place of `bytes`, which starts in the folder, may lead out of it.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept. 0 = as stored, which must be one size; for that every
            image is read here, but not decoded.
        whole: whether training draws its crops from whole pictures, whose shorter side is reduced
            to `image_size`, and not from their central squares. Pictures longer than 3 : 2 are
            reduced further. Without an `image_size` images are whole anyway.
        holdout: share of the training images that is kept out, [0, 1).
        on_error: "raise" for an image that cannot be read, when it is read. "skip" leaves it out
            and lists it in `Source.skipped`; for that every image is decoded once here.

    Returns:
        The splits, as `open_splits` has them. A ClassLabel names the classes; other labels are
        names themselves. An image that cannot be read raises an `UnreadableError` with its split
        and row, counted from 0, when it is read.

    Raises:
        ArgumentError: there is no such data set, a column cannot be used, or pyarrow is missing.
    """
    check_image_size(image_size)
    check_on_error(on_error)
    skip = on_error == "skip"
    there, unused = open_tables(find_root(path), None if outside else Inside(path))
    image = _image_column(there["train"], image_column)
    label = _label_column(there["train"], label_column)

    def parts(*tests: str) -> _Parts:
        some = {split: there[split] for split in ("train", *tests)}
        for table in some.values():
            _image_column(table, image)
        return _Parts(some, *_labels(some, label), _captions(some, captions))

    # In another split than the first that can be tested on there may be anything: it is not opened.
    every = (parts(split) for split in there if split != "train")
    first = next(every, None) or parts()
    fitting = (one for one in itertools.chain([first], every) if one.can_be_tested_on())
    tables, labels, class_names, texts = next(fitting, first)
    unused += [file for split in there.keys() - tables for file in there[split].files]
    image_shape = (image_size, image_size, 3) if image_size else _stored_shape(tables, image, skip)

    def as_source(split: str) -> Source:
        table = tables[split]
        source = from_files(
            lambda row: table.file(image, row),
            labels[split],
            place=lambda row: f"{table.name}, row {row}: ",
            image_size=image_size,
            image_shape=image_shape,
            whole=whole,
            class_names=class_names,
            captions=texts[split],
            stamp=lambda: stamp_of_files(table.files),
        )
        if split == "train":
            notes = unused_files(unused) + (() if label else _unread_labels(table))
            source = dataclasses.replace(source, notes=notes)
        return leave_out_unreadable(source) if skip else source

    sources = split_holdout(as_source("train"), holdout)
    tests = [split for split in tables if split != "train"]
    return sources | {"test": as_source(tests[0])} if tests else sources


class _Parts(NamedTuple):
    """The training split and another if there is one, with what is known of their rows."""

    tables: dict[str, Table]
    labels: dict[str, Int32[np.ndarray, " n"]]
    class_names: tuple[str, ...]
    texts: dict[str, Captions | None]

    def can_be_tested_on(self) -> bool:
        """Whether there are labels and captions where the training images have them."""
        captioned = self.texts["train"] is None or None not in self.texts.values()
        tests = (labels for split, labels in self.labels.items() if split != "train")
        labelled = all((labels != UNLABELLED).any() for labels in tests)
        return captioned and (labelled or not self.class_names)


def _unread_labels(table: Table) -> tuple[str, ...]:
    """The columns that are called like labels and hold something else, in words."""
    return tuple(
        f"the column {name} ({table.columns[name]}) holds neither integers nor strings: the images "
        "have no labels"
        for name in LABELS
        if name in table.columns
    )


def _image_column(table: Table, chosen: str) -> str:
    """The column of images: the chosen one, or the only one."""

    def holds_images(kind: Any) -> bool:
        if str(kind).startswith("struct<"):
            return any(field.name == "bytes" and str(field.type) in BYTES for field in kind)
        return str(kind) in BYTES

    fitting = [name for name, kind in table.columns.items() if holds_images(kind)]
    images = [name for name in fitting if table.feature(name).get("_type") == "Image"] or fitting
    found = chosen or (images[0] if len(images) == 1 else "")
    return _check("image_column", found, fitting, "images", table)


def _label_column(table: Table, chosen: str) -> str:
    """The column of labels: the chosen one, one of a usual name, or the only ClassLabel."""
    asked = (chosen, *LABELS)
    fitting = [
        name
        for name, kind in table.columns.items()
        if _is_label(kind) or (name in asked and str(kind) in FLOATS and _are_whole(table, name))
    ]
    usual = [name for name in LABELS if name in fitting][:1]
    said = [name for name in fitting if table.feature(name).get("_type") == "ClassLabel"]
    labels = usual or said
    if not (chosen or labels):
        return ""
    found = chosen or (labels[0] if len(labels) == 1 else "")
    return _check("label_column", found, fitting, "integers or strings", table)


def _check(argument: str, name: str, fitting: Sequence[str], what: str, table: Table) -> str:
    """The name of a column that is there and holds the right thing."""
    if name not in fitting:
        columns = ", ".join(f"{column} ({kind})" for column, kind in table.columns.items())
        raise ArgumentError(
            argument,
            f"found {name!r}; allowed: a column of {what}: {', '.join(fitting) or 'none'}. "
            f"The columns of {table.name} are {columns}.",
        )
    return name


def _labels(
    tables: dict[str, Table], column: str
) -> tuple[dict[str, Int32[np.ndarray, " n"]], tuple[str, ...]]:
    """The labels of every split, and the names of the classes."""
    stored = {
        split: table.column(column) if column in table.columns else [None] * len(table)
        for split, table in tables.items()
    }
    _check_one_kind(tables, column, stored)
    texts = {split: _label_names(tables[split], column, found) for split, found in stored.items()}
    names = tuple(_class_label(tables["train"], column)) or tuple(
        in_order({text for found in texts.values() for text in found} - {""})
    )
    number = {"": UNLABELLED} | {name: i for i, name in enumerate(names)}
    labels = {}
    for split, found in texts.items():
        unknown = sorted(set(found) - set(number))
        if unknown:
            raise ArgumentError(
                "label_column",
                f"{tables[split].name} has the class {unknown[0]!r}, which {tables['train'].name} "
                "does not have.",
            )
        labels[split] = np.array([number[text] for text in found], np.int32)
    return labels, names


def _check_one_kind(tables: dict[str, Table], column: str, stored: dict[str, list[Any]]) -> None:
    """Refuse integers beside strings, which would make two classes of one, or none that fit."""
    words = {str: "a string", bool: "True or False"}
    places: dict[str, str] = {}
    for split, labels in stored.items():
        if _class_label(tables[split], column):  # numbers with names: either may stand elsewhere
            continue
        for row, label in enumerate(labels):
            kind = words.get(type(label), "a number")
            if kind not in places and class_name(label):
                places[kind] = f"{label!r}, {kind}, in {tables[split].place(row)}"
    if len(places) > 1:
        raise ArgumentError(
            "label_column",
            f"found in {column!r} {' and '.join(places.values())}; allowed: integers or strings, "
            "the same in all files. Write the labels anew as one type.",
        )


def _label_names(table: Table, column: str, labels: Sequence[Any]) -> list[str]:
    """The class of every row, "" = unlabelled."""
    names = _class_label(table, column)
    found = []
    for row, label in enumerate(labels):
        name = class_name(label)
        if name and not isinstance(label, str | bool):
            if not name.isdecimal() or (names and int(name) >= len(names)):
                raise ArgumentError(
                    "label_column",
                    f"{table.name}, row {row}: the label is {label}; allowed: -1 for unlabelled, 0 "
                    f"{f'to {len(names) - 1}' if names else 'or more'}.",
                )
            name = names[int(name)] if names else name
        found.append(composed(name))
    return found


def _class_label(table: Table, column: str) -> list[str]:
    """The names of a ClassLabel; of a column of another kind none."""
    names = [composed(name) for name in table.feature(column).get("names") or ()]
    for name, count in collections.Counter(names).items():
        if count > 1 or not name:
            raise ArgumentError(
                "label_column",
                f"{table.name} calls {count} of its classes {name!r}; allowed: a name for each "
                "class, no two alike.",
            )
    return names


def _captions(tables: dict[str, Table], column: str) -> dict[str, Captions | None]:
    """What is said about every image of each split; None = nothing."""
    train = tables["train"]
    if column:
        fitting = [name for name, kind in train.columns.items() if _is_text(kind)]
        _check("captions", column, fitting, "strings or lists of strings", train)
    found = {}
    for split, table in tables.items():
        values = table.column(column) if column in table.columns else []
        groups = [[value] if isinstance(value, str) else value or [] for value in values]
        groups = [[text.strip() for text in group if text and text.strip()] for group in groups]
        found[split] = Captions.of(groups) if any(groups) else None
        if [] in groups and (any(groups) or split == "train"):
            raise ArgumentError(
                "captions",
                f"{table.name}, row {groups.index([])}: no text in the column {column!r}; allowed: "
                "at least one text an image that is not empty.",
            )
    return found


def _is_label(kind: Any) -> bool:
    """Whether a column holds integers, strings, or one of two things."""
    said = str(kind)
    if said.startswith("dictionary<"):  # values that are stored once each
        said = str(kind.value_type)
    return said in (*INTEGERS, *STRINGS, "bool")


def _are_whole(table: Table, column: str) -> bool:
    """Whether the floats of a column are integers, or stand for no label."""
    names = (class_name(label) for label in table.column(column) if isinstance(label, float))
    return all(not name or name.removeprefix("-").isdecimal() for name in names)


def _is_text(kind: Any) -> bool:
    """Whether a column holds strings or lists of strings."""
    return str(getattr(kind, "value_type", kind)) in STRINGS


def _stored_shape(tables: dict[str, Table], column: str, skip: bool) -> tuple[int, int, int]:
    """The one shape of all images, by their headers; with `skip`, of all that have one."""
    names, sizes = [], []
    for table in tables.values():
        for first in range(0, len(table), HEADERS):
            rows = range(first, min(first + HEADERS, len(table)))
            found = look_at_all([table.file(column, row) for row in rows], upright=True)
            for row, size in zip(rows, found, strict=True):
                name = f"{table.name}, row {row}"
                if isinstance(size, ValueError) and skip:
                    continue
                if isinstance(size, ValueError):
                    raise ArgumentError("path", f"{name}: {size}.") from size
                names.append(name)
                sizes.append(size)
    return common_shape(names, sizes)
