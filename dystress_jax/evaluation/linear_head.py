"""Linear classifiers on features: several candidate settings are fitted side by side."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from .. import augment, data, sharding
from .._placement import of_whole_arrays
from ..errors import at_least_one
from ..optim import of_floats
from ..similarities import at_least_float32
from ..temperatures import check_positive
from ._label_batches import label_batches

LBFGS_STEPS = 1000  # for each candidate
EncodeView = Callable[
    [PRNGKeyArray, UInt8[Array, "n h w c"] | augment.Pictures], Float[Array, "n d"]
]
Progress = Callable[[range], Iterable[int]]


class LinearHead(NamedTuple):
    """Classifiers side by side, one for each candidate setting; `head(x)` are their scores.

    Attributes:
        kernel: weights.
        bias: offsets.
    """

    kernel: Float[Array, "candidates d classes"]
    bias: Float[Array, "candidates classes"]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "candidates n classes"]:
        """Scores of every class by every candidate."""
        with jax.default_matmul_precision("float32"):
            return jnp.einsum("nd,ldc->lnc", x, self.kernel) + self.bias[:, None, :]


def _zeros(candidates: int, num_features: int, num_classes: int, dtype=jnp.float32) -> LinearHead:
    # The problem is convex: zero is as good a start as any, and needs no seed.
    kernel = jnp.zeros((candidates, num_features, num_classes), dtype)
    return LinearHead(kernel, jnp.zeros((candidates, num_classes), dtype))


def _sgd(momentum: float, total_steps: int) -> optax.GradientTransformation:
    return optax.sgd(of_floats(optax.cosine_decay_schedule(1.0, total_steps)), momentum)


def _sgd_step(
    state: tuple[LinearHead, optax.OptState],
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    learning_rates: Float[Array, " candidates"],
    *,
    optimizer: optax.GradientTransformation,
) -> tuple[LinearHead, optax.OptState]:
    """One step on the mean cross entropy of each candidate; rows labelled -1 do not count."""
    head, optimizer_state = state
    known = labels >= 0

    def loss(head):
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
            head(features), jnp.maximum(labels, 0)[None, :]
        )
        total = jnp.sum(jnp.where(known[None, :], entropy, 0.0), axis=1)
        means = total / jnp.maximum(known.sum(), 1).astype(total.dtype)
        # The step is linear in the gradients: the weight of a candidate's loss is its rate.
        return learning_rates @ means

    updates, optimizer_state = optimizer.update(jax.grad(loss)(head), optimizer_state)
    return jax.tree.map(jnp.add, head, updates), optimizer_state


@of_whole_arrays
@functools.partial(jax.jit, static_argnames=("num_classes", "epochs", "batch_size", "momentum"))
def fit_sgd(
    key: PRNGKeyArray,
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    learning_rates: Float[Array, " candidates"],
    *,
    num_classes: int,
    epochs: int = 90,
    batch_size: int = 256,
    momentum: float = 0.9,
) -> LinearHead:
    r"""Fit linear classifiers by SGD on cached features, one for each learning rate.

    $$\eta(t) = \eta \, \frac{B}{256} \, \frac{1 + \cos(\pi t / T)}{2}, \quad
      v \gets m v + g, \quad w \gets w - \eta(t) v$$

    Every epoch has another order and leaves out the last images that fill no batch.

    Args:
        key: of the orders.
        features: of the training images.
        labels: of the training images, in [0, num_classes); -1 does not count.
        learning_rates: the base rates, each > 0.
        num_classes: at least 1.
        epochs: at least 1.
        batch_size: B, at least 1; with fewer images than this, all of them.
        momentum: m, in [0, 1).

    Returns:
        One classifier for each learning rate.

    Raises:
        ArgumentError: epochs or batch_size is below 1.

    Example:
        >>> x, y = jnp.array([[-1.0], [1.0]]), jnp.array([0, 1])
        >>> rates = jnp.array([1.0, 10.0])
        >>> head = fit_sgd(jax.random.key(0), x, y, rates, num_classes=2, epochs=20)
        >>> head(x).argmax(axis=-1)
        Array([[0, 1],
               [0, 1]], dtype=int32)

    References:
        The protocol of Manna et al., [arXiv 2308.01140](https://arxiv.org/abs/2308.01140), for
        ImageNet.
    """
    at_least_one(epochs=epochs, batch_size=batch_size)
    batch_size = min(batch_size, len(features))
    steps = len(features) // batch_size
    optimizer = _sgd(momentum, epochs * steps)
    scaled = learning_rates * (batch_size / 256)

    def step(state, rows):
        return _sgd_step(state, features[rows], labels[rows], scaled, optimizer=optimizer), None

    def epoch(state, epoch_key):
        order = jax.random.permutation(epoch_key, len(features))[: steps * batch_size]
        return jax.lax.scan(step, state, order.reshape(steps, batch_size))[0], None

    start = _zeros(len(learning_rates), features.shape[1], num_classes)
    (head, _), _ = jax.lax.scan(
        epoch, (start, optimizer.init(start)), jax.random.split(key, epochs)
    )
    return head


def fit_augmented(
    encode_view: EncodeView,
    source: data.Source,
    learning_rates: Float[Array, " candidates"],
    *,
    epochs: int = 90,
    batch_size: int = 256,
    momentum: float = 0.9,
    seed: int = 0,
    mesh: Mesh,
    progress: Progress = iter,
) -> LinearHead:
    """Fit as `fit_sgd` does, on features of a new view of every image in every epoch.

    Args:
        encode_view: key and uint8 images to features of random views, jitted, the encoder in
            evaluation mode.
        source: the training images; those labelled -1 do not count.
        learning_rates: the base rates, each > 0.
        epochs: at least 1.
        batch_size: B, at least 1; a multiple of the devices, and no more than there are images.
        momentum: m, in [0, 1).
        seed: of the orders and the views, at least 0.
        mesh: the devices that share each batch.
        progress: wraps the range of all steps, for example `tqdm.tqdm`.

    Returns:
        One classifier for each learning rate.

    Raises:
        ArgumentError: epochs or batch_size is below 1.

    Example:
        >>> from dystress_jax import data, evaluation, sharding
        >>> images = np.zeros((20, 4, 4, 3), np.uint8)
        >>> images[:10, ..., 0] = images[10:, ..., 1] = 200
        >>> labels = np.repeat([0, 1], 10).astype(np.int32)
        >>> source = data.from_arrays(images, labels, class_names=("red", "green"))
        >>> mesh = sharding.make_mesh()
        >>> flip = jax.jit(lambda key, x: x[:, :, ::-1].reshape(len(x), -1) / 255)
        >>> head = evaluation.fit_augmented(
        ...     flip, source, jnp.array([1.0]), epochs=2, batch_size=16, mesh=mesh
        ... )
        >>> head.kernel.shape
        (1, 48, 2)
    """
    at_least_one(epochs=epochs, batch_size=batch_size)
    total_steps = epochs * (len(source) // batch_size)
    optimizer, sgd_step = _sgd_over(mesh, momentum, total_steps)
    batches = label_batches(source, batch_size=batch_size, seed=seed, mesh=mesh)
    key = jax.random.key(seed)
    images = jax.ShapeDtypeStruct((batch_size, *source.image_shape), jnp.uint8)
    num_features = jax.eval_shape(encode_view, key, images).shape[1]
    start = _zeros(len(learning_rates), num_features, source.num_classes)
    state = jax.device_put((start, optimizer.init(start)), sharding.replicated(mesh))
    scaled = learning_rates * (batch_size / 256)
    for step in progress(range(total_steps)):
        batch = next(batches)
        jax.block_until_ready(state)
        features = encode_view(jax.random.fold_in(key, step), augment.seen(batch))
        state = sgd_step(state, features.astype(jnp.float32), batch["label"], scaled)
    head, _ = state
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), head)


@functools.lru_cache(maxsize=4)  # several seeds are one program
def _sgd_over(
    mesh: Mesh, momentum: float, total_steps: int
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimiser, and its compiled step."""
    optimizer = _sgd(momentum, total_steps)
    step = jax.jit(
        functools.partial(_sgd_step, optimizer=optimizer),
        out_shardings=sharding.replicated(mesh),
        donate_argnums=0,
    )
    return optimizer, step


def fit_lbfgs(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    l2: Float[Array, " candidates"],
    *,
    num_classes: int,
    max_steps: int = LBFGS_STEPS,
    tolerance: float = 1e-6,
) -> LinearHead:
    r"""Fit linear classifiers by L-BFGS on cached features, one for each strength of L2.

    $$\min_{W, b} \; \frac1n \sum_i \mathrm{CE}(W^\top x_i + b, y_i)
      + \frac{\lambda}{2} \lVert W \rVert^2$$

    Each candidate starts from the one before, so the strongest comes best first. The features are
    centred first: the offset takes their mean up, and far from 0 L-BFGS would stall.

    Args:
        features: of the training images.
        labels: of the training images, in [0, num_classes); -1 does not count.
        l2: the strengths, each > 0; the offset is not regularised.
        num_classes: at least 1.
        max_steps: of L-BFGS for each candidate, at least 1.
        tolerance: the largest entry of the gradient at which to stop, above 0. At 1e-4 the weights
            of a weak L2 are percents off, at 1e-6 as near as scikit-learn's with its `tol` at 1e-6.

    Returns:
        One classifier for each strength; one that has not come to the tolerance after `max_steps`
        is as it was left.

    Raises:
        ArgumentError: max_steps is below 1, or a strength is not above 0.

    Example:
        >>> x, y = jnp.array([[-1.0], [1.0]]), jnp.array([0, 1])
        >>> head = fit_lbfgs(x, y, jnp.array([0.1, 0.01]), num_classes=2)
        >>> head(x).argmax(axis=-1)
        Array([[0, 1],
               [0, 1]], dtype=int32)
    """
    at_least_one(max_steps=max_steps)
    check_positive("l2", l2)
    return solve_lbfgs(
        features, labels, l2, num_classes=num_classes, max_steps=max_steps, tolerance=tolerance
    ).head


class Solved(NamedTuple):
    """What L-BFGS has found.

    Attributes:
        head: the classifiers.
        converged: whether each has come to the tolerance.
    """

    head: LinearHead
    converged: Bool[Array, " candidates"]


@of_whole_arrays
@functools.partial(jax.jit, static_argnames=("num_classes", "max_steps", "tolerance"))
def solve_lbfgs(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    l2: Float[Array, " candidates"],
    *,
    num_classes: int,
    max_steps: int = LBFGS_STEPS,
    tolerance: float = 1e-6,
) -> Solved:
    """As `fit_lbfgs`, which has the arguments; it also says which classifiers have converged."""
    solver, features = optax.lbfgs(), at_least_float32(features)
    mean = jnp.mean(features, axis=0)
    features = features - mean[None, :]

    def fit(start, strength):
        def objective(head):
            entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
                head(features)[0], jnp.maximum(labels, 0)
            )
            return jnp.mean(entropy, where=labels >= 0) + strength / 2 * jnp.sum(head.kernel**2)

        value_and_grad = optax.value_and_grad_from_state(objective)

        def step(carry):
            head, state, _, count = carry
            value, gradient = value_and_grad(head, state=state)
            updates, state = solver.update(
                gradient, state, head, value=value, grad=gradient, value_fn=objective
            )
            largest = optax.tree.norm(optax.tree.get(state, "grad"), ord="inf")
            return optax.apply_updates(head, updates), state, largest, count + 1

        def goes_on(carry):
            _, _, largest, count = carry
            return (largest > tolerance) & (count < max_steps)

        first = (start, solver.init(start), jnp.full((), jnp.inf, features.dtype), jnp.int32(0))
        head, _, largest, _ = jax.lax.while_loop(goes_on, step, first)
        return head, (head, largest <= tolerance)

    start = _zeros(1, features.shape[1], num_classes, features.dtype)
    _, (heads, converged) = jax.lax.scan(fit, start, l2.astype(features.dtype))
    heads = jax.tree.map(lambda leaf: leaf[:, 0], heads)
    with jax.default_matmul_precision("float32"):
        offset = jnp.einsum("d,cdk->ck", mean, heads.kernel)
    return Solved(heads._replace(bias=heads.bias - offset), converged)


def unfinished(converged: Sequence[bool]) -> tuple[str, ...]:
    """A note of the classifiers that L-BFGS has left before its tolerance, if there are any.

    Args:
        converged: of each classifier that was scored.

    Example:
        >>> unfinished([True, False])
        ('L-BFGS ended after 1,000 steps, before its tolerance: 1 of 2 classifiers',)
    """
    count = len(converged) - sum(converged)
    of_all = f"{count} of {len(converged)} classifiers"
    said = f"L-BFGS ended after {LBFGS_STEPS:,} steps, before its tolerance: {of_all}"
    return (said,) if count else ()
