"""Logistic regression by L-BFGS on features, its L2 chosen on validation images."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from .. import data
from ..errors import ArgumentError
from ._draws import some_of_each_class
from ._result import Row, classified, top_accuracy
from .confusion import Confusion
from .features import Encode, encode_source
from .linear_head import LinearHead, Solved, solve_lbfgs

STRENGTHS = tuple(10.0**power for power in range(6, -7, -2))  # of L2, on the sum of the losses
HALVINGS = 4
VALIDATION = 0.1  # of the training images, where nothing is held out
CHOICE = "10^6, 10^4, ... 10^-6, then 4 halvings of the step around the best"


class Features(NamedTuple):
    """Features of images with their classes."""

    x: Float[Array, "n d"]  # on the device, where many classifiers are fitted on them
    y: Int[np.ndarray, " n"]

    def take(self, chosen: Bool[np.ndarray, " n"]) -> "Features":
        return Features(self.x[chosen], self.y[chosen])

    def join(self, other: "Features") -> "Features":
        return Features(jnp.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))

    def normalized(self) -> "Features":
        lengths = jnp.linalg.norm(self.x, axis=1, keepdims=True)
        return self._replace(x=self.x / jnp.maximum(lengths, 1e-12))


def encoded(encode: Encode, source: data.Source, mesh: Mesh) -> Features:
    """The features of the images that have a label."""
    x, y = encode_source(encode, data.labelled(source), mesh=mesh)
    return Features(jnp.asarray(x), y)


def with_validation(
    fitted: Features, held_out: Features | None, seed: int
) -> tuple[Features, Features]:
    """What is fitted and what the L2 is chosen by: a tenth of each class if none is held out."""
    if held_out is not None:
        return fitted, held_out
    tenth = some_of_each_class(fitted.y, lambda size: round(VALIDATION * size), seed)
    if not tenth.any():
        raise ArgumentError(
            "holdout",
            "found None, and no class has images enough to set some aside; allowed: validation "
            "images.",
        )
    return fitted.take(~tenth), fitted.take(tenth)


def choose(fitted: Features, validation: Features, classes: int) -> tuple[float, float]:
    """The strength that is best on the validation images, and their accuracy with it."""
    top1_with = lambda strength: _top1(fit(fitted, strength, classes).head, validation)
    scores = [top1_with(strength) for strength in STRENGTHS]
    best = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))
    strength, top1, step = STRENGTHS[best], scores[best], STRENGTHS[0] / STRENGTHS[1]
    for _ in range(HALVINGS):
        step **= 0.5
        for other in (strength / step, strength * step):
            found = top1_with(other)
            if found > top1:
                strength, top1 = other, found
                break
    return strength, top1


def fit(fitted: Features, strength: float, classes: int) -> Solved:
    """The classifier for a strength on the sum: `solve_lbfgs` has the mean, and half of its own."""
    l2 = jnp.array([2 * strength / len(fitted.y)], jnp.float32)
    return solve_lbfgs(fitted.x, jnp.asarray(fitted.y), l2, num_classes=classes)


def score(
    head: LinearHead, scored: Features, test: data.Source
) -> tuple[tuple[Row, Row], Confusion]:
    """The rows of the test images, and which of their classes are taken for which."""
    scores = head(scored.x)[0]
    if not np.isfinite(scores).all():
        raise ArgumentError(
            "encode",
            "found features so large that the classifier has left the finite numbers; allowed: "
            "smaller ones.",
        )
    return classified(scores, scored.y, test.class_names)


def _top1(head: LinearHead, scored: Features) -> float:
    return float(top_accuracy(head(scored.x)[0], jnp.asarray(scored.y), top=1))
