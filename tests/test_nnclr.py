"""NNCLR against a float64 NumPy re-enactment, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, methods, run, schemes, temperatures
from dystress_jax.schemes._scheme import both_ways
from dystress_jax.training import prepared
from tests import oracles, reenact
from tests.reenact import FEATURES, OUT, PIXELS, N, linear

NETWORKS = ("encoder", "projector", "predictor")
SCHEME = schemes.fixed(temperatures.dystress(0.1, 0.3, stop_gradient=False))
tau = functools.partial(oracles.dystress, tau_min=0.1, tau_max=0.3)


def nnclr(*, queue_size=2 * N, loss=losses.info_nce):
    return methods.nnclr(
        linear(PIXELS, FEATURES),
        linear(FEATURES, OUT),
        linear(OUT, OUT),
        views=reenact.mirrored,
        queue_size=queue_size,
        loss=functools.partial(loss, strategy="dense"),
    )


@pytest.mark.parametrize("make", [methods.nnclr, methods.byol, methods.moco_v2])
def test_embeddings_of_half_precision_are_compared_in_float32(make):
    head = linear(FEATURES, OUT)
    half = head._replace(
        apply=lambda params, stats, x, *, train: (
            head.apply(params, stats, x, train=train)[0].astype(jnp.bfloat16),
            stats,
        )
    )
    extra = {
        methods.nnclr: {"predictor": linear(OUT, OUT), "queue_size": 2 * N},
        methods.byol: {"predictor": linear(OUT, OUT), "total_steps": 3, "momentum": 0.9},
        methods.moco_v2: {"queue_size": 2 * N, "momentum": 0.9},
    }[make]
    method = make(linear(PIXELS, FEATURES), half, views=reenact.mirrored, **extra)
    scheme = None if make is methods.byol else SCHEME
    states, logged = reenact.run(method, reenact.make_batches(2), 1, scheme=scheme)
    for queue in [state.memory["queue"] for state in states if "queue" in state.memory]:
        assert queue.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, atol=1e-6)
    loss = jnp.float32(logged[1]["loss"])
    assert loss != loss.astype(jnp.bfloat16)  # which has 8 bits


@pytest.mark.parametrize("wrap", [temperatures.hard_negatives, temperatures.separate, None])
def test_a_temperature_of_each_anchor_may_stand_in_another(wrap):
    tau = jnp.linspace(0.1, 0.5, 2 * N)
    of = lambda tau: {
        None: lambda t: t,
        temperatures.hard_negatives: lambda t: temperatures.hard_negatives(t, 1.0),
        temperatures.separate: lambda t: temperatures.separate(0.1, t),
    }[wrap](temperatures.per_anchor(tau))
    a, b = jax.random.normal(jax.random.key(0), (2, N, 5))
    both = both_ways(losses.info_nce, ((a, b), (b, a)), of(tau))
    each = [
        losses.info_nce(x, y, temperature=of(part))
        for x, y, part in ((a, b, tau[:N]), (b, a, tau[N:]))
    ]
    np.testing.assert_allclose(both, np.concatenate(each), rtol=1e-6)


def labelled(batches):
    labels = np.int32([0, 1, 2, 0, 1, 2, 0, -1])
    return [{**batch, "label": labels} for batch in batches]


def nearest(z, queue):
    distances = np.linalg.norm(z[:, None] - queue[None], axis=2)
    return np.argmin(distances, axis=1)


@pytest.mark.parametrize("devices", [1, 8])
def test_three_steps_are_those_of_the_algorithm(devices):
    batches = labelled(reenact.make_batches(3))
    states, logged = reenact.run(nnclr(), batches, devices, scheme=SCHEME)
    weights = reenact.matrices(states[0].params, *NETWORKS)
    queue, labels = np.float64(states[0].memory["queue"]), np.full(2 * N, -1)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(states[0].memory["labels"], labels)

    for number, batch in enumerate(batches):
        x = reenact.views_of(batch)
        z = [reenact.embed(view, *weights[:2]) for view in x]
        rows = [nearest(of_view, queue) for of_view in z]
        neighbours = [queue[of_view] for of_view in rows]

        def loss(*weights, x=x, neighbours=neighbours):
            p = [reenact.embed(view, *weights) for view in x]
            ways = [(neighbours[0], p[1]), (neighbours[1], p[0])]
            return np.mean([oracles.info_nce(*way, tau, range(N)) for way in ways])

        known = batch["label"] >= 0
        same = [(labels[of_view] == batch["label"])[known] for of_view in rows]
        assert logged[number]["loss"] == pytest.approx(loss(*weights), rel=1e-5)
        assert logged[number]["neighbour_same_label"] == pytest.approx(np.mean(same))

        weights = reenact.descend(loss, weights)
        start = N * number % len(queue)
        queue[start : start + N], labels[start : start + N] = z[0], batch["label"]
        state = states[number + 1]
        assert state.memory["position"] == (start + N) % len(queue)
        np.testing.assert_array_equal(state.memory["labels"], labels)
        np.testing.assert_allclose(state.memory["queue"], queue, rtol=1e-4, atol=1e-5)
        found = reenact.matrices(state.params, *NETWORKS)
        for a, b in zip(found, weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert 0 < logged[2]["neighbour_same_label"] < 1


def test_with_the_loss_of_clip_predictions_find_their_neighbours_too():
    [batch] = reenact.make_batches(1)
    states, [logged] = reenact.run(nnclr(loss=losses.clip), [batch], 1, scheme=SCHEME)
    weights = reenact.matrices(states[0].params, *NETWORKS)
    queue = np.float64(states[0].memory["queue"])
    x = reenact.views_of(batch)
    neighbours = [queue[nearest(reenact.embed(view, *weights[:2]), queue)] for view in x]
    p = [reenact.embed(view, *weights) for view in x]
    ways = [(neighbours[0], p[1]), (neighbours[1], p[0])]
    expected = np.mean([oracles.clip(*way, tau) for way in ways])
    assert logged["loss"] == pytest.approx(expected, rel=1e-5)
    assert logged["neighbour_same_label"] == 0  # no row of the first queue has a label


def test_without_a_label_nothing_is_said_of_the_neighbours():
    batches = reenact.make_batches(2)
    for batch in batches:
        batch["label"][:] = -1
    _, logged = reenact.run(nnclr(), batches, 1, scheme=SCHEME)
    assert all(np.isnan(each["neighbour_same_label"]) for each in logged)
    assert all(np.isfinite(each["loss"]) for each in logged)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_temperature_per_anchor_belongs_to_the_image_of_the_neighbour(devices):
    [batch] = reenact.make_batches(1)
    per_anchor = np.linspace(0.1, 0.4, 2 * N, dtype=np.float32)
    scheme = schemes.fixed(temperatures.per_anchor(per_anchor))
    states, [logged] = reenact.run(nnclr(), [batch], devices, scheme=scheme)
    weights = reenact.matrices(states[0].params, *NETWORKS)
    queue = np.float64(states[0].memory["queue"])
    x = reenact.views_of(batch)
    neighbours = [queue[nearest(reenact.embed(view, *weights[:2]), queue)] for view in x]
    p = [reenact.embed(view, *weights) for view in x]
    column = np.float64(per_anchor).reshape(2, N, 1)
    values = [
        oracles.info_nce(neighbours[way], p[1 - way], lambda s, way=way: column[way], range(N))
        for way in (0, 1)
    ]
    assert logged["loss"] == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("make", [methods.nnclr, methods.moco_v2])
def test_a_queue_may_be_of_any_size_that_the_batch_divides(make):
    extra = {"predictor": linear(2, 2)} if make is methods.nnclr else {"momentum": 0.9}
    method = make(linear(2, 2), linear(2, 2), views=reenact.mirrored, queue_size=15, **extra)
    [batch] = reenact.make_batches(1)
    some = jax.tree.map(lambda x: x[:5], batch)
    jax.eval_shape(functools.partial(prepared, method), some, jax.random.key(0))


def test_a_queue_that_the_batch_does_not_divide_is_refused_before_anything_compiles():
    method = nnclr(queue_size=12)
    [batch] = reenact.make_batches(1)
    with pytest.raises(ValueError, match=r"queue_size: found 12 with `batch_size` 8; .*: 8 or 16"):
        jax.eval_shape(functools.partial(prepared, method), batch, jax.random.key(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue_size": 0}, "queue_size: found 0; allowed: at least 1"),
        ({"predictor": linear(2, 3)}, "predictor: found one to 3 after a projector to 2"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    settings = {"predictor": linear(2, 2), "queue_size": N, **change}
    with pytest.raises(ValueError, match=message):
        methods.nnclr(linear(2, 2), linear(2, 2), views=reenact.mirrored, **settings)


@pytest.mark.parametrize(
    ("moco", "message"),
    [
        (
            {"queue_size": 1000},
            r"config\.moco\.queue_size: found 1000 with .* nearest: 768 or 1024",
        ),
        ({"momentum": 0.5}, r"config\.moco\.momentum: found 0\.5 with config\.method nnclr, which"),
    ],
)
def test_settings_that_cannot_work_are_refused(moco, message):
    with pytest.raises(run.ConfigError, match=message):
        run.from_config_dict({"method": "nnclr", "moco": moco})
