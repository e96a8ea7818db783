"""Hugging Face data sets on disk: saved by `datasets`, or parquet files; read in place."""

import abc
import collections
import dataclasses
import json
import pathlib
import re
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int32

from ..errors import ArgumentError
from ._captions import Captions
from ._holdout import split_holdout
from ._images import (
    check_image_size,
    common_shape,
    look_at_all,
    picture_shape,
    read_image,
    read_picture,
)
from ._paths import TEST_NAMES, Inside, by_split, composed, find_root, split_of
from ._source import UNLABELLED, Source, in_order
from ._stored import check_on_error, from_reader, leave_out_unreadable, stamp_of_files

LABELS = ("label", "labels", "fine_label", "class")
BYTES = ("binary", "large_binary", "binary_view")
STRINGS = ("string", "large_string", "string_view")
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
KEPT_BYTES = 2**32  # of parquet files: images, as they are stored, that stay in memory
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
        label_column: the column of labels: `datasets.ClassLabel`, integers or strings; -1, "" and
            null = unlabelled. "" = the first of `label`, `labels`, `fine_label` and `class` that is
            there, else the only ClassLabel; if there is none, the images have no labels.
        outside: whether a path in place of `bytes` may lead out of the folder.
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
    tables = _open_tables(find_root(path), None if outside else Inside(path))
    image = _image_column(tables["train"], image_column)
    for table in tables.values():
        _image_column(table, image)
    labels, class_names = _labels(tables, _label_column(tables["train"], label_column))
    texts = _captions(tables, captions)

    def like_train(split: str) -> bool:
        labelled = not class_names or bool((labels[split] != UNLABELLED).any())
        return labelled and (not captions or texts[split] is not None)

    tests = [split for split in tables if split != "train"]
    tests = [*filter(like_train, tests), *tests][:1]
    tables = {split: tables[split] for split in ("train", *tests)}
    image_shape = (image_size, image_size, 3) if image_size else _stored_shape(tables, image, skip)

    def as_source(split: str) -> Source:
        table = tables[split]

        def naming(read: Callable[..., Any], row: int) -> Any:
            try:
                return read(table.file(image, row), image_size)
            except (ValueError, OSError) as error:
                raise ValueError(f"{table.name}, row {row}: {error}") from error

        def read_one(row: int):
            return naming(read_image, row), int(labels[split][row])

        def read_whole(row: int):
            picture, extent = naming(read_picture, row)
            return picture, int(labels[split][row]), extent

        source = from_reader(
            read_one,
            read_picture=read_whole if whole and image_size else None,
            picture_shape=picture_shape(image_shape),
            length=len(table),
            image_shape=image_shape,
            class_names=class_names,
            labels=labels[split],
            captions=texts[split],
        )
        stamp = lambda: stamp_of_files(table.files)
        source = dataclasses.replace(source, stamp=stamp, of_files=True)
        return leave_out_unreadable(source) if skip else source

    sources = split_holdout(as_source("train"), holdout)
    return sources | {"test": as_source(tests[0])} if tests else sources


# What the columns hold


def _image_column(table: "_Table", chosen: str) -> str:
    """The column of images: the chosen one, or the only one."""

    def holds_images(kind: Any) -> bool:
        if str(kind).startswith("struct<"):
            return any(field.name == "bytes" and str(field.type) in BYTES for field in kind)
        return str(kind) in BYTES

    fitting = [name for name, kind in table.columns.items() if holds_images(kind)]
    images = [name for name in fitting if table.feature(name).get("_type") == "Image"] or fitting
    found = chosen or (images[0] if len(images) == 1 else "")
    return _check("image_column", found, fitting, "images", table)


def _label_column(table: "_Table", chosen: str) -> str:
    """The column of labels: the chosen one, one of a usual name, or the only ClassLabel."""
    fitting = [name for name, kind in table.columns.items() if str(kind) in INTEGERS + STRINGS]
    usual = [name for name in LABELS if name in fitting][:1]
    said = [name for name in fitting if table.feature(name).get("_type") == "ClassLabel"]
    labels = usual or said
    if not (chosen or labels):
        return ""
    found = chosen or (labels[0] if len(labels) == 1 else "")
    return _check("label_column", found, fitting, "integers or strings", table)


def _check(argument: str, name: str, fitting: Sequence[str], what: str, table: "_Table") -> str:
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
    tables: dict[str, "_Table"], column: str
) -> tuple[dict[str, Int32[np.ndarray, " n"]], tuple[str, ...]]:
    """The labels of every split, and the names of the classes."""
    texts = {split: _label_names(table, column) for split, table in tables.items()}
    names = tables["train"].feature(column).get("names")
    names = tuple(map(composed, names or ())) or tuple(
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


def _label_names(table: "_Table", column: str) -> list[str]:
    """The class of every row, "" = unlabelled."""
    if column not in table.columns:
        return [""] * len(table)
    names = table.feature(column).get("names")
    found = []
    for row, label in enumerate(table.column(column)):
        if label is None or label == UNLABELLED:
            label = ""
        elif not isinstance(label, str):
            if not 0 <= label < (len(names) if names else np.inf):
                raise ArgumentError(
                    "label_column",
                    f"{table.name}, row {row}: the label is {label}; allowed: -1 for unlabelled, 0 "
                    f"{f'to {len(names) - 1}' if names else 'or more'}.",
                )
            label = names[label] if names else str(label)
        found.append(composed(label))
    return found


def _captions(tables: dict[str, "_Table"], column: str) -> dict[str, Captions | None]:
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


def _is_text(kind: Any) -> bool:
    """Whether a column holds strings or lists of strings."""
    return str(getattr(kind, "value_type", kind)) in STRINGS


def _stored_shape(tables: dict[str, "_Table"], column: str, skip: bool) -> tuple[int, int, int]:
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


# The rows


class _Table(abc.ABC):
    """The rows of a split.

    Attributes:
        name: of the split and its folder, in words.
        columns: the type of each column.
    """

    inside: Inside | None = None  # the folder that paths may not leave
    files: Sequence[pathlib.Path] = ()

    def __init__(self, name: str, schema: Any):
        self.name = name
        self.columns = dict(zip(schema.names, schema.types, strict=True))
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        self._features = said.get("info", {}).get("features", {})

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abc.abstractmethod
    def column(self, name: str) -> list[Any]:
        """A whole column."""

    @abc.abstractmethod
    def cell(self, name: str, row: int) -> Any:
        """One row of a column; called from several threads at once."""

    def feature(self, column: str) -> dict[str, Any]:
        """What `datasets` says of a column."""
        feature = self._features.get(column)
        return feature if isinstance(feature, dict) else {}

    def file(self, column: str, row: int) -> str | bytes:
        """The content of an image file, else its path; nothing where there is no image."""
        value = self.cell(column, row)
        if isinstance(value, dict):
            value = value.get("path") if value["bytes"] is None else value["bytes"]
        if isinstance(value, str) and self.inside is not None and value not in self.inside:
            raise ArgumentError(
                "outside",
                f"the image {value} in row {row} of {self.name} is not below `path`; allowed: "
                "True, for data that you trust.",
            )
        return b"" if value is None else value


class _Saved(_Table):
    """Arrow files, memory-mapped."""

    def __init__(self, name: str, files: Sequence[pathlib.Path]):
        pa = _pyarrow()
        maps = [pa.memory_map(str(file)) for file in files]
        self._rows = pa.concat_tables([pa.ipc.open_stream(file).read_all() for file in maps])
        super().__init__(name, self._rows.schema)

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> list[Any]:
        return self._rows[name].to_pylist()

    def cell(self, name: str, row: int) -> Any:
        return self._rows[name][row].as_py()


class _Parquet(_Table):
    """Parquet files, of which whole row groups are read; those used last stay in memory."""

    def __init__(self, name: str, files: Sequence[pathlib.Path]):
        opened = {file: self._open(file) for file in files}
        first = opened[files[0]].schema_arrow
        for file, other in opened.items():
            if other.schema_arrow.names != first.names:
                raise ArgumentError("path", f"{file} has other columns than {files[0]}.")
        super().__init__(name, first)
        self._metadata = {file: other.metadata for file, other in opened.items()}
        self._groups = [
            (file, number)
            for file, metadata in self._metadata.items()
            for number in range(metadata.num_row_groups)
        ]
        lengths = [self._metadata[file].row_group(number).num_rows for file, number in self._groups]
        self._first = np.cumsum([0, *lengths])
        self._kept: collections.OrderedDict[tuple[str, int], Any] = collections.OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def _open(self, file: pathlib.Path, metadata: Any = None) -> Any:
        """A file to read from; not for several threads."""
        pa = _pyarrow()
        return pa.parquet.ParquetFile(pa.memory_map(str(file)), metadata=metadata)

    def __len__(self) -> int:
        return int(self._first[-1])

    def column(self, name: str) -> list[Any]:
        parts = [self._open(file, known).read([name]) for file, known in self._metadata.items()]
        return [value for part in parts for value in part[name].to_pylist()]

    def cell(self, name: str, row: int) -> Any:
        group = int(np.searchsorted(self._first, row, side="right")) - 1
        with self._lock:
            rows = self._read(name, group)
        return rows[row - self._first[group]].as_py()

    def _read(self, name: str, group: int) -> Any:
        """A column of a row group; for one thread at a time."""
        key = name, group
        if key not in self._kept:
            file, number = self._groups[group]
            rows = self._open(file, self._metadata[file]).read_row_group(number, [name])[name]
            self._kept[key] = rows
            self._kept_bytes += rows.nbytes
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]


# The files


def _open_tables(root: pathlib.Path, inside: Inside | None = None) -> dict[str, _Table]:
    """The split train and, in the order of `TEST_NAMES`, those to test on that are there."""
    pa = _pyarrow()
    kind, files = _find_files(root)
    tables = {}
    for split in ("train", *TEST_NAMES):
        if split in files:
            try:
                table = kind(f"{split} of {root}", files[split])
            except (pa.ArrowException, OSError) as error:
                raise ArgumentError("path", f"cannot read {split} of {root}: {error}.") from error
            table.inside, table.files = inside, files[split]
            if len(table):
                tables[split] = table
    if "train" not in tables:
        has = ", ".join(files)
        raise ArgumentError("path", f"{root} has no rows of a split train; its splits are {has}.")
    return tables


def _find_files(
    root: pathlib.Path,
) -> tuple[type[_Saved | _Parquet], dict[str, list[pathlib.Path]]]:
    """The files of every split, and how to read them."""
    try:
        if (root / "dataset_dict.json").is_file():
            splits = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            named = by_split(splits) or {split: split for split in splits}
            return _Saved, {split: _saved_files(root / name) for split, name in named.items()}
        if (root / "state.json").is_file():
            return _Saved, {"train": _saved_files(root)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            "path", f"{root} is no whole data set of save_to_disk: {error!r}."
        ) from error
    files = sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))
    if not files:
        raise ArgumentError(
            "path",
            f"{root} holds no data set: neither a dataset_dict.json or state.json, which "
            "save_to_disk writes, nor a .parquet file, also not in its folder data.",
        )
    found: dict[str, list[pathlib.Path]] = {}
    for file in files:
        word = re.match("[a-zA-Z]*", file.name)
        if word and split_of(word[0]):
            found.setdefault(split_of(word[0]), []).append(file)
    found = found or {"train": files}
    for split, parts in found.items():
        _check_whole(split, parts)
    return _Parquet, found


def _saved_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The Arrow files of a split, in the order of its rows."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / part["filename"] for part in state["_data_files"]]


def _check_whole(split: str, files: Sequence[pathlib.Path]) -> None:
    """Refuse a split of which a part has not been copied, such as -00001-of-00002."""
    counts = {int(count) for file in files for count in re.findall(r"-of-(\d+)\.", file.name)}
    if counts and counts != {len(files)}:
        raise ArgumentError(
            "path",
            f"{files[0].parent} has {len(files)} files of {split}, but their names say that there "
            f"are {' or '.join(map(str, sorted(counts)))}; copy the others too.",
        )


def _pyarrow() -> ModuleType:
    """The library, imported when a data set is opened; or how to get it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ArgumentError(
            "source",
            "found 'hf', which needs the package pyarrow; install it: "
            "pip install 'dystress-jax[hf]'",
        ) from error
    return pyarrow
