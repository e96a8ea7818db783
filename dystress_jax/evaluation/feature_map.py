"""A map of images: where their features lie, in two dimensions."""

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from .. import data
from .._pca import centred, principal_axes
from ._drawing import class_colour, plain, thumbnail

WIDTH, HEIGHT, MARGIN, HEAD = 1280, 960, 40, 56  # pixels
THUMBNAIL, FRAME, DOT = 36, 3, 3
NAMED = 40  # classes at most that are named on the map


def principal_plane(
    features: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "2"]]:
    """The two directions in which features of unit length differ most (PCA).

    Args:
        features: of any length; they are brought to unit length, as for cosine similarity.

    Returns:
        The places along them, and the shares of the variance that they hold. The sign of a
        direction is such that its largest entry is above 0.

    Example:
        >>> places, shares = principal_plane(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]))
        >>> places.shape, round(float(shares.sum()), 6)
        ((3, 2), 1.0)
    """
    rows = centred(features)
    axes, shares = principal_axes(rows)
    return rows @ axes.T, shares


def feature_map(features: Float[np.ndarray, "n d"], source: data.Source) -> Image.Image:
    """Draw the images of a source where `principal_plane` puts their features.

    As many are shown as have room; the others are dots. Frames and dots have the colour of the
    class, and the name of a class is at the median of its images.

    Args:
        features: of every image of the source, in its order.
        source: the images, with labels or without.

    Returns:
        The picture.

    Example:
        >>> images = np.zeros((3, 8, 8, 3), np.uint8)
        >>> feature_map(np.eye(3), data.from_arrays(images)).size
        (1280, 960)
    """
    places, shares = principal_plane(features)
    low, high = places.min(axis=0), places.max(axis=0)
    spread = np.where(high > low, high - low, 1)
    room = np.array([WIDTH - 2 * MARGIN, HEIGHT - HEAD - 2 * MARGIN])
    at = (places - low) / spread * room * (1, -1) + (MARGIN, HEIGHT - MARGIN)
    labels = source.labels() if source.has_labels else np.full(len(source), -1)
    colours = [class_colour(int(label), source.num_classes) for label in labels]
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    shown = _with_room(at, THUMBNAIL + 2 * FRAME)
    for row in np.flatnonzero(~shown):
        x, y = at[row]
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colours[row])
    for row in np.flatnonzero(shown):
        left, top = (int(c) - THUMBNAIL // 2 for c in at[row])
        box = (left - FRAME, top - FRAME, left + THUMBNAIL + FRAME - 1, top + THUMBNAIL + FRAME - 1)
        draw.rectangle(box, fill=colours[row])
        canvas.paste(thumbnail(source, int(row), THUMBNAIL), (left, top))
    if 0 < source.num_classes <= NAMED:
        for label in np.unique(labels[labels >= 0]):
            x, y = np.median(at[labels == label], axis=0)
            draw.text(
                (x, y),
                plain(source.class_names[label], 20),
                fill=class_colour(int(label), source.num_classes),
                anchor="mm",
                font_size=22,
                stroke_width=4,
                stroke_fill="white",
            )
    said = (
        f"{len(source):,} images by their features; PCA: left to right {shares[0]:.0%}, "
        f"bottom to top {shares[1]:.0%} of the variance"
    )
    draw.text((MARGIN, HEAD / 2), said, fill="black", anchor="lm", font_size=18)
    return canvas


def _with_room(at: Float[np.ndarray, "n 2"], side: int) -> Bool[np.ndarray, " n"]:
    """Which squares of this side can be drawn without one covering another."""
    kept = np.zeros(len(at), bool)
    # In no order: that of the images is often the order of their classes.
    for row in np.random.RandomState(0).permutation(len(at)):
        apart = np.abs(at[kept] - at[row]).max(axis=1, initial=0.0) >= side
        kept[row] = apart.all()
    return kept
