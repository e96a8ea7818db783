"""A picture of what texts find: each caption, its own image, and the most similar ones."""

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from .. import data
from ._drawing import plain, thumbnail
from .pairs import EmbeddedImages

CELL, LABEL, GAP = 64, 200, 4


def retrieval_grid(embedded: EmbeddedImages, *, rows: int = 12, columns: int = 8) -> Image.Image:
    """Draw what captions find among the images of a source.

    A row a caption, spread evenly over the source: the caption, its own image framed in grey, then
    the most similar images from left to right, the right one framed in green.

    Args:
        embedded: images with captions.
        rows: captions, at most as many as there are.
        columns: found images a row, at least 1.

    Returns:
        The picture.

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
        >>> evaluation.retrieval_grid(embedded, rows=2, columns=3).size
        (484, 140)
    """
    encoder, source, images = embedded
    captions = data.list_captions(source)
    texts_of: dict[int, set[str]] = {}
    for text, owner in zip(captions.texts, captions.owner, strict=True):
        texts_of.setdefault(int(owner), set()).add(text)
    count = min(rows, len(captions.texts))
    chosen = np.arange(count) * len(captions.texts) // count
    texts = encoder.embed_texts([captions.texts[i] for i in chosen])
    order = np.asarray(jnp.argsort(-encoder.similarity(texts, images), axis=1)[:, :columns])
    step = CELL + GAP
    size = (LABEL + step * (order.shape[1] + 1) + 3 * GAP, step * len(chosen) + GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (number, found) in enumerate(zip(chosen, order, strict=True)):
        owner, top = int(captions.owner[number]), GAP + row * step
        draw.multiline_text((GAP, top + GAP), _wrapped(captions.texts[number]), fill="black")
        _paste(canvas, draw, source, owner, LABEL, top, "grey")
        for column, position in enumerate(found):
            left = LABEL + step + 2 * GAP + column * step
            colour = "green" if captions.texts[number] in texts_of[int(position)] else None
            _paste(canvas, draw, source, int(position), left, top, colour)
    return canvas


def _paste(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    source: data.Source,
    position: int,
    left: int,
    top: int,
    frame: str | None,
) -> None:
    canvas.paste(thumbnail(source, position, CELL), (left, top))
    if frame:
        draw.rectangle((left - 2, top - 2, left + CELL + 1, top + CELL + 1), outline=frame, width=2)


def _wrapped(text: str, width: int = 30) -> str:
    lines, line = [], ""
    for word in plain(text).split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()[:width]
    return "\n".join([*lines, line][:4])
