"""A loss over the devices of a mesh is the dense loss of the whole batch."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, schemes, temperatures
from dystress_jax.errors import ArgumentError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

N, D = 24, 5  # 24 rows for 1, 2, 3 and 8 devices
LABELS = jnp.arange(N) % 5


def siglip(images, texts, *, temperature, **how):
    return losses.siglip(images, texts, scale=temperature.scale, bias=temperature.bias, **how)


# loss, and its arguments after the two arrays of embeddings
LOSSES = {
    "nt_xent": (losses.nt_xent, ()),
    "dcl": (losses.dcl, ()),
    "dcl, two logarithms": (functools.partial(losses.dcl, joint=False), ()),
    "dclw": (losses.dclw, ()),
    "rgcl": (losses.rgcl, ()),
    "supcon": (losses.supcon, (LABELS,)),
    "info_nce": (losses.info_nce, ()),
    "info_nce, decoupled": (functools.partial(losses.info_nce, decoupled=True), ()),
    "clip": (losses.clip, ()),
    "siglip": (siglip, ()),
}
QUEUES = {
    "moco": losses.moco,
    "moco, decoupled": functools.partial(losses.moco, decoupled=True),
}


def make_mesh(devices, *more):
    names = ("data", "model")[: 1 + len(more)]
    auto = (jax.sharding.AxisType.Auto,) * len(names)
    used = jax.devices()[: devices * int(np.prod(more, dtype=int))]
    return jax.make_mesh((devices, *more), names, auto, devices=used)


def make_views(n=N, seed=0):
    a, b = jax.random.normal(jax.random.key(seed), (2, n, D))
    return a, a + b


def with_gradients(loss):
    """(embeddings, temperature, others) -> weighted sum, values and all gradients, compiled."""

    def weighted(embeddings, temperature, others=()):
        value = loss(*embeddings, *others, temperature=temperature)
        return jnp.sum(value * jnp.linspace(0.5, 1.5, value.size, dtype=value.dtype)), value

    return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))


def assert_same(result, expected, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-30))


@functools.cache
def dense(name):
    loss = LOSSES[name][0] if name in LOSSES else QUEUES[name]
    return with_gradients(functools.partial(loss, strategy="dense"))


def of_temperature(name):
    """A temperature whose numbers are traced and have gradients."""
    if name == "siglip":
        return temperatures.LearnedWithBias(jnp.float32(2.0), bias=jnp.float32(-3.0))
    if name == "rgcl":
        return temperatures.PerExample(
            jnp.linspace(0.1, 0.3, 2 * N), jnp.linspace(-1.0, 1.0, 2 * N)
        )
    numbers = temperatures.dystress(0.1, 0.3, stop_gradient=False)
    return jax.tree.map(jnp.float32, numbers)


@pytest.mark.parametrize("strategy", ["dense", "tiled"])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_left_to_the_compiler_is_the_loss_itself(name, strategy):
    loss, others = LOSSES[name]
    how = {"strategy": strategy, "tile_size": 7}
    arguments = (*make_views(), *others)
    program = lambda loss: str(jax.make_jaxpr(loss)(*arguments, temperature=of_temperature(name)))
    expected = program(functools.partial(loss, **how))
    assert program(losses.on_mesh(loss, make_mesh(2), **how)) == expected
    assert program(losses.on_mesh(loss, make_mesh(1), **how)) == expected


@pytest.mark.parametrize("name", LOSSES)
def test_auto_is_the_loss_itself_on_one_device_and_spread_on_several(name):
    loss, others = LOSSES[name]
    arguments = (*make_views(), *others)
    program = lambda loss: str(jax.make_jaxpr(loss)(*arguments, temperature=of_temperature(name)))
    assert program(losses.on_mesh(loss, make_mesh(1))) == program(loss)
    gathered = losses.on_mesh(loss, make_mesh(2), strategy="gathered")
    assert program(losses.on_mesh(loss, make_mesh(2))) == program(gathered) != program(loss)


def test_the_compiler_distributes_the_dense_loss():
    mesh, views, temperature = make_mesh(8), make_views(), of_temperature("nt_xent")
    expected = dense("nt_xent")(views, temperature)
    shards = jax.device_put(views, jax.NamedSharding(mesh, jax.P("data")))
    spread = losses.on_mesh(losses.nt_xent, mesh, strategy="dense")
    assert_same(with_gradients(spread)(shards, temperature), expected)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("moco", "tiled"),
        ("nt_xent", "ring"),
        *(
            pytest.param(name, strategy, marks=pytest.mark.ci)
            for name in ("nt_xent", "info_nce", "clip")
            for strategy in ("gathered", "ring")
            if (name, strategy) != ("nt_xent", "ring")
        ),
    ],
)
def test_a_smooth_target_counts_negatives_that_all_are_allowed(name, strategy):
    """Their number is a constant, which inside `shard_map` varied over no axis."""
    loss, views = getattr(losses, name), make_views()
    whole = {"queue" if name == "moco" else "negatives": make_views(12, seed=3)[0]}

    def slopes(loss):
        def mean(views, whole):
            value = loss(*views, temperature=0.2, label_smoothing=0.2, **whole)
            return jnp.sum(value * jnp.linspace(0.5, 1.5, value.size)), value

        return jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))(views, whole)

    # Tiles that fit: nothing that fills up the last ones is left out.
    spread = losses.on_mesh(loss, make_mesh(3), strategy=strategy, tile_size=4)
    assert_same(slopes(spread), slopes(functools.partial(loss, strategy="dense")))


def test_queries_and_queue_do_not_travel():
    mesh = make_mesh(8)
    spread = losses.on_mesh(losses.moco, mesh)
    views = jax.device_put(make_views(), jax.NamedSharding(mesh, jax.P("data")))
    queue = jax.device_put(jnp.ones((11, D)), jax.NamedSharding(mesh, jax.P()))
    text = jax.jit(spread).lower(*views, queue, temperature=0.1).compile().as_text()
    for collective in ("collective-permute", "all-gather", "all-to-all", "all-reduce"):
        assert collective not in text


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["auto", "ring"])
@pytest.mark.parametrize("name", ["nt_xent", "clip", "moco", "separate"])
def test_a_temperature_per_anchor_keeps_the_order_of_the_anchors(name, strategy):
    loss = {**QUEUES, **{k: v[0] for k, v in LOSSES.items()}}.get(name, losses.nt_xent)
    embeddings = make_views()
    if name == "moco":
        strategy, embeddings = "dense", (*embeddings, jax.random.normal(jax.random.key(2), (11, D)))
    anchors = N if name in ("clip", "moco") else 2 * N
    temperature = temperatures.per_anchor(jnp.linspace(0.05, 0.5, anchors))
    if name == "separate":
        temperature = temperatures.separate(temperature, jnp.float32(0.2))
    spread = losses.on_mesh(loss, make_mesh(3), strategy=strategy)
    expected = with_gradients(functools.partial(loss, strategy="dense"))(embeddings, temperature)
    assert_same(with_gradients(spread)(embeddings, temperature), expected)
    # The same numbers, known before the loss starts.
    known = jax.jit(functools.partial(spread, temperature=temperature))(*embeddings)
    np.testing.assert_allclose(known, expected[0][1], rtol=1e-5)


@pytest.mark.parametrize("strategy", ["dense", "gathered", "ring"])
def test_a_plain_function_is_a_temperature(strategy):
    views, mesh = make_views(), make_mesh(2)

    def slopes(loss):
        def mean(views, depth):
            value = loss(*views, temperature=lambda s: 0.1 + depth * s * s)
            return value.mean()

        return jax.jit(jax.grad(mean, argnums=(0, 1)))(views, jnp.float32(0.2))

    spread = losses.on_mesh(losses.nt_xent, mesh, strategy=strategy)
    assert_same(slopes(spread), slopes(functools.partial(losses.nt_xent, strategy="dense")))


def test_the_constant_of_macl_comes_from_the_whole_batch():
    views, scheme = make_views(), schemes.macl()

    def mean(loss):
        def of(views):
            temperature = scheme.resolve((), schemes.of_views(*views))
            return schemes.macl_reweight(loss(*views, temperature=temperature)).mean()

        return jax.jit(jax.value_and_grad(of))

    spread = losses.on_mesh(losses.nt_xent, make_mesh(3))
    plain = functools.partial(losses.nt_xent, strategy="dense")
    assert_same(mean(spread)(views), mean(plain)(views))


def test_numbers_stay_numbers_so_that_the_losses_see_that_exp_cannot_overflow():
    spread = losses.on_mesh(losses.nt_xent, make_mesh(2), strategy="ring")
    views = make_views()
    dynamic = temperatures.dystress(0.1, 0.3)
    branches = lambda *arguments: str(jax.make_jaxpr(spread_with)(*arguments)).count("cond[")
    spread_with = lambda a, b, t=dynamic: spread(a, b, temperature=t)
    assert branches(*views) == 0
    assert branches(*views, jax.tree.map(jnp.float32, dynamic)) > 0
    spread_with = lambda a, b, high: spread(a, b, temperature=temperatures.dystress(0.1, high))
    assert branches(*views, jnp.float32(0.3)) > 0  # which may fall below the other end


def test_rows_that_lie_on_the_devices_stay_there():
    mesh = make_mesh(8)
    split = jax.NamedSharding(mesh, jax.P("data"))
    views = jax.device_put(make_views(), split)
    value = jax.jit(losses.on_mesh(losses.clip, mesh, strategy="ring"))(*views, temperature=0.1)
    assert value.sharding.is_equivalent_to(split, 1)


def test_other_axes_of_the_mesh_are_left_alone():
    views, temperature = make_views(), of_temperature("nt_xent")
    expected = dense("nt_xent")(views, temperature)
    for strategy in ("gathered", "ring"):
        spread = losses.on_mesh(losses.nt_xent, make_mesh(2, 4), strategy=strategy, tile_size=7)
        assert_same(with_gradients(spread)(views, temperature), expected)


def test_the_signature_is_that_of_the_loss_less_what_is_decided():
    mesh = make_mesh(2)
    names = lambda loss: list(inspect.signature(losses.on_mesh(loss, mesh)).parameters)
    how = ["similarity", "normalize", "precision"]
    shape, rows = ["label_smoothing", "weights"], ["negatives", "where", "where_negatives"]
    views = ["view_a", "view_b", "temperature", "global_views"]
    assert names(losses.nt_xent) == [*views, *shape, *rows, *how]
    decoupled = functools.partial(losses.moco, decoupled=True)
    arrays = ["queries", "keys", "queue"]
    masks = ["where", "where_queue"]
    assert names(decoupled) == [*arrays, "temperature", "decoupled", *shape, *masks, *how]
    assert losses.on_mesh(losses.nt_xent, mesh).__doc__ == losses.nt_xent.__doc__
    with pytest.raises(TypeError, match="unexpected keyword argument 'strategy'"):
        losses.on_mesh(losses.nt_xent, mesh)(*make_views(), temperature=0.1, strategy="ring")


def test_arrays_may_be_given_by_name_and_options_are_passed_on():
    (a, b), mesh = make_views(), make_mesh(2)
    spread = losses.on_mesh(losses.siglip, mesh)
    slopes = lambda loss: jax.jit(
        jax.grad(lambda scale, bias: loss(texts=b, images=a, scale=scale, bias=bias).mean(), (0, 1))
    )(jnp.float32(5.0), jnp.float32(-3.0))
    assert_same(slopes(spread), slopes(functools.partial(losses.siglip, strategy="dense")))


@pytest.mark.parametrize(
    ("loss", "how", "argument", "message"),
    [
        (losses.nt_xent, {"axis": "rows"}, "axis", "found 'rows'; allowed: data"),
        (
            losses.nt_xent,
            {"strategy": "rings"},
            "strategy",
            "found 'rings'; allowed: auto, dense, tiled, fused, gathered, ring. Did you mean ring?",
        ),
        (
            losses.moco,
            {"strategy": "ring"},
            "strategy",
            "found 'ring'; allowed: auto, dense, tiled, fused.",
        ),
        (
            losses.nt_xent,
            {"strategy": losses.ring("model")},
            "strategy",
            r"found Ring\(axis='model', tile=None\); allowed: one over the axis 'data'",
        ),
        (
            losses.moco,
            {"strategy": losses.gathered("data")},
            "strategy",
            r"found Gathered\(.*with a queue; allowed: dense\(\), tiled\(\) or fused\(\)",
        ),
        (
            losses.nt_xent,
            {"strategy": losses.ring("data"), "tile_size": 4},
            "tile_size",
            "found 4 beside Ring.*allowed: None",
        ),
        (lambda a, b: a, {}, "loss", "found a function of a, b; allowed: .* keyword strategy"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_called(
    loss, how, argument, message, unchecked_shapes
):
    with pytest.raises(ArgumentError, match=message) as raised:
        losses.on_mesh(loss, make_mesh(2), **how)
    assert raised.value.argument == argument


def test_rows_that_do_not_fit_the_devices_are_refused():
    spread = losses.on_mesh(losses.info_nce, make_mesh(2))
    a, b = make_views()
    with pytest.raises(ArgumentError, match="queries: found 23 rows, which the 2 devices"):
        spread(a[:23], b[:23], temperature=0.1)
    with pytest.raises(ArgumentError, match=r"keys: found 23 rows, .* 2 devices .*`where`"):
        spread(a[:22], b[:23], temperature=0.1)
    # The loss counts the rows of the whole batch.
    with pytest.raises(ValueError, match=r"found shape \(12,\) .*: 24 entries here"):
        spread(a, b, temperature=jnp.full(12, 0.1))
    # One device needs nothing of this.
    alone = losses.on_mesh(losses.info_nce, make_mesh(1))
    assert alone(a[:21], b, temperature=0.1).shape == (21,)


def test_a_mean_is_for_the_caller_to_take(unchecked_shapes):
    mean = lambda a, b, **how: losses.info_nce(a, b, temperature=0.1, **how).mean()
    spread = losses.on_mesh(mean, make_mesh(2))
    with pytest.raises(ArgumentError, match=r"loss: found values of the shape \(\) for 12 rows"):
        spread(*make_views())


def around(*views, temperature, **how):
    return losses.nt_xent(views, temperature=temperature, **how)


def three(x, y, z, *, temperature, **how):
    return losses.nt_xent([x, y, z], temperature=temperature, **how)


look = functools.partial(losses.statistics, losses.nt_xent)
VIEWS = jax.random.normal(jax.random.key(2), (4, 6, D))
ONE_EACH = jnp.linspace(0.1, 3.0, 18)


in_ci = pytest.mark.ci
AROUND = {
    "statistics, stacked": (look, (VIEWS,), {}),
    "statistics, three": (look, (list(VIEWS[:3]),), {"weights": ONE_EACH}),
    "three": (three, tuple(VIEWS[:3]), {"weights": ONE_EACH}),
    "any": (around, tuple(VIEWS[:3]), {"weights": ONE_EACH}),
    "statistics of three": (
        functools.partial(losses.statistics, three),
        tuple(VIEWS[:3]),
        {"weights": ONE_EACH},
    ),
    "statistics of moco": (
        functools.partial(losses.statistics, losses.moco),
        (*VIEWS[:2], jnp.ones((9, D))),
        {},
    ),
    "moco, as many": (losses.moco, VIEWS[:3], {"weights": ONE_EACH[:6]}),
    "moco": (losses.moco, (*VIEWS[:2], VIEWS[2, :5]), {"weights": ONE_EACH[:5]}),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in quick else in_ci)
        for quick in [(("three", "Auto"), ("moco", "Auto"), ("moco, as many", "Explicit"))]
        for name in AROUND
        for kind in ("Auto", "Explicit")
    ],
)
def test_views_and_weights_are_known_by_the_loss_inside(name, kind):
    """Whatever stands around it, and however its arguments are called."""
    loss, arrays, more = AROUND[name]
    kinds = (getattr(jax.sharding.AxisType, kind),)
    mesh = jax.make_mesh((2,), ("data",), kinds, devices=jax.devices()[:2])
    with jax.numpy_dtype_promotion("standard"):
        expected = loss(*arrays, temperature=0.3, **more)
        found = losses.on_mesh(loss, mesh)(*arrays, temperature=0.3, **more)
    assert_same(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "spec"), [("Auto", (None, "data")), ("Auto", ("data",)), ("Explicit", (None, "data"))]
)
def test_statistics_ask_stacked_views_how_they_are_split(kind, spec):
    kinds = (getattr(jax.sharding.AxisType, kind),)
    mesh = jax.make_mesh((2,), ("data",), kinds, devices=jax.devices()[:2])
    views = jax.device_put(VIEWS, jax.NamedSharding(mesh, jax.P(*spec)))
    with jax.numpy_dtype_promotion("standard"):
        found, expected = (look(x, temperature=0.3) for x in (views, VIEWS))
    assert_same(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected))


def test_stacked_views_of_a_loss_of_ones_own_need_their_name():
    def own(z, *, temperature, **how):
        return losses.nt_xent(z, temperature=temperature, **how)

    def named(view_a, *, temperature, **how):
        return losses.nt_xent(view_a, temperature=temperature, **how)

    with pytest.raises(ArgumentError, match=r"^z: found shape \(4, 6, 5\) of a loss of your own;"):
        losses.on_mesh(own, make_mesh(2))(VIEWS, temperature=0.3)
    found = losses.on_mesh(named, make_mesh(2))(VIEWS, temperature=0.3)
    assert_same(found, losses.nt_xent(VIEWS, temperature=0.3))
