"""A picture of which classes are taken for which."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw

from ..errors import ArgumentError
from ._drawing import plain
from .confusion import COUNTED, Confusion

CELL, LABEL, GAP = 36, 130, 6  # pixels, where the classes have names
NAMED = 40  # classes at most that are named, with their counts
LETTERS = 20  # of a name, at most
LINES = 7  # in the corner, at most
UNNAMED = 800  # pixels of a side without names, about


def confusion_picture(found: Confusion) -> Image.Image:
    """Draw the counts as shades, each row as shares of its class; with names if they are few.

    Args:
        found: with counts.

    Returns:
        The picture: rows are true classes, columns those that were predicted.

    Raises:
        ArgumentError: there are no counts.

    Example:
        >>> from dystress_jax import evaluation
        >>> predicted, labels = np.array([0, 1, 1]), np.array([0, 0, 1])
        >>> found = evaluation.confusion(predicted, labels, ("cat", "dog"))
        >>> evaluation.confusion_picture(found).size
        (208, 208)
    """
    count = len(found.class_names)
    if found.counts is None:
        raise ArgumentError(
            "counts", f"found none of {count:,} classes; allowed: at most {COUNTED:,}."
        )
    shares = found.counts / np.maximum(found.counts.sum(axis=1, keepdims=True), 1)
    shades = (255 - np.round(205 * shares)).astype(np.uint8)
    if count > NAMED:
        cell = max(1, UNNAMED // count)
        return Image.fromarray(shades.repeat(cell, axis=0).repeat(cell, axis=1))
    side = LABEL + CELL * count + GAP
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    said = ["rows: what it is", "columns: taken for", *textwrap.wrap(plain(found.of), LETTERS)]
    draw.multiline_text((GAP, GAP), "\n".join(said[:LINES]), fill="black")
    for i, name in enumerate(found.class_names):
        at, text = LABEL + i * CELL, plain(name, LETTERS)
        draw.text((LABEL - GAP, at + CELL / 2), text, fill="black", anchor="rm")
        column = Image.new("RGB", (LABEL - GAP, CELL), "white")
        ImageDraw.Draw(column).text((0, CELL / 2), text, fill="black", anchor="lm")
        canvas.paste(column.rotate(90, expand=True), (at, 0))
        for j in range(count):
            left, shade = LABEL + j * CELL, int(shades[i, j])
            draw.rectangle((left, at, left + CELL - 2, at + CELL - 2), fill=(shade, shade, 255))
            if found.counts[i, j]:
                centre, ink = (left + CELL / 2, at + CELL / 2), "white" if shade < 130 else "black"
                draw.text(centre, str(found.counts[i, j]), fill=ink, anchor="mm")
    return canvas
