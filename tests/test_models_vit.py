"""The vision transformers against their published sizes and a float64 NumPy oracle."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dystress_jax.errors import ArgumentError
from dystress_jax.models import vit
from dystress_jax.models._functional import functional
from dystress_jax.models._transformer import Block, Blocks
from dystress_jax.models._vit import VisionTransformer, sincos_positions
from tests.transformer_oracles import (
    attention_pool,
    blocks,
    count,
    layer_norm,
    linear,
    patches,
    scattered,
    tanh_gelu,
)


@functools.cache
def tiny(*, frozen=False, pool=False, dtype=jnp.float32):
    """Two blocks of 8 channels."""
    build = functools.partial(VisionTransformer, 8, 2, 2, patch=4, channels=3, pool=pool)
    return functional(
        lambda rngs: build(freeze_patches=frozen, dtype=dtype, rngs=rngs), out_features=8
    )


# Published sizes of torchvision's vit_b_16 and timm's deit_{tiny,small}_patch16_224, less the
# classifier and the learned positions (197 tokens), which are fixed here.
@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "width", "patch", "published"),
    [
        ("vit_tiny", 192, 4, 5_717_416),
        ("vit_small", 384, 16, 22_050_664),
        ("vit_base", 768, 16, 86_567_656),
    ],
)
def test_parameters_are_as_many_as_published(name, width, patch, published):
    network = vit(name, patch=patch)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    patches = 3 * (16 * 16 - patch * patch) * width
    assert count(params) == published - (1000 * width + 1000) - 197 * width - patches
    assert network.out_features == width
    assert stats == {}


def positions(rows, columns, width):
    table = np.zeros((rows, columns, width))
    for row in range(rows):
        for column in range(columns):
            for k in range(width // 4):
                frequency = 10_000.0 ** (-k / (width // 4))
                angles = [f(p * frequency) for p in (row, column) for f in (math.sin, math.cos)]
                table[row, column, k :: width // 4] = angles
    return table


def oracle(images, params, *, patch, heads):
    """The network in float64, patch by patch, from the papers."""
    params = jax.tree.map(np.float64, params)
    n, height, width, _ = images.shape
    x = linear(patches(images, patch), params["patches"])
    d = x.shape[-1]
    x = x + positions(height // patch, width // patch, d).reshape(1, -1, d)
    x = np.concatenate([np.broadcast_to(params["class_token"], (n, 1, d)), x], axis=1)
    x = blocks(x, params["blocks"], heads)
    return layer_norm(x[:, 0], params["norm"])


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 4, 12, 3)])
def test_network_equals_a_float64_oracle_at_any_image_size(shape):
    params, stats = scattered(tiny())
    images = jax.random.normal(jax.random.key(1), shape)
    apply = jax.jit(tiny().apply, static_argnames="train")
    found, _ = apply(params, stats, images, train=True)
    expected = oracle(np.asarray(images), params, patch=4, heads=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    evaluated, _ = apply(params, stats, images, train=False)
    np.testing.assert_array_equal(evaluated, found)


def test_attention_pooling_equals_a_float64_oracle():
    network = tiny(pool=True)
    params, stats = scattered(network)
    images = jax.random.normal(jax.random.key(1), (2, 4, 12, 3))
    found, _ = jax.jit(functools.partial(network.apply, train=False))(params, stats, images)
    assert "class_token" not in params
    wide = jax.tree.map(np.float64, params)
    x = linear(patches(np.asarray(images), 4), wide["patches"]) + positions(1, 3, 8).reshape(
        1, 3, 8
    )
    x = layer_norm(blocks(x, wide["blocks"], 2, gelu=tanh_gelu), wide["norm"])
    expected = attention_pool(x, wide["pool"], 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_learned_positions_are_those_of_the_patches_where_there_is_no_class_token():
    network = vit("vit_micro", patch=4, positions="learned", pooling="attention", image_size=8)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert params["positions"].shape == (4, 64)
    with pytest.raises(ArgumentError, match=r"pooling: found 'map'; allowed: .*attention"):
        vit("vit_micro", pooling="map")


def test_blocks_run_in_the_order_of_their_numbers(monkeypatch):
    """Not in that of their names, in which block10 comes before block2."""
    monkeypatch.setattr(Block, "__call__", lambda self, x, mask: 2 * x + self.norm1.bias[0])
    graph, state = nnx.split(Blocks(11, 2, 1, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x, expected = jnp.zeros((1, 1, 2)), 0.0
    for i in range(11):
        state[f"block{i + 1}"]["norm1"]["bias"][...] = jnp.full(2, float(i))
        expected = 2 * expected + i
    np.testing.assert_array_equal(nnx.merge(graph, state)(x), np.full((1, 1, 2), expected))


def test_positions_equal_their_formula():
    np.testing.assert_allclose(sincos_positions(3, 5, 16), positions(3, 5, 16), atol=1e-6)


def test_gradients_reach_every_parameter():
    params, stats = scattered(tiny())
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    target = jax.random.normal(jax.random.key(2), (4, 8))
    loss = lambda params: jnp.sum(target * tiny().apply(params, stats, images, train=True)[0])
    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.all(np.isfinite(gradient)), path
        # A bias of the keys shifts all logits of a query alike: the softmax forgets it.
        share = 0.6 if "'qkv']['bias']" in jax.tree_util.keystr(path) else 0.99
        assert np.mean(np.abs(gradient) > 1e-7) > share, path


def test_frozen_patches_are_statistics_that_stay_as_they_are():
    frozen, trained = tiny(frozen=True), tiny()
    params, stats = jax.jit(frozen.init)(jax.random.key(0))
    all_params, _ = jax.jit(trained.init)(jax.random.key(0))
    assert "patches" not in params
    assert stats["patches"]["kernel"].shape == (4 * 4 * 3, 8)
    np.testing.assert_array_equal(stats["patches"]["kernel"], all_params["patches"]["kernel"])
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    apply = lambda network: jax.jit(functools.partial(network.apply, train=True))
    found, new_stats = apply(frozen)(params, stats, images)
    jax.tree.map(np.testing.assert_array_equal, new_stats, stats)
    expected, _ = apply(trained)(all_params, {}, images)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_initial_values_are_those_of_moco_v3():
    params, _ = jax.jit(tiny().init)(jax.random.key(0))
    block = params["blocks"]["block1"]
    assert np.abs(params["class_token"]).max() < 1e-5
    for kernel, fans in [(block["qkv"], 8 + 8), (block["mlp1"], 8 + 32), (params["patches"], 56)]:
        bound = math.sqrt(6 / fans)
        largest = np.abs(kernel["kernel"]).max()
        assert 0.9 * bound < largest <= bound
        assert not np.any(kernel["bias"])


def test_bfloat16_computes_close_to_float32_and_keeps_parameters_wide():
    params, stats = scattered(tiny())
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    apply = lambda network: jax.jit(functools.partial(network.apply, train=True))
    expected, _ = apply(tiny())(params, stats, images)
    found, _ = apply(tiny(dtype=jnp.bfloat16))(params, stats, images)
    assert found.dtype == jnp.float32
    assert np.any(found != expected)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.ci
@pytest.mark.parametrize("heads", [0, None])
def test_without_a_number_of_heads_there_are_those_of_the_size(heads):
    images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)

    def program(heads):
        network = vit("vit_mini", patch=4, heads=heads)
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        apply = functools.partial(network.apply, train=False)
        return str(jax.make_jaxpr(apply)(params, stats, images))

    assert program(heads) == program(4)
    assert program(heads) != program(2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "vit_huge"}, "name: found 'vit_huge'; allowed: .*vit_tiny, vit_small"),
        ({"name": "vit_tiny", "patch": 0}, "patch: found 0; allowed: at least 1"),
        ({"name": "vit_tiny", "heads": 5}, "heads: found 5 with vit_tiny, which is 192 wide; .* 4"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        vit(**keywords)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 10, 3), "patch: found 4 with images of 8 x 10; .*divisor of both sides, .* 2"),
        ((1, 10, 10, 3), "patch: found 4 with images of 10 x 10; .*divisor of their side, .* 2"),
        ((1, 2, 2, 3), "patch: found 4 with images of 2 x 2; .*example 2"),
        ((1, 8, 8, 1), r"channels: found 3 with images of shape \(1, 8, 8, 1\); .* 1\."),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_numbers(shape, message):
    params, stats = jax.eval_shape(tiny().init, jax.random.key(0))
    with pytest.raises(ArgumentError, match=message):
        jax.eval_shape(
            functools.partial(tiny().apply, train=True),
            params,
            stats,
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
