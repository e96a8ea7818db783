"""Open a data set, whatever its kind, as one source a split."""

import inspect
import os
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError, look_up
from ._embedded import open_embedded
from ._folder import open_folder
from ._hf import open_hf
from ._npz import open_npz
from ._select import long_tail, subset
from ._source import Source
from ._tfds import open_tfds

Opener = Callable[..., dict[str, Source]]
"""Opens a data set: keyword arguments to the splits."""

SOURCES: dict[str, Opener] = {
    "embedded": open_embedded,
    "tfds": open_tfds,
    "folder": open_folder,
    "npz": open_npz,
    "hf": open_hf,
}
"""The sources of `open_splits`, by name."""
SPLITS = ("train", "holdout", "test")


def open_splits(
    source: str | Opener, *, imbalance_ratio: float = 1.0, limit: int = 0, **arguments: Any
) -> dict[str, Source]:
    """Open every split that a data set has.

    | `source` | |
    |---|---|
    | "embedded" | in this package: drawings with their names, or patches of photographs |
    | "tfds" | a data set that tensorflow-datasets has prepared |
    | "folder" | image files, in a sub-folder a class or with a caption file |
    | "npz" | arrays in one file |
    | "hf" | a Hugging Face data set on disk, saved or as parquet files |
    | a function | your own data |

    Each takes its own arguments; the docstring of its function in `SOURCES` explains them. A
    function of your own takes keyword arguments and returns the splits, which `from_arrays`,
    `from_reader` and `split_holdout` help to make.

    Args:
        source: a name in the table above, or a function.
        imbalance_ratio: size of the smallest training class over that of the largest, (0, 1]; 1 =
            as it is. `long_tail` is applied to the training images without the holdout. Holdout and
            test stay as they are.
        limit: number of training images that `subset` then keeps; 0 = all.
        **arguments: of the source.

    Returns:
        "train", without the holdout; "holdout", if its share is not 0; "test", if the data set
        has test images. Choose models by "holdout" alone.

    Raises:
        ArgumentError: an argument that the source does not take, or cannot use; a function that
            returns something else.

    Example:
        >>> from dystress_jax import data
        >>> splits = data.open_splits("embedded", limit=1000)
        >>> {split: len(source) for split, source in splits.items()}
        {'train': 1000, 'holdout': 312, 'test': 1563}
        >>> example = splits["train"][0]
        >>> example["image"].shape, splits["train"].class_names[example["label"]]
        ((32, 32, 3), 'Symbols')

        Your own data:

        >>> import numpy as np
        >>> def noise(*, count, holdout=0.1):
        ...     images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
        ...     return data.split_holdout(data.from_arrays(images), holdout)
        >>> {split: len(source) for split, source in data.open_splits(noise, count=50).items()}
        {'train': 45, 'holdout': 5}
    """
    if isinstance(source, str):
        name, opener = source, look_up(SOURCES, source, argument="source")
    else:
        name, opener = getattr(source, "__name__", repr(source)), source
    if isinstance(arguments.get("path"), str | os.PathLike):
        arguments["path"] = os.path.expanduser(arguments["path"])
    _check_arguments(name, opener, arguments)
    splits = opener(**arguments)
    _check_splits(name, splits)
    train = long_tail(splits["train"], imbalance_ratio)
    if not 0 <= limit <= len(train):
        raise ArgumentError(
            "limit",
            f"found {limit}; allowed: 0 for all, or up to the {len(train)} training images that "
            "there are.",
        )
    return {**splits, "train": subset(train, limit)}


def _check_arguments(name: str, opener: Opener, arguments: dict[str, Any]) -> None:
    """The opener takes all these arguments, and needs no others."""
    takes = inspect.signature(opener).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for argument, value in arguments.items():
        if argument not in takes:
            allowed = ", ".join(f"`{other}`" for other in takes) or "none"
            raise ArgumentError(
                argument,
                f"found {value!r}, but `source` {name} takes no such argument; allowed: {allowed}.",
            )
    for argument, parameter in takes.items():
        if parameter.default is parameter.empty and argument not in arguments:
            raise ArgumentError(argument, f"found none, but `source` {name} needs it.")


def _check_splits(name: str, splits: Any) -> None:
    """What a function returns are splits, and they belong together."""
    allowed = "allowed: a dict with a Source for train, and optionally for holdout and test."
    if not isinstance(splits, dict):
        raise ArgumentError("source", f"{name} returns {type(splits).__name__}; {allowed}")
    for split, part in ({"train": None} | splits).items():
        if split not in SPLITS or not isinstance(part, Source):
            found = "nothing" if part is None else type(part).__name__
            raise ArgumentError("source", f"{name} returns {found} for {split!r}; {allowed}")
    train = splits["train"]
    for split, part in splits.items():
        if part.image_shape != train.image_shape:
            raise ArgumentError(
                "source",
                f"{name} returns images {list(train.image_shape)} in train, "
                f"{list(part.image_shape)} in {split}; allowed: the same shape.",
            )
        if part.class_names not in ((), train.class_names):
            raise ArgumentError(
                "source",
                f"{name} returns other class names in {split} than in train; allowed: the same, or "
                "none for images without labels.",
            )
