"""CSV, TSV and JSON Lines files that say what images show."""

import csv
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import ArgumentError
from ._lines import read_text
from ._paths import composed
from ._source import class_name

FIELDS = {
    "image": ("path", "file_name", "image"),
    "caption": ("caption", "text"),
    "label": ("label",),
    "split": ("split",),
}
# The columns of open_clip, where a file has none of those above.
OPEN_CLIP = {"filepath": "path", "title": "caption"}
SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": ""}


class Entry(NamedTuple):
    """One line: an image file and what is said about it; "" = not said."""

    line: int
    image: str
    captions: tuple[str, ...]
    label: str
    split: str


class Fault(NamedTuple):
    """What is wrong with one line."""

    line: int
    what: str


def read_entries(path: pathlib.Path) -> list[Entry | Fault]:
    """The lines of a caption file in their order; a `Fault` stands for one that cannot be used.

    Raises:
        ArgumentError: the file as a whole cannot be understood.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(
            "path", f"{path} is of an unknown kind; allowed: {', '.join(SUFFIXES)}."
        )
    text = read_text(path)
    delimiter = SUFFIXES[path.suffix.lower()]
    records = _csv_records(path, text, delimiter) if delimiter else _json_records(text)
    return [found if isinstance(found, Fault) else _entry(*found) for found in records]


def _names(*kinds: str) -> set[str]:
    """What columns of these kinds are called."""
    return {name for kind in kinds for name in FIELDS[kind]}


def _csv_records(
    path: pathlib.Path, text: str, delimiter: str
) -> Iterator[tuple[int, dict[str, Any]] | Fault]:
    """Line number and fields of each record; its first line, where a text has several."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    field_size_limit = csv.field_size_limit(len(text) + 1)  # a caption may be long
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if OPEN_CLIP.keys() <= set(header) and not set(header) & _names("image", "caption"):
            header = [OPEN_CLIP.get(name, name) for name in header]
        for kind in ("image", "caption"):
            if not set(header) & _names(kind):
                signs = {"\t": "tabs: name it .tsv", ";": "semicolons: save it with commas"}
                hints = [
                    f" Its columns are apart by {what}."
                    for sign, what in signs.items()
                    if delimiter == "," and any(sign in name for name in header)
                ]
                raise ArgumentError(
                    "path",
                    f"{path}, line 1: no column for the {kind}; found {', '.join(header) or 'none'}"
                    f"; allowed: {' or '.join(FIELDS[kind])}.{''.join(hints)}",
                )
        twice = [name for name in header if header.count(name) > 1]
        for names in FIELDS.values():
            twice += [name for name in names if name in header][1:]
        if twice:
            raise ArgumentError(
                "path",
                f"{path}, line 1: the column {twice[0]!r} is there twice, or under another name "
                f"too; found {', '.join(header)}.",
            )
        line = rows.line_num + 1
        for fields in rows:
            if fields and len(fields) != len(header):
                yield Fault(
                    line,
                    f"{len(fields)} fields, where the header has {len(header)}; a text with "
                    f"{delimiter!r} in it must be in double quotes",
                )
            elif fields:
                yield line, dict(zip(header, fields, strict=True))
            line = rows.line_num + 1
    except csv.Error as error:  # quotes that do not match: where the next record begins is unknown
        raise ArgumentError(
            "path", f"{path}, line {line}: no {path.suffix[1:].upper()}: {error}."
        ) from error
    finally:
        csv.field_size_limit(field_size_limit)


def _json_records(text: str) -> Iterator[tuple[int, dict[str, Any]] | Fault]:
    """Line number and fields of each object."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_without_twins)
        except (ValueError, RecursionError) as error:
            yield Fault(number, f"no JSON: {error}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            yield Fault(number, f"found {line.strip()[:40]!r}; allowed: one JSON object a line")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; refuse a name that is there twice, of which the reader keeps only the last."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"a name is there twice: {', '.join(names)}")
    return dict(pairs)


def _entry(line: int, record: dict[str, Any]) -> Entry | Fault:
    """The fields of a record by kind, whatever their names."""
    found: dict[str, Any] = {}
    for kind, names in FIELDS.items():
        given = [name for name in names if name in record]
        if len(given) > 1:
            return Fault(line, f"the {kind} is there as {' and as '.join(given)}; allowed: one")
        value = record[given[0]] if given else None
        found[kind] = "" if value is None else value
    label = found["label"]
    if isinstance(label, int) or (isinstance(label, float) and class_name(label) != str(label)):
        found["label"] = class_name(label)  # an integer, which may be a float beside gaps
    texts = found["caption"]
    texts = texts if isinstance(texts, list) else [texts]
    for kind, values in (found | {"caption": texts}).items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                return Fault(line, f"the {kind} is {json.dumps(value)[:40]}; allowed: a text")
            if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                return Fault(line, f"the {kind} has half a character: {ascii(value)[:40]}")
    texts = tuple(text.strip() for text in texts)
    if not found["image"].strip():
        return Fault(line, f"no path of an image; allowed: {' or '.join(FIELDS['image'])}")
    if not texts or "" in texts:
        return Fault(line, f"no caption; allowed: {' or '.join(FIELDS['caption'])}, not empty")
    label = class_name(composed(found["label"].strip()))
    return Entry(line, found["image"], texts, label, found["split"].strip())
