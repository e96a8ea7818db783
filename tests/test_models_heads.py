"""The projection heads against closed-form sizes and a float64 NumPy oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax.models import projector


def apply(head):
    return jax.jit(functools.partial(head.apply, train=True))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "keywords", "expected"),
    [
        ("simclr", {}, 512 * 512 + 2 * 512 + 512 * 128 + 128),
        ("simclr", {"hidden": 2048, "out": 64}, 512 * 2048 + 2 * 2048 + 2048 * 64 + 64),
        ("simclr3", {}, 2 * (512 * 512 + 2 * 512) + 512 * 128 + 128),
        ("dystress_cifar", {}, 512 * 512 + 2 * 512 + 512 * 128),
        ("none", {}, 0),
    ],
)
def test_parameters_are_as_many_as_the_layers_say(name, keywords, expected):
    head = projector(name, in_features=512, **keywords)
    params, _ = jax.eval_shape(head.init, jax.random.key(0))
    assert count(params) == expected
    assert head.out_features == (512 if name == "none" else keywords.get("out", 128))


def oracle(x, params, *, layers, last_norm):
    """Linear, BN, ReLU, ..., linear, perhaps BN without offset; in training mode, float64."""
    x = np.float64(x)
    for i in range(1, layers + 1):
        x = x @ np.float64(params["linears"][f"layer{i}"]["kernel"])
        if i < layers or last_norm:
            norm = params["norms"][f"layer{i}"]
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.float64(norm["scale"])
            x = x + np.float64(norm["bias"]) if i < layers else x
        x = np.maximum(x, 0) if i < layers else x
    return x


@pytest.mark.parametrize(
    ("name", "layers", "last_norm"),
    [("simclr", 2, True), ("simclr3", 3, True), ("dystress_cifar", 2, False)],
)
def test_head_equals_a_float64_oracle(name, layers, last_norm):
    head = projector(name, in_features=10, hidden=7, out=5)
    params, stats = jax.jit(head.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.float32(leaf + rng.uniform(0.1, 0.3, leaf.shape)), params
    )
    x = jnp.asarray(rng.normal(size=(16, 10)), jnp.float32)
    found, _ = apply(head)(params, stats, x)
    expected = oracle(x, params, layers=layers, last_norm=last_norm)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_head_returns_float32_close_to_the_wide_one():
    wide = projector("simclr3", in_features=16)
    narrow = projector("simclr3", in_features=16, dtype=jnp.bfloat16)
    params, stats = jax.jit(narrow.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (32, 16))
    found, new_stats = apply(narrow)(params, stats, x)
    expected, _ = apply(wide)(params, stats, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, found, new_stats)))
    assert np.any(found != expected)
    cosine = np.sum(found * expected, 1) / np.linalg.norm(found, axis=1)
    assert np.min(cosine / np.linalg.norm(expected, axis=1)) > 0.999


def test_none_returns_the_features():
    head = projector("none", in_features=3)
    params, stats = head.init(jax.random.key(0))
    x = jnp.arange(6.0).reshape(2, 3)
    found, stats = head.apply(params, stats, x, train=True)
    np.testing.assert_array_equal(found, x)
    assert params == stats == {}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "mlp", "in_features": 8}, "unknown head 'mlp'.*'simclr', 'simclr3'"),
        ({"name": "simclr", "in_features": 0}, "in_features is a number of features.*found 0"),
        ({"name": "simclr", "in_features": 8, "hidden": 0}, "hidden .*found 0"),
        ({"name": "simclr", "in_features": 8, "out": -1}, "out .*found -1"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ValueError, match=message):
        projector(**keywords)
