"""CLIP (Radford et al. 2021): each image finds its text, each text its image, on any manifold."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from .. import schemes
from ..metrics import equilibrium_gap, pair_statistics
from ..models import Network
from ..similarities import Similarity
from ..temperatures import Temperature
from ._method import Embedded, Method, Outcome
from ._tower import Tower

PyTree = Any
MOST_NEGATIVES = 256  # images and texts that the logged gap compares
PairLoss = Callable[[Float[Array, "n d"], Float[Array, "n d"], Temperature], Float[Array, " n"]]
OneView = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"], Int[Array, " n"]], Float[Array, "n size size c"]
]


def clip(
    image: tuple[Network, Network],
    text: tuple[Network, Network],
    *,
    view: OneView,
    loss: PairLoss,
    similarity: Similarity,
    scheme: schemes.Scheme,
    wrong_pairs: float = 0.0,
    sigmoid: bool = False,
) -> Method:
    """Image-text training with any similarity and any temperature.

    Args:
        image: encoder and projection of the images.
        text: encoder and projection of the texts.
        view: ``(key, uint8 images, rows) -> images`` for the image tower.
        loss: ``(images [n d], texts [n d], temperature) -> one value a pair``.
        similarity: that ``loss`` compares with; here for the log.
        scheme: of the temperature that is handed to ``loss``.
        wrong_pairs: share of the texts, in [0, 1), that are dealt out among each other in every
            batch, so that none of these has its own image: noise that cannot be memorised. One
            pair stays right.
        sigmoid: the loss is SigLIP's, whose logits balance elsewhere; for the log.

    Returns:
        The method; the text tower is the entry "text" of its parameters and statistics. It logs
        the gap between the mean logits of right pairs and of negative ones, and with wrong pairs
        the gap at which they balance (`metrics.equilibrium_gap`).

    Raises:
        ValueError: the towers differ in width.

    References:
        Radford et al., https://arxiv.org/abs/2103.00020; Sun, https://arxiv.org/abs/2209.02127.
    """
    image_tower, text_tower = Tower(*image), Tower(*text)
    widths = image[1].out_features, text[1].out_features
    if widths[0] != widths[1]:
        raise ValueError(f"both towers must have the same width; found {widths[0]} and {widths[1]}")

    def init(key):
        image_key, text_key = jax.random.split(key)
        params, stats = image_tower.init(image_key)
        text_params, text_stats = text_tower.init(text_key)
        return {**params, "text": text_params}, {**stats, "text": text_stats}, ()

    def prepare(batch, key):
        if not wrong_pairs:
            return batch
        n = len(batch["row"])
        # The views are drawn with fold_in(key, row), so the first number that is no row is free.
        source = _deal(jax.random.fold_in(key, n), n, wrong_pairs)
        right = source == batch["row"]
        return {**batch, "tokens": batch["tokens"][source], "right": right}

    def embed(params, stats, memory, batch, key):
        del memory
        x = view(key, batch["image"], batch["row"])
        images, features, image_stats = image_tower.embed(params, stats, x)
        texts, _, text_stats = text_tower.embed(params["text"], stats["text"], batch["tokens"])
        points = {"images": images, "texts": texts}
        return Embedded(points, features[:, None]), {**image_stats, "text": text_stats}

    def look(embedded, memory, batch, key):
        del memory
        points = jax.lax.stop_gradient(embedded.points)
        return schemes.of_views(points["images"], points["texts"], example=batch["index"], key=key)

    def gap(images, texts, temperature, right):
        """Mean logit of the pairs that belong together minus that of the others."""
        a, b = similarity.project(images), similarity.project(texts[:MOST_NEGATIVES])
        others = similarity.between(a[:MOST_NEGATIVES], b)
        pairs = similarity.paired(a, similarity.project(texts))
        logit = lambda part, s: s / part(similarity.as_cosine(s))
        negative = logit(temperature.for_negatives, others)
        # Texts that are dealt out wrongly are negatives with another name.
        positive = jnp.mean(logit(temperature.for_positives, pairs), where=right)
        return positive - jnp.mean(negative, where=~jnp.eye(len(others), dtype=bool))

    def contrast(params, embedded, temperature, memory, batch, key):
        del params, key
        images, texts = embedded.points["images"], embedded.points["texts"]
        value = jnp.mean(loss(images, texts, temperature))
        found = pair_statistics(images, texts, temperature=temperature, similarity=similarity)
        found["scale"] = 1 / found["positive_tau"]
        found["logit_gap"] = gap(images, texts, temperature, batch.get("right"))
        if wrong_pairs:
            found["equilibrium_gap"] = equilibrium_gap(
                len(batch["row"]), wrong_pairs, sigmoid=sigmoid
            )
        return value, Outcome(memory, found)

    return Method(
        init,
        embed,
        look,
        contrast,
        scheme,
        image_tower.encode,
        image[0].out_features,
        prepare,
    )


def embed_images(
    image: tuple[Network, Network], params: PyTree, stats: PyTree, x: Float[Array, "n h w c"]
) -> Float[Array, "n d"]:
    """The embeddings of images by a trained method, in evaluation mode."""
    return Tower(*image).embed(params, stats, x, train=False)[0]


def embed_texts(
    text: tuple[Network, Network], params: PyTree, stats: PyTree, tokens: Int[Array, "n t"]
) -> Float[Array, "n d"]:
    """The embeddings of texts by a trained method, in evaluation mode."""
    return Tower(*text).embed(params["text"], stats["text"], tokens, train=False)[0]


def _deal(key: PRNGKeyArray, n: int, share: float) -> Int[Array, " n"]:
    """Where the text of each pair comes from: chosen ones, that share on average, in a cycle."""
    draw = jax.random.uniform(key, (n,))
    chosen_first = jnp.argsort(draw)
    count = jnp.minimum(jnp.sum(draw < share), n - 1)
    place = jnp.arange(n)
    following = jnp.where(place < count, (place + 1) % jnp.maximum(count, 1), place)
    return jnp.zeros(n, jnp.int32).at[chosen_first].set(chosen_first[following])
