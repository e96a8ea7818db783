"""Retrieval: which images a text finds, and which texts an image."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..similarities import Similarity, at_least_float32, sphere


@functools.partial(jax.jit, static_argnames=("similarity", "chunk_size"))
def retrieval_ranks(
    queries: Float[Array, "q d"],
    keys: Float[Array, "k d"],
    query_groups: Int[Array, " q"],
    key_groups: Int[Array, " k"],
    *,
    similarity: Similarity = sphere,
    chunk_size: int = 256,
) -> Int[Array, " q"]:
    r"""How many wrong keys come before the best right one of each query.

    .. math:: r_i = \#\{ j : g_j \ne g_i, \; s_{ij} \ge \max_{k : g_k = g_i} s_{ik} \}

    Right keys are those of the query's group. Ties count against the query, so embeddings that have
    collapsed find nothing; a NaN counts as a tie.

    Args:
        queries: embeddings as the network gives them; they are projected here.
        keys: likewise.
        query_groups: any integers.
        key_groups: any integers; a query without a right key has the rank k.
        similarity: of a query and a key.
        chunk_size: queries compared at once, so that chunk_size x k similarities are in memory.

    Returns:
        Ranks from 0; the share of ranks below k is the recall at k.

    Example:
        >>> keys = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> query = jnp.array([[0.9, 0.3]])
        >>> retrieval_ranks(query, keys, jnp.array([7]), jnp.array([5, 5, 7])).tolist()
        [2]
    """
    queries, keys = (similarity.project(at_least_float32(x)) for x in (queries, keys))

    def rank(query):
        point, group = query
        similarities = similarity.between(point[None], keys)[0]
        right = key_groups == group
        best = jnp.max(similarities, where=right, initial=-jnp.inf)
        return jnp.sum(~(similarities < best) & ~right)

    return jax.lax.map(rank, (queries, query_groups), batch_size=chunk_size)


def retrieval_recalls(
    images: Float[Array, "n d"],
    texts: Float[Array, "t d"],
    *,
    image_of_text: Int[np.ndarray, " owners"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    similarity: Similarity = sphere,
) -> dict[str, float]:
    """The share of images that find one of their texts, and of texts that find their image.

    Args:
        images: embeddings as the network gives them.
        texts: likewise; oblique ones with their tokens one after another.
        image_of_text: the row of each text's image; default 0, 1, ..., n - 1, a text an image.
        ks: how many of the most similar count as found, each from 1 to n and to t.
        similarity: of an image and a text.

    Returns:
        ``image_to_text_recall_at_{k}`` and ``text_to_image_recall_at_{k}``, in [0, 1]. For an image
        with several texts, one among the k is enough. Ties count against the query.

    Raises:
        ValueError: a k is out of range, a text's image does not exist, or an image has no text.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> texts = jnp.array([[0.9, 0.1], [0.7, 0.6], [0.1, 0.9]])
        >>> recalls = retrieval_recalls(images, texts, image_of_text=np.array([0, 1, 1]), ks=[1])
        >>> {name: round(recall, 3) for name, recall in recalls.items()}
        {'image_to_text_recall_at_1': 1.0, 'text_to_image_recall_at_1': 0.667}

    References:
        Karpathy and Fei-Fei, arXiv 1412.2306, section 4.1; of CLIP, Radford et al.,
        arXiv 2103.00020, table 13.
    """
    rows = np.arange(len(images), dtype=np.int32)
    owner = rows if image_of_text is None else np.asarray(image_of_text, np.int32)
    _check(len(images), len(texts), owner, ks)
    of = functools.partial(retrieval_ranks, similarity=similarity)
    image_ranks = np.asarray(of(images, texts, jnp.asarray(rows), jnp.asarray(owner)))
    text_ranks = np.asarray(of(texts, images, jnp.asarray(owner), jnp.asarray(rows)))
    recalls = {f"image_to_text_recall_at_{k}": float(np.mean(image_ranks < k)) for k in ks}
    return recalls | {f"text_to_image_recall_at_{k}": float(np.mean(text_ranks < k)) for k in ks}


def _check(images: int, texts: int, owner: Int[np.ndarray, " owners"], ks: Sequence[int]) -> None:
    if len(owner) != texts:
        raise ValueError(
            f"each text needs its image: found {texts} texts and the images of {len(owner)}"
        )
    for k in ks:
        if not 1 <= k <= min(images, texts):
            raise ValueError(
                f"k is {k}; allowed: 1 to {min(images, texts)}, for {images} images and {texts} "
                "texts"
            )
    outside = np.flatnonzero((owner < 0) | (owner >= images))
    if outside.size:
        raise ValueError(
            f"text {outside[0]} belongs to image {owner[outside[0]]}; allowed: 0 to {images - 1}"
        )
    without = np.setdiff1d(np.arange(images), owner)
    if without.size:
        raise ValueError(f"{without.size} of {images} images have no text, such as {without[0]}")
