"""What a trained encoder must beat: itself untrained, pixels, histograms and the mean colour."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from .. import data
from ._result import Result, classified
from .features import Encode, check_classes, encode_source
from .knn import Labelled, scores_of_each

KS = (1, 20, 200)  # of which each baseline has its best
COLOUR_BINS, BRIGHTNESS_BINS = 8, 64  # of each of three channels; of the only one


def evaluate_baselines(
    untrained: Encode,
    train: data.Source,
    test: data.Source,
    *,
    k: Sequence[int] = KS,
    temperature: float = 0.1,
    mesh: Mesh,
    batch_size: int = 256,
) -> Result:
    """Classify images by their neighbours, with features that nobody has learned.

    | row | features |
    |---|---|
    | `untrained_top1` | those of the encoder before its first step |
    | `raw_pixels_top1` | the image itself |
    | `centred_pixels_top1` | the same minus the mean of the training images |
    | `histogram_top1` | how often each colour occurs; in grey images each brightness |
    | `mean_colour_top1` | the mean colour; of grey images the mean brightness |

    Each has the k that is best for it on the very images that are measured. That favours the
    baselines: whoever beats them so, beats them.

    Args:
        untrained: uint8 images to features, jitted.
        train: images with known classes, the bank.
        test: images to classify.
        k: neighbours to choose among, each at least 1; a smaller bank votes whole.
        temperature: of the weights, as for `evaluate_knn`, above 0.
        mesh: the devices that encode.
        batch_size: images encoded at once, at least 1.

    Returns:
        The rows, each with its balanced accuracy and the accuracy of each class; in the protocol,
        `top1_by_k` of each.

    Raises:
        ArgumentError: a source has no labels, the classes differ, or a setting is out of range.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> result = evaluation.evaluate_baselines(
        ...     evaluation.raw_pixels, source, source, k=(3,), mesh=mesh
        ... )
        >>> result.value("mean_colour_top1")
        1.0
    """
    num_classes = check_classes(train, test)
    rows, by_k, per_class, used = [], {}, {}, {}
    for name, bank, queries in _features(untrained, train, test, mesh, batch_size):
        top1, found = {}, {}
        for k_used, _, scores in scores_of_each(
            bank, queries, ks=k, temperatures=(temperature,), num_classes=num_classes
        ):
            (top1[k_used], _), found[k_used] = classified(scores, queries.labels, test.class_names)
        best = max(top1, key=lambda k: top1[k].value)
        rows.append(top1[best]._replace(name=f"{name}_top1", note=f"k {best:,}"))
        per_class[rows[-1].name] = found[best].by_class()
        by_k[name] = {str(k): row.value for k, row in top1.items()}
        used = {"bank_images": len(bank.labels), "test_images": len(queries.labels)}
        del bank, queries  # before the features of the next are made
    protocol: dict[str, Any] = {
        "evaluation": "baselines",
        "k": list(k),
        "temperature": temperature,
        **used,
        "classes": num_classes,
        "top1_by_k": by_k,
    }
    choice = ", ".join(map(str, k))
    note = (
        f"each baseline has the best k of {choice}, chosen on the {used['test_images']:,} images "
        "that are measured, which favours it"
    )
    notes = (note,) if len(k) > 1 else ()
    return Result(tuple(rows), protocol, notes=notes, per_class=per_class)


def _features(
    untrained: Encode, train: data.Source, test: data.Source, mesh: Mesh, batch_size: int
) -> Iterator[tuple[str, Labelled, Labelled]]:
    """Each baseline's name and the features of its bank and of its queries.

    They are valid until the next ones are asked for: raw pixels are centred in their place.
    """

    def of(encode: Encode) -> tuple[Labelled, Labelled]:
        bank = Labelled(*encode_source(encode, train, mesh=mesh, batch_size=batch_size))
        return bank, Labelled(*encode_source(encode, test, mesh=mesh, batch_size=batch_size))

    yield "untrained", *of(untrained)
    # One pass over the images for all that needs no encoder.
    together = of(_simple)
    one = jax.ShapeDtypeStruct((1, *train.image_shape), jnp.uint8)
    ends = np.cumsum([jax.eval_shape(f, one).shape[1] for f in SIMPLE.values()])
    for name, end, start in zip(SIMPLE, ends, [0, *ends[:-1]], strict=True):
        bank, queries = (x._replace(features=x.features[:, start:end]) for x in together)
        yield name, bank, queries
        if name == "raw_pixels":
            mean = bank.features.mean(axis=0)
            for x in (bank, queries):
                np.subtract(x.features, mean, out=x.features)
            yield "centred_pixels", bank, queries


@jax.jit
def raw_pixels(images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
    """The image itself as its features.

    Sides above 32 pixels are averaged down to 32, so that large data sets fit in memory.

    Args:
        images: of one size.

    Example:
        >>> raw_pixels(jnp.zeros((2, 4, 4, 3), jnp.uint8)).shape
        (2, 48)
    """
    n, height, width, channels = images.shape
    small = (n, min(height, 32), min(width, 32), channels)
    pixels = jax.image.resize(images.astype(jnp.float32) / 255, small, "linear")
    return pixels.reshape(n, -1)


@jax.jit
def histogram(images: UInt8[Array, "n h w c"]) -> Float[Array, "n bins"]:
    """How often each colour occurs in an image, wherever it is: roots of the shares.

    The cosine of two of them is the Bhattacharyya coefficient of the histograms. 8 x 8 x 8 bins of
    colours; of grey images 64 bins of brightness.

    Args:
        images: of one size.

    Example:
        >>> histogram(jnp.zeros((2, 4, 4, 3), jnp.uint8)).shape
        (2, 512)
    """
    n, height, width, channels = images.shape
    bins = BRIGHTNESS_BINS if channels == 1 else COLOUR_BINS
    pixels = images.reshape(n, height * width, channels).astype(jnp.int32) * bins // 256
    number = jnp.sum(pixels * (bins ** jnp.arange(channels))[None, None, :], axis=-1)
    counts = jax.vmap(lambda of_image: jnp.bincount(of_image, length=bins**channels))(number)
    return jnp.sqrt(counts.astype(jnp.float32) / (height * width))


@jax.jit
def mean_colour(images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
    r"""The mean of each channel, as a point on a half circle.

    $$(\cos \pi m_c, \sin \pi m_c), \quad m_c \in [0, 1]$$

    so that the cosine of two images falls with the difference of their colours, from 1 to -1. Of
    grey images it is the mean brightness.

    Args:
        images: of one size.

    Example:
        >>> black, white = (jnp.full((1, 4, 4, 3), value, jnp.uint8) for value in (0, 255))
        >>> mean_colour(black) @ mean_colour(white).T / 3
        Array([[-1.]], dtype=float32)
    """
    _, height, width, _ = images.shape
    # Of each row exact, whatever the order of pixels; of all beyond the range of int32.
    of_rows = jnp.sum(images.astype(jnp.int32), axis=2).astype(jnp.float32)
    angle = jnp.pi * jnp.sum(of_rows, axis=1) / (255.0 * height * width)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


SIMPLE = {"raw_pixels": raw_pixels, "histogram": histogram, "mean_colour": mean_colour}


@jax.jit
def _simple(images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
    return jnp.concatenate([features(images) for features in SIMPLE.values()], axis=1)
