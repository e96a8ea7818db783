"""MoCo v2 and v3 against float64 NumPy re-enactments, on one device and on eight."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dystress_jax import losses, methods, models, schemes, temperatures
from dystress_jax.models import _functional
from dystress_jax.models._norm import BatchNorm
from dystress_jax.training import new_state, prepared, whole_gradient
from tests import oracles
from tests.reenact import (
    FEATURES,
    OUT,
    PIXELS,
    N,
    descend,
    embed,
    linear,
    make_batches,
    matrices,
    mirrored,
    run,
    views_of,
)

KEY = jax.random.key(0)
MOMENTUM = 0.75
TAU_MIN, TAU_MAX = 0.1, 0.3
TEMPERATURE = temperatures.dystress(TAU_MIN, TAU_MAX, stop_gradient=False)
SCHEME = schemes.fixed(TEMPERATURE)


def moco_v2(encoder=None, *, queue_size=2 * N, views=mirrored):
    encoder = encoder or linear(PIXELS, FEATURES)
    return methods.moco_v2(
        encoder,
        linear(encoder.out_features, OUT),
        views=views,
        loss=functools.partial(losses.moco, strategy="dense"),
        queue_size=queue_size,
        momentum=MOMENTUM,
    )


def moco_v3(*, scale_by_tau=True, total_steps=4):
    return methods.moco_v3(
        linear(PIXELS, FEATURES),
        linear(FEATURES, OUT),
        linear(OUT, OUT),
        views=mirrored,
        loss=functools.partial(losses.info_nce, strategy="dense"),
        momentum=MOMENTUM,
        total_steps=total_steps,
        scale_by_tau=scale_by_tau,
    )


def tau(s):
    return oracles.dystress(s, TAU_MIN, TAU_MAX)


@pytest.mark.parametrize("devices", [1, 8])
def test_three_steps_of_moco_v2_are_those_of_its_algorithm(devices):
    batches = make_batches(3)
    states, logged = run(moco_v2(), batches, devices, scheme=SCHEME)
    weights = matrices(states[0].params, "encoder", "projector")
    key_weights, queue = [w.copy() for w in weights], np.float64(states[0].memory["queue"])
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-6)

    for number, batch in enumerate(batches):
        first, second = views_of(batch)
        keys = embed(second, *key_weights)

        def loss(*weights, first=first, keys=keys, queue=queue):
            queries = embed(first, *weights)
            positive = np.sum(queries * keys, axis=1, keepdims=True)
            s = np.concatenate([positive, queries @ queue.T], axis=1)
            logits = s / tau(s)
            return np.mean(np.logaddexp.reduce(logits, axis=1) - logits[:, 0])

        assert logged[number]["loss"] == pytest.approx(loss(*weights), rel=1e-5)
        weights = descend(loss, weights)
        key_weights = [
            MOMENTUM * k + (1 - MOMENTUM) * w for k, w in zip(key_weights, weights, strict=True)
        ]
        start = N * number % len(queue)
        queue = np.concatenate([queue[:start], keys, queue[start + N :]])

        state = states[number + 1]
        assert state.memory["position"] == N * (number + 1) % len(queue)
        np.testing.assert_allclose(state.memory["queue"], queue, rtol=1e-4, atol=1e-5)
        found = matrices(state.params, "encoder", "projector")
        followed = matrices(state.memory["key_params"], "encoder", "projector")
        for a, b in zip([*found, *followed], [*weights, *key_weights], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale_by_tau", [False, True])
def test_the_loss_of_moco_v3_is_symmetric_and_scaled_as_published(scale_by_tau):
    [batch] = make_batches(1)
    states, [logged] = run(moco_v3(scale_by_tau=scale_by_tau), [batch], 1, scheme=SCHEME)
    names = ("encoder", "projector", "predictor")
    before, after = (matrices(state.params, *names) for state in states)
    views = views_of(batch)

    def factor(queries, keys):
        return 2 * tau(np.sum(queries * keys, axis=1)) if scale_by_tau else 1

    def loss(*weights):
        total = 0.0
        for x, other in (views, views[::-1]):
            keys = embed(other, *before[:2])  # no gradient
            values = oracles.info_nce(embed(x, *weights), keys, tau, range(N))
            total += np.mean(values * factor(embed(x, *before), keys))
        return total

    assert logged["loss"] == pytest.approx(loss(*before), rel=1e-5)
    for found, expected in zip(after, descend(loss, before), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_momentum_of_moco_v3_rises_to_1_along_a_cosine(devices):
    states, _ = run(moco_v3(total_steps=4), make_batches(4), devices, scheme=SCHEME)
    assert set(states[0].memory["key_params"]) == {"encoder", "projector"}
    for step in range(1, 5):
        momentum = 1 - (1 - MOMENTUM) * (1 + np.cos(np.pi * step / 4)) / 2
        before, after = (
            matrices(states[i].memory["key_params"], "encoder", "projector")
            for i in (step - 1, step)
        )
        leading = matrices(states[step].params, "encoder", "projector")
        for old, new, w in zip(before, after, leading, strict=True):
            np.testing.assert_allclose(new, momentum * old + (1 - momentum) * w, rtol=1e-5)
            assert (step == 4) == np.array_equal(new, old)


class Normalised(nnx.Module):
    """A BatchNorm on flat images."""

    def __init__(self, groups, rngs):
        self.norm = BatchNorm(PIXELS, groups=groups, rngs=rngs)

    def __call__(self, x, *, train):
        return self.norm(x.reshape(x.shape[0], -1), use_running_average=not train)


def normalised(groups):
    return _functional.functional(lambda rngs: Normalised(groups, rngs), out_features=PIXELS)


def as_batch(images):
    rows = jnp.arange(len(images))
    return {"image": images, "index": rows, "label": rows}


def make_keys(method):
    """The keys of a batch of images: ``(images, key) -> [n d]``."""

    @jax.jit
    def keys(images, key):
        state = new_state(method, optax.identity(), jax.random.key(1), scheme=SCHEME)
        found = whole_gradient(method, SCHEME)(state, prepared(method, as_batch(images), key), key)
        return found.outcome.memory["queue"][:N]

    return keys


def test_keys_are_not_normalised_together_with_the_neighbours_of_their_queries():
    """A group's statistics must not tell which key belongs to which query.

    Queries 0 to 3 share a group. Which keys share one with key 0 is found by changing its image.
    """
    keys = make_keys(moco_v2(normalised(groups=2)))
    [batch] = make_batches(1)
    changed = batch["image"].copy()
    changed[0] = 255 - changed[0]
    neighbours = []
    for seed in range(40):
        key = jax.random.key(seed)
        before, after = keys(batch["image"], key), keys(changed, key)
        moved = np.any(np.abs(before - after) > 1e-6, axis=1)
        assert moved[0]  # keys come back in the order of their queries
        assert moved.sum() == N // 2  # and were normalised in two groups
        neighbours.append(np.mean(moved[1 : N // 2]))
    # Any three of the seven others: without the permutation all three, every time.
    assert np.mean(neighbours) == pytest.approx(3 / 7, abs=0.12)


def test_with_the_statistics_of_the_whole_batch_the_order_of_the_keys_does_not_matter():
    method = moco_v2(normalised(groups=1))
    keys = make_keys(method)
    [batch] = make_batches(1)
    one, two = (keys(batch["image"], jax.random.key(seed)) for seed in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    params = new_state(method, optax.identity(), jax.random.key(1), scheme=SCHEME).params
    x = views_of(batch)[1]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(one, embed(x, *matrices(params, "projector")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue_size": 0}, "queue_size: found 0; allowed: at least 1"),
        ({"momentum": 1.5}, r"momentum: found 1.5; allowed: in \[0, 1\]"),
    ],
)
def test_moco_v2_refuses_what_cannot_work(change, message):
    settings = {"queue_size": N, "momentum": 0.9, **change}
    with pytest.raises(ValueError, match=message):
        methods.moco_v2(
            linear(2, 2),
            linear(2, 2),
            views=mirrored,
            **settings,
        )


def test_a_queue_that_the_batch_does_not_divide_is_refused_before_anything_compiles():
    method = moco_v2(queue_size=12)
    [batch] = make_batches(1)
    with pytest.raises(ValueError, match=r"found 12 with `batch_size` 8; .* nearest: 8 or 16"):
        jax.eval_shape(functools.partial(prepared, method), as_batch(batch["image"]), KEY)


def test_moco_v3_refuses_a_predictor_of_another_width():
    with pytest.raises(ValueError, match="predictor: found one to 3 after a projector to 2"):
        methods.moco_v3(
            linear(2, 2),
            linear(2, 2),
            linear(2, 3),
            views=mirrored,
            momentum=0.9,
            total_steps=1,
        )


def test_the_order_of_the_keys_shares_no_random_numbers_with_the_views():
    """Those of the views are the two that the key of the step is split into."""
    method, key = moco_v2(), jax.random.key(3)
    batch = {**make_batches(1)[0], "row": jnp.arange(N)}
    found = method.prepare(jax.tree.map(jnp.asarray, batch), key)["key_row"]
    for of_view in jax.random.split(key):
        assert (found != jax.random.permutation(of_view, N)).any()


class Noisy(nnx.Module):
    """A Dropout of what is nowhere zero."""

    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, *, train):
        return self.dropout(jnp.ones((len(x), 64)), deterministic=not train)


def test_queries_and_keys_are_dropped_units_each_for_itself():
    noisy = _functional.functional(lambda rngs: Noisy(rngs), out_features=64)
    same = models.projector("none", in_features=64)
    how = {"views": mirrored, "momentum": MOMENTUM, "total_steps": 4}
    batch = jax.tree.map(jnp.asarray, {**make_batches(1)[0], "row": np.arange(N)})
    for make in (methods.moco_v3, methods.byol):
        method = make(noisy, same, same, **how)
        params, stats, memory = method.init(KEY)
        points = method.embed(params, stats, memory, batch, KEY)[0].points
        points = {n: np.asarray(x) == 0 for n, x in points.items() if n != "embeddings_a"}
        for a, b in itertools.combinations(points, 2):
            assert 0.2 < np.mean(points[a] == points[b]) < 0.8, (a, b)
