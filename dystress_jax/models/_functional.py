"""The one place where Flax NNX modules become pure functions.

Everything above this file sees nested dicts of arrays and two functions; no NNX type leaves it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

Tree = dict[str, Any]
Inputs = Float[Array, "n ..."] | Int[Array, "n t"]  # images or features; or token ids


class Network(NamedTuple):
    """A neural network as two pure functions.

    `params` is what gradients train; `stats` is every other array of the network, such as the
    running mean and variance of BatchNorm. Both are nested dicts with string keys.

    Attributes:
        init: `init(key) -> (params, stats)`; may be jitted with `out_shardings`.
        apply: `apply(params, stats, inputs, *, train) -> (outputs, stats)`. With `train=True`
            BatchNorm normalises by the batch and moves its running statistics; with `train=False`
            it normalises by the running statistics and `stats` comes back as it went in.
        out_features: size of the last axis of the outputs.
    """

    init: Callable[[Key[Array, ""]], tuple[Tree, Tree]]
    apply: Callable[..., tuple[Float[Array, "n ..."], Tree]]
    out_features: int


def functional(build: Callable[[nnx.Rngs], nnx.Module], *, out_features: int) -> Network:
    """Turn an NNX module into a `Network`.

    Args:
        build: makes the module from its random streams. The module is called as
            `module(inputs, train=train)`; children in containers are named (`nnx.Dict`), because
            checkpoints and masks address a parameter by its path.
        out_features: size of the last axis of the module's outputs, at least 1.

    Returns:
        The network; parameters are the `nnx.Param` variables, statistics all the others.

    Example:
        >>> class Linear(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.layer = nnx.Linear(3, 2, rngs=rngs)
        ...
        ...     def __call__(self, inputs, *, train):
        ...         return self.layer(inputs)
        >>> network = functional(Linear, out_features=2)
        >>> params, stats = network.init(jax.random.key(0))
        >>> outputs, stats = network.apply(params, stats, jnp.ones((5, 3)), train=True)
        >>> params["layer"]["kernel"].shape, outputs.shape
        ((3, 2), (5, 2))
    """
    graph, *_ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, ...)

    # Under vmap one key after another: the generator below would take the first for all.
    @jax.custom_batching.sequential_vmap
    def init(key: Key[Array, ""]) -> tuple[Tree, Tree]:
        # XLA:CPU compiles each Threefry draw for about .7 s, one per kernel; the device's own
        # generator, seeded by the key, a tenth of that. Values may differ between platforms.
        device_key = jax.random.wrap_key_data(jax.random.bits(key, (4,), "uint32"), impl="rbg")
        _, params, stats = nnx.split(build(nnx.Rngs(device_key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def apply(
        params: Tree, stats: Tree, inputs: Inputs, *, train: bool
    ) -> tuple[Float[Array, "n ..."], Tree]:
        # Without a copy the module would write its statistics into variables that belong to another
        # trace level as soon as this runs under jax.value_and_grad, which NNX refuses.
        # It would also write them into arrays of NumPy, as restored weights are.
        stats = jax.tree.map(jnp.asarray, stats) if train else stats
        module: Any = nnx.merge(graph, params, stats, copy=True)
        outputs = module(inputs, train=train)
        if not train:
            return outputs, stats
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))

    return Network(init, apply, out_features)


def identity(*, features: int) -> Network:
    """A network without parameters that returns its inputs."""

    def init(key: Key[Array, ""]) -> tuple[Tree, Tree]:
        del key
        return {}, {}

    def apply(
        params: Tree, stats: Tree, inputs: Inputs, *, train: bool
    ) -> tuple[Float[Array, "n ..."], Tree]:
        del params, train
        return inputs, stats

    return Network(init, apply, features)
