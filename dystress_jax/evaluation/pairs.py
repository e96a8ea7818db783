"""How well images and texts find each other: retrieval and zero-shot classification of a source."""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .. import data
from ..errors import ArgumentError, a_few
from ..similarities import Similarity
from ._result import Result, Row, top_accuracy
from .confusion import confusion
from .features import Encode, check_finite, embed_source
from .retrieval import retrieval_chance, retrieval_recalls
from .zero_shot import class_embeddings, prompts, zero_shot_scores

BATCH_SIZE = 256  # of texts, and of images that are compared with all classes


class DualEncoder(NamedTuple):
    """A trained image encoder and a trained text encoder, each with its projection.

    Attributes:
        encode_images: uint8 images to embeddings, jitted.
        encode_tokens: tokens [n t] to embeddings, jitted.
        tokenize: texts to tokens.
        similarity: of an image and a text.
    """

    encode_images: Encode
    encode_tokens: Callable[[Int[Array, "n t"]], Float[Array, "n d"]]
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]]
    similarity: Similarity

    def embed_texts(self, texts: Sequence[str]) -> Float[Array, "n d"]:
        """Embeddings of any number of texts; one that is there often is embedded once.

        Raises:
            NotFiniteError: an embedding is NaN or infinite.
        """
        unique, inverse = data.unique_texts(texts)
        tokens = self.tokenize(unique)
        missing = -len(tokens) % BATCH_SIZE
        padded = np.concatenate([tokens, np.repeat(tokens[-1:], missing, axis=0)])
        batches = np.split(padded, len(padded) // BATCH_SIZE)
        embeddings = jnp.concatenate([self.encode_tokens(jnp.asarray(batch)) for batch in batches])
        check_finite(np.asarray(embeddings[: len(unique)].astype(jnp.float32)), "texts")
        return embeddings[inverse]


class EmbeddedImages(NamedTuple):
    """The embeddings of the images of a source and what embeds texts beside them.

    `embed_images` makes it.

    Attributes:
        encoder: it has embedded the images, and embeds texts.
        source: the images, with captions, labels or both.
        embeddings: of the images, in the order of the source.
    """

    encoder: DualEncoder
    source: data.Source
    embeddings: Float[Array, "n d"]


def embed_images(encoder: DualEncoder, source: data.Source, *, mesh: Mesh) -> EmbeddedImages:
    """Embed the images of a source, once for all that is measured on them.

    Args:
        encoder: a trained one.
        source: any images.
        mesh: the devices that share each batch of images.

    Returns:
        The images with their embeddings.

    Raises:
        NotFiniteError: an embedding is NaN or infinite.

    Example:
        >>> from dystress_jax import data, evaluation, sharding, similarities
        >>> images = np.zeros((3, 4, 4, 3), np.uint8)
        >>> images[0, ..., 0] = images[1, ..., 1] = images[2, ..., 2] = 200
        >>> names = ("red", "green", "blue")
        >>> source = data.from_arrays(
        ...     images,
        ...     np.arange(3, dtype=np.int32),
        ...     class_names=names,
        ...     captions=data.Captions.of([[name] for name in names]),
        ... )
        >>> encoder = evaluation.DualEncoder(
        ...     encode_images=lambda images: images.mean(axis=(1, 2)),
        ...     encode_tokens=lambda tokens: jnp.eye(3)[tokens[:, 0]],
        ...     tokenize=lambda texts: np.array([[names.index(text)] for text in texts]),
        ...     similarity=similarities.sphere,
        ... )
        >>> embedded = evaluation.embed_images(encoder, source, mesh=sharding.make_mesh())
        >>> embedded.embeddings.shape
        (3, 3)
    """
    embeddings = embed_source(encoder.encode_images, source, mesh=mesh)
    return EmbeddedImages(encoder, source, jnp.asarray(embeddings))


def evaluate_retrieval(embedded: EmbeddedImages, *, ks: Sequence[int] = (1, 5, 10)) -> Result:
    """Which images find their texts among all texts of a source, and the other way round.

    A text is right for every image that has it as a caption, whoever else has it too. Ties count
    against the query.

    Args:
        embedded: images with captions.
        ks: how many of the most similar count as found, each at least 1; larger ones than there are
            are left out.

    Returns:
        The rows `image_to_text_recall_at_{k}` and `text_to_image_recall_at_{k}`, the chance of
        each being the recall of k random ones.

    Raises:
        ArgumentError: the source has no captions.

    Example:
        >>> from dystress_jax import data, evaluation, sharding, similarities
        >>> images = np.zeros((3, 4, 4, 3), np.uint8)
        >>> images[0, ..., 0] = images[1, ..., 1] = images[2, ..., 2] = 200
        >>> names = ("red", "green", "blue")
        >>> source = data.from_arrays(
        ...     images,
        ...     np.arange(3, dtype=np.int32),
        ...     class_names=names,
        ...     captions=data.Captions.of([[name] for name in names]),
        ... )
        >>> encoder = evaluation.DualEncoder(
        ...     encode_images=lambda images: images.mean(axis=(1, 2)),
        ...     encode_tokens=lambda tokens: jnp.eye(3)[tokens[:, 0]],
        ...     tokenize=lambda texts: np.array([[names.index(text)] for text in texts]),
        ...     similarity=similarities.sphere,
        ... )
        >>> embedded = evaluation.embed_images(encoder, source, mesh=sharding.make_mesh())
        >>> evaluation.evaluate_retrieval(embedded, ks=(1,)).value("image_to_text_recall_at_1")
        1.0
    """
    encoder, source, images = embedded
    if source.captions is None:
        raise ArgumentError(
            "embedded",
            f"found {len(source)} images without captions; allowed: images with captions, which "
            "retrieval is measured by.",
        )
    captions = data.list_captions(source)
    texts = encoder.embed_texts(captions.texts)
    _, of_texts = data.unique_texts(captions.texts)
    _, first, count = np.unique(captions.owner, return_index=True, return_counts=True)
    of_images = np.full((len(source), count.max()), -1)
    of_images[captions.owner, np.arange(len(of_texts)) - first[captions.owner]] = of_texts
    groups = {"image_groups": of_images, "text_groups": of_texts}
    recalls = retrieval_recalls(images, texts, **groups, ks=ks, similarity=encoder.similarity)
    chance = retrieval_chance(**groups, ks=ks)
    # An image may have a text twice.
    _, has = np.unique(np.stack([captions.owner, of_texts]), axis=1)
    owners = np.bincount(has)
    protocol = {
        "evaluation": "retrieval",
        "images": len(images),
        "texts": len(texts),
        "texts_of_several_images": int((owners[of_texts] > 1).sum()),
    }
    rows = tuple(Row(name, recall, chance[name]) for name, recall in recalls.items())
    return Result(rows, protocol)


def evaluate_zero_shot(
    embedded: EmbeddedImages,
    *,
    templates: Sequence[str],
    class_names: Sequence[str] | None = None,
) -> Result:
    """Classify the labelled images of a source by descriptions of its classes.

    Args:
        embedded: images with labels.
        templates: with `{}` for the name of the class; the mean of all on the manifold.
        class_names: in the order of the labels; default: the source's own.

    Returns:
        The rows `top1` and `top5`, and in the protocol the accuracy of guessing and that of the
        largest class. A note names classes of equal names, which cannot be told apart.

    Raises:
        ArgumentError: the source has no labels, or another number of classes than there are names.

    Example:
        >>> from dystress_jax import data, evaluation, sharding, similarities
        >>> images = np.zeros((3, 4, 4, 3), np.uint8)
        >>> images[0, ..., 0] = images[1, ..., 1] = images[2, ..., 2] = 200
        >>> names = ("red", "green", "blue")
        >>> source = data.from_arrays(
        ...     images,
        ...     np.arange(3, dtype=np.int32),
        ...     class_names=names,
        ...     captions=data.Captions.of([[name] for name in names]),
        ... )
        >>> encoder = evaluation.DualEncoder(
        ...     encode_images=lambda images: images.mean(axis=(1, 2)),
        ...     encode_tokens=lambda tokens: jnp.eye(3)[tokens[:, 0]],
        ...     tokenize=lambda texts: np.array([[names.index(text)] for text in texts]),
        ...     similarity=similarities.sphere,
        ... )
        >>> embedded = evaluation.embed_images(encoder, source, mesh=sharding.make_mesh())
        >>> evaluation.evaluate_zero_shot(embedded, templates=["{}"]).value("top1")
        1.0
    """
    encoder, source, images = embedded
    names = tuple(class_names or source.class_names)
    if not source.has_labels:
        raise ArgumentError(
            "embedded",
            f"found {len(source)} images without labels; allowed: images with labels, which "
            "zero-shot classification is measured by.",
        )
    if len(names) != source.num_classes:
        raise ArgumentError(
            "class_names",
            f"found {len(names)} names for {source.num_classes} classes; allowed: one a class, in "
            "the order of the labels.",
        )
    labels = source.labels()
    labelled = np.flatnonzero(labels >= 0)
    texts = encoder.embed_texts(prompts(names, templates))
    classes = class_embeddings(
        texts.reshape(len(names), len(templates), -1), similarity=encoder.similarity
    )
    accuracy, predicted = {1: 0.0, 5: 0.0}, []
    for rows in np.split(labelled, range(BATCH_SIZE, len(labelled), BATCH_SIZE)):
        scores = zero_shot_scores(images[rows], classes, similarity=encoder.similarity)
        predicted.append(np.asarray(scores.argmax(axis=1)))
        for top in accuracy:
            right = top_accuracy(scores, jnp.asarray(labels[rows]), top=top)
            accuracy[top] += float(right) * len(rows) / len(labelled)
    largest = np.bincount(labels[labelled]).max() / len(labelled)
    protocol = {
        "evaluation": "zero_shot",
        "templates": list(templates),
        "classes": len(names),
        "test_images": len(labelled),
        "chance": 1 / len(names),
        "largest_class": float(largest),
    }
    found = confusion(np.concatenate(predicted), labels[labelled], names)
    rows = (
        Row("top1", accuracy[1], chance=1 / len(names), balanced=found.balanced()),
        Row("top5", accuracy[5], chance=min(5, len(names)) / len(names)),
    )
    return Result(rows, protocol, confusion=found, notes=_equal_names(names))


def _equal_names(names: Sequence[str]) -> tuple[str, ...]:
    """A note on classes that no description tells apart; none without such."""
    count = collections.Counter(names)
    equal = [name for name in count if count[name] > 1]
    if not equal:
        return ()
    return (
        f"{sum(count[name] for name in equal)} of the {len(names)} classes share their name with "
        f"another ({a_few(equal, at_most=3)}) and cannot be told apart by it: all their images are "
        "taken for the first of that name; give each class a name of its own",
    )
