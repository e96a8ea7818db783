"""All that training changes: one pytree, born sharded, saved and restored whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from . import sharding
from .methods import Method

PyTree = Any


class TrainState(NamedTuple):
    """The state of a run between two steps."""

    step: Int[Array, ""]  # steps done
    key: PRNGKeyArray  # root of all randomness of the steps; never changes
    params: PyTree
    stats: PyTree  # running statistics
    memory: PyTree  # what the method remembers; () for most
    scheme: PyTree  # what the temperature's scheme remembers; () for most
    opt_state: PyTree


def init_state(
    method: Method, optimizer: optax.GradientTransformation, *, seed: int, mesh: Mesh
) -> TrainState:
    """The state before the first step, made on the devices that will hold it."""
    return jax.jit(
        _make_init(method, optimizer), static_argnums=0, out_shardings=sharding.replicated(mesh)
    )(seed)


def abstract_state(
    method: Method, optimizer: optax.GradientTransformation, *, mesh: Mesh
) -> TrainState:
    """Shapes, types and placement of the state, without its values: what a checkpoint must fit."""
    shapes = jax.eval_shape(lambda: _make_init(method, optimizer)(0))
    place = sharding.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def _make_init(method: Method, optimizer: optax.GradientTransformation):
    def init(seed: int) -> TrainState:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        params, stats, memory = method.init(init_key)
        scheme = method.scheme.init()
        opt_state = optimizer.init(params)
        return TrainState(jnp.int32(0), step_key, params, stats, memory, scheme, opt_state)

    return init
