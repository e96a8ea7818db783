"""Pillow images of any kind to uint8 arrays of one size."""

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ArgumentError

# Only these: Pillow goes by the content, and starts other programs for some kinds of file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FULL, NEARLY_BLACK = 2**16, 2**12  # of 16 bits: values below the second are below 16 of 8 bits


def check_image_size(image_size: int) -> None:
    """Refuse a side that no image can have; 0 = as stored."""
    if image_size < 0:
        raise ArgumentError("image_size", f"found {image_size}; allowed: 0 or more pixels.")


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` and keep the central square; 0 = as it is."""
    if size == 0 or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def fit_array(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """`fit` for a stored image with 1 or 3 channels."""
    if size == 0 or image.shape[:2] == (size, size):
        return image
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(fit(picture, size)).reshape(size, size, channels)


def fit_arrays(images: UInt8[np.ndarray, "n h w c"], size: int) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """`fit` for stored images of one size."""
    if size == 0 or images.shape[1:3] == (size, size):
        return images
    return np.stack([fit_array(image, size) for image in images])


def in_gray(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 1"]:
    """Decoded images as `read_image` gives them with `gray`."""
    gray = np.empty((*images.shape[:3], 1), np.uint8)
    for number, image in enumerate(images):
        gray[number, ..., 0] = np.asarray(Image.fromarray(image).convert("L"))
    return gray


def read_image(file: str | bytes, size: int, *, gray: bool = False) -> UInt8[np.ndarray, "h w c"]:
    """Decode a file to RGB: upright, white where it is transparent, then `fit`.

    Args:
        file: its path, or its content.
        size: as in `fit`.
        gray: one channel in place of three.

    Raises:
        ValueError: the file is no image, is damaged, or is larger than Pillow's limit against
            decompression bombs.
    """
    with _opened(file) as image:
        if size:  # lets a JPEG decode at 1/2, 1/4 or 1/8 of its side, at least twice the target
            image.draft(None, (2 * size, 2 * size))
        fitted = fit(_decoded(image), size)
        return np.asarray(fitted.convert("L"))[..., None] if gray else np.asarray(fitted)


def canvas_side(size: int) -> int:
    """The side of the square that holds a whole picture whose shorter side is `size`: 3 : 2."""
    return 3 * size // 2


def whole_shape(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of the arrays of `read_whole_image` beside squares of this shape."""
    side = canvas_side(image_shape[0])
    return side, side, image_shape[-1]


def read_whole_image(
    file: str | bytes, size: int, *, gray: bool = False
) -> tuple[UInt8[np.ndarray, "s s c"], tuple[int, int]]:
    """Decode the whole picture of a file, as `read_image` does, into the corner of a square.

    The shorter side is reduced to `size`, or further until the longer one fits into the square of
    `canvas_side(size)`. Smaller pictures stay as they are: a crop enlarges them.

    Args:
        file: its path, or its content.
        size: in pixels, at least 1.
        gray: one channel in place of three.

    Returns:
        The square, black beside the picture, and height and width of the picture.

    Raises:
        ValueError: as `read_image`.
    """
    with _opened(file) as image:
        width, height = _reduced(*image.size, size)
        image.draft(None, (2 * width, 2 * height))
        picture = _decoded(image)
        return on_canvas(np.asarray(picture.convert("L") if gray else picture), size)


def on_canvas(
    image: UInt8[np.ndarray, "h w *c"], size: int
) -> tuple[UInt8[np.ndarray, "s s c"], tuple[int, int]]:
    """A decoded picture as `read_whole_image` gives it."""
    picture = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    reduced = _reduced(*picture.size, size)
    if reduced != picture.size:
        picture = picture.resize(reduced, Image.Resampling.BICUBIC)
    width, height = reduced
    side, channels = canvas_side(size), len(picture.getbands())
    canvas = np.zeros((side, side, channels), np.uint8)
    canvas[:height, :width] = np.asarray(picture).reshape(height, width, channels)
    return canvas, (height, width)


def _reduced(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height once the shorter side is `size` and the longer one on the canvas."""
    scale = min(1.0, size / min(width, height), canvas_side(size) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def look(file: str | bytes, *, upright: bool) -> tuple[int, int]:
    """Return (height, width) of an image, from the file's header alone.

    With `upright`, they are those of `read_image` without a size. For that some files that are not
    square must be decoded: only the end of a PNG may say that it lies on its side, and of a TIFF
    that does, Pillow gives either size until it has turned the image itself.

    Raises:
        ValueError: as `read_image` does, as far as the header tells.
    """
    with _opened(file) as image:
        width, height = image.size
        if upright and width != height:
            lying = image.format == "TIFF" and _orientation(image) >= 5
            if image.format == "PNG" or lying:
                image.load()
                width, height = image.size
            if _orientation(image) >= 5:  # from there on turned by 90 degrees
                return width, height
        return height, width


def look_at_all(
    files: Sequence[str | bytes], *, upright: bool
) -> list[tuple[int, int] | ValueError]:
    """`look` for many files; where one cannot be read, the error stands in place of the size."""

    def size(file: str | bytes) -> tuple[int, int] | ValueError:
        try:
            return look(file, upright=upright)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:  # mostly waiting for the disk
        return list(pool.map(size, files))


def common_shape(names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """The one shape of RGB images, if they have one size.

    Args:
        names: of the images, for the message.
        sizes: (height, width) of each, at least 1.

    Raises:
        ArgumentError: of `image_size`, with two images of different size.
    """
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise ArgumentError(
                "image_size",
                f"found 0, which keeps the sizes of the files, but they differ: {names[0]} is "
                f"{sizes[0][0]} x {sizes[0][1]} (height x width), {name} is {size[0]} x {size[1]}; "
                "allowed: a side "
                "in pixels, to which all images are brought, such as 224.",
            )
    height, width = sizes[0] if sizes else (0, 0)
    return height, width, 3


@contextlib.contextmanager
def _opened(file: str | bytes) -> Iterator[Image.Image]:
    """An image whose header is read; what goes wrong before it is closed is a ValueError."""
    name = f" {file}" if isinstance(file, str) else ""
    try:
        content = _regular(file) if isinstance(file, str) else io.BytesIO(file)
        with Image.open(content, formats=FORMATS) as image:
            _check_pixels(image)
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot read the image{name}: it is none of {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # decoders of damaged files raise anything
        raise ValueError(f"cannot read the image{name}: {error}") from error


def _regular(path: str) -> str:
    """Refuse what is no regular file: reading from a pipe may wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")
    return path


def _check_pixels(image: Image.Image) -> None:
    """Refuse an image that would fill the memory, before it is decoded."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {limit}")


def _decoded(image: Image.Image) -> Image.Image:
    """An opened image in RGB, upright."""
    # Of colours with 16 bits Pillow keeps the upper 8, and only what it will unpack says so.
    is_deep = re.search(";16[BLN]", str(getattr(image, "tile", ""))) is not None
    image = _upright(image)
    if is_deep and image.mode in ("RGB", "RGBA"):
        highest = int(np.asarray(image)[..., :3].max())
        if 0 < highest < NEARLY_BLACK >> 8:
            raise ValueError(
                f"its colours have 16 bits and are nearly black, below {NEARLY_BLACK} where white "
                f"is {FULL - 1}: they seem to use {8 + highest.bit_length()} of the bits; save it "
                "with 8 bits a channel"
            )
    return _to_rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    """The image as its orientation says that it is seen."""
    image.load()  # a PNG may say so at its end
    turn = TURNS.get(_orientation(image))
    # Not ImageOps.exif_transpose: it also writes the EXIF data anew, and fails if they are faulty.
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """What the EXIF data say, 1 to 8; 1, upright, where they cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the reader of damaged entries raises anything
        return 1
    return found if found in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; what is transparent becomes white, 16 bits become 8."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 bits a channel")
    if image.mode.startswith("I"):
        clear = image.info.get("transparency")  # the one value that is
        opaque = None if clear is None else np.asarray(image) != clear
        image = _to_8_bits(image)
        if opaque is not None:
            image.putalpha(Image.fromarray(np.uint8(255) * opaque))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grayscale of 16 bits with 8; Pillow's own conversion would clip it."""
    pixels = np.asarray(image)
    lowest, highest = int(pixels.min()), int(pixels.max())
    if lowest < 0 or highest >= FULL:
        raise ValueError(
            f"its pixels are whole numbers from {lowest} to {highest}, more than 16 bits; save it "
            "with 8 bits a channel"
        )
    if 0 < highest < NEARLY_BLACK:
        raise ValueError(
            f"its pixels are whole numbers up to {highest}, nearly black in 16 bits, whose white "
            f"is {FULL - 1}: they seem to use {highest.bit_length()} of the bits; save it with 8 "
            "bits a channel"
        )
    return Image.fromarray((pixels >> 8).astype(np.uint8))
