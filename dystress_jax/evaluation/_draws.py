"""Measurements that draw something: shares of the labels, and the mean of several seeds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from .. import data
from ..errors import ArgumentError
from ._frequency import by_frequency
from ._result import Row
from .confusion import Confusion, one_of
from .features import no_label

BySeed = Mapping[int, tuple[Row, ...]]
Part = TypeVar("Part")
SEEDS = 2**32  # of NumPy's generator


def some_of_each_class(
    labels: Int[np.ndarray, " n"], count: Callable[[int], int], seed: int
) -> Bool[np.ndarray, " n"]:
    """Choose images of every class at random.

    Args:
        labels: of the images; those below 0 are never chosen.
        count: how many of a class, given how many it has; no more than these are taken.
        seed: of the choice, at least 0. A larger count keeps what a smaller one has chosen.

    Example:
        >>> chosen = some_of_each_class(np.array([0, 1, 0, 1, 1]), lambda size: 1, seed=0)
        >>> sorted(np.array([0, 1, 0, 1, 1])[chosen].tolist())
        [0, 1]
    """
    have = np.bincount(labels[labels >= 0])
    return data.draw_of_each_class(labels, np.array([*map(count, have.tolist())], int), seed=seed)


def share_of_each_class(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int
) -> Bool[np.ndarray, " n"]:
    """Choose a share of the images of every class, at least one of each.

    Example:
        >>> labels = np.repeat([0, 1], [100, 3])
        >>> np.bincount(labels[share_of_each_class(labels, 0.1, seed=0)]).tolist()
        [10, 1]
    """
    return some_of_each_class(labels, lambda size: max(1, round(fraction * size)), seed)


def with_known_labels(train: data.Source) -> data.Source:
    """The images that have a label, which is read with the image where it is not known before.

    Raises:
        ArgumentError: none has one.
    """
    if train.stored_labels is None:
        train = train.relabel(train.labels(), train.class_names)
    known = data.labelled(train)
    if not len(known):
        raise no_label("train", train)
    return known


def with_share_of_labels(source: data.Source, fraction: float, seed: int) -> data.Source:
    """A source of labelled images, or a share of each class of them."""
    if fraction == 1:
        return source
    return source.take(share_of_each_class(source.labels(), fraction, seed))


def for_devices(source: data.Source, mesh: Mesh) -> data.Source:
    """The images to fit on; of fewer than devices some come again, so that every device has one."""
    if len(source) >= mesh.size:
        return source
    return source.take(np.resize(np.arange(len(source)), mesh.size))


def labels_of(fraction: float) -> str:
    """A share of the labels in words.

    Example:
        >>> labels_of(0.01)
        '1 % of the labels'
    """
    return f"{100 * fraction:g} % of the labels"


def of_share(fraction: float, rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows under the names that say which share of the labels they had; all: as they are.

    Example:
        >>> [row.name for row in of_share(0.01, [Row("top1", 0.5)])]
        ['1_percent_top1']
    """
    prefix = "" if fraction == 1 else f"{100 * fraction:g}_percent_"
    return tuple(row._replace(name=prefix + row.name) for row in rows)


def measure_by_seed(
    measure: Callable[[Part, int], tuple[tuple[Row, ...], Confusion]],
    parts: Sequence[Part],
    seeds: Sequence[int],
    *,
    named: Callable[[Part], str],
    labels: Int[np.ndarray, " n"],
) -> tuple[dict[int, tuple[Row, ...]], Confusion]:
    """Measure each part, such as a share of the labels, with each seed.

    Args:
        measure: `(part, seed) -> (rows, confusion)`; the first row is the accuracy.
        parts: at least one.
        seeds: at least one.
        named: what a part is, in words.
        labels: of all training images that have one.

    Returns:
        The rows of each seed, with those of rare and of frequent classes (`by_frequency`), and the
        confusion of the first part and seed, which says so.
    """
    by_seed: dict[int, tuple[Row, ...]] = {}
    first: Confusion | None = None
    for seed in seeds:
        by_seed[seed] = ()
        for part in parts:
            rows, found = measure(part, seed)
            by_seed[seed] += rows + by_frequency(rows[0], found, labels)
            if first is None:
                of = one_of((parts, named(part)), (seeds, f"seed {seed}"))
                first = dataclasses.replace(found, of=of)
    assert first is not None
    return by_seed, first


def mean_and_std(by_seed: BySeed) -> tuple[Row, ...]:
    """The mean of each row over the seeds; of several the sample's standard deviation too.

    Example:
        >>> [row] = mean_and_std({0: (Row("top1", 0.5),), 1: (Row("top1", 0.7),)})
        >>> row.value, row.std
        (0.6, 0.141)
    """
    means = []
    for same in zip(*by_seed.values(), strict=True):
        values = [row.value for row in same]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        balanced = [row.balanced for row in same if row.balanced is not None]
        mean = float(np.mean(balanced)) if balanced else None
        means.append(same[0]._replace(value=float(np.mean(values)), std=std, balanced=mean))
    return tuple(means)


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are none.

    Raises:
        ArgumentError: there is none, one is below 0 or 2^32 at least, or one is there twice.
    """
    if not seeds or min(seeds) < 0 or max(seeds) >= SEEDS or len(set(seeds)) < len(seeds):
        allowed = f"different numbers from 0 to {SEEDS - 1}"
        raise ArgumentError("seeds", f"found {tuple(seeds)}; allowed: {allowed}.")


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuse shares that are none.

    Raises:
        ArgumentError: there is none, one is not in (0, 1], or one is there twice.
    """
    inside = all(0 < fraction <= 1 for fraction in fractions)
    if not fractions or not inside or len(set(fractions)) < len(fractions):
        raise ArgumentError(
            "fractions", f"found {tuple(fractions)}; allowed: different numbers in (0, 1]."
        )
