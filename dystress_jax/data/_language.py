"""Between a source's captions, its classes, and what a text tower reads."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from ._captions import Captions
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
    """Every caption of every example: what retrieval searches, what a vocabulary is made of.

    Raises:
        ValueError: the source has no captions.

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
    tokens = None if captions.tokens is None else captions.tokens[where]
    return CaptionList(tuple(captions.texts[i] for i in where), owner, tokens)


def with_tokens(source: Source, encode: Encode) -> Source:
    """Make the tokens of a source's captions, once, so that its batches have them.

    Only the captions of the source's own examples are encoded: train and holdout, which share
    their stored images, do not do the same work twice. Once and not batch by batch, since a row of
    an array costs a hundredth of tokenising it again.

    Args:
        source: has captions.
        encode: ``list of c texts -> integers [c t]``, a pure function; t is always the same.

    Returns:
        The source with ``tokens``, int32 [b t], in its batches. Captions of images that are not
        in the source are dropped.

    Raises:
        ValueError: the source has no captions, or ``encode`` returns something else.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> letters = lambda texts: np.array([[ord(text[0]), len(text)] for text in texts])
        >>> batch = data.with_tokens(source, letters).gather(np.array([301, 302]))
        >>> batch["tokens"].tolist()
        [[98, 9], [99, 3]]
    """
    captions = _captions(source).only(source.index)
    chunks = [list(captions.texts[i : i + CHUNK]) for i in range(0, len(captions.texts), CHUNK)]
    found = []
    for texts in chunks:
        tokens = np.asarray(encode(texts))
        right = tokens.ndim == 2 and len(tokens) == len(texts)
        if not (right and np.issubdtype(tokens.dtype, np.integer)):
            raise ValueError(
                f"the tokens of {len(texts)} texts are {tokens.dtype} {list(tokens.shape)}; "
                f"allowed: integers [{len(texts)}, tokens a text]"
            )
        found.append(tokens.astype(np.int32))
    captions = dataclasses.replace(captions, tokens=np.concatenate(found))
    return dataclasses.replace(source, captions=captions)


def captions_from_labels(
    source: Source, templates: str | Sequence[str] = "a photo of a {}."
) -> Source:
    """Caption every image with its class, through one prompt template or several.

    Where labels are not known without reading the images, all are read once.

    Args:
        source: every example has a label.
        templates: each has one ``{}`` for the name of the class, which stays as it is.

    Raises:
        ValueError: a template without its ``{}``, or an example without a label.

    Example:
        >>> from dystress_jax import data
        >>> source = data.open_splits("embedded")["test"]
        >>> data.captions_from_labels(source, ["a drawing: {}", "{}"])[0]["captions"]
        ('a drawing: Symbols', 'Symbols')
    """
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ValueError(
            f"prompt templates: found {wrong[0] if wrong else 'none'!r}; allowed: texts with one "
            "{} each, where the name of the class goes"
        )
    labels = source.labels() if source.num_classes else np.full(len(source), UNLABELLED)
    unknown = int((labels == UNLABELLED).sum())
    if unknown:
        raise ValueError(
            f"captions from class names: {unknown} of {len(source)} images have no label; allowed: "
            "a data set where every image has one"
        )
    prompts = [
        tuple(template.replace("{}", name) for template in templates) for name in source.class_names
    ]
    label_of = np.full(source.num_stored, UNLABELLED)
    label_of[source.index] = labels
    captions = Captions.of(prompts[i] if i != UNLABELLED else () for i in label_of)
    return dataclasses.replace(source, captions=captions)


def classes_from_captions(source: Source) -> Source:
    """Every distinct caption as a class: what an image is said to be, chosen among all captions.

    The first caption of an image is its class. Classes are in the order of their first images, and
    only those of the source's own examples.

    Raises:
        ValueError: the source has no captions.

    Example:
        >>> from dystress_jax import data
        >>> concepts = data.classes_from_captions(data.open_splits("embedded")["test"])
        >>> concepts.num_classes, concepts.class_names[301], int(concepts[301]["label"])
        (1563, 'black cat', 301)
    """
    captions = _captions(source)
    names = [captions.texts[i] for i in captions.start[source.index]]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return source.relabel(np.array([number[name] for name in names]), tuple(number))


def read_class_names(path: str, count: int) -> tuple[str, ...]:
    """The names of the classes from a text file, one a line, in the order of the labels.

    Args:
        path: a UTF-8 text file.
        count: how many classes there are.

    Raises:
        ValueError: with the file, and the line or both counts.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"there is no file {path!r} of class names")
    names = [line.strip() for line in read_text(pathlib.Path(path)).rstrip().split("\n")]
    if "" in names:
        raise ValueError(f"{path}, line {names.index('') + 1}: no name; allowed: one a line")
    if len(names) != count:
        raise ValueError(
            f"{path} has {len(names)} class names, but the data has {count} classes; allowed: one "
            "name a line, in the order of the labels"
        )
    return tuple(names)


def _captions(source: Source) -> Captions:
    """The captions of a source that must have them."""
    if source.captions is None:
        raise ValueError(
            "data.captions: the data set has no captions; give one that has, or make them of its "
            "class names"
        )
    return source.captions
