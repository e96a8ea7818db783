"""Features of every image of a source, computed over the mesh in batches of one size."""

import collections
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from .. import data, sharding
from ..errors import ArgumentError, UserError

PyTree = Any  # of arrays with a row an image
Encode = Callable[[UInt8[Array, "n h w c"]], Float[Array, "n d"]]
Encoded = tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]  # features and labels
BATCH_SIZE = 256  # images at once


class NotFiniteError(UserError, ValueError):
    """An encoder gives NaN or infinite features: it has diverged."""


class Remembering:
    """An encoder for several evaluations: what it has made of a set of images it makes once.

    The features stay in the memory of the host as long as it does.

    Args:
        encode: uint8 images to features, as for `encode_source`.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> source, mesh = data.open_splits("embedded")["test"], sharding.make_mesh()
        >>> encode = evaluation.Remembering(lambda images: images.mean(axis=(1, 2)))
        >>> first, _ = evaluation.encode_source(encode, source, mesh=mesh)
        >>> again, _ = evaluation.encode_source(encode, source, mesh=mesh)  # nothing is encoded
        >>> bool((first == again).all())
        True
    """

    def __init__(self, encode: Encode):
        self._encode = encode
        self._found: dict[Any, tuple[data.Source, Encoded]] = {}

    def __call__(self, images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
        """The features of images, as the encoder makes them."""
        return self._encode(images)

    def of(self, source: data.Source, make: Callable[[], Encoded]) -> Encoded:
        """What was made of these images before, else what `make` makes of them."""
        which = id(source.read), id(source.stored_labels), source.index.tobytes()
        if which not in self._found:
            self._found[which] = source, make()  # with the source, an id stays that of one object
        return self._found[which][1]


def encode_source(
    encode: Encode, source: data.Source, *, mesh: Mesh, batch_size: int = BATCH_SIZE
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Features and labels of the labelled images of a source, in its order.

    Args:
        encode: uint8 images to features, each row by itself (BatchNorm in evaluation mode). It is
            called as it is: jit it where it is made, so that it compiles once however often it is
            evaluated.
        source: images labelled -1 are left out.
        mesh: the devices that share each batch.
        batch_size: at least 1; rounded up to a multiple of the devices.

    Returns:
        Features, float32, and labels, both whole on the host of every process.

    Raises:
        ArgumentError: no image has a label.
        NotFiniteError: a feature is NaN or infinite.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> pixels = lambda images: images.reshape(len(images), -1)
        >>> features, labels = evaluation.encode_source(pixels, source, mesh=mesh)
        >>> features.shape, labels[:3].tolist()
        ((20, 48), [0, 0, 0])
    """
    known = data.labelled(source)
    if not len(known):
        raise no_label("source", source)
    features, labels = _encode_all(encode, known, mesh=mesh, batch_size=batch_size)
    features, labels = features[labels >= 0], labels[labels >= 0]
    if not len(labels):
        raise no_label("source", source)
    check_finite(features)
    return features, labels


def no_label(argument: str, source: data.Source) -> ArgumentError:
    """The answer to images of which none has a label."""
    return ArgumentError(
        argument,
        f"found {len(source)} images, none of them with a label; allowed: images with labels, "
        "which this evaluation compares.",
    )


def check_finite(features: Float[np.ndarray, "n d"], what: str = "images") -> None:
    """Refuse features of images, or of `what`, that nothing can be measured on.

    Raises:
        NotFiniteError: a feature is NaN or infinite.
    """
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise NotFiniteError(
            f"the features of {broken.sum()} of {len(features)} {what} are NaN or infinite: the "
            "encoder has diverged, evaluate an earlier checkpoint"
        )


def embed_source(
    embed: Callable[[UInt8[Array, "n h w c"]], PyTree], source: data.Source, *, mesh: Mesh
) -> PyTree:
    """Embeddings of all images of a source, in its order, with labels or without.

    Args:
        embed: uint8 images to embeddings, as for `encode_source`; or to several arrays of them.
        source: any images.
        mesh: the devices that share each batch.

    Returns:
        As `embed` gives them; float32, whole on the host of every process.

    Raises:
        NotFiniteError: an embedding is NaN or infinite.
    """
    embeddings, _ = _encode_all(embed, source, mesh=mesh, batch_size=BATCH_SIZE)
    for array in jax.tree.leaves(embeddings):
        check_finite(array.reshape(len(array), -1))
    return embeddings


def _encode_all(
    encode: Callable[..., PyTree], source: data.Source, *, mesh: Mesh, batch_size: int
) -> tuple[PyTree, Int[np.ndarray, " n"]]:
    if isinstance(encode, Remembering):
        make = lambda: _encode_all(encode.__call__, source, mesh=mesh, batch_size=batch_size)
        return encode.of(source, make)
    batches = data.padded_batches(
        source,
        batch_size=math.ceil(batch_size / mesh.size) * mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    needed = ({k: batch[k] for k in ("image", "label", "mask")} for batch in batches)
    parts = encode_batches(encode, needed, mesh=mesh)
    found = [(encoded, others["label"]) for encoded, others in parts]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *found)


def encode_batches(
    encode: Callable[[UInt8[Array, "n h w c"]], PyTree],
    batches: Iterable[Mapping[str, Any]],
    *,
    mesh: Mesh,
) -> Iterator[tuple[PyTree, dict[str, np.ndarray]]]:
    """What an encoder makes of batches of one size; the devices are a batch ahead.

    Args:
        encode: as for `embed_source`.
        batches: `image`; `mask`, False in rows that no image fills; and anything else with a row
            an image. Of each batch the rows of this process.
        mesh: the devices that share each batch.

    Yields:
        Of each batch what `encode` gives, float32, and what else is in it: the rows that images
        fill, of all processes, on the host of each.
    """

    def on_host(computed: PyTree) -> tuple[PyTree, dict[str, np.ndarray]]:
        of_all = functools.partial(multihost_utils.process_allgather, tiled=True)
        bring = jax.device_get if computed[1]["mask"].is_fully_addressable else of_all
        encoded, others = bring(computed)
        real = others.pop("mask")
        return jax.tree.map(lambda array: np.asarray(array)[real], (encoded, others))

    ahead = collections.deque[PyTree]()
    for batch in batches:
        others = sharding.shard_batch(batch, mesh)
        encoded = encode(others.pop("image"))
        ahead.append((jax.tree.map(lambda array: array.astype(jnp.float32), encoded), others))
        if len(ahead) > 1:
            yield on_host(ahead.popleft())
    yield from map(on_host, ahead)


def check_classes(
    train: data.Source, test: data.Source, *, holdout: data.Source | None = None
) -> int:
    """Number of classes that the sources share.

    Raises:
        ArgumentError: the images of one of them are unlabelled, or the classes differ.
    """
    if not train.num_classes:
        raise ArgumentError(
            "train",
            f"found {len(train)} images without labels; allowed: images with labels, which this "
            "evaluation learns from.",
        )
    given = {"train": train, "test": test} | ({} if holdout is None else {"holdout": holdout})
    for name, source in given.items():
        if source.class_names != train.class_names:
            raise ArgumentError(
                name,
                f"found {source.num_classes} classes, and {train.num_classes} in `train`; allowed: "
                "the same classes in the same order.",
            )
    for name, source in given.items():
        if not source.has_labels:
            raise no_label(name, source)
    return train.num_classes
