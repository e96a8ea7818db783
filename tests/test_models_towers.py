"""The towers: sizes of the published pairs, layouts of the tokens, what is refused."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dystress_jax import similarities
from dystress_jax.errors import ArgumentError
from dystress_jax.models import (
    ENCODERS,
    IMAGE_TOWERS,
    image_tower,
    text_tower,
    token_projection,
)
from dystress_jax.models._transformer import Block
from tests.transformer_oracles import count

KEY = jax.random.key(0)


def parameters(tower):
    return sum(count(jax.eval_shape(network.init, KEY)[0]) for network in tower)


def text(**options):
    return parameters(text_tower("text_base", **{"vocab_size": 30_522, **options}))


@functools.cache
def image(**options):
    return parameters(image_tower("vit_base", **options))


@pytest.mark.ci
def test_the_published_pairs_differ_by_as_many_parameters_as_the_released_checkpoints():
    one_token, sixteen = {"dims": 512}, {"dims": 32, "tokens": 16}
    pair = lambda tokens: image(**tokens) + text(**tokens)
    assert pair(sixteen) - pair(one_token) == -583_680


def test_clip_has_as_many_parameters_as_released():
    """openai/CLIP's ViT-B/16: 149,620,737, one of them the logit scale."""
    causal = text(vocab_size=49_408, dims=512, pooling="eot")
    assert image(dims=512) + causal == 149_620_737 - 1


def test_a_projection_is_shared_by_the_tokens_and_lays_them_one_after_another():
    projection = token_projection(width=5, dims=2, tokens=3)
    params, stats = jax.jit(projection.init)(KEY)
    x = np.random.default_rng(0).normal(size=(4, 15)).astype(np.float32)
    found, _ = projection.apply(params, stats, jnp.asarray(x), train=True)
    kernel = np.float64(params["kernel"])
    expected = np.concatenate([x[:, 5 * k : 5 * k + 5] @ kernel for k in range(3)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == jnp.float32


@pytest.mark.parametrize(("dims", "tokens"), [(6, 1), (4, 3), (1, 5)])
def test_projected_tokens_are_those_of_the_oblique_similarity(dims, tokens):
    """The similarity of the rows is the sum over tokens of the cosines of their projections."""
    projection = token_projection(width=7, dims=dims, tokens=tokens)
    params, stats = jax.jit(projection.init)(KEY)
    x = np.random.default_rng(0).normal(size=(3, tokens, 7)).astype(np.float32)
    rows, _ = projection.apply(params, stats, jnp.asarray(x.reshape(3, -1)), train=False)
    found = similarities.oblique(tokens)(rows, rows)
    projected = x @ np.float64(params["kernel"])
    projected /= np.linalg.norm(projected, axis=-1, keepdims=True)
    expected = np.einsum("imd,jmd->ij", projected, projected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


TOWERS = {
    "vit": functools.partial(image_tower, "vit_micro", image_size=16, patch=8),
    "resnet": functools.partial(image_tower, "small", stem="patch"),
    "bidirectional": functools.partial(text_tower, "text_micro", vocab_size=30, context=6),
    "causal": functools.partial(text_tower, "text_micro", vocab_size=30, context=6, pooling="eot"),
}
INPUTS = {
    "vit": jnp.ones((2, 16, 16, 3)),
    "resnet": jnp.ones((2, 16, 16, 3)),
    "bidirectional": jnp.ones((2, 4), jnp.int32),
    "causal": jnp.ones((2, 4), jnp.int32),
}


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize(
    ("dims", "tokens", "mode"), [(12, 1, "multi"), (4, 3, "multi"), (4, 3, "reshape")]
)
def test_embeddings_have_the_asked_shape_or_the_tower_is_refused(name, dims, tokens, mode):
    options = {"dims": dims, "tokens": tokens, "mode": mode}
    if tokens > 1 and mode == "multi" and name in ("resnet", "causal"):
        with pytest.raises(ArgumentError, match=r"mode: found 'multi' with `tokens` 3.* reshape"):
            TOWERS[name](**options)
        return
    encoder, projection = TOWERS[name](**options)

    def embed(key, inputs):
        params, stats = encoder.init(key)
        features, _ = encoder.apply(params, stats, inputs, train=True)
        params, stats = projection.init(key)
        return features, projection.apply(params, stats, features, train=True)[0]

    features, embeddings = jax.eval_shape(embed, KEY, INPUTS[name])
    assert features.shape == (2, 64 * (tokens if mode == "multi" else 1))
    assert embeddings.shape == (2, 12)
    assert embeddings.dtype == jnp.float32
    assert (encoder.out_features, projection.out_features) == (features.shape[1], 12)


def test_every_encoder_is_an_image_tower_that_names_the_settings_it_uses():
    assert list(IMAGE_TOWERS) == list(ENCODERS)
    settings = ("stem", "image_size", "patch", "heads", "freeze_patches", "remat", "channels")
    used = lambda build: [s for s in settings if s in inspect.signature(build).parameters]
    assert used(ENCODERS["resnet18"]) == ["stem", "remat", "channels"]
    of_vit = ["image_size", "patch", "heads", "freeze_patches", "remat", "channels"]
    assert used(ENCODERS["vit_tiny"]) == of_vit
    assert used(IMAGE_TOWERS["resnet18"]) == ["stem", "remat", "channels"]
    assert used(IMAGE_TOWERS["vit_tiny"]) == ["image_size", "patch", "remat", "channels"]
    for build in IMAGE_TOWERS.values():
        kinds = {p.kind for p in inspect.signature(build).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_table_and_the_function_build_the_same_tower():
    made = image_tower("small", dims=4, stem="cifar", channels=1, patch=4, image_size=8)
    listed = IMAGE_TOWERS["small"](dims=4, stem="cifar", channels=1)
    for one, other in zip(made, listed, strict=True):
        assert jax.eval_shape(one.init, KEY) == jax.eval_shape(other.init, KEY)
    with pytest.raises(TypeError, match="patch"):
        IMAGE_TOWERS["small"](dims=4, patch=4)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "inception"}, "name: found 'inception'; allowed: small, .*vit_base"),
        ({"dims": 0}, "dims: found 0; allowed: at least 1"),
        ({"tokens": 0}, "tokens: found 0; allowed: at least 1"),
        ({"mode": "stack"}, "mode: found 'stack'; allowed: multi, reshape"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        image_tower(**{"name": "vit_micro", "dims": 8, **keywords})
    if "name" not in keywords:
        with pytest.raises(ArgumentError, match=message):
            text_tower(**{"name": "text_micro", "vocab_size": 9, "dims": 8, **keywords})


def test_siglips_images_have_no_projection_and_its_texts_have_one_with_a_bias():
    encoder, same = image_tower("vit_micro", dims=64, pooling="attention", image_size=32)
    assert "class_token" not in jax.eval_shape(encoder.init, KEY)[0]
    params, stats = same.init(KEY)
    x = jnp.arange(128.0).reshape(2, 64)
    np.testing.assert_array_equal(same.apply(params, stats, x, train=False)[0], x)
    _, projection = text_tower("text_micro", vocab_size=9, dims=64, pooling="last")
    params, stats = projection.init(KEY)
    moved = {**params, "bias": params["bias"] + 3}
    apply = lambda params: projection.apply(params, stats, x, train=False)[0]
    np.testing.assert_allclose(apply(moved), apply(params) + 3, rtol=1e-6)
    for keywords, message in (
        ({"dims": 32}, "dims: found 32 .* whose 64 features .* allowed: 64"),
        (
            {"dims": 16, "tokens": 4},
            "mode: found 'multi' with `tokens` 4 and `pooling` 'attention'",
        ),
        ({"dims": 64, "quick_gelu": True}, "quick_gelu: found True with `pooling` 'attention'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            image_tower("vit_micro", pooling="attention", image_size=32, **keywords)


def test_a_projection_of_nothing_is_refused():
    with pytest.raises(ArgumentError, match="width: found 0; allowed: at least 1"):
        token_projection(width=0, dims=4)


@pytest.mark.parametrize("name", ["vit", "bidirectional", "causal", "encoder"])
def test_in_bfloat16_the_sums_between_blocks_are_float32(name, monkeypatch):
    seen = set()
    attend, mlp = Block._attend, Block._mlp
    monkeypatch.setattr(
        Block,
        "_attend",
        lambda self, x, mask: seen.add(("stream", x.dtype)) or attend(self, x, mask),
    )
    monkeypatch.setattr(Block, "_mlp", lambda self, x: _noted(seen, mlp(self, x)))
    if name == "encoder":
        network, inputs = ENCODERS["vit_micro"](patch=8, dtype=jnp.bfloat16), INPUTS["vit"]
    else:
        network, inputs = TOWERS[name](dims=4, dtype=jnp.bfloat16)[0], INPUTS[name]

    def features(key):
        params, stats = network.init(key)
        return network.apply(params, stats, inputs, train=True)[0]

    jax.eval_shape(features, KEY)
    assert seen == {("stream", jnp.dtype("float32")), ("inside", jnp.dtype("bfloat16"))}


def _noted(seen, y):
    seen.add(("inside", y.dtype))
    return y


def test_a_block_in_bfloat16_keeps_small_additions_to_long_tokens():
    x = 100 * jax.random.normal(KEY, (2, 5, 16))

    def added(dtype):
        block = Block(16, 2, dtype=dtype, rngs=nnx.Rngs(0))
        return nnx.jit(lambda block, x: block(x))(block, x) - x

    wide, narrow = added(jnp.float32), added(jnp.bfloat16)
    assert jnp.linalg.norm(narrow - wide) < 0.02 * jnp.linalg.norm(wide)


@pytest.mark.ci
def test_eight_devices_equal_one():
    """All towers at once, their batch on one device and spread over eight."""
    options = {"dims": 4, "tokens": 2}
    text = functools.partial(text_tower, "text_micro", vocab_size=9, context=5, **options)
    towers = [
        image_tower("vit_micro", image_size=8, patch=4, **options),
        text(),
        text(pooling="eot", mode="reshape"),
    ]
    states = [[jax.jit(network.init)(KEY) for network in tower] for tower in towers]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 8, 8, 3)).astype(np.float32)
    ids = np.where(np.arange(5) < rng.integers(1, 6, (8, 1)), rng.integers(1, 9, (8, 5)), 0)
    inputs = [images, ids.astype(np.int32), ids.astype(np.int32)]

    def embed(inputs):
        for tower, state, x in zip(towers, states, inputs, strict=True):
            for network, (params, stats) in zip(tower, state, strict=True):
                x, _ = network.apply(params, stats, x, train=True)
            yield x

    def on(devices):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        spread = NamedSharding(mesh, PartitionSpec("data"))
        return jax.jit(lambda x: list(embed(x)))(jax.device_put(inputs, spread))

    for one, eight in zip(on(1), on(8), strict=True):
        assert len(eight.sharding.device_set) == 8
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)
