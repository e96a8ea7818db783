"""CLIP's vision transformer against a float64 NumPy oracle; its size: test_models_towers.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax.errors import ArgumentError
from dystress_jax.models import clip_vit
from dystress_jax.models._clip_vit import ClipVisionTransformer
from dystress_jax.models._functional import functional
from tests.transformer_oracles import CLIP_EPSILON, blocks, layer_norm, patches, scattered


@functools.cache
def tiny(*, remat=False, dtype=jnp.float32):
    """Two blocks of 8 channels, three class tokens, four patches."""
    build = functools.partial(
        ClipVisionTransformer, 8, 2, 2, image_size=8, patch=4, class_tokens=3, channels=3
    )
    return functional(lambda rngs: build(remat=remat, dtype=dtype, rngs=rngs), out_features=24)


IMAGES = jnp.float32(np.random.default_rng(1).normal(size=(2, 8, 8, 3)))


def oracle(images, params, *, patch, heads):
    params = jax.tree.map(np.float64, params)
    x = patches(images, patch) @ params["patches"]["kernel"]
    m = len(params["class_tokens"])
    class_tokens = np.broadcast_to(params["class_tokens"], (len(images), m, x.shape[-1]))
    x = np.concatenate([class_tokens, x], axis=1) + params["positions"]
    norm = functools.partial(layer_norm, epsilon=CLIP_EPSILON)
    x = norm(x, params["norm_first"])
    x = blocks(x, params["blocks"], heads, epsilon=CLIP_EPSILON)
    return norm(x[:, :m], params["norm"]).reshape(len(images), -1)


def test_network_equals_a_float64_oracle():
    params, stats = scattered(tiny())
    apply = jax.jit(tiny().apply, static_argnames="train")
    found, _ = apply(params, stats, IMAGES, train=False)
    assert found.shape == (2, 24)
    expected = oracle(np.asarray(IMAGES), params, patch=4, heads=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_short_tokens_show_the_epsilon_of_clip():
    params, stats = jax.jit(tiny().init)(jax.random.key(0))
    short = ("positions", "class_tokens")
    params = {k: 0.01 * v if k in short else v for k, v in params.items()}
    images = 0.01 * IMAGES
    found, _ = jax.jit(tiny().apply, static_argnames="train")(params, stats, images, train=False)
    expected = oracle(np.asarray(images), params, patch=4, heads=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_class_tokens_stand_first_with_positions_of_their_own():
    """The same token at the same position gives the same feature, at another position another."""
    params, stats = scattered(tiny())
    apply = jax.jit(functools.partial(tiny().apply, train=False))
    tokens = lambda params: np.asarray(apply(params, stats, IMAGES)[0]).reshape(2, 3, 8)
    params["class_tokens"] = jnp.broadcast_to(params["class_tokens"][:1], (3, 8))
    different = tokens(params)
    assert np.abs(different[:, 0] - different[:, 1]).max() > 1e-2
    params["positions"] = params["positions"].at[:3].set(params["positions"][:1])
    alike = tokens(params)
    np.testing.assert_allclose(alike[:, 1:], alike[:, :1].repeat(2, axis=1), rtol=1e-5, atol=1e-6)


def test_rematerialised_gradients_are_the_same_and_reach_every_parameter():
    params, stats = scattered(tiny())
    target = np.random.default_rng(2).normal(size=(2, 24)).astype(np.float32)

    def gradient(network):
        loss = lambda params: jnp.sum(target * network.apply(params, stats, IMAGES, train=True)[0])
        return jax.jit(jax.grad(loss))(params)

    kept, again = gradient(tiny()), gradient(tiny(remat=True))
    for (path, a), b in zip(jax.tree.leaves_with_path(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=str(path))
        share = 0.6 if "'qkv']['bias']" in jax.tree_util.keystr(path) else 0.99
        assert np.mean(np.abs(a) > 1e-7) > share, path


def test_initial_values_are_those_of_clip():
    build = functools.partial(
        ClipVisionTransformer, 64, 0, 1, image_size=32, patch=4, class_tokens=16, channels=3
    )
    network = functional(
        lambda rngs: build(remat=False, dtype=jnp.float32, rngs=rngs), out_features=1024
    )
    params, _ = jax.jit(network.init)(jax.random.key(0))
    assert params["positions"].shape == (16 + 64, 64)
    np.testing.assert_allclose(np.std(params["class_tokens"]), 64**-0.5, rtol=0.1)
    np.testing.assert_allclose(np.std(params["positions"]), 64**-0.5, rtol=0.1)


def test_bfloat16_computes_close_to_float32_and_keeps_parameters_wide():
    params, stats = scattered(tiny())
    apply = lambda network: jax.jit(functools.partial(network.apply, train=True))
    expected, _ = apply(tiny())(params, stats, IMAGES)
    found, _ = apply(tiny(dtype=jnp.bfloat16))(params, stats, IMAGES)
    assert found.dtype == jnp.float32
    assert np.any(found != expected)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "vit_huge"}, "name: found 'vit_huge'; allowed: .*vit_tiny, vit_small"),
        ({"name": "vit_tiny", "patch": 0}, "patch: found 0; allowed: at least 1"),
        ({"name": "vit_tiny", "class_tokens": 0}, "class_tokens: found 0; allowed: at least 1"),
        (
            {"name": "vit_tiny", "image_size": 36},
            "patch: found 16 with images of 36 x 36; .*divisor .* 12",
        ),
        ({"name": "vit_tiny", "image_size": 0}, "image_size: found 0; allowed: at least 1"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        clip_vit(**keywords)


def test_images_of_another_size_are_refused_with_the_numbers():
    params, stats = jax.eval_shape(tiny().init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 8, 12, 3), jnp.float32)
    with pytest.raises(ArgumentError, match=r"image_size: found 8 with images of 8 x 12; .*square"):
        jax.eval_shape(functools.partial(tiny().apply, train=True), params, stats, images)
