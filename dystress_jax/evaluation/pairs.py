"""How well images and texts find each other: retrieval and zero-shot classification of a source."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .. import data
from ..similarities import Similarity
from ._result import Result, top_accuracy
from .features import Encode, embed_source
from .retrieval import retrieval_ranks
from .zero_shot import class_embeddings, prompts, zero_shot_scores

TEXTS_AT_ONCE = 256


class Towers(NamedTuple):
    """Two trained towers, ready to embed.

    Attributes:
        images: uint8 images to embeddings, jitted.
        texts: tokens [n t] to embeddings, jitted.
        tokenize: captions to tokens.
        similarity: of an image and a text.
    """

    images: Encode
    texts: Callable[[Int[Array, "n t"]], Float[Array, "n d"]]
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]]
    similarity: Similarity

    def embed_texts(self, texts: Sequence[str]) -> Float[Array, "n d"]:
        """Embeddings of any number of texts."""
        tokens = self.tokenize(list(texts))
        missing = -len(tokens) % TEXTS_AT_ONCE
        padded = np.concatenate([tokens, np.repeat(tokens[-1:], missing, axis=0)])
        parts = np.split(padded, len(padded) // TEXTS_AT_ONCE)
        return jnp.concatenate([self.texts(jnp.asarray(part)) for part in parts])[: len(tokens)]


class Retrieval(NamedTuple):
    """Recalls in [0, 1], chance levels and how they were measured; `_asdict()` fits in JSON."""

    recalls: dict[str, float]
    chance: dict[str, float]
    protocol: dict[str, Any]


def evaluate_retrieval(
    towers: Towers, source: data.Source, *, mesh: Mesh, ks: Sequence[int] = (1, 5, 10)
) -> Retrieval:
    """Which images find their texts among all texts of a source, and the other way round.

    Images whose first caption is the same text count as one: each finds the text of the other.
    Ties count against the query.

    Args:
        towers: the trained towers.
        source: images with captions.
        mesh: the devices that embed the images.
        ks: how many of the most similar count as found; larger ones than there are are left out.

    Returns:
        ``image_to_text_recall_at_{k}`` and ``text_to_image_recall_at_{k}``; as chance, how many
        right ones k random ones have on average.

    Raises:
        ValueError: the source has no captions.
    """
    captions = data.list_captions(source)
    images = jnp.asarray(embed_source(towers.images, source, mesh=mesh))
    texts = towers.embed_texts(captions.texts)
    _, first = np.unique(captions.owner, return_index=True)
    names = np.array(captions.texts)[first]
    group = jnp.asarray(np.unique(names, return_inverse=True)[1].astype(np.int32))
    group_of_text = group[captions.owner]
    sides = {
        "image_to_text": (images, texts, group, group_of_text),
        "text_to_image": (texts, images, group_of_text, group),
    }
    recalls, chance = {}, {}
    for name, (queries, keys, query_group, key_group) in sides.items():
        ranks = retrieval_ranks(queries, keys, query_group, key_group, similarity=towers.similarity)
        right = np.bincount(key_group, minlength=int(query_group.max()) + 1)[query_group].mean()
        for k in [k for k in ks if k <= len(keys)]:
            recalls[f"{name}_recall_at_{k}"] = float(np.mean(np.asarray(ranks) < k))
            chance[f"{name}_recall_at_{k}"] = min(1.0, k * float(right) / len(keys))
    protocol = {"evaluation": "retrieval", "images": len(images), "texts": len(texts)}
    return Retrieval(recalls, chance, protocol)


def evaluate_zero_shot(
    towers: Towers,
    source: data.Source,
    *,
    templates: Sequence[str],
    class_names: Sequence[str] | None = None,
    mesh: Mesh,
) -> Result:
    """Classify the labelled images of a source by descriptions of its classes.

    Args:
        towers: the trained towers.
        source: images with labels.
        templates: with ``{}`` for the name of the class; the mean of all on the manifold.
        class_names: in the order of the labels; default: the source's own.
        mesh: the devices that embed the images.

    Returns:
        Accuracies, and in the protocol those of guessing and of the largest class.

    Raises:
        ValueError: the source has no labels, or another number of classes than there are names.
    """
    names = tuple(class_names or source.class_names)
    if not source.has_labels or len(names) != source.num_classes:
        raise ValueError(
            f"zero-shot classification needs labels and a name for each class; found "
            f"{source.num_classes} classes and {len(names)} names"
        )
    labels = source.labels()
    known = np.flatnonzero(labels >= 0)
    images = jnp.asarray(embed_source(towers.images, source.take(known), mesh=mesh))
    described = towers.embed_texts(prompts(names, templates))
    classes = class_embeddings(
        described.reshape(len(names), len(templates), -1), similarity=towers.similarity
    )
    scores = zero_shot_scores(images, classes, similarity=towers.similarity)
    right = jnp.asarray(labels[known])
    top1, top5 = (float(top_accuracy(scores, right, top=top)) for top in (1, 5))
    largest = np.bincount(labels[known]).max() / len(known)
    protocol = {
        "evaluation": "zero_shot",
        "templates": list(templates),
        "classes": len(names),
        "test_images": len(known),
        "chance": 1 / len(names),
        "largest_class": float(largest),
    }
    return Result(top1, top5, protocol)
