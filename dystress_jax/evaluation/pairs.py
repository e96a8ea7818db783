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
from .retrieval import retrieval_chance, retrieval_recalls
from .zero_shot import class_embeddings, prompts, zero_shot_scores

AT_ONCE = 256  # texts, and images that are compared with all classes


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
        """Embeddings of any number of texts; one that is there often is embedded once."""
        number, row = numbered(texts)
        tokens = self.tokenize(number)
        missing = -len(tokens) % AT_ONCE
        padded = np.concatenate([tokens, np.repeat(tokens[-1:], missing, axis=0)])
        parts = np.split(padded, len(padded) // AT_ONCE)
        return jnp.concatenate([self.texts(jnp.asarray(part)) for part in parts])[row]


def numbered(texts: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """The distinct texts in the order in which they come, and the number of each text among them.

    Example:
        >>> numbered(["cat", "dog", "cat"])
        (['cat', 'dog'], array([0, 1, 0]))
    """
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(number), np.array([number[text] for text in texts])


class Embedded(NamedTuple):
    """The images of a source where texts can find them, made by `embed_images`.

    Attributes:
        towers: that embed them, and the texts.
        source: what the images are of, with captions, labels or both.
        images: their embeddings, in its order.
    """

    towers: Towers
    source: data.Source
    images: Float[Array, "n d"]


def embed_images(towers: Towers, source: data.Source, *, mesh: Mesh) -> Embedded:
    """Embed the images of a source, once for all that is measured on them.

    Args:
        towers: the trained towers.
        source: any images.
        mesh: the devices that share each batch of images.
    """
    return Embedded(towers, source, jnp.asarray(embed_source(towers.images, source, mesh=mesh)))


class Retrieval(NamedTuple):
    """Recalls in [0, 1], chance levels and how they were measured; `_asdict()` fits in JSON."""

    recalls: dict[str, float]
    chance: dict[str, float]
    protocol: dict[str, Any]


def evaluate_retrieval(embedded: Embedded, *, ks: Sequence[int] = (1, 5, 10)) -> Retrieval:
    """Which images find their texts among all texts of a source, and the other way round.

    Images whose first caption is the same text count as one: each finds the text of the other.
    Ties count against the query.

    Args:
        embedded: images with captions.
        ks: how many of the most similar count as found; larger ones than there are are left out.

    Returns:
        ``image_to_text_recall_at_{k}`` and ``text_to_image_recall_at_{k}``; as chance, how many
        right ones k random ones have on average.

    Raises:
        ValueError: the source has no captions.
    """
    towers, source, images = embedded
    captions = data.list_captions(source)
    texts = towers.embed_texts(captions.texts)
    _, first = np.unique(captions.owner, return_index=True)
    _, group = numbered([captions.texts[i] for i in first])
    groups = {"image_groups": group, "text_groups": group[captions.owner]}
    recalls = retrieval_recalls(images, texts, **groups, ks=ks, similarity=towers.similarity)
    protocol = {"evaluation": "retrieval", "images": len(images), "texts": len(texts)}
    return Retrieval(recalls, retrieval_chance(**groups, ks=ks), protocol)


def evaluate_zero_shot(
    embedded: Embedded,
    *,
    templates: Sequence[str],
    class_names: Sequence[str] | None = None,
) -> Result:
    """Classify the labelled images of a source by descriptions of its classes.

    Args:
        embedded: images with labels.
        templates: with ``{}`` for the name of the class; the mean of all on the manifold.
        class_names: in the order of the labels; default: the source's own.

    Returns:
        Accuracies, and in the protocol those of guessing and of the largest class.

    Raises:
        ValueError: the source has no labels, or another number of classes than there are names.
    """
    towers, source, images = embedded
    names = tuple(class_names or source.class_names)
    if not source.has_labels or len(names) != source.num_classes:
        raise ValueError(
            f"zero-shot classification needs labels and a name for each class; found "
            f"{source.num_classes} classes and {len(names)} names"
        )
    labels = source.labels()
    known = np.flatnonzero(labels >= 0)
    described = towers.embed_texts(prompts(names, templates))
    classes = class_embeddings(
        described.reshape(len(names), len(templates), -1), similarity=towers.similarity
    )
    found = {1: 0.0, 5: 0.0}
    for rows in np.split(known, range(AT_ONCE, len(known), AT_ONCE)):
        scores = zero_shot_scores(images[rows], classes, similarity=towers.similarity)
        for top in found:
            right = top_accuracy(scores, jnp.asarray(labels[rows]), top=top)
            found[top] += float(right) * len(rows) / len(known)
    largest = np.bincount(labels[known]).max() / len(known)
    protocol = {
        "evaluation": "zero_shot",
        "templates": list(templates),
        "classes": len(names),
        "test_images": len(known),
        "chance": 1 / len(names),
        "largest_class": float(largest),
    }
    return Result(found[1], found[5], protocol)
