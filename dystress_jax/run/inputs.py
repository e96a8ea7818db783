"""What the encoder sees of an image: its size, and how views and whole images are made."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from .. import augment, data
from ..errors import ArgumentError
from ..methods import OneView, Views
from .config import Config, ConfigError
from .tables import make

Images = UInt8[Array, "n h w c"]
Seen = Float[Array, "n size size c"]
SHOWN = 8  # images at most in the picture of views


class Inputs(NamedTuple):
    """From uint8 images to what the encoder sees, made once a run.

    Attributes:
        size: side of the square that the encoder sees, in pixels.
        channels: of the images.
        views: `(key, images, rows) -> two random views` of each.
        view: `(key, images, rows) -> one random view` of each.
        weak_view: `(key, images) -> one random view` of each, only cropped and flipped.
        normalize: `images in [0, 1] -> what the encoder sees` of them.
        centre: `images -> their centre`, the whole image where it is a square of that size.
    """

    size: int
    channels: int
    views: Views
    view: OneView
    weak_view: Callable[[PRNGKeyArray, Images | augment.Pictures], Seen]
    normalize: Callable[[Seen], Seen]
    centre: Callable[[Images], Seen]


def make_inputs(config: Config, source: data.Source) -> Inputs:
    """What the encoder sees of the images of a source.

    Raises:
        ConfigError: the images are too small for the size that is set, or they have other channels
            than the settings have means.
    """
    size, channels = _view_size(config, source), source.image_shape[-1]
    recipe, weak = make_recipe(config), _filtered(config, augment.weak()).first
    _check_channels(config, channels)
    _check_effect(config, size, channels)
    normalize = functools.partial(
        augment.normalize, mean=config.augment.mean, std=config.augment.std
    )

    def views(key, images, rows):
        first, second = augment.two_views(key, images, recipe, size=size, rows=rows)
        return normalize(first), normalize(second)

    def view(key, images, rows):
        return normalize(augment.view(key, images, recipe.first, size=size, rows=rows))

    def weak_view(key, images):
        return normalize(augment.view(key, images, weak, size=size))

    def centre(images):
        height, width = images.shape[1:3]
        if min(height, width) < size:
            raise ArgumentError(
                "images",
                f"found {height} x {width} pixels; allowed: at least {size} x {size}, of which the "
                "centre is seen.",
            )
        top, left = ((side - size) // 2 for side in images.shape[1:3])
        return normalize(augment.to_float(images[:, top : top + size, left : left + size]))

    return Inputs(size, channels, views, view, weak_view, normalize, centre)


def picture_of_views(config: Config, source: data.Source, size: int) -> UInt8[np.ndarray, "h w c"]:
    """The two views of some images of a source, those of an image above each other."""
    recipe = make_recipe(config)
    rows = np.linspace(0, len(source) - 1, min(SHOWN, len(source))).astype(int)
    batch = source.gather(rows, whole=True)
    some = {"image": jnp.asarray(batch["image"])}
    if "extent" in batch:
        some["extent"] = jnp.asarray(batch["extent"])
    draw = jax.jit(augment.two_views, static_argnames=("recipe", "size"))
    both = np.stack(draw(jax.random.key(config.seed), augment.seen(some), recipe, size=size))
    rows = both.transpose(0, 2, 1, 3, 4).reshape(2 * size, -1, both.shape[-1])
    return np.round(255 * rows).astype(np.uint8)


def make_recipe(config: Config) -> augment.Recipe:
    """The recipe that the settings name, with their numbers.

    Raises:
        ConfigError: a number is out of the recipe's range.
    """
    recipe = make(config, "augment.recipe", augment.RECIPES[config.augment.recipe])
    return _filtered(config, recipe)


def _filtered(config: Config, recipe: augment.Recipe) -> augment.Recipe:
    """A recipe with the filter that the settings ask for."""
    return augment.antialiased(recipe) if config.augment.antialias else recipe


def _view_size(config: Config, source: data.Source) -> int:
    """The side of the square that the encoder sees, by default the shorter one of the images."""
    height, width, _ = source.image_shape
    size = config.augment.size or min(height, width)
    if size > min(height, width):
        raise ConfigError(
            f"config.augment.size: found {size} with images of {height} x {width}; allowed: at "
            f"most {min(height, width)}. Raise config.data.image_size or lower it."
        )
    return size


def _check_channels(config: Config, channels: int) -> None:
    for name in ("mean", "std"):
        found = getattr(config.augment, name)
        if len(found) not in (1, channels):
            raise ConfigError(
                f"config.augment.{name}: found {len(found)} numbers for images of {channels} "
                f"channel{'s' * (channels > 1)}; allowed: one number, or one a channel."
            )


def _check_effect(config: Config, size: int, channels: int) -> None:
    """Refuse operations that are set and would change no view."""
    if config.augment.blur and size < augment.SMALLEST_BLURRED:
        raise ConfigError(
            f"config.augment.blur: found {config.augment.blur} with views of {size} pixels, a "
            "tenth of which is too little to blur; allowed: None, or views of at least "
            f"{augment.SMALLEST_BLURRED} pixels."
        )
    if config.augment.grayscale and channels == 1:
        raise ConfigError(
            f"config.augment.grayscale: found {config.augment.grayscale} with images of 1 channel, "
            "which are grey; allowed: None."
        )
