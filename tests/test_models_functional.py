"""The adapter: pure functions that live under jit, grad and sharding; and the BatchNorm in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dystress_jax import models
from dystress_jax.models import projector, resnet
from dystress_jax.models._norm import BatchNorm

KINDS = {
    "resnet": resnet("small", stem="cifar", width=4),
    "convnext": models.convnext("convnext_atto", patch=1),
    "vit": models.vit("vit_micro", patch=4),
    "vit, learned positions": models.vit("vit_micro", patch=4, positions="learned", image_size=8),
    "clip_vit": models.clip_vit("vit_micro", patch=4, image_size=8, class_tokens=2),
    "text": models.text_transformer("text_micro", vocab_size=20, context=5),
    "tokens": models.token_projection(width=8, dims=4, use_bias=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_arrays_and_features_are_float32_where_float64_is_allowed(name):
    """So that a run goes on, and is loaded, whatever JAX_ENABLE_X64 says."""
    network = KINDS[name]
    images = name not in ("text", "tokens")
    shape, kind = ((2, 8, 8, 3), jnp.float32) if images else ((2, 5), jnp.int32)
    shape, kind = ((2, 8), jnp.float32) if name == "tokens" else (shape, kind)
    with jax.enable_x64(True):
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        apply = lambda *args: network.apply(*args, train=True)[0]
        found = jax.eval_shape(apply, params, stats, jax.ShapeDtypeStruct(shape, kind))
    leaves = jax.tree.leaves((params, stats))
    floats = {x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {jnp.dtype(jnp.float32)}
    assert found.dtype == jnp.float32


NETWORKS = {
    "resnet": (resnet("small", stem="cifar", width=4), (16, 8, 8, 3)),
    "head": (projector("simclr", in_features=12, out=6), (16, 12)),
}


@pytest.fixture(params=NETWORKS.values(), ids=list(NETWORKS), scope="module")
def case(request):
    network, shape = request.param
    params, stats = jax.jit(network.init)(jax.random.key(0))
    return network, params, stats, jax.random.normal(jax.random.key(1), shape)


def step(network, params, stats, inputs):
    """A step of descent on an arbitrary loss: what the trainer does to a network."""

    def loss(params):
        outputs, new_stats = network.apply(params, stats, inputs, train=True)
        return jnp.mean((outputs - jnp.linspace(0, 1, network.out_features)[None]) ** 2), new_stats

    (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, stats, gradients


def test_state_is_nested_dicts_of_float32_arrays_under_string_keys(case):
    _, params, stats, _ = case
    leaves = jax.tree.leaves_with_path((params, stats))
    assert len(leaves) > 6
    for path, leaf in leaves:
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert all(isinstance(key.key, str) for key in path[1:])
    assert {path[-1].key for path, _ in jax.tree.leaves_with_path(stats)} == {"mean", "var"}


def test_init_is_a_function_of_the_key(case):
    network, params, stats, _ = case
    init = jax.jit(network.init)
    jax.tree.map(np.testing.assert_array_equal, (params, stats), init(jax.random.key(0)))
    other, _ = init(jax.random.key(1))
    kernels = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim > 1]
    for a, b in zip(kernels(params), kernels(other), strict=True):
        assert np.all(a != b)


def test_init_under_jit_is_born_with_its_sharding(case):
    network, params, stats, _ = case
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, P())
    born = jax.jit(network.init, out_shardings=replicated)(jax.random.key(0))
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(born))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, born, (params, stats))


def test_step_compiles_once_and_trains(case):
    network, params, stats, inputs = case
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def descend(params, stats, inputs):
        traces.append(1)
        value, stats, gradients = step(network, params, stats, inputs)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), stats, value

    params, stats = jax.tree.map(jnp.copy, (params, stats))
    values = []
    for _ in range(5):
        params, stats, value = descend(params, stats, inputs)
        values.append(float(value))
    assert len(traces) == 1
    assert values[-1] < values[0]


def test_evaluation_treats_every_example_alone_and_keeps_the_statistics(case):
    network, params, stats, inputs = case
    train = jax.jit(functools.partial(network.apply, train=True))
    apply = jax.jit(functools.partial(network.apply, train=False))
    _, stats = train(params, stats, inputs)
    together, same_stats = apply(params, stats, inputs)
    jax.tree.map(np.testing.assert_array_equal, same_stats, stats)
    alone = jnp.concatenate([apply(params, stats, row[None])[0] for row in inputs[:3]])
    np.testing.assert_allclose(together[:3], alone, rtol=1e-5, atol=1e-6)
    trained, new_stats = train(params, stats, inputs)
    assert np.max(np.abs(trained - together)) > 0.01
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(lambda a, b: a != b, new_stats, stats))))


@pytest.mark.ci
def test_eight_devices_equal_one(case):
    network, params, stats, inputs = case
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.jit(functools.partial(step, network))
    one = run(params, stats, inputs)
    put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    eight = run(put(params, P()), put(stats, P()), put(inputs, P("data")))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    jax.tree.map(close, eight, one)


def batch_norm(x):
    """Normalise by a fresh layer; also the batch statistics, read back from the running ones."""
    layer = BatchNorm(x.shape[-1], rngs=nnx.Rngs(0))
    y = layer(x)
    return y, layer.mean[...] / 0.1, (layer.var[...] - 0.9) / 0.1


def test_batch_norm_keeps_its_digits_when_the_mean_is_large():
    x = np.random.default_rng(0).normal(1000.0, 1.0, size=(512, 4)).astype(np.float32)
    y, mean, var = batch_norm(jnp.asarray(x))
    wide = np.float64(x)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var(0, ddof=1), rtol=1e-4)
    expected = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-3)


def test_batch_norm_reduces_bfloat16_inputs_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 1.0, size=(4096, 4)), jnp.bfloat16)
    y, mean, var = batch_norm(x)
    wide = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, wide.var(0, ddof=1), rtol=1e-4)


def test_statistics_may_be_arrays_of_numpy(case):
    network, params, stats, inputs = case
    restored = jax.tree.map(np.asarray, stats)
    train = jax.jit(lambda params: network.apply(params, restored, inputs, train=True))
    outputs, moved = train(jax.tree.map(np.asarray, params))
    expected, as_moved = jax.jit(functools.partial(network.apply, train=True))(
        params, stats, inputs
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_allclose, moved, as_moved)
    jax.tree.map(np.testing.assert_array_equal, restored, jax.tree.map(np.asarray, stats))
