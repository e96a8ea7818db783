"""Images that are compared with each other, as a page holds them."""

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..microscope import Watched


def plain_images(images: Watched, *, pictures: bool = True) -> dict[str, Any]:
    """What the script of a page needs of images: which they are, and their last similarities.

    Args:
        images: at least one.
        pictures: whether they come along, as far as there are any.

    Returns:
        What JSON can say.

    Example:
        >>> from dystress_jax import microscope
        >>> np.savez("z.npz", features=np.eye(3), labels=[0, 1, 1])
        >>> images = microscope.read_embeddings("z.npz")
        >>> plain_images(images)["labels"]
        [0, 1, 1]
    """
    shown = images.pictures if pictures else None
    similarity = images.similarity[-1]
    largest = max(1.0, float(np.abs(similarity).max()))  # above 1 where they are no cosines
    return {
        "split": images.split,
        "step": int(images.steps[-1]),
        "ids": images.ids.tolist(),
        "labels": images.labels.tolist(),
        "class_names": list(images.class_names),
        "captions": list(images.captions),
        "partner": images.partner,
        # 16 bits: a weight under a temperature of 0.01 is then off by 0.2 % at most.
        "similarity": _as_base64(np.round(similarity / largest * 32767).astype("<i2")),
        "largest": largest,
        "pictures": None if shown is None else [_as_uri(x) for x in shown],
    }


def _as_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _as_base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
