"""A look through the microscope at a step, by a program of its own that the step knows nothing of.

Whether somebody looks leaves no trace in the step: it is the same program, with the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from .. import augment, microscope, sharding
from ..methods import DeviceBatch, Embedded, Method
from ..schemes import Scheme
from ..temperatures import as_temperature
from .state import TrainState
from .step import prepared

PyTree = Any


class Before(NamedTuple):
    """What a look needs of the state before the step, which writes over it."""

    key: PRNGKeyArray  # of the step
    memory: PyTree
    scheme: PyTree


def before(state: TrainState) -> Before:
    """Copy what `look` needs of the state before the step."""
    copied = jax.tree.map(jnp.copy, (state.memory, state.scheme))
    return Before(jax.random.fold_in(state.key, state.step), *copied)


Look = Callable[[Before, DeviceBatch, dict[str, Float[Array, "n d"]]], dict[str, Array]]


def make_look(method: Method, *, scheme: Scheme | None = None, mesh: Mesh) -> Look | None:
    """The compiled `(before, batch, points) -> what microscope.look finds`.

    Args:
        method: what is learned.
        scheme: of its temperature; None for a method that has none.
        mesh: the devices; each of them does all of the work, which is little.

    Returns:
        The function; its points are those that the step returns. None where the method does not
        say what it compares.
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
        temperature = None
        if scheme is not None and method.scheme_inputs is not None:
            inputs = method.scheme_inputs(embedded, memory, batch, key)
            temperature = as_temperature(scheme.resolve(state, inputs))
        return microscope.look(compared(embedded, memory, batch, key), temperature)

    return jax.jit(look, in_shardings=(whole, rows, rows), out_shardings=whole)
