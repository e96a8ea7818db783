"""Every strategy equals the dense reference, in value and in every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, similarities, temperatures
from dystress_jax.losses import _reduction, _strategies, _tiled
from tests import oracles

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

TILE = 8
LABELS = jnp.arange(64) % 5

LOSSES = {
    "nt_xent": losses.nt_xent,
    "dcl": losses.dcl,
    "dcl, two logarithms": functools.partial(losses.dcl, joint=False),
    "dclw": losses.dclw,
    "rgcl": lambda a, b, temperature, **how: losses.rgcl(
        a, b, temperature=getattr(temperature, "tau_min", 0.1), **how
    ),
    "supcon": lambda a, b, **how: losses.supcon(a, b, LABELS[: len(a)], **how),
    "info_nce": losses.info_nce,
    "info_nce, more keys than queries": lambda a, b, **how: losses.info_nce(
        a[: len(a) // 2], b, positives=jnp.arange(len(a) // 2)[::-1], **how
    ),
    "clip, oblique": functools.partial(losses.clip, similarity=similarities.oblique(2)),
    "siglip": lambda a, b, temperature, **how: losses.siglip(
        a, b, scale=1 / temperature.tau_min, bias=-temperature.tau_max, **how
    ),
    "moco": lambda a, b, **how: losses.moco(a[:9], b[:9], b[9:], **how),
}
# One program takes them all: the numbers are traced, and the low one needs the maximum of the row.
RANGES = {"constant": (0.1, 0.1), "dynamic": (0.07, 0.2), "very low": (0.0015, 0.004)}
OTHER_TEMPERATURES = {
    "dystress, as a number in gradients": temperatures.dystress(0.07, 0.2),
    "shifted": temperatures.shifted_dystress(0.1, 0.2, stop_gradient=False),
    "temo": temperatures.temo(),
    "separate": temperatures.separate(0.1, temperatures.dystress(0.1, 0.3)),
    "temperature free": temperatures.temperature_free(),
    "function": lambda s: 0.1 + 0.05 * s * s,
    "per anchor": jnp.linspace(0.05, 0.3, 42),
}


def _views(n, d=6, dtype=None, seed=0):
    a, b = jax.random.normal(jax.random.key(seed), (2, n, d), dtype)
    return a, a + b  # positives that are closer than negatives, as in training


def _with_gradients(loss):
    """(arrays, temperature) -> the weighted sum, its values, and all gradients, compiled."""

    def weighted(arrays, temperature):
        value = loss(arrays, temperature)
        return jnp.sum(value * jnp.linspace(0.5, 1.5, value.size, dtype=value.dtype)), value

    return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))


def _assert_equal(result, expected, rtol):
    """Equal relative to the largest entry of each array; a temperature counts as one array."""
    one_array = lambda node: isinstance(node, temperatures.Temperature)
    pairs = zip(
        jax.tree.leaves(result, is_leaf=one_array),
        jax.tree.flatten_with_path(expected, is_leaf=one_array)[0],
        strict=True,
    )
    for a, (path, b) in pairs:
        a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]) for x in (a, b))
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        assert error <= rtol, f"{jax.tree_util.keystr(path)}: {error:.1e}"


def _pair(loss, **how):
    call = lambda **strategy: _with_gradients(
        lambda views, temperature: loss(*views, temperature=temperature, **strategy)
    )
    return call(strategy="dense"), call(**how)


@pytest.mark.parametrize("name", LOSSES)
def test_tiled_equals_dense_in_float64(name):
    with jax.enable_x64(True):
        views = _views(21, dtype=jnp.float64)  # three tiles of 7; six for two views together
        dense, tiled = _pair(LOSSES[name], strategy="tiled", tile_size=TILE)
        for low, high in RANGES.values():
            temperature = temperatures.Dystress(
                jnp.float64(low), jnp.float64(high), stop_gradient=False
            )
            # A logit is rounded in proportion to 1 / tau, and exp hands that on.
            rounding = 16 * float(jnp.finfo(jnp.float64).eps) / low
            tolerance = max(1e-12, rounding)
            _assert_equal(tiled(views, temperature), dense(views, temperature), tolerance)


@pytest.mark.ci
@pytest.mark.parametrize("name", OTHER_TEMPERATURES)
def test_tiled_equals_dense_for_every_temperature(name):
    temperature = OTHER_TEMPERATURES[name]
    with jax.enable_x64(True):
        views = _views(21, dtype=jnp.float64)
        leaf = jnp.zeros(())  # something to differentiate where the temperature has no leaf
        if name != "function":
            leaf = jax.tree.map(jnp.float64, temperature)
        loss = lambda a, b, temperature, **how: losses.nt_xent(
            a, b, temperature=OTHER_TEMPERATURES[name] if name == "function" else temperature, **how
        )
        dense, tiled = _pair(loss, strategy="tiled", tile_size=TILE)
        _assert_equal(tiled(views, leaf), dense(views, leaf), 1e-12)


@pytest.mark.ci
@pytest.mark.parametrize("n", [2, 3, 37])
def test_tiled_equals_dense_in_float32_at_any_size(n):
    temperature = jax.tree.map(jnp.float32, temperatures.dystress(0.07, 0.2))
    for loss in (losses.nt_xent, losses.info_nce):
        dense, tiled = _pair(loss, strategy="tiled", tile_size=TILE)
        _assert_equal(tiled(_views(n), temperature), dense(_views(n), temperature), 2e-6)


# One tile; all columns; windows of 2, 3 and 4 tiles around the circle; more rows than columns.
SHAPES = [(9, 1000), (3, 1000), (2, 9), (5, 10), (4, 19), (7, 3)]
# The last number: tiles in a window have a multiple of so many rows. Of 64, which is what users
# have, the first tile holds all rows of a test.
IN_WINDOWS = ("nt_xent", (2, 9), 1)
OF_ANY_SHAPE = [(name, tile, 1) for name in ("nt_xent", "info_nce") for tile in SHAPES]
OF_ANY_SHAPE.append(("nt_xent", (2, 9), 64))


@pytest.mark.parametrize(
    ("name", "tile", "aligned"),
    [
        pytest.param(*case, marks=() if case == IN_WINDOWS else pytest.mark.ci)
        for case in OF_ANY_SHAPE
    ],
)
def test_tiles_of_any_shape_equal_dense(name, tile, aligned, monkeypatch):
    monkeypatch.setattr(_tiled, "ALIGNED", aligned)
    with jax.enable_x64(True):
        views = _views(13, dtype=jnp.float64)
        loss = {"nt_xent": losses.nt_xent, "info_nce": losses.info_nce}[name]
        dense, tiled = _pair(loss, strategy="tiled", tile_size=tile)
        temperature = temperatures.Dystress(jnp.float64(0.1), jnp.float64(0.2))
        _assert_equal(tiled(views, temperature), dense(views, temperature), 1e-12)


def test_accelerators_have_tiles_of_their_own(monkeypatch):
    all_columns = _strategies.Tile(5, 2**31 - 1)
    platform = _strategies.Sizes(4, all_columns, all_columns, pairs=60)
    monkeypatch.setattr(_strategies, "ACCELERATOR", platform)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tiled = _strategies.prepare(_strategies.Auto(), 13, 26, 6)
    assert tiled.row_sum.keywords["tile"] == (2, 26)  # at most 60 pairs
    assert _strategies.prepare(_strategies.Auto(), 2, 2, 6) == _reduction.dense
    dense, tiled = _pair(losses.nt_xent, strategy="auto")
    temperature = jax.tree.map(jnp.float32, temperatures.dystress(0.1, 0.2))
    _assert_equal(tiled(_views(13), temperature), dense(_views(13), temperature), 2e-6)


def test_tiles_of_any_shape_find_the_largest_logits(monkeypatch):
    monkeypatch.setattr(_tiled, "ALIGNED", 1)
    with jax.enable_x64(
        True
    ):  # of a matrix that is its own transpose, at a tau where exp overflows
        views = _views(13, dtype=jnp.float64)
        dense, tiled = _pair(losses.nt_xent, strategy="tiled", tile_size=(2, 9))
        temperature = temperatures.Constant(jnp.float64(0.001))
        _assert_equal(tiled(views, temperature), dense(views, temperature), 1e-11)


SHARDED = {
    name: lambda a, b, labels, loss=LOSSES[name], **how: loss(a, b, **how)
    for name in ("dcl", "dclw", "info_nce", "clip, oblique", "siglip")
} | {"supcon": losses.supcon}


def _mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), auto, devices=jax.devices()[:devices])


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["gathered", "ring"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_gradients_of_an_encoder_are_those_of_the_whole_batch(devices, strategy):
    """The most repeated defect of contrastive training on several devices."""
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "first": jax.random.normal(keys[0], (5, 12)),
        "second": jax.random.normal(keys[1], (12, 6)) / 3,
        "temperature": jax.tree.map(jnp.float32, temperatures.dystress(0.07, 0.2)),
    }
    inputs = tuple(jax.random.normal(key, (24, 5)) for key in keys[2:])
    encode = lambda params, x: jnp.tanh(x @ params["first"]) @ params["second"]

    def loss(params, x, y, **how):
        views = encode(params, x), encode(params, y)
        return losses.nt_xent(*views, temperature=params["temperature"], tile_size=TILE, **how)

    def on_devices(params, x, y):
        local = functools.partial(loss, strategy=strategy, axis_name="data")
        rows = jax.P("data")
        sharded = jax.shard_map(
            local, mesh=_mesh(devices), in_specs=(jax.P(), rows, rows), out_specs=rows
        )
        return jnp.mean(sharded(params, x, y))

    on_one = lambda params, x, y: jnp.mean(loss(params, x, y, strategy="dense"))
    expected = jax.jit(jax.value_and_grad(on_one))(params, *inputs)
    _assert_equal(jax.jit(jax.value_and_grad(on_devices))(params, *inputs), expected, 2e-6)


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["gathered", "ring"])
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_losses_equal_dense(name, strategy):
    devices, n = 4, 12
    loss = SHARDED[name]
    order = jnp.arange(2 * n).reshape(2, devices, -1).swapaxes(0, 1).reshape(-1)

    def on_devices(views, temperature):
        local = lambda a, b, labels, temperature: loss(
            a, b, labels, temperature=temperature, strategy=strategy, axis_name="data", tile_size=4
        )
        rows = jax.P("data")
        sharded = jax.shard_map(
            local, mesh=_mesh(devices), in_specs=(rows, rows, rows, jax.P()), out_specs=rows
        )
        value = sharded(*views, LABELS[:n], temperature)
        # Each device gives its rows of both views: bring them into the order of one device.
        return jnp.zeros_like(value).at[order].set(value) if value.size == 2 * n else value

    with jax.enable_x64(True):
        views = _views(n, dtype=jnp.float64)
        temperature = jax.tree.map(jnp.float64, temperatures.dystress(0.07, 0.2))
        dense = _with_gradients(lambda v, t: loss(*v, LABELS[:n], temperature=t, strategy="dense"))
        result = _with_gradients(on_devices)(views, temperature)
        _assert_equal(result, dense(views, temperature), 1e-12)


def test_the_ring_finds_the_largest_logit_of_all_devices():
    views = _views(12)
    local = lambda a, b: losses.nt_xent(
        a, b, temperature=0.002, strategy="ring", axis_name="data", tile_size=TILE
    )
    sharded = jax.shard_map(
        local, mesh=_mesh(4), in_specs=(jax.P("data"), jax.P("data")), out_specs=jax.P("data")
    )
    expected = losses.nt_xent(*views, temperature=0.002, strategy="dense").mean()
    np.testing.assert_allclose(jax.jit(sharded)(*views).mean(), expected, rtol=2e-6)


@pytest.mark.ci
@pytest.mark.parametrize("tau", [0.1, 0.002])
def test_the_ring_takes_blocks_that_do_not_fill_their_tiles(tau):
    views = _views(14)  # 14 rows of both views on each device: two tiles of 7, three of 5

    def on_devices(tile_size):
        local = functools.partial(
            losses.nt_xent, strategy="ring", axis_name="data", tile_size=tile_size
        )
        rows = jax.P("data")
        sharded = lambda a, b, tau: jax.shard_map(
            lambda a, b, tau: local(a, b, temperature=tau),
            mesh=_mesh(2),
            in_specs=(rows, rows, jax.P()),
            out_specs=rows,
        )(a, b, tau)
        mean = lambda views, tau: sharded(*views, tau).mean()
        return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(views, jnp.float32(tau))

    _assert_equal(on_devices(tile_size=5), on_devices(tile_size=7), 1e-5)


def test_the_ring_holds_two_blocks_and_only_permutes():
    """On the compiled program: its temporaries, and the collectives in it."""
    rows, d, devices, tile = 2048, 128, 8, 16
    loss = lambda a, b, **how: losses.nt_xent(a, b, temperature=0.1, tile_size=tile, **how)
    gradient = lambda loss: lambda a, b, weights: jax.vjp(loss, a, b)[1](weights)

    def compiled(loss, sharding):
        view = jax.ShapeDtypeStruct((rows // 2, d), jnp.float32, sharding=sharding)
        weights = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=sharding)
        return jax.jit(gradient(loss)).lower(view, view, weights).compile()

    split = jax.P("data")
    local = functools.partial(loss, strategy="ring", axis_name="data")
    sharded = jax.shard_map(local, mesh=_mesh(devices), in_specs=(split, split), out_specs=split)
    ring = compiled(sharded, jax.NamedSharding(_mesh(devices), split))
    one = compiled(functools.partial(loss, strategy="tiled"), None)

    temporaries = lambda program: program.memory_analysis().temp_size_in_bytes
    block = rows // devices * (d + 1) * 4  # points and the number of their example
    assert temporaries(ring) <= temporaries(one) / devices + 2 * block
    text = ring.as_text()
    assert "collective-permute" in text
    for other in ("all-reduce", "all-gather", "all-to-all", "reduce-scatter"):
        assert other not in text


@pytest.mark.parametrize("strategy", ["gathered", "ring"])
@pytest.mark.parametrize("case", ["random", "collapsed", "aligned", "antipodal", "zero rows"])
def test_on_devices_every_temperature_stays_finite_and_right(case, strategy):
    """The table of test_losses, in float16: what holds for one device holds for two."""
    a, b = np.random.default_rng(0).standard_normal((2, 2, 8))
    a, b = {
        "random": (a, b),
        "collapsed": (a[[0, 0]], a[[0, 0]]),
        "aligned": (a, a),
        "antipodal": (a, -a),
        "zero rows": (a * [[0.0], [1.0]], b * [[1.0], [0.0]]),
    }[case]
    a, b = (jnp.asarray(x, jnp.float16) for x in (a, b))
    for tau in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        value, gradient = _on_two_devices(strategy)((a, b), jnp.float32(tau))
        # Each device gives its rows of both views: bring them into the order of one device.
        oracles.assert_nt_xent(value.reshape(2, 2).T.reshape(-1), gradient, a, b, tau)


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["dense", "tiled", "gathered", "ring"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_temo_stays_finite_and_right_between_opposite_and_equal_views(dtype, strategy):
    """At s = -1 the slope of its temperature is infinite."""
    x = jax.random.normal(jax.random.key(1), (6, 8)).astype(dtype)
    loss = losses.on_mesh(losses.nt_xent, _mesh(2), strategy=strategy, tile_size=5)

    @jax.jit
    def value_and_gradients(views, temperature):
        def mean(views, temperature):
            value = loss(*views, temperature=temperature)
            return value.mean(), value

        return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(views, temperature)

    for views in ((x, -x), (x, x), (jnp.concatenate([x[:3], -x[:3]]), x)):
        temperature = jax.tree.map(jnp.float32, temperatures.temo())
        (_, value), gradients = value_and_gradients(views, temperature)
        exact = [np.asarray(view, np.float64) for view in views]
        tau = lambda s: 0.01 + 0.04 * np.sqrt(np.maximum(1 + s, 0) / 2)
        # Near s = -1 rounding moves tau by 0.2 % of itself, and a logit of -100 with it.
        expected = oracles.nt_xent(*exact, tau)
        np.testing.assert_allclose(value, expected, rtol=2.5e-3, atol=1e-4)
        assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(gradients))


@functools.cache
def _on_two_devices(strategy):
    split = jax.P("data")
    local = lambda a, b, tau: losses.nt_xent(
        a, b, temperature=tau, strategy=strategy, axis_name="data"
    )
    sharded = jax.shard_map(local, mesh=_mesh(2), in_specs=(split, split, jax.P()), out_specs=split)

    def mean(views, tau):
        value = sharded(*views, tau)
        return value.mean(), value

    def value_and_grad(views, tau):
        (_, value), gradient = jax.value_and_grad(mean, has_aux=True)(views, tau)
        return value, gradient

    return jax.jit(value_and_grad)


@pytest.mark.parametrize("strategy", ["dense", "tiled", "gathered", "ring"])
def test_every_strategy_lowers_for_every_platform(strategy):
    how = {"temperature": temperatures.dystress(), "strategy": strategy, "tile_size": TILE}
    loss = functools.partial(losses.nt_xent, **how)
    if strategy in ("gathered", "ring"):
        local = functools.partial(loss, axis_name="data")
        split = jax.P("data")
        loss = jax.shard_map(local, mesh=_mesh(8), in_specs=(split, split), out_specs=split)
    traced = jax.jit(jax.grad(lambda a, b: loss(a, b).mean())).trace(*_views(24))
    for platform in ("cpu", "cuda", "tpu"):
        assert traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.ci
def test_tiled_works_under_vmap_scan_and_checkpoint():
    views = _views(12)
    how = {"strategy": "tiled", "tile_size": TILE}
    lows = jnp.array([0.001, 0.1, 0.2])  # the first one needs the maximum of each row
    one = lambda low: losses.nt_xent(*views, temperature=temperatures.dystress(low, 0.3), **how)
    expected = jnp.stack([jax.jit(one)(low) for low in lows])
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(lows), expected, rtol=2e-6)
    scanned = jax.lax.scan(lambda carry, low: (carry, one(low)), None, lows)[1]
    np.testing.assert_allclose(scanned, expected, rtol=2e-6)
    total = lambda low: one(low).sum()
    slopes = jax.jit(jax.vmap(jax.grad(total)))(lows)
    slope = jax.jit(jax.grad(jax.checkpoint(total)))(lows[1])
    np.testing.assert_allclose(slopes[1], slope, rtol=1e-5)


def test_forward_mode_needs_the_dense_strategy():
    views = _views(4)
    loss = lambda a, how: losses.nt_xent(a, views[1], temperature=0.1, strategy=how).sum()
    _, slope = jax.jvp(lambda a: loss(a, "dense"), (views[0],), (views[0],))
    np.testing.assert_allclose(slope, 0, atol=1e-4)  # the length of a row does not matter
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda a: loss(a, "tiled"), (views[0],), (views[0],))


def test_auto_picks_dense_for_few_pairs_and_tiles_for_many():
    def loops(n, strategy):
        views = jax.ShapeDtypeStruct((n, 4), jnp.float32)
        loss = lambda a, b: losses.nt_xent(a, b, temperature=0.1, strategy=strategy)
        return "while" in str(jax.make_jaxpr(loss)(views, views)) or "scan" in str(
            jax.make_jaxpr(loss)(views, views)
        )

    assert not loops(512, "auto")
    assert loops(513, "auto")
    assert not loops(513, "dense")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"strategy": "fast"},
            "strategy: found 'fast'; allowed without `axis_name`: dense, tiled, fused, auto.",
        ),
        ({"strategy": "ring"}, "found 'ring'; allowed without `axis_name`: dense"),
        ({"strategy": "tiled", "tile_size": 0}, "tile_size: found 0; allowed: at least 1"),
        ({"strategy": "tiled", "tile_size": (4, 0)}, r"tile_size: found \(4, 0\); allowed"),
        (
            {"strategy": losses.tiled(64), "tile_size": 8},
            r"tile_size: found 8 beside Tiled\(tile=64\); allowed: None, as it has its own",
        ),
        (
            {"strategy": losses.ring("data"), "axis_name": "data"},
            "axis_name: found 'data' beside Ring",
        ),
        ({"strategy": losses.ring("data")}, "axis_name: found 'data', which names no mesh axis"),
        ({"axis_name": "data"}, "axis_name: found 'data', which names no mesh axis here"),
    ],
)
def test_a_strategy_that_cannot_work_is_refused(how, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        losses.nt_xent(*_views(4), temperature=0.1, **how)


def test_a_strategy_for_one_device_is_refused_in_a_shard_map():
    local = lambda a, b: losses.nt_xent(a, b, temperature=0.1, strategy="dense", axis_name="data")
    rows = jax.P("data")
    sharded = jax.shard_map(local, mesh=_mesh(2), in_specs=(rows, rows), out_specs=rows)
    with pytest.raises(ValueError, match="allowed with `axis_name`: gathered, ring, auto"):
        sharded(*_views(4))


@pytest.mark.ci
@pytest.mark.parametrize("name", ["nt_xent", "supcon"])
def test_a_similarity_that_depends_on_the_order_is_not_halved(name):
    weights = jax.random.normal(jax.random.key(7), (6, 6))
    bilinear = lambda a, b: a @ weights @ b.T
    views = _views(21)
    how = {"temperature": 1.0, "similarity": bilinear}
    dense = LOSSES[name](*views, **how, strategy="dense")
    tiled = LOSSES[name](*views, **how, strategy="tiled", tile_size=TILE)
    np.testing.assert_allclose(tiled, dense, rtol=1e-5)


def test_a_similarity_that_closes_over_a_parameter_is_for_the_dense_strategy():
    views = _views(9)

    def loss(weights, strategy):
        bilinear = lambda a, b: a @ weights @ b.T
        how = {"similarity": bilinear, "strategy": strategy}
        return losses.nt_xent(*views, temperature=1.0, **how).mean()

    assert jnp.abs(jax.grad(loss)(jnp.eye(6), "dense")).max() > 0
    with pytest.raises(ValueError, match=r"similarity: .* traced values.* `strategy` dense only"):
        jax.grad(loss)(jnp.eye(6), "tiled")


@pytest.mark.parametrize("strategy", ["gathered", "ring"])
def test_a_plain_function_is_a_temperature_on_devices(strategy):
    views, mesh = _views(16), _mesh(4)
    function = lambda s: 0.1 + 0.1 * s**2
    local = functools.partial(
        losses.nt_xent, temperature=function, strategy=strategy, axis_name="data"
    )
    rows = jax.P("data")
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows), out_specs=rows)
    slope = lambda loss: jax.jit(jax.grad(lambda a, b: loss(a, b).mean()))(*views)
    dense = functools.partial(losses.nt_xent, temperature=function)
    np.testing.assert_allclose(slope(sharded), slope(dense), rtol=1e-4, atol=1e-7)


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_a_function_may_close_over_a_step_or_a_narrow_number(strategy):
    views = _views(21)
    how = {"strategy": strategy, "tile_size": TILE}

    def loss(a, number):
        temperature = lambda s: 0.1 + 0.01 * jnp.asarray(number, jnp.float32) + 0.1 * s**2
        return losses.nt_xent(a, views[1], temperature=temperature, **how).mean()

    expected = jax.grad(loss)(views[0], 3)
    # Inside jit the step is traced; in the gradient of jit it has no gradient of its own.
    np.testing.assert_allclose(jax.grad(jax.jit(loss))(views[0], 3), expected, rtol=1e-5, atol=1e-7)
    slope = jax.jit(jax.grad(loss, argnums=1))
    number = jnp.bfloat16(3.0)
    assert slope(views[0], number).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(slope(views[0], number)), slope(views[0], jnp.float32(3.0)), atol=1e-3
    )
