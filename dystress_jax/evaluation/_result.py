"""What every evaluation returns, and the accuracies that several of them report."""

import functools
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from .._placement import of_whole_arrays
from ..errors import at_least_one, look_up
from .confusion import Confusion, confusion


class Row(NamedTuple):
    """One number that an evaluation has measured.

    Attributes:
        name: a key of JSON, such as `top1` or `image_to_text_recall_at_1`.
        value: the number.
        chance: the value that guessing has, in the same unit; None where it is not known.
        share: True: `value` is in [0, 1] and shown in percent. False: it is a plain number.
        balanced: of an accuracy, the mean over the classes of the share that is right; None where
            it is not known.
        note: what is shown behind the number, such as `k 20`.
        std: the standard deviation where the value is the mean of several seeds; None: of one.
    """

    name: str
    value: float
    chance: float | None = None
    share: bool = True
    balanced: float | None = None
    note: str = ""
    std: float | None = None


class Result(NamedTuple):
    """What an evaluation has measured and how.

    Attributes:
        rows: the numbers, in the order in which they are shown.
        protocol: settings and sizes that the numbers depend on; it fits in JSON.
        split: which images were measured, such as `test`. The caller knows it and fills it in
            with `_replace`.
        confusion: which classes were taken for which, of a classification. Where the rows are of
            several measurements, such as seeds, it is that of one, which it names.
        per_class: of a classification without a confusion, the share of each class that was right,
            by the name of the row.
        notes: what a person should know who reads the numbers.
        by_seed: where the rows are means over seeds, the rows of each.

    Example:
        >>> result = Result((Row("top1", 0.75, chance=0.5),), {"k": 20}, split="test")
        >>> result.value("top1")
        0.75
        >>> result.to_json()
        {'top1': 0.75, 'chance': {'top1': 0.5}, 'protocol': {'k': 20}, 'split': 'test'}
    """

    rows: tuple[Row, ...]
    protocol: dict[str, Any]
    split: str = ""
    confusion: Confusion | None = None
    notes: tuple[str, ...] = ()
    by_seed: Mapping[int, tuple[Row, ...]] = types.MappingProxyType({})
    per_class: Mapping[str, Mapping[str, float | None]] = types.MappingProxyType({})

    def value(self, name: str) -> float:
        """The number of this name.

        Raises:
            ArgumentError: no row has this name.
        """
        return self.row(name).value

    def row(self, name: str) -> Row:
        """The row of this name.

        Raises:
            ArgumentError: no row has this name.
        """
        return look_up({row.name: row for row in self.rows}, name)

    def to_json(self) -> dict[str, Any]:
        """One key for each row, then `chance` and `balanced` of the rows that have them.

        Then `protocol` and `split`; of several seeds `NAME_std` of each row and `by_seed`, the rows
        of each; of a classification `balanced_accuracy` and `per_class_accuracy` too, and
        `per_class_of` where these are of one of several measurements; `notes` if any.
        """
        found: dict[str, Any] = {row.name: row.value for row in self.rows}
        found |= {f"{row.name}_std": row.std for row in self.rows if row.std is not None}
        for beside in ("chance", "balanced"):
            known = {row.name: getattr(row, beside) for row in self.rows}
            known = {name: value for name, value in known.items() if value is not None}
            found |= {beside: known} if known else {}
        found |= {"protocol": self.protocol, "split": self.split}
        if self.confusion is not None:
            found["balanced_accuracy"] = self.confusion.balanced()
            found["per_class_accuracy"] = self.confusion.by_class()
            found |= {"per_class_of": self.confusion.of} if self.confusion.of else {}
        elif self.per_class:
            found["per_class_accuracy"] = {row: dict(of) for row, of in self.per_class.items()}
        if len(self.by_seed) > 1:
            found["by_seed"] = {
                str(seed): {row.name: row.value for row in rows}
                for seed, rows in self.by_seed.items()
            }
        return found | ({"notes": list(self.notes)} if self.notes else {})


def classified(
    scores: Float[ArrayLike, "n classes"],
    labels: Int[ArrayLike, " n"],
    class_names: Sequence[str],
    *,
    of: str = "",
) -> tuple[tuple[Row, Row], Confusion]:
    """The rows `top1`, with its balanced accuracy, and `top5`, and what is taken for what.

    Args:
        scores: as for `top_accuracy`.
        labels: in [0, classes).
        class_names: a name for each class.
        of: of which measurement the confusion is, where there are several.
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    top1, top5 = (float(top_accuracy(scores, labels, top=top)) for top in (1, 5))
    predicted = np.asarray(jnp.argmax(scores, axis=1))
    found = confusion(predicted, np.asarray(labels), class_names, of=of)
    balanced = float("nan") if math.isnan(top1) else found.balanced()
    classes = len(class_names)
    note = f"always, of {classes} classes" if classes <= 5 and top5 == 1 else ""
    return (Row("top1", top1, balanced=balanced), Row("top5", top5, note=note)), found


@of_whole_arrays
@functools.partial(jax.jit, static_argnames="top")
def top_accuracy(
    scores: Float[Array, "n classes"], labels: Int[Array, " n"], *, top: int
) -> Float[Array, ""]:
    """Share of rows whose label has one of the `top` highest scores.

    Of equal scores the class with the lower number counts as higher, so the outcome is
    deterministic. A class with the score -inf is no guess.

    Args:
        scores: a score for each class; only their order matters.
        labels: in [0, classes).
        top: how many guesses, at least 1; as many as there are classes at most.

    Returns:
        In [0, 1]; NaN if a score is.

    Raises:
        ArgumentError: top is below 1.

    Example:
        >>> scores = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]])
        >>> float(top_accuracy(scores, jnp.array([1, 1]), top=1))
        0.5
        >>> float(top_accuracy(scores, jnp.array([1, 1]), top=2))
        1.0
    """
    at_least_one(top=top)
    highest, guesses = jax.lax.top_k(scores, min(top, scores.shape[1]))
    right = (guesses == labels[:, None]) & (highest > -jnp.inf)
    share = jnp.mean(right.any(axis=1), dtype=jnp.float32)
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, share)
