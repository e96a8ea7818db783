"""How classes fare by how many training images they have: few, a medium number, or many."""

import numpy as np
from jaxtyping import Int

from ._result import Row
from .confusion import Confusion

THIRDS = ("few", "medium", "many")
LONG_TAIL = 10  # times as many images as the rarest class has


def by_frequency(top1: Row, found: Confusion, labels: Int[np.ndarray, " n"]) -> tuple[Row, ...]:
    """The accuracy of rare and of frequent classes, where the training images have a long tail.

    The classes that are tested, from the rarest to the most frequent one, are cut into thirds; what
    does not divide by three is in the last. The accuracy of a third is the mean of those of its
    classes. There is a long tail where the most frequent class has at least ten times the images of
    the rarest.

    Args:
        top1: the accuracy of all classes, whose name the others begin with.
        found: of the test images.
        labels: of the training images, at least 0.

    Returns:
        `top1_many`, `top1_medium` and `top1_few`; none without a long tail, or of fewer than three
        classes.

    Example:
        >>> from dystress_jax.evaluation import confusion
        >>> found = confusion(np.array([0, 1, 0, 0]), np.array([0, 1, 2, 2]), ("a", "b", "c"))
        >>> rows = by_frequency(Row("top1", 0.5), found, np.repeat([0, 1, 2], [50, 9, 5]))
        >>> [(row.name, row.value, row.note) for row in rows][::2]
        [('top1_many', 1.0, '1 class of 50 images'), ('top1_few', 0.0, '1 class of 5 images')]

    References:
        The thirds are those of Jiang et al. (SDCLR), [arXiv 2106.02990](https://arxiv.org/abs/2106.02990),
        by their code, `exp_analyse.py` of [VITA-Group/SDCLR](https://github.com/VITA-Group/SDCLR).
    """
    tested = np.flatnonzero(found.images)
    sizes = np.bincount(labels, minlength=len(found.class_names))[tested]
    if len(sizes) < len(THIRDS) or sizes.max() < LONG_TAIL * max(int(sizes.min()), 1):
        return ()
    shares, third = np.array(found.per_class(), float)[tested], len(sizes) // len(THIRDS)
    parts = np.split(np.argsort(sizes, kind="stable"), [third, 2 * third])
    rows = [
        Row(f"{top1.name}_{name}", float(np.mean(shares[part])), note=_said(sizes[part]))
        for name, part in zip(THIRDS, parts, strict=True)
    ]
    return tuple(reversed(rows))


def _said(sizes: Int[np.ndarray, " classes"]) -> str:
    """How many classes, and how many training images each has."""
    fewest, most = (f"{int(size):,}" for size in (sizes.min(), sizes.max()))
    each = fewest if fewest == most else f"{fewest} to {most}"
    return f"{len(sizes):,} class{'es' * (len(sizes) > 1)} of {each} images"
