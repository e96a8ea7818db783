"""The one interface of every data set: a random-access sequence of labelled uint8 images."""

import concurrent.futures
import dataclasses
import operator
import os
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

    Example:
        >>> import numpy as np
        >>> images = np.zeros((3, 8, 8, 1), np.uint8)
        >>> source = from_arrays(images, np.array([1, 0, 1]), class_names=("cat", "dog"))
        >>> len(source), source.num_classes, source.class_names[source[2]["label"]]
        (3, 2, 'dog')
    """

    read: Read
    index: Int32[np.ndarray, " n"]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 = unlabelled."""
        return len(self.class_names)

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
        >>> import numpy as np
        >>> source = from_arrays(np.zeros((10, 8, 8, 3), np.uint8))
        >>> [int(example["index"]) for example in subset(source, 4)]
        [0, 2, 5, 7]
    """
    if not 0 < size < len(source):
        return source
    return source.take(np.arange(size) * len(source) // size)


def from_arrays(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"] | None = None,
    *,
    class_names: tuple[str, ...] = (),
) -> Source:
    """A source in memory; a batch is one indexing operation."""
    known = np.full(len(images), UNLABELLED) if labels is None else labels
    stored = known.astype(np.int32)
    return Source(
        read=lambda rows: (images[rows], stored[rows]),
        index=np.arange(len(images), dtype=np.int32),
        image_shape=images.shape[1:],
        class_names=class_names,
    )


def from_reader(
    read_one: Callable[[int], tuple[UInt8[np.ndarray, "h w c"], int]],
    *,
    length: int,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
) -> Source:
    """A source that reads and decodes one image at a time, on all cores."""
    # Decoding releases the interpreter lock, so threads are enough.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")

    def read(rows):
        images = np.empty((len(rows), *image_shape), np.uint8)
        labels = np.empty(len(rows), np.int32)

        def fill(i):
            images[i], labels[i] = read_one(int(rows[i]))

        for _ in pool.map(fill, range(len(rows))):
            pass
        return images, labels

    index = np.arange(length, dtype=np.int32)
    return Source(read=read, index=index, image_shape=image_shape, class_names=class_names)


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
