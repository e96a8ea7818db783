"""The ResNets against their published sizes and a float64 NumPy oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax.errors import ArgumentError
from dystress_jax.models import resnet
from dystress_jax.models._functional import functional
from dystress_jax.models._norm import BatchNorm
from dystress_jax.models._resnet import BasicBlock, BottleneckBlock, ResNet


@functools.cache
def abstract(name, stem):
    """The network, and the shapes of its parameters and statistics."""
    network = resnet(name, stem=stem)
    return network, *jax.eval_shape(network.init, jax.random.key(0))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def scattered(network, seed=0):
    """Random parameters and statistics: no scale is zero, no mean is zero, no variance is one."""
    params, stats = jax.jit(network.init)(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    scatter = lambda leaf: leaf + jnp.asarray(rng.uniform(0.2, 0.5, leaf.shape), leaf.dtype)
    shift_vectors = lambda leaf: scatter(leaf) if leaf.ndim == 1 else leaf
    return jax.tree.map(shift_vectors, params), jax.tree.map(scatter, stats)


# Published sizes, from torchvision's documentation of each model; the classifier is not ours.
@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "features", "published"),
    [
        ("resnet18", 512, 11_689_512),
        ("resnet34", 512, 21_797_672),
        ("resnet50", 2048, 25_557_032),
        ("resnet101", 2048, 44_549_160),
    ],
)
def test_parameters_are_as_many_as_published(name, features, published):
    network, params, _ = abstract(name, "imagenet")
    assert network.out_features == features
    assert count(params) == published - (features * 1000 + 1000)


@pytest.mark.parametrize(("stem", "size"), [("cifar", 3), ("patch", 4)])
def test_small_stems_swap_the_first_kernel_only(stem, size):
    _, params, _ = abstract("resnet18", stem)
    _, imagenet, _ = abstract("resnet18", "imagenet")
    assert count(imagenet) - count(params) == (7 * 7 - size * size) * 3 * 64


def test_small_has_its_closed_form_count():
    network, params, _ = abstract("small", "patch")
    kernels = 4 * 4 * 3 * 32 + 9 * (2 * 32 * 32 + 32 * 64 + 64 * 64) + 32 * 64
    assert count(params) == kernels + 2 * (3 * 32 + 3 * 64)
    assert network.out_features == 64


def convolutions(network, params, stats, size):
    """Kernel size, stride, padding, and the output's side and channels of each convolution."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    trace = jax.make_jaxpr(functools.partial(network.apply, train=False))(params, stats, images)
    return [
        (
            equation.invars[1].aval.shape[0],
            equation.params["window_strides"][0],
            equation.params["padding"][0],
            *equation.outvars[0].aval.shape[2:],
        )
        for equation in trace.jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated"
    ]


def expected_convolutions(name, stem, size):
    """Table 1 of arXiv 1512.03385, with the stride of a bottleneck in its 3x3 convolution."""
    depths = {
        "resnet18": (2, 2, 2, 2),
        "resnet34": (3, 4, 6, 3),
        "resnet50": (3, 4, 6, 3),
        "resnet101": (3, 4, 23, 3),
    }
    bottleneck = name in ("resnet50", "resnet101")
    padding = {1: (0, 0), 3: (1, 1), 7: (3, 3)}
    side, rows = size, []

    def add(kernel, stride, side, channels):
        rows.append((kernel, stride, padding[kernel], side, channels))

    if stem == "imagenet":
        add(7, 2, size // 2, 64)
        side = size // 4
    else:
        add(3, 1, size, 64)
    channels = 64
    for stage, depth in enumerate(depths[name]):
        width = 64 * 2**stage
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            out = side // stride
            if bottleneck:
                add(1, 1, side, width)
                add(3, stride, out, width)
                add(1, 1, out, 4 * width)
            else:
                add(3, stride, out, width)
                add(3, 1, out, width)
            features = 4 * width if bottleneck else width
            if features != channels:
                add(1, stride, out, features)
            side, channels = out, features
    return rows


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "stem", "size"),
    [
        ("resnet18", "cifar", 32),
        ("resnet34", "imagenet", 224),
        ("resnet50", "imagenet", 224),
        ("resnet101", "imagenet", 224),
    ],
)
def test_every_convolution_has_its_published_shape(name, stem, size):
    found = convolutions(*abstract(name, stem), size)
    assert found == expected_convolutions(name, stem, size)


def conv(x, kernel, stride):
    size = kernel.shape[0]
    pad = 0 if size == 4 else (size - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    patch = lambda i, j: x[:, i : i + stride * height : stride, j : j + stride * width : stride]
    return sum(patch(i, j) @ kernel[i, j] for i in range(size) for j in range(size))


def max_pool(x):
    height, width = ((side + 1) // 2 for side in x.shape[1:3])
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    window = lambda i, j: x[:, i : i + 2 * height : 2, j : j + 2 * width : 2]
    return np.max([window(i, j) for i in range(3) for j in range(3)], axis=0)


class Oracle:
    """A ResNet in float64, written from the papers; collects the running statistics it leaves."""

    def __init__(self, params, stats, *, train):
        self.params, self.train = jax.tree.map(np.float64, params), train
        self.stats = jax.tree.map(np.float64, stats)

    def norm(self, x, params, stats):
        mean, var = stats["mean"], stats["var"]
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            stats["mean"] = 0.9 * stats["mean"] + 0.1 * mean
            count = x.size // x.shape[-1]
            stats["var"] = 0.9 * stats["var"] + 0.1 * var * count / (count - 1)
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def block(self, x, params, stats, stride):
        bottleneck = "conv3" in params
        strides = {"1": 1, "2": stride, "3": 1} if bottleneck else {"1": stride, "2": 1}
        y = x
        for i, s in strides.items():
            y = np.maximum(y, 0) if i != "1" else y
            y = conv(y, params[f"conv{i}"]["kernel"], s)
            y = self.norm(y, params[f"norm{i}"], stats[f"norm{i}"])
        if "shortcut" in params:
            x = conv(x, params["shortcut"]["conv"]["kernel"], stride)
            x = self.norm(x, params["shortcut"]["norm"], stats["shortcut"]["norm"])
        return np.maximum(x + y, 0)

    def __call__(self, x, *, stem):
        stride = {"imagenet": 2, "cifar": 1, "patch": 4}[stem]
        x = conv(np.float64(x), self.params["conv"]["kernel"], stride)
        x = np.maximum(self.norm(x, self.params["norm"], self.stats["norm"]), 0)
        x = max_pool(x) if stem == "imagenet" else x
        for name, params in sorted(self.params["blocks"].items()):
            stride = 2 if name.endswith("block1") and not name.startswith("stage1") else 1
            x = self.block(x, params, self.stats["blocks"][name], stride)
        return x.mean((1, 2))


@pytest.mark.parametrize(
    ("block", "stages", "stem", "sides"),
    [
        (BasicBlock, (1, 2), "cifar", (8, 7)),
        (BasicBlock, (1, 1), "patch", (13, 16)),
        (BottleneckBlock, (2, 1), "imagenet", (22, 24)),  # pools an odd and an even side
    ],
)
@pytest.mark.parametrize("train", [True, False])
def test_network_equals_a_float64_oracle(block, stages, stem, sides, train):
    build = functools.partial(
        ResNet, block, stages, width=4, stem=stem, channels=3, dtype=jnp.float32
    )
    network = functional(lambda rngs: build(rngs=rngs), out_features=0)
    params, stats = scattered(network)
    images = jax.random.uniform(jax.random.key(1), (3, *sides, 3))
    oracle = Oracle(params, stats, train=train)
    expected = oracle(images, stem=stem)
    features, new_stats = jax.jit(network.apply, static_argnames="train")(
        params, stats, images, train=train
    )
    np.testing.assert_allclose(features, expected, rtol=2e-5, atol=2e-5)
    assert jax.tree.structure(new_stats) == jax.tree.structure(stats)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(compare, new_stats, oracle.stats)


@pytest.mark.parametrize("block", [BasicBlock, BottleneckBlock])
@pytest.mark.parametrize(("features", "stride"), [(8, 1), (6, 2)])
def test_a_block_starts_as_its_shortcut(block, features, stride):
    width = 8 // block.expansion
    layer = {"norm": BatchNorm, "dtype": jnp.float32}
    network = functional(
        lambda rngs: block(features, width, stride, **layer, rngs=rngs), out_features=8
    )
    params, stats = jax.jit(network.init)(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (2, 4, 4, features))
    y, _ = jax.jit(functools.partial(network.apply, train=True))(params, stats, x)
    if stride == 1:
        np.testing.assert_array_equal(y, x)
    else:
        oracle = Oracle(params, stats, train=True)
        last = f"norm{3 if block is BottleneckBlock else 2}"
        assert not np.any(oracle.params[last]["scale"])
        expected = oracle.block(np.float64(x), oracle.params, oracle.stats, stride)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("zero", [True, False])
def test_residual_scales_start_at_zero_or_as_in_torchvision_at_one(name, zero):
    network = resnet(name, stem="cifar", width=2, zero_residual=zero)
    params, _ = jax.jit(network.init)(jax.random.key(0))
    last = "norm3" if name == "resnet50" else "norm2"
    for block in params["blocks"].values():
        assert np.all(np.asarray(block[last]["scale"]) == (0 if zero else 1))
        assert np.all(np.asarray(block["norm1"]["scale"]) == 1)


def test_kernels_start_normal_with_the_variance_of_he_for_the_fan_out():
    params, _ = jax.jit(resnet("small", width=64).init)(jax.random.key(0))
    kernel = params["blocks"]["stage2_block1"]["conv2"]["kernel"]  # 3 3 128 128
    assert np.std(kernel) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    assert np.max(np.abs(kernel)) > 4 * np.std(kernel), "a truncated normal would stop at 2.3"


def test_gradients_reach_every_parameter():
    network = resnet("small", stem="cifar")
    params, stats = scattered(network)
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    target = jax.random.normal(jax.random.key(2), (4, 64))
    loss = lambda params: jnp.sum(target * network.apply(params, stats, images, train=True)[0])
    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.all(np.isfinite(gradient)), path
        assert np.mean(gradient != 0) > 0.9, path


def test_bfloat16_computes_close_to_float32_and_keeps_parameters_and_statistics_wide():
    images = jax.random.uniform(jax.random.key(1), (8, 16, 16, 3))
    wide, narrow = resnet("small", stem="cifar"), resnet("small", stem="cifar", dtype=jnp.bfloat16)
    params, stats = scattered(narrow)
    apply = lambda network: jax.jit(network.apply, static_argnames="train")
    expected, expected_stats = apply(wide)(params, stats, images, train=True)
    found, found_stats = apply(narrow)(params, stats, images, train=True)
    for leaf in jax.tree.leaves((params, stats, found, found_stats)):
        assert leaf.dtype == jnp.float32
    # bfloat16 keeps 8 bits: a rounding of 0.4 % at each of five layers.
    np.testing.assert_allclose(found, expected, rtol=0.03, atol=0.03)
    assert np.any(found != expected)
    close = functools.partial(np.testing.assert_allclose, rtol=0.02, atol=0.002)
    jax.tree.map(close, found_stats, expected_stats)
    trace = jax.make_jaxpr(functools.partial(narrow.apply, train=True))(params, stats, images)
    convolutions = [e for e in trace.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert len(convolutions) == 6
    assert all(e.outvars[0].aval.dtype == jnp.bfloat16 for e in convolutions)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "resnet20"}, "name: found 'resnet20'; allowed: small, resnet18, .*Did you"),
        ({"name": "small", "stem": "tiny"}, "stem: found 'tiny'; allowed: imagenet, cifar, patch"),
        ({"name": "small", "channels": 0}, "channels: found 0; allowed: at least 1"),
        ({"name": "small", "width": -1}, "width: found -1; allowed: at least 1"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        resnet(**keywords)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 8, 8, 1), r"channels: found 3 with images of shape \(2, 8, 8, 1\); .* 1\."),
        ((2, 9, 7, 3), "stem: found 'patch' with images of 9 x 7.*cifar, or .* at least 8 x 8"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_numbers(shape, message):
    network, params, stats = abstract("small", "patch")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ArgumentError, match=message):
        jax.eval_shape(functools.partial(network.apply, train=True), params, stats, images)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 1), ("cifar", 1), ("patch", 8)])
def test_every_stem_takes_its_smallest_images(stem, side):
    network, params, stats = abstract("small", stem)
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    apply = functools.partial(network.apply, train=True)
    assert jax.eval_shape(apply, params, stats, images)[0].shape == (2, 64)
