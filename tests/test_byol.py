"""BYOL against a float64 NumPy re-enactment, on one device and on eight, and without a scheme."""

import jax
import numpy as np
import optax
import pytest

from dystress_jax import data, methods, models, run, schemes, sharding
from dystress_jax.run import networks
from dystress_jax.run._own import name_own
from dystress_jax.training import (
    abstract_state,
    checkpoint,
    gradcache,
    init_state,
    make_train_step,
    whole_gradient,
)
from tests import reenact, steps
from tests.reenact import FEATURES, OUT, PIXELS, N, linear

NETWORKS, MOMENTUM, STEPS = ("encoder", "projector", "predictor"), 0.75, 4


def byol(**settings):
    return methods.byol(
        linear(PIXELS, FEATURES),
        linear(FEATURES, OUT),
        linear(OUT, OUT),
        views=reenact.mirrored,
        **{"momentum": MOMENTUM, "total_steps": STEPS, **settings},
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_a_run_is_that_of_the_algorithm(devices):
    batches = reenact.make_batches(STEPS)
    states, logged = reenact.run(byol(), batches, devices)
    weights = reenact.matrices(states[0].params, *NETWORKS)
    targets = [w.copy() for w in weights[:2]]

    for number, batch in enumerate(batches):
        x = reenact.views_of(batch)
        t = [reenact.embed(view, *targets) for view in x]

        def cosines(*weights, x=x, t=t):
            p = [reenact.embed(view, *weights) for view in x]
            return np.array([np.sum(p[0] * t[1], axis=1), np.sum(p[1] * t[0], axis=1)])

        def loss(*weights, cosines=cosines):
            return np.sum(np.mean(2 - 2 * cosines(*weights), axis=1))

        z = reenact.embed(x[0], *weights[:2])
        assert logged[number]["loss"] == pytest.approx(loss(*weights), rel=1e-5)
        found = logged[number]["positive_similarity"]
        # A mean of cosines of both signs: of the size of 1, not of their mean, is its rounding.
        assert found == pytest.approx(np.mean(cosines(*weights)), abs=2**-22)
        assert logged[number]["embedding_std"] == pytest.approx(np.mean(z.std(axis=0)), rel=1e-5)

        weights = reenact.descend(loss, weights)
        momentum = 1 - (1 - MOMENTUM) * (1 + np.cos(np.pi * number / STEPS)) / 2
        targets = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(targets, weights[:2], strict=True)
        ]
        state = states[number + 1]
        assert set(state.memory) == {"target_params"}
        learned = reenact.matrices(state.params, *NETWORKS)
        followed = reenact.matrices(state.memory["target_params"], *NETWORKS[:2])
        for a, b in zip([*learned, *followed], [*weights, *targets], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_embeddings_that_are_all_the_same_have_no_spread():
    batch = reenact.make_batches(1)[0]
    same = {**batch, "image": np.broadcast_to(batch["image"][:1], batch["image"].shape).copy()}
    _, [logged] = reenact.run(byol(), [same], 1)
    assert logged["embedding_std"] == pytest.approx(0, abs=1e-6)


def test_a_checkpoint_without_a_scheme_goes_on_exactly(tmp_path):
    method, optimizer, mesh = byol(), optax.sgd(0.1), sharding.make_mesh()
    first, second = (sharding.shard_batch(b, mesh) for b in reenact.make_batches(2))
    train_step = make_train_step(method, optimizer, lambda step: 0.1, mesh=mesh)
    state, *_ = train_step(init_state(method, optimizer, seed=0, mesh=mesh), first)
    saver = checkpoint.Saver(tmp_path, keep=1)
    saver.save(1, state, {})
    saver.wait()
    restored = checkpoint.restore_newest(tmp_path, abstract_state(method, optimizer, mesh=mesh))
    (went_on, *_), (again, *_) = train_step(state, second), train_step(restored.state, second)
    jax.tree.map(np.testing.assert_array_equal, steps.on_host(went_on), steps.on_host(again))


@pytest.mark.parametrize("gradient", [whole_gradient, lambda *a: gradcache(*a, micro_batches=2)])
def test_a_scheme_is_refused_where_there_is_no_temperature(gradient):
    with pytest.raises(ValueError, match="scheme: found one with a method that has no temperature"):
        gradient(byol(), schemes.fixed(0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.5}, r"momentum: found 1.5; allowed: in \[0, 1\]"),
        ({"total_steps": 0}, "total_steps: found 0; allowed: at least 1"),
        ({"predictor": linear(2, 3)}, "predictor: found one to 3 after a projector to 2"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    settings = {"predictor": linear(2, 2), "momentum": 0.9, "total_steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        methods.byol(linear(2, 2), linear(2, 2), views=reenact.mirrored, **settings)


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        ("temperature", "tau", 0.3),
        ("temperature", "name", "constant"),
        ("loss", "name", "dcl"),
        ("loss", "strategy", "ring"),
        ("moco", "queue_size", 512),
    ],
)
def test_settings_that_it_would_ignore_are_refused(group, field, value):
    message = rf"config\.{group}\.{field}: found '?{value}'? with config\.method byol, which would"
    with pytest.raises(run.ConfigError, match=message):
        run.from_config_dict({"method": "byol", group: {field: value}})


@pytest.mark.parametrize("own", [{"temperature": 0.1}, {"loss": lambda a, b, *, temperature: a}])
def test_objects_that_it_would_ignore_are_refused(own):
    [field] = own
    message = rf"config\.{field}\.name: found 'python:.*with config\.method byol, which would"
    with pytest.raises(run.ConfigError, match=message):
        name_own(run.from_config_dict({"method": "byol"}), run.Own(**own))


IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
SOURCE = data.Source(
    read=lambda rows: (IMAGES[rows], np.int32(rows % 3)),
    index=np.arange(64, dtype=np.int32),
    image_shape=(8, 8, 3),
    class_names=("a", "b", "c"),
)


def pixels(config, builder, **known):
    """An encoder that compiles at once."""
    del config, builder, known
    flat = lambda params, stats, images, *, train: (images.reshape(len(images), -1), stats)
    return models.Network(lambda key: ({}, {}), flat, IMAGES[0].size)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_it_learns_by_the_settings_without_a_temperature(micro_batches, monkeypatch):
    monkeypatch.setattr(networks, "make_encoder", pixels)
    config = run.from_config_dict(
        {
            "method": "byol",
            "batch_size": 2 * N,
            "epochs": 1,
            "augment": {"recipe": "weak"},
            "projector": {"hidden": 16, "out": 8},
        }
    )
    made = steps.make(config, SOURCE)
    assert made.scheme is None
    batches = [SOURCE.gather(np.arange(2 * N) + 2 * N * number) for number in range(3)]
    state, logged = made.take(batches, micro_batches=micro_batches)
    assert state.scheme == ()
    assert len({line["loss"] for line in logged}) == 3
    for line in logged:
        assert all(np.isfinite(value) for value in line.values())
        assert line["loss"] == pytest.approx(4 - 4 * line["positive_similarity"], rel=1e-5)
        assert not {"positive_tau", "negative_similarity"} & set(line)
        assert 0 < line["embedding_std"] < 1 / np.sqrt(8) + 1e-6
