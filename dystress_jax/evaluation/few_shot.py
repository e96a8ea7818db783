"""Few shots: a logistic regression on a few images of each class."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from .. import data
from ..errors import ArgumentError
from ._draws import check_seeds, mean_and_std, measure_by_seed, some_of_each_class
from ._logistic import encoded, fit, score
from ._result import Result, Row
from .confusion import Confusion, unseen_classes
from .features import Encode, check_classes
from .linear_head import unfinished


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
    check_shots(shots)
    classes = check_classes(train, test)
    fitted = encoded(encode, train, mesh).normalized()
    scored = encoded(encode, test, mesh).normalized()
    check_shots(shots, fitted.y)
    converged: list[bool] = []

    def measure(shot: int, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        some = fitted.take(some_of_each_class(fitted.y, lambda size: shot, seed))
        head, ended = fit(some, 0.5, classes)
        converged.append(bool(ended[0]))
        (top1, _), found = score(head, scored, test)
        return (top1._replace(name=f"{shot}_shot_top1"),), found

    by_seed, first = measure_by_seed(
        measure, shots, seeds, named=lambda shot: f"{shot} shot", labels=fitted.y
    )
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


def check_shots(shots: Sequence[int], labels: Int[np.ndarray, " n"] | None = None) -> None:
    """Refuse numbers of images that are none, or more than a class has.

    Args:
        shots: images a class.
        labels: of the training images, those below 0 aside; None: not yet known.

    Raises:
        ArgumentError: there is none, one is below 1 or there twice, or above the size of a class.
    """
    counts = all(isinstance(shot, int) and shot >= 1 for shot in shots)
    if not shots or not counts or len(set(shots)) < len(shots):
        allowed = "different whole numbers, at least 1"
        raise ArgumentError("shots", f"found {tuple(shots)}; allowed: {allowed}.")
    sizes = np.bincount(labels[labels >= 0]) if labels is not None else np.zeros(0, int)
    fewest = int(sizes[sizes > 0].min(initial=max(shots)))
    if max(shots) > fewest:
        raise ArgumentError(
            "shots",
            f"found {max(shots)}, but the smallest class has {fewest} training images; allowed: "
            f"at most {fewest}.",
        )
