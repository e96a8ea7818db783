"""Weighted k-nearest-neighbour classification of features."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int

from .. import data
from .._placement import of_whole_arrays
from ..errors import ArgumentError, at_least_one
from ..similarities import normalize
from ..temperatures import check_positive
from ._frequency import by_frequency
from ._result import Result, classified
from .confusion import one_of, unseen_classes
from .features import Encode, check_classes, encode_source


@of_whole_arrays
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
        labels: of the bank, in [0, num_classes); a neighbour of another label, such as -1 for none,
            has no vote.
        k: neighbours, at least 1; a smaller bank votes whole.
        temperature: t > 0; the smaller, the more the nearest count.
        num_classes: at least 1.
        chunk_size: queries compared at once, so that chunk_size x n similarities are in memory, at
            least 1.

    Returns:
        Votes in [0, 1]; each row sums to 1 where all neighbours have a class.

    Raises:
        ArgumentError: k, num_classes, the temperature or the bank's size is not positive.

    Example:
        >>> bank = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> labels, query = jnp.array([0, 1, 1]), jnp.array([[2.0, 0.0]])
        >>> knn_votes(query, bank, labels, k=2, temperature=0.1, num_classes=2).tolist()
        [[0.881, 0.119]]

    References:
        Wu et al., [arXiv 1805.01978](https://arxiv.org/abs/1805.01978), section 3.4, where k = 200.
    """
    check_positive("temperature", temperature)
    at_least_one(num_classes=num_classes)
    near = nearest_neighbours(queries, bank, k=k, chunk_size=chunk_size)
    labels = jnp.where(labels < 0, num_classes, labels)  # which is out of range on its other side
    votes, _ = _votes(
        near.similarity,
        labels[near.position],
        k=k,
        temperature=temperature,
        num_classes=num_classes,
        chunk_size=chunk_size,
    )
    return votes


class Neighbours(NamedTuple):
    """The nearest features of a bank, the nearest first.

    Attributes:
        similarity: cosine, [-1, 1].
        position: in the bank.
    """

    similarity: Float[Array, "q k"]
    position: Int[Array, "q k"]


@of_whole_arrays
@functools.partial(jax.jit, static_argnames=("k", "chunk_size"))
def nearest_neighbours(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    *,
    k: int = 200,
    chunk_size: int = 256,
) -> Neighbours:
    """The k features of the bank that are most similar to each query, by cosine similarity.

    Args:
        queries: features; they are brought to unit length here.
        bank: features to look in, likewise. Of equally near ones the earlier come first.
        k: neighbours, at least 1; of a smaller bank all.
        chunk_size: queries compared at once, so that chunk_size x n similarities are in memory, at
            least 1.

    Raises:
        ArgumentError: the bank is empty, or k or chunk_size is below 1.

    Example:
        >>> bank = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.8, 0.6]])
        >>> nearest_neighbours(jnp.array([[2.0, 0.0]]), bank, k=2).position.tolist()
        [[1, 2]]
    """
    at_least_one(k=k, chunk_size=chunk_size)
    if not len(bank):
        raise ArgumentError("bank", "found no features; allowed: at least one to compare with.")
    bank, queries = (normalize(x) for x in (bank, queries))

    def nearest(query):
        with jax.default_matmul_precision("float32"):
            return Neighbours(*jax.lax.top_k(bank @ query, min(k, len(bank))))

    return jax.lax.map(nearest, queries, batch_size=chunk_size)


@functools.partial(jax.jit, static_argnames=("num_classes", "chunk_size"))
def _votes(
    similarity: Float[Array, "q m"],
    labels: Int[Array, "q m"],
    *,
    k: Int[ArrayLike, ""],
    temperature: Float[ArrayLike, ""],
    num_classes: int,
    chunk_size: int = 256,
) -> tuple[Float[Array, "q {num_classes}"], Float[Array, "q {num_classes}"]]:
    """Votes of the first k of m neighbours, and their logarithm up to a number for each query.

    One program for every k and temperature.
    """

    def vote(neighbours):
        similarity, labels = neighbours
        # The largest weight is 1, so none overflows however small the temperature.
        exponents = (similarity - similarity.max()) / temperature
        exponents = jnp.where(jnp.arange(len(exponents)) < k, exponents, -jnp.inf)
        largest = jnp.full(num_classes, -jnp.inf, exponents.dtype).at[labels].max(exponents)
        start = jnp.where(largest > -jnp.inf, largest, 0.0)
        weights = jnp.stack([jnp.exp(exponents), jnp.exp(exponents - start[labels])], axis=-1)
        # One by one: added together they would come in another order each time on a GPU.
        add = lambda i, sums: sums.at[labels[i]].add(weights[i])
        sums = jnp.zeros((num_classes, 2), weights.dtype)
        votes, of_largest = jax.lax.fori_loop(0, len(labels), add, sums).T
        return votes / jnp.exp(exponents).sum(), start + jnp.log(of_largest)

    return jax.lax.map(vote, (similarity, labels), batch_size=chunk_size)


class Labelled(NamedTuple):
    """Features of images with their classes."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]


def scores_of_each(
    bank: Labelled,
    queries: Labelled,
    *,
    ks: Sequence[int],
    temperatures: Sequence[float],
    num_classes: int,
) -> Iterator[tuple[int, float, Float[Array, "q classes"]]]:
    """A score for each class, with each k and each temperature; neighbours are looked for once.

    A score is the votes of the class; where they are too small for a float, their logarithm, which
    is below all votes; -inf for a class without a neighbour, which is no guess.

    Args:
        bank: features with known classes.
        queries: features to classify.
        ks: neighbours, each at least 1; a smaller bank votes whole.
        temperatures: of the weights, each above 0.
        num_classes: at least 1.

    Returns:
        k as it was used, the temperature and the scores.

    Raises:
        ArgumentError: a number is out of range.
    """
    if min(ks, default=0) < 1:
        raise ArgumentError("k", f"found {min(ks, default='none')}; allowed: at least 1 neighbour.")
    if min(temperatures, default=0) <= 0:
        found = min(temperatures, default="none")
        raise ArgumentError("temperature", f"found {found}; allowed: above 0.")
    used = tuple(dict.fromkeys(min(k, len(bank.labels)) for k in ks))
    near = nearest_neighbours(
        jnp.asarray(queries.features), jnp.asarray(bank.features), k=max(used)
    )
    labels = jnp.asarray(bank.labels)[near.position]
    of_each = functools.partial(_votes, near.similarity, labels, num_classes=num_classes)
    for k, temperature in itertools.product(used, temperatures):
        votes, logarithms = of_each(k=k, temperature=float(temperature))
        yield k, temperature, jnp.where(votes > 0, votes, logarithms)


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
        batch_size: images encoded at once, at least 1.

    Returns:
        The rows `top1` and `top5` of the first k and temperature, those of others as `top1_k20` or
        `top1_k20_t0.07`; the confusion of the first; and the settings with the k that was used.
        A note says where a k is more than a class has images in the bank.

    Raises:
        ArgumentError: a source has no labels, the classes differ, or a setting is out of range.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> result = evaluation.evaluate_knn(evaluation.raw_pixels, source, source, k=3, mesh=mesh)
        >>> result.value("top1")
        1.0

    References:
        Wu et al., [arXiv 1805.01978](https://arxiv.org/abs/1805.01978), section 3.4.
    """
    num_classes = check_classes(train, test)
    ks, temperatures = _several(k), tuple(dict.fromkeys(_several(temperature)))
    bank = Labelled(*encode_source(encode, train, mesh=mesh, batch_size=batch_size))
    queries = Labelled(*encode_source(encode, test, mesh=mesh, batch_size=batch_size))
    used = tuple(dict.fromkeys(min(k, len(bank.labels)) for k in ks))
    rows, first = [], None
    for k_used, t, scores in scores_of_each(
        bank, queries, ks=used, temperatures=temperatures, num_classes=num_classes
    ):
        of = one_of((used, f"k {k_used}"), (temperatures, f"temperature {t:g}"))
        (top1, top5), found = classified(scores, queries.labels, test.class_names, of=of)
        named = (top1._replace(note=f"k {k_used:,}"), top5, *by_frequency(top1, found, bank.labels))
        if first is None:
            first = found
        else:
            of = f"_k{k_used}" if len(used) > 1 else ""
            of += f"_t{t:g}" if len(temperatures) > 1 else ""
            named = (row._replace(name=row.name + of) for row in named)
        rows += named
    assert first is not None
    protocol = {
        "evaluation": "knn",
        "k": used[0] if len(used) == 1 else list(used),
        "temperature": temperatures[0] if len(temperatures) == 1 else list(temperatures),
        "bank_images": len(bank.labels),
        "test_images": len(queries.labels),
        "classes": num_classes,
    }
    notes = unseen_classes(first, bank.labels)
    notes += _small_classes(max(used), bank.labels, train.class_names)
    return Result(tuple(rows), protocol, confusion=first, notes=notes)


def _several(value: float | Sequence[float]) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _small_classes(
    k: int, labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> tuple[str, ...]:
    """What a large k does to classes that have fewer training images."""
    sizes = np.bincount(labels, minlength=len(class_names))
    there = np.flatnonzero(sizes)
    smallest = int(there[sizes[there].argmin()])
    few = int((sizes[there] < k).sum())
    if not few:
        return ()
    named, size = f"“{class_names[smallest]}”", int(sizes[smallest])
    which = (
        f"the class {named} has only {size} training image{'s' * (size != 1)}, so it"
        if few == 1
        else f"{few} of {len(there)} classes have fewer training images ({named} only {size}), so "
        "they"
    )
    take = f"k={size}{' or less' * (size > 1)}"
    return (f"k is {k}, but {which} can be outvoted. Take {take} to treat all classes alike.",)
