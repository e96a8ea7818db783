"""The images that a run looks at again and again, and where its encoder puts them."""

import contextlib
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
    width = experiment.method.num_features

    def embed(params, stats, images):
        flat = [x.reshape(len(images), -1) for x in experiment.embed(params, stats, images)]
        return jnp.concatenate([x.astype(jnp.float32) for x in flat], axis=1)

    def found(state: TrainState) -> dict[str, np.ndarray]:
        trained = state.params, state.stats
        # Of an encoder that diverges, the loss of the next step says so.
        with contextlib.suppress(evaluation.NotFiniteError):
            both = features.embed_source(
                lambda images: embed(*trained, images), source, mesh=experiment.mesh
            )
            partners, similarity = None, sphere
            if experiment.language is not None:
                encoder = experiment.towers(*trained)
                similarity = encoder.similarity
                partners = encoder.embed_texts(texts) if texts else None
            return microscope.found_of(
                jnp.asarray(both[:, :width]), jnp.asarray(both[:, width:]), partners, similarity
            )
        return {}

    return WatchedImages(about, found)
