"""The training step: one jitted, donated function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from . import sharding
from .methods import Batch, Embedded, Method, Outcome, without_probe
from .state import TrainState

PyTree = Any


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    *,
    mesh: Mesh,
    micro_batches: int = 1,
) -> jax.stages.Wrapped:
    """The jitted ``(state, batch) -> (state, metrics)`` over a mesh.

    Batches are split over the mesh, the state is replicated and donated. All randomness is
    ``fold_in(state.key, state.step)``, so a step repeated from a checkpoint is the same step.

    Args:
        method: what to learn.
        optimizer: its learning rate must come from ``schedule``.
        schedule: step to learning rate, for the log.
        mesh: the devices; a mesh of one computes the same as a mesh of many.
        micro_batches: see `gradients`; divides the batch of every device.
    """

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        rows = jnp.arange(len(batch["image"]), dtype=jnp.int32)
        found = gradients(method, state, {**batch, "row": rows}, key, micro_batches=micro_batches)
        loss, of_params, outcome, stats, scheme = found
        updates, opt_state = optimizer.update(of_params, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **outcome.metrics,
            "loss": loss,
            "gradient_norm": optax.tree.norm(without_probe(of_params)),
            "parameter_norm": optax.tree.norm(without_probe(params)),
            "learning_rate": schedule(state.step),
        }
        step = state.step + 1
        memory = method.after_update(outcome.memory, params, step)
        return TrainState(step, state.key, params, stats, memory, scheme, opt_state), metrics

    whole = sharding.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, sharding.split_rows(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def gradients(
    method: Method, state: TrainState, batch: Batch, key: PRNGKeyArray, *, micro_batches: int = 1
) -> tuple[Float[Array, ""], PyTree, Outcome, PyTree, PyTree]:
    r"""The loss of the whole batch, its gradient, and what a step changes besides the parameters.

    With the embeddings :math:`z = f_\theta(x)` of all examples and the loss :math:`L(z)`,

    .. math:: \nabla_\theta L = \sum_k J_k^T \, (\nabla_z L)_k

    where :math:`J_k` is the Jacobian of the embeddings of micro-batch k. So the embeddings are
    computed first, a micro-batch at a time, without anything kept; then the loss of all of them;
    then each micro-batch once more, for its share of the gradient: exact, for the memory of one
    micro-batch and the time of a second forward pass. (Accumulating the gradients of smaller losses
    would be something else: each would have fewer negatives.) BatchNorm takes the statistics of
    each micro-batch.

    Args:
        method: what to learn.
        state: before the step.
        batch: with "row".
        key: randomness of this step.
        micro_batches: k; example i is in micro-batch i mod k, so every device has its part of each.

    Returns:
        Loss, gradient of the parameters, outcome, the new statistics, the scheme's new state.

    References:
        Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
        (GradCache), https://arxiv.org/abs/2101.06983, section 3.
    """
    batch = method.prepare(batch, key)

    def embed(params: PyTree, stats: PyTree, part: Batch) -> tuple[Embedded, PyTree]:
        return method.embed(params, stats, state.memory, part, key)

    def transpose(part: Batch) -> tuple[Embedded, Callable[[Embedded], PyTree], PyTree]:
        run = lambda params: embed(params, state.stats, part)
        embedded, pullback, stats = jax.vjp(run, state.params, has_aux=True)
        return embedded, lambda cotangent: pullback(cotangent)[0], stats

    if micro_batches == 1:
        embedded, pullback, stats = transpose(batch)
    else:
        parts = _cut(batch, micro_batches)

        def forward(stats: PyTree, part: Batch) -> tuple[PyTree, Embedded]:
            embedded, stats = embed(state.params, stats, part)
            return stats, embedded

        stats, pieces = jax.lax.scan(forward, state.stats, parts)
        embedded = _join(pieces)

        def pullback(cotangent: Embedded, /) -> PyTree:
            def add(total, piece):
                _, back, _ = transpose(piece[0])
                return jax.tree.map(jnp.add, total, back(piece[1])), None

            zeros = jax.tree.map(jnp.zeros_like, state.params)
            return jax.lax.scan(add, zeros, (parts, _cut(cotangent, micro_batches)))[0]

    seen = method.look(embedded, state.memory, batch, key)
    temperature = method.scheme.resolve(state.scheme, seen)
    contrast = lambda params, embedded, temperature: method.contrast(
        params, embedded, temperature, state.memory, batch, key
    )
    # Numbers that nobody learns stay numbers: known before any logit, they choose the faster way.
    wanted = (0, 1, 2) if method.scheme.learns else (0, 1)
    value_and_grad = jax.value_and_grad(contrast, wanted, has_aux=True)
    (loss, outcome), (of_params, of_embedded, *rest) = value_and_grad(
        state.params, embedded, temperature
    )
    of_params = jax.tree.map(jnp.add, of_params, pullback(of_embedded))
    scheme = method.scheme.update(state.scheme, seen, rest[0] if rest else None)
    return loss, of_params, outcome, stats, scheme


def _cut(tree: PyTree, parts: int) -> PyTree:
    """[n ...] to [parts, n / parts, ...], row i in part i mod parts."""
    return jax.tree.map(
        lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree
    )


def _join(tree: PyTree) -> PyTree:
    """The inverse of `_cut`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)
