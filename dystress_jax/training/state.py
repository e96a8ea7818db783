"""All that training changes: one pytree, born sharded, saved and restored whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from .. import sharding
from ..methods import Method
from ..schemes import Scheme

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


def new_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    *,
    scheme: Scheme | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        method: what to learn.
        optimizer: of its parameters.
        key: one half of it makes the initial weights, the other is the root of all randomness.
        scheme: of the method's temperature; None for a method that has none.
    """
    init_key, step_key = jax.random.split(key)
    params, stats, memory = method.init(init_key)
    scheme_state = () if scheme is None else scheme.init()
    opt_state = optimizer.init(params)
    return TrainState(jnp.int32(0), step_key, params, stats, memory, scheme_state, opt_state)


def init_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    scheme: Scheme | None = None,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """The state before the first step, made on the devices that will hold it."""
    place = sharding.replicated(mesh)
    make = lambda seed: new_state(method, optimizer, jax.random.key(seed), scheme=scheme)
    return jax.jit(make, static_argnums=0, out_shardings=place)(seed)


def abstract_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    scheme: Scheme | None = None,
    mesh: Mesh,
) -> TrainState:
    """Shapes, types and placement of the state, without its values: what a checkpoint must fit."""
    make = lambda: new_state(method, optimizer, jax.random.key(0), scheme=scheme)
    place = sharding.replicated(mesh)
    shaped = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    return jax.tree.map(shaped, jax.eval_shape(make))
