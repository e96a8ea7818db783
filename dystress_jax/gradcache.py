r"""GradCache: the exact gradient of the loss of a large batch, for the memory of a micro-batch.

With the embeddings $z = f_\theta(x)$ of all examples and a loss $L(z)$ of any kind,

$$\nabla_\theta L = \sum_k J_k^T \, (\nabla_z L)_k$$

where $J_k$ is the Jacobian of the embeddings of micro-batch k. `embed` computes z, a micro-batch at
a time, and keeps nothing else; the loss and its gradient follow; `pull_back` embeds each
micro-batch once more for its share. (Accumulating the gradients of smaller losses would be
something else: each would have fewer negatives.)

Source: Gao et al., [arXiv 2101.06983](https://arxiv.org/abs/2101.06983), section 3.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .errors import ArgumentError, at_least_one

__all__ = ["cut", "embed", "join", "pull_back"]

PyTree = Any
Embed = Callable[[PyTree, PyTree], PyTree]


def cut(batch: PyTree, micro_batches: int) -> list[PyTree]:
    """The micro-batches: example i goes to number i modulo their number.

    Of a batch that is split over devices every device then has its share of each.

    Args:
        batch: arrays with the examples in their leading axis, n of them.
        micro_batches: how many, a divisor of n.

    Raises:
        ArgumentError: for a number below 1, or one that does not divide n; for arrays of other
            numbers of examples.

    Example:
        >>> cut(jnp.arange(6), 3)[1]
        Array([1, 4], dtype=int32)
    """
    at_least_one(micro_batches=micro_batches)
    sizes = {x.shape[:1] for x in jax.tree.leaves(batch)}
    if len(sizes) > 1 or () in sizes:
        found = sorted(str(size[0]) if size else "a number" for size in sizes)
        raise ArgumentError(
            "batch", f"found leading axes of {', '.join(found)}; allowed: as many examples in each."
        )
    for (examples,) in sizes:
        if examples % micro_batches:
            raise ArgumentError(
                "micro_batches",
                f"found {micro_batches} with a batch of {examples}; allowed: a divisor.",
            )
    # Not x[part::micro_batches], which JAX refuses of rows that are split over an Explicit axis.
    apart = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]), batch)
    rows = lambda part: jax.tree.map(lambda x: x[:, part], apart)
    return [rows(part) for part in range(micro_batches)]


def join(parts: Sequence[PyTree]) -> PyTree:
    """The whole batch of its micro-batches: the inverse of `cut`.

    Args:
        parts: the micro-batches, as `cut` returns them.

    Example:
        >>> join(cut(jnp.arange(6), 3))
        Array([0, 1, 2, 3, 4, 5], dtype=int32)
    """
    in_order = lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:])
    return jax.tree.map(in_order, *parts)


def embed(function: Embed, params: PyTree, batch: PyTree, *, micro_batches: int) -> PyTree:
    """The embeddings of a batch, a micro-batch at a time, for a loss of all of them.

    Args:
        function: `(params, batch) -> embeddings`, of each example by itself: a network with
            BatchNorm sees a micro-batch. It is compiled once, if it is the same function each time.
        params: what it needs, a tree of arrays.
        batch: its inputs, a tree of arrays with the examples in their leading axis. Randomness for
            each example, such as keys, is part of it: it has to be the same in `pull_back`.
        micro_batches: how many, a divisor of the number of examples.

    Returns:
        What the function returns, of all examples in their order.

    Raises:
        ArgumentError: as `cut`, and for a function that returns anything but a row an example.

    Example:
        >>> from dystress_jax import losses
        >>> encode = lambda w, x: x @ w
        >>> w, x = jnp.eye(2), jnp.array([[1.0, 0.2], [0.1, 1.0], [1.0, -1.0], [0.0, 2.0]])
        >>> z = embed(encode, w, x, micro_batches=2)
        >>> loss = lambda z: losses.nt_xent(z, z[::-1], temperature=0.5).mean()
        >>> value, of_z = jax.value_and_grad(loss)(z)
        >>> gradient = pull_back(encode, w, x, of_z, micro_batches=2)
        >>> bool(jnp.allclose(gradient, jax.grad(lambda w: loss(encode(w, x)))(w), atol=1e-6))
        True
    """
    parts = cut(batch, micro_batches)
    found = [_embed(function, params, part) for part in parts]
    rows = {x.shape[:1] for x in jax.tree.leaves(parts[0])}
    wrong = [x.shape for x in jax.tree.leaves(found[0]) if rows and x.shape[:1] not in rows]
    if wrong:
        [(examples,)] = rows
        raise ArgumentError(
            "function",
            f"found embeddings of shape {wrong[0]} of {examples} examples; allowed: a row for each "
            "example.",
        )
    return join(found)


def pull_back(
    function: Embed, params: PyTree, batch: PyTree, of_embeddings: PyTree, *, micro_batches: int
) -> PyTree:
    """The gradient of the parameters, from that of the embeddings.

    Args:
        function: as in `embed`.
        params: as in `embed`.
        batch: as in `embed`.
        of_embeddings: the gradient of the loss with respect to what `embed` has returned.
        micro_batches: how many, a divisor of the number of examples.

    Returns:
        The gradient, a tree like the parameters.

    Raises:
        ArgumentError: as `cut`.

    Example:
        >>> w, x = jnp.float32(1), jnp.arange(4.0)
        >>> pull_back(lambda w, x: w * x, w, x, jnp.ones(4), micro_batches=2)
        Array(6., dtype=float32)
    """
    parts = zip(cut(batch, micro_batches), cut(of_embeddings, micro_batches), strict=True)
    shares = (_share(function, params, *part) for part in parts)
    first = next(shares)
    total = functools.reduce(
        functools.partial(jax.tree.map, _added), shares, jax.tree.map(wide, first)
    )
    return as_it_was(total, first)


def wide(x: Any) -> Any:
    """Half precision as float32: many small shares are added."""
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(jnp.float32) if half else x


def as_it_was(tree: PyTree, like: PyTree) -> PyTree:
    """The arrays in the types of others."""
    cast = lambda x, other: x if x.dtype == other.dtype else x.astype(other.dtype)
    return jax.tree.map(cast, tree, like)


def _added(a: Any, b: Any) -> Any:
    """The sum; of parameters that have no gradient, such as counters and keys, nothing is added."""
    return a if a.dtype == jax.dtypes.float0 else a + b


@functools.partial(jax.jit, static_argnums=0)
def _embed(function: Embed, params: PyTree, part: PyTree) -> PyTree:
    return function(params, part)


@functools.partial(jax.jit, static_argnums=0)
def _share(function: Embed, params: PyTree, part: PyTree, of_embeddings: PyTree) -> PyTree:
    # Inside jit the compiler would see the same forward pass twice, and keep what it computed.
    params = jax.lax.optimization_barrier(params)
    _, pullback = jax.vjp(lambda params: function(params, part), params)
    return pullback(of_embeddings)[0]
