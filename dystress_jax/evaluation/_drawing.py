"""What the pictures of images have in common: thumbnails, texts and colours of classes."""

import colorsys
import unicodedata

from PIL import Image

from .. import data

Colour = tuple[int, int, int]
HUES, GOLDEN = 12, 0.618033988749895  # hues that are told apart; spreads those of many classes


def thumbnail(source: data.Source, position: int, side: int) -> Image.Image:
    """An image of a source as an RGB square of `side` pixels."""
    pixels = source[position]["image"]
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return picture.convert("RGB").resize((side, side))


def plain(text: str, length: int | None = None) -> str:
    """A text in letters that Pillow's built-in font has, cut to a length."""
    apart = unicodedata.normalize("NFKD", text)  # an accent stands behind its letter
    text = "".join(letter for letter in apart if not unicodedata.combining(letter))
    text = text.encode("ascii", "replace").decode()
    return text if length is None or len(text) <= length else f"{text[: length - 1]}."


def class_colour(label: int, count: int) -> Colour:
    """A colour for a class; neighbours in the list of classes differ in brightness too.

    Args:
        label: of the class; below 0 = unlabelled, grey.
        count: of classes, at least 1.

    Example:
        >>> class_colour(-1, 3), class_colour(0, 3) == class_colour(1, 3)
        ((120, 120, 120), False)
    """
    if label < 0:
        return 120, 120, 120
    hue = label / count if count <= HUES else label * GOLDEN % 1
    red, green, blue = colorsys.hls_to_rgb(hue, (0.36, 0.46)[label % 2], 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)
