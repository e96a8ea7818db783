"""The linear probe: fitted on train, chosen on the holdout, scored on test."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .. import data
from ..errors import ArgumentError, at_least_one, look_up
from ._draws import (
    check_fractions,
    check_seeds,
    for_devices,
    labels_of,
    mean_and_std,
    measure_by_seed,
    of_share,
    share_of_each_class,
    with_known_labels,
    with_share_of_labels,
)
from ._result import Result, Row, classified, top_accuracy
from .confusion import Confusion, unseen_classes
from .features import Encode, check_classes, encode_source
from .linear_head import (
    EncodeView,
    Progress,
    Solved,
    fit_augmented,
    fit_sgd,
    solve_lbfgs,
    unfinished,
)

SOLVERS = ("sgd", "lbfgs")
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
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
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
        epochs: of sgd, at least 1.
        batch_size: of sgd, at least 1; no more than there are images, and with views a multiple of
            the devices, to which it is lowered.
        fractions: shares of the labels to fit with, each in (0, 1], of every class alike.
        seeds: of the order of the images, the views, and the share of the labels, each at least 0;
            each is measured.
        mesh: the devices that encode.
        progress: wraps the range of all steps with `encode_view`, for example `tqdm.tqdm`.

    Returns:
        The rows `top1` and `top5`, for a smaller share as `1_percent_top1`; of several seeds their
        means. The settings with what was chosen and why, and the confusion of the first share and
        seed.

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
    num_classes = check_classes(train, test, holdout=holdout)
    _check(solver, candidates, holdout, encode_view)
    check_seeds(seeds)
    check_fractions(fractions)
    at_least_one(epochs=epochs, batch_size=batch_size)
    look_up(dict.fromkeys(SOLVERS), solver, argument="solver")
    tried, notes = jnp.array(candidates, jnp.float32), []
    at_its_end = jnp.full(len(candidates), True)  # sgd has no tolerance
    if solver == "lbfgs" and len(seeds) > 1 and set(fractions) == {1.0}:
        notes.append("lbfgs with all labels draws nothing: every seed gives the same")
    cached = encode_source(encode, train, mesh=mesh) if encode_view is None else None
    train = train if encode_view is None else with_known_labels(train)
    labels = train.labels() if cached is None else cached[1]

    def fit(fraction: float, seed: int) -> tuple[Solved, int, int]:
        """The classifiers, how many images they were fitted on, and how many a step."""
        if encode_view is not None:
            some = with_share_of_labels(train, fraction, seed)
            shared = for_devices(some, mesh)
            batch = max(min(batch_size, len(shared)) // mesh.size * mesh.size, mesh.size)
            head = fit_augmented(
                encode_view,
                shared,
                tried,
                epochs=epochs,
                batch_size=batch,
                momentum=MOMENTUM,
                seed=seed,
                mesh=mesh,
                progress=progress,
            )
            return Solved(head, at_its_end), len(some), batch
        assert cached is not None
        x, y = cached
        if fraction < 1:
            few = share_of_each_class(y, fraction, seed)
            x, y = x[few], y[few]
        x, y = jnp.asarray(x), jnp.asarray(y)
        batch = min(batch_size, len(y))
        if solver == "lbfgs":
            return solve_lbfgs(x, y, tried, num_classes=num_classes), len(y), batch
        key, sizes = jax.random.key(seed), {"epochs": epochs, "batch_size": batch}
        head = fit_sgd(key, x, y, tried, num_classes=num_classes, momentum=MOMENTUM, **sizes)
        return Solved(head, at_its_end), len(y), batch

    scored = {
        name: tuple(map(jnp.asarray, encode_source(encode, source, mesh=mesh)))
        for name, source in (("holdout", holdout), ("test", test))
        if source is not None
    }
    measured: list[dict[str, Any]] = []
    converged: list[bool] = []

    def measure(fraction: float, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        (head, ended), images, batch = fit(fraction, seed)
        chosen, on_holdout = 0, None
        if "holdout" in scored:
            x, y = scored["holdout"]
            on_holdout = [float(top_accuracy(one, y, top=1)) for one in head(x)]
            chosen = int(np.argmax(np.nan_to_num(on_holdout, nan=-1.0)))
        x, y = scored["test"]
        scores = head(x)[chosen]
        if not np.isfinite(scores).all():
            raise ArgumentError(
                "candidates",
                f"found {tuple(candidates)}, with which the classifier has diverged; allowed: "
                "smaller learning rates, or a stronger L2.",
            )
        converged.append(bool(ended[chosen]))
        told = on_holdout and [None if np.isnan(top1) else top1 for top1 in on_holdout]
        measured.append(
            {
                "fraction": fraction,
                "seed": seed,
                "holdout_top1": told,
                "l2" if solver == "lbfgs" else "learning_rate": candidates[chosen],
                "train_images": images,
                **({"batch_size": batch} if solver == "sgd" else {}),
            }
        )
        rows, found = classified(scores, y, test.class_names)
        return of_share(fraction, rows), found

    by_seed, first = measure_by_seed(measure, fractions, seeds, named=labels_of, labels=labels)
    protocol = {
        "evaluation": "linear_probe",
        "solver": solver,
        "seeds": list(seeds),
        "fractions": list(fractions),
        "features": "cached" if encode_view is None else "augmented",
        "candidates": list(candidates),
        "test_images": len(scored["test"][1]),
        "classes": num_classes,
    }
    if solver == "sgd":
        protocol |= {"epochs": epochs, "momentum": MOMENTUM}
    protocol |= measured[0] if len(measured) == 1 else {"measured": measured}
    notes += unfinished(converged)
    notes += unseen_classes(first, labels)
    return Result(
        mean_and_std(by_seed), protocol, confusion=first, notes=tuple(notes), by_seed=by_seed
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
