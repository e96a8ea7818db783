"""A loss of arrays that tell how they are split: no other words needed, the same values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from dystress_jax import evaluation, losses, metrics, microscope, schemes, temperatures

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

N, D = 12, 4
LABELS = jnp.arange(N) % 5
QUEUE = jax.random.normal(jax.random.key(5), (7, D))
LOSSES = {
    "nt_xent": losses.nt_xent,
    "dcl, two logarithms": functools.partial(losses.dcl, joint=False),
    "dclw": losses.dclw,
    "info_nce": losses.info_nce,
    "moco": lambda a, b, **how: losses.moco(a, b, QUEUE, **how),
    "supcon": lambda a, b, **how: losses.supcon(a, b, LABELS, **how),
    "clip": losses.clip,
    "siglip": lambda a, b, temperature, **how: losses.siglip(
        a, b, scale=1 / temperature.tau_min, bias=-temperature.tau_max, **how
    ),
}
TEMPERATURE = jax.tree.map(jnp.float32, temperatures.dystress(0.1, 0.3, stop_gradient=False))
COLLECTIVES = ("all-gather", "all-reduce", "collective-permute", "all-to-all", "reduce-scatter")


def make_mesh(shape=(4,), names=("data",), kind=AxisType.Explicit):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, (kind,) * len(names), devices=devices)


def make_views():
    a, b = jax.random.normal(jax.random.key(0), (2, N, D))
    return a, a + b


def with_gradients(loss, **how):
    def mean(views, temperature):
        value = loss(*views, temperature=temperature, **how)
        return value.mean(), value

    return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)


@functools.cache
def expected(name):
    return jax.jit(with_gradients(LOSSES[name], strategy="dense"))(make_views(), TEMPERATURE)


def assert_same(found, expected):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * max(np.abs(y).max(), 1e-30))


# The axes over which the rows are split, and the mesh.
SPLIT = {
    "data": (jax.P("data"), make_mesh),
    "data, of two axes": (jax.P("data"), lambda: make_mesh((2, 2), ("data", "model"))),
    "both axes": (jax.P(("data", "model")), lambda: make_mesh((3, 2), ("data", "model"))),
    "rows and their numbers": (
        jax.P("data", "model"),
        lambda: make_mesh((2, 2), ("data", "model")),
    ),
    "their numbers": (jax.P(None, "model"), lambda: make_mesh((2, 2), ("data", "model"))),
    "nothing": (jax.P(), make_mesh),
    "the one device": (jax.P("data"), lambda: make_mesh((1,))),
}


def with_scheme(scheme):
    """The temperature of a step, its loss, and the next state."""

    def step(a, b, labels):
        del labels
        inputs = schemes.of_views(a, b, example=jnp.arange(N), key=jax.random.key(0))
        state = scheme.init()
        temperature = scheme.resolve(state, inputs)
        return losses.nt_xent(a, b, temperature=temperature), scheme.update(state, inputs, None)

    return step


def look(a, b, labels):
    alone = (jnp.arange(N),) * 2
    compared = microscope.Compared(a, b, b, groups=alone, labels=(labels, labels))
    return microscope.look(compared, temperatures.constant(0.1))


# Of embeddings, others, and labels.
MEASURES = {
    "alignment": lambda a, b, labels: metrics.alignment(a, b),
    "uniformity": lambda a, b, labels: metrics.uniformity(a),
    "gradient of uniformity": lambda a, b, labels: jax.grad(metrics.uniformity)(a),
    "tolerance": lambda a, b, labels: metrics.tolerance(a, labels),
    "inter-class uniformity": lambda a, b, labels: metrics.inter_class_uniformity(a, labels),
    "negatives": metrics.negative_similarities,
    "effective rank": lambda a, b, labels: metrics.effective_rank(a),
    "recall": lambda a, b, labels: metrics.recall_at_k(a, b, k=2),
    "pairs": lambda a, b, labels: metrics.pair_statistics(
        a, b, temperature=temperatures.per_anchor(0.1 + labels / 10), groups=labels
    ),
    "votes": functools.partial(evaluation.knn_votes, k=3, num_classes=5),
    "neighbours": lambda a, b, labels: evaluation.nearest_neighbours(a, b, k=2),
    "ranks": lambda a, b, labels: evaluation.retrieval_ranks(a, b, labels, labels),
    "classes": lambda a, b, labels: evaluation.class_embeddings(jnp.stack([a, b], axis=1)),
    "zero-shot": lambda a, b, labels: evaluation.zero_shot_scores(a, b),
    "accuracy": lambda a, b, labels: evaluation.top_accuracy(a, labels % D, top=2),
    "look": look,
    "macl": with_scheme(schemes.macl()),
    "isogclr": with_scheme(schemes.isogclr(N)),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("split", ["data", "rows and their numbers", "their numbers"])
@pytest.mark.parametrize("name", MEASURES)
def test_what_measures_embeddings_takes_them_split(name, split, compiled):
    spec, mesh_of = SPLIT[split]
    mesh = mesh_of()
    measure = jax.jit(MEASURES[name]) if compiled else MEASURES[name]
    given = (*make_views(), LABELS)
    put = lambda x: jax.device_put(x, NamedSharding(mesh, jax.P(*spec[: x.ndim])))
    with jax.set_mesh(mesh):
        found = measure(*map(put, given))
    assert_same(found, MEASURES[name](*given))


FITS = {
    "sgd": lambda x, y: evaluation.fit_sgd(
        jax.random.key(0), x, y, jnp.array([0.5, 1.0]), num_classes=5, epochs=2, batch_size=4
    ),
    "lbfgs": lambda x, y: evaluation.fit_lbfgs(x, y, jnp.array([0.1]), num_classes=5, max_steps=9),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", FITS)
def test_heads_are_fitted_to_features_that_are_split(name):
    mesh, (x, _) = make_mesh(), make_views()
    put = lambda x: jax.device_put(x, NamedSharding(mesh, jax.P("data")))
    labels = jnp.arange(len(x)) % 5
    with jax.set_mesh(mesh):
        found = FITS[name](put(x), put(labels))
    assert_same(found, FITS[name](x, labels))


@pytest.mark.ci
@pytest.mark.parametrize("name", LOSSES)
def test_on_the_mesh_that_jax_makes_by_default_every_strategy_is_right(name):
    mesh = make_mesh()
    views = jax.device_put(make_views(), jax.NamedSharding(mesh, jax.P("data")))
    for strategy in ("auto", "dense", "tiled"):
        found = jax.jit(with_gradients(LOSSES[name], strategy=strategy, tile_size=5))(
            views, TEMPERATURE
        )
        assert_same(found, expected(name))


@pytest.mark.ci
@pytest.mark.parametrize("split", SPLIT)
@pytest.mark.parametrize("name", ["nt_xent", "clip"])
def test_the_rows_may_be_split_over_any_axes(name, split):
    spec, mesh = SPLIT[split]
    sharding = jax.NamedSharding(mesh(), spec)
    views = jax.device_put(make_views(), sharding)
    found = jax.jit(with_gradients(LOSSES[name]))(views, TEMPERATURE)
    assert_same(found, expected(name))
    assert found[1][0][0].sharding.is_equivalent_to(sharding, 2)


@pytest.mark.ci
def test_outside_jit_the_arrays_tell_their_devices_themselves():
    for kind in (AxisType.Explicit, AxisType.Auto):
        sharding = jax.NamedSharding(make_mesh((2,), kind=kind), jax.P("data"))
        views = jax.device_put(make_views(), sharding)
        found = losses.nt_xent(*views, temperature=TEMPERATURE)
        assert_same(found, expected("nt_xent")[0][1])
        assert found.sharding.is_equivalent_to(sharding, 1) or kind == AxisType.Auto
    found = with_gradients(losses.clip)(views, TEMPERATURE)
    assert_same(found, expected("clip"))
    mesh = make_mesh((2,))
    explicit = jax.device_put(make_views(), jax.NamedSharding(mesh, jax.P("data")))
    with jax.set_mesh(mesh):  # or the mean, which is not ours, has no gradient
        assert_same(with_gradients(losses.clip)(explicit, TEMPERATURE), expected("clip"))


@pytest.mark.parametrize("strategy", ["ring", losses.ring("data", tile=5)])
def test_on_mesh_takes_an_explicit_axis(strategy):
    mesh = make_mesh((2, 2), ("data", "model"))
    views = jax.device_put(make_views(), jax.NamedSharding(mesh, jax.P("data")))
    loss = losses.on_mesh(losses.nt_xent, mesh, strategy=strategy)
    assert_same(jax.jit(with_gradients(loss))(views, TEMPERATURE), expected("nt_xent"))


def test_a_temperature_per_anchor_may_be_split_too():
    mesh = make_mesh()
    place = lambda x: jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    tau = jnp.linspace(0.1, 0.5, 2 * N)
    found = jax.jit(with_gradients(losses.nt_xent))(place(make_views()), place(tau))
    assert_same(found, jax.jit(with_gradients(losses.nt_xent))(make_views(), tau))


def test_each_device_computes_its_own_rows_only():
    """On the compiled program: operations with pairs, a device's share of them."""
    rows, devices = 512, 4
    mesh = make_mesh((devices,))
    view = lambda sharding: jax.ShapeDtypeStruct((rows, D), jnp.float32, sharding=sharding)

    def flops(sharding):
        loss = lambda a, b: losses.info_nce(a, b, temperature=0.1, strategy="dense").mean()
        program = jax.jit(jax.grad(loss)).lower(view(sharding), view(sharding)).compile()
        return program.cost_analysis()["flops"], program.as_text()

    alone, text = flops(None)
    assert not any(word in text for word in COLLECTIVES)
    shared, text = flops(jax.NamedSharding(mesh, jax.P("data")))
    assert "all-gather" in text
    assert shared < 1.1 * alone / devices


def test_a_queue_lies_on_every_device_and_nothing_travels():
    mesh = make_mesh()
    split, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("data"), jax.P()))
    views = jax.device_put(make_views(), split)
    loss = jax.jit(functools.partial(losses.moco, temperature=0.1))
    text = loss.lower(*views, jax.device_put(QUEUE, whole)).compile().as_text()
    assert not any(word in text for word in COLLECTIVES)


# Batches [4, 2, 16, D] or views [4, 8, D] on a mesh (4, 2), and how they are split.
BATCHES = {
    "batches over one axis, rows over the other": jax.P("data", None, "model"),
    "the axes the other way round": jax.P("model", None, "data"),
    "batches alone": jax.P("data"),
    "batches, and numbers of a row": jax.P("data", None, None, "model"),
}


@pytest.mark.parametrize(
    "split",
    [pytest.param(name, marks=() if "rows over" in name else pytest.mark.ci) for name in BATCHES],
)
def test_a_vmap_may_be_split_over_an_axis_and_the_rows_over_another(split):
    mesh = make_mesh((4, 2), ("data", "model"))
    batches = jax.random.normal(jax.random.key(1), (4, 2, 16, D))
    mean = lambda views: losses.nt_xent(*views, temperature=TEMPERATURE).mean()
    found = jax.jit(jax.vmap(jax.value_and_grad(mean)))
    expected = found(batches)
    assert_same(found(jax.device_put(batches, jax.NamedSharding(mesh, BATCHES[split]))), expected)


@pytest.mark.parametrize(
    "spec",
    [
        jax.P("data"),
        pytest.param(jax.P("data", "model"), marks=pytest.mark.ci),
        pytest.param(jax.P("model", None, "data"), marks=pytest.mark.ci),
    ],
)
def test_views_that_are_stacked_may_be_split_over_any_axis(spec):
    mesh = make_mesh((4, 2), ("data", "model"))
    views = jax.random.normal(jax.random.key(1), (4, 8, D))
    mean = lambda views: losses.nt_xent(views, temperature=TEMPERATURE).mean()
    found = jax.jit(jax.value_and_grad(mean))
    split = jax.device_put(views, jax.NamedSharding(mesh, spec))
    assert_same(found(split), found(views))
    eager = losses.nt_xent(split, temperature=TEMPERATURE)
    assert_same(eager, losses.nt_xent(views, temperature=TEMPERATURE))


@pytest.mark.parametrize("strategy", [None, "auto", "ring", "dense"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_function_that_closes_over_a_parameter_may_be_used_inside_a_mesh(kind, strategy):
    """What was traced for one mesh fits no other: `shard_map` has another."""
    mesh, (a, b) = make_mesh((2,), kind=kind), make_views()

    def mean(loss):
        by_parameter = lambda depth: lambda s: 0.1 + depth * jnp.where(s > 0, s, 0.5) ** 2
        return lambda depth, a, b: loss(a, b, temperature=by_parameter(depth)).mean()

    expected = jax.grad(mean(losses.nt_xent))(0.1, a, b)
    split = jax.device_put((a, b), jax.NamedSharding(mesh, jax.P("data")))
    loss = losses.nt_xent
    loss = loss if strategy is None else losses.on_mesh(loss, mesh, strategy=strategy)
    with jax.set_mesh(mesh):
        for gradient in (jax.jit(jax.grad(mean(loss))), jax.grad(mean(loss))):
            np.testing.assert_allclose(gradient(0.1, *split), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_queue_that_is_split_beside_a_whole_batch_is_taken_as_it_is(kind):
    mesh = make_mesh((4,), kind=kind)
    a, b = jax.random.normal(jax.random.key(0), (2, 6, D))
    queue = jax.random.normal(jax.random.key(1), (12, D))
    split = jax.device_put(queue, jax.NamedSharding(mesh, jax.P("data")))
    for loss in (
        lambda queue: losses.moco(queries=a, keys=b, queue=queue, temperature=0.2),
        lambda queue: losses.nt_xent(a, b, temperature=0.2, negatives=queue),
        lambda keys: losses.info_nce(a, keys, temperature=0.2),
    ):
        for each in (loss, jax.jit(loss)):
            np.testing.assert_allclose(each(split), loss(queue), rtol=1e-5)
