"""The pictures that a run ends with: neighbours of test images, and a map of them."""

import functools
import io
import pathlib

import jax.numpy as jnp
import numpy as np
from PIL import Image

from .. import data, evaluation
from ..evaluation import features
from ..files import write_bytes
from ..run_files import NEIGHBOURS
from ..training import TrainState
from .experiment import Experiment

ROWS, COLUMNS = 12, 6
SEARCHED, MAPPED = 5_000, 2_000  # images at most: a picture is worth no more time


def pictures(experiment: Experiment, state: TrainState) -> dict[str, Image.Image]:
    """Draw what the encoder has learned, by name; nothing where there are no images to look at.

    Args:
        experiment: the parts of the run, whose test images are looked at, else the held-out ones.
        state: of the run.

    Returns:
        `neighbours` and `map`.

    Raises:
        NotFiniteError: the encoder has diverged.
    """
    split = experiment.measured_split(lambda source: True)
    if split is None:
        return {}
    source, encode = experiment.sources[split], experiment.encoder(state)
    bank, queries = data.subset(experiment.train, SEARCHED), _of_each_class(source)
    seen = data.subset(source, MAPPED)
    embed = functools.partial(features.embed_source, mesh=experiment.mesh)
    by_encoder = embed(encode, bank), embed(encode, queries)
    pixels, of_queries = embed(evaluation.raw_pixels, bank), embed(evaluation.raw_pixels, queries)
    mean = pixels.mean(axis=0)
    by_pixels = pixels - mean, of_queries - mean
    found = {"by the encoder": _nearest(*by_encoder), "by centred pixels": _nearest(*by_pixels)}
    return {
        NEIGHBOURS: evaluation.neighbour_grid(queries, bank, found),
        "map": evaluation.feature_map(embed(encode, seen), seen),
    }


def write_png(path: pathlib.Path, picture: Image.Image) -> None:
    """Write a picture, whole or not at all.

    Raises:
        FileError: there is no room, no permission, or a directory of that name.
    """
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write_bytes(path, content.getvalue())


def _of_each_class(source: data.Source) -> data.Source:
    """At most ROWS images, as many of each class; where there are more classes, of some."""
    classes = max(source.num_classes, 1)
    rows = min(ROWS // classes * classes or ROWS, len(source))
    order = (
        np.argsort(source.labels(), kind="stable") if source.has_labels else np.arange(len(source))
    )
    return source.take(order[(2 * np.arange(rows) + 1) * len(source) // (2 * rows)])


def _nearest(bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    near = evaluation.nearest_neighbours(jnp.asarray(queries), jnp.asarray(bank), k=COLUMNS)
    return np.asarray(near.position)
