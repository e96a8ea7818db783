"""CLIP (Radford et al. 2021): each image finds its text, each text its image, on any manifold."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from .. import losses, schemes
from ..errors import ArgumentError
from ..losses._pairs import unlabelled_apart
from ..metrics import equilibrium_gap, pair_statistics
from ..microscope import Compared
from ..models import Network
from ..similarities import Similarity, sphere
from ..temperatures import LearnedWithBias, of_anchors
from ._method import (
    Embedded,
    Loss,
    Method,
    Outcome,
    Spread,
    accepts,
    given,
    on_one_device,
)
from ._tower import Tower, method_of

PyTree = Any
MOST_NEGATIVES = 256  # images and texts that the logged gap compares
OneView = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"], Int[Array, " n"]], Float[Array, "n size size c"]
]
"""One random view: (key, uint8 images, their numbers in the batch) to an array of views."""


def clip(
    image: tuple[Network, Network],
    text: tuple[Network, Network],
    *,
    view: OneView,
    loss: Loss = losses.clip,
    similarity: Similarity = sphere,
    caption_noise: float = 0.0,
    by_class: bool = False,
    spread: Spread = on_one_device,
) -> Method:
    """Image-text training with any similarity and any temperature.

    Args:
        image: encoder and projection of the images.
        text: encoder and projection of the texts.
        view: `(key, uint8 images, rows) -> images` for the image tower.
        loss: `(images [n d], texts [n d], *, temperature, similarity) -> [n]`, one value a pair,
            such as `losses.clip` or `siglip`.
        similarity: how an image and a text are compared.
        caption_noise: fraction of captions permuted within a batch, in [0, 1): none of these has
            its own image, in every batch others, so the noise cannot be memorised. One pair stays
            right.
        by_class: whether all texts of an image's class are its positives, as where captions name
            the class. The loss is then also given `labels`, those of the texts, -1 for one without.
        spread: puts a loss over the devices, such as `losses.on_mesh` with a mesh.

    Returns:
        The method; the text tower is the entry "text" of its parameters and statistics. It logs
        the gap between the mean logits of right pairs and of negative ones, and with noise the gap
        at which they balance (`metrics.equilibrium_gap`).

    Raises:
        ArgumentError: the towers differ in width, or caption_noise is not in [0, 1).

    Example:
        >>> from dystress_jax import augment, methods, models
        >>> image = models.image_tower("vit_micro", dims=32)
        >>> text = models.text_tower("text_small", vocab_size=100, dims=32)
        >>> view = lambda key, images, rows: augment.view(
        ...     key, images, augment.weak().first, size=32, rows=rows
        ... )
        >>> method = methods.clip(image, text, view=view)
        >>> method.num_features, method.width
        (64, 32)

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020); Sun,
        [arXiv 2209.02127](https://arxiv.org/abs/2209.02127).
    """
    image_tower, text_tower = Tower(*image), Tower(*text)
    widths = image[1].out_features, text[1].out_features
    if widths[0] != widths[1]:
        raise ArgumentError(
            "text",
            f"found embeddings of {widths[1]} numbers, and {widths[0]} of `image`; allowed: equal.",
        )
    if not 0 <= caption_noise < 1:
        raise ArgumentError("caption_noise", f"found {caption_noise}; allowed: in [0, 1).")
    has_temperature = accepts(loss, "temperature")
    # One without the argument compares in its own way.
    how = {"similarity": similarity} if accepts(loss, "similarity") else {}
    loss = spread(functools.partial(loss, **how))
    decoupled = spread(functools.partial(losses.info_nce, decoupled=True, similarity=similarity))

    def init(key):
        image_key, text_key = jax.random.split(key)
        params, stats = image_tower.init(image_key)
        text_params, text_stats = text_tower.init(text_key)
        return {**params, "text": text_params}, {**stats, "text": text_stats}, ()

    def prepare(batch, key):
        if not caption_noise:
            return batch
        n = len(batch["row"])
        # The views are drawn with fold_in(key, row), so the first number that is no row is free.
        source = _permute_subset(jax.random.fold_in(key, n), n, caption_noise)
        moved = {"tokens": batch["tokens"][source], "right": source == batch["row"]}
        moved["of_text"] = batch["index"][source]
        # An image counts as one of the class that its text names, right or wrong.
        return {**batch, **moved, "named": batch["label"][source]}

    def embed(params, stats, memory, batch, key):
        del memory
        x = view(key, batch["image"], batch["row"])
        images, features, image_stats = image_tower.embed(params, stats, x)
        texts, _, text_stats = text_tower.embed(params["text"], stats["text"], batch["tokens"])
        points = {"images": images, "texts": texts}
        return Embedded(points, features[:, None]), {**image_stats, "text": text_stats}

    def scheme_inputs(embedded, memory, batch, key):
        del memory
        points = jax.lax.stop_gradient(embedded.points)
        images, texts = points["images"], points["texts"]
        return schemes.of_image_text(
            images,
            texts,
            example=batch["index"],
            of_text=batch.get("of_text"),
            key=key,
            decoupled=decoupled,
        )

    def labels(batch):
        return batch.get("named", batch["label"])

    def groups(batch):
        return unlabelled_apart(labels(batch), batch["row"]) if by_class else batch["row"]

    def compared(embedded, memory, batch, key):
        del memory, key
        same_for_both = lambda x: (x, x)
        return Compared(
            anchors=embedded.points["images"],
            positives=embedded.points["texts"],
            candidates=embedded.points["texts"],
            groups=same_for_both(groups(batch)),
            labels=same_for_both(labels(batch)),
            similarity=similarity,
        )

    def gap(images, texts, temperature, batch):
        """Mean logit of the pairs that belong together minus that of the others."""
        a, b = similarity.project(images), similarity.project(texts[:MOST_NEGATIVES])
        others = similarity.between(a[:MOST_NEGATIVES], b)
        pairs = similarity.paired(a, similarity.project(texts))
        of_images = of_anchors(temperature, slice(len(images)))
        few = of_anchors(of_images.for_negatives, slice(MOST_NEGATIVES))
        negative = losses.logits(similarity, few, others)
        positive = losses.logits(similarity, of_images.for_positives, pairs)
        of_each = groups(batch)
        same = of_each[:MOST_NEGATIVES, None] == of_each[None, :MOST_NEGATIVES]
        right = batch.get("right")  # captions that were permuted are negatives with another name
        return jnp.mean(positive, where=right) - jnp.mean(negative, where=~same)

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, key
        images, texts = embedded.points["images"], embedded.points["texts"]
        of_class = {"labels": labels(batch)} if by_class else {}
        values = loss(images, texts, **given(temperature), **of_class)
        found = pair_statistics(
            images, texts, temperature=temperature, similarity=similarity, groups=groups(batch)
        )
        if temperature is None:  # and so no logits
            return values, Outcome(memory, found)
        found["scale"] = 1 / found["positive_tau"]
        found["logit_gap"] = gap(images, texts, temperature, batch)
        if caption_noise:
            sigmoid = isinstance(temperature, LearnedWithBias)
            found["equilibrium_gap"] = equilibrium_gap(
                len(batch["row"]), caption_noise, sigmoid=sigmoid
            )
        return values, Outcome(memory, found)

    return method_of(
        image_tower,
        init=init,
        embed=embed,
        contrast=contrast,
        scheme_inputs=scheme_inputs if has_temperature else None,
        compared=compared,
        prepare=prepare,
    )


def siglip(
    images: Float[Array, "n d"],
    texts: Float[Array, "n d"],
    *,
    temperature: LearnedWithBias,
    labels: Int[Array, " n"] | None = None,
    similarity: Similarity = sphere,
    strategy: losses.StrategyLike = "auto",
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, " n"]:
    """`losses.siglip` with the scale and the bias of a `schemes.learned_scale_and_bias`.

    Args:
        images: one embedding an image.
        texts: the text of each image, in the same order.
        temperature: what such a scheme resolves to; it has a `scale` and a `bias`.
        labels: as for `losses.siglip`, and so are the others.
        similarity: how an image and a text are compared.
        strategy: how the work is done.
        tile_size: rows and columns of a tile, at least 1.
        axis_name: mesh axis over which the batch is split.

    Returns:
        One value a pair.

    Raises:
        ArgumentError: the temperature has no bias.

    Example:
        >>> from dystress_jax import methods, schemes
        >>> import optax
        >>> scheme = schemes.learned_scale_and_bias(optax.sgd(0.1))
        >>> temperature = scheme.resolve(scheme.init(), None)
        >>> methods.siglip(jnp.eye(2), jnp.eye(2), temperature=temperature)
        Array([0.6932, 0.6932], dtype=float32)

    References:
        Zhai et al., [arXiv 2303.15343](https://arxiv.org/abs/2303.15343).
    """
    if not isinstance(temperature, LearnedWithBias):
        raise ArgumentError(
            "temperature",
            f"found {type(temperature).__name__}; allowed: one with a scale and a bias, as that of "
            "schemes.learned_scale_and_bias.",
        )
    return losses.siglip(
        images,
        texts,
        scale=temperature.scale,
        bias=temperature.bias,
        labels=labels,
        similarity=similarity,
        strategy=strategy,
        tile_size=tile_size,
        axis_name=axis_name,
    )


def embed_texts(
    text: tuple[Network, Network], params: PyTree, stats: PyTree, tokens: Int[Array, "n t"]
) -> Float[Array, "n d"]:
    """The embeddings of texts by a trained method, in evaluation mode.

    Args:
        text: encoder and projection of the texts, as `clip` was given them.
        params: of the method; those of the texts are the entry `text`.
        stats: likewise.
        tokens: numbers of words, as the tokenizer gives them.

    Example:
        >>> from dystress_jax import methods, models
        >>> mean = lambda params, stats, x, *, train: (params["table"][x].mean(axis=1), stats)
        >>> words = models.Network(lambda key: ({"table": jnp.eye(5, 4)}, {}), mean, 4)
        >>> same = lambda params, stats, x, *, train: (x, stats)
        >>> projection = models.Network(lambda key: ({}, {}), same, 4)
        >>> params = {"text": {"encoder": {"table": jnp.eye(5, 4)}, "projector": {}}}
        >>> stats = {"text": {"encoder": {}, "projector": {}}}
        >>> methods.embed_texts((words, projection), params, stats, jnp.array([[0, 1]]))
        Array([[0.5, 0.5, 0. , 0. ]], dtype=float32)
    """
    return Tower(*text).project(params["text"], stats["text"], tokens)


def _permute_subset(key: PRNGKeyArray, n: int, share: float) -> Int[Array, " n"]:
    """Where the text of each pair comes from: a subset, `share` on average, moves in a cycle."""
    draw = jax.random.uniform(key, (n,), jnp.float32)
    chosen_first = jnp.argsort(draw).astype(jnp.int32)
    count = jnp.minimum(jnp.sum(draw < share), n - 1)
    if n > 2:  # one alone cannot move: as often as not two do in its place
        two = jax.random.bernoulli(jax.random.fold_in(key, n))
        count = jnp.where(count == 1, jnp.where(two, 2, 0), count)
    place = jnp.arange(n)
    following = jnp.where(place < count, (place + 1) % jnp.maximum(count, 1), place)
    return jnp.zeros(n, jnp.int32).at[chosen_first].set(chosen_first[following])
