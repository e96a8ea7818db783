"""What several networks ask of their arguments and of the images."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from ..errors import ArgumentError


def used_by(build: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that a builder has.

    Example:
        >>> used_by(lambda *, stem, channels=3: None, stem="patch", heads=4)
        {'stem': 'patch'}
    """
    has = inspect.signature(build).parameters
    return {name: value for name, value in arguments.items() if name in has}


def check_channels(channels: int, images: Float[Array, "n h w c"]) -> None:
    """Refuse images with other channels than the network was made for."""
    if images.shape[-1] != channels:
        raise ArgumentError(
            "channels",
            f"found {channels} with images of shape {images.shape}; allowed: the size of their "
            f"last axis, {images.shape[-1]}.",
        )


def check_patch(patch: int, height: int, width: int) -> None:
    """Refuse a patch that does not tile the images."""
    if height % patch == width % patch == 0:
        return
    tile = max(p for p in range(1, patch) if height % p == width % p == 0)
    side = "their side" if height == width else "both sides"
    raise ArgumentError(
        "patch",
        f"found {patch} with images of {height} x {width}; allowed: a divisor of {side}, for "
        f"example {tile}.",
    )


def check_side(side: int, height: int, width: int) -> None:
    """Refuse images of another size than the positions are learned for."""
    if height != side or width != side:
        raise ArgumentError(
            "image_size",
            f"found {side} with images of {height} x {width}; allowed: the side of square images, "
            "for which the positions are learned.",
        )
