"""The training step: one jitted, donated function of state and batch."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
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
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """The compiled ``(state, batch) -> (state, metrics)`` over a mesh.

    Batches are split over the mesh, the state is replicated and donated. All randomness is
    ``fold_in(state.key, state.step)``, so a step repeated from a checkpoint is the same step.

    Args:
        method: what to learn.
        optimizer: its learning rate must come from ``schedule``.
        schedule: step to learning rate, for the log.
        mesh: the devices; a mesh of one computes the same as a mesh of many.
        micro_batches: see `gradients`; divides the batch of every device. The step is one program
            for 1; for more it is several small ones, which the host runs one after another: a loop
            inside a program would hold the memory of one piece too, but XLA's convolutions in loops
            are many times slower on CPUs.
    """
    whole, rows = sharding.replicated(mesh), sharding.split_rows(mesh)
    work = Work(method)

    def begin(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        numbers = jnp.arange(len(batch["image"]), dtype=jnp.int32)
        return key, method.prepare({**batch, "row": numbers}, key)

    def update(state, found):
        updates, opt_state = optimizer.update(found.of_params, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **found.outcome.metrics,
            "loss": found.loss,
            "gradient_norm": optax.tree.norm(without_probe(found.of_params)),
            "parameter_norm": optax.tree.norm(without_probe(params)),
            "learning_rate": schedule(state.step),
        }
        step = state.step + 1
        memory = method.after_update(found.outcome.memory, params, step)
        state = TrainState(step, state.key, params, found.stats, memory, found.scheme, opt_state)
        return state, metrics

    def train_step(state, batch):
        key, batch = begin(state, batch)
        return update(state, gradients(work, state, batch, key))

    if micro_batches == 1:
        return jax.jit(
            train_step, in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0
        )

    compiled = work.compiled(whole, rows)
    begin_compiled = jax.jit(begin, in_shardings=(whole, rows), out_shardings=(whole, rows))
    update_compiled = jax.jit(update, out_shardings=whole, donate_argnums=0)

    def train_step_in_pieces(state, batch):
        key, batch = begin_compiled(state, batch)
        return update_compiled(
            state, gradients(compiled, state, batch, key, micro_batches=micro_batches)
        )

    return train_step_in_pieces


class Found(NamedTuple):
    """What a step needs to know of a batch."""

    loss: Float[Array, ""]
    of_params: PyTree  # the gradient
    outcome: Outcome
    stats: PyTree
    scheme: PyTree


class Work:
    """The pieces of which a gradient is made, plain or compiled one by one."""

    def __init__(self, method: Method):
        self._method = method

    def cut(self, tree: PyTree, parts: int) -> list[PyTree]:
        """Row i goes to part i mod parts, so every device has its share of each part."""
        rows = lambda part: jax.tree.map(lambda x: x[part::parts], tree)
        return [rows(part) for part in range(parts)]

    def embed(
        self, state: TrainState, stats: PyTree, part: Batch, key: PRNGKeyArray
    ) -> tuple[Embedded, PyTree]:
        """The embeddings of a part, and the statistics after it."""
        return self._method.embed(state.params, stats, state.memory, part, key)

    def embed_with_pullback(
        self, state: TrainState, part: Batch, key: PRNGKeyArray
    ) -> tuple[Embedded, Callable[[Embedded], PyTree], PyTree]:
        """Embeddings, the way from their gradient to that of the parameters, and statistics."""
        embed = lambda params: self._method.embed(params, state.stats, state.memory, part, key)
        embedded, pullback, stats = jax.vjp(embed, state.params, has_aux=True)
        return embedded, lambda cotangent: pullback(cotangent)[0], stats

    def add_gradient(
        self, total: PyTree, state: TrainState, part: Batch, key: PRNGKeyArray, cotangent: Embedded
    ) -> PyTree:
        """The gradient so far and a part's share of it."""
        _, pullback, _ = self.embed_with_pullback(state, part, key)
        return jax.tree.map(jnp.add, total, pullback(cotangent))

    def contrast(
        self, state: TrainState, pieces: Sequence[Embedded], batch: Batch, key: PRNGKeyArray
    ) -> tuple[Found, Embedded]:
        """The loss of the whole batch, and the gradient of all embeddings."""
        method = self._method
        embedded = jax.tree.map(
            lambda *parts: jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]), *pieces
        )
        seen = method.look(embedded, state.memory, batch, key)
        temperature = method.scheme.resolve(state.scheme, seen)
        contrast = lambda params, embedded, temperature: method.contrast(
            params, embedded, temperature, state.memory, batch, key
        )
        # Numbers that nobody learns stay numbers: known before any logit, they choose the faster
        # way to compute the loss.
        wanted = (0, 1, 2) if method.scheme.learns else (0, 1)
        value_and_grad = jax.value_and_grad(contrast, wanted, has_aux=True)
        (loss, outcome), (of_params, of_embedded, *rest) = value_and_grad(
            state.params, embedded, temperature
        )
        scheme = method.scheme.update(state.scheme, seen, rest[0] if rest else None)
        return Found(loss, of_params, outcome, state.stats, scheme), of_embedded

    def compiled(self, whole: NamedSharding, rows: NamedSharding) -> "Work":
        """The same, each piece a program of its own."""
        found = copy.copy(self)
        jit = jax.jit
        found.cut = jit(self.cut, static_argnums=1, out_shardings=rows)
        found.embed = jit(self.embed, out_shardings=(rows, whole))
        found.add_gradient = jit(self.add_gradient, out_shardings=whole, donate_argnums=0)
        found.contrast = jit(self.contrast, out_shardings=(whole, rows))
        return found


def gradients(
    work: Work, state: TrainState, batch: Batch, key: PRNGKeyArray, *, micro_batches: int = 1
) -> Found:
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
        work: of the method.
        state: before the step.
        batch: as the method has prepared it.
        key: randomness of this step.
        micro_batches: how many; example i is in micro-batch i modulo this.

    References:
        Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
        (GradCache), https://arxiv.org/abs/2101.06983, section 3.
    """
    if micro_batches == 1:
        embedded, pullback, stats = work.embed_with_pullback(state, batch, key)
        found, of_embedded = work.contrast(state, [embedded], batch, key)
        of_params = jax.tree.map(jnp.add, found.of_params, pullback(of_embedded))
        return found._replace(of_params=of_params, stats=stats)
    parts, pieces, stats = work.cut(batch, micro_batches), [], state.stats
    for part in parts:
        embedded, stats = work.embed(state, stats, part, key)
        pieces.append(embedded)
    found, of_embedded = work.contrast(state, pieces, batch, key)
    total = found.of_params
    for part, cotangent in zip(parts, work.cut(of_embedded, micro_batches), strict=True):
        total = work.add_gradient(total, state, part, key, cotangent)
    return found._replace(of_params=total, stats=stats)
