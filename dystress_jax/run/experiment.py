"""The parts of a run that stay the same from its first step to its last."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from .. import data
from ..evaluation import DualEncoder
from ..methods import Method
from ..schemes import Scheme
from ..training import TrainState, abstract_state, init_state
from .config import Config
from .inputs import Inputs
from .language import Language

PyTree = Any
Encode = Callable[..., Float[Array, "n features"]]
Embed = Callable[..., tuple[Float[Array, "n features"], Float[Array, "n d"]]]
EncodeImages = Callable[[UInt8[Array, "n h w c"]], Float[Array, "n d"]]


class Schedule(NamedTuple):
    """How long a run is and its learning rate at every step."""

    steps_per_epoch: int
    total_steps: int
    learning_rate: Callable[[jax.Array], jax.Array]


class Experiment(NamedTuple):
    """What `build` makes of the settings; training and evaluation use the same.

    Attributes:
        config: the settings.
        mesh: the devices.
        sources: the images, by split.
        schedule: steps and learning rates.
        method: what is learned.
        scheme: of its temperature; None where it has none.
        optimizer: of its parameters.
        inputs: what the encoder sees of an image.
        encode: `(params, stats, uint8 images) -> features`, jitted.
        encode_view: `(params, stats, key, uint8 images) -> features` of one weak random view each.
        embed: `(params, stats, uint8 images) -> (features, embeddings)`, jitted.
        embed_views: `(params, stats, key, uint8 images) -> (features [n 2 f], embeddings [n 2 d])`
            of two random views of each image, as in training but in evaluation mode; jitted.
        language: of an image-text run; else None.
        trained_on: a fingerprint of the training and test data, stored in each checkpoint.
    """

    config: Config
    mesh: Mesh
    sources: dict[str, data.Source]
    schedule: Schedule
    method: Method
    scheme: Scheme | None
    optimizer: optax.GradientTransformation
    inputs: Inputs
    encode: Encode
    encode_view: Encode
    embed: Embed
    embed_views: Callable[..., tuple[Float[Array, "n 2 f"], Float[Array, "n 2 d"]]]
    language: Language | None
    trained_on: str

    @property
    def train(self) -> data.Source:
        """The training images."""
        return self.sources["train"]

    def measured_split(self, fits: Callable[[data.Source], bool]) -> str | None:
        """What is measured at the end: the test or the held-out images, the first that fit."""
        splits = [split for split in ("test", "holdout") if split in self.sources]
        return next((split for split in splits if fits(self.sources[split])), None)

    def init_state(self) -> TrainState:
        """The state before the first step."""
        return init_state(
            self.method, self.optimizer, scheme=self.scheme, seed=self.config.seed, mesh=self.mesh
        )

    def abstract_state(self) -> TrainState:
        """What a checkpoint of the run must fit."""
        return abstract_state(self.method, self.optimizer, scheme=self.scheme, mesh=self.mesh)

    def encoder(self, state: TrainState) -> EncodeImages:
        """`uint8 images -> features` of the encoder of a state."""
        return functools.partial(self.encode, state.params, state.stats)

    def towers(self, params: PyTree, stats: PyTree) -> DualEncoder:
        """The towers of an image-text run, ready to embed."""
        language = self.language
        assert language is not None, "not an image-text run"
        trained = lambda embed: functools.partial(embed, params, stats)
        return DualEncoder(
            trained(language.embed_images),
            trained(language.embed_texts),
            language.tokenizer.encode,
            language.similarity,
        )
