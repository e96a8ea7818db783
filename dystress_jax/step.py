"""The training step: one jitted, donated function of state and batch."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from . import sharding
from .methods import Method, without_probe
from .state import TrainState


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    *,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """The jitted ``(state, batch) -> (state, metrics)`` over a mesh.

    Batches are split over the mesh, the state is replicated and donated. All randomness is
    ``fold_in(state.key, state.step)``, so a step repeated from a checkpoint is the same step.

    Args:
        method: what to learn.
        optimizer: its learning rate must come from ``schedule``.
        schedule: step to learning rate, for the log.
        mesh: the devices; a mesh of one computes the same as a mesh of many.
    """

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        value_and_grad = jax.value_and_grad(method.loss, has_aux=True)
        (loss, outcome), gradients = value_and_grad(
            state.params, state.stats, state.memory, batch, key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **outcome.metrics,
            "loss": loss,
            "gradient_norm": optax.tree.norm(without_probe(gradients)),
            "parameter_norm": optax.tree.norm(without_probe(params)),
            "learning_rate": schedule(state.step),
        }
        step = state.step + 1
        memory = method.after_update(outcome.memory, params, step)
        return TrainState(step, state.key, params, outcome.stats, memory, opt_state), metrics

    whole = sharding.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, sharding.split_rows(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
