"""The training step: the same on any number of devices, and nothing in it is for CPUs only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import (
    augment,
    losses,
    methods,
    models,
    optim,
    run,
    schemes,
    sharding,
    similarities,
    temperatures,
)
from dystress_jax.run._loss import make_loss, spread
from dystress_jax.run._own import choose
from dystress_jax.training import abstract_state, init_state, make_train_step
from tests import steps

pytestmark = pytest.mark.slow

BATCH, SIZE, CLASSES = 16, 12, 3


SCHEME = schemes.fixed(temperatures.dystress(0.1, 0.2))


def make_parts(*, dtype=jnp.float32, rate=0.02, loss=None):
    encoder = models.resnet("small", stem="cifar", width=4, dtype=dtype)
    projector = models.projector(
        "simclr", in_features=encoder.out_features, hidden=16, out=8, dtype=dtype
    )

    def views(key, images, rows):
        return augment.two_views(key, images, augment.simclr_cifar(), size=SIZE, rows=rows)

    dense = functools.partial(losses.nt_xent, strategy="dense")
    method = methods.simclr(encoder, projector, views=views, loss=loss or dense)
    schedule = optim.warmup_cosine(rate, total_steps=20)
    optimizer = optim.sgd(schedule, momentum=0.9, weight_decay=1e-4)
    return method, optimizer, schedule


def with_probe(parts):
    method, optimizer, schedule = parts
    probe = optim.sgd(lambda step: 0.1)
    return (
        methods.with_online_probe(method, CLASSES),
        methods.with_probe_optimizer(optimizer, probe),
        schedule,
    )


def make_batches(count, *, rows=BATCH, labelled=True):
    rng = np.random.default_rng(0)
    return [
        {
            # Large patches of colour, so that two crops of one image have something in common.
            "image": np.kron(
                rng.integers(0, 256, (rows, 3, 3, 3), dtype=np.uint8),
                np.ones((1, SIZE // 3, SIZE // 3, 1), np.uint8),
            ),
            "label": rng.integers(0, CLASSES, rows, dtype=np.int32)
            if labelled
            else np.full(rows, -1, np.int32),
            "index": np.arange(rows, dtype=np.int32),
        }
        for _ in range(count)
    ]


def take(parts, batches, devices=1, seed=0):
    return steps.take(*parts, batches, scheme=SCHEME, devices=devices, seed=seed)


@pytest.mark.ci
def test_the_loss_curve_is_the_same_on_1_2_4_and_8_devices():
    # A small learning rate: a large one makes rounding grow a thousandfold a step, on any device.
    batches = make_batches(1, rows=32) * 20

    def curve(devices):
        mesh = sharding.make_mesh(jax.devices()[:devices])
        config = run.Config()
        parts = make_parts(rate=0.002, loss=spread(config, mesh, losses.nt_xent))
        return [m["loss"] for m in take(parts, batches, devices)[1]]

    curves = {devices: curve(devices) for devices in (1, 2, 4, 8)}
    assert len(set(curves[1])) == 20
    for devices in (2, 4, 8):
        np.testing.assert_allclose(curves[devices], curves[1], rtol=1e-5)


@pytest.mark.parametrize("name", ["nt_xent", "clip"])
def test_the_config_names_the_precision_of_the_products(name):
    config = run.from_config_dict({"loss": {"precision": "bfloat16"}})
    views = jax.random.normal(jax.random.key(0), (2, 16, 12))
    similarity = similarities.oblique(3) if name == "clip" else similarities.sphere
    given = {"similarity": similarity} if name == "clip" else {}
    loss = getattr(losses, name)
    on_devices = spread(config, sharding.make_mesh(), loss)
    found = jax.jit(lambda a, b: on_devices(a, b, temperature=0.1, **given))(*views)
    narrow = similarity.with_precision("bfloat16")
    np.testing.assert_allclose(found, loss(*views, temperature=0.1, similarity=narrow), rtol=1e-5)
    assert not np.allclose(found, loss(*views, temperature=0.1, **given), rtol=1e-5)
    with pytest.raises(run.ConfigError, match=r"config.loss.precision: found bfloat16 with"):
        spread(config, sharding.make_mesh(), lambda a, b, *, temperature: a)


@pytest.mark.parametrize("strategy", ["auto", "tiled", "gathered", "ring"])
def test_the_loss_that_the_config_names_is_the_loss_of_the_whole_batch(strategy):
    config = run.from_config_dict({"loss": {"strategy": strategy, "tile_size": 8}})
    mesh = sharding.make_mesh()
    views = jax.random.normal(jax.random.key(0), (2, 16, 8))
    temperature = temperatures.dystress(0.1, 0.2)

    def mean(loss, views):
        return loss(views[0], views[1], temperature=temperature).mean()

    dense = functools.partial(losses.nt_xent, strategy="dense")
    expected = jax.jit(
        jax.value_and_grad(lambda v: dense(v[0], v[1], temperature=temperature).mean())
    )(views)
    found = jax.jit(
        jax.value_and_grad(
            functools.partial(mean, spread(config, mesh, make_loss(config, choose(config).loss)))
        ),
        in_shardings=jax.sharding.NamedSharding(mesh, jax.P(None, "data")),
    )(views)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, expected
    )


def test_the_log_has_what_a_run_is_judged_by():
    _, [logged] = take(with_probe(make_parts()), make_batches(1))
    assert set(logged) == {
        "loss",
        "learning_rate",
        "gradient_norm",
        "parameter_norm",
        "positive_similarity",
        "negative_similarity",
        "positive_tau",
        "negative_tau",
        "probe_loss",
        "probe_accuracy",
    }
    assert logged["learning_rate"] == pytest.approx(0.02)
    assert 0.1 <= logged["negative_tau"] <= 0.2
    assert 0.1 <= logged["positive_tau"] <= 0.2
    assert logged["probe_loss"] == pytest.approx(np.log(CLASSES))


@pytest.mark.ci
def test_a_step_repeated_is_the_same_step_and_the_next_is_another():
    parts, [batch] = make_parts(), make_batches(1)
    one, first = take(parts, [batch])
    two, second = take(parts, [batch])
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    _, twice = take(parts, [batch, batch])
    assert twice[0]["positive_similarity"] != twice[1]["positive_similarity"]


@pytest.mark.ci
def test_the_online_probe_does_not_change_what_the_encoder_learns():
    batches = make_batches(3)
    plain, plain_log = take(make_parts(), batches)
    probed, probed_log = take(with_probe(make_parts()), batches)
    for probed_step, plain_step in zip(probed_log, plain_log, strict=True):
        for name in ("loss", "gradient_norm", "parameter_norm"):
            assert probed_step[name] == pytest.approx(plain_step[name], rel=1e-5)
    for name in ("encoder", "projector"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            probed.params[name],
            plain.params[name],
        )
    assert jnp.abs(probed.params["probe"]["kernel"]).max() > 0


@pytest.mark.ci
def test_the_online_probe_keeps_what_a_method_minimises_beside_its_loss():
    method, optimizer, schedule = make_parts()
    weight = lambda params: params["projector"]["linears"]["layer1"]["kernel"]
    pulled = method._replace(
        beside=lambda params, embedded, batch: (jnp.sum(weight(params)), {"pull": jnp.float32(3)})
    )
    batches = make_batches(1)
    before, _ = take((method, optimizer, schedule), batches)
    alone, _ = take((pulled, optimizer, schedule), batches)
    probed, [logged] = take(with_probe((pulled, optimizer, schedule)), batches)
    assert (logged["pull"], logged["probe_loss"]) == (3.0, pytest.approx(np.log(CLASSES)))
    assert jnp.abs(weight(alone.params) - weight(before.params)).min() > 1e-3
    np.testing.assert_allclose(weight(probed.params), weight(alone.params), rtol=1e-5, atol=1e-6)


def test_the_online_probe_leaves_unlabelled_images_out():
    state, [logged] = take(with_probe(make_parts()), make_batches(1, labelled=False))
    assert np.isnan([logged["probe_loss"], logged["probe_accuracy"]]).all()
    assert np.isfinite(logged["loss"])
    np.testing.assert_array_equal(state.params["probe"]["kernel"], 0)


@pytest.mark.ci
def test_bfloat16_is_for_arithmetic_only():
    state, [logged] = take(make_parts(dtype=jnp.bfloat16), make_batches(1))
    assert {x.dtype for x in jax.tree.leaves((state.params, state.stats))} == {jnp.dtype("float32")}
    _, [wide] = take(make_parts(), make_batches(1))
    assert logged["loss"] == pytest.approx(wide["loss"], rel=0.05)


def test_the_state_is_born_as_the_abstract_state_says():
    method, optimizer, _ = make_parts()
    mesh = sharding.make_mesh()
    state = init_state(method, optimizer, scheme=SCHEME, seed=0, mesh=mesh)
    abstract = abstract_state(method, optimizer, scheme=SCHEME, mesh=mesh)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.sharding == expected.sharding


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowers_for_accelerators(platform):
    method, optimizer, schedule = with_probe(make_parts(dtype=jnp.bfloat16))
    mesh = sharding.make_mesh()
    train_step = make_train_step(method, optimizer, schedule, scheme=SCHEME, mesh=mesh)
    state = abstract_state(method, optimizer, scheme=SCHEME, mesh=mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        "index": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    lowered = train_step.trace(state, batch).lower(lowering_platforms=(platform,))
    assert "stablehlo.convolution" in lowered.as_text()
    given = lowered.as_text().count("tf.aliasing_output") + lowered.as_text().count("buffer_donor")
    assert given == len(jax.tree.leaves(state))  # the step writes over the state


@pytest.mark.parametrize(
    ("batch_size", "nearest"), [(30, "24 or 32"), (3, "8"), (257, "256 or 264")]
)
def test_a_batch_that_the_devices_cannot_share_is_refused(batch_size, nearest):
    with pytest.raises(
        ValueError, match=rf"batch_size: found {batch_size}, which 8 devices .*: {nearest}\."
    ):
        sharding.check_batch_size(batch_size, sharding.make_mesh())
