"""The linear probe: fitted on train, chosen on the holdout, scored on test."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .. import data
from ..errors import ArgumentError, look_up
from ._result import Result, accuracies, top_accuracy
from .confusion import confusion
from .features import Encode, check_classes, encode_source
from .linear_head import EncodeView, Progress, fit_augmented, fit_lbfgs, fit_sgd

MOMENTUM = 0.9  # of sgd


def evaluate_linear_probe(
    encode: Encode,
    train: data.Source,
    test: data.Source,
    *,
    holdout: data.Source | None = None,
    encode_view: EncodeView | None = None,
    solver: str = "sgd",
    candidates: Sequence[float] = (0.1,),
    epochs: int = 90,
    batch_size: int = 256,
    seed: int = 0,
    mesh: Mesh,
    progress: Progress = iter,
) -> Result:
    """Fit a linear classifier on the frozen encoder and score it on the test images.

    With several candidates the one that is best on the holdout is taken, the first of equals; the
    test images decide nothing.

    Args:
        encode: uint8 images to features, jitted, the encoder in evaluation mode.
        train: images to fit on; those without a label do not count.
        test: images to score, likewise.
        holdout: images to choose by, likewise; needed with several candidates.
        encode_view: key and uint8 images to features of random views: fit on new views in every
            epoch, as the paper does. None: encode every image once, as it is.
        solver: `sgd`, or `lbfgs` without `encode_view`.
        candidates: base learning rates of sgd (the rate is this times batch_size / 256), or
            strengths of L2 of lbfgs; each > 0.
        epochs: of sgd.
        batch_size: of sgd; no more than there are images, and with views a multiple of the devices,
            to which it is lowered.
        seed: of the order of the images and the views.
        mesh: the devices that encode.
        progress: wraps the range of all steps with `encode_view`, for example `tqdm.tqdm`.

    Returns:
        The rows `top1` and `top5`, and the settings with what was chosen and why.

    Raises:
        ArgumentError: a source has no labels, the classes differ, the settings contradict, or
            with every candidate the classifier diverges.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> result = evaluation.evaluate_linear_probe(
        ...     evaluation.raw_pixels, source, source, candidates=(10.0,), epochs=5, mesh=mesh
        ... )
        >>> result.value("top1")
        1.0
    """
    num_classes = check_classes(train, test)
    train = data.labelled(train)
    batch_size = min(batch_size, len(train))
    solvers = {
        "sgd": functools.partial(
            fit_sgd,
            jax.random.key(seed),
            epochs=epochs,
            batch_size=batch_size,
            momentum=MOMENTUM,
        ),
        "lbfgs": fit_lbfgs,
    }
    fit = look_up(solvers, solver, argument="solver")
    _check(solver, candidates, holdout, encode_view)
    tried = jnp.array(candidates, jnp.float32)
    protocol = {"evaluation": "linear_probe", "solver": solver, "seed": seed}
    if encode_view is not None:
        batch_size = max(batch_size // mesh.size * mesh.size, mesh.size)
        head = fit_augmented(
            encode_view,
            train,
            tried,
            epochs=epochs,
            batch_size=batch_size,
            momentum=MOMENTUM,
            seed=seed,
            mesh=mesh,
            progress=progress,
        )
    else:
        x, y = map(jnp.asarray, encode_source(encode, train, mesh=mesh))
        head = fit(x, y, tried, num_classes=num_classes)

    def scores(source):
        x, y = map(jnp.asarray, encode_source(encode, source, mesh=mesh))
        return head(x), y

    chosen, on_holdout = 0, None
    if holdout is not None:
        every, labels = scores(holdout)
        on_holdout = [float(top_accuracy(one, labels, top=1)) for one in every]
        chosen = int(np.argmax(np.nan_to_num(on_holdout, nan=-1.0)))
    every, labels = scores(test)
    if not np.isfinite(every[chosen]).all():
        raise ArgumentError(
            "candidates",
            f"found {tuple(candidates)}, with which the classifier has diverged; allowed: smaller "
            "learning rates, or a stronger L2.",
        )
    protocol |= {
        "features": "cached" if encode_view is None else "augmented",
        "candidates": list(candidates),
        "holdout_top1": on_holdout and [None if np.isnan(top1) else top1 for top1 in on_holdout],
        "l2" if solver == "lbfgs" else "learning_rate": candidates[chosen],
        "train_images": len(train),
        "test_images": len(labels),
        "classes": num_classes,
    }
    if solver == "sgd":
        protocol |= {"epochs": epochs, "batch_size": batch_size, "momentum": MOMENTUM}
    predicted = np.asarray(every[chosen].argmax(axis=1))
    return Result(
        accuracies(every[chosen], labels),
        protocol,
        confusion=confusion(predicted, np.asarray(labels), test.class_names),
    )


def _check(
    solver: str,
    candidates: Sequence[float],
    holdout: data.Source | None,
    encode_view: EncodeView | None,
) -> None:
    if solver == "lbfgs" and encode_view is not None:
        raise ArgumentError(
            "solver",
            "found 'lbfgs' with `encode_view`; allowed: 'lbfgs' without it, since L-BFGS needs the "
            "same features in every step.",
        )
    if not candidates or min(candidates) <= 0:
        raise ArgumentError("candidates", f"found {tuple(candidates)}; allowed: numbers above 0.")
    if len(candidates) > 1 and holdout is None:
        raise ArgumentError(
            "candidates",
            f"found {tuple(candidates)} without a `holdout` to choose by; allowed: one candidate, "
            "or a `holdout`, since the test images must not choose.",
        )
