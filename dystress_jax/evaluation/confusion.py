"""How classes fare: the accuracy of each, and which are taken for which."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

COUNTED = 1_000  # classes at most of which each pair is counted: the memory is their square


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """How often images of each class were recognised, and how often taken for each other class.

    Attributes:
        class_names: in the order of the labels; equal names are numbered, as by `distinct`.
        images: how many there are of each class.
        right: how many of them were recognised.
        counts: rows are true classes, columns those that were predicted; None of more than 1,000
            classes, where they would fill the memory.
        of: which measurement this is, where the rows of a result are of several, such as `1 shot,
            seed 0`; "": the only one.

    Example:
        >>> found = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), ("cat", "dog"))
        >>> found.counts.tolist(), found.per_class(), found.balanced()
        ([[1, 0], [1, 1]], [1.0, 0.5], 0.75)
    """

    class_names: tuple[str, ...]
    images: Int[np.ndarray, " classes"]
    right: Int[np.ndarray, " classes"]
    counts: Int[np.ndarray, "classes classes"] | None
    of: str = ""

    def __post_init__(self) -> None:
        """Give each class a name of its own."""
        object.__setattr__(self, "class_names", distinct(self.class_names))

    def __eq__(self, other: object) -> bool:
        """Whether the classes and all counts are the same."""
        return (
            isinstance(other, Confusion)
            and self.class_names == other.class_names
            and np.array_equal(self.images, other.images)
            and np.array_equal(self.right, other.right)
            and np.array_equal(_or_none(self.counts), _or_none(other.counts))
        )

    def per_class(self) -> list[float | None]:
        """The share of each class that was recognised; None for a class without images."""
        pairs = zip(self.right, self.images, strict=True)
        return [int(right) / int(images) if images else None for right, images in pairs]

    def by_class(self) -> dict[str, float | None]:
        """`per_class` by the name of the class."""
        return dict(zip(self.class_names, self.per_class(), strict=True))

    def balanced(self) -> float:
        """The mean of `per_class`: every class counts the same, however many images it has."""
        return float(np.mean([share for share in self.per_class() if share is not None]))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with a number behind each that was there before, so that no two are equal.

    Args:
        names: of classes, such as `crane` for the bird and for the machine.

    Example:
        >>> distinct(["crane", "dog", "crane"])
        ('crane', 'dog', 'crane (2)')
    """
    taken, seen, found = set(names), dict.fromkeys(names, 0), []
    for name in names:
        seen[name] += 1
        said = name
        if seen[name] > 1:
            while (said := f"{name} ({seen[name]})") in taken:
                seen[name] += 1
            taken.add(said)
        found.append(said)
    return tuple(found)


def _or_none(counts: Int[np.ndarray, "classes classes"] | None) -> Int[np.ndarray, "..."]:
    return np.zeros(0, np.int64) if counts is None else counts


def one_of(*parts: tuple[Collection[Any], str]) -> str:
    """What a confusion is `of`: the parts that tell one of several measurements from the others.

    Args:
        parts: what there is of each kind, and the one that it is.

    Example:
        >>> one_of(((1, 5), "1 shot"), ((0, 1, 2), "seed 0")), one_of(((1,), "1 shot"))
        ('1 shot, seed 0', '')
    """
    return ", ".join(said for there, said in parts if len(there) > 1)


def unseen_classes(found: Confusion, labels: Int[np.ndarray, " n"]) -> tuple[str, ...]:
    """A note on the classes that are tested, and that no training image has; none without such.

    Args:
        found: of the test images.
        labels: of the training images.

    Example:
        >>> found = confusion(np.array([0, 0]), np.array([0, 1]), ("cat", "dog"))
        >>> unseen_classes(found, np.array([0, 0, 0]))
        ('no training image is of 1 of the 2 tested classes (dog): ... count as wrong',)
    """
    tested = found.images
    unseen = np.flatnonzero((tested > 0) & ~np.isin(np.arange(len(tested)), labels))
    if not len(unseen):
        return ()
    names = ", ".join(found.class_names[number] for number in unseen[:3])
    more = ", ..." if len(unseen) > 3 else ""
    whose = "its" if len(unseen) == 1 else "their"
    return (
        f"no training image is of {len(unseen)} of the {np.count_nonzero(tested)} tested classes "
        f"({names}{more}): {whose} test images ({tested[unseen].sum()}) count as wrong",
    )


def confusion(
    predicted: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str],
    *,
    of: str = "",
) -> Confusion:
    """Count which classes are taken for which.

    Args:
        predicted: classes, in [0, classes).
        labels: the true ones, likewise.
        class_names: in the order of the labels. Of more than 1,000 only what was recognised is
            counted.
        of: which measurement this is; "": the only one.

    Example:
        >>> predicted, labels = np.array([0, 1, 1]), np.array([0, 0, 1])
        >>> confusion(predicted, labels, ("cat", "dog")).counts.tolist()
        [[1, 1], [0, 1]]
    """
    count = len(class_names)
    counts = None
    if count <= COUNTED:
        pairs = labels.astype(np.int64) * count + predicted
        counts = np.bincount(pairs, minlength=count * count).reshape(count, count)
    return Confusion(
        tuple(class_names),
        images=np.bincount(labels, minlength=count),
        right=np.bincount(labels[predicted == labels], minlength=count),
        counts=counts,
        of=of,
    )
