"""What is said about stored images, and which of several captions is used when."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, Int64


def unique_texts(texts: Sequence[str]) -> tuple[list[str], Int32[np.ndarray, " n"]]:
    """The distinct texts in the order in which they come, and where each text is among them.

    Args:
        texts: n of them.

    Example:
        >>> from dystress_jax import data
        >>> distinct, position = data.unique_texts(["dog", "cat", "dog"])
        >>> distinct, position.tolist()
        (['dog', 'cat'], [0, 1, 0])
    """
    found: dict[str, int] = {}
    position = [found.setdefault(text, len(found)) for text in texts]
    return list(found), np.array(position, np.int32)


class Tokens(NamedTuple):
    """The tokens of c captions; equal captions share a row.

    Attributes:
        rows: of the distinct captions.
        position: the row of each caption.
    """

    rows: Int32[np.ndarray, "distinct t"]
    position: Int32[np.ndarray, " c"]

    def of(self, captions: Int[np.ndarray, " n"]) -> Int32[np.ndarray, "n t"]:
        """The tokens of the captions at these places."""
        return self.rows[self.position[captions]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Captions:
    """The captions of stored images in one flat list; an image has any number of them.

    Attributes:
        texts: all captions, image after image.
        start: `texts[start[i] : start[i + 1]]` are those of stored image i.
        tokens: the texts as integers, once `with_tokens` has made them.

    Example:
        >>> captions = Captions.of([["a cat"], ["a dog", "an animal"]])
        >>> captions.texts, captions.start.tolist(), captions[1]
        (('a cat', 'a dog', 'an animal'), [0, 1, 3], ('a dog', 'an animal'))
    """

    texts: tuple[str, ...]
    start: Int64[np.ndarray, " rows"]
    tokens: Tokens | None = None

    @classmethod
    def of(cls, texts_of_images: Iterable[Sequence[str]]) -> "Captions":
        """Make them of the captions of each stored image, in order."""
        groups = [tuple(texts) for texts in texts_of_images]
        start = np.cumsum([0, *map(len, groups)], dtype=np.int64)
        return cls(texts=tuple(text for group in groups for text in group), start=start)

    def __len__(self) -> int:
        """How many stored images there are."""
        return len(self.start) - 1

    @property
    def several(self) -> bool:
        """Whether any image has more than one, so that there is something to choose."""
        return bool((np.diff(self.start) > 1).any())

    def __getitem__(self, stored: int) -> tuple[str, ...]:
        """The captions of one stored image."""
        if not 0 <= stored < len(self):
            raise IndexError(f"found {stored}; allowed: a stored image, 0 to {len(self) - 1}")
        return self.texts[self.start[stored] : self.start[stored + 1]]

    def only(self, index: Int[np.ndarray, " n"]) -> "Captions":
        """Keep the captions of these stored images alone; without tokens."""
        kept = np.zeros(len(self), bool)
        kept[index] = True
        return Captions.of(self[row] if kept[row] else () for row in range(len(kept)))

    def choose(
        self, index: Int[np.ndarray, " n"], draw: Float[np.ndarray, " n"] | None
    ) -> Int[np.ndarray, " n"]:
        """Choose one caption of each of these stored images; return where it is in `texts`.

        Args:
            index: stored images that have captions.
            draw: one number in [0, 1) an image, which says which caption; None = the first.
        """
        first = self.start[index]
        if draw is None:
            return first
        return first + (draw * (self.start[index + 1] - first)).astype(np.int64)
