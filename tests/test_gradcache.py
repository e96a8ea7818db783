"""The gradient of a whole batch, for the memory of a micro-batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import gradcache, losses
from dystress_jax.errors import ArgumentError

N, D = 12, 4


def encode(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"])
    noise = jax.vmap(lambda key: jax.random.normal(key, (D,)))(batch["key"])
    return {"a": hidden @ params["second"], "b": hidden @ params["second"] + 0.1 * noise}


def make():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "first": jax.random.normal(keys[0], (5, 32)),
        "second": jax.random.normal(keys[1], (32, D)),
    }
    batch = {"x": jax.random.normal(keys[2], (N, 5)), "key": jax.random.split(keys[2], N)}
    return params, batch


def loss(embedded):
    return losses.nt_xent(embedded["a"], embedded["b"], temperature=0.2).mean()


def cached(params, batch, micro_batches):
    embedded = gradcache.embed(encode, params, batch, micro_batches=micro_batches)
    value, of_embedded = jax.value_and_grad(loss)(embedded)
    how = {"micro_batches": micro_batches}
    return value, gradcache.pull_back(encode, params, batch, of_embedded, **how)


@pytest.mark.ci
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("jit", [False, True])
def test_it_is_the_gradient_of_the_whole_batch(micro_batches, jit):
    params, batch = make()
    function = functools.partial(cached, micro_batches=micro_batches)
    found = (jax.jit(function) if jit else function)(params, batch)
    expected = jax.value_and_grad(lambda params: loss(encode(params, batch)))(params)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


def test_each_program_has_the_memory_of_a_micro_batch():
    wide = lambda params, x: jnp.tanh(jnp.tanh(x @ params) @ params.T)
    params = jax.ShapeDtypeStruct((8, 4096), jnp.float32)
    rows = lambda n: jax.ShapeDtypeStruct((n, 8), jnp.float32)

    def temporaries(n):
        program = gradcache._share.lower(wide, params, rows(n), rows(n)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(64) < 0.5 * temporaries(256)


@pytest.mark.parametrize(
    ("micro_batches", "message"),
    [(0, "found 0; allowed: at least 1"), (5, "found 5 with a batch of 12; allowed: a divisor")],
)
def test_a_number_that_does_not_divide_the_batch_is_refused(micro_batches, message):
    with pytest.raises(ArgumentError, match=f"micro_batches: {message}"):
        cached(*make(), micro_batches)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": jnp.ones((4, 2)), "scale": jnp.float32(1)}, "found leading axes of 4, a number"),
        ({"x": jnp.ones((4, 2)), "y": jnp.ones(6)}, "found leading axes of 4, 6; allowed: as many"),
    ],
)
def test_arrays_of_other_numbers_of_examples_are_refused(batch, message):
    with pytest.raises(ArgumentError, match=f"batch: {message}"):
        gradcache.cut(batch, 2)


def test_many_shares_of_half_precision_are_added_in_float32():
    x = jax.random.uniform(jax.random.key(0), (1024, 1), jnp.bfloat16)
    embed = lambda w, x: x * w
    ones, w = jnp.ones_like(x), jnp.ones((), jnp.bfloat16)
    found = gradcache.pull_back(embed, w, x, ones, micro_batches=1024)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found), np.float32(x).sum(), rtol=4e-3)


def test_parameters_without_a_gradient_have_none():
    params = {"w": jnp.eye(4), "count": jnp.int32(3), "key": jax.random.key(0)}
    x = jnp.arange(24.0).reshape(6, 4)
    embed = lambda params, x: x @ params["w"]
    found = gradcache.pull_back(embed, params, x, jnp.ones((6, 4)), micro_batches=2)
    np.testing.assert_allclose(found["w"], jnp.tile(x.sum(0)[:, None], 4))
    assert found["count"].dtype == found["key"].dtype == jax.dtypes.float0


def test_rows_that_are_split_over_explicit_devices_are_cut_outside_jit_too():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    x = jnp.arange(32.0).reshape(8, 4)
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    embed = lambda w, x: x @ w
    found = gradcache.embed(embed, jnp.eye(4), split, micro_batches=2)
    np.testing.assert_array_equal(np.asarray(found), x)


def test_what_gives_no_row_an_example_is_refused():
    x = jnp.ones((6, 2))
    for function, shape in ((lambda w, x: x.mean(), r"\(\)"), (lambda w, x: x[:1], r"\(1, 2\)")):
        with pytest.raises(ArgumentError, match=f"found embeddings of shape {shape} of 3 examples"):
            gradcache.embed(function, 1.0, x, micro_batches=2)
