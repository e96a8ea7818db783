"""The rows of a Hugging Face data set on disk: Arrow files of `save_to_disk`, or parquet files."""

import abc
import collections
import json
import os
import pathlib
import re
import threading
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import ArgumentError, how_to_install
from ._paths import TEST_NAMES, Inside, by_split, split_of

KEPT_BYTES = 2**32  # of parquet files: images, as they are stored, that stay in memory


class Table(abc.ABC):
    """The rows of a split.

    Attributes:
        name: of the split and its folder, in words.
        columns: the type of each column.
    """

    root = pathlib.Path()  # the folder that paths start in
    inside: Inside | None = None  # the folder that paths may not leave
    files: Sequence[pathlib.Path] = ()

    def __init__(self, name: str, schema: Any):
        self.name = name
        self.columns = dict(zip(schema.names, schema.types, strict=True))
        self._features = _features(schema)

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abc.abstractmethod
    def _column(self, name: str) -> list[Any]:
        """A whole column."""

    @abc.abstractmethod
    def _cell(self, name: str, row: int) -> Any:
        """One row of a column; called from several threads at once."""

    def column(self, name: str) -> list[Any]:
        """A whole column.

        Raises:
            ArgumentError: the files are damaged there.
        """
        try:
            return self._column(name)
        except (_pyarrow().ArrowException, OSError, ValueError) as error:
            raise ArgumentError("path", _damaged(f"column {name}", self.name, error)) from error

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"row {row} of {self.name}"

    def feature(self, column: str) -> dict[str, Any]:
        """What `datasets` says of a column."""
        feature = self._features.get(column)
        return feature if isinstance(feature, dict) else {}

    def file(self, column: str, row: int) -> str | bytes:
        """The content of an image file, else its path; nothing where there is no image."""
        try:
            value = self._cell(column, row)
        except (_pyarrow().ArrowException, OSError, ValueError) as error:
            raise ArgumentError("path", _damaged(f"row {row}", self.name, error)) from error
        if isinstance(value, dict):
            value = value.get("path") if value["bytes"] is None else value["bytes"]
        if isinstance(value, str):
            value = os.path.join(self.root, value)
            if self.inside is not None and value not in self.inside:
                raise ArgumentError(
                    "outside",
                    f"the image {value} in row {row} of {self.name} is not below `path`; allowed: "
                    "True, for data that you trust.",
                )
        return b"" if value is None else value


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` has written of the columns of a file."""
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return said.get("info", {}).get("features", {})


def _class_names(schema: Any) -> dict[str, Any]:
    """The names of the classes that a column numbers."""
    features = {name: said for name, said in _features(schema).items() if isinstance(said, dict)}
    return {name: said["names"] for name, said in features.items() if "names" in said}


class _Saved(Table):
    """Arrow files, memory-mapped."""

    def __init__(self, name: str, files: Sequence[pathlib.Path]):
        pa = _pyarrow()
        maps = [pa.memory_map(str(file)) for file in files]
        self._rows = pa.concat_tables([pa.ipc.open_stream(file).read_all() for file in maps])
        super().__init__(name, self._rows.schema)

    def __len__(self) -> int:
        return len(self._rows)

    def _column(self, name: str) -> list[Any]:
        return self._rows[name].to_pylist()

    def _cell(self, name: str, row: int) -> Any:
        return self._rows[name][row].as_py()


class _Parquet(Table):
    """Parquet files, of which whole row groups are read; those used last stay in memory."""

    def __init__(self, name: str, files: Sequence[pathlib.Path]):
        opened = {file: self._open(file) for file in files}
        first = opened[files[0]].schema_arrow
        for file, other in opened.items():
            if other.schema_arrow.names != first.names:
                raise ArgumentError("path", f"{file} has other columns than {files[0]}.")
            if _class_names(other.schema_arrow) != _class_names(first):
                raise ArgumentError(
                    "path",
                    f"{file} has other class names than {files[0]}: its labels would stand for "
                    "other classes; allowed: one list of names in all files of a split.",
                )
        super().__init__(name, first)
        for other in opened.values():  # a column of nulls alone has no type
            for column, kind in zip(first.names, other.schema_arrow.types, strict=True):
                if str(self.columns[column]) == "null":
                    self.columns[column] = kind
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

    def _column(self, name: str) -> list[Any]:
        parts = [self._open(file, known).read([name]) for file, known in self._metadata.items()]
        return [value for part in parts for value in part[name].to_pylist()]

    def _cell(self, name: str, row: int) -> Any:
        group = self._group_of(row)
        with self._lock:
            rows = self._read(name, group)
        return rows[row - self._first[group]].as_py()

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"{super().place(row)} ({self._groups[self._group_of(row)][0].name})"

    def _group_of(self, row: int) -> int:
        """The row group that holds a row."""
        return int(np.searchsorted(self._first, row, side="right")) - 1

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


def open_tables(
    root: pathlib.Path, inside: Inside | None = None
) -> tuple[dict[str, Table], list[pathlib.Path]]:
    """The split train and, in the order of `TEST_NAMES`, those to test on that are there.

    Then the files of other splits, or of none.
    """
    pa = _pyarrow()
    kind, files, unused = _find_files(root)
    tables = {}
    for split in ("train", *TEST_NAMES):
        if split in files:
            try:
                table = kind(f"{split} of {root}", files[split])
            except (pa.ArrowException, OSError) as error:
                raise ArgumentError("path", f"cannot read {split} of {root}: {error}.") from error
            table.root, table.inside, table.files = root, inside, files[split]
            if len(table):
                tables[split] = table
    if "train" not in tables:
        has = ", ".join(files)
        raise ArgumentError("path", f"{root} has no rows of a split train; its splits are {has}.")
    return tables, unused


def unused_files(files: Iterable[pathlib.Path]) -> tuple[str, ...]:
    """A note of the files that are not read, if there are any; those of one split are one."""
    names = sorted({re.sub(r"-\d+-of-\d+", "-*", str(file)) for file in files})
    return (f"files that are none of the data: {', '.join(names)}",) if names else ()


def _find_files(
    root: pathlib.Path,
) -> tuple[type[_Saved | _Parquet], dict[str, list[pathlib.Path]], list[pathlib.Path]]:
    """How to read the files, those of every split, and those of none."""
    try:
        if (root / "dataset_dict.json").is_file():
            splits = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            named = by_split(splits) or {split: split for split in splits}
            unused = [root / name / "*.arrow" for name in splits if name not in named.values()]
            found = {split: _saved_files(root / name) for split, name in named.items()}
            return _Saved, found, unused
        if (root / "state.json").is_file():
            return _Saved, {"train": _saved_files(root)}, []
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
        split = split_of(re.sub("[^a-zA-Z].*", "", file.name))
        found.setdefault(split, []).append(file)
    unused = found.pop("", [])
    if not found:
        found, unused = {"train": files}, []
    for split, parts in found.items():
        _check_whole(split, parts)
    return _Parquet, found, unused


def _damaged(what: str, table: str, error: Exception) -> str:
    """What to say of files that cannot be read in the middle."""
    return f"cannot read {what} of {table}: {' '.join(str(error).split())}; copy the data set anew."


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
            f"found 'hf', which needs the package pyarrow; install it: {how_to_install('hf')}",
        ) from error
    return pyarrow
