"""The parts of a training step as somebody else's program uses them, without a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from dystress_jax import augment, gradcache, methods, models, schemes, sharding, training
from dystress_jax.errors import ArgumentError


def random_images(n, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 12, 12, 3))
    return jnp.asarray(pixels, jnp.uint8)


IMAGES = random_images(8)
BATCH = {"image": IMAGES, "label": jnp.arange(8) % 3, "index": jnp.arange(8)}
RATE, KEY = (lambda step: 0.1), jax.random.key(3)


def views(key, images, rows):
    return augment.two_views(key, images, augment.weak(), size=12, rows=rows)


def network(width=8, dtype=jnp.float32):
    """Pixels to features, the parameters in a precision of one's own."""

    def init(key):
        return {"kernel": jax.random.normal(key, (432, width), dtype) / 20}, {}

    def apply(params, stats, x, *, train):
        return jnp.tanh(x.reshape(len(x), -1).astype(dtype) @ params["kernel"]), stats

    return models.Network(init, apply, width)


def head(dtype=jnp.float32):
    init = lambda key: ({"kernel": jax.random.normal(key, (8, 4), dtype)}, {})
    apply = lambda params, stats, x, *, train: (x @ params["kernel"], stats)
    return models.Network(init, apply, 4)


def predictor(dtype=jnp.float32):
    init = lambda key: ({"kernel": jnp.eye(4, dtype=dtype)}, {})
    apply = lambda params, stats, x, *, train: (x @ params["kernel"], stats)
    return models.Network(init, apply, 4)


def followed_method(name, dtype=jnp.float32):
    towers = network(dtype=dtype), head(dtype)
    if name == "moco_v2":
        return methods.moco_v2(*towers, views=views, queue_size=16, momentum=0.999)
    build = getattr(methods, name)
    return build(*towers, predictor(dtype), views=views, momentum=0.999, total_steps=10_000)


FOLLOWED = {"moco_v2": "key_params", "moco_v3": "key_params", "byol": "target_params"}


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_state_that_was_made_without_devices_can_be_given_to_the_step(name, devices):
    """Its momentum encoder is a copy: an array that is there twice cannot be given away twice."""
    method, mesh = followed_method(name), sharding.make_mesh(jax.devices()[:devices])
    scheme = None if name == "byol" else schemes.fixed(0.2)
    optimizer = optax.sgd(RATE)
    state = training.new_state(method, optimizer, KEY, scheme=scheme)
    again = jax.tree.map(jnp.copy, state)
    step = training.make_train_step(method, optimizer, RATE, scheme=scheme, mesh=mesh)
    state, found, _ = step(state, sharding.shard_batch(BATCH, mesh))
    assert np.isfinite(found["loss"])
    followed = FOLLOWED[name]
    np.testing.assert_array_equal(
        again.memory[followed]["encoder"]["kernel"], again.params["encoder"]["kernel"]
    )


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_momentum_encoder_of_half_precision_moves(name):
    """A thousandth of the way is less than a bfloat16 can be told apart by."""
    method = followed_method(name, jnp.bfloat16)
    params, _, memory = method.init(KEY)
    ahead = jax.tree.map(lambda x: x + 1, params)
    for _ in range(20):
        memory = method.after_update(memory, ahead, 0)
    kernel = memory[FOLLOWED[name]]["encoder"]["kernel"]
    assert kernel.dtype == jnp.float32
    begun = np.asarray(params["encoder"]["kernel"], np.float64)
    expected = begun + (np.asarray(ahead["encoder"]["kernel"], np.float64) - begun) * (
        1 - 0.999**20
    )
    np.testing.assert_allclose(kernel, expected, atol=1e-5)


@pytest.mark.parametrize("build", ["resnet", "vit", "projector"])
def test_networks_of_several_seeds_under_vmap_are_those_of_each_seed(build):
    made = {
        "resnet": lambda: models.resnet("small", stem="patch"),
        "vit": lambda: models.vit("vit_micro", patch=8, image_size=32),
        "projector": lambda: models.projector("moco_v2", in_features=12, hidden=8, out=4),
    }[build]()
    keys = jax.random.split(KEY, 3)
    every, _ = jax.vmap(made.init)(keys)
    for number, key in enumerate(keys):
        one, _ = made.init(key)
        for found, expected in zip(jax.tree.leaves(every), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(found[number], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_view_depends_on_its_own_row_alone_whatever_the_kind_of_key(impl):
    key, recipe = jax.random.key(0, impl=impl), augment.weak()
    draw = lambda images, rows=None: augment.two_views(key, images, recipe, size=12, rows=rows)[0]
    twice = jnp.stack([IMAGES[1]] * 2)
    np.testing.assert_array_equal(draw(IMAGES)[3:], draw(IMAGES[3:], jnp.arange(3, 8)))
    assert not np.array_equal(draw(twice)[0], draw(twice)[1])


def test_views_of_images_that_are_split_over_an_explicit_axis_are_split_too():
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,), devices=jax.devices()[:4])
    split = jax.device_put(IMAGES, jax.NamedSharding(mesh, jax.P("data")))
    draw = lambda images: augment.two_views(KEY, images, augment.weak(), size=12)
    found, expected = jax.jit(draw)(split), draw(IMAGES)
    for view, other in zip(found, expected, strict=True):
        assert view.sharding.spec[0] == "data"
        np.testing.assert_allclose(view, other, atol=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_pixels_of_another_kind_are_refused():
    for kind in (np.uint16, np.int8, np.int32, np.float32):
        with pytest.raises(ArgumentError, match=r"images: found .*; allowed: uint8"):
            augment.view(KEY, IMAGES.astype(kind), augment.View(), size=12)
    with pytest.raises(ArgumentError, match=r"images: found uint8; allowed: floating point"):
        augment.normalize(IMAGES, mean=(0.5,), std=(0.5,))


def test_meshes_that_a_step_is_not_split_over_are_refused():
    method, optimizer, scheme = followed_method("moco_v2"), optax.sgd(RATE), schemes.fixed(0.2)
    devices = jax.devices()[:2]
    for mesh in (
        jax.make_mesh((2,), ("data",), (AxisType.Explicit,), devices=devices),
        jax.make_mesh((2,), ("rows",), (AxisType.Auto,), devices=devices),
    ):
        with pytest.raises(ArgumentError, match=r"mesh: found the axes .*; allowed: an axis data"):
            training.make_train_step(method, optimizer, RATE, scheme=scheme, mesh=mesh)
        with pytest.raises(ArgumentError, match=r"mesh: found the axes"):
            training.gradcache(method, scheme, micro_batches=2, mesh=mesh)
    mesh = sharding.make_mesh(jax.devices()[:4])
    for size in (6, 7):
        with pytest.raises(ArgumentError, match=r"batch_size: found \d, which 4 devices can"):
            sharding.shard_batch({name: x[:size] for name, x in BATCH.items()}, mesh)
    step = training.make_train_step(
        method, optimizer, RATE, scheme=scheme, mesh=mesh, micro_batches=4
    )
    state = training.init_state(method, optimizer, scheme=scheme, seed=0, mesh=mesh)
    with pytest.raises(ArgumentError, match=r"micro_batches: found 4 with a batch of 8 on 4 dev"):
        step(state, sharding.shard_batch(BATCH, mesh))
    for seed in (-1, 2**32):
        with pytest.raises(ArgumentError, match=rf"seed: found {seed}; allowed: 0 to 4,294,967,29"):
            training.init_state(method, optimizer, scheme=scheme, seed=seed, mesh=mesh)


@pytest.mark.ci
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_images_of_a_batch_stay_on_their_devices_unless_keys_are_shuffled(shuffle):
    """And without BatchNorm the order of the keys changes no number but by rounding."""
    build = lambda shuffle: methods.moco_v2(
        network(), head(), views=views, queue_size=16, momentum=0.9, shuffle=shuffle
    )
    mesh, scheme, optimizer = (
        sharding.make_mesh(jax.devices()[:4]),
        schemes.fixed(0.2),
        optax.sgd(0.1),
    )
    batch = sharding.shard_batch(BATCH, mesh)

    def stepped(shuffle):
        method = build(shuffle)
        state = training.init_state(method, optimizer, scheme=scheme, seed=0, mesh=mesh)
        step = training.make_train_step(method, optimizer, RATE, scheme=scheme, mesh=mesh)
        return step.lower(state, batch).compile().as_text(), step(state, batch)

    text, (state, metrics, _) = stepped(shuffle)
    of_images = [line for line in text.splitlines() if "all-gather" in line and "u8[8,12" in line]
    assert bool(of_images) == shuffle
    _, (other, other_metrics, _) = stepped(not shuffle)
    np.testing.assert_allclose(metrics["loss"], other_metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(state.memory["queue"], other.memory["queue"], atol=1e-5)


def test_shares_of_half_precision_are_added_in_single():
    """Each of many shares is rounded to the parameters once, at the end."""
    views = lambda key, images, rows: (images / 255, images[:, :, ::-1] / 255)
    batch = {"image": random_images(128), "label": jnp.arange(128), "index": jnp.arange(128)}
    method = methods.simclr(network(dtype=jnp.bfloat16), head(jnp.bfloat16), views=views)
    scheme = schemes.fixed(0.2)
    state = training.new_state(method, optax.sgd(0.1), KEY, scheme=scheme)
    batch = training.prepared(method, batch, KEY)
    in_parts = training.gradcache(method, scheme, micro_batches=64)(state, batch, KEY).grads
    at_once = training.whole_gradient(method, scheme)(state, batch, KEY).grads
    for a, b in zip(jax.tree.leaves(in_parts), jax.tree.leaves(at_once), strict=True):
        assert a.dtype == jnp.bfloat16
        error = np.linalg.norm((a - b).astype(jnp.float32)) / np.linalg.norm(b.astype(jnp.float32))
        assert error < 4e-3  # with sums in bfloat16 it is above 6e-3
    assert gradcache.wide(jnp.ones(2)).dtype == jnp.float32


def test_texts_that_have_changed_places_keep_their_temperatures():
    """The state of a text is found by the example that it is of, not where it stands."""
    words = models.Network(
        lambda key: ({"table": jax.random.normal(key, (9, 8))}, {}),
        lambda params, stats, x, *, train: (params["table"][x].mean(axis=1), stats),
        8,
    )
    view = lambda key, images, rows: images / 255
    method = methods.clip((network(), head()), (words, head()), view=view, caption_noise=0.9)
    batch = {**BATCH, "index": jnp.arange(8) * 10, "tokens": jnp.arange(8)[:, None]}
    batch = training.prepared(method, batch, KEY)
    params, stats, memory = method.init(KEY)
    embedded, _ = method.embed(params, stats, memory, batch, KEY)
    example = method.scheme_inputs(embedded, memory, batch, KEY).example
    np.testing.assert_array_equal(example[:8], np.arange(8) * 10)
    np.testing.assert_array_equal(example[8:], 10 * batch["tokens"][:, 0])
    assert not np.array_equal(example[8:], example[:8])
