"""Retrieval: which images a text finds, and which texts an image."""

import collections
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._placement import of_whole_arrays
from ..errors import ArgumentError
from ..similarities import Similarity, at_least_float32, sphere


@of_whole_arrays
@functools.partial(jax.jit, static_argnames=("similarity", "chunk_size"))
def retrieval_ranks(
    queries: Float[Array, "q d"],
    keys: Float[Array, "k d"],
    query_groups: Int[Array, "q ..."],
    key_groups: Int[Array, "k ..."],
    *,
    similarity: Similarity = sphere,
    chunk_size: int = 256,
) -> Int[Array, " q"]:
    r"""How many wrong keys come before the best right one of each query.

    $$r_i = \#\{ j : g_j \ne g_i, \; s_{ij} \ge \max_{k : g_k = g_i} s_{ik} \}$$

    Right keys are those of the query's group, or of one of its groups. Ties count against the
    query, so embeddings that have collapsed find nothing; a NaN counts as a tie.

    Args:
        queries: embeddings as the network gives them; they are projected here.
        keys: likewise.
        query_groups: any integers, or several for each query; what fills up a row is no group of a
            key.
        key_groups: likewise; a query without a right key has the rank k.
        similarity: of a query and a key.
        chunk_size: queries compared at once, so that chunk_size x k similarities are in memory, at
            least 1.

    Returns:
        Ranks from 0; the share of ranks below k is the recall at k.

    Example:
        >>> keys = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> query = jnp.array([[0.9, 0.3]])
        >>> retrieval_ranks(query, keys, jnp.array([7]), jnp.array([5, 5, 7])).tolist()
        [2]
    """
    queries, keys = (similarity.project(at_least_float32(x)) for x in (queries, keys))
    query_groups, key_groups = (x.reshape(len(x), -1) for x in (query_groups, key_groups))

    def rank(query):
        point, groups = query
        similarities = similarity.between(point[None], keys)[0]
        right = jnp.any(key_groups[:, :, None] == groups[None, None], axis=(1, 2))
        best = jnp.max(similarities, where=right, initial=-jnp.inf)
        return jnp.sum(~(similarities < best) & ~right)

    return jax.lax.map(rank, (queries, query_groups), batch_size=chunk_size)


def retrieval_recalls(
    images: Float[Array, "n d"],
    texts: Float[Array, "t d"],
    *,
    image_groups: Int[np.ndarray, "images ..."] | None = None,
    text_groups: Int[np.ndarray, " texts"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    similarity: Similarity = sphere,
) -> dict[str, float]:
    """The share of images that find one of their texts, and of texts that find their image.

    Args:
        images: embeddings as the network gives them.
        texts: likewise; oblique ones with their tokens one after another.
        image_groups: any integers; a text is right for the images of its group. Default 0, 1, ...
            Or several for each image, [n a], whose rows are filled up with negative numbers: where
            two images have a text in common, it is right for both.
        text_groups: likewise of the texts. For several texts an image, the row of each text's
            image. Default 0, 1, ..., a text an image.
        ks: how many of the most similar count as found, each at least 1; a k above the number of
            texts, or of images, is left out in that direction.
        similarity: of an image and a text.

    Returns:
        `image_to_text_recall_at_{k}` and `text_to_image_recall_at_{k}`, in [0, 1]. For an image
        with several texts, one among the k is enough. Ties count against the query.

    Raises:
        ArgumentError: a k is below 1, the groups are not one a row, or an image has no text or a
            text no image.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> texts = jnp.array([[0.9, 0.1], [0.7, 0.6], [0.1, 0.9]])
        >>> recalls = retrieval_recalls(images, texts, text_groups=np.array([0, 1, 1]), ks=[1])
        >>> {name: round(recall, 3) for name, recall in recalls.items()}
        {'image_to_text_recall_at_1': 1.0, 'text_to_image_recall_at_1': 0.667}

    References:
        Karpathy and Fei-Fei, [arXiv 1412.2306](https://arxiv.org/abs/1412.2306), section 4.1; of
        CLIP, Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), table 13.
    """
    image_groups = np.arange(len(images)) if image_groups is None else image_groups
    text_groups = np.arange(len(texts)) if text_groups is None else text_groups
    _check(images, texts, image_groups, text_groups, ks)
    # Numbers that int32 holds, and that no image has where its row is filled up.
    known, of_texts = np.unique(text_groups, return_inverse=True)
    of_images = np.where(
        np.isin(image_groups, known), np.searchsorted(known, image_groups), -1
    )  # one that no text has is none
    of_images, of_texts = (jnp.asarray(x, jnp.int32) for x in (of_images, of_texts))
    sides = {
        "image_to_text": (images, texts, of_images, of_texts),
        "text_to_image": (texts, images, of_texts, of_images),
    }
    recalls = {}
    for name, (queries, keys, *groups) in sides.items():
        ranks = np.asarray(retrieval_ranks(queries, keys, *groups, similarity=similarity))
        recalls |= {
            f"{name}_recall_at_{k}": float(np.mean(ranks < k)) for k in ks if k <= len(keys)
        }
    return recalls


def retrieval_chance(
    image_groups: Int[np.ndarray, "n ..."],
    text_groups: Int[np.ndarray, " t"],
    *,
    ks: Sequence[int],
) -> dict[str, float]:
    r"""The recalls of guessing: how often k random keys of N have one of the r right ones.

    $$1 - \binom{N - r}{k} \Big/ \binom{N}{k}, \quad \text{the mean over the queries}$$

    Args:
        image_groups: as for `retrieval_recalls`.
        text_groups: likewise.
        ks: likewise, each at least 1.

    Returns:
        With the names and in the order of `retrieval_recalls`.

    Example:
        >>> retrieval_chance(np.array([0, 1]), np.array([0, 1, 1]), ks=[1])
        {'image_to_text_recall_at_1': 0.5, 'text_to_image_recall_at_1': 0.5}
    """
    of_images, of_texts = map(_sets, (image_groups, text_groups))
    sides = {"image_to_text": (of_images, of_texts), "text_to_image": (of_texts, of_images)}
    chance = {}
    for name, (queries, keys) in sides.items():
        sizes = collections.Counter(group for groups in keys for group in groups)
        # Of texts each has one group, so that nothing is counted twice.
        right = collections.Counter(sum(sizes[group] for group in groups) for groups in queries)
        for k in ks:
            if k > len(keys):
                continue
            missed = sum(
                count * math.comb(len(keys) - r, k) / math.comb(len(keys), k)
                for r, count in right.items()
            )
            chance[f"{name}_recall_at_{k}"] = 1 - missed / len(queries)
    return chance


def _sets(groups: Int[np.ndarray, "n ..."]) -> list[set[int]]:
    """The groups of each row."""
    if groups.ndim == 1:
        return [{group} for group in groups.tolist()]
    return [{group for group in row if group >= 0} for row in groups.tolist()]


def _check(
    images: Float[Array, "n ..."],
    texts: Float[Array, "m ..."],
    image_groups: Int[np.ndarray, "i ..."],
    text_groups: Int[np.ndarray, " t"],
    ks: Sequence[int],
) -> None:
    for one, rows, groups in (("image", images, image_groups), ("text", texts, text_groups)):
        if len(groups) != len(rows):
            raise ArgumentError(
                f"{one}_groups", f"found {len(groups)} for {len(rows)} {one}s; allowed: one each."
            )
    for k in ks:
        if k < 1:
            raise ArgumentError("ks", f"found {k}; allowed: 1 or more.")
    for one, other, mine, others in (
        ("image", "text", image_groups, text_groups),
        ("text", "image", text_groups, image_groups),
    ):
        found = np.isin(mine, others).reshape(len(mine), -1)
        alone = np.flatnonzero(~found.any(axis=1))
        if alone.size:
            raise ArgumentError(
                f"{one}_groups",
                f"{alone.size} of {len(mine)} {one}s have no {other}, the first {one} {alone[0]} "
                f"of group {mine[alone[0]]}; allowed: groups that `{other}_groups` has too.",
            )
