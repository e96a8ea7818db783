"""An encoder with its heads as one, and a second one that follows it slowly."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped, UInt8

from ..errors import ArgumentError, at_least_one
from ..gradcache import wide
from ..models import Network
from ..optim import of_floats
from ._method import Method

PyTree = Any
# (key, images, number of each image in the whole batch) -> two views
Views = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"], Int[Array, " n"]],
    tuple[Float[Array, "n size size c"], Float[Array, "n size size c"]],
]
"""Two random views: (key, uint8 images, their numbers in the batch) to two arrays of views."""


class Tower(NamedTuple):
    """An encoder and a projector; params and stats hold one entry for each."""

    encoder: Network
    projector: Network

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Return `(params, stats)`."""
        encoder_key, projector_key = jax.random.split(key)
        encoder_params, encoder_stats = self.encoder.init(encoder_key)
        projector_params, projector_stats = self.projector.init(projector_key)
        params = {"encoder": encoder_params, "projector": projector_params}
        return params, {"encoder": encoder_stats, "projector": projector_stats}

    def embed(
        self, params: PyTree, stats: PyTree, inputs: Shaped[Array, "n ..."], *, train: bool = True
    ) -> tuple[Float[Array, "n d"], Float[Array, "n features"], PyTree]:
        """Return embeddings, features and the new stats."""
        features, encoder_stats = self.encoder.apply(
            params["encoder"], stats["encoder"], inputs, train=train
        )
        embeddings, projector_stats = self.projector.apply(
            params["projector"], stats["projector"], features, train=train
        )
        return embeddings, features, {"encoder": encoder_stats, "projector": projector_stats}

    def part_of(self, params: PyTree) -> PyTree:
        """The tower's part of a method's parameters."""
        return {name: params[name] for name in self._fields}

    def keys(
        self, key_params: PyTree, stats: PyTree, *views: Float[Array, "n h w c"]
    ) -> list[Float[Array, "n d"]]:
        """Return the embeddings of a momentum encoder, of each view, which no gradient reaches.

        BatchNorm normalises them by the batch, so its running statistics would serve nobody: a
        momentum encoder keeps none. Frozen arrays are the same for both. Randomness, such as the
        state of a Dropout, goes on from where the trained encoder has left it.
        """
        found = []
        for images in views:
            embeddings, _, stats = self.embed(key_params, stats, images)
            found.append(jax.lax.stop_gradient(embeddings))
        return found

    def project(
        self, params: PyTree, stats: PyTree, inputs: Shaped[Array, "n ..."]
    ) -> Float[Array, "n d"]:
        """Return the embeddings, in evaluation mode."""
        embeddings, _, _ = self.embed(params, stats, inputs, train=False)
        return embeddings

    def encode(
        self, params: PyTree, stats: PyTree, images: Float[Array, "n h w c"]
    ) -> Float[Array, "n features"]:
        """Return the features, in evaluation mode."""
        features, _ = self.encoder.apply(params["encoder"], stats["encoder"], images, train=False)
        return features


def method_of(tower: Tower, **functions: Any) -> Method:
    """The method that trains a tower: its encoder is evaluated, its embeddings are compared.

    Args:
        tower: in the entries `encoder` and `projector` of the method's params and stats.
        **functions: the other fields of the `Method`.
    """
    return Method(
        encode=tower.encode,
        num_features=tower.encoder.out_features,
        width=tower.projector.out_features,
        project=tower.project,
        encoder=tower.encoder,
        **functions,
    )


class PredictingTower(NamedTuple):
    """A tower and a predictor behind it; params and stats have the entry `predictor` more."""

    tower: Tower
    predictor: Network

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Return `(params, stats)`."""
        tower_key, predictor_key = jax.random.split(key)
        params, stats = self.tower.init(tower_key)
        predictor_params, predictor_stats = self.predictor.init(predictor_key)
        return (
            {**params, "predictor": predictor_params},
            {**stats, "predictor": predictor_stats},
        )

    def predict(
        self, params: PyTree, stats: PyTree, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"], Float[Array, "n features"], PyTree]:
        """Return predictions, the embeddings they are made of, features and the new stats."""
        embeddings, features, tower_stats = self.tower.embed(params, stats, images)
        predictions, predictor_stats = self.predictor.apply(
            params["predictor"], stats["predictor"], embeddings, train=True
        )
        return predictions, embeddings, features, {**tower_stats, "predictor": predictor_stats}


def with_predictor(tower: Tower, predictor: Network) -> PredictingTower:
    """A tower whose predictions are compared with embeddings.

    Raises:
        ArgumentError: the predictor does not keep the width.
    """
    width = tower.projector.out_features
    if predictor.out_features != width:
        raise ArgumentError(
            "predictor",
            f"found one to {predictor.out_features} after a projector to {width}; allowed: the "
            "same width, since predictions and embeddings are compared.",
        )
    return PredictingTower(tower, predictor)


def follow(key_params: PyTree, params: PyTree, *, rate: ArrayLike) -> PyTree:
    """The momentum encoder's next parameters, `(1 - rate) key_params + rate params`.

    They are at least float32, as `followed` gives the first: in half precision a step of a
    thousandth would be lost to rounding.

    Args:
        key_params: the momentum encoder's.
        params: the trained ones; entries that the momentum encoder does not have are passed over.
        rate: one minus the momentum, in [0, 1]. As the momentum goes to 1 this keeps the digits.

    Example:
        >>> follow({"w": jax.numpy.zeros(2)}, {"w": jax.numpy.ones(2)}, rate=0.25)
        {'w': Array([0.25, 0.25], dtype=float32)}
    """
    leading = followed({name: params[name] for name in key_params})
    return optax.incremental_update(leading, followed(key_params), step_size=rate)


def followed(params: PyTree) -> PyTree:
    """Parameters as a momentum encoder begins with them: those of half precision in float32.

    Example:
        >>> followed({"w": jax.numpy.zeros(2, "bfloat16")})["w"].dtype
        dtype('float32')
    """
    return jax.tree.map(wide, params)


def follow_from(memory: PyTree, params: PyTree, followers: Sequence[str]) -> PyTree:
    """The memory of a method whose momentum encoders are where the parameters are.

    Args:
        memory: of a method.
        params: of the same method, for example taken from a file of weights.
        followers: the method's own, see `Method`.

    Example:
        >>> memory = {"key_params": {"encoder": jax.numpy.zeros(2)}, "position": 3}
        >>> params = {"encoder": jax.numpy.ones(2), "predictor": jax.numpy.ones(1)}
        >>> follow_from(memory, params, ["key_params"])
        {'key_params': {'encoder': Array([1., 1.], dtype=float32)}, 'position': 3}
    """
    # Arrays of their own: a step gives both sides back to the device, which it may only once.
    copy = lambda part: {
        name: jax.tree.map(jax.numpy.copy, followed(params[name])) for name in part
    }
    following = {name: copy(memory[name]) for name in followers}
    return {**memory, **following} if following else memory


def rising_momentum(momentum: float, total_steps: int) -> Callable[[Int[Array, ""]], ArrayLike]:
    r"""The `rate` of `follow` where the momentum rises to 1 along half a cosine.

    $$m_t = 1 - (1 - m_0) (1 + \cos(\pi t / T)) / 2$$

    Args:
        momentum: $m_0$, in [0, 1].
        total_steps: T, at least 1.

    Returns:
        `t -> 1 - m_t`, where t counts the steps that are done.

    Raises:
        ArgumentError: a number is out of range.
    """
    check_momentum(momentum)
    at_least_one(total_steps=total_steps)
    return of_floats(optax.cosine_decay_schedule(1 - momentum, total_steps))


def check_momentum(momentum: float) -> None:
    """Refuse an EMA momentum that is not in [0, 1]."""
    if not 0 <= momentum <= 1:
        raise ArgumentError("momentum", f"found {momentum}; allowed: in [0, 1].")
