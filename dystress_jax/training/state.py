"""All that training changes: one pytree, born sharded, saved and restored whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from .. import sharding
from ..errors import ArgumentError
from ..methods import Method
from ..schemes import Scheme

PyTree = Any


class TrainState(NamedTuple):
    """The state of a run between two steps.

    Attributes:
        step: steps done.
        key: root of all randomness of the steps; never changes.
        params: what the optimiser trains.
        stats: running statistics.
        memory: what the method remembers; () for most.
        scheme: what the temperature's scheme remembers; () for most.
        opt_state: of the optimiser.
    """

    step: Int[Array, ""]
    key: PRNGKeyArray
    params: PyTree
    stats: PyTree
    memory: PyTree
    scheme: PyTree
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

    Example:
        >>> from dystress_jax import methods, models, schemes
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> state = new_state(method, optax.sgd(0.1), jax.random.key(0), scheme=scheme)
        >>> int(state.step), sorted(state.params), state.memory
        (0, ['encoder', 'projector'], ())
    """
    init_key, step_key = jax.random.split(key)
    params, stats, memory = method.init(init_key)
    scheme_state = () if scheme is None else scheme.init()
    # A momentum encoder begins as the trained one. Arrays of its own: a step gives the whole state
    # back to the device, each array once.
    own = lambda tree: jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, tree)
    memory, opt_state = own((memory, optimizer.init(params)))
    return TrainState(jnp.int32(0), step_key, params, stats, memory, scheme_state, opt_state)


def init_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    scheme: Scheme | None = None,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """The state before the first step, made on the devices that will hold it.

    Args:
        method: what to learn.
        optimizer: of its parameters.
        scheme: of the method's temperature; None for a method that has none.
        seed: of all randomness, in [0, 2^32).
        mesh: the devices; each holds the whole state.

    Raises:
        ArgumentError: the seed is out of range.

    Example:
        >>> from dystress_jax import methods, models, schemes, sharding
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> mesh = sharding.make_mesh()
        >>> state = init_state(method, optax.sgd(0.1), scheme=scheme, seed=0, mesh=mesh)
        >>> int(state.step), len(state.step.sharding.device_set) == mesh.size
        (0, True)
    """
    if not 0 <= seed < 2**32:
        raise ArgumentError("seed", f"found {seed}; allowed: 0 to {2**32 - 1:,}.")
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
    """Shapes, types and placement of the state, without its values: what a checkpoint must fit.

    Args:
        method: what to learn.
        optimizer: of its parameters.
        scheme: of the method's temperature; None for a method that has none.
        mesh: the devices; each holds the whole state.

    Example:
        >>> from dystress_jax import methods, models, schemes, sharding
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> state = abstract_state(method, optax.sgd(0.1), scheme=scheme, mesh=sharding.make_mesh())
        >>> state.step.shape, state.step.dtype
        ((), dtype('int32'))
    """
    make = lambda: new_state(method, optimizer, jax.random.key(0), scheme=scheme)
    place = sharding.replicated(mesh)
    shaped = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    return jax.tree.map(shaped, jax.eval_shape(make))
