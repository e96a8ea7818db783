"""The projection heads against closed-form sizes and a float64 NumPy oracle."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dystress_jax.errors import ArgumentError
from dystress_jax.models import HEADS, projector
from dystress_jax.models._norm import BatchNorm


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
        ("dystress_cifar", {}, 512 * 512 + 2 * 512 + 512 * 128 + 2 * 128),
        ("byol", {}, 512 * 512 + 2 * 512 + 512 * 128),
        ("moco_v2", {}, 512 * 512 + 512 + 512 * 128 + 128),
        ("moco_v3", {"hidden": 4096, "out": 256}, 512 * 4096 + 2 * 4096 + 4096 * 256),
        ("moco_v3_vit", {}, 2 * (512 * 512 + 2 * 512) + 512 * 128),
        ("none", {}, 0),
    ],
)
def test_parameters_are_as_many_as_the_layers_say(name, keywords, expected):
    head = projector(name, in_features=512, **keywords)
    params, _ = jax.eval_shape(head.init, jax.random.key(0))
    assert count(params) == expected
    assert head.out_features == (512 if name == "none" else keywords.get("out", 128))


def oracle(x, params, *, layers, norms, last_offset=False):
    """Linear, perhaps BN, ReLU, ..., linear, perhaps BN; in training mode, float64."""
    x = np.float64(x)
    for i in range(1, layers + 1):
        linear = params["linears"][f"layer{i}"]
        assert ("bias" in linear) == (norms == 0)
        x = x @ np.float64(linear["kernel"]) + np.float64(linear.get("bias", 0))
        if i <= norms:
            norm = params.get("norms", {}).get(f"layer{i}", {})
            assert ("bias" in norm) == (i < layers or last_offset)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.float64(norm.get("scale", 1))
            x = x + np.float64(norm.get("bias", 0))
        x = np.maximum(x, 0) if i < layers else x
    return x


@pytest.mark.parametrize(
    ("name", "layers", "norms"),
    [
        ("simclr", 2, 2),
        ("simclr3", 3, 3),
        ("dystress_cifar", 2, 2),
        ("byol", 2, 1),
        ("moco_v2", 2, 0),
        ("moco_v3", 2, 2),
        ("moco_v3_vit", 3, 3),
    ],
)
def test_head_equals_a_float64_oracle(name, layers, norms):
    head = projector(name, in_features=10, hidden=7, out=5)
    params, stats = jax.jit(head.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.float32(leaf + rng.uniform(0.1, 0.3, leaf.shape)), params
    )
    x = jnp.asarray(rng.normal(size=(16, 10)), jnp.float32)
    found, _ = apply(head)(params, stats, x)
    last_offset = name == "dystress_cifar"
    expected = oracle(x, params, layers=layers, norms=norms, last_offset=last_offset)
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


def test_builders_name_the_settings_that_they_use():
    settings = ("hidden", "out", "bn_groups")
    used = {
        name: [s for s in settings if s in inspect.signature(build).parameters]
        for name, build in HEADS.items()
    }
    assert used.pop("none") == []
    assert used.pop("moco_v2") == ["hidden", "out"]  # no BatchNorm
    assert list(used) == ["simclr", "simclr3", "dystress_cifar", "byol", "moco_v3", "moco_v3_vit"]
    assert all(found == list(settings) for found in used.values())


@pytest.mark.parametrize(
    ("name", "centred"), [("dystress_cifar", True), ("simclr", True), ("byol", False)]
)
def test_a_last_norm_starts_similarities_around_zero(name, centred):
    head = projector(name, in_features=64, out=32)
    params, stats = head.init(jax.random.key(0))
    features = jnp.abs(jax.random.normal(jax.random.key(1), (128, 64)))  # as after a ReLU
    z, _ = apply(head)(params, stats, features)
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    mean = float(jnp.mean((z @ z.T)[~np.eye(128, dtype=bool)]))
    assert (abs(mean) < 0.02) if centred else (mean > 0.1)


@pytest.mark.parametrize("hidden", [0, None])
def test_without_a_width_the_hidden_layers_are_as_wide_as_the_features(hidden):
    head = projector("simclr", in_features=6, hidden=hidden, out=2)
    params, _ = jax.eval_shape(head.init, jax.random.key(0))
    assert params["linears"]["layer1"]["kernel"].shape == (6, 6)


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
        ({"name": "mlp", "in_features": 8}, "name: found 'mlp'; allowed: simclr, simclr3, .*none"),
        ({"name": "simclr", "in_features": 0}, "in_features: found 0; allowed: at least 1"),
        ({"name": "simclr", "in_features": 8, "hidden": -1}, "hidden: found -1"),
        ({"name": "simclr", "in_features": 8, "out": -1}, "out: found -1; allowed: at least 1"),
        (
            {"name": "simclr", "in_features": 8, "bn_groups": 0},
            "bn_groups: found 0; allowed: at least 1",
        ),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        projector(**keywords)


@pytest.mark.parametrize("shape", [(12, 5), (12, 2, 3, 5)])
def test_groups_of_the_batch_have_statistics_of_their_own(shape):
    groups = 3
    norm = BatchNorm(5, groups=groups, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    norm.scale[...], norm.bias[...] = jnp.float32(rng.normal(size=(2, 5)))
    x = rng.normal(size=shape) * np.arange(1, 13).reshape(12, *[1] * (len(shape) - 1))
    found = nnx.jit(lambda m, x: m(x, use_running_average=False))(norm, jnp.float32(x))

    means, variances, unbiased, expected = [], [], [], []
    for part in np.split(x, groups):
        axes = tuple(range(part.ndim - 1))
        means.append(part.mean(axes))
        variances.append(part.var(axes))
        unbiased.append(part.var(axes, ddof=1))
        expected.append((part - means[-1]) / np.sqrt(variances[-1] + 1e-5))
    expected = np.concatenate(expected) * np.float64(norm.scale[...]) + np.float64(norm.bias[...])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * np.mean(unbiased, 0), rtol=1e-4)


def test_one_group_is_batch_norm_and_evaluation_knows_no_groups():
    x = np.float32(np.random.default_rng(0).normal(size=(8, 3)))
    one, four = (BatchNorm(3, groups=groups, rngs=nnx.Rngs(0)) for groups in (1, 4))
    evaluated = [norm(jnp.asarray(x), use_running_average=True) for norm in (one, four)]
    np.testing.assert_array_equal(*evaluated)
    np.testing.assert_allclose(
        one(jnp.asarray(x), use_running_average=False),
        (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(one.var[...], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_running_variance_after_steps_is_the_unbiased_one(groups):
    norm = BatchNorm(3, groups=groups, rngs=nnx.Rngs(0))
    running = np.ones(3)
    for step in range(3):
        x = np.random.default_rng(step).normal(size=(8, 3)) * [1, 10, 100]
        norm(jnp.float32(x), use_running_average=False)
        parts = np.split(x, groups)
        running = 0.9 * running + 0.1 * np.mean([part.var(0, ddof=1) for part in parts], axis=0)
    np.testing.assert_allclose(norm.var[...], running, rtol=1e-5)


def test_a_batch_that_the_groups_cannot_share_is_refused():
    norm = BatchNorm(3, groups=4, rngs=nnx.Rngs(0))
    with pytest.raises(ArgumentError, match=r"bn_groups: found 4 with a batch of 10 rows; .*div"):
        norm(jnp.ones((10, 3)), use_running_average=False)
