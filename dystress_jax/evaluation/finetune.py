"""Fine-tuning: the whole network trained on labels, by published settings or one's own."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from .. import augment, data, models, sharding
from ..errors import ArgumentError, look_up
from ._draws import check_fractions, check_seeds, mean_and_std, of_share, with_share_of_labels
from ._result import Result, Row, accuracies
from .confusion import Confusion, confusion
from .features import NotFiniteError, check_classes, encode_source
from .linear_head import Progress

PyTree = Any
FEW = 0.01  # a share of the labels up to which `few_epochs` hold
UNDECAYED = ("positions", "class_token", "class_tokens")  # whatever their shape
View = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"] | augment.Pictures], Float[Array, "n size size c"]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    r"""How a network is trained on labels.

    The rate rises linearly for the first epochs, then falls along half a cosine; its peak is
    $b B / 256$ with the base rate b and B images a step. With a layer decay d, layer l of
    L + 1 has the rate $\eta d^{L - l}$, the classifier, layer L, $\eta$ (`models.depths`).

    Args:
        optimizer: `sgd` with Nesterov's momentum .9 and coupled weight decay, or `adamw` with
            $\beta = (.9, .999)$.
        learning_rate: b, above 0.
        batch_size: B, at least 1; no more than there are images.
        epochs: at least 1.
        few_epochs: in their place with at most 1% of the labels; 0: `epochs`.
        weight_decay: at least 0; not of norms, biases, positions and class tokens.
        layer_decay: d, in (0, 1]; 1 is the same rate everywhere.
        warmup_epochs: at least 0, fewer than the epochs.
        final_rate: the last rate, at least 0.
        label_smoothing: s in [0, 1): a share s of each label is spread over all classes.
        mixup: $\alpha$ of the Beta distribution that mixes pairs of images; 0: none.
        cutmix: $\alpha$ of the one that says how much of an image a box of another takes; 0: none.
            With both, every batch has one of them, at random.

    Raises:
        ArgumentError: a number is out of range, or the optimiser unknown.

    Example:
        >>> Finetuning(optimizer="sgd", learning_rate=0.05, batch_size=256, epochs=30).layer_decay
        1.0
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    few_epochs: int = 0
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    warmup_epochs: float = 0.0
    final_rate: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with, before anything compiles."""
        look_up(OPTIMIZERS, self.optimizer, argument="optimizer")
        for name, holds, allowed in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("layer_decay", 0 < self.layer_decay <= 1, "in (0, 1]"),
            ("warmup_epochs", self.warmup_epochs >= 0, "at least 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
        ):
            if not holds:
                raise ArgumentError(name, f"found {getattr(self, name)}; allowed: {allowed}.")

    def epochs_of(self, fraction: float) -> int:
        """How many epochs a share of the labels is trained on."""
        return self.few_epochs if self.few_epochs and fraction <= FEW else self.epochs


def simclr_finetuning() -> Finetuning:
    """SimCLR's: Nesterov's momentum, base rate 0.05, 4096 images a step, no regularisation.

    60 epochs on 1% of the labels, 30 on 10%, and on all, which is the setting of SimCLR v2.

    Example:
        >>> settings = simclr_finetuning()
        >>> settings.epochs_of(0.01), settings.epochs_of(0.1)
        (60, 30)

    References:
        Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), appendix B.5; the cosine
        is that of the authors' code, `model_util.py` of
        [google-research/simclr](https://github.com/google-research/simclr). All labels: Chen et
        al., [arXiv 2006.10029](https://arxiv.org/abs/2006.10029).
    """
    return Finetuning(
        optimizer="sgd", learning_rate=0.05, batch_size=4096, epochs=30, few_epochs=60
    )


def mae_finetuning() -> Finetuning:
    """MAE's for ViT-Base: AdamW, layer decay 0.65, label smoothing, mixup and cutmix.

    Not here, and so different from the authors': RandAugment (9, 0.5) and random erasing (0.25) of
    the views, dropped paths (0.1), and the mean of the patches in place of the class token.

    Example:
        >>> mae_finetuning().layer_decay
        0.65

    References:
        He et al., [arXiv 2111.06377](https://arxiv.org/abs/2111.06377); `FINETUNE.md` and
        `main_finetune.py` of [facebookresearch/mae](https://github.com/facebookresearch/mae).
    """
    return Finetuning(
        optimizer="adamw",
        learning_rate=5e-4,
        batch_size=1024,
        epochs=100,
        weight_decay=0.05,
        layer_decay=0.65,
        warmup_epochs=5,
        final_rate=1e-6,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
    )


class Trained(NamedTuple):
    """A network before or after it was trained on labels.

    Attributes:
        params: `encoder` and `head` (kernel and bias of the classifier).
        stats: the running statistics of the encoder.
    """

    params: dict[str, PyTree]
    stats: PyTree


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
        seeds: of the order of the images, the views, and the share of the labels; each is measured.
        mesh: the devices that share each batch.
        progress: wraps the range of all steps, for example `tqdm.tqdm`.

    Returns:
        The rows `top1` and `top5`, for a smaller share as `1_percent_top1`; of several seeds their
        means. The settings, and the confusion of the first share and seed.

    Raises:
        ArgumentError: a source has no labels, the classes differ, a number is out of range, the
            layers of the encoder are not known, or the network diverges.

    Example:
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
    replicated = sharding.replicated(mesh)

    @functools.partial(jax.jit, out_shardings=replicated)
    def score(trained: Trained, images: UInt8[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x, _ = encoder.apply(trained.params["encoder"], trained.stats, centre(images), train=False)
        return _classify(trained.params["head"], x)

    head = {"kernel": jnp.zeros((encoder.out_features, classes)), "bias": jnp.zeros(classes)}
    start = Trained({"encoder": params, "head": head}, stats)
    by_seed: dict[int, tuple[Row, ...]] = dict.fromkeys(seeds, ())
    measured: list[dict[str, Any]] = []
    first: Confusion | None = None
    for fraction in fractions:
        sources = [with_share_of_labels(train, fraction, seed) for seed in seeds]
        images = len(sources[0])  # as many with every seed
        if images < mesh.size:  # every device has one, some the same
            again = np.resize(np.arange(images), mesh.size)
            sources = [source.take(again) for source in sources]
        batch = max(min(settings.batch_size, images) // mesh.size * mesh.size, mesh.size)
        epochs = settings.epochs_of(fraction)
        chosen = dataclasses.replace(settings, batch_size=batch, epochs=epochs)
        fit = make_fit(encoder, start, len(sources[0]), view=view, settings=chosen, mesh=mesh)
        for seed, source in zip(seeds, sources, strict=True):
            trained = fit(start, source, seed, progress)
            try:
                scores, y = encode_source(functools.partial(score, trained), test, mesh=mesh)
            except NotFiniteError as error:
                raise ArgumentError(
                    "learning_rate",
                    f"found {settings.learning_rate}, with which the network has diverged; "
                    "allowed: a smaller one.",
                ) from error
            by_seed[seed] += of_share(fraction, accuracies(jnp.asarray(scores), jnp.asarray(y)))
            first = first or confusion(scores.argmax(axis=1), y, test.class_names)
        told = {"fraction": fraction, "train_images": images, "batch_size": batch}
        measured.append(told | {"epochs": epochs})
    protocol = {
        "evaluation": "finetune",
        **dataclasses.asdict(settings),
        "seeds": list(seeds),
        "fractions": list(fractions),
        "test_images": 0 if first is None else int(first.counts.sum()),
        "classes": classes,
    }
    protocol |= measured[0] if len(measured) == 1 else {"measured": measured}
    return Result(mean_and_std(by_seed), protocol, confusion=first, by_seed=by_seed)


def make_fit(
    encoder: models.Network,
    start: Trained,
    images: int,
    *,
    view: View,
    settings: Finetuning,
    mesh: Mesh,
) -> Callable[[Trained, data.Source, int, Progress], Trained]:
    """What trains an encoder and a classifier on labels; it compiles once, for any number of seeds.

    Args:
        encoder: images to features.
        start: where it begins, of which shapes and names are looked at.
        images: how many it is trained on.
        view: key and uint8 images to random views.
        settings: how; `batch_size` is a multiple of the devices, and no more than the images.
        mesh: the devices that share each batch.

    Returns:
        `(start, source, seed, progress) -> Trained`, the network after the last step. The seed is
        that of the orders, the views and the mixing; images labelled -1 do not count; `progress`
        wraps the range of all steps.

    Raises:
        ArgumentError: the warm-up leaves no step, or the layers of the encoder are not known.
    """
    per_epoch = images // settings.batch_size
    total_steps, classes = settings.epochs * per_epoch, start.params["head"]["bias"].shape[0]
    optimizer = _optimizer(settings, start.params, per_epoch=per_epoch, total_steps=total_steps)

    def step(trained, optimizer_state, batch, key):
        view_key, mix_key = jax.random.split(key)
        images = view(view_key, augment.seen(batch))
        known = batch["label"] >= 0
        targets = jax.nn.one_hot(batch["label"], classes)  # of -1 it is zeros
        smoothing = settings.label_smoothing
        targets = (targets * (1 - smoothing) + smoothing / classes) * known[:, None]
        images, targets = mixed(mix_key, images, targets, settings.mixup, settings.cutmix)

        def loss(params):
            x, stats = encoder.apply(params["encoder"], trained.stats, images, train=True)
            entropy = optax.losses.softmax_cross_entropy(_classify(params["head"], x), targets)
            return jnp.sum(entropy) / jnp.maximum(jnp.sum(known), 1), stats

        grads, stats = jax.grad(loss, has_aux=True)(trained.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, trained.params)
        params = jax.tree.map(jnp.add, trained.params, updates)
        return Trained(params, stats), optimizer_state

    whole = sharding.replicated(mesh)
    step = jax.jit(step, out_shardings=whole, donate_argnums=(0, 1))
    # Copies, since the first step would give the arrays of the run away.
    copied = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=whole)
    begin = jax.jit(optimizer.init, out_shardings=whole)

    def fit(start: Trained, source: data.Source, seed: int, progress: Progress) -> Trained:
        batches = data.batches(
            source,
            batch_size=settings.batch_size,
            seed=seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        trained, key = copied(start), jax.random.key(seed)
        optimizer_state = begin(trained.params)
        for number in progress(range(total_steps)):
            batch = next(batches)
            shown = {k: v for k, v in batch.items() if k in ("image", "extent", "label")}
            batch = sharding.shard_batch(shown, mesh)
            step_key = jax.random.fold_in(key, number)
            trained, optimizer_state = step(trained, optimizer_state, batch, step_key)
        return trained

    return fit


def _classify(head: Mapping[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n classes"]:
    with jax.default_matmul_precision("float32"):
        return x.astype(jnp.float32) @ head["kernel"] + head["bias"][None]


def _sgd(weight_decay: float, mask: PyTree) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(weight_decay, mask=mask)
    return optax.chain(decay, optax.trace(0.9, nesterov=True))


def _adamw(weight_decay: float, mask: PyTree) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask=mask))


OPTIMIZERS: Mapping[str, Callable[[float, PyTree], optax.GradientTransformation]] = (
    types.MappingProxyType({"sgd": _sgd, "adamw": _adamw})
)
"""Directions by name: `(weight decay, which arrays decay) -> transformation`."""

FINETUNE_RECIPES: Mapping[str, Finetuning] = types.MappingProxyType(
    {"simclr": simclr_finetuning(), "mae": mae_finetuning()}
)
"""The published settings by name."""


def _optimizer(
    settings: Finetuning, params: dict[str, PyTree], *, per_epoch: int, total_steps: int
) -> optax.GradientTransformation:
    warmup = round(settings.warmup_epochs * per_epoch)
    if warmup >= total_steps:
        raise ArgumentError(
            "warmup_epochs",
            f"found {settings.warmup_epochs:g} ({warmup} steps) of {total_steps} steps in all; "
            "allowed: fewer than there are.",
        )
    peak = settings.learning_rate * settings.batch_size / 256
    final = min(settings.final_rate, peak)
    schedule = optax.cosine_decay_schedule(peak, total_steps, alpha=final / peak)
    if warmup:
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total_steps, final)

    def decays(path: tuple[Any, ...], leaf: Array) -> bool:
        return jnp.ndim(leaf) > 1 and path[-1].key not in UNDECAYED

    mask = jax.tree_util.tree_map_with_path(decays, params)
    direction = OPTIMIZERS[settings.optimizer](settings.weight_decay, mask)
    scale = optax.identity()
    if settings.layer_decay < 1:
        try:
            layers, last = models.depths(params["encoder"])
        except ArgumentError as error:
            raise ArgumentError("layer_decay", f"{error.text} Or 1.") from error
        factor = lambda layer: settings.layer_decay ** (last - layer)
        scales = {
            "encoder": jax.tree.map(factor, layers),
            "head": jax.tree.map(lambda leaf: 1.0, params["head"]),
        }
        scale = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))
    return optax.chain(direction, optax.scale_by_learning_rate(schedule), scale)


def mixed(
    key: PRNGKeyArray,
    images: Float[Array, "n h w c"],
    targets: Float[Array, "n classes"],
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "n h w c"], Float[Array, "n classes"]]:
    r"""Mix image i of n with image n - i, and their targets, by one share for the whole batch.

    $$\lambda \sim \mathrm{Beta}(\alpha, \alpha), \quad x_i \gets \lambda x_i + (1 - \lambda)
      x_{n - i}, \quad y_i \gets \lambda y_i + (1 - \lambda) y_{n - i}$$

    Cutmix takes a box of $x_{n - i}$ as it is, at a random place, of the share $1 - \lambda$ of
    the sides' product; what of it lies outside the image is cut off, and $\lambda$ is what is left.

    Args:
        key: of the share, the box, and which of the two.
        images: any floats.
        targets: probabilities of the classes.
        mixup: $\alpha$ of mixup; 0: none.
        cutmix: $\alpha$ of cutmix; 0: none. With both, either with probability 1/2.

    References:
        Zhang et al., [arXiv 1710.09412](https://arxiv.org/abs/1710.09412); Yun et al.,
        [arXiv 1905.04899](https://arxiv.org/abs/1905.04899). One share a batch, and its reverse as
        partner: `timm/data/mixup.py` of
        [pytorch-image-models](https://github.com/huggingface/pytorch-image-models).
    """
    if not mixup and not cutmix:
        return images, targets
    which, share, place = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    by_box = bool(cutmix) if not (mixup and cutmix) else jax.random.bernoulli(which)
    mixup_share, cutmix_share = (
        jax.random.beta(share, alpha or 1.0, alpha or 1.0) for alpha in (mixup, cutmix)
    )
    box = _box(place, height, width, 1 - cutmix_share)
    left = 1 - jnp.mean(box, dtype=jnp.float32)
    weight = jnp.where(by_box, ~box, mixup_share)[None, :, :, None]
    kept = jnp.where(by_box, left, mixup_share)
    images = weight * images + (1 - weight) * images[::-1]
    return images, kept * targets + (1 - kept) * targets[::-1]


def _box(key: PRNGKeyArray, height: int, width: int, share: Float[Array, ""]) -> Bool[Array, "h w"]:
    """A box with this share of the pixels, around a random pixel, cut off at the sides."""
    inside = []
    for side, side_key in zip((height, width), jax.random.split(key), strict=True):
        length = (side * jnp.sqrt(share)).astype(jnp.int32)
        centre: Int[Array, ""] = jax.random.randint(side_key, (), 0, side)
        at = jnp.arange(side)
        inside.append((at >= centre - length // 2) & (at < centre + length // 2))
    return inside[0][:, None] & inside[1][None]
