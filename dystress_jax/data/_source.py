"""The one interface of every data set: a random-access sequence of labelled uint8 images."""

import dataclasses
import operator
from collections.abc import Callable
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

UNLABELLED = -1

Read = Callable[
    [Int[np.ndarray, " n"]], tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]
]


class Example(TypedDict):
    """One image; ``label`` is -1 without one, ``index`` is the image's number for good."""

    image: UInt8[np.ndarray, "h w c"]
    label: np.int32
    index: np.int32


class Batch(TypedDict):
    """Examples stacked along a leading axis."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A split of a data set.

    ``source[i]`` is one example, ``source.gather(rows)`` many at once, which is the faster way.

    Attributes:
        read: ``stored rows [n] -> (images [n h w c] uint8, labels [n] int32)``; called from
            several threads at once.
        index: the stored row of each example. Splits of the same stored images (train and
            holdout) share the numbering, so an example keeps its index however it is split.
        image_shape: ``(h, w, c)``, the same for every image.
        class_names: one name a class, in the order of the labels; empty without labels.
        stored_labels: the label of each stored row where they are known without reading images.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> len(source), source.num_classes, source.image_shape
        (1563, 8, (32, 32, 3))
        >>> example = source[0]
        >>> example["image"].shape, source.class_names[example["label"]], int(example["index"])
        ((32, 32, 3), 'Symbols', 0)
    """

    read: Read
    index: Int32[np.ndarray, " n"]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()
    stored_labels: Int32[np.ndarray, " stored"] | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 = unlabelled."""
        return len(self.class_names)

    @property
    def has_labels(self) -> bool:
        """Whether any example has a label, so that accuracy can be measured."""
        if self.stored_labels is None:
            return bool(self.class_names)
        return bool((self.stored_labels[self.index] != UNLABELLED).any())

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.index)

    def __getitem__(self, i: int) -> Example:
        """The example at position ``i``, from the end if negative."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of a source with {len(self)}")
        batch = self.gather(np.array([i]))
        return {"image": batch["image"][0], "label": batch["label"][0], "index": batch["index"][0]}

    def gather(self, rows: Int[np.ndarray, " b"]) -> Batch:
        """The examples at these positions, in this order."""
        index = self.index[rows]
        image, label = self.read(index)
        return {"image": image, "label": label, "index": index}

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Source":
        """The source of only these positions, in this order."""
        return dataclasses.replace(self, index=self.index[rows])


def subset(source: Source, size: int) -> Source:
    """At most ``size`` examples, spread evenly over the source; 0 = all of them.

    Evenly, because image folders are stored class by class.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> [int(example["index"]) for example in data.subset(source, 4)]
        [0, 390, 781, 1172]
    """
    if not 0 < size < len(source):
        return source
    return source.take(np.arange(size) * len(source) // size)
