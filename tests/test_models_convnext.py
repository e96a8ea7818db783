"""ConvNeXt against its published sizes, a float64 NumPy oracle and timm's values."""

import functools
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dystress_jax.errors import ArgumentError
from dystress_jax.models import ENCODERS, IMAGE_TOWERS
from dystress_jax.models._convnext import Block, ConvNeXt, convnext
from dystress_jax.models._functional import functional
from tests.transformer_oracles import count, layer_norm, mlp, scattered

KEY = jax.random.key(0)
DEPTHS = {
    "convnext_atto": (2, 2, 6, 2),
    "convnext_pico": (2, 2, 6, 2),
    "convnext_tiny": (3, 3, 9, 3),
}
WIDTHS = {
    "convnext_atto": (40, 80, 160, 320),
    "convnext_pico": (64, 128, 256, 512),
    "convnext_tiny": (96, 192, 384, 768),
}


@functools.cache
def abstract(name, **options):
    network = ENCODERS[name](**options)
    return network, *jax.eval_shape(network.init, KEY)


@functools.cache
def tiny(*, depths=(1, 2), widths=(4, 6), patch=2, remat=False, dtype=jnp.float32):
    build = functools.partial(ConvNeXt, depths, widths, patch=patch, channels=3)
    return functional(
        lambda rngs: build(remat=remat, dtype=dtype, rngs=rngs), out_features=widths[-1]
    )


@functools.cache
def compiled(network):
    return jax.jit(functools.partial(network.apply, train=True))


IMAGES = jnp.float32(np.random.default_rng(1).normal(size=(2, 11, 9, 3)))


# Published counts with the classifier of 1000 classes: timm 1.0.31 for all, torchvision's
# documentation for convnext_tiny too.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("convnext_atto", 3_695_520),
        ("convnext_pico", 9_045_672),
        ("convnext_tiny", 28_589_128),
    ],
)
def test_parameters_are_as_many_as_published(name, published):
    network, params, stats = abstract(name)
    assert network.out_features == WIDTHS[name][-1]
    assert count(params) == published - (1000 * network.out_features + 1000)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert stats == {}


@pytest.mark.parametrize("name", DEPTHS)
def test_every_convolution_has_its_published_shape(name):
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    network, *state = abstract(name)
    trace = jax.make_jaxpr(functools.partial(network.apply, train=False))(*state, images)
    found = [
        (
            e.invars[1].aval.shape[0],
            e.params["window_strides"][0],
            e.params["padding"][0],
            e.params["feature_group_count"],
            *e.outvars[0].aval.shape[1:],
        )
        for e in trace.jaxpr.eqns
        if e.primitive.name == "conv_general_dilated"
    ]
    expected = []
    for stage, (depth, width) in enumerate(zip(DEPTHS[name], WIDTHS[name], strict=True)):
        side, size = 56 // 2**stage, 2 if stage else 4
        expected.append((size, size, (0, 0), 1, side, side, width))
        expected += depth * [(7, 1, (3, 3), width, side, side, width)]
    assert found == expected


def conv(x, params, stride):
    """Without padding; what fills no window is left out."""
    kernel = params["kernel"]
    size = len(kernel)
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    window = lambda i, j: x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
    taps = [(i, j) for i in range(size) for j in range(size)]
    y = sum(window(i, j)[:, :rows, :columns] @ kernel[i, j] for i, j in taps)
    return y + params["bias"]


def depthwise(x, params):
    """Position by position, from the definition."""
    n, rows, columns, channels = x.shape
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    y = np.empty_like(x)
    for row in range(rows):
        for column in range(columns):
            window = padded[:, row : row + 7, column : column + 7]
            y[:, row, column] = (window * params["kernel"][:, :, 0]).sum((1, 2))
    assert y.shape == (n, rows, columns, channels)
    return y + params["bias"]


def oracle(images, params, *, depths, patch):
    params = jax.tree.map(np.float64, params)
    layers = params["layers"]
    x = conv(np.float64(images), layers["stem"]["conv"], patch)
    x = layer_norm(x, layers["stem"]["norm"])
    for stage, depth in enumerate(depths, 1):
        if stage > 1:
            p = layers[f"stage{stage}_downsampling"]
            x = conv(layer_norm(x, p["norm"]), p["conv"], 2)
        for i in range(depth):
            p = layers[f"stage{stage}_block{i + 1}"]
            y = mlp(layer_norm(depthwise(x, p["conv"]), p["norm"]), p)
            x = x + p["layer_scale"] * y
    return layer_norm(x.mean((1, 2)), params["norm"])


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_network_equals_a_float64_oracle(patch):
    network = tiny(patch=patch)
    params, stats = scattered(network)
    apply = jax.jit(network.apply, static_argnames="train")
    found, _ = apply(params, stats, IMAGES, train=True)
    expected = oracle(IMAGES, params, depths=(1, 2), patch=patch)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    evaluated, _ = apply(params, stats, IMAGES, train=False)
    np.testing.assert_array_equal(evaluated, found)


@pytest.mark.ci
def test_blocks_run_in_the_order_of_their_numbers():
    """Not in that of their names, in which block10 comes before block2."""
    network = tiny(depths=(11,), widths=(2,))
    params, stats = scattered(network)
    found, _ = network.apply(params, stats, IMAGES, train=True)
    expected = oracle(IMAGES, params, depths=(11,), patch=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_network_equals_timm():
    with np.load(pathlib.Path(__file__).parent / "fixtures" / "convnext.npz") as stored:
        values = dict(stored)
    images, expected = values.pop("images"), values.pop("features")
    params = {}
    for path, value in values.items():
        *parents, leaf = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value)
    network = tiny(depths=(1, 2, 1, 1), widths=(4, 6, 8, 10), patch=4)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(params) == shapes(jax.eval_shape(network.init, KEY)[0])
    found, _ = compiled(network)(params, {}, jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_initial_values_are_the_published_ones():
    params, _ = jax.jit(tiny(depths=(1,), widths=(64,)).init)(KEY)
    block = params["layers"]["stage1_block1"]
    for kernel in (block["conv"], block["mlp1"], block["mlp2"], params["layers"]["stem"]["conv"]):
        size = kernel["kernel"].size
        np.testing.assert_allclose(np.std(kernel["kernel"]), 0.02, rtol=4 / np.sqrt(2 * size))
        assert not np.any(kernel["bias"])
    np.testing.assert_array_equal(block["layer_scale"], np.full(64, 1e-6, np.float32))


@functools.cache
def gradient(**options):
    network = tiny(patch=1, **options)  # 11 x 9 and 5 x 4 positions: every tap of 7 x 7 meets some
    params, stats = scattered(network)
    target = np.random.default_rng(2).normal(size=(2, 6)).astype(np.float32)
    loss = lambda params: jnp.sum(target * network.apply(params, stats, IMAGES, train=True)[0])
    return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite_and_reach_every_parameter(dtype):
    for path, leaf in jax.tree.leaves_with_path(gradient(dtype=dtype)):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf)), path
        assert np.mean(np.abs(leaf) > 1e-7) > 0.9, path


def test_rematerialised_gradients_are_the_same():
    kept, again = gradient(dtype=jnp.float32), gradient(remat=True)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, kept, again)
    network, params, stats = abstract("convnext_atto", remat=True)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    recomputes = lambda train: (
        "remat"
        in str(jax.make_jaxpr(functools.partial(network.apply, train=train))(params, stats, images))
    )
    assert recomputes(True)
    assert not recomputes(False)


def test_bfloat16_computes_close_to_float32():
    params, stats = scattered(tiny())
    expected, _ = compiled(tiny())(params, stats, IMAGES)
    found, _ = compiled(tiny(dtype=jnp.bfloat16))(params, stats, IMAGES)
    assert found.dtype == jnp.float32
    assert np.any(found != expected)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)


def test_a_block_in_bfloat16_keeps_what_a_small_layer_scale_adds():
    """A sum in bfloat16 would round an addition of 1e-4 away, and the block would not exist."""
    x = jnp.float32(np.random.default_rng(3).normal(size=(1, 3, 3, 4)))

    def added(dtype):
        block = Block(4, dtype=dtype, rngs=nnx.Rngs(0))
        graph, params = nnx.split(block)
        params = jax.tree.map(lambda leaf: 20 * leaf, params)
        block = nnx.merge(graph, params)
        block.layer_scale[...] = jnp.full(4, 1e-4)
        y = block(x)
        assert y.dtype == jnp.float32
        return np.float64(y) - np.float64(x)

    wide, narrow = added(jnp.float32), added(jnp.bfloat16)
    assert np.linalg.norm(wide) > 1e-4
    assert np.linalg.norm(narrow - wide) < 0.02 * np.linalg.norm(wide)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_an_image_tower(dtype):
    build = IMAGE_TOWERS["convnext_atto"]
    assert {"dims", "tokens", "mode", "patch", "channels", "remat", "dtype"} == set(
        inspect.signature(build).parameters
    )
    encoder, projection = build(dims=4, tokens=3, mode="reshape", patch=1, dtype=dtype)

    def embed(images):
        params, stats = encoder.init(KEY)
        features, _ = encoder.apply(params, stats, images, train=True)
        params, stats = projection.init(KEY)
        return features, projection.apply(params, stats, features, train=True)[0]

    features, embeddings = jax.eval_shape(embed, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))
    assert features.shape == (2, 320)
    assert (embeddings.shape, embeddings.dtype) == ((2, 12), jnp.float32)
    with pytest.raises(ArgumentError, match=r"mode: found 'multi' with `tokens` 3.* reshape"):
        build(dims=4, tokens=3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "convnext_large"}, "name: found 'convnext_large'; allowed: .*convnext_tiny"),
        ({"name": "convnext_tiny", "patch": 0}, "patch: found 0; allowed: at least 1"),
        ({"name": "convnext_tiny", "channels": 0}, "channels: found 0; allowed: at least 1"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        convnext(**keywords)


@pytest.mark.parametrize(
    ("patch", "shape", "message"),
    [
        (4, (1, 32, 31, 3), r"patch: found 4 with images of 32 x 31.*3 down.*at most 3\."),
        (2, (1, 7, 9, 3), r"patch: found 2 with images of 7 x 9.* 1, with images of 8 x 8\."),
        (4, (1, 32, 32, 1), r"channels: found 3 with images of shape \(1, 32, 32, 1\); .* 1\."),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_numbers(patch, shape, message):
    network, params, stats = abstract("convnext_atto", patch=patch)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ArgumentError, match=message):
        jax.eval_shape(functools.partial(network.apply, train=True), params, stats, images)


@pytest.mark.parametrize(("patch", "side"), [(1, 8), (2, 16), (4, 32), (3, 31)])
def test_the_smallest_images_are_taken(patch, side):
    network, params, stats = abstract("convnext_atto", patch=patch)
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    features, _ = jax.eval_shape(
        functools.partial(network.apply, train=True), params, stats, images
    )
    assert features.shape == (2, 320)
