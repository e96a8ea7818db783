"""Logistic regression on frozen features: all labels, a few of them, or a few images a class."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from .. import data
from ..errors import ArgumentError
from ._draws import (
    check_fractions,
    check_seeds,
    labels_of,
    mean_and_std,
    measure_by_seed,
    of_share,
    share_of_each_class,
    some_of_each_class,
)
from ._result import Result, Row, classified, top_accuracy
from .confusion import Confusion, unseen_classes
from .features import Encode, check_classes, encode_source
from .linear_head import LinearHead, Solved, solve_lbfgs, unfinished

STRENGTHS = tuple(10.0**power for power in range(6, -7, -2))  # of L2, on the sum of the losses
HALVINGS = 4
VALIDATION = 0.1  # of the training images, where nothing is held out
_CHOICE = "10^6, 10^4, ... 10^-6, then 4 halvings of the step around the best"


class _Features(NamedTuple):
    x: Float[Array, "n d"]  # on the device, where many classifiers are fitted on them
    y: Int[np.ndarray, " n"]

    def take(self, chosen: Bool[np.ndarray, " n"]) -> "_Features":
        return _Features(self.x[chosen], self.y[chosen])

    def join(self, other: "_Features") -> "_Features":
        return _Features(jnp.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))

    def normalized(self) -> "_Features":
        lengths = jnp.linalg.norm(self.x, axis=1, keepdims=True)
        return self._replace(x=self.x / jnp.maximum(lengths, 1e-12))


def evaluate_transfer(
    encode: Encode,
    train: data.Source,
    test: data.Source,
    *,
    holdout: data.Source | None = None,
    seeds: Sequence[int] = (0,),
    mesh: Mesh,
) -> Result:
    r"""Fit a logistic regression by L-BFGS, its L2 chosen on validation images.

    $$\min_{W, b} \; \sum_i \mathrm{CE}(W^\top x_i + b, y_i) + \lambda \lVert W \rVert^2$$

    $\lambda$ is the best of $10^6, 10^4, \dots, 10^{-6}$ on the validation images, then in four
    steps of half the distance (in logarithms) to its left and right. With it the classifier is
    fitted once more, on training and validation images.

    Args:
        encode: uint8 images to features, jitted, the encoder in evaluation mode.
        train: images to fit on; those without a label do not count.
        test: images to score, likewise.
        holdout: the validation images, likewise; None: a tenth of each class of `train`.
        seeds: of the validation images, each at least 0. Of several seeds each draws its tenth of
            each class, of `train` and `holdout` together: with a fixed `holdout` nothing would be
            drawn.
        mesh: the devices that encode.

    Returns:
        The rows `top1` and `top5`, of several seeds their means, the confusion of the first, and
        the settings with what was chosen.

    Raises:
        ArgumentError: a source has no labels, or the classes differ.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> result = evaluation.evaluate_transfer(evaluation.raw_pixels, source, source, mesh=mesh)
        >>> result.value("top1")
        1.0

    References:
        Kornblith et al., [arXiv 1805.08974](https://arxiv.org/abs/1805.08974); the procedure is
        that of the first author's code, `linear_eval.py` of
        [google-research](https://github.com/google-research/google-research/tree/master/linear_eval).
    """
    check_seeds(seeds)
    classes = check_classes(train, test, holdout=holdout)
    every, scored = _encoded(encode, train, mesh), _encoded(encode, test, mesh)
    held_out = None if holdout is None else _encoded(encode, holdout, mesh)
    if held_out is not None and len(seeds) > 1:
        every, held_out = every.join(held_out), None
    fitted, validation = _with_validation(every, held_out, seeds[0])
    sizes = {"train_images": len(fitted.y), "validation_images": len(validation.y)}
    chosen: list[dict[str, float]] = []
    converged: list[bool] = []

    def measure(labels: str, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        del labels
        fitted, validation = _with_validation(every, held_out, seed)
        strength, on_validation = _choose(fitted, validation, classes)
        chosen.append({"l2_of_the_sum": strength, "validation_top1": on_validation})
        head, ended = _fit(fitted.join(validation), strength, classes)
        converged.append(bool(ended[0]))
        return _score(head, scored, test)

    by_seed, first = measure_by_seed(measure, ("all labels",), seeds, named=str)
    protocol = {
        "evaluation": "transfer",
        "solver": "lbfgs",
        "candidates": _CHOICE,
        "seeds": list(seeds),
        **(chosen[0] if len(chosen) == 1 else {"chosen": chosen}),
        "validation": "a tenth of each class" if held_out is None else "held-out images",
        **sizes,
        "test_images": len(scored.y),
        "classes": classes,
    }
    notes = unfinished(converged) + unseen_classes(first, np.concatenate([fitted.y, validation.y]))
    return Result(mean_and_std(by_seed), protocol, confusion=first, notes=notes, by_seed=by_seed)


def evaluate_few_labels(
    encode: Encode,
    train: data.Source,
    test: data.Source,
    *,
    holdout: data.Source | None = None,
    fractions: Sequence[float] = (0.01, 0.1),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    mesh: Mesh,
) -> Result:
    """Fit as `evaluate_transfer` does, on a share of the labels, balanced between the classes.

    The validation images choose the L2 only: no classifier is fitted on them.

    Args:
        encode: as for `evaluate_transfer`.
        train: likewise; of each class the share is drawn, at least one image.
        test: likewise.
        holdout: likewise.
        fractions: shares of the training images, each in (0, 1]; without a `holdout` of those that
            are left when a tenth of each class is set aside.
        seeds: of the draws of each share, each at least 0.
        mesh: the devices that encode.

    Returns:
        For each share the mean of `top1` and its standard deviation over the seeds, and the
        confusion of the first share and seed.

    Raises:
        ArgumentError: a number is out of range, a source has no labels, or the classes differ.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> result = evaluation.evaluate_few_labels(
        ...     evaluation.raw_pixels, source, source, fractions=(0.2,), seeds=(0, 1), mesh=mesh
        ... )
        >>> [(row.name, row.value, row.std) for row in result.rows]
        [('20_percent_top1', 1.0, 0.0)]

    References:
        1% and 10% of the labels, balanced: Chen et al.,
        [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), section 6.
    """
    check_seeds(seeds)
    check_fractions(fractions)
    classes = check_classes(train, test, holdout=holdout)
    every, scored = _encoded(encode, train, mesh), _encoded(encode, test, mesh)
    held_out = None if holdout is None else _encoded(encode, holdout, mesh)
    fitted, validation = _with_validation(every, held_out, 0)
    converged: list[bool] = []

    def measure(fraction: float, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        some = fitted.take(share_of_each_class(fitted.y, fraction, seed))
        strength, _ = _choose(some, validation, classes)
        head, ended = _fit(some, strength, classes)
        converged.append(bool(ended[0]))
        (top1, _), found = _score(head, scored, test)
        return of_share(fraction, [top1]), found

    by_seed, first = measure_by_seed(measure, fractions, seeds, named=labels_of)
    protocol = {
        "evaluation": "few_labels",
        "solver": "lbfgs",
        "candidates": _CHOICE,
        "fractions": list(fractions),
        "seeds": list(seeds),
        "train_images": len(fitted.y),
        "validation_images": len(validation.y),
        "test_images": len(scored.y),
        "classes": classes,
    }
    notes = unfinished(converged) + unseen_classes(first, fitted.y)
    return Result(mean_and_std(by_seed), protocol, confusion=first, notes=notes, by_seed=by_seed)


def evaluate_few_shot(
    encode: Encode,
    train: data.Source,
    test: data.Source,
    *,
    shots: Sequence[int] = (1, 5, 10),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    mesh: Mesh,
) -> Result:
    r"""Fit a logistic regression on a few images of each class, among all classes.

    $$\min_{W, b} \; \sum_i \mathrm{CE}(W^\top \hat x_i + b, y_i) + \tfrac12 \lVert W \rVert^2,
      \qquad \hat x = x / \lVert x \rVert$$

    Nothing is chosen, so that no image but the few is used.

    Args:
        encode: as for `evaluate_transfer`.
        train: likewise; of each class so many images are drawn.
        test: likewise.
        shots: images a class, each at least 1.
        seeds: of the draws of each number, each at least 0.
        mesh: the devices that encode.

    Returns:
        For each number the mean of `top1` and its standard deviation over the seeds, and the
        confusion of the first number and seed.

    Raises:
        ArgumentError: a number is out of range, or a class has fewer images; a source has no
            labels, or the classes differ.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> result = evaluation.evaluate_few_shot(
        ...     evaluation.raw_pixels, source, source, shots=(1,), seeds=(0, 1), mesh=mesh
        ... )
        >>> result.value("1_shot_top1")
        1.0

    References:
        Tian et al., [arXiv 2003.11539](https://arxiv.org/abs/2003.11539); `meta_eval.py` of
        [WangYueFt/rfs](https://github.com/WangYueFt/rfs), whose episodes of five classes are all
        classes here.
    """
    check_seeds(seeds)
    if not shots or not all(isinstance(shot, int) and shot >= 1 for shot in shots):
        allowed = "whole numbers, at least 1"
        raise ArgumentError("shots", f"found {tuple(shots)}; allowed: {allowed}.")
    classes = check_classes(train, test)
    fitted = _encoded(encode, train, mesh).normalized()
    scored = _encoded(encode, test, mesh).normalized()
    sizes = np.bincount(fitted.y, minlength=classes)
    fewest = int(sizes[sizes > 0].min())
    if max(shots) > fewest:
        raise ArgumentError(
            "shots",
            f"found {max(shots)}, but the smallest class has {fewest} training images; allowed: "
            f"at most {fewest}.",
        )
    converged: list[bool] = []

    def measure(shot: int, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        some = fitted.take(some_of_each_class(fitted.y, lambda size: shot, seed))
        head, ended = _fit(some, 0.5, classes)
        converged.append(bool(ended[0]))
        (top1, _), found = _score(head, scored, test)
        return (top1._replace(name=f"{shot}_shot_top1"),), found

    by_seed, first = measure_by_seed(measure, shots, seeds, named=lambda shot: f"{shot} shot")
    protocol = {
        "evaluation": "few_shot",
        "solver": "lbfgs",
        "features": "of length 1",
        "l2_of_the_sum": 0.5,
        "shots": list(shots),
        "seeds": list(seeds),
        "test_images": len(scored.y),
        "classes": classes,
    }
    notes = unfinished(converged) + unseen_classes(first, fitted.y)
    return Result(mean_and_std(by_seed), protocol, confusion=first, notes=notes, by_seed=by_seed)


def _encoded(encode: Encode, source: data.Source, mesh: Mesh) -> _Features:
    x, y = encode_source(encode, data.labelled(source), mesh=mesh)
    return _Features(jnp.asarray(x), y)


def _with_validation(
    fitted: _Features, held_out: _Features | None, seed: int
) -> tuple[_Features, _Features]:
    """What is fitted and what it is chosen by."""
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


def _choose(fitted: _Features, validation: _Features, classes: int) -> tuple[float, float]:
    """The strength that is best on the validation images, and their accuracy with it."""
    score = lambda strength: _top1(_fit(fitted, strength, classes).head, validation)
    scores = [score(strength) for strength in STRENGTHS]
    best = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))
    strength, top1, step = STRENGTHS[best], scores[best], STRENGTHS[0] / STRENGTHS[1]
    for _ in range(HALVINGS):
        step **= 0.5
        for other in (strength / step, strength * step):
            found = score(other)
            if found > top1:
                strength, top1 = other, found
                break
    return strength, top1


def _fit(fitted: _Features, strength: float, classes: int) -> Solved:
    """The classifier for a strength on the sum: `solve_lbfgs` has the mean, and half of its own."""
    l2 = jnp.array([2 * strength / len(fitted.y)], jnp.float32)
    return solve_lbfgs(fitted.x, jnp.asarray(fitted.y), l2, num_classes=classes)


def _score(
    head: LinearHead, scored: _Features, test: data.Source
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


def _top1(head: LinearHead, scored: _Features) -> float:
    return float(top_accuracy(head(scored.x)[0], jnp.asarray(scored.y), top=1))
