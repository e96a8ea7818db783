"""Between a source's captions, its classes, and what a text tower reads."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from ..errors import ArgumentError
from ..files import near
from ._captions import Captions, Tokens, unique_texts
from ._lines import read_text
from ._source import UNLABELLED, Source

Encode = Callable[[list[str]], Int[np.ndarray, "c t"]]

CHUNK = 2**15  # texts encoded at a time: a tokenizer needs far more memory than its tokens do


class CaptionList(NamedTuple):
    """Every caption of a source, image after image.

    Attributes:
        texts: c captions.
        owner: the position in the source of the image that each belongs to.
        tokens: the captions as integers, if `with_tokens` has made them.
    """

    texts: tuple[str, ...]
    owner: Int32[np.ndarray, " c"]
    tokens: Int32[np.ndarray, "c t"] | None


def list_captions(source: Source) -> CaptionList:
    """Every caption of every example, for retrieval and to make a vocabulary.

    Args:
        source: images with captions.

    Raises:
        ArgumentError: the source has no captions.

    Example:
        >>> from dystress_jax import data
        >>> texts, owner, tokens = data.list_captions(data.open_splits("embedded")["test"])
        >>> len(texts), texts[301], int(owner[301]), tokens
        (1563, 'black cat', 301, None)
    """
    captions = _captions(source)
    first = captions.start[source.index]
    count = captions.start[source.index + 1] - first
    owner = np.repeat(np.arange(len(source), dtype=np.int32), count)
    where = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    tokens = None if captions.tokens is None else captions.tokens.of(where)
    return CaptionList(tuple(captions.texts[i] for i in where), owner, tokens)


def with_tokens(source: Source, encode: Encode) -> Source:
    """Make the tokens of a source's captions, once, so that its batches have them.

    Only the captions of the source's own examples are encoded: train and holdout share their stored
    images, and do not do the same work twice. It is done once, not batch by batch: to read a row of
    an array takes a hundredth of the time to tokenise its caption again. Captions that are the same
    text, such as those made of class names, are encoded once and share their tokens.

    Args:
        source: has captions.
        encode: `list of c texts -> integers [c t]`, a pure function; t is always the same.

    Returns:
        The source with `tokens`, int32 [b t], in its batches. Captions of images that are not
        in the source are dropped.

    Raises:
        ArgumentError: the source has no captions, or `encode` returns something else.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> letters = lambda texts: np.array([[ord(text[0]), len(text)] for text in texts])
        >>> batch = data.with_tokens(source, letters).gather(np.array([301, 302]))
        >>> batch["tokens"].tolist()
        [[98, 9], [99, 3]]
    """
    captions = _captions(source).only(source.index)
    distinct, position = unique_texts(captions.texts)
    found = []
    for first in range(0, len(distinct), CHUNK):
        texts = distinct[first : first + CHUNK]
        tokens = np.asarray(encode(texts))
        right = tokens.ndim == 2 and len(tokens) == len(texts)
        if not (right and np.issubdtype(tokens.dtype, np.integer)):
            raise ArgumentError(
                "encode",
                f"its tokens of {len(texts)} texts are {tokens.dtype} {list(tokens.shape)}; "
                f"allowed: integers [{len(texts)}, tokens a text].",
            )
        found.append(tokens.astype(np.int32))
    tokens = Tokens(np.concatenate(found), position)
    captions = dataclasses.replace(captions, tokens=tokens)
    return dataclasses.replace(source, captions=captions)


def captions_from_labels(
    source: Source, templates: str | Sequence[str] = "a photo of a {}."
) -> Source:
    """Caption every image with its class, through one prompt template or several.

    If labels are known only with the images, all images are read once.

    Args:
        source: every example has a label.
        templates: texts with one `{}` each, where the name of the class goes, as it is.

    Raises:
        ArgumentError: a template without its `{}`, or an example without a label.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> data.captions_from_labels(source, ["a drawing: {}", "{}"])[0]["captions"]
        ('a drawing: Symbols', 'Symbols')
    """
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ArgumentError(
            "templates",
            f"found {wrong[0] if wrong else 'none'!r}; allowed: texts with one {{}} each, where "
            "the name of the class goes.",
        )
    labels = source.labels() if source.num_classes else np.full(len(source), UNLABELLED)
    unknown = int((labels == UNLABELLED).sum())
    if unknown:
        raise ArgumentError(
            "source",
            f"{unknown} of {len(source)} images have no label to caption them with; allowed: "
            "images that all have a label.",
        )
    prompts = [
        tuple(template.replace("{}", name) for template in templates) for name in source.class_names
    ]
    label_of = np.full(source.num_stored, UNLABELLED)
    label_of[source.index] = labels
    captions = Captions.of(prompts[i] if i != UNLABELLED else () for i in label_of)
    return dataclasses.replace(source, captions=captions)


def classes_from_captions(source: Source) -> Source:
    """Make a class of every distinct caption, so that images are told apart by what is said.

    The first caption of an image is its class. Classes are in the order of their first images;
    captions of images that are not in the source are no classes.

    Args:
        source: images with captions.

    Raises:
        ArgumentError: the source has no captions.

    Example:
        >>> from dystress_jax import data
        >>> concepts = data.classes_from_captions(data.open_splits("embedded")["test"])
        >>> concepts.num_classes, concepts.class_names[301], int(concepts[301]["label"])
        (1563, 'black cat', 301)
    """
    captions = _captions(source)
    names = [captions.texts[i] for i in captions.start[source.index]]
    classes, labels = unique_texts(names)
    return source.relabel(labels, tuple(classes))


def read_class_names(path: str, count: int) -> tuple[str, ...]:
    """The names of the classes from a text file, one a line, in the order of the labels.

    Args:
        path: a UTF-8 text file.
        count: how many classes there are, at least 1.

    Raises:
        ArgumentError: with the file, and the line or both numbers.

    Example:
        >>> from dystress_jax import data
        >>> with open("names.txt", "w", encoding="utf-8") as file:
        ...     for name in ("cat", "dog"):
        ...         print(name, file=file)
        >>> data.read_class_names("names.txt", 2)
        ('cat', 'dog')
    """
    if not pathlib.Path(path).is_file():
        raise ArgumentError("path", f"there is no file {path!r} of class names.{near(path)}")
    names = [line.strip() for line in read_text(pathlib.Path(path)).rstrip().split("\n")]
    if "" in names:
        raise ArgumentError(
            "path", f"{path}, line {names.index('') + 1}: no name; allowed: one name a line."
        )
    if len(names) != count:
        raise ArgumentError(
            "path",
            f"{path} has {len(names)} class names, but there are {count} classes; allowed: one "
            "name a line, in the order of the labels.",
        )
    return tuple(names)


def _captions(source: Source) -> Captions:
    """The captions of a source that must have them."""
    if source.captions is None:
        raise ArgumentError(
            "source",
            "the images have no captions; allowed: a data set with captions, or captions made of "
            "class names.",
        )
    return source.captions
