"""Random views of a batch: parameters are drawn per example, then applied to the whole batch."""

import collections.abc
import itertools
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from . import _colour, _geometry
from ._recipes import Recipe, View


def two_views(
    key: Key[Array, ""],
    images: UInt8[Array, "n h w c"],
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
        images: pixels 0 to 255, 1 or 3 channels. With 1 channel saturation, hue and grayscale do
            nothing.
        recipe: how the views are drawn; static under jit.
        size: side of the views in pixels; static under jit.
        rows: number of each image in the whole batch, where these are a part of it; default
            0, 1, ..., n - 1.

    Returns:
        First and second views, float32 in [0, 1].

    Raises:
        ValueError: not 1 or 3 channels, or size not positive.

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
    images: UInt8[Array, "n h w c"],
    how: View,
    *,
    size: int,
    rows: Int[Array, " n"] | None = None,
) -> Float[Array, "n {size} {size} c"]:
    """Draw one view of every image, as for a linear probe; see `two_views`.

    Args:
        key: a typed key.
        images: pixels 0 to 255, 1 or 3 channels.
        how: how the view is drawn; static under jit.
        size: side of the view in pixels; static under jit.
        rows: see `two_views`.

    Returns:
        Float32 in [0, 1].

    Raises:
        ValueError: not 1 or 3 channels, or size not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> images = jnp.zeros((2, 40, 48, 1), jnp.uint8)
        >>> view = jax.jit(augment.view, static_argnames=("how", "size"))
        >>> view(jax.random.key(0), images, how=augment.View(), size=32).shape
        (2, 32, 32, 1)
    """
    count, height, width, channels = images.shape
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, last; found shape {images.shape}.")
    if size < 1:
        raise ValueError(f"size is the side of a view in pixels, at least 1; found {size}.")
    rows = jnp.arange(count) if rows is None else rows
    drawn = _draw(key, how, rows=rows, height=height, width=width)
    x = _geometry.crop_and_resize(images, drawn.box, drawn.flip, size=size, antialias=how.antialias)

    def sometimes(happens: Bool[Array, " n"], changed: Array) -> Array:
        return jnp.where(happens[:, None, None, None], changed, x)

    # Operations that a recipe never uses are left out of the program.
    if how.jitter:
        shift = drawn.hue if how.hue and channels == 3 else None
        x = sometimes(drawn.jitter, _colour.jitter(x, drawn.order, drawn.factors, shift))
    if how.grayscale:
        x = sometimes(drawn.grayscale, _colour.luma(x))
    radius = size // 10 // 2  # SimCLR: a tenth of the image, made odd
    if how.blur and radius:
        x = sometimes(drawn.blur, _geometry.gaussian_blur(x, drawn.sigma, radius=radius))
    if how.solarize:
        x = sometimes(drawn.solarize, _colour.solarize(x, how.solarize_threshold))
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
    key: Key[Array, ""], how: View, *, rows: Int[Array, " n"], height: int, width: int
) -> _Drawn:
    row_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
    total = sum(_NUMBERS.values())
    uniform = jax.vmap(lambda row_key: jax.random.uniform(row_key, (total,)))(row_keys)
    ends = itertools.accumulate(_NUMBERS.values())
    u = {
        name: uniform[:, end - 1] if amount == 1 else uniform[:, end - amount : end]
        for (name, amount), end in zip(_NUMBERS.items(), ends, strict=True)
    }

    strengths = jnp.array([how.brightness, how.contrast, how.saturation], jnp.float32)[None, :]
    weakest, strongest = jnp.maximum(1 - strengths, 0), 1 + strengths
    return _Drawn(
        box=_geometry.crop_boxes(
            u["area"],
            u["aspect"],
            u["corner"],
            height=height,
            width=width,
            area=how.crop_area,
            aspect=how.crop_aspect,
        ),
        flip=u["flip"] < how.flip,
        jitter=u["jitter"] < how.jitter,
        order=jnp.argsort(u["order"], axis=1),
        factors=weakest + u["factors"] * (strongest - weakest),
        hue=how.hue * (2 * u["hue"] - 1),
        grayscale=u["grayscale"] < how.grayscale,
        blur=u["blur"] < how.blur,
        sigma=how.blur_sigma[0] + u["sigma"] * (how.blur_sigma[1] - how.blur_sigma[0]),
        solarize=u["solarize"] < how.solarize,
    )


def to_float(images: UInt8[Array, "*n h w c"]) -> Float[Array, "*n h w c"]:
    """Bring pixels 0 to 255 to float32 in [0, 1], as `two_views` does.

    Args:
        images: pixels 0 to 255.

    Returns:
        Float32 in [0, 1].
    """
    return images.astype(jnp.float32) / 255


def normalize(
    images: Float[Array, "*n h w c"],
    *,
    mean: collections.abc.Sequence[float],
    std: collections.abc.Sequence[float],
) -> Float[Array, "*n h w c"]:
    """Subtract a mean and divide by a standard deviation: `(images - mean) / std`.

    Args:
        images: in [0, 1].
        mean: one value, or one for each channel, on the scale of the images.
        std: likewise, positive.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: neither one value nor one for each channel, or a std that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax import augment
        >>> x = jnp.full((1, 1, 1, 3), 0.5)
        >>> augment.normalize(x, mean=(0.5, 0.4, 0.3), std=(0.5,)).tolist()
        [[[[0.0, 0.2, 0.4]]]]
    """
    channels = images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f"{name} has one value, or one for each channel; found {len(values)} values for "
                f"images of {channels} channels."
            )
    if min(std) <= 0:
        raise ValueError(f"std is positive; found {tuple(std)}.")
    axes = (1,) * (images.ndim - 1) + (-1,)
    centre, scale = (jnp.asarray(v, images.dtype).reshape(axes) for v in (mean, std))
    return (images - centre) / scale
