"""What an evaluation says, and the accuracies that both evaluations report."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Result(NamedTuple):
    """Accuracy on the images tested and how it was measured; `_asdict()` fits in JSON.

    Attributes:
        top1: share of images whose class is the first guess, in [0, 1].
        top5: share of images whose class is among the first five guesses (or as many as there are
            classes), in [0, 1].
        protocol: settings and sizes that the numbers depend on.
    """

    top1: float
    top5: float
    protocol: dict[str, Any]


@functools.partial(jax.jit, static_argnames="top")
def top_accuracy(
    scores: Float[Array, "n classes"], labels: Int[Array, " n"], *, top: int
) -> Float[Array, ""]:
    """Share of rows whose label has one of the `top` highest scores.

    Of equal scores the class with the lower number counts as higher, so the outcome is
    deterministic.

    Args:
        scores: a score for each class; only their order matters.
        labels: in [0, classes).
        top: how many guesses, at least 1; as many as there are classes at most.

    Returns:
        In [0, 1].

    Example:
        >>> scores = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]])
        >>> float(top_accuracy(scores, jnp.array([1, 1]), top=1))
        0.5
        >>> float(top_accuracy(scores, jnp.array([1, 1]), top=2))
        1.0
    """
    _, guesses = jax.lax.top_k(scores, min(top, scores.shape[1]))
    return jnp.mean((guesses == labels[:, None]).any(axis=1), dtype=jnp.float32)
