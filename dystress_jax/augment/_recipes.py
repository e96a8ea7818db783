"""The published settings of two views."""

import collections.abc
import dataclasses
import math
import types
from typing import Any

from ..errors import ArgumentError
from ._recipe import Recipe, View


def simclr(
    *,
    crop_min: float = 0.08,
    flip: float = 0.5,
    strength: float = 1.0,
    grayscale: float = 0.2,
    blur: float = 0.5,
) -> Recipe:
    """SimCLR for ImageNet: crop, flip, strong jitter, grey and blur; also the DySTreSS settings.

    Two known differences from the authors' TensorFlow code: crops are resized bilinearly (there
    bicubic), and contrast and saturation are torchvision's (there TensorFlow's), as in the code of
    DySTreSS.

    Args:
        crop_min: smallest crop area, in (0, 1].
        flip: probability of a horizontal flip, in [0, 1].
        strength: factor on the jitter (0.8, 0.8, 0.8, 0.2), in [0, 2.5]: there the hue turns by
            half a circle. SimCLR takes 1 for ImageNet and 0.5 for CIFAR.
        grayscale: probability of a grey image, in [0, 1].
        blur: probability of a blur, in [0, 1].

    Returns:
        The same view twice.

    Raises:
        ArgumentError: a number is out of its range.

    Example:
        >>> from dystress_jax import augment
        >>> augment.simclr(strength=0.5).first.brightness
        0.4

    References:
        Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), appendix A;
        `data_util.py` of [google-research/simclr](https://github.com/google-research/simclr).
    """
    view = View(
        crop_area=_area(crop_min),
        flip=flip,
        **_jitter(strength, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
        grayscale=grayscale,
        blur=blur,
    )
    return Recipe(first=view, second=view)


def _area(crop_min: float) -> tuple[float, float]:
    if not 0 < crop_min <= 1:
        raise ArgumentError("crop_min", f"found {crop_min}; allowed: an area in (0, 1].")
    return crop_min, 1.0


def _jitter(strength: float, *, hue: float = 0.0, **others: float) -> dict[str, Any]:
    """The jitter of a view, which happens with probability 0.8 in every recipe that has it."""
    most = 0.5 / hue if hue else math.inf
    if not 0 <= strength <= most:
        allowed = f"in [0, {most:g}]" if hue else "of at least 0"
        raise ArgumentError("strength", f"found {strength}; allowed: a factor {allowed}.")
    return {"jitter": 0.8} | {name: strength * x for name, x in {**others, "hue": hue}.items()}


def simclr_cifar(
    *,
    crop_min: float = 0.08,
    flip: float = 0.5,
    strength: float = 1.0,
    grayscale: float = 0.2,
    blur: float = 0.0,
) -> Recipe:
    """SimCLR for small images: weaker jitter and no blur; the CIFAR settings of DySTreSS.

    Args:
        crop_min: smallest crop area, in (0, 1].
        flip: probability of a horizontal flip, in [0, 1].
        strength: factor on the jitter (0.4, 0.4, 0.4, 0.1), in [0, 5].
        grayscale: probability of a grey image, in [0, 1].
        blur: probability of a blur, in [0, 1].

    Returns:
        The same view twice.

    Raises:
        ArgumentError: a number is out of its range.

    Example:
        >>> from dystress_jax import augment
        >>> view = augment.simclr_cifar().first
        >>> view.brightness, view.hue, view.blur
        (0.4, 0.1, 0.0)

    References:
        Manna et al., [arXiv 2308.01140](https://arxiv.org/abs/2308.01140); `smallscale/utils.py` of
        [sadimanna/DySTreSS](https://github.com/sadimanna/DySTreSS).
    """
    view = View(
        crop_area=_area(crop_min),
        flip=flip,
        **_jitter(strength, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        grayscale=grayscale,
        blur=blur,
    )
    return Recipe(first=view, second=view)


def moco_v2(
    *,
    crop_min: float = 0.2,
    flip: float = 0.5,
    strength: float = 1.0,
    grayscale: float = 0.2,
    blur: float = 0.5,
) -> Recipe:
    """MoCo v2: SimCLR's operations, with larger crops and a jitter that is not strengthened.

    Args:
        crop_min: smallest crop area, in (0, 1].
        flip: probability of a horizontal flip, in [0, 1].
        strength: factor on the jitter (0.4, 0.4, 0.4, 0.1), in [0, 5].
        grayscale: probability of a grey image, in [0, 1].
        blur: probability of a blur, in [0, 1].

    Returns:
        The same view twice.

    Raises:
        ArgumentError: a number is out of its range.

    Example:
        >>> from dystress_jax import augment
        >>> view = augment.moco_v2().first
        >>> view.crop_area, view.brightness, view.blur
        ((0.2, 1.0), 0.4, 0.5)

    References:
        Chen et al., [arXiv 2003.04297](https://arxiv.org/abs/2003.04297); `main_moco.py` of
        [facebookresearch/moco](https://github.com/facebookresearch/moco), `--aug-plus`.
    """
    return simclr_cifar(
        crop_min=crop_min, flip=flip, strength=strength, grayscale=grayscale, blur=blur
    )


def moco_v3(
    *,
    crop_min: float = 0.08,
    flip: float = 0.5,
    strength: float = 1.0,
    grayscale: float = 0.2,
) -> Recipe:
    """MoCo v3 (BYOL's asymmetric pair): one view always blurred, the other at times solarized.

    Args:
        crop_min: smallest crop area, in (0, 1]. 0.08 is the default of the authors' code and their
            setting for ViT; they take 0.2 for ResNet-50.
        flip: probability of a horizontal flip, in [0, 1].
        strength: factor on the jitter (0.4, 0.4, 0.2, 0.1), in [0, 5].
        grayscale: probability of a grey image, in [0, 1].

    Returns:
        Two different views.

    Raises:
        ArgumentError: a number is out of its range.

    Example:
        >>> from dystress_jax import augment
        >>> recipe = augment.moco_v3(crop_min=0.2)
        >>> recipe.first.blur, recipe.second.blur
        (1.0, 0.1)

    References:
        Chen et al., [arXiv 2104.02057](https://arxiv.org/abs/2104.02057); `main_moco.py` and
        `CONFIG.md` of [facebookresearch/moco-v3](https://github.com/facebookresearch/moco-v3).
        Grill et al., [arXiv 2006.07733](https://arxiv.org/abs/2006.07733), table 6.
    """
    first = View(
        crop_area=_area(crop_min),
        flip=flip,
        **_jitter(strength, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        grayscale=grayscale,
        blur=1.0,
    )
    return Recipe(first=first, second=dataclasses.replace(first, blur=0.1, solarize=0.2))


def captioned(
    *, crop_min: float = 0.5, strength: float = 1.0, grayscale: float = 0.2, blur: float = 0.5
) -> Recipe:
    """Views that keep what a caption says: no flip (left stays left), no change of hue.

    Ours, for small sets of drawings with their names.

    Args:
        crop_min: smallest crop area, in (0, 1].
        strength: factor on the jitter (0.4, 0.4, 0.4, 0), at least 0.
        grayscale: probability of a grey image, in [0, 1].
        blur: probability of a blur, in [0, 1].

    Returns:
        The same view twice.

    Raises:
        ArgumentError: a number is out of its range.

    Example:
        >>> from dystress_jax import augment
        >>> view = augment.captioned().first
        >>> view.flip, view.hue
        (0.0, 0.0)
    """
    view = View(
        crop_area=_area(crop_min),
        flip=0.0,
        **_jitter(strength, brightness=0.4, contrast=0.4, saturation=0.4),
        grayscale=grayscale,
        blur=blur,
    )
    return Recipe(first=view, second=view)


def weak(*, crop_min: float = 0.08, flip: float = 0.5) -> Recipe:
    """Crop and flip only, as linear probes are trained.

    Args:
        crop_min: smallest crop area, in (0, 1].
        flip: probability of a horizontal flip, in [0, 1].

    Returns:
        The same view twice.

    Raises:
        ArgumentError: a number is out of its range.

    Example:
        >>> from dystress_jax import augment
        >>> augment.weak().first == augment.View()
        True
    """
    view = View(crop_area=_area(crop_min), flip=flip)
    return Recipe(first=view, second=view)


def whole() -> Recipe:
    """Nothing at random: the middle square of the image, twice.

    For image-text training on data that is to be fitted exactly, and to see whether a model can fit
    its data at all. Methods with two views learn nothing from two equal ones.

    Returns:
        The same view twice.

    Example:
        >>> from dystress_jax import augment
        >>> view = augment.whole().first
        >>> view.crop_area, view.flip
        ((1.0, 1.0), 0.0)
    """
    view = View(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0)
    return Recipe(first=view, second=view)


def antialiased(recipe: Recipe) -> Recipe:
    """The recipe with a low-pass filter where crops are reduced, as Pillow resizes.

    Pipelines of PIL images have it, those that resize tensors often not. Without it fine textures
    turn into noise: white noise reduced from 224 to 32 pixels keeps its deviation of 0.29, with it
    0.03 is left. Crops that are enlarged are the same.

    Args:
        recipe: any recipe.

    Returns:
        The same with `antialias` in both views.

    Example:
        >>> from dystress_jax import augment
        >>> augment.antialiased(augment.weak()).first.antialias
        True
    """
    return Recipe(
        first=dataclasses.replace(recipe.first, antialias=True),
        second=dataclasses.replace(recipe.second, antialias=True),
    )


RECIPES: collections.abc.Mapping[str, collections.abc.Callable[..., Recipe]] = (
    types.MappingProxyType(
        {
            make.__name__: make
            for make in (simclr, simclr_cifar, moco_v2, moco_v3, captioned, weak, whole)
        }
    )
)
"""The recipes by name: functions, without arguments as published."""
