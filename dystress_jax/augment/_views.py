"""Random views of a batch: parameters are drawn per example, then applied to the whole batch."""

import collections.abc
import itertools
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from .._placement import like_rows_of
from ..errors import ArgumentError
from . import _colour, _geometry
from ._recipe import Recipe, View

SMALLEST_BLURRED = 20
"""The smallest side of a view, in pixels, of which the kernel of the blur has more than one."""


class Pictures(typing.NamedTuple):
    """Pictures of several sizes, each in the top left corner of an array of one size.

    Attributes:
        pixels: 0 to 255; what lies outside a picture is never looked at.
        extent: height and width of each picture, in pixels.
    """

    pixels: UInt8[Array, "n h w c"]
    extent: Int[Array, "n 2"]


def seen(batch: collections.abc.Mapping[str, Array]) -> UInt8[Array, "n h w c"] | Pictures:
    """What views are drawn of: the images of a batch, as `Pictures` if they have an extent.

    Args:
        batch: "image" and perhaps "extent".

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> images = jnp.zeros((2, 6, 6, 3), jnp.uint8)
        >>> augment.seen({"image": images, "extent": jnp.array([[4, 6], [5, 4]])}).extent.shape
        (2, 2)
    """
    image = batch["image"]
    return Pictures(image, batch["extent"]) if "extent" in batch else image


def two_views(
    key: Key[Array, ""],
    images: UInt8[Array, "n h w c"] | Pictures,
    recipe: Recipe,
    *,
    size: int,
    rows: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "n {size} {size} c"], Float[Array, "n {size} {size} c"]]:
    """Draw the two views of every image that a contrastive loss compares.

    Row i is drawn with `fold_in(key, i)`: it depends on neither the other rows, nor the size of
    the batch, nor how it is sharded or cut into parts.

    Args:
        key: a typed key, `jax.random.key(seed)`; a new one every step.
        images: pixels 0 to 255, 1 or 3 channels, or `Pictures` of several sizes. With 1 channel
            saturation, hue and grayscale do nothing.
        recipe: how the views are drawn; static under jit.
        size: side of the views in pixels, at least 1; static under jit.
        rows: number of each image in the whole batch, where these are a part of it; default
            0, 1, ..., n - 1.

    Returns:
        First and second views, float32 in [0, 1].

    Raises:
        ArgumentError: the images have not 1 or 3 channels, or the size is below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> images = jnp.zeros((2, 40, 48, 3), jnp.uint8)
        >>> two_views = jax.jit(augment.two_views, static_argnames=("recipe", "size"))
        >>> recipe = augment.simclr_cifar()
        >>> first, second = two_views(jax.random.key(0), images, recipe=recipe, size=32)
        >>> first.shape
        (2, 32, 32, 3)
    """
    first_key, second_key = jax.random.split(key)
    return (
        view(first_key, images, recipe.first, size=size, rows=rows),
        view(second_key, images, recipe.second, size=size, rows=rows),
    )


def view(
    key: Key[Array, ""],
    images: UInt8[Array, "n h w c"] | Pictures,
    settings: View,
    *,
    size: int,
    rows: Int[Array, " n"] | None = None,
) -> Float[Array, "n {size} {size} c"]:
    """Draw one view of every image, as for a linear probe; see `two_views`.

    Args:
        key: a typed key.
        images: pixels 0 to 255, 1 or 3 channels, or `Pictures`.
        settings: how the view is drawn; static under jit.
        size: side of the view in pixels, at least 1; static under jit.
        rows: see `two_views`.

    Returns:
        Float32 in [0, 1].

    Raises:
        ArgumentError: the images are not uint8 or have not 1 or 3 channels, or the size is below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> images = jnp.zeros((2, 40, 48, 1), jnp.uint8)
        >>> view = jax.jit(augment.view, static_argnames=("settings", "size"))
        >>> view(jax.random.key(0), images, settings=augment.View(), size=32).shape
        (2, 32, 32, 1)
    """
    pixels, extent = images if isinstance(images, Pictures) else (images, None)
    count, height, width, channels = pixels.shape
    if pixels.dtype != jnp.uint8:
        raise ArgumentError("images", f"found {pixels.dtype}; allowed: uint8, from 0 to 255.")
    if channels not in (1, 3):
        raise ArgumentError(
            "images", f"found shape {pixels.shape}; allowed: 1 or 3 channels on the last axis."
        )
    if size < 1:
        raise ArgumentError("size", f"found {size}; allowed: at least 1, a side in pixels.")
    # As the images are, or over an Explicit axis every device would draw the views of all.
    numbers = like_rows_of(pixels, jnp.arange(count)) if rows is None else rows
    if extent is None:
        extent = jnp.broadcast_to(jnp.array([height, width]), (count, 2))
    drawn = _draw(key, settings, extent, numbers)
    x = _geometry.crop_and_resize(
        pixels, drawn.box, drawn.flip, size=size, antialias=settings.antialias
    )

    def sometimes(happens: Bool[Array, " n"], changed: Array) -> Array:
        return jnp.where(happens[:, None, None, None], changed, x)

    # Operations that a recipe never uses are left out of the program.
    if settings.jitter:
        shift = drawn.hue if settings.hue and channels == 3 else None
        x = sometimes(drawn.jitter, _colour.jitter(x, drawn.order, drawn.factors, shift))
    if settings.grayscale:
        x = sometimes(drawn.grayscale, _colour.luma(x))
    radius = size // 10 // 2  # SimCLR: a tenth of the image, made odd
    if settings.blur and size >= SMALLEST_BLURRED:
        x = sometimes(drawn.blur, _geometry.gaussian_blur(x, drawn.sigma, radius=radius))
    if settings.solarize:
        x = sometimes(drawn.solarize, _colour.solarize(x, settings.solarize_threshold))
    return jnp.moveaxis(jnp.clip(x, 0, 1), 1, -1)


class _Drawn(typing.NamedTuple):
    """What happens to each example."""

    box: Float[Array, "n 4"]
    flip: Bool[Array, " n"]
    jitter: Bool[Array, " n"]
    order: Int[Array, "n 4"]
    factors: Float[Array, "n 3"]
    hue: Float[Array, " n"]
    grayscale: Bool[Array, " n"]
    blur: Bool[Array, " n"]
    sigma: Float[Array, " n"]
    solarize: Bool[Array, " n"]


# How many uniform numbers each operation takes of an example's draw. One draw for all of them
# compiles several times faster than one for each; a new operation goes to the end, so that the
# others keep theirs.
_NUMBERS = {
    "area": _geometry.ATTEMPTS,
    "aspect": _geometry.ATTEMPTS,
    "corner": 2,
    "flip": 1,
    "jitter": 1,
    "order": 4,
    "factors": 3,
    "hue": 1,
    "grayscale": 1,
    "blur": 1,
    "sigma": 1,
    "solarize": 1,
}


def _draw(
    key: Key[Array, ""], settings: View, extent: Int[Array, "n 2"], rows: Int[Array, " n"]
) -> _Drawn:
    if str(jax.random.key_impl(key)) != "threefry2x32":  # of others a row would depend on the first
        key = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")
    row_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
    total = sum(_NUMBERS.values())
    uniform = jax.vmap(lambda row_key: jax.random.uniform(row_key, (total,), jnp.float32))(row_keys)
    ends = itertools.accumulate(_NUMBERS.values())
    u = {
        name: uniform[:, end - 1] if amount == 1 else uniform[:, end - amount : end]
        for (name, amount), end in zip(_NUMBERS.items(), ends, strict=True)
    }

    strengths = jnp.array(
        [settings.brightness, settings.contrast, settings.saturation], jnp.float32
    )[None, :]
    weakest, strongest = jnp.maximum(1 - strengths, 0), 1 + strengths
    return _Drawn(
        box=_geometry.crop_boxes(
            u["area"],
            u["aspect"],
            u["corner"],
            extent,
            area=settings.crop_area,
            aspect=settings.crop_aspect,
        ),
        flip=u["flip"] < settings.flip,
        jitter=u["jitter"] < settings.jitter,
        order=jnp.argsort(u["order"], axis=1),
        factors=weakest + u["factors"] * (strongest - weakest),
        hue=settings.hue * (2 * u["hue"] - 1),
        grayscale=u["grayscale"] < settings.grayscale,
        blur=u["blur"] < settings.blur,
        sigma=settings.blur_sigma[0]
        + u["sigma"] * (settings.blur_sigma[1] - settings.blur_sigma[0]),
        solarize=u["solarize"] < settings.solarize,
    )


def to_float(images: UInt8[Array, "*n h w c"]) -> Float[Array, "*n h w c"]:
    """Bring pixels 0 to 255 to float32 in [0, 1], as `two_views` does.

    Args:
        images: pixels 0 to 255.

    Returns:
        Float32 in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> augment.to_float(jnp.full((1, 1, 1), 51, jnp.uint8)).tolist()
        [[[0.2]]]
    """
    return images.astype(jnp.float32) / 255


def normalize(
    images: Float[Array, "*n h w c"],
    *,
    mean: collections.abc.Sequence[float],
    std: collections.abc.Sequence[float],
) -> Float[Array, "*n h w c"]:
    r"""Subtract a mean and divide by a standard deviation.

    $$y = \frac{x - \mathrm{mean}}{\mathrm{std}}$$

    Args:
        images: in [0, 1].
        mean: one value, or one for each channel, on the scale of the images, any number.
        std: likewise, positive.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ArgumentError: images of whole numbers; neither one value nor one for each channel, or a std
            that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> x = jnp.full((1, 1, 1, 3), 0.5)
        >>> augment.normalize(x, mean=(0.5, 0.4, 0.3), std=(0.5,)).tolist()
        [[[[0.0, 0.2, 0.4]]]]
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ArgumentError(
            "images", f"found {images.dtype}; allowed: floating point in [0, 1], as of `to_float`."
        )
    channels = images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ArgumentError(
                name,
                f"found {len(values)} values with images of {channels} channels; allowed: one "
                "value, or one for each channel.",
            )
    if min(std) <= 0:
        raise ArgumentError("std", f"found {tuple(std)}; allowed: above 0.")
    axes = (1,) * (images.ndim - 1) + (-1,)
    centre, scale = (jnp.asarray(v, images.dtype).reshape(axes) for v in (mean, std))
    return (images - centre) / scale
