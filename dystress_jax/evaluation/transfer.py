"""Transfer: a logistic regression on all labels, as Kornblith et al. fit it."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from .. import data
from ._draws import check_seeds, mean_and_std, measure_by_seed
from ._logistic import CHOICE, choose, encoded, fit, score, with_validation
from ._result import Result, Row
from .confusion import Confusion, unseen_classes
from .features import Encode, check_classes
from .linear_head import unfinished


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
    every, scored = encoded(encode, train, mesh), encoded(encode, test, mesh)
    held_out = None if holdout is None else encoded(encode, holdout, mesh)
    if held_out is not None and len(seeds) > 1:
        every, held_out = every.join(held_out), None
    fitted, validation = with_validation(every, held_out, seeds[0])
    sizes = {"train_images": len(fitted.y), "validation_images": len(validation.y)}
    chosen: list[dict[str, float]] = []
    converged: list[bool] = []

    def measure(labels: str, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        del labels
        fitted, validation = with_validation(every, held_out, seed)
        strength, on_validation = choose(fitted, validation, classes)
        chosen.append({"l2_of_the_sum": strength, "validation_top1": on_validation})
        head, ended = fit(fitted.join(validation), strength, classes)
        converged.append(bool(ended[0]))
        return score(head, scored, test)

    by_seed, first = measure_by_seed(measure, ("all labels",), seeds, named=str, labels=every.y)
    protocol = {
        "evaluation": "transfer",
        "solver": "lbfgs",
        "candidates": CHOICE,
        "seeds": list(seeds),
        **(chosen[0] if len(chosen) == 1 else {"chosen": chosen}),
        "validation": "a tenth of each class" if held_out is None else "held-out images",
        **sizes,
        "test_images": len(scored.y),
        "classes": classes,
    }
    notes = unfinished(converged) + unseen_classes(first, np.concatenate([fitted.y, validation.y]))
    return Result(mean_and_std(by_seed), protocol, confusion=first, notes=notes, by_seed=by_seed)
