"""Weighted k-nearest-neighbour classification of features."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .. import data
from ..errors import ArgumentError
from ..similarities import normalize
from ._result import Result, accuracies
from .confusion import confusion
from .features import Encode, check_classes, encode_source


@functools.partial(jax.jit, static_argnames=("k", "num_classes", "chunk_size"))
def knn_votes(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    k: int = 200,
    temperature: float | Float[Array, ""] = 0.1,
    num_classes: int,
    chunk_size: int = 256,
) -> Float[Array, "q {num_classes}"]:
    r"""Votes of the k nearest neighbours for each class, by cosine similarity.

    $$v_c = \sum_{j \in N_k,\, y_j = c} e^{s_j / t} \Big/ \sum_{j \in N_k} e^{s_j / t}$$

    Of equally near neighbours at the k-th place the earlier ones of the bank count.

    Args:
        queries: features to classify; they are brought to unit length here.
        bank: features with known classes, likewise.
        labels: of the bank, in [0, num_classes).
        k: neighbours, at least 1; a smaller bank votes whole.
        temperature: t > 0; the smaller, the more the nearest count.
        num_classes: at least 1.
        chunk_size: queries compared at once, so that chunk_size x n similarities are in memory.

    Returns:
        Votes in [0, 1]; each row sums to 1.

    Raises:
        ArgumentError: k or the bank's size is not positive.

    Example:
        >>> bank = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> labels, query = jnp.array([0, 1, 1]), jnp.array([[2.0, 0.0]])
        >>> knn_votes(query, bank, labels, k=2, temperature=0.1, num_classes=2).tolist()
        [[0.881, 0.119]]

    References:
        Wu et al., [arXiv 1805.01978](https://arxiv.org/abs/1805.01978), section 3.4, where k = 200.
    """
    if not len(bank):
        raise ArgumentError("bank", "found no features; allowed: at least one to compare with.")
    if k < 1:
        raise ArgumentError("k", f"found {k}; allowed: at least 1 neighbour.")
    bank = normalize(bank)
    k = min(k, len(bank))
    classes = jnp.arange(num_classes)

    def vote(query):
        with jax.default_matmul_precision("float32"):
            similarity, nearest = jax.lax.top_k(bank @ query, k)
        # The largest weight is 1, so none overflows however small the temperature. `max`, not
        # `similarity[0]`: XLA fuses that slice into the top_k, which then sorts the whole bank on
        # CPU (50,000 x 256 queries: 5.2 s in place of 0.2 s).
        weights = jnp.exp((similarity - similarity.max()) / temperature)
        votes = jnp.where(labels[nearest][:, None] == classes[None, :], weights[:, None], 0)
        return votes.sum(axis=0) / weights.sum()

    return jax.lax.map(vote, normalize(queries), batch_size=chunk_size)


def evaluate_knn(
    encode: Encode,
    train: data.Source,
    test: data.Source,
    *,
    k: int | Sequence[int] = 200,
    temperature: float | Sequence[float] = 0.1,
    mesh: Mesh,
    batch_size: int = 256,
) -> Result:
    """Classify the images of one source by their neighbours in another.

    Nothing is fitted or selected, so the test set may be asked at any time.

    Args:
        encode: uint8 images to features, jitted; the encoder's features, not the head's.
        train: images with known classes, the bank.
        test: images to classify, the queries.
        k: neighbours, at least 1; a smaller bank votes whole. Several: each is measured.
        temperature: of the weights exp(similarity / temperature), positive. Several: each is
            measured with each k.
        mesh: the devices that encode.
        batch_size: images encoded at once.

    Returns:
        The rows `top1` and `top5` of the first k and temperature, those of others as `top1_k20` or
        `top1_k20_t0.07`; the confusion of the first; and the settings with the k that was used.
        A note says where a k is more than a class has images in the bank.

    Raises:
        ArgumentError: a source has no labels, the classes differ, or a setting is out of range.
    """
    num_classes = check_classes(train, test)
    ks, temperatures = _several(k), _several(temperature)
    if not ks or min(ks) < 1:
        raise ArgumentError("k", f"found {k}; allowed: at least 1 neighbour.")
    if not temperatures or min(temperatures) <= 0:
        raise ArgumentError("temperature", f"found {temperature}; allowed: above 0.")
    bank, bank_labels = encode_source(encode, train, mesh=mesh, batch_size=batch_size)
    queries, labels = encode_source(encode, test, mesh=mesh, batch_size=batch_size)
    used = tuple(dict.fromkeys(min(k, len(bank)) for k in ks))
    rows, first = [], None
    for k_used, t in itertools.product(used, temperatures):
        votes = knn_votes(
            jnp.asarray(queries),
            jnp.asarray(bank),
            jnp.asarray(bank_labels),
            k=k_used,
            temperature=t,
            num_classes=num_classes,
        )
        of = f"_k{k_used}" if len(used) > 1 else ""
        of += f"_t{t:g}" if len(temperatures) > 1 else ""
        named = accuracies(votes, jnp.asarray(labels))
        if first is None:
            first = confusion(np.asarray(votes.argmax(axis=1)), labels, test.class_names)
        else:
            named = (row._replace(name=row.name + of) for row in named)
        rows += named
    assert first is not None
    protocol = {
        "evaluation": "knn",
        "k": used[0] if len(used) == 1 else list(used),
        "temperature": temperatures[0] if len(temperatures) == 1 else list(temperatures),
        "bank_images": len(bank),
        "test_images": len(queries),
        "classes": num_classes,
    }
    notes = _small_classes(max(used), bank_labels, train.class_names)
    return Result(tuple(rows), protocol, confusion=first, notes=notes)


def _several(value: float | Sequence[float]) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _small_classes(
    k: int, labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> tuple[str, ...]:
    """What a large k does to classes that have fewer images in the bank."""
    sizes = np.bincount(labels, minlength=len(class_names))
    there = np.flatnonzero(sizes)
    smallest = int(there[sizes[there].argmin()])
    few = int((sizes[there] < k).sum())
    if not few:
        return ()
    return (
        f"k is {k}, but {few} of {len(there)} classes have fewer images in the bank, "
        f"{class_names[smallest]} only {sizes[smallest]}: even if all of them are near, images of "
        f"other classes vote too. Up to k={sizes[smallest]} all classes can win alike.",
    )
