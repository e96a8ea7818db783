"""Networks beside torchvision, MoCo v3 on timm, open_clip and lightly; ours compute in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax.models import projector, text_tower
from dystress_jax.models._functional import functional
from dystress_jax.models._norm import BatchNorm
from dystress_jax.models._resnet import BasicBlock, BottleneckBlock
from dystress_jax.models._vit import VisionTransformer, sincos_positions
from tests.parity.golden import golden

BLOCKS = {  # as in make_torchvision.py: block, channels in, width, stride
    "basic": (BasicBlock, 6, 6, 1),
    "basic_strided": (BasicBlock, 6, 8, 2),
    "bottleneck": (BottleneckBlock, 8, 2, 1),
    "bottleneck_strided": (BottleneckBlock, 6, 2, 2),
}


def assert_close(found, expected, rtol=2e-5):
    """Every array to a part of its own largest entry; both trees have the same leaves."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        largest = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * largest, err_msg=str(path))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_torchvision(name):
    stored = golden("torchvision")[name]
    block, channels, width, stride = BLOCKS[name]
    network = functional(
        lambda rngs: block(channels, width, stride, norm=BatchNorm, dtype=jnp.float32, rngs=rngs),
        out_features=width * block.expansion,
    )
    _, stats = jax.jit(network.init)(jax.random.key(0))

    def loss(params, images):
        outputs, moved = network.apply(params, stats, images, train=True)
        return jnp.sum(outputs * stored["direction"]), (outputs, moved)

    of, (outputs, moved) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(
        stored["params"], stored["images"]
    )
    assert_close(outputs, stored["outputs"])
    assert_close(moved, stored["stats"])
    assert_close(of, (stored["gradients"], stored["of_images"]), rtol=1e-4)


def test_the_vit_is_that_of_moco_v3():
    stored = golden("moco_v3")["vit"]
    network = functional(
        lambda rngs: VisionTransformer(
            *(16, 2, 2), patch=4, channels=3, freeze_patches=False, dtype=jnp.float32, rngs=rngs
        ),
        out_features=16,
    )
    np.testing.assert_allclose(
        sincos_positions(3, 3, 16).reshape(9, 16), stored["positions"], atol=1e-6
    )

    def loss(params):
        features, _ = network.apply(params, {}, jnp.asarray(stored["images"]), train=True)
        return jnp.sum(features * stored["direction"]), features

    gradients, features = jax.jit(jax.grad(loss, has_aux=True))(stored["params"])
    assert_close(features, stored["features"])
    assert_close(gradients, stored["gradients"], rtol=1e-4)


def test_the_text_tower_is_that_of_open_clip_at_its_initial_values():
    stored = golden("open_clip")["text"]
    encoder, projection = text_tower("text_micro", vocab_size=20, context=7, pooling="eot", dims=8)

    def loss(params):
        features, _ = encoder.apply(params["encoder"], {}, jnp.asarray(stored["ids"]), train=True)
        embeddings, _ = projection.apply(params["projection"], {}, features, train=True)
        return jnp.sum(embeddings * stored["direction"]), embeddings

    gradients, embeddings = jax.jit(jax.grad(loss, has_aux=True))(stored["params"])
    assert_close(embeddings, stored["embeddings"])
    some = {
        "encoder": {
            "words": gradients["encoder"]["words"],
            "norm": {"scale": gradients["encoder"]["norm"]["scale"]},
        },
        "projection": gradients["projection"],
    }
    assert_close(some, stored["gradients"], rtol=1e-4)


def test_the_head_is_that_of_lightly():
    stored = jax.tree.map(np.float32, golden("lightly")["head"])
    head = projector("dystress_cifar", in_features=6, hidden=5, out=4)
    _, stats = jax.jit(head.init)(jax.random.key(0))
    apply = jax.jit(functools.partial(head.apply, train=True))
    projections, moved = apply(stored["params"], stats, jnp.asarray(stored["features"]))
    assert_close(projections, stored["projections"])
    assert_close(moved, stored["stats"])
