"""A few images that are looked at again and again, of a run or from a file of embeddings."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ..errors import UserError
from ..files import told
from ..similarities import Similarity, at_least_float32, sphere
from ..temperatures import Temperature
from ._compared import Compared
from ._look import KINDS, look
from ._records import FOLDER, IMAGES, Records, load

WATCHED = 256  # images at most: one batch of an evaluation
SIDE = 48  # pixels of a small picture


class EmbeddingsError(UserError, ValueError):
    """A file of embeddings that cannot be used; the message says why."""


class Watched(NamedTuple):
    """A few images, and where they lie at each of several steps.

    Attributes:
        split: of the images.
        ids: their numbers in the data set.
        labels: -1 where there is none.
        class_names: in the order of the labels; () without labels.
        pictures: small ones; None: there are none.
        captions: of the images; () without.
        partner: what belongs to each image: `text`, `view`, or "" for nothing.
        steps: ascending.
        features: of the encoder.
        embeddings: what the loss compares.
        partners: the embeddings of what belongs to the images; None where `partner` is "".
        similarity: of the embedding of each image and those of all images, or of all partners, on
            the scale of the cosine.
        notes: what was left out, in words.
    """

    split: str
    ids: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    pictures: UInt8[np.ndarray, "n h w 3"] | None
    captions: tuple[str, ...]
    partner: str
    steps: Int[np.ndarray, " t"]
    features: Float[np.ndarray, "t n f"]
    embeddings: Float[np.ndarray, "t n d"]
    partners: Float[np.ndarray, "t n d"] | None
    similarity: Float[np.ndarray, "t n n"]
    notes: tuple[str, ...] = ()


def small(pictures: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n s t 3"]:
    """Pictures in colour whose longer side has at most 48 pixels.

    Example:
        >>> small(np.zeros((2, 96, 60, 1), np.uint8)).shape
        (2, 48, 30, 3)
    """
    from PIL import Image

    n, height, width, channels = pictures.shape
    if channels < 3:
        pictures = np.repeat(pictures[..., :1], 3, axis=-1)
    pictures = np.ascontiguousarray(pictures[..., :3])
    scale = min(1.0, SIDE / max(height, width))
    if scale == 1.0:
        return pictures
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BOX)) for x in pictures]
    return np.stack(reduced) if n else np.zeros((0, size[1], size[0], 3), np.uint8)


def found_of(
    features: Float[Array, "n f"],
    embeddings: Float[Array, "n d"],
    partners: Float[Array, "n d"] | None,
    similarity: Similarity = sphere,
) -> dict[str, np.ndarray]:
    """What a record holds of the images that are watched, in half precision.

    Args:
        features: of the encoder.
        embeddings: what the loss compares.
        partners: the embeddings of what belongs to the images; None: nothing does.
        similarity: how they are compared.

    Example:
        >>> found = found_of(jnp.eye(3), jnp.eye(3), None)
        >>> {array.dtype.name for array in found.values()}
        {'float16'}
    """
    others = embeddings if partners is None else partners
    found = {
        "watched_features": features,
        "watched_embeddings": embeddings,
        "watched_similarity": _similarities(similarity, embeddings, others),
    }
    if partners is not None:
        found["watched_partners"] = partners
    largest = float(np.finfo(np.float16).max)
    half = lambda x: np.clip(np.asarray(x, np.float32), -largest, largest).astype(np.float16)
    return {name: half(value) for name, value in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _similarities(
    similarity: Similarity, a: Float[Array, "n d"], b: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    a, b = (similarity.project(at_least_float32(x)) for x in (a, b))
    return similarity.as_cosine(similarity.between(a, b))


def about(
    split: str,
    ids: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    class_names: tuple[str, ...],
    pictures: UInt8[np.ndarray, "n h w c"],
    captions: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What a run keeps of the images that it watches: see `Watched`; pictures are made small.

    Args:
        split: of the images.
        ids: their numbers in the data set.
        labels: -1 where there is none.
        class_names: in the order of the labels; () without labels.
        pictures: of any size.
        captions: of the images; () without.

    Example:
        >>> ids, pictures = np.arange(2), np.zeros((2, 8, 8, 3), np.uint8)
        >>> sorted(about("test", ids, ids, ("cat", "dog"), pictures))
        ['captions', 'class_names', 'ids', 'labels', 'pictures', 'split']
    """
    return {
        "split": split,
        "ids": ids,
        "labels": labels,
        "class_names": np.array(class_names, dtype=np.str_),
        "pictures": small(pictures),
        "captions": np.array(captions, dtype=np.str_),
    }


def watched(workdir: pathlib.Path | str, records: Records) -> Watched | None:
    """The images that a run watches, at those of its records that have them.

    Args:
        workdir: of the run.
        records: as `read` returns them.

    Returns:
        The images; None if there are none, or if no record of them has only finite numbers.

    Raises:
        FileError: the file with the images is damaged.

    Example:
        >>> from dystress_jax import microscope
        >>> pathlib.Path("mine").mkdir()
        >>> recorder = microscope.Recorder(pathlib.Path("mine"), first_step=0)
        >>> recorder.write(10, {"entropy": np.float32(1.5)})
        >>> watched("mine", microscope.read("mine")) is None
        True
    """
    path = pathlib.Path(workdir) / FOLDER / IMAGES
    if "watched_features" not in records.arrays or not path.exists():
        return None
    images = load(path)
    names = ("watched_features", "watched_embeddings", "watched_similarity", "watched_partners")
    of = {name: records[name] for name in names if name in records.arrays}
    finite = lambda x: np.isfinite(x).reshape(len(x), -1).all(axis=1)
    whole = np.logical_and.reduce([finite(x) for x in of.values()])
    # A run records them at some of its steps only; an encoder that has diverged has none.
    if not whole.any() or of["watched_features"].shape[1] != len(images["ids"]):
        return None
    arrays = {name: np.asarray(x[whole], np.float32) for name, x in of.items()}
    partners = arrays.get("watched_partners")
    return Watched(
        split=str(images["split"]),
        ids=images["ids"],
        labels=images["labels"],
        class_names=tuple(map(str, images["class_names"])),
        pictures=images["pictures"],
        captions=tuple(map(str, images["captions"])),
        partner="" if partners is None else "text",
        steps=records.steps[whole],
        features=arrays["watched_features"],
        embeddings=arrays["watched_embeddings"],
        partners=partners,
        similarity=arrays["watched_similarity"],
    )


def read_embeddings(path: pathlib.Path | str, *, at_most: int = 512) -> Watched:
    """Embeddings that were made anywhere, as if a run had watched these images once.

    Args:
        path: an .npz file with `features` [n f] and, where the loss compares others, `embeddings`
            [n d]; or with two views, `view_a` and `view_b` [n d]. Also `labels` [n] (-1: none),
            `class_names`, `ids` [n], `images` [n h w c] uint8 and `captions` [n], as far as there
            are. The files of `dystress embed` are such files.
        at_most: rows, evenly spread if there are more.

    Raises:
        EmbeddingsError: the file has no such arrays, or they do not fit.
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
    embeddings = arrays.get("view_a", arrays.get("embeddings", arrays.get("features")))
    if embeddings is None:
        raise EmbeddingsError(
            f"{path}: found {', '.join(arrays) or 'nothing'}; allowed: the array features, or "
            "view_a and view_b."
        )
    features = arrays.get("features", embeddings)
    vectors = {"features": features, "embeddings": embeddings}
    if "view_a" in arrays:
        if "view_b" not in arrays:
            raise EmbeddingsError(f"{path}: found view_a alone; allowed: with view_b.")
        vectors["view_b"] = arrays["view_b"]
    n = len(embeddings) if embeddings.ndim else 0
    for name, x in vectors.items():
        if x.ndim != 2 or not np.issubdtype(x.dtype, np.number) or len(x) != n or not x.size:
            raise EmbeddingsError(
                f"{path}: found {name} of shape {list(x.shape)} and type {x.dtype}; allowed: "
                "numbers [n d], n the same for all and at least 1."
            )
    if "view_b" in vectors and vectors["view_b"].shape != embeddings.shape:
        raise EmbeddingsError(f"{path}: found views of two shapes; allowed: one shape.")
    for name in ("labels", "ids", "images", "captions"):
        if name in arrays and (not arrays[name].ndim or len(arrays[name]) != n):
            raise EmbeddingsError(f"{path}: found {n} rows and another number of {name}.")
    finite = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in vectors.values()])
    notes = [] if finite.all() else [f"{n - finite.sum():,} of {n:,} rows are NaN or infinite."]
    rows = np.flatnonzero(finite)
    if not len(rows):
        raise EmbeddingsError(f"{path}: found no row of finite numbers; allowed: at least one.")
    if len(rows) > at_most:
        notes.append(f"{at_most:,} of {len(rows):,} rows are looked at, evenly spread.")
        rows = rows[np.arange(at_most) * len(rows) // at_most]
    labels, names = _labels(path, arrays, n)
    vectors = {name: np.asarray(x[rows], np.float32) for name, x in vectors.items()}
    partners = vectors.get("view_b")
    pictures = arrays.get("images")
    if pictures is not None and (pictures.ndim != 4 or pictures.dtype != np.uint8):
        raise EmbeddingsError(f"{path}: found images of another kind; allowed: uint8 [n h w c].")
    others = vectors["embeddings"] if partners is None else partners
    return Watched(
        split=path.stem,
        ids=np.asarray(arrays.get("ids", np.arange(n)))[rows],
        labels=labels[rows],
        class_names=names,
        pictures=None if pictures is None else small(pictures[rows]),
        captions=tuple(map(str, arrays["captions"][rows])) if "captions" in arrays else (),
        partner="" if partners is None else "view",
        steps=np.zeros(1, np.int64),
        features=vectors["features"][None],
        embeddings=vectors["embeddings"][None],
        partners=None if partners is None else partners[None],
        similarity=np.asarray(_similarities(sphere, vectors["embeddings"], others))[None],
        notes=tuple(notes),
    )


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with told(path, "read"):
        found = load(path)
    known = ("features", "embeddings", "view_a", "view_b")
    known += ("labels", "class_names", "ids", "images", "captions")
    return {name: found[name] for name in known if name in found}


def _labels(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], n: int
) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    labels = arrays.get("labels", np.full(n, -1))
    names = tuple(map(str, arrays.get("class_names", np.zeros(0, np.str_)).ravel()))
    if labels.dtype.kind in "US":  # they are the names themselves
        names, labels = np.unique(labels, return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, names))
    if labels.dtype.kind not in "iu":
        raise EmbeddingsError(f"{path}: found labels of {labels.dtype}; allowed: whole numbers.")
    labels = np.where(labels < 0, -1, labels.astype(np.int64))
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
        found = dict(jax.device_get(_look_at(points, others, labels, temperature)))
        if images.partners is None:  # what was compared is the image itself
            for name in ("similarity", "tau"):
                found[name] = np.where(np.arange(len(KINDS))[:, None] == 0, 0, found[name])
            for name in ("alignment", "emd_positive_negative"):
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
