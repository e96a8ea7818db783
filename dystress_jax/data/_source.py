"""The one interface of every data set: a random-access sequence of uint8 images."""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8

from ._captions import Captions

UNLABELLED = -1

Read = Callable[
    [Int[np.ndarray, " n"]], tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]
]
ReadWhole = Callable[
    [Int[np.ndarray, " n"]],
    tuple[UInt8[np.ndarray, "n s s c"], Int32[np.ndarray, " n"], Int32[np.ndarray, "n 2"]],
]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names, each once, in the order of their labels: of numbers if all are, else of texts.

    Example:
        >>> in_order(["10", "9", "10"]), in_order(["b", "10", "9"])
        (('9', '10'), ('10', '9', 'b'))
    """
    names = set(names)
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def class_name(label: Any) -> str:
    """The class that a stored label names; "" = unlabelled.

    Integers beside gaps become floats in pandas, and the gaps NaN: both are read as they were.

    Example:
        >>> [class_name(label) for label in (2, 2.0, "2.0", "cat", 0.5)]
        ['2', '2', '2', 'cat', '0.5']
        >>> {class_name(label) for label in (-1, -1.0, "-1", "-1.0", "nan", float("nan"), None, "")}
        {''}
    """
    if label is None:
        return ""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    name = re.sub(r"^(-?\d+)\.0+$", r"\1", str(label))
    return "" if name in (str(UNLABELLED), "nan", "NaN") else name


class UnreadableError(ValueError):
    """A stored image that cannot be read; the message says which and why."""


class Example(TypedDict):
    """One image; `label` -1 = unlabelled, `index` is the stored row of the image."""

    image: UInt8[np.ndarray, "h w c"]
    label: np.int32
    index: np.int32
    captions: NotRequired[tuple[str, ...]]


class Batch(TypedDict):
    """Examples stacked along a leading axis; `tokens` of one caption each, if there are tokens.

    With an `extent`, an image is a whole picture of that height and width in the top left corner of
    a larger array.
    """

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]
    extent: NotRequired[Int32[np.ndarray, "b 2"]]
    tokens: NotRequired[Int32[np.ndarray, "b t"]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A split of a data set.

    `source[i]` is one example, `source.gather(rows)` many at once, which is the faster way.

    Attributes:
        read: `stored rows [n] -> (images [n h w c] uint8, labels [n] int32)`; called from
            several threads at once.
        read_whole: `stored rows [n] -> (pictures, labels, extents [n 2])`, the whole pictures of
            which `read` gives the central square; None = there is no more to see.
        index: the stored row of each example. Splits of the same stored images (train and
            holdout) share the rows, so an example has the same index in any split.
        num_stored: how many rows are stored, for all splits that share them; more than any index.
            An array with one entry a stored image has this length. 0 = one more than any index.
        image_shape: `(h, w, c)`, the same for every image.
        class_names: one name a class, in the order of the labels; empty without labels.
        stored_labels: the label of each stored row where they are known without reading images.
        captions: what is said about each stored image; every example has at least one. None = the
            data set has no captions.
        paths: the file of each stored image; empty where they are no files.
        skipped: what was left out of the data set because it cannot be read, in words.
        of_files: whether the images are decoded to RGB from files, whose mode may be any: for an
            encoder of grey images they may as well be grey.
        stamp: what tells the stored images from others and is cheap to find out: in words, with a
            number that depends on all of them. None = nothing is.
        notes: what was decided when the data set was opened and nobody has asked for, in words.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> len(source), source.num_classes, source.image_shape
        (1563, 8, (32, 32, 3))
        >>> example = source[0]
        >>> example["image"].shape, source.class_names[example["label"]], int(example["index"])
        ((32, 32, 3), 'Symbols', 0)
        >>> example["captions"]
        ('keycap: #',)
    """

    read: Read
    read_whole: ReadWhole | None = None
    index: Int32[np.ndarray, " n"]
    num_stored: int = 0
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()
    stored_labels: Int32[np.ndarray, " stored"] | None = None
    captions: Captions | None = None
    paths: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    of_files: bool = False
    stamp: Callable[[], str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Count the stored rows if nobody says how many there are."""
        if not self.num_stored:
            object.__setattr__(self, "num_stored", int(self.index.max(initial=-1)) + 1)

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
        """The example at position `i`, from the end if negative."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of a source with {len(self)}")
        batch = self.gather(np.array([i]))
        example: Example = {
            "image": batch["image"][0],
            "label": batch["label"][0],
            "index": batch["index"][0],
        }
        if self.captions is not None:
            example["captions"] = self.captions[int(example["index"])]
        return example

    def gather(
        self,
        rows: Int[np.ndarray, " b"],
        draw: Float[np.ndarray, " b"] | None = None,
        *,
        whole: bool = False,
    ) -> Batch:
        """The examples at these positions, in this order.

        Args:
            rows: positions in [0, n).
            draw: one number in [0, 1) an image, which chooses its caption; None = the first.
            whole: whole pictures with their `extent`, where the source has them.
        """
        index = self.index[rows]
        if whole and self.read_whole is not None:
            image, label, extent = self.read_whole(index)
            if self.stored_labels is not None:
                label = self.stored_labels[index]
            batch: Batch = {"image": image, "label": label, "index": index, "extent": extent}
        else:
            image, label = self.read(index)
            batch = {"image": image, "label": label, "index": index}
        if self.captions is not None and self.captions.tokens is not None:
            batch["tokens"] = self.captions.tokens.of(self.captions.choose(index, draw))
        return batch

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Source":
        """The source of only these positions, in this order."""
        return dataclasses.replace(self, index=self.index[rows])

    def labels(self) -> Int32[np.ndarray, " n"]:
        """The label of every example; reads all images if `stored_labels` is None."""
        if self.stored_labels is not None:
            return self.stored_labels[self.index]
        parts = np.array_split(self.index, -(-len(self) // 1024) or 1)
        return np.concatenate([self.read(part)[1] for part in parts])

    def relabel(self, labels: Int[np.ndarray, " n"], class_names: tuple[str, ...]) -> "Source":
        """The same images with other labels, one an example."""
        stored = np.full(self.num_stored, UNLABELLED, np.int32)
        stored[self.index] = labels
        read = self.read
        return dataclasses.replace(
            self,
            read=lambda rows: (read(rows)[0], stored[rows]),
            class_names=class_names,
            stored_labels=stored,
        )
