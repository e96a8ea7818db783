"""The images of the runs as the page holds them: pictures, places, neighbours, similarities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .. import explorer
from ..microscope import Watched, unit_of
from ._layout import lay_out, layouts
from ._run import Run

NEIGHBOURS = 12
SPACES = {
    "features": "features, of the encoder",
    "embeddings": "embeddings, what the loss compares",
}


def of_images(runs: Sequence[Run]) -> list[dict[str, Any] | None]:
    """For each run its images as plain data; None for a run without.

    Runs that watch the same images share their pictures and their layouts.
    """
    found: list[dict[str, Any] | None] = [None] * len(runs)
    alike: dict[Any, list[int]] = {}
    for number, run in enumerate(runs):
        if run.images is not None:
            alike.setdefault(_which(run.images), []).append(number)
    for members in alike.values():
        images = {number: _images(runs[number]) for number in members}
        places = {number: {} for number in members}
        by: dict[str, dict[str, str]] = {space: {} for space in SPACES}
        for space in SPACES:
            for layout in layouts():
                placed, by[space][layout] = _placed(list(images.values()), space, layout)
                for number, own in zip(members, placed, strict=True):
                    places[number].setdefault(space, {})[layout] = own
        for number in members:
            found[number] = {
                **_plain(images[number], places[number], own=number, pictures_of=members[0]),
                "unit": unit_of(runs[number].records),
                "placed_by": by,
            }
    return found


def _images(run: Run) -> Watched:
    assert run.images is not None
    return run.images


def _which(images: Watched) -> Any:
    """What tells other images from these."""
    pictures = None if images.pictures is None else images.pictures.tobytes()
    return images.split, images.ids.tobytes(), pictures, images.class_names, images.partner


def _placed(
    images: list[Watched], space: str, layout: str
) -> tuple[list[list[list[list[float]]]], str]:
    """Places for each run, step and row, where the last step of the first run is the reference.

    And the layout that has placed them.
    """
    order = [*images[1:], images[0]]
    rows = [x for one in order for x in _points(one, space)]
    if len(rows[0]) < 2:
        placed, by = [np.zeros((len(x), 2)) for x in rows], "PCA"
    else:
        placed, by = lay_out(rows, layout=layout)
    of_each, at = [], 0
    for one in order:
        count = len(one.steps)
        of_each.append([np.round(x, 3).tolist() for x in placed[at : at + count]])
        at += count
    return [of_each[-1], *of_each[:-1]], by


def _points(images: Watched, space: str) -> list[Float[np.ndarray, "n d"]]:
    """The rows of each step; of embeddings the partners follow the images."""
    if space == "features":
        return list(images.features)
    if images.partners is None:
        return list(images.embeddings)
    return [np.concatenate(x) for x in zip(images.embeddings, images.partners, strict=True)]


def _plain(
    images: Watched, places: dict[str, Any], *, own: int, pictures_of: int
) -> dict[str, Any]:
    """All that the page needs of the images of a run; pictures come with the first of them."""
    near, how_near = neighbours(images.features[-1])
    return {
        **explorer.plain_images(images, pictures=own == pictures_of),
        "steps": images.steps.tolist(),
        "places": places,
        "pictures_of": None if images.pictures is None else pictures_of,
        "near": near.tolist(),
        "how_near": np.round(how_near, 3).tolist(),
    }


def neighbours(
    features: Float[np.ndarray, "n f"], count: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are most alike by cosine, each row itself left out, and their cosines.

    Example:
        >>> near, cosines = neighbours(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), 1)
        >>> near.ravel().tolist()
        [2, 2, 0]
    """
    x = np.asarray(features, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -np.inf)
    count = min(count, len(x) - 1)
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return near, np.take_along_axis(cosines, near, axis=1)
