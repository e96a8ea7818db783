"""The embedded data sets: drawings by three artists, and patches of photographs."""

import importlib.resources
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from ..errors import look_up
from ._captions import Captions
from ._holdout import split_holdout
from ._images import check_image_size, fit_arrays
from ._source import Source
from ._stored import from_arrays

SIDE = 32


def open_embedded(
    *, name: str = "", image_size: int = 0, holdout: float = 0.1
) -> dict[str, Source]:
    """One of the data sets that are in the package; no other files are needed.

    `emoji`: 1,563 concepts, each drawn by three artists, 32 x 32 RGB on white, in 8 categories.
    Train and holdout are the drawings by Google (Noto Emoji) and Twitter (Twemoji). Test is
    Microsoft's (Fluent Emoji): the same concepts in another artist's style. So accuracy on the test
    split says how well the categories of known concepts are recognised in a new style, and not how
    well new concepts are. The holdout asks for new concepts: both drawings of a concept are in
    train, or both are in the holdout. The captions are the concepts' English names. Rows: all of
    Google's drawings, then all of Twitter's, both in the order of concepts.json.

    `patches`: grey patches of 11 photographs, 32 x 32; the class is the photograph. The histogram
    of every patch is flat, so that only structure tells the photographs apart, no brightness and no
    contrast. Train and test patches, and those of the holdout, come from disjoint blocks of the
    photographs. There are no captions.

    Licences: embedded/NOTICE.md.

    Args:
        name: `emoji` or `patches`; "" = emoji.
        image_size: side that the images are resized to, in pixels; 0 = 32.
        holdout: share of the training concepts, or blocks, that is kept out, [0, 1).

    Returns:
        The splits, as `open_splits` has them.

    Raises:
        ArgumentError: there is no such data set, or an argument is out of range.
    """
    open_set = look_up(SETS, name or "emoji")
    check_image_size(image_size)
    return open_set(image_size, holdout)


def _open_emoji(image_size: int, holdout: float) -> dict[str, Source]:
    concepts = _read_json("concepts.json")
    labels = np.array(concepts["labels"])

    def as_source(*artists):
        images = np.concatenate([_read_sheet(f"{a}.webp", "RGB", len(labels)) for a in artists])
        times = len(artists)
        return from_arrays(
            fit_arrays(images, image_size),
            np.tile(labels, times),
            class_names=tuple(concepts["class_names"]),
            captions=Captions.of([[text] for text in concepts["captions"]] * times),
        )

    concept = np.tile(np.arange(len(labels)), 2)
    train = split_holdout(as_source("google", "twitter"), holdout, groups=concept)
    return {**train, "test": as_source("fluent")}


def _open_patches(image_size: int, holdout: float) -> dict[str, Source]:
    about = _read_json("patches.json")
    names = tuple(about["class_names"])

    def as_source(split):
        labels = np.array(about[f"{split}_labels"])
        images = _read_sheet(f"patches_{split}.webp", "L", len(labels))
        return from_arrays(fit_arrays(images, image_size), labels, class_names=names)

    # The patches of a block overlap, so they stay together.
    train = _split_each_class(as_source("train"), holdout, np.array(about["train_blocks"]))
    return {**train, "test": as_source("test")}


def _split_each_class(
    source: Source, holdout: float, groups: Int[np.ndarray, " n"]
) -> dict[str, Source]:
    """`split_holdout` in every class by itself: of few groups chance would leave out a class."""
    rows = [np.flatnonzero(source.labels() == label) for label in range(source.num_classes)]
    parts = [split_holdout(source.take(of), holdout, groups=groups[of]) for of in rows]
    return {
        split: source.take(np.concatenate([part[split].index for part in parts]))
        for split in parts[0]
    }


SETS: dict[str, Callable[[int, float], dict[str, Source]]] = {
    "emoji": _open_emoji,
    "patches": _open_patches,
}


def _read_json(file: str) -> dict[str, Any]:
    return json.loads((_folder() / file).read_text(encoding="utf-8"))


def _read_sheet(file: str, mode: str, count: int) -> UInt8[np.ndarray, "n 32 32 c"]:
    """The first `count` squares of a sheet, row by row, in colour (RGB) or grey (L)."""
    with (_folder() / file).open("rb") as opened:
        sheet = np.atleast_3d(np.asarray(Image.open(opened).convert(mode)))
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    grid = sheet.reshape(rows, SIDE, columns, SIDE, -1).swapaxes(1, 2)
    return grid.reshape(rows * columns, SIDE, SIDE, -1)[:count]


def _folder():
    return importlib.resources.files("dystress_jax.data") / "embedded"
