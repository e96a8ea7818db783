"""Embeddings that were made anywhere, from a file."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ..errors import UserError, how_to_install
from ..files import parse_json, told
from ..similarities import sphere
from ..temperatures import Temperature
from ._compared import Compared
from ._look import KINDS, complete, look
from ._records import Records, load
from ._watched import SIDE, Watched, similarities, small


class EmbeddingsError(UserError, ValueError):
    """A file of embeddings that cannot be used; the message says why."""


def read_embeddings(path: pathlib.Path | str, *, at_most: int = 512) -> Watched:
    """Embeddings that were made anywhere, as if a run had watched these images once.

    Args:
        path: an .npz or a .parquet file with `features` [n f] and, where the loss compares others,
            `embeddings` [n d]; or with two views, `view_a` and `view_b` [n d]. Also `labels` [n]
            (-1: none), `class_names`, `ids` [n], `images` [n h w c] uint8 (of .npz) or `paths` [n]
            of image files, and `captions` [n], as far as there are; in Parquet the columns may be
            called `label`, `id`, `path` and `caption`, and `class_name` has the name of each row.
            The files of `dystress embed` are such files.
        at_most: rows, at least 1; evenly spread if there are more.

    Raises:
        EmbeddingsError: the file is of another kind, has no such arrays, or they do not fit.
        FileError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "z.npz"
        >>> np.savez(path, features=np.eye(3), labels=[0, 1, 1])
        >>> read_embeddings(path).similarity[0, 0]
        array([1., 0., 0.], dtype=float32)
    """
    path = pathlib.Path(path)
    arrays = _arrays(path)
    vectors = _vectors(path, arrays)
    n = len(vectors["features"])
    _check_columns(path, arrays, n)
    rows, notes = _looked_at(path, vectors, at_most)
    labels, names = _labels(path, arrays, n)
    vectors = {name: _single(x[rows]) for name, x in vectors.items()}
    partners = vectors.get("view_b")
    others = vectors["embeddings"] if partners is None else partners
    pictures, unread = _pictures(path, arrays, rows)
    return Watched(
        split=path.stem,
        ids=_ids(arrays.get("ids", np.arange(n))[rows]),
        labels=labels[rows],
        class_names=names,
        pictures=pictures,
        captions=tuple(map(str, arrays["captions"][rows])) if "captions" in arrays else (),
        partner="" if partners is None else "view",
        steps=np.zeros(1, np.int64),
        features=vectors["features"][None],
        embeddings=vectors["embeddings"][None],
        partners=None if partners is None else partners[None],
        similarity=np.asarray(similarities(sphere, vectors["embeddings"], others))[None],
        notes=(*notes, *unread),
    )


def _vectors(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features, what the loss compares, and its partners if there are two views."""
    embeddings = arrays.get("view_a", arrays.get("embeddings", arrays.get("features")))
    if embeddings is None:
        raise EmbeddingsError(
            f"{path}: found {', '.join(arrays) or 'nothing'}; allowed: the array features, or "
            "view_a and view_b."
        )
    vectors = {"features": arrays.get("features", embeddings), "embeddings": embeddings}
    if "view_a" in arrays:
        if "view_b" not in arrays:
            raise EmbeddingsError(f"{path}: found view_a alone; allowed: with view_b.")
        vectors["view_b"] = arrays["view_b"]
    n = len(embeddings) if embeddings.ndim else 0
    for name, x in vectors.items():
        if x.ndim != 2 or x.dtype.kind not in "iuf" or len(x) != n or not x.size:
            raise EmbeddingsError(
                f"{path}: found {name} of shape {list(x.shape)} and type {x.dtype}; allowed: "
                "real numbers [n d], n the same for all and at least 1."
            )
    if "view_b" in vectors and vectors["view_b"].shape != embeddings.shape:
        raise EmbeddingsError(f"{path}: found views of two shapes; allowed: one shape.")
    return vectors


def _single(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """In single precision; a row whose squares that cannot hold is scaled, its direction kept.

    Example:
        >>> _single(np.array([[3e300, 4e300], [3e-300, 4e-300], [3.0, 4.0]])).tolist()
        [[0.75, 1.0], [0.75, 1.0], [3.0, 4.0]]
    """
    rows = np.asarray(rows, np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    out_of_range = (largest > 1e15) | ((largest < 1e-15) & (largest > 0))
    return np.asarray(rows / np.where(out_of_range, largest, 1), np.float32)


def _check_columns(path: pathlib.Path, arrays: Mapping[str, np.ndarray], n: int) -> None:
    """Refuse what is said of the rows and is not one for each."""
    for name in ("labels", "ids", "images", "paths", "captions"):
        if name in arrays and (not arrays[name].ndim or len(arrays[name]) != n):
            raise EmbeddingsError(f"{path}: found {n} rows and another number of {name}.")
        if name in arrays and name != "images" and arrays[name].ndim > 1:
            raise EmbeddingsError(
                f"{path}: found {name} of shape {list(arrays[name].shape)}; allowed: one for each "
                "row."
            )


def _looked_at(
    path: pathlib.Path, vectors: Mapping[str, np.ndarray], at_most: int
) -> tuple[Int[np.ndarray, " rows"], list[str]]:
    """The rows of finite numbers, evenly spread if there are more, and notes of the others."""
    finite = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in vectors.values()])
    n, rows = len(finite), np.flatnonzero(finite)
    notes = [] if finite.all() else [f"{n - len(rows):,} of {n:,} rows are NaN or infinite."]
    if not len(rows):
        raise EmbeddingsError(f"{path}: found no row of finite numbers; allowed: at least one.")
    if len(rows) > at_most:
        notes.append(f"{at_most:,} of {len(rows):,} rows are looked at, evenly spread.")
        rows = rows[np.arange(at_most) * len(rows) // at_most]
    return rows, notes


def _pictures(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], rows: Int[np.ndarray, " rows"]
) -> tuple[np.ndarray | None, list[str]]:
    """Small images of the rows, if there are any, and a note where they cannot be read."""
    pictures = arrays.get("images")
    if pictures is not None:
        if pictures.ndim != 4 or pictures.dtype != np.uint8 or 0 in pictures.shape:
            raise EmbeddingsError(
                f"{path}: found images of shape {list(pictures.shape)} and type {pictures.dtype}; "
                "allowed: uint8 [n h w c]."
            )
        return small(pictures[rows]), []
    if "paths" not in arrays or (arrays["paths"][rows] == "").any():
        return None, []
    try:
        return np.stack([_thumbnail(str(file)) for file in arrays["paths"][rows]]), []
    except OSError as error:
        return None, [f"There are no pictures: an image cannot be read ({error})."]


def _thumbnail(file: str) -> UInt8[np.ndarray, "s s 3"]:
    """The central square of an image file, small."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)))


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file that are known, by the names that an .npz has."""
    if path.suffix not in _READERS:
        raise EmbeddingsError(
            f"{path}: found a name that ends in {path.suffix or 'nothing'}; allowed: a file of "
            f"embeddings, whose name ends in {' or '.join(_READERS)}."
        )
    found = _READERS[path.suffix](path)
    return {name: _as_text(path, name, array) for name, array in found.items() if name in _KNOWN}


def _as_text(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    """Bytes as text."""
    if array.dtype.kind != "S":
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError:
        raise EmbeddingsError(f"{path}: found {name} of bytes; allowed: text in UTF-8.") from None


def _ids(ids: np.ndarray) -> np.ndarray:
    """Numbers and text as they are, such as dates as text."""
    return ids if ids.dtype.kind in "iufU" else ids.astype(np.str_)


_KNOWN = ("features", "embeddings", "view_a", "view_b")
_KNOWN += ("labels", "class_names", "ids", "images", "paths", "captions")
# What a table calls that of one row.
_COLUMNS = {"label": "labels", "id": "ids", "path": "paths", "caption": "captions"}


def _read_parquet(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise EmbeddingsError(
            f"{path}: .parquet needs the package pyarrow; allowed: with it, "
            f"{how_to_install('hf')}, or .npz."
        ) from error
    with told(path, "read"):
        try:
            # Opened by Python, whose errors say why.
            with path.open("rb") as raw, pq.ParquetFile(raw) as file:
                there = file.schema_arrow
                wanted = [str(name) for name in there.names if name in (*_KNOWN, *_COLUMNS)]
                wanted += ["class_name"] * ("class_name" in there.names)
                table = file.read(wanted)
                stated = parse_json((there.metadata or {}).get(b"class_names", b"null"))
        except (pa.ArrowException, ValueError) as error:
            raise OSError(f"it is no whole Parquet file ({type(error).__name__})") from error
    found = {name: _column(path, name, table[name]) for name in wanted}
    found = {_COLUMNS.get(name, name): array for name, array in found.items()}
    names = found.pop("class_name", None)
    if stated is not None:
        found["class_names"] = np.array(stated, dtype=np.str_)
    elif names is not None:
        found["labels"] = names
    return found


def _column(path: pathlib.Path, name: str, column: Any) -> np.ndarray:
    """Rows of one length, or one value a row; what is missing is NaN, -1 or no text."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return np.array(column.fill_null("").to_pylist(), dtype=np.str_)
        return (column.fill_null(-1) if pa.types.is_integer(kind) else column).to_numpy()
    array = column.combine_chunks()
    if isinstance(kind, pa.FixedSizeListType):
        lengths = {kind.list_size}
    else:
        lengths = set(array.value_lengths().to_pylist())
    if array.null_count or len(lengths) > 1:
        raise EmbeddingsError(
            f"{path}: found rows of {name} that differ in length or are missing; allowed: numbers "
            "[n d]."
        )
    width = lengths.pop() if lengths else 0
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), width)


_READERS = {".npz": load, ".parquet": _read_parquet}
_MANY = 10_000  # from this label on, classes without a name are those that there are


def _labels(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], n: int
) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    labels = arrays.get("labels", np.full(n, -1))
    names = tuple(map(str, arrays.get("class_names", np.zeros(0, np.str_)).ravel()))
    if labels.dtype.kind in "US":  # they are the names themselves
        names, labels = np.unique(labels, return_inverse=True)
        without = int("" in names)  # which comes first
        return labels.astype(np.int64) - without, tuple(map(str, names[without:]))
    if labels.dtype.kind not in "iu":
        raise EmbeddingsError(f"{path}: found labels of {labels.dtype}; allowed: whole numbers.")
    if labels.max(initial=0) >= max(len(names), _MANY):  # numbers that only stand for classes
        there, labels = np.unique(labels, return_inverse=True)
        without = int((there < 0).sum())
        return np.maximum(labels - without, -1), tuple(map(str, there[without:]))
    labels = np.maximum(labels.astype(np.int64), -1)
    return labels, (*names, *(str(i) for i in range(len(names), int(labels.max(initial=-1)) + 1)))


def as_records(images: Watched, temperature: Temperature) -> Records:
    """A record of each step of the images that are watched, under a temperature.

    Each image is held against all others, and against the other views where there are some. Without
    these there are no positives.

    Args:
        images: with their embeddings.
        temperature: under which the pairs are weighed.

    Example:
        >>> from dystress_jax import temperatures
        >>> np.savez("z.npz", features=np.eye(3), labels=[0, 1, 1])
        >>> records = as_records(read_embeddings("z.npz"), temperatures.constant(0.5))
        >>> len(records.steps)
        1
    """

    def of_step(t: int) -> dict[str, Any]:
        points = jnp.asarray(images.embeddings[t])
        others = points if images.partners is None else jnp.asarray(images.partners[t])
        labels = jnp.asarray(images.labels, jnp.int32)
        found = complete(jax.device_get(_look_at(points, others, labels, temperature)))
        if images.partners is None:  # what was compared is the image itself
            for name in ("similarity", "tau"):
                found[name] = np.where(np.arange(len(KINDS))[:, None] == 0, 0, found[name])
            of_positives = [name for name in found if name.startswith("emd_positive")]
            for name in ("alignment", *of_positives):
                found[name] = np.float32(np.nan)
        return found

    found = [of_step(t) for t in range(len(images.steps))]
    stacked = {name: np.stack([record[name] for record in found]) for name in found[0]}
    return Records.of(images.steps, stacked)


@jax.jit
def _look_at(
    points: Float[Array, "n d"],
    others: Float[Array, "n d"],
    labels: Int[Array, " n"],
    temperature: Temperature,
) -> dict[str, Array]:
    rows = jnp.arange(len(points))
    pairs = Compared(points, others, others, (rows, rows), (labels, labels))
    return look(pairs, temperature, max_anchors=len(points))
