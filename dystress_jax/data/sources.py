"""Open a data set, whatever its kind, as sources by split."""

from ._embedded import open_embedded
from ._source import Source

KINDS = ("embedded",)


def open_splits(
    kind: str,
    *,
    name: str = "",
    path: str = "",
    image_size: int = 0,
    holdout: float = 0.1,
) -> dict[str, Source]:
    """Open every split that a data set has: train, mostly holdout, often test."""
    del name, path
    if kind not in KINDS:
        raise ValueError(f"data.source is {kind!r}; allowed: {', '.join(KINDS)}")
    return open_embedded(image_size=image_size, holdout=holdout)


def open_source(
    kind: str,
    *,
    split: str,
    name: str = "",
    path: str = "",
    image_size: int = 0,
    holdout: float = 0.1,
) -> Source | None:
    """Open one split; None if the data set has no such split."""
    splits = open_splits(kind, name=name, path=path, image_size=image_size, holdout=holdout)
    return splits.get(split)
