"""Few labels: a logistic regression on a share of them, of every class alike."""

from collections.abc import Sequence

from jax.sharding import Mesh

from .. import data
from ._draws import (
    check_fractions,
    check_seeds,
    labels_of,
    mean_and_std,
    measure_by_seed,
    of_share,
    share_of_each_class,
)
from ._logistic import CHOICE, choose, encoded, fit, score, with_validation
from ._result import Result, Row
from .confusion import Confusion, unseen_classes
from .features import Encode, check_classes
from .linear_head import unfinished


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
        >>> import numpy as np
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
    every, scored = encoded(encode, train, mesh), encoded(encode, test, mesh)
    held_out = None if holdout is None else encoded(encode, holdout, mesh)
    fitted, validation = with_validation(every, held_out, 0)
    converged: list[bool] = []
    images: dict[float, int] = {}

    def measure(fraction: float, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        some = fitted.take(share_of_each_class(fitted.y, fraction, seed))
        images[fraction] = len(some.y)
        strength, _ = choose(some, validation, classes)
        head, ended = fit(some, strength, classes)
        converged.append(bool(ended[0]))
        (top1, _), found = score(head, scored, test)
        return of_share(fraction, [top1]), found

    by_seed, first = measure_by_seed(measure, fractions, seeds, named=labels_of, labels=every.y)
    protocol = {
        "evaluation": "few_labels",
        "solver": "lbfgs",
        "candidates": CHOICE,
        "fractions": list(fractions),
        "seeds": list(seeds),
        "images_of_fractions": [images[fraction] for fraction in fractions],
        "train_images": len(fitted.y),
        "validation_images": len(validation.y),
        "test_images": len(scored.y),
        "classes": classes,
    }
    notes = unfinished(converged) + unseen_classes(first, every.y)
    more = [f for f in fractions if images[f] > max(1.5 * f * len(fitted.y), f * len(fitted.y) + 1)]
    if more:
        told = ", ".join(f"{100 * f:g} % are {images[f]:,}" for f in more)
        notes += (f"of {len(fitted.y):,} images, with at least one of each class: {told} images",)
    return Result(mean_and_std(by_seed), protocol, confusion=first, notes=notes, by_seed=by_seed)
