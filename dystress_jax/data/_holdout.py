"""What models are trained on and what they are chosen by."""

import numpy as np
from jaxtyping import Int

from ._source import Source


def split_holdout(
    source: Source, share: float, *, groups: Int[np.ndarray, " n"] | None = None
) -> dict[str, Source]:
    """Divide training data into what is trained on and what models are chosen by.

    Always the same division for the same number of groups: it depends on no seed, so runs that
    are compared have trained on the same images.

    Args:
        source: all training data, n examples.
        share: of the groups, [0, 1); 0 = no holdout.
        groups: examples with the same number stay together; default: each on its own.

    Returns:
        ``{"train": ..., "holdout": ...}``, without the holdout if ``share`` is 0.

    Raises:
        ValueError: ``share`` is out of range, or leaves nothing to train on.
    """
    if not 0 <= share < 1:
        raise ValueError(f"data.holdout is {share}; allowed: 0 <= holdout < 1, a share of train")
    if share == 0:
        return {"train": source}
    groups = np.arange(len(source)) if groups is None else groups
    numbers = np.unique(groups)
    count = max(1, round(share * len(numbers)))
    if count >= len(numbers):
        raise ValueError(
            f"data.holdout is {share} of {len(source)} training images, which leaves none to train "
            "on: give more images, or 0 for no holdout"
        )
    # The legacy generator's stream is frozen for all versions of NumPy; the new one's is not.
    order = np.random.RandomState(0).permutation(len(numbers))
    held_out = np.isin(groups, numbers[order[:count]])
    return {"train": source.take(~held_out), "holdout": source.take(held_out)}
