"""Fine-tuning: a network that was trained on labels, scored on the test images."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from .. import data, models, sharding
from ..errors import ArgumentError
from ._draws import (
    check_fractions,
    check_seeds,
    for_devices,
    labels_of,
    mean_and_std,
    measure_by_seed,
    of_share,
    with_known_labels,
    with_share_of_labels,
)
from ._finetune_fit import Trained, View, classify, make_fit
from ._finetune_settings import Finetuning
from ._result import Result, Row, classified
from .confusion import Confusion, unseen_classes
from .features import NotFiniteError, check_classes, encode_source
from .linear_head import Progress

PyTree = Any


def evaluate_finetune(
    encoder: models.Network,
    params: PyTree,
    stats: PyTree,
    train: data.Source,
    test: data.Source,
    *,
    view: View,
    centre: Callable[[UInt8[Array, "n h w c"]], Float[Array, "n size size c"]],
    settings: Finetuning,
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    mesh: Mesh,
    progress: Progress = iter,
) -> Result:
    """Train the encoder and a classifier on labels, and score it on the test images.

    Nothing is chosen: the network after the last step is scored. BatchNorm normalises by the batch
    while it is trained, and by its running statistics when it is scored.

    Args:
        encoder: images to features.
        params: of the encoder, where the training begins.
        stats: its running statistics.
        train: images to train on; those without a label do not count.
        test: images to score, likewise.
        view: key and uint8 images to random views, what the encoder is trained on.
        centre: uint8 images to what the encoder sees of them when it is scored.
        settings: how it is trained.
        fractions: shares of the labels, each in (0, 1], of every class alike.
        seeds: of the order of the images, the views, and the share of the labels, each at least 0;
            each is measured.
        mesh: the devices that share each batch.
        progress: wraps the range of all steps, for example `tqdm.tqdm`.

    Returns:
        The rows `top1` and `top5`, for a smaller share as `1_percent_top1`; of several seeds their
        means. The settings, and the confusion of the first share and seed.

    Raises:
        ArgumentError: a source has no labels, the classes differ, a number is out of range, the
            layers of the encoder are not known, or the network diverges.

    Example:
        >>> import numpy as np
        >>> from dystress_jax import data, evaluation, models, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> flat = lambda p, stats, x, *, train: (x.reshape(len(x), -1) * p["scale"], stats)
        >>> encoder = models.Network(lambda key: ({"scale": jnp.ones(())}, {}), flat, 48)
        >>> result = evaluation.evaluate_finetune(
        ...     encoder,
        ...     {"scale": jnp.ones(())},
        ...     {},
        ...     source,
        ...     source,
        ...     view=lambda key, images: images / 255,
        ...     centre=lambda images: images / 255,
        ...     settings=evaluation.Finetuning(
        ...         optimizer="sgd", learning_rate=1.0, batch_size=8, epochs=4
        ...     ),
        ...     mesh=mesh,
        ... )
        >>> result.value("top1")
        1.0
    """
    check_seeds(seeds)
    check_fractions(fractions)
    classes = check_classes(train, test)
    train = with_known_labels(train)
    replicated = sharding.replicated(mesh)

    @functools.partial(jax.jit, out_shardings=replicated)
    def score(trained: Trained, images: UInt8[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x, _ = encoder.apply(trained.params["encoder"], trained.stats, centre(images), train=False)
        return classify(trained.params["head"], x)

    head = {"kernel": jnp.zeros((encoder.out_features, classes)), "bias": jnp.zeros(classes)}
    start = Trained({"encoder": params, "head": head}, stats)
    fits, sources, measured = {}, {}, []
    for fraction in fractions:
        drawn = [with_share_of_labels(train, fraction, seed) for seed in seeds]
        images = len(drawn[0])  # as many with every seed
        drawn = [for_devices(source, mesh) for source in drawn]
        sources |= {(fraction, seed): one for seed, one in zip(seeds, drawn, strict=True)}
        batch = max(min(settings.batch_size, images) // mesh.size * mesh.size, mesh.size)
        epochs = settings.epochs_of(fraction)
        chosen = dataclasses.replace(settings, batch_size=batch, epochs=epochs)
        size = len(drawn[0])
        fits[fraction] = make_fit(encoder, start, size, view=view, settings=chosen, mesh=mesh)
        told = {"fraction": fraction, "train_images": images, "batch_size": batch}
        measured.append(told | {"epochs": epochs})

    def measure(fraction: float, seed: int) -> tuple[tuple[Row, ...], Confusion]:
        trained = fits[fraction](start, sources[fraction, seed], seed, progress)
        try:
            scores, y = encode_source(functools.partial(score, trained), test, mesh=mesh)
        except NotFiniteError as error:
            raise ArgumentError(
                "learning_rate",
                f"found {settings.learning_rate}, with which the network has diverged; "
                "allowed: a smaller one.",
            ) from error
        rows, found = classified(scores, y, test.class_names)
        return of_share(fraction, rows), found

    labels = train.labels()
    by_seed, first = measure_by_seed(measure, fractions, seeds, named=labels_of, labels=labels)
    protocol = {
        "evaluation": "finetune",
        **dataclasses.asdict(settings),
        "seeds": list(seeds),
        "fractions": list(fractions),
        "test_images": int(first.images.sum()),
        "classes": classes,
    }
    protocol |= measured[0] if len(measured) == 1 else {"measured": measured}
    notes = unseen_classes(first, labels)
    return Result(mean_and_std(by_seed), protocol, confusion=first, notes=notes, by_seed=by_seed)
