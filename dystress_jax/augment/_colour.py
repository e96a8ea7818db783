"""Colour operations on float images with channels first, in torchvision's definition."""

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def luma(images: Float[Array, "n c h w"]) -> Float[Array, "n 1 h w"]:
    """Grey value of each pixel, ITU-R 601 weights; of one channel, that channel."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def adjust_hue(
    images: Float[Array, "n 3 h w"], shift: Float[Array, " n"]
) -> Float[Array, "n 3 h w"]:
    """Turn the hue of each image by a fraction of the colour circle."""
    with jax.numpy_dtype_promotion("standard"):  # dm-pix multiplies numbers by truth values
        return jnp.asarray(dm_pix.adjust_hue(images, shift[:, None, None], channel_axis=-3))


def solarize(images: Float[Array, "n c h w"], threshold: float) -> Float[Array, "n c h w"]:
    """Invert the pixels from the threshold up."""
    return jnp.asarray(dm_pix.solarize(images, threshold))


def blend(
    images: Float[Array, "n c h w"], operation: Int[Array, " n"], factor: Float[Array, " n"]
) -> Float[Array, "n c h w"]:
    """Change brightness, contrast or saturation, whichever `operation` says for each image.

    With the factor $f$ and a target $t$ of each operation

    $$y = f x + (1 - f) t$$

    clipped to [0, 1].

    | operation  | target                      |
    | ---------- | --------------------------- |
    | brightness | black                       |
    | contrast   | the mean grey of the image  |
    | saturation | the grey value of the pixel |

    dm-pix has TensorFlow's: there brightness adds, contrast has a mean per channel and saturation
    scales the S of HSV.
    """
    operation, factor = operation[:, None, None, None], factor[:, None, None, None]
    grey = luma(images)
    mean = grey.mean(axis=(1, 2, 3), keepdims=True)
    target = jnp.where(operation == SATURATION, grey, jnp.where(operation == CONTRAST, mean, 0.0))
    return jnp.clip(factor * images + (1 - factor) * target, 0, 1)


def jitter(
    images: Float[Array, "n c h w"],
    order: Int[Array, "n 4"],
    factors: Float[Array, "n 3"],
    shift: Float[Array, " n"] | None,
) -> Float[Array, "n c h w"]:
    """Brightness, contrast, saturation and hue (unless None) in each image's own order.

    A branch per operation would under vmap compute all four in each of the four places. The hue is
    the expensive one, so it is computed once: the blends before it, the hue, the blends after it,
    where a factor of 1 leaves an image unchanged.
    """
    chosen = jnp.take_along_axis(factors, jnp.minimum(order, SATURATION), axis=1)
    place = jnp.arange(4)[None, :]
    place_of_hue = jnp.argmax(order == HUE, axis=1)[:, None]
    images = _blends(images, order, jnp.where(place < place_of_hue, chosen, 1.0))
    if shift is not None:
        images = adjust_hue(images, shift)
    return _blends(images, order, jnp.where(place > place_of_hue, chosen, 1.0))


def _blends(
    images: Float[Array, "n c h w"], order: Int[Array, "n 4"], factors: Float[Array, "n 4"]
) -> Float[Array, "n c h w"]:
    # A scan, not a Python loop: XLA fuses unrolled places into one another and so computes the
    # first of them many times over.
    step = lambda x, place: (blend(x, *place), None)
    return jax.lax.scan(step, images, (order.T, factors.T))[0]
