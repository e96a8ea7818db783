"""A few images that a run looks at again and again."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ..similarities import Similarity, at_least_float32, sphere
from ._records import FOLDER, IMAGES, Records, load

WATCHED = 256  # images at most: one batch of an evaluation
SIDE = 48  # pixels of a small picture


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
        >>> found = found_of(jax.numpy.eye(3), jax.numpy.eye(3), None)
        >>> {array.dtype.name for array in found.values()}
        {'float16'}
    """
    others = embeddings if partners is None else partners
    found = {
        "watched_features": features,
        "watched_embeddings": embeddings,
        "watched_similarity": similarities(similarity, embeddings, others),
    }
    if partners is not None:
        found["watched_partners"] = partners
    largest = float(np.finfo(np.float16).max)
    half = lambda x: np.clip(np.asarray(x, np.float32), -largest, largest).astype(np.float16)
    return {name: half(value) for name, value in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def similarities(
    similarity: Similarity, a: Float[Array, "n d"], b: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    """Of each row and each other row, on the scale of the cosine."""
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
