"""Some of the training images are kept out of training, to choose models by them."""

import dataclasses

import numpy as np
from jaxtyping import Int

from ..errors import ArgumentError
from ._source import Source


def split_holdout(
    source: Source, holdout: float = 0.1, *, groups: Int[np.ndarray, " n"] | None = None
) -> dict[str, Source]:
    """Divide the training images: those to train on, and those to choose models by.

    The division depends on the number of groups alone, and on no seed. So runs that are compared
    have trained on the same images.

    Args:
        source: all training images, n examples.
        holdout: share of the groups that is kept out, [0, 1); 0 = none.
        groups: a number for each example; examples with the same number stay together. None = each
            example is a group.

    Returns:
        `{"train": ..., "holdout": ...}`, without "holdout" if the share is 0.

    Raises:
        ArgumentError: `holdout` is out of range, or leaves nothing to train on.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded", holdout=0.0)["train"]
        >>> {split: len(part) for split, part in data.split_holdout(source, 0.25).items()}
        {'train': 2344, 'holdout': 782}
    """
    if not 0 <= holdout < 1:
        raise ArgumentError(
            "holdout", f"found {holdout}; allowed: a share of the training images, from 0, below 1."
        )
    if holdout == 0:
        return {"train": source}
    groups = np.arange(len(source)) if groups is None else groups
    numbers = np.unique(groups)
    count = max(1, round(holdout * len(numbers)))
    if count >= len(numbers):
        raise ArgumentError(
            "holdout",
            f"found {holdout} of {len(source)} training images, which leaves none to train on; "
            "allowed: a smaller share, or 0. More images help too.",
        )
    # The legacy generator's stream is frozen for all versions of NumPy; the new one's is not.
    order = np.random.RandomState(0).permutation(len(numbers))
    held_out = np.isin(groups, numbers[order[:count]])
    # What was left out, and what is to be known, is told once, with train.
    holdout_part = dataclasses.replace(source.take(held_out), skipped=(), notes=())
    return {"train": source.take(~held_out), "holdout": holdout_part}
