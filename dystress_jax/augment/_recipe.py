"""How the two views of an image are drawn, as frozen dataclasses of numbers."""

import dataclasses
import math

from ..errors import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How one view is drawn; the defaults give a random resized crop and a flip.

    The operations are applied in this order: crop, flip, jitter, grayscale, blur, solarize. Each
    happens with its own probability, independently for every example.

    Args:
        crop_area: range of the crop's area as a fraction of the image, in (0, 1]. `(1, 1)` with
            `crop_aspect=(1, 1)` keeps a square image whole.
        crop_aspect: range of the crop's width / height, sampled log-uniformly.
        antialias: low-pass filter where a crop is reduced, as Pillow does. Off by default.
        flip: probability of a horizontal flip, in [0, 1].
        jitter: probability that brightness, contrast, saturation and hue change, in random order.
        brightness: factor uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: likewise, towards the mean grey of the image.
        saturation: likewise, towards the grey of each pixel. Three channels only.
        hue: shift uniform in [-hue, hue] turns of the colour circle, at most 0.5. Three channels
            only.
        grayscale: probability of a grey image. Three channels only.
        blur: probability of a Gaussian blur, its kernel a tenth of the image as in SimCLR.
        blur_sigma: range of its standard deviation in pixels, sampled uniformly.
        solarize: probability that pixels from `solarize_threshold` up are inverted.
        solarize_threshold: in [0, 1].

    Raises:
        ArgumentError: a probability, range or strength is impossible.

    Example:
        >>> from dystress_jax import augment
        >>> view = augment.View(crop_area=(0.2, 1.0), blur=0.5)
        >>> augment.View(flip=1.5)
        Traceback (most recent call last):
        dystress_jax.errors.ArgumentError: flip: found 1.5; allowed: a probability, in [0, 1].
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    antialias: bool = False
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    solarize_threshold: float = 0.5

    def __post_init__(self):
        """Refuse what cannot be drawn, before anything compiles."""
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a probability, in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            self._require(name, 0 <= strength < math.inf, "a strength, at least 0")
        self._require("hue", 0 <= self.hue <= 0.5, "a part of a full turn, in [0, 0.5]")
        for name, top in (("crop_area", 1), ("crop_aspect", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            self._require(name, 0 < low <= high <= top, f"a range 0 < low <= high <= {top}")
        threshold = self.solarize_threshold
        self._require("solarize_threshold", 0 <= threshold <= 1, "a pixel value, in [0, 1]")

    def _require(self, argument: str, holds: bool, allowed: str):
        if not holds:
            found = getattr(self, argument)
            raise ArgumentError(argument, f"found {found}; allowed: {allowed}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The two views of a contrastive pair; they differ in MoCo v3 and BYOL.

    Args:
        first: how the first view is drawn.
        second: how the second view is drawn.

    Example:
        >>> from dystress_jax import augment
        >>> crop, blurred = augment.View(), augment.View(blur=1.0)
        >>> recipe = augment.Recipe(first=crop, second=blurred)
    """

    first: View
    second: View
