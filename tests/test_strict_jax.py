"""The losses under every strict setting of JAX, and inside every transformation and library."""

import contextlib
import functools

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dystress_jax import losses, schemes, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import every_loss

pytestmark = pytest.mark.slow

N, D = 6, 4
SETTINGS = {
    "numpy_rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "numpy_dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "debug_key_reuse": lambda: jax.debug_key_reuse(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "enable_checks": lambda: jax.enable_checks(True),
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
}


@contextlib.contextmanager
def settings(names):
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(SETTINGS[name]())
        yield


def make(dtype):
    a, b, queue = jax.random.normal(jax.random.key(0), (3, N, D), dtype)
    labels = jnp.arange(N, dtype=jnp.int32) % 3
    return {"a": a, "b": a + b, "queue": queue, "labels": labels, "real": labels < 2}


TEMPERATURE = temperatures.dystress(0.1, 0.3, stop_gradient=False)


def nt_xent(arrays, **how):
    return losses.nt_xent(arrays["a"], arrays["b"], temperature=TEMPERATURE, **how).mean()


def statistics(arrays, **how):
    """Those of a softmax and of a sigmoid."""
    a, b, weights = arrays["a"], arrays["b"], jnp.abs(arrays["queue"] @ arrays["a"].T)
    of_softmax = losses.statistics(
        losses.info_nce, a, b, temperature=TEMPERATURE, weights=weights, **how
    )
    of_sigmoid = losses.statistics(losses.siglip, a, b, scale=10.0, bias=-5.0, **how)
    both = of_softmax.hardest_10_percent + of_sigmoid.hardest_10_percent
    return (both + of_softmax.entropy + of_sigmoid.entropy).mean()


def as_wide(tree, dtype):
    """Floats in that type."""
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(lambda x: x.astype(dtype) if floating(x) else x, tree)


# Each strategy, and each width of numbers.
KINDS = [("dense", False), ("tiled", True)]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "strategy", "x64"),
    [
        (name, *kind)
        for name in every_loss.CASES
        for kind in KINDS
        if kind[1] or name in every_loss.PLAIN  # keywords meet the settings once
    ],
)
def test_every_loss_with_every_keyword_under_every_setting(name, strategy, x64):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        case = every_loss.CASES[name](N)
        given = as_wide((case.arrays, case.numbers, case.fixed), dtype)
        loss = every_loss.with_gradients(
            functools.partial(case.loss, strategy=strategy, tile_size=4)
        )
        with settings(SETTINGS):
            (_, value), slopes = loss(*given)
        assert value.dtype == dtype
        slopes = [x for x in jax.tree.leaves(slopes) if x.dtype != jax.dtypes.float0]
        assert all(np.isfinite(x).all() for x in [value, *slopes])


@pytest.mark.ci
@pytest.mark.parametrize(("strategy", "x64"), KINDS)
def test_statistics_under_every_setting(strategy, x64):
    with jax.enable_x64(x64):
        arrays = make(jnp.float64 if x64 else jnp.float32)
        found = functools.partial(statistics, strategy=strategy, tile_size=4)
        with settings(SETTINGS):
            value = jax.jit(found)(arrays)
        assert np.isfinite(value)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("strategy", "check_vma"), [("gathered", True), ("ring", True), ("ring", False)]
)
@pytest.mark.parametrize("name", ["nt_xent", "supcon", "rgcl", "clip", "siglip"])
def test_each_kind_of_loss_in_a_shard_map_that_is_checked_or_not(name, strategy, check_vma):
    """Value and gradient, of what needs an axis."""
    case, rows = every_loss.CASES[name](N), jax.P("data")
    numbers = {"temperature": jnp.float32(0.2)} if name == "rgcl" else case.numbers
    how = {"strategy": strategy, "axis_name": "data", "tile_size": 2}
    local = lambda arrays, numbers: case.loss(*arrays, **numbers, **how)
    spread = jax.shard_map(
        local, mesh=make_mesh(), in_specs=(rows, jax.P()), out_specs=rows, check_vma=check_vma
    )
    slope = lambda loss: jax.jit(
        jax.value_and_grad(lambda a, others: loss((a, *case.arrays[1:]), others).mean())
    )(case.arrays[0], numbers)
    alone = lambda arrays, numbers: case.loss(*arrays, **numbers, strategy="dense")
    every_loss.assert_same(slope(spread), slope(alone))


def by_vmap(loss, arrays):
    return jax.vmap(lambda a: loss(arrays | {"a": a}))(jnp.stack([arrays["a"]] * 2))[1]


def by_scan(loss, arrays):
    step = lambda total, b: (total + loss(arrays | {"b": b}), None)
    return jax.lax.scan(step, jnp.zeros((), arrays["a"].dtype), arrays["b"][None])[0]


def by_jvp(loss, arrays):
    one = jnp.ones_like(arrays["a"])
    return jax.jvp(lambda a: loss(arrays | {"a": a}), (arrays["a"],), (one,))[0]


def by_checkpoint(loss, arrays):
    return jax.value_and_grad(lambda a: jax.checkpoint(loss)(arrays | {"a": a}))(arrays["a"])[0]


def make_mesh():
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])


def by_shard_map(loss, arrays, *, check_vma, strategy):
    del loss  # which knows nothing of the axis
    mesh, rows = make_mesh(), jax.P("data")
    local = lambda a, b: losses.nt_xent(a, b, temperature=TEMPERATURE, strategy=strategy)
    spread = jax.shard_map(
        local, mesh=mesh, in_specs=(rows, rows), out_specs=rows, check_vma=check_vma
    )
    mean = lambda a: spread(a, arrays["b"]).mean()
    return jax.value_and_grad(mean)(arrays["a"])[0]


OVER_DEVICES = {
    "ring": losses.ring("data", tile=4),
    "gathered": losses.gathered("data", within=losses.tiled(4)),
    "gathered, dense": losses.gathered("data", within=losses.dense()),
}


def by_jvp_over_devices(loss, arrays):
    del loss
    how = {"strategy": losses.gathered("data", within=losses.dense())}
    spread = losses.on_mesh(losses.nt_xent, make_mesh(), **how)
    mean = lambda a: spread(a, arrays["b"], temperature=TEMPERATURE).mean()
    return jax.jvp(mean, (arrays["a"],), (jnp.ones_like(arrays["a"]),))[0]


def by_linen(loss, arrays):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, arrays):
            scale = self.param("scale", lambda key: jnp.ones((), arrays["a"].dtype))
            return loss(arrays | {"a": scale * arrays["a"]})

    variables = {"params": {"scale": jnp.ones((), arrays["a"].dtype)}}
    apply = lambda variables: Model().apply(variables, arrays)
    return jax.value_and_grad(apply)(variables)[0]


def by_nnx(loss, arrays):
    class Model(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones((), arrays["a"].dtype))

    of_model = lambda model: loss(arrays | {"a": model.scale[...] * arrays["a"]})
    return nnx.jit(nnx.value_and_grad(of_model))(Model())[0]


def by_equinox(loss, arrays):
    class Model(equinox.Module):
        scale: jax.Array

    of_model = lambda model: loss(arrays | {"a": model.scale * arrays["a"]})
    model = Model(jnp.ones((), arrays["a"].dtype))
    return equinox.filter_jit(equinox.filter_value_and_grad(of_model))(model)[0]


def by_haiku(loss, arrays):
    import haiku

    def of_model(arrays):
        init = lambda shape, dtype: jnp.ones(shape, dtype)
        scale = haiku.get_parameter("scale", (), arrays["a"].dtype, init)
        return loss(arrays | {"a": scale * arrays["a"]})

    model = haiku.without_apply_rng(haiku.transform(of_model))
    params = model.init(None, arrays)
    return jax.value_and_grad(model.apply)(params, arrays)[0]


WAYS = {
    "jit": lambda loss, arrays: loss(arrays),
    "vmap": by_vmap,
    "scan": by_scan,
    "grad": lambda loss, arrays: jax.value_and_grad(lambda a: loss(arrays | {"a": a}))(arrays["a"])[
        0
    ],
    "jvp": by_jvp,
    "checkpoint": by_checkpoint,
    **{
        f"shard_map, {kind}, {'checked' if check_vma else 'unchecked'}": functools.partial(
            by_shard_map, check_vma=check_vma, strategy=strategy
        )
        for kind, strategy in OVER_DEVICES.items()
        for check_vma in (True, False)
    },
    "jvp, over devices": by_jvp_over_devices,
    "linen": by_linen,
    "nnx.jit": by_nnx,
    "equinox.filter_jit": by_equinox,
    "haiku": by_haiku,
}
OUTSIDE_JIT = ("nnx.jit", "equinox.filter_jit")  # which compile themselves


@pytest.mark.parametrize(
    ("way", "strategy"),
    [
        pytest.param(
            way, strategy, marks=pytest.mark.ci if way == "haiku" or "gathered" in way else ()
        )
        for way in WAYS
        for strategy in ("dense", "tiled")
        # Tiles have no forward mode; over devices there is a strategy of its own.
        if strategy == "dense" or not way.startswith(("jvp", "shard_map"))
    ],
)
def test_every_transformation_and_library(way, strategy):
    """With all settings at once, and the same value in all of them."""
    arrays = make(jnp.float32)
    loss = functools.partial(nt_xent, strategy=strategy, tile_size=4)
    expected = losses.nt_xent(arrays["a"], arrays["b"], temperature=TEMPERATURE).mean()
    run = functools.partial(WAYS[way], loss)
    if way.startswith("shard_map") or "devices" in way:  # moving arrays is not for jit to do
        arrays = jax.device_put(arrays, jax.NamedSharding(make_mesh(), jax.P()))
    # Modules are made outside of jit, of numbers that have to reach the device.
    names = SETTINGS.keys() - ({"transfer_guard"} if way in OUTSIDE_JIT else set())
    with settings(names):
        found = run(arrays) if way in OUTSIDE_JIT else jax.jit(run)(arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# What a program is written for may be an array that is known, as `jnp.float32(0.1)` is.
KNOWN = {
    "label_smoothing": lambda x: losses.nt_xent(
        jnp.eye(3), jnp.eye(3), temperature=0.1, label_smoothing=x(0.1)
    ),
    "label_smoothing of none": lambda x: losses.info_nce(
        jnp.eye(3), jnp.eye(3), temperature=0.1, decoupled=True, label_smoothing=x(0)
    ),
    "alpha": lambda x: schemes.macl(alpha=x(0.5)).resolve(
        (), schemes.of_views(jnp.eye(3), jnp.eye(3))
    ),
    "margin": lambda x: similarities.sphere.with_angular_margin(x(0.2)).for_positives(
        jnp.eye(3), jnp.eye(3)
    ),
    "gammas": lambda x: similarities.kernel(x(1))(jnp.eye(3), jnp.eye(3)),
    "beta": lambda x: schemes.isogclr(8, beta=x(0.5), tau_init=x(0.1)).init(),
    "scales": lambda x: temperatures.learned(0.5, max_scale=x(100))(jnp.zeros(2)),
    "scales of a scheme": lambda x: schemes.learned_scale(optax.sgd(0.1), max_scale=x(100)).init(),
    "epsilon": lambda x: temperatures.temperature_free(epsilon=x(0.1))(jnp.zeros(2)),
    "range": lambda x: temperatures.dystress(x(0.1), x(0.2))(jnp.zeros(2)),
    "rate": lambda x: temperatures.exponential(x(0.1), x(0.2), x(5))(jnp.zeros(2)),
    "beta of negatives": lambda x: temperatures.hard_negatives(x(0.1), x(1)).for_negatives(
        jnp.zeros(2)
    ),
}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", KNOWN)
def test_a_number_may_be_an_array_that_is_known_while_a_program_is_traced(name):
    known = {value: jnp.float32(value) for value in (0, 0.1, 0.2, 0.5, 1, 5, 100)}
    found = jax.jit(lambda: KNOWN[name](known.__getitem__))()
    plain = KNOWN[name](float)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_traced_number_that_a_program_is_written_for_is_refused():
    for made in (similarities.kernel, similarities.sphere.with_angular_margin):
        with pytest.raises(ArgumentError, match="found a traced value; allowed: a number that is"):
            jax.jit(lambda x, made=made: made(x) and x)(1.0)


SCHEMES = {
    "isogclr": schemes.isogclr(9),
    "tempnet": schemes.tempnet(
        jax.random.key(0), num_examples=9, features=D, prototypes=5, optimizer=optax.sgd(0.1)
    ),
    "macl": schemes.macl(),
    "learned": schemes.learned_scale(optax.sgd(0.1)),
}


def step_of_scheme(scheme, state, a, b, rows, key):
    """A step of a scheme, with the gradient of a loss at its temperature."""
    inputs = schemes.of_views(a, b, example=rows, key=key)
    tau = scheme.resolve(state, inputs)
    slope = jax.grad(lambda tau: losses.nt_xent(a, b, temperature=tau).mean())(tau)
    return tau(jnp.ones(2 * N)), scheme.update(state, inputs, slope)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_under_strict_promotion(name):
    a, b = jax.random.normal(jax.random.key(0), (2, N, D))
    step = functools.partial(step_of_scheme, SCHEMES[name], SCHEMES[name].init())
    given = a, b, jnp.arange(N), jax.random.key(1)
    plain = jax.jit(step)(*given)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        strict = jax.jit(lambda *given: step(*given))(*given)
    for one, other in zip(jax.tree.leaves(strict), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
