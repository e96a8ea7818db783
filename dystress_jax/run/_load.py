"""The encoder of a run as an object, from the directory of the run alone."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from .. import data, evaluation
from ..errors import ArgumentError, at_least_one
from ..evaluation import DualEncoder
from ..evaluation.features import encode_batches
from ..temperatures import concrete
from ._build import rebuild
from ._environment import usable_jax
from ._own import Own
from ._saved import read_config, state_at
from .config import Config
from .experiment import Experiment

PyTree = Any
Images = data.Given
Seen = Shaped[Array, "n h w c"] | Shaped[np.ndarray, "n h w c"]  # uint8, or floats in [0, 1]
Apply = Callable[..., Any]  # (params, stats, uint8 images [n h w c]) -> arrays with a row an image


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where an encoder comes from.

    Attributes:
        experiment: the parts of the run; its source has no pixels.
        workdir: of the run.
        step: of the checkpoint.
    """

    experiment: Experiment
    workdir: pathlib.Path
    step: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """A trained encoder of images; `load` makes it. It is a pytree of its arrays.

    Images are uint8 arrays [n h w c] of any size, or lists of paths and of arrays [h w c]. They are
    brought to the size that the run was trained with as its own images were, and evaluated in
    batches, on all devices of this process.

    Attributes:
        params: what was trained, nested dicts by name; the entry `encoder` is the encoder's.
        stats: running statistics, likewise.
        origin: the run and the checkpoint.

    Example:
        >>> import dystress_jax
        >>> encoder = dystress_jax.load("runs/quickstart")
        >>> encoder(np.zeros((2, 40, 60, 1), np.uint8)).shape
        (2, 64)
    """

    params: PyTree
    stats: PyTree
    origin: Origin = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Images, *, batch_size: int = 256) -> Float[np.ndarray, "n features"]:
        """The features of images, as `features`."""
        return self.features(images, batch_size=batch_size)

    def features(self, images: Images, *, batch_size: int = 256) -> Float[np.ndarray, "n features"]:
        """What the encoder makes of images: for classifiers, probes and neighbours.

        Args:
            images: uint8 [n h w c], or a list of paths and of images [h w c].
            batch_size: images at once.

        Raises:
            ArgumentError: they are no images, or have other channels.
            UnreadableError: a file is no image.
        """
        return self._batched(self._parts.encode, images, batch_size)

    def embeddings(self, images: Images, *, batch_size: int = 256) -> Float[np.ndarray, "n d"]:
        """What the head makes of the features: what the loss has compared."""
        return self._batched(lambda *args: self._parts.embed(*args)[1], images, batch_size)

    def apply(self, params: PyTree, images: Seen) -> Float[Array, "n features"]:
        """Features as a pure function of the parameters, to be differentiated or jitted.

        BatchNorm normalises by the running statistics, which stay as they are.

        Args:
            params: as `self.params`.
            images: uint8, of which the centre is seen; or views in [0, 1] of `size` pixels a side.

        Raises:
            ArgumentError: they are smaller, floats of another size, or floats that go to 255.
        """
        inputs, given = self._parts.inputs, jnp.asarray(images)
        floating = jnp.issubdtype(given.dtype, jnp.floating)
        if floating and given.shape[1:3] != (inputs.size, inputs.size):
            raise ArgumentError(
                "images",
                f"found {given.dtype} of shape {given.shape}; allowed: views of {inputs.size} x "
                f"{inputs.size} pixels, or uint8, of which the centre is seen.",
            )
        largest = jnp.max(given, initial=0) if floating and concrete(given) else 0
        if largest > 2:  # a filter may leave some just above 1
            raise ArgumentError(
                "images", f"found numbers up to {largest:.4g}; allowed: views in [0, 1], or uint8."
            )
        seen = inputs.normalize(given) if floating else inputs.centre(given)
        return self._parts.method.encode(params, self.stats, seen)

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self._parts.config

    @property
    def num_features(self) -> int:
        """The width of the features."""
        return self._parts.method.num_features

    @property
    def size(self) -> int:
        """The side of the square that the encoder sees, in pixels."""
        return self._parts.inputs.size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c), which images are brought to; the encoder sees the centre."""
        return self._parts.train.image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the training images; none if they had no labels."""
        return self._parts.train.class_names

    def __repr__(self) -> str:
        """What it is, in one line."""
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        shape = " x ".join(map(str, self.image_shape))
        made = f"{self.config.model.name} of {self.config.method}"
        return (
            f"{type(self).__name__}({made}, {count:,} parameters; images {shape} -> "
            f"{self.num_features} features, {self._parts.method.width} embedded; step "
            f"{self.origin.step:,} of {self.origin.workdir})"
        )

    @property
    def _parts(self) -> Experiment:
        return self.origin.experiment

    def _batched(self, compute: Apply, images: Images, batch_size: int) -> Float[np.ndarray, "n d"]:
        at_least_one(batch_size=batch_size)
        if isinstance(images, Tracer):
            raise ArgumentError(
                "images",
                "found a traced array; allowed: images. Under jit call `apply(params, images)`.",
            )
        if not isinstance(images, Sequence) or isinstance(images, str | bytes):
            images = data.as_images(images, self.image_shape)
        with usable_jax():
            # Of few images the batch is no larger than the next power of 2: little is padded, and
            # little compiled anew.
            rows = min(batch_size, 1 << max(len(images) - 1, 0).bit_length())
            compute = functools.partial(compute, self.params, self.stats)
            parts = encode_batches(compute, self._batches(images, rows), mesh=self._parts.mesh)
            return np.concatenate([encoded for encoded, _ in parts])

    def _batches(self, images: Images, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches of one size; at least one, so that of no images the width is known."""
        rows += -rows % self._parts.mesh.size
        for first in range(0, max(len(images), 1), rows):
            part = data.as_images(images[first : first + rows], self.image_shape)
            padded = np.zeros((rows, *self.image_shape), np.uint8)
            padded[: len(part)] = part
            yield {"image": padded, "mask": np.arange(rows) < len(part)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageTextEncoder(Encoder):
    """The towers of a run with `method=clip`.

    What `encode_images` and `encode_texts` give lies on the manifold of the run's similarity, so
    that on the sphere `encode_images(x) @ encode_texts(y).T` are cosines; `similarity` compares
    them on any. `params`, `stats` and `origin` are those of an `Encoder`.

    Example:
        >>> import dystress_jax
        >>> encoder = dystress_jax.load("runs/clip_quickstart")
        >>> classify = encoder.zero_shot(["a cat", "a dog"])
        >>> classify.names(np.zeros((1, 40, 60, 3), np.uint8))[0] in ("a cat", "a dog")
        True
    """

    def encode_images(self, images: Images, *, batch_size: int = 256) -> Float[np.ndarray, "n d"]:
        """Embeddings of images."""
        embeddings = self.embeddings(images, batch_size=batch_size)
        return np.asarray(self._towers.similarity.project(jnp.asarray(embeddings)))

    def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Embeddings of texts, in the words of the run's vocabulary."""
        if isinstance(texts, str):
            raise ArgumentError("texts", f"found {texts!r}; allowed: a list of texts.")
        with usable_jax():
            towers = self._towers
            if not len(texts):
                return np.zeros((0, self._parts.method.width), np.float32)
            embeddings = towers.embed_texts(texts).astype(jnp.float32)
            return np.asarray(towers.similarity.project(embeddings))

    def similarity(
        self, images: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "m d"]
    ) -> Float[np.ndarray, "n m"]:
        """How similar each image is to each text; the more, the larger."""
        return np.asarray(self._towers.similarity(jnp.asarray(images), jnp.asarray(texts)))

    def zero_shot(
        self, class_names: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> "ZeroShotClassifier":
        """A classifier made of the names of the classes.

        Args:
            class_names: any texts, at least one.
            templates: with `{}` where the name goes; the mean of all on the manifold. None: the
                run's own, `config.zero_shot.prompts`.

        Raises:
            ArgumentError: there is no name or no template, or one has no `{}`.
        """
        if isinstance(class_names, str) or not len(class_names):
            raise ArgumentError("class_names", f"found {class_names!r}; allowed: a list of texts.")
        if templates is None:
            templates = evaluation.templates(self.config.zero_shot.prompts)
        texts = self.encode_texts(evaluation.prompts(class_names, templates))
        grouped = jnp.asarray(texts.reshape(len(class_names), len(templates), -1))
        classes = evaluation.class_embeddings(grouped, similarity=self._towers.similarity)
        return ZeroShotClassifier(self, tuple(class_names), np.asarray(classes))

    @property
    def _towers(self) -> DualEncoder:
        return self._parts.towers(self.params, self.stats)


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShotClassifier:
    """Tells classes apart by their descriptions.

    Attributes:
        encoder: of images and texts.
        class_names: in the order of the scores.
        classes: the embedding of each.
    """

    encoder: ImageTextEncoder
    class_names: tuple[str, ...]
    classes: Float[np.ndarray, "classes d"]

    def __call__(self, images: Images) -> Float[np.ndarray, "n classes"]:
        """How similar each image is to each class."""
        return self.encoder.similarity(self.encoder.encode_images(images), self.classes)

    def names(self, images: Images) -> list[str]:
        """The most similar class of each image."""
        return [self.class_names[best] for best in self(images).argmax(axis=1)]


@usable_jax()
def load(
    workdir: pathlib.Path | str,
    checkpoint: str | int = "newest",
    *,
    own: Own = Own(),
) -> Encoder:
    """The encoder of a run, from its directory alone: no images are opened.

    Args:
        workdir: of the run, wherever it is now.
        checkpoint: `newest`, `best` (by kNN on held-out images), or a step.
        own: the objects that the run was given in Python.

    Returns:
        An `Encoder`; for a run with `method=clip` an `ImageTextEncoder`.

    Raises:
        ConfigError: there is no run, or no such checkpoint.
        CheckpointError: the checkpoint cannot be used.

    Example:
        >>> import dystress_jax
        >>> encoder = dystress_jax.load("runs/quickstart", checkpoint="best")
        >>> encoder.config.method, encoder.num_features
        ('simclr', 64)
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    experiment = rebuild(read_config(workdir), workdir, own=own)
    state = state_at(workdir, checkpoint, experiment.abstract_state())
    kind = Encoder if experiment.language is None else ImageTextEncoder
    return kind(state.params, state.stats, Origin(experiment, workdir, int(state.step)))
