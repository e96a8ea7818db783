"""Arrays in one .npz file."""

import pathlib
import zipfile

import numpy as np
from jaxtyping import Int, UInt8

from ..errors import ArgumentError
from ..files import near
from ._captions import Captions
from ._holdout import split_holdout
from ._images import check_image_size, fit_arrays
from ._source import Source
from ._stored import from_arrays

ARRAYS = (
    "class_names",
    *(
        f"{split}_{what}"
        for split in ("train", "test")
        for what in ("images", "labels", "captions")
    ),
)
MOST_CLASSES = 10**6  # larger labels are numbers of another kind, no classes


def open_npz(*, path: str, image_size: int = 0, holdout: float = 0.1) -> dict[str, Source]:
    """Arrays in one .npz file.

    | array | |
    |---|---|
    | `train_images` | uint8 [n h w c] with 1 or 3 channels, or [n h w] |
    | `test_images` | likewise; optional |
    | `train_labels`, `test_labels` | integers [n] from 0, -1 = unlabelled; optional |
    | `train_captions`, `test_captions` | strings [n] or [n k]; optional |
    | `class_names` | strings; optional: without, the classes are called by their numbers |

    Where an image has fewer than k captions, "" stands in place of the others.

    Args:
        path: the file.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept. 0 = as stored.
        holdout: share of the training images that is kept out, [0, 1).

    Returns:
        The splits, as `open_splits` has them.

    Raises:
        ArgumentError: the file or one of its arrays cannot be used.
    """
    check_image_size(image_size)
    arrays = _load(path)
    if "train_images" not in arrays:
        raise ArgumentError(
            "path",
            f"{path} has no array train_images; it has {', '.join(arrays) or 'none'}.",
        )
    images = {
        split: fit_arrays(_images(path, f"{split}_images", arrays), image_size)
        for split in ("train", "test")
        if f"{split}_images" in arrays
    }
    labels = {split: _labels(path, split, arrays) for split in images}
    names = _class_names(path, arrays, labels)
    shapes = {split: found.shape[1:] for split, found in images.items()}
    if len(set(shapes.values())) > 1:
        raise ArgumentError(
            "path",
            f"{path} has images of {shapes['train']} to train and {shapes['test']} to "
            "test; allowed: one shape, or an `image_size` if only their sides differ.",
        )
    sources = {
        split: from_arrays(
            images[split],
            labels[split],
            class_names=names,
            captions=_captions(path, split, arrays),
        )
        for split in images
    }
    return split_holdout(sources.pop("train"), holdout) | sources


def _load(path: str) -> dict[str, np.ndarray]:
    """Every array of the file; none of them is unpickled."""
    if pathlib.Path(path).is_dir():
        raise ArgumentError("path", f"{path} is a folder; allowed: a file, or the source folder.")
    if not pathlib.Path(path).is_file():
        raise ArgumentError("path", f"there is no file {path!r}.{near(path)}")
    try:
        if path.endswith(".npy"):
            raise ValueError("it is one array; give an .npz with train_images")
        if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
            raise ValueError("it is no archive; give what numpy.savez has written")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
        for key in ARRAYS:  # NumPy gives the bytes of what is no .npy file
            if isinstance(found.get(key), bytes):
                raise ValueError(f"its {key} is no array; give what numpy.savez has written")
        return found
    except MemoryError as error:
        raise ArgumentError("path", f"{path} does not fit into the memory: {error}.") from error
    except Exception as error:  # readers of damaged archives raise anything
        raise ArgumentError("path", f"{path} is no .npz file of plain arrays: {error}.") from error


def _images(path: str, key: str, arrays: dict[str, np.ndarray]) -> UInt8[np.ndarray, "n h w c"]:
    """The images, with an axis of channels."""
    found = arrays[key]
    images = found[..., None] if found.ndim == 3 else found
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ArgumentError(
            "path",
            f"{key} of {path} is {found.dtype} {list(found.shape)}; allowed: uint8 "
            "[n, height, width, channels] with 1 or 3 channels, or [n, height, width].",
        )
    if 0 in images.shape:
        raise ArgumentError("path", f"{key} of {path} is empty: {list(found.shape)}.")
    return images


def _labels(path: str, split: str, arrays: dict[str, np.ndarray]) -> Int[np.ndarray, " n"] | None:
    """The labels of a split, or None."""
    labels = arrays.get(f"{split}_labels")
    if labels is None:
        return None
    count = len(arrays[f"{split}_images"])
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise ArgumentError(
            "path",
            f"{split}_labels of {path} is {labels.dtype} {list(labels.shape)}; allowed: "
            f"one integer an image, [{count}].",
        )
    for extreme in (labels.min(), labels.max()):
        if not -1 <= extreme < MOST_CLASSES:
            raise ArgumentError(
                "path",
                f"{split}_labels of {path} holds {extreme}; allowed: 0, 1, ... for the "
                "classes, -1 for unlabelled.",
            )
    return labels


def _captions(path: str, split: str, arrays: dict[str, np.ndarray]) -> Captions | None:
    """The captions of a split, or None."""
    if f"{split}_captions" not in arrays:
        return None
    texts = _decoded(path, f"{split}_captions", arrays)
    count = len(arrays[f"{split}_images"])
    if texts.dtype.kind != "U" or texts.ndim not in (1, 2) or len(texts) != count:
        raise ArgumentError(
            "path",
            f"{split}_captions of {path} is {texts.dtype} {list(texts.shape)}; allowed: "
            f"strings, [{count}] or [{count}, captions an image].",
        )
    groups = [
        [text for text in map(str.strip, row) if text] for row in texts.reshape(count, -1).tolist()
    ]
    if [] in groups:
        raise ArgumentError(
            "path",
            f"{split}_captions of {path} has no caption for image {groups.index([])}; "
            "allowed: at least one an image that is not empty.",
        )
    return Captions.of(groups)


def _decoded(path: str, key: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """An array, its bytes as texts."""
    found = arrays[key]
    try:
        return np.char.decode(found, "utf-8") if found.dtype.kind == "S" else found
    except UnicodeDecodeError as error:
        raise ArgumentError(
            "path", f"{key} of {path} is no text in UTF-8: {error}; save strings."
        ) from error


def _class_names(
    path: str, arrays: dict[str, np.ndarray], labels: dict[str, Int[np.ndarray, " n"] | None]
) -> tuple[str, ...]:
    """The stored names; else the numbers; none if nothing has a label."""
    count = 1 + max(
        (int(found.max()) for found in labels.values() if found is not None), default=-1
    )
    if count == 0:
        return ()
    if "class_names" not in arrays:
        return tuple(str(number) for number in range(count))
    found = np.atleast_1d(_decoded(path, "class_names", arrays))
    if found.dtype.kind not in "Uiu" or found.ndim != 1:
        raise ArgumentError(
            "path",
            f"class_names of {path} is {found.dtype} {list(found.shape)}; allowed: strings, one a "
            f"class, [{count}].",
        )
    names = tuple(str(name) for name in found)
    if len(names) < count:
        raise ArgumentError(
            "path",
            f"{path} has {len(names)} class_names, but the label {count - 1}; allowed: "
            f"labels up to {len(names) - 1}.",
        )
    return names
