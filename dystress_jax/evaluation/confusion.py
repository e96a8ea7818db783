"""Which classes are taken for which: counts, the accuracy of each class, and a picture."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw

CELL, LABEL, GAP = 36, 130, 6  # pixels, where the classes have names
NAMED = 40  # classes at most that are named, with their counts, in the picture
PICTURE = 800  # pixels of a side without names, about


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """How often images of each class were taken for each.

    Attributes:
        class_names: in the order of the labels.
        counts: rows are true classes, columns those that were predicted.

    Example:
        >>> found = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), ("cat", "dog"))
        >>> found.counts.tolist(), found.per_class(), found.balanced()
        ([[1, 0], [1, 1]], [1.0, 0.5], 0.75)
    """

    class_names: tuple[str, ...]
    counts: Int[np.ndarray, "classes classes"]

    def __eq__(self, other: object) -> bool:
        """Whether the classes and all counts are the same."""
        return (
            isinstance(other, Confusion)
            and self.class_names == other.class_names
            and np.array_equal(self.counts, other.counts)
        )

    def per_class(self) -> list[float | None]:
        """The share of each class that was recognised; None for a class without images."""
        totals = self.counts.sum(axis=1)
        right = np.diagonal(self.counts)
        return [int(r) / int(n) if n else None for r, n in zip(right, totals, strict=True)]

    def balanced(self) -> float:
        """The mean of `per_class`: every class counts the same, however many images it has."""
        return float(np.mean([share for share in self.per_class() if share is not None]))

    def picture(self) -> Image.Image:
        """The counts as shades, each row as shares of its class; with names if they are few."""
        count = len(self.class_names)
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        shades = (255 - np.round(205 * shares)).astype(np.uint8)
        if count > NAMED:
            cell = max(1, PICTURE // count)
            return Image.fromarray(shades.repeat(cell, axis=0).repeat(cell, axis=1))
        side = LABEL + CELL * count + GAP
        canvas = Image.new("RGB", (side, side), "white")
        draw = ImageDraw.Draw(canvas)
        for i, name in enumerate(self.class_names):
            at, text = LABEL + i * CELL, name.encode("ascii", "replace").decode()[:20]
            draw.text((LABEL - GAP, at + CELL / 2), text, fill="black", anchor="rm")
            column = Image.new("RGB", (LABEL - GAP, CELL), "white")
            middle = (0, CELL / 2)
            ImageDraw.Draw(column).text(middle, text, fill="black", anchor="lm")
            canvas.paste(column.rotate(90, expand=True), (at, 0))
            for j in range(count):
                left, shade = LABEL + j * CELL, int(shades[i, j])
                draw.rectangle((left, at, left + CELL - 2, at + CELL - 2), fill=(shade, shade, 255))
                if self.counts[i, j]:
                    centre, ink = (
                        (left + CELL / 2, at + CELL / 2),
                        "white" if shade < 130 else "black",
                    )
                    draw.text(centre, str(self.counts[i, j]), fill=ink, anchor="mm")
        return canvas


def unseen_classes(
    found: Confusion | None, labels: Int[np.ndarray, " n"] | None
) -> tuple[str, ...]:
    """A note on the classes that are tested, and that no training image has; none without such.

    Args:
        found: of the test images; None: there is nothing to say.
        labels: of the training images; None where only reading them all would tell.

    Example:
        >>> found = confusion(np.array([0, 0]), np.array([0, 1]), ("cat", "dog"))
        >>> unseen_classes(found, np.array([0, 0, 0]))
        ('no training image is of 1 of the 2 tested classes (dog): ... count as wrong',)
    """
    if found is None or labels is None:
        return ()
    tested = found.counts.sum(axis=1)
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
    predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> Confusion:
    """Count which classes are taken for which.

    Args:
        predicted: classes, in [0, classes).
        labels: the true ones, likewise.
        class_names: in the order of the labels.

    Example:
        >>> predicted, labels = np.array([0, 1, 1]), np.array([0, 0, 1])
        >>> confusion(predicted, labels, ("cat", "dog")).counts.tolist()
        [[1, 1], [0, 1]]
    """
    count = len(class_names)
    pairs = labels.astype(np.int64) * count + predicted
    counts = np.bincount(pairs, minlength=count * count).reshape(count, count)
    return Confusion(tuple(class_names), counts)
