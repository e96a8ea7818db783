"""The embedded data set: 1,563 concepts, each drawn by three artists, in 8 categories."""

import importlib.resources
import json

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ._captions import Captions
from ._holdout import split_holdout
from ._images import check_image_size, fit_arrays
from ._source import Source
from ._stored import from_arrays

SIDE = 32


def open_embedded(*, image_size: int = 0, holdout: float = 0.1) -> dict[str, Source]:
    """Emoji drawings, 32 x 32 RGB on white, labelled with their category; no files are needed.

    Train and holdout are the drawings by Google (Noto Emoji) and Twitter (Twemoji). Test is
    Microsoft's (Fluent Emoji): the same concepts in another artist's style. So accuracy on the test
    split says how well the categories of known concepts are recognised in a new style, and not how
    well new concepts are. The holdout asks for new concepts: both drawings of a concept are in
    train, or both are in the holdout.

    Rows: all of Google's drawings, then all of Twitter's, both in the order of concepts.json. That
    file also has the concepts' English names, which are the captions. Licences: embedded/NOTICE.md.

    Args:
        image_size: side that the drawings are resized to, in pixels; 0 = 32.
        holdout: share of the training concepts that is kept out, [0, 1).

    Returns:
        The splits, as `open_splits` has them.

    Raises:
        ArgumentError: an argument is out of range.
    """
    check_image_size(image_size)
    folder = importlib.resources.files("dystress_jax.data") / "embedded"
    concepts = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
    labels = np.array(concepts["labels"])
    names = tuple(concepts["class_names"])

    def drawings(artist):
        with (folder / f"{artist}.webp").open("rb") as file:
            return _cut(np.asarray(Image.open(file).convert("RGB")), len(labels))

    def as_source(*artists):
        images = np.concatenate([drawings(artist) for artist in artists])
        times = len(artists)
        return from_arrays(
            fit_arrays(images, image_size),
            np.tile(labels, times),
            class_names=names,
            captions=Captions.of([[text] for text in concepts["captions"]] * times),
        )

    concept = np.tile(np.arange(len(labels)), 2)
    train = split_holdout(as_source("google", "twitter"), holdout, groups=concept)
    return {**train, "test": as_source("fluent")}


def _cut(sheet: UInt8[np.ndarray, "H W 3"], count: int) -> UInt8[np.ndarray, "n 32 32 3"]:
    """The first `count` squares of a sheet, row by row."""
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    grid = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    return grid.reshape(-1, SIDE, SIDE, 3)[:count]
