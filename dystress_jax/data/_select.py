"""Some examples of a source: a fair sample, a long tail, some classes, those with labels."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Int

from ..errors import ArgumentError
from ._source import UNLABELLED, Source


def labelled(source: Source) -> Source:
    """The examples that have a label; all of them where that shows only with the images.

    Args:
        source: images, with labels or without.

    Example:
        >>> from dystress_jax import data
        >>> images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.array([0, -1, 1])
        >>> source = data.from_arrays(images, labels, class_names=("a", "b"))
        >>> len(data.labelled(source))
        2
    """
    if source.stored_labels is None:
        return source
    return source.take(source.labels() != UNLABELLED)


def subset(source: Source, size: int) -> Source:
    """At most `size` examples, spread evenly over the source; 0 = all of them.

    If labels are known without reading images, every class keeps its share, up to one example, and
    the examples are spread over each class. Else they are spread over the stored order.

    Args:
        source: n examples.
        size: how many to keep, at least 0; 0, n or more = all.

    Returns:
        The examples that stay, in their order.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> some = data.subset(source, 400)
        >>> np.bincount(source.labels()).tolist(), np.bincount(some.labels()).tolist()
        ([85, 157, 128, 261, 325, 166, 223, 218], [22, 40, 33, 67, 83, 43, 57, 55])
    """
    if not 0 < size < len(source):
        return source
    spread = np.arange(size) * len(source) // size
    if source.stored_labels is None:
        return source.take(spread)
    by_class = np.argsort(source.labels(), kind="stable")
    return source.take(np.sort(by_class[spread]))


def long_tail(source: Source, imbalance_ratio: float) -> Source:
    r"""A labelled source with exponentially fewer examples of each later class.

    $$ n_c = \lfloor n_{max} \, r^{c / (C - 1)} \rfloor, \quad c = 0 \ldots C - 1 $$

    $r$ is the ratio, $C$ the number of classes that have examples and $n_{max}$ the size of the
    largest. A class keeps at least one example. The same examples stay for every seed of a run, and
    those that stay with a smaller ratio also stay with a larger one. If labels are known only with
    the images, all images are read once.

    Args:
        source: every example has a label.
        imbalance_ratio: size of the smallest class over that of the largest, (0, 1]; 1 = as it is.

    Returns:
        The examples that stay, in their order.

    Raises:
        ArgumentError: the ratio is out of range, or an example has no label.

    Example:
        >>> from dystress_jax import data
        >>> labels = np.repeat(np.arange(3), 100)
        >>> images = np.zeros((300, 4, 4, 3), np.uint8)
        >>> source = data.from_arrays(images, labels, class_names=("a", "b", "c"))
        >>> np.bincount(data.long_tail(source, 0.01).labels()).tolist()
        [100, 10, 1]

    References:
        Cui et al., [arXiv 1901.05555](https://arxiv.org/abs/1901.05555): long-tailed CIFAR.
    """
    if not 0 < imbalance_ratio <= 1:
        raise ArgumentError(
            "imbalance_ratio",
            f"found {imbalance_ratio}; allowed: above 0, at most 1: the size of the smallest class "
            "over that of the largest.",
        )
    if imbalance_ratio == 1:
        return source
    labels = source.labels() if source.num_classes else np.full(len(source), UNLABELLED)
    unknown = int((labels == UNLABELLED).sum())
    if unknown:
        raise ArgumentError(
            "imbalance_ratio",
            f"found {imbalance_ratio}, but {unknown} of the {len(source)} training images have no "
            "label; allowed: 1, or images that all have a label.",
        )
    have = np.bincount(labels, minlength=source.num_classes)
    there = np.cumsum(have > 0) - 1  # a class without images is no part of the tail
    power = there / max(there[-1], 1)
    # A product such as 100 * 0.01 ** 0.5 may come out just below its whole number.
    want = np.maximum(np.floor(have.max() * imbalance_ratio**power + 1e-6), 1).astype(int)
    return source.take(draw_of_each_class(labels, want, seed=0))


def draw_of_each_class(
    labels: Int[np.ndarray, " n"], count: Int[np.ndarray, " classes"], *, seed: int
) -> Bool[np.ndarray, " n"]:
    """Choose some of the examples of every class at random.

    Args:
        labels: of the examples, below the number of classes; those below 0 are never chosen.
        count: how many of each class, at least 0; of a class that has fewer, all.
        seed: of the choice, at least 0. A larger count keeps what a smaller one has chosen.

    Example:
        >>> from dystress_jax import data
        >>> labels = np.array([0, 1, 0, -1, 1, 1])
        >>> chosen = data.draw_of_each_class(labels, np.array([1, 2]), seed=0)
        >>> sorted(labels[chosen].tolist())
        [0, 1, 1]
    """
    # The legacy generator's stream is frozen for all versions of NumPy; the new one's is not.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    shuffled = shuffled[labels[shuffled] >= 0]
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    have = np.bincount(labels[by_class], minlength=len(count))
    rank = np.arange(len(by_class)) - np.repeat(np.cumsum(have) - have, have)
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[rank < np.repeat(count, have)]] = True
    return chosen


def without_classes(source: Source, names: Collection[str]) -> Source:
    """Leave some classes out; the others are numbered anew, in their order.

    Args:
        source: a labelled source.
        names: of classes of the source, not all of them.

    Raises:
        ArgumentError: the source has no such class, or no other.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> some = data.without_classes(source, ["People & Body"])
        >>> len(source), len(some), source.num_classes, some.num_classes
        (1563, 1238, 8, 7)
    """
    unknown = sorted(set(names) - set(source.class_names))
    kept = tuple(name for name in source.class_names if name not in names)
    if unknown or not kept:
        raise ArgumentError(
            "names",
            f"found {unknown[0] if unknown else 'all of them'!r}; allowed: some of "
            f"{', '.join(source.class_names) or 'none, since the images have no labels'}.",
        )
    stay = np.array([name not in names for name in source.class_names])
    number = np.where(stay, np.cumsum(stay) - 1, UNLABELLED - 1)  # two classes may have one name
    labels = source.labels()
    # Without a label stays without one.
    renumbered = np.where(labels == UNLABELLED, UNLABELLED, number[labels])
    stays = renumbered >= UNLABELLED
    return source.take(stays).relabel(renumbered[stays], kept)
