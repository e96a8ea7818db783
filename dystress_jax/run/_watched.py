"""The images that a run looks at again and again, and where its encoder puts them."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import data, evaluation, microscope
from ..evaluation import features
from ..similarities import sphere
from ..training import TrainState
from .experiment import Experiment


class WatchedImages(NamedTuple):
    """Some images of a run.

    Attributes:
        about: which they are, for `microscope.Recorder.keep`.
        found: `state -> arrays for a record`; none where the encoder has diverged.
    """

    about: dict[str, Any]
    found: Callable[[TrainState], dict[str, np.ndarray]]


def watch_images(experiment: Experiment) -> WatchedImages:
    """Choose held-out images, else test images, else some of those that are trained on."""
    split = next(name for name in ("holdout", "test", "train") if name in experiment.sources)
    source = data.subset(experiment.sources[split], microscope.WATCHED)
    texts = ()
    if experiment.language is not None and source.captions is not None:
        texts = tuple(source.captions[int(stored)][0] for stored in source.index)
    batch = source.gather(np.arange(len(source)))
    about = microscope.about(
        split, batch["index"], batch["label"], source.class_names, batch["image"], texts
    )

    def found(state: TrainState) -> dict[str, np.ndarray]:
        trained = state.params, state.stats
        # Of an encoder that diverges, the loss of the next step says so.
        with contextlib.suppress(evaluation.NotFiniteError):
            embed = functools.partial(experiment.embed, *trained)
            of_images = features.embed_source(embed, source, mesh=experiment.mesh)
            of_encoder, of_head = (jnp.asarray(rows.reshape(len(rows), -1)) for rows in of_images)
            partners, similarity = None, sphere
            if experiment.language is not None:
                encoder = experiment.towers(*trained)
                similarity = encoder.similarity
                partners = encoder.embed_texts(texts) if texts else None
            return microscope.found_of(of_encoder, of_head, partners, similarity)
        return {}

    return WatchedImages(about, found)
