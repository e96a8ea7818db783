"""The gradient in pieces is the gradient of the whole batch's loss, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dystress_jax import methods, models, schemes, temperatures
from dystress_jax.errors import ArgumentError
from dystress_jax.models import _functional
from dystress_jax.models._norm import BatchNorm
from dystress_jax.training import gradcache, new_state, prepared, step, whole_gradient
from tests import steps

pytestmark = pytest.mark.slow

BATCH, SIZE, PARTS = 32, 8, 4
close = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-5))


def views(key, images, rows):
    """Noise of each row's own, which compiles faster than crops."""
    x = images.astype(jnp.float32) / 255
    draw = lambda row: jax.random.normal(jax.random.fold_in(key, row), (2, *x.shape[1:]))
    noise = 0.1 * jax.vmap(draw)(rows)
    return x + noise[:, 0], x[:, :, ::-1] + noise[:, 1]


class Normalised(nnx.Module):
    """A linear map and a BatchNorm."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(SIZE * SIZE * 3, 10, rngs=rngs)
        self.norm = BatchNorm(10, rngs=rngs)

    def __call__(self, x, *, train):
        x = self.linear(x.reshape(len(x), -1))
        return nnx.relu(self.norm(x, use_running_average=not train))


class Dropped(nnx.Module):
    """A linear map and a Dropout, whose random state is among the statistics."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(SIZE * SIZE * 3, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, *, train):
        return self.dropout(self.linear(x.reshape(len(x), -1)), deterministic=not train)


def encoder(module=Normalised):
    return _functional.functional(lambda rngs: module(rngs), out_features=10)


def without_keys(stats):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [x for x in jax.tree.leaves(stats) if not is_key(x)]


def pixels():
    flat = lambda params, stats, images, *, train: (images.reshape(len(images), -1), stats)
    return models.Network(lambda key: ({}, {}), flat, SIZE * SIZE * 3)


def linear(network):
    return models.projector("moco_v2", in_features=network.out_features, hidden=8, out=6)


def scheme_of(method):
    if method.scheme_inputs is not None:
        return schemes.fixed(temperatures.dystress(0.1, 0.2, stop_gradient=False))
    return None


def make(name, network):
    parts, shared = [network, linear(network)], {"views": views}
    if name == "simclr":
        return methods.simclr(*parts, **shared)
    if name == "moco_v2":
        return methods.moco_v2(*parts, queue_size=2 * BATCH, momentum=0.9, **shared)
    predictor = models.projector("moco_v2", in_features=6, hidden=8, out=6)
    if name == "nnclr":
        return methods.nnclr(*parts, predictor, queue_size=2 * BATCH, **shared)
    followed = methods.byol if name == "byol" else methods.moco_v3
    return followed(*parts, predictor, momentum=0.9, total_steps=9, **shared)


def make_batch():
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    rows = np.arange(BATCH, dtype=np.int32)
    return {"image": images, "label": rows % 3, "index": rows}


def start(method):
    key, scheme = jax.random.key(0), scheme_of(method)
    state = jax.jit(lambda: new_state(method, optax.identity(), key, scheme=scheme))()
    return state, prepared(method, jax.tree.map(jnp.asarray, make_batch()), state.key)


def find(method, micro_batches):
    (state, batch), scheme = start(method), scheme_of(method)
    if micro_batches == 1:
        return jax.jit(whole_gradient(method, scheme))(state, batch, state.key)
    return gradcache(method, scheme, micro_batches=micro_batches)(state, batch, state.key)


@pytest.mark.parametrize(
    "name",
    [
        "simclr",
        *(pytest.param(n, marks=pytest.mark.ci) for n in ("moco_v2", "moco_v3", "nnclr", "byol")),
    ],
)
def test_pieces_give_the_gradient_of_the_whole(name):
    method = make(name, pixels())
    whole, pieces = find(method, 1), find(method, PARTS)
    assert optax.tree.norm(whole.grads) > 0.1
    close(pieces.loss, whole.loss)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), pieces, whole)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("simclr", Dropped),
        *(pytest.param(n, Normalised, marks=pytest.mark.ci) for n in ("simclr", "moco_v2")),
    ],
)
def test_the_gradient_is_that_of_a_pass_in_which_each_piece_has_statistics_of_its_own(name, module):
    """Differentiated in one pass through all pieces."""
    method = make(name, encoder(module))
    state, batch = start(method)

    @jax.jit
    def reference(params):
        def loss(params):
            pieces, stats = [], state.stats
            for part in range(PARTS):
                rows = {k: v[part::PARTS] for k, v in batch.items()}
                piece, stats = method.embed(params, stats, state.memory, rows, state.key)
                pieces.append(piece)
            order = np.argsort(np.concatenate([np.arange(p, BATCH, PARTS) for p in range(PARTS)]))
            embedded = jax.tree.map(lambda *x: jnp.concatenate(x)[order], *pieces)
            temperature = scheme_of(method).resolve((), None)
            values, outcome = method.contrast(
                params, embedded, temperature, state.memory, batch, state.key
            )
            return values.mean(), (outcome, stats)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (outcome, stats)), grads = reference(state.params)
    found = find(method, PARTS)
    assert float(find(method, 1).loss) != pytest.approx(float(loss), rel=1e-5)
    for mine, theirs in (
        (found.loss, loss),
        (without_keys(found.stats), without_keys(stats)),
        (found.outcome.memory, outcome.memory),
        (found.grads, grads),
    ):
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs) or [jnp.ones(1)])
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5 * scale),
            mine,
            theirs,
        )


@pytest.mark.ci
def test_steps_in_pieces_are_the_same_on_one_device_and_eight():
    method, scheme = make("moco_v2", encoder()), schemes.learned_scale(optax.sgd(0.1))
    optimizer = optax.sgd(1e-2)

    def run(devices):
        batches = [make_batch(), make_batch()]
        state, logged = steps.take(
            method,
            optimizer,
            lambda step: 1e-2,
            batches,
            scheme=scheme,
            devices=devices,
            micro_batches=4,
        )
        return [line["loss"] for line in logged], steps.on_host(state)

    (one, state), (eight, state_of_eight) = run(1), run(8)
    assert one[0] != one[1]
    assert one == pytest.approx(eight, rel=1e-5)
    assert state.scheme[0] != pytest.approx(2.6593, abs=1e-6)  # the scale has learned
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state, state_of_eight
    )


def test_pieces_need_the_memory_of_a_piece():
    method = make("simclr", models.resnet("small", stem="cifar", width=4))
    state, batch = start(method)
    shapes = jax.eval_shape(lambda: (state, batch))
    gradient = whole_gradient(method, scheme_of(method))
    whole = jax.jit(lambda state, batch: gradient(state, batch, state.key))
    part = jax.tree.map(lambda x: x[::PARTS], batch)
    embedded, _ = jax.eval_shape(
        method.embed, state.params, state.stats, state.memory, part, state.key
    )
    total = jax.eval_shape(lambda: state.params)
    add_gradient = functools.partial(step._add_gradient, method)
    piece = jax.jit(add_gradient).lower(total, state, part, state.key, embedded)
    of = lambda lowered: lowered.compile().memory_analysis().temp_size_in_bytes
    assert of(piece) < 1.3 / PARTS * of(whole.lower(*shapes))


def test_micro_batches_that_do_not_divide_the_batch_are_refused():
    method = make("simclr", pixels())
    state, batch = start(method)
    with pytest.raises(ArgumentError, match="micro_batches: found 5 with a batch of 32"):
        gradcache(method, scheme_of(method), micro_batches=5)(state, batch, state.key)
    with pytest.raises(ArgumentError, match="micro_batches: found 0; allowed: at least 1"):
        gradcache(method, scheme_of(method), micro_batches=0)
    with pytest.raises(ArgumentError, match="scheme: found None; allowed: the scheme"):
        gradcache(method, micro_batches=2)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["small", "vit_micro"])
def test_rematerialised_blocks_give_the_same_gradient(name):
    def gradient(remat):
        if name == "small":
            network = models.resnet("small", stem="cifar", width=4, remat=remat)
        else:
            network = models.vit(name, patch=4, remat=remat)
        params, stats = jax.jit(network.init)(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (4, SIZE, SIZE, 3))

        @jax.jit
        def run(params):
            def loss(params):
                features, new = network.apply(params, stats, x, train=True)
                return jnp.mean(features**3), new

            return jax.grad(loss, has_aux=True)(params)

        text = run.lower(params).as_text()
        return run(params), text.count("optimization_barrier")

    (plain, without), (again, barriers) = gradient(False), gradient(True)
    assert barriers > without  # what is computed again must not be merged with the first time
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(plain))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6 * largest)
    jax.tree.map(compare, again, plain)
