"""A look through the microscope at a step, by a program of its own that the step knows nothing of.

Whether somebody looks leaves no trace in the step: it is the same program, with the same numbers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from .. import augment, microscope, sharding
from ..methods import DeviceBatch, Embedded, Method
from ..schemes import Scheme
from .state import TrainState
from .step import prepared, resolved

PyTree = Any


class Before(NamedTuple):
    """What a look needs of the state before the step, which writes over it.

    Attributes:
        key: randomness of the step.
        memory: of the method, without momentum encoders.
        scheme: what the temperature's scheme remembers.
    """

    key: PRNGKeyArray
    memory: PyTree
    scheme: PyTree


def before(state: TrainState, followers: Sequence[str] = ()) -> Before:
    """Copy what `look` needs of the state before the step.

    Args:
        state: of training, before the step that is to be looked at.
        followers: of the method; momentum encoders are left out, whose keys are in the points.

    Example:
        >>> from dystress_jax import methods, models, schemes, training
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> import optax
        >>> state = training.new_state(method, optax.sgd(0.1), jax.random.key(0), scheme=scheme)
        >>> before(state).memory
        ()
    """
    memory = state.memory
    if followers:
        memory = {name: part for name, part in memory.items() if name not in followers}
    copied = jax.tree.map(jnp.copy, (memory, state.scheme))
    return Before(jax.random.fold_in(state.key, state.step), *copied)


# (before, batch, points) -> what `microscope.look` finds, which can be compiled ahead.
Look = jax.stages.Wrapped


def make_look(method: Method, *, scheme: Scheme | None = None, mesh: Mesh) -> Look | None:
    """The compiled `(before, batch, points) -> what microscope.look finds`.

    Args:
        method: what is learned.
        scheme: of its temperature; None for a method that has none.
        mesh: the devices; each of them does all of the work, which is little.

    Returns:
        The function; its points are those that the step returns. None where the method does not
        say what it compares.

    Example:
        >>> from dystress_jax import methods, models, schemes, sharding, training
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> import optax
        >>> mesh = sharding.make_mesh()
        >>> state = training.new_state(method, optax.sgd(0.1), jax.random.key(0), scheme=scheme)
        >>> look = make_look(method, scheme=scheme, mesh=mesh)
        >>> images = jax.random.randint(jax.random.key(1), (8, 4, 4, 3), 0, 256).astype(jnp.uint8)
        >>> batch = {"image": images, "label": jnp.arange(8), "index": jnp.arange(8)}
        >>> points = {"view_a": jnp.eye(8, 4), "view_b": jnp.eye(8, 4)}
        >>> found = look(before(state), batch, points)
        >>> int(found["similarity"][0].sum())
        8
    """
    compared = method.compared
    if compared is None:
        return None
    whole, rows = sharding.replicated(mesh), sharding.split_rows(mesh)

    def look(before: Before, batch: DeviceBatch, points: dict[str, Array]) -> dict[str, Array]:
        key, memory, state = before
        batch = prepared(method, batch, key)
        images = lambda x: isinstance(x, augment.Pictures) or x.ndim > 2
        batch = {name: x for name, x in batch.items() if not images(x)}
        batch, points = jax.lax.with_sharding_constraint((batch, points), whole)
        embedded = Embedded(points, jnp.zeros((len(batch["index"]), 0, 0)))
        _, temperature = resolved(
            method, scheme, embedded, memory=memory, of_scheme=state, batch=batch, key=key
        )
        return microscope.look(compared(embedded, memory, batch, key), temperature)

    return jax.jit(look, in_shardings=(whole, rows, rows), out_shardings=whole)
