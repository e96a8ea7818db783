"""The training step, and the two ways to its gradient.

`whole_gradient` takes the batch at once; `gradcache` takes it in micro-batches, for the memory of
one of them. Both give the exact gradient of the loss of the whole batch, and both can be used in a
training loop of one's own; `make_train_step` is ours.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from .. import augment, sharding
from ..errors import ArgumentError, at_least_one
from ..gradcache import as_it_was, cut, join, wide
from ..methods import DeviceBatch, Embedded, Method, Outcome, without_probe
from ..schemes import Scheme, SchemeInputs
from ..temperatures import Temperature, as_temperature
from .state import TrainState

PyTree = Any


class Gradient(NamedTuple):
    """The gradient of one batch, and the state after it.

    Attributes:
        loss: mean over the anchors, without what is minimised beside it.
        grads: gradient of the parameters, a tree like `state.params`.
        stats: running statistics after the batch.
        scheme: state of the temperature's scheme after the batch.
        outcome: the method's memory after the batch, and numbers for the log.
        points: the embeddings that the loss has compared.
    """

    loss: Float[Array, ""]
    grads: PyTree
    stats: PyTree
    scheme: PyTree
    outcome: Outcome
    points: dict[str, Float[Array, "n d"]]


GradientOf = Callable[[TrainState, DeviceBatch, PRNGKeyArray], Gradient]


def whole_gradient(method: Method, scheme: Scheme | None = None) -> GradientOf:
    """The gradient of the loss of a batch that goes through the networks at once.

    Args:
        method: what to learn.
        scheme: of its temperature; None for a method that has none.

    Returns:
        `(state, batch, key) -> Gradient`, to be jitted; the batch is as `prepared` gives it.

    Raises:
        ArgumentError: the method has a temperature and there is no scheme, or the reverse.

    Example:
        >>> from dystress_jax import methods, models, schemes
        >>> from dystress_jax.training import new_state, prepared, whole_gradient
        >>> flat = lambda images: images.reshape(len(images), -1).astype(jnp.float32)
        >>> pixels = models.Network(
        ...     lambda key: ({}, {}), lambda params, stats, x, *, train: (flat(x), stats), 48
        ... )
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images, images[:, :, ::-1])
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> optimizer = optax.sgd(0.1)
        >>> state = new_state(method, optimizer, jax.random.key(0), scheme=scheme)
        >>> images = jax.random.randint(jax.random.key(1), (6, 4, 4, 3), 0, 256).astype(jnp.uint8)
        >>> labels = index = jnp.arange(6)
        >>> key = jax.random.fold_in(state.key, state.step)
        >>> batch = prepared(method, {"image": images, "label": labels, "index": index}, key)
        >>> gradient = jax.jit(whole_gradient(method, scheme))(state, batch, key)
        >>> updates, _ = optimizer.update(gradient.grads, state.opt_state)
        >>> params = optax.apply_updates(state.params, updates)
        >>> gradient.loss.shape, sorted(params)
        ((), ['encoder', 'projector'])

        The same gradient for the memory of two examples:

        >>> again = gradcache(method, scheme, micro_batches=3)(state, batch, key)
        >>> bool(jnp.allclose(again.loss, gradient.loss))
        True
    """
    _check_scheme(method, scheme)

    def gradient(state: TrainState, batch: DeviceBatch, key: PRNGKeyArray) -> Gradient:
        embedded, pullback, stats = _embed_with_pullback(method, state, batch, key)
        found, of_embedded = _contrast(method, scheme, state, embedded, batch, key)
        grads = jax.tree.map(jnp.add, found.grads, pullback(of_embedded))
        return found._replace(grads=grads, stats=stats)

    return gradient


def gradcache(
    method: Method,
    scheme: Scheme | None = None,
    *,
    micro_batches: int,
    mesh: Mesh | None = None,
) -> GradientOf:
    r"""The gradient of the loss of a whole batch, for the memory of a micro-batch.

    With the embeddings $z = f_\theta(x)$ of all examples and the loss $L(z)$,

    $$\nabla_\theta L = \sum_k J_k^T \, (\nabla_z L)_k$$

    where $J_k$ is the Jacobian of the embeddings of micro-batch k. So the embeddings are computed
    first, a micro-batch at a time, and nothing else is kept; then the loss of all of them; then
    each micro-batch once more, for its share of the gradient: exact, for the time of a second
    forward pass. (Accumulating the gradients of smaller losses would be something else: each would
    have fewer negatives.) BatchNorm takes the statistics of each micro-batch.

    Args:
        method: what to learn.
        scheme: of its temperature; None for a method that has none.
        micro_batches: how many; it divides the batch of every device. Example i is in micro-batch
            i modulo this.
        mesh: the devices, along an Auto axis `data`; None: wherever the arrays are.

    Returns:
        `(state, batch, key) -> Gradient`, the same as `whole_gradient` gives. It runs several
        compiled programs one after another and is not to be jitted: a loop inside one program would
        hold the memory of a micro-batch too, but XLA's convolutions in loops are many times slower
        on CPUs.

    Raises:
        ArgumentError: as `whole_gradient`; or micro_batches is below 1, or does not divide the
            batch of every device; or the axis of the mesh is another.

    Example:
        >>> from dystress_jax import methods, models, schemes, training
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> state = training.new_state(method, optax.sgd(0.1), jax.random.key(0), scheme=scheme)
        >>> images = jax.random.randint(jax.random.key(1), (8, 4, 4, 3), 0, 256).astype(jnp.uint8)
        >>> batch = {"image": images, "label": jnp.arange(8), "index": jnp.arange(8)}
        >>> batch = prepared(method, batch, state.key)
        >>> in_parts = gradcache(method, scheme, micro_batches=2)(state, batch, state.key)
        >>> at_once = jax.jit(whole_gradient(method, scheme))(state, batch, state.key)
        >>> bool(jnp.allclose(in_parts.loss, at_once.loss))
        True

    References:
        Gao et al. (GradCache), [arXiv 2101.06983](https://arxiv.org/abs/2101.06983), section 3.
    """
    _check_scheme(method, scheme)
    at_least_one(micro_batches=micro_batches)

    def embed(state, stats, part, key):
        return method.embed(state.params, stats, state.memory, part, key)

    def contrast(state, parts: Sequence[Embedded], batch, key):
        return _contrast(method, scheme, state, join(parts), batch, key)

    whole = rows = None
    if mesh is not None:
        sharding.check_mesh(mesh)
        whole, rows = sharding.replicated(mesh), sharding.split_rows(mesh)
    parts_of = jax.jit(functools.partial(cut, micro_batches=micro_batches), out_shardings=rows)
    embed = jax.jit(embed, out_shardings=mesh and (rows, whole))
    found = Gradient._make([whole] * 5 + [rows])  # the points alone are split
    contrast = jax.jit(contrast, out_shardings=mesh and (found, rows))
    add_gradient = functools.partial(_add_gradient, method)
    add_gradient = jax.jit(add_gradient, out_shardings=whole, donate_argnums=0)

    def gradient(state: TrainState, batch: DeviceBatch, key: PRNGKeyArray) -> Gradient:
        if mesh is not None:
            sharding.check_micro_batches(micro_batches, len(batch["index"]), mesh)
        parts, embedded, stats, began = parts_of(batch), [], state.stats, []
        for part in parts:
            began.append(stats)  # with which the second pass repeats the first
            of_part, stats = embed(state, stats, part, key)
            embedded.append(of_part)
        found, of_embedded = contrast(state, embedded, batch, key)
        grads = jax.tree.map(wide, found.grads)
        for part, of_part, seen in zip(parts, parts_of(of_embedded), began, strict=True):
            grads = add_gradient(grads, state._replace(stats=seen), part, key, of_part)
        return found._replace(grads=as_it_was(grads, found.grads), stats=stats)

    return gradient


def prepared(method: Method, batch: DeviceBatch, key: PRNGKeyArray) -> DeviceBatch:
    """A batch as the gradient takes it: its rows numbered, and what the method does to all of it.

    Args:
        method: what to learn.
        batch: "image", "label" and "index"; "extent" where images are whole pictures in larger
            arrays; "tokens" where images have captions.
        key: randomness of the step.

    Returns:
        The batch, with an entry "row" more.

    Example:
        >>> from dystress_jax import methods, models
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method = methods.simclr(pixels, head, views=views)
        >>> images = jax.random.randint(jax.random.key(1), (8, 4, 4, 3), 0, 256).astype(jnp.uint8)
        >>> batch = {"image": images, "label": jnp.arange(8), "index": jnp.arange(8)}
        >>> sorted(prepared(method, batch, jax.random.key(0)))
        ['image', 'index', 'label', 'row']
    """
    row = jnp.arange(len(batch["index"]), dtype=jnp.int32)
    return method.prepare({**batch, "image": augment.seen(batch), "row": row}, key)


Stepped = tuple[TrainState, dict[str, Float[Array, ""]], dict[str, Float[Array, "n d"]]]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    *,
    scheme: Scheme | None = None,
    mesh: Mesh,
    micro_batches: int = 1,
) -> Callable[[TrainState, DeviceBatch], Stepped]:
    """The compiled `(state, batch) -> (state, metrics, points)` over a mesh.

    Batches are split over the mesh, the state is replicated and donated. The points are the
    embeddings that the loss has compared, for whoever wants to look at them. All randomness is
    `fold_in(state.key, state.step)`, so a step repeated from a checkpoint is the same step.

    Args:
        method: what to learn.
        optimizer: its learning rate must come from `schedule`.
        schedule: step to learning rate, for the log.
        scheme: of the temperature; None for a method that has none.
        mesh: the devices, along an Auto axis `data`, as `sharding.make_mesh` makes it; a mesh of
            one computes the same as a mesh of many.
        micro_batches: at least 1, which is one program, with `whole_gradient`. More: several, with
            `gradcache`.

    Returns:
        The step. Its metrics are numbers for the log, such as `loss`.

    Raises:
        ArgumentError: as `whole_gradient`, or the axis of the mesh is another.

    Example:
        >>> from dystress_jax import methods, models, schemes, sharding, training
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
        >>> method, scheme = methods.simclr(pixels, head, views=views), schemes.fixed(0.1)
        >>> mesh, rate = sharding.make_mesh(), lambda step: 0.1
        >>> step = make_train_step(method, optax.sgd(rate), rate, scheme=scheme, mesh=mesh)
        >>> state = training.init_state(method, optax.sgd(rate), scheme=scheme, seed=0, mesh=mesh)
        >>> images = jax.random.randint(jax.random.key(1), (8, 4, 4, 3), 0, 256).astype(jnp.uint8)
        >>> batch = {"image": images, "label": jnp.arange(8), "index": jnp.arange(8)}
        >>> state, metrics, points = step(state, sharding.shard_batch(batch, mesh))
        >>> int(state.step), metrics["loss"].shape, points["view_a"].shape
        (1, (), (8, 4))
    """
    sharding.check_mesh(mesh)
    whole, rows = sharding.replicated(mesh), sharding.split_rows(mesh)

    def begin(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        return key, prepared(method, batch, key)

    def update(state, gradient):
        updates, opt_state = optimizer.update(gradient.grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **gradient.outcome.metrics,
            "loss": gradient.loss,
            "gradient_norm": optax.tree.norm(without_probe(gradient.grads)),
            "parameter_norm": optax.tree.norm(without_probe(params)),
            "learning_rate": schedule(state.step),
        }
        step = state.step + 1
        memory = method.after_update(gradient.outcome.memory, params, step)
        state = TrainState(
            step, state.key, params, gradient.stats, memory, gradient.scheme, opt_state
        )
        return state, metrics, gradient.points

    if micro_batches == 1:
        gradient_of = whole_gradient(method, scheme)

        def train_step(state, batch):
            key, batch = begin(state, batch)
            return update(state, gradient_of(state, batch, key))

        return jax.jit(
            train_step,
            in_shardings=(whole, rows),
            out_shardings=(whole, whole, rows),
            donate_argnums=0,
        )

    gradient_of = gradcache(method, scheme, micro_batches=micro_batches, mesh=mesh)
    begin = jax.jit(begin, in_shardings=(whole, rows), out_shardings=(whole, rows))
    update = jax.jit(update, out_shardings=(whole, whole, rows), donate_argnums=0)

    def train_step_in_pieces(state, batch):
        key, batch = begin(state, batch)
        return update(state, gradient_of(state, batch, key))

    return train_step_in_pieces


def _embed_with_pullback(
    method: Method, state: TrainState, batch: DeviceBatch, key: PRNGKeyArray
) -> tuple[Embedded, Callable[[Embedded], PyTree], PyTree]:
    """Embeddings, the way from their gradient to that of the parameters, and statistics."""
    embed = lambda params: method.embed(params, state.stats, state.memory, batch, key)
    embedded, pullback, stats = jax.vjp(embed, state.params, has_aux=True)
    return embedded, lambda of_embedded: pullback(of_embedded)[0], stats


def _add_gradient(
    method: Method,
    total: PyTree,
    state: TrainState,
    part: DeviceBatch,
    key: PRNGKeyArray,
    of_embedded: Embedded,
) -> PyTree:
    """The gradient so far and the share of a micro-batch."""
    _, pullback, _ = _embed_with_pullback(method, state, part, key)
    return jax.tree.map(jnp.add, total, pullback(of_embedded))


def resolved(
    method: Method,
    scheme: Scheme | None,
    embedded: Embedded,
    *,
    memory: PyTree,
    of_scheme: PyTree,
    batch: DeviceBatch,
    key: PRNGKeyArray,
) -> tuple[SchemeInputs | None, Temperature | None]:
    """What the scheme is shown at a step, and the temperature that it makes of it.

    Args:
        method: says what a scheme may look at.
        scheme: of its temperature; None for a method that has none.
        embedded: the whole batch.
        memory: of the method, before the step.
        of_scheme: what the scheme remembers, likewise.
        batch: as `prepared` gives it.
        key: randomness of the step.

    Returns:
        Both, or None twice where there is no scheme.

    Example:
        >>> from dystress_jax import methods, models, schemes
        >>> same = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), same, 12)
        >>> views = lambda key, images, rows: (images / 255, images / 255)
        >>> method, scheme = methods.simclr(pixels, pixels, views=views), schemes.fixed(0.1)
        >>> key, points = jax.random.key(0), {"view_a": jnp.eye(4), "view_b": jnp.eye(4)}
        >>> inputs, temperature = resolved(
        ...     method,
        ...     scheme,
        ...     methods.Embedded(points, jnp.zeros((4, 2, 12))),
        ...     memory=(),
        ...     of_scheme=scheme.init(),
        ...     batch={"index": jnp.arange(4)},
        ...     key=key,
        ... )
        >>> float(temperature(jnp.float32(0.5)))
        0.1
    """
    if scheme is None or method.scheme_inputs is None:
        return None, None
    inputs = method.scheme_inputs(embedded, memory, batch, key)
    return inputs, as_temperature(scheme.resolve(of_scheme, inputs))


def _contrast(
    method: Method,
    scheme: Scheme | None,
    state: TrainState,
    embedded: Embedded,
    batch: DeviceBatch,
    key: PRNGKeyArray,
) -> tuple[Gradient, Embedded]:
    """The loss of the whole batch, and the gradient of all embeddings."""
    inputs, temperature = resolved(
        method, scheme, embedded, memory=state.memory, of_scheme=state.scheme, batch=batch, key=key
    )

    def objective(params, embedded, temperature):
        values, outcome = method.contrast(params, embedded, temperature, state.memory, batch, key)
        if scheme is not None and scheme.reweight is not None:
            values = scheme.reweight(values)
        loss = minimised = jnp.mean(values if outcome.factor is None else outcome.factor * values)
        if method.beside is not None:
            more, metrics = method.beside(params, embedded, batch)
            minimised = loss + more
            outcome = outcome._replace(metrics={**outcome.metrics, **metrics})
        return minimised, (loss, outcome)

    # Numbers that nobody learns stay numbers: known before any logit, they choose the faster way
    # to compute the loss.
    learns = scheme is not None and scheme.learns
    gradient_of = jax.grad(objective, (0, 1, 2) if learns else (0, 1), has_aux=True)
    (grads, of_embedded, *rest), (loss, outcome) = gradient_of(state.params, embedded, temperature)
    after = state.scheme
    if scheme is not None:
        after = scheme.update(state.scheme, inputs, rest[0] if learns else None)
    return Gradient(loss, grads, state.stats, after, outcome, embedded.points), of_embedded


def _check_scheme(method: Method, scheme: Scheme | None) -> None:
    if (method.scheme_inputs is None) == (scheme is None):
        return
    raise ArgumentError(
        "scheme",
        "found None; allowed: the scheme of the method's temperature, such as `schemes.fixed(0.1)`."
        if scheme is None
        else "found one with a method that has no temperature; allowed: None.",
    )
