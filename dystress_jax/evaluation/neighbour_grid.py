"""A picture of test images and the training images that are nearest to them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw

from .. import data
from ._drawing import plain, thumbnail

CELL, GAP, FRAME, MARGIN, NAME, HEAD, FOOT = 64, 8, 3, 16, 104, 48, 34  # pixels
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)  # told apart by the colour-blind too


def neighbour_grid(
    queries: data.Source, bank: data.Source, found: Mapping[str, Int[np.ndarray, "rows columns"]]
) -> Image.Image:
    """Draw each image of `queries` and its nearest ones in `bank`, found in several ways.

    With labels the class is written beside the image. A neighbour of the same class has a blue
    frame, one of another class an orange, dashed one.

    Args:
        queries: the images, a row each; few.
        bank: where their neighbours are.
        found: positions in `bank`, the nearest first, by what they were found by, which becomes
            the heading of a block of columns.

    Returns:
        The picture.

    Example:
        >>> images = np.zeros((3, 8, 8, 3), np.uint8)
        >>> source = data.from_arrays(images)
        >>> neighbour_grid(source, source, {"pixels": np.array([[0, 1], [1, 0], [2, 0]])}).size
        (264, 272)
    """
    labels, names = _labels(queries), queries.class_names
    known = labels is not None
    classes = bank.labels() if known else None
    step, first = CELL + GAP, MARGIN + (NAME if known else 0)
    blocks = [len(positions[0]) * step - GAP for positions in found.values()]
    width = first + CELL + sum(2 * MARGIN + block for block in blocks) + MARGIN
    height = HEAD + len(queries) * step - GAP + (FOOT if known else MARGIN)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((first + CELL / 2, HEAD - 12), "image", fill="black", anchor="ms", font_size=14)
    for row in range(len(queries)):
        top = HEAD + row * step
        canvas.paste(thumbnail(queries, row, CELL), (first, top))
        if labels is not None:
            name = plain(names[labels[row]], 13) if labels[row] >= 0 else "no label"
            at = (first - GAP, top + CELL / 2)
            draw.text(at, name, fill="black", anchor="rm", font_size=14)
    left = first + CELL + 2 * MARGIN
    for (heading, positions), block in zip(found.items(), blocks, strict=True):
        line = left - MARGIN
        draw.line((line, HEAD - 28, line, HEAD + len(queries) * step - GAP), fill=(200, 200, 200))
        right = total = 0
        for row, of_row in enumerate(positions):
            for column, position in enumerate(of_row):
                at = (left + column * step, HEAD + row * step)
                canvas.paste(thumbnail(bank, int(position), CELL), at)
                if labels is None or classes is None:
                    continue
                if labels[row] >= 0 and classes[position] >= 0:
                    same = bool(labels[row] == classes[position])
                    _frame(draw, at, same)
                    right, total = right + same, total + 1
        said = f"nearest {heading}" + (f": {right} of {total} of its class" if total else "")
        draw.text((left, HEAD - 12), said, fill="black", anchor="ls", font_size=14)
        left += block + 2 * MARGIN
    if known:
        _legend(draw, first, height - FOOT / 2)
    return canvas


def _labels(source: data.Source) -> Int[np.ndarray, " n"] | None:
    return source.labels() if source.has_labels else None


def _frame(draw: ImageDraw.ImageDraw, at: tuple[int, int], same: bool) -> None:
    left, top = at
    box = (left - FRAME, top - FRAME, left + CELL + FRAME - 1, top + CELL + FRAME - 1)
    draw.rectangle(box, outline=RIGHT if same else WRONG, width=FRAME)
    if not same:
        for start in range(0, CELL, 16):  # gaps, for those who see no colours
            for x, y in ((left + start, box[1]), (left + start, box[3] - FRAME + 1)):
                draw.rectangle((x, y, x + 6, y + FRAME - 1), fill="white")
            for x, y in ((box[0], top + start), (box[2] - FRAME + 1, top + start)):
                draw.rectangle((x, y, x + FRAME - 1, y + 6), fill="white")


def _legend(draw: ImageDraw.ImageDraw, left: float, middle: float) -> None:
    for colour, text in ((RIGHT, "the same class"), (WRONG, "another class (dashed)")):
        draw.rectangle((left, middle - 6, left + 12, middle + 6), outline=colour, width=FRAME)
        draw.text((left + 20, middle), text, fill="black", anchor="lm", font_size=13)
        left += 40 + draw.textlength(text, font_size=13)
