"""Every method through the config, with every temperature and encoder that it offers."""

import ast
import functools
import inspect

import jax
import numpy as np
import optax
import pytest

from dystress_jax import data, methods, models, run, schemes, temperatures
from dystress_jax.run import _build as build
from dystress_jax.run import networks
from dystress_jax.run._own import choose
from dystress_jax.run._scheme import make_scheme
from dystress_jax.run.data import check_labels
from dystress_jax.run.fields import fields
from dystress_jax.run.meaning import arguments
from dystress_jax.run.methods import METHODS, Parts
from dystress_jax.run.temperature import TEMPERATURES, Facts
from dystress_jax.training import prepared
from tests import oracles, reenact, steps

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 3), dtype=np.uint8)
SOURCE = data.Source(
    read=lambda rows: (IMAGES[rows], np.int32(rows % 3)),
    index=np.arange(160, dtype=np.int32),
    image_shape=(8, 8, 3),
    class_names=("a", "b", "c"),
)


MOCO = {"moco_v2": {"queue_size": 32, "bn_groups": 4}, "nnclr": {"queue_size": 32}}


def settings(**fields):
    base = {
        "batch_size": 16,
        "epochs": 1,
        "augment": {"recipe": "weak"},
        "projector": {"hidden": 16, "out": 8},
        "moco": MOCO.get(fields.get("method"), {}),
    }
    return run.from_config_dict({**base, **fields})


def take(c, devices, count=3):
    """The state after the steps, and what was logged."""
    batches = [SOURCE.gather(np.arange(16) + 16 * number) for number in range(count)]
    return steps.make(c, SOURCE, devices=devices).take(batches, devices=devices)


def pixels(config, builder, **known):
    """An encoder that compiles at once."""
    del config, builder, known
    flat = lambda params, stats, images, *, train: (images.reshape(len(images), -1), stats)
    return models.Network(lambda key: ({}, {}), flat, IMAGES[0].size)


# The range that the logged temperature must stay in.
SCHEMES = {
    "constant": (0.1, 0.1),
    "dystress": (0.1, 0.2),
    "shifted_dystress": (0.1, 0.2),
    "temo": (0.1, 0.2),
    "cosine_schedule": (0.1, 0.2),
    "linear_schedule": (0.1, 0.2),
    "learned": (0.01, 1.0),
    "macl": (0.05, 0.15),
    "isogclr": (0.1, 0.2),
    "tempnet": (0.1, 0.2),
    "temperature_free": (0.0, 0.5),
}

OF_THE_PAIR = ("shifted_dystress", "temo", "linear_schedule", "temperature_free")


@pytest.mark.parametrize(
    "method",
    [
        "simclr",
        *(pytest.param(name, marks=pytest.mark.ci) for name in ("moco_v2", "moco_v3", "nnclr")),
    ],
)
@pytest.mark.parametrize("name", TEMPERATURES)
def test_every_method_learns_with_every_temperature(method, name, monkeypatch):
    """With those that are a function of the pair alone, the further methods are only traced."""
    monkeypatch.setattr(networks, "make_encoder", pixels)
    if method != "simclr" and name in OF_THE_PAIR:
        made = steps.make(settings(method=method, temperature={"name": name}), SOURCE, devices=1)
        _, found, _ = made.trace(SOURCE.gather(np.arange(16)))
        assert {"positive_tau", "negative_tau"} <= found.keys()
        return
    state, logged = take(settings(method=method, temperature={"name": name}), devices=1)
    low, high = SCHEMES[name]
    for line in logged:
        assert all(np.isfinite(value) for value in line.values())
        for pairs in ("positive_tau", "negative_tau"):
            assert low - 1e-6 <= line[pairs] <= high + 1e-6
    assert len({line["loss"] for line in logged}) == 3
    changes = {"cosine_schedule", "linear_schedule", "learned", "isogclr", "tempnet"}
    assert bool(jax.tree.leaves(state.scheme)) == (name in changes)
    if name == "cosine_schedule":
        assert logged[0]["positive_tau"] == pytest.approx(0.2)
    if name == "learned":
        assert logged[0]["positive_tau"] != logged[2]["positive_tau"]
    if name == "isogclr":
        # The temperatures of the images seen have moved, and those of no others.
        tau = np.asarray(state.scheme.tau)
        assert tau.shape == (2, 160)
        moved = tau != np.float32(0.1)
        sides = 1 if method == "moco_v2" else 2  # of which views anchors are made
        assert moved[:sides, :48].any()
        assert not moved[:, 48:].any()
        assert not moved[sides:].any()


@pytest.mark.parametrize("name", ["simclr", "moco_v2", "moco_v3", "nnclr"])
def test_a_scheme_sees_the_pairs_that_the_loss_compares(name):
    """Their loss is that without the positive in the sum; anchors are those of view a, then b."""
    n, key, linear = reenact.N, jax.random.key(1), reenact.linear
    predictor = linear(reenact.OUT, reenact.OUT)
    how = {
        "simclr": {},
        "moco_v2": {"queue_size": 2 * n, "momentum": 0.9},
        "moco_v3": {"predictor": predictor, "momentum": 0.9, "total_steps": 4},
        "nnclr": {"predictor": predictor, "queue_size": 2 * n},
    }[name]
    method = getattr(methods, name)(
        linear(reenact.PIXELS, reenact.FEATURES),
        linear(reenact.FEATURES, reenact.OUT),
        views=reenact.mirrored,
        **how,
    )
    params, stats, memory = method.init(jax.random.key(0))
    [raw] = reenact.make_batches(1)
    batch = prepared(method, jax.tree.map(jax.numpy.asarray, raw), key)
    embedded, _ = method.embed(params, stats, memory, batch, key)
    inputs = method.scheme_inputs(embedded, memory, batch, key)
    tau = np.linspace(0.2, 0.6, len(inputs.anchors))
    found = inputs.decoupled(temperatures.per_anchor(np.float32(tau)))

    parts = reenact.matrices(params, "encoder", "projector")
    a, b = (reenact.embed(view, *parts) for view in reenact.views_of(raw))
    both, twice = np.concatenate([a, b]), np.tile(np.eye(n, dtype=bool), (2, 2))
    own, side = np.eye(2 * n, dtype=bool), np.arange(2 * n) < n
    within = side[:, None] == side
    if "predictor" in params:
        p, q = (x @ np.float64(params["predictor"]["w"]) for x in (a, b))
    queue = np.float64(memory["queue"]) if "queue" in memory else None
    # Anchors, candidates, and which of these are positives and negatives.
    anchors, candidates, positive, negative = {
        "simclr": lambda: (both, both, twice & ~own, ~twice),
        "moco_v2": lambda: (
            *(a, np.concatenate([b, queue])),
            *(np.eye(n, 3 * n, dtype=bool), np.tile(np.arange(3 * n) >= n, (n, 1))),
        ),
        "moco_v3": lambda: (
            *(np.concatenate([p, q]), np.concatenate([b, a])),
            *(own, within & ~own),
        ),
        "nnclr": lambda: (
            *(queue[np.argmax(both @ queue.T, axis=1)], np.concatenate([q, p])),
            *(own, within & ~own),
        ),
    }[name]()
    logit, log_sum, number = oracles.weighed(
        anchors, candidates, lambda s: tau[:, None] + 0 * s, positive, negative
    )
    np.testing.assert_allclose(found, log_sum - logit, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(number, inputs.negatives)
    sides = len(anchors) // n
    np.testing.assert_array_equal(inputs.side, np.repeat(np.arange(sides), n))
    np.testing.assert_array_equal(inputs.example, np.tile(raw["index"], sides))
    partners = candidates[np.argmax(positive, axis=1)]
    for seen, right in ((inputs.anchors, anchors), (inputs.positives, partners)):
        np.testing.assert_allclose(
            oracles.unit(np.float64(seen)), oracles.unit(right), rtol=1e-4, atol=1e-5
        )


def test_a_scheme_weighs_the_loss_of_each_anchor_that_a_step_descends():
    """MACL in NumPy: the temperature and the weights are numbers in the gradient."""
    method = methods.simclr(
        reenact.linear(reenact.PIXELS, reenact.FEATURES),
        reenact.linear(reenact.FEATURES, reenact.OUT),
        views=reenact.mirrored,
    )
    scheme = schemes.macl(tau=0.5, alpha=0.5, threshold=0.2)
    [batch] = reenact.make_batches(1)
    states, [logged] = reenact.run(method, [batch], 1, scheme=scheme)
    before, after = (reenact.matrices(x.params, "encoder", "projector") for x in states)
    embed = lambda weights: [reenact.embed(view, *weights) for view in reenact.views_of(batch)]
    a, b = embed(before)
    tau = 0.5 * (1 + 0.5 * (np.mean(np.sum(a * b, axis=1)) - 0.2))
    values = lambda weights: oracles.nt_xent(*embed(weights), lambda s: tau + 0 * s)
    each = 1 / (1 - np.exp(-values(before)))
    loss = lambda *weights: np.mean(each * values(weights))
    assert logged["loss"] == pytest.approx(loss(*before), rel=1e-5)
    for found, expected in zip(after, reenact.descend(loss, before), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "own", "expected"),
    [("sgd", None, 0.3), ("sgd", 0.01, 0.01), ("lars", None, 5e-4), ("lars", 0.01, 0.01)],
)
@pytest.mark.parametrize(("method", "loss"), [("simclr", "auto"), ("clip", "siglip")])
def test_a_learned_temperature_has_the_rate_of_the_run_but_not_that_of_lars(
    optimizer, own, expected, method, loss
):
    """By the first step under a slope of 1: that of SGD is the rate, and so is that of Adam."""
    c = settings(
        method=method,
        loss={"name": loss},
        projector={},
        temperature={"name": "learned", "learning_rate": own},
        optimizer={"name": optimizer, "learning_rate": 0.3},
    )
    chosen, schedule = choose(c), build.make_schedule(c, SOURCE)
    with_temperature = methods.Method._make([None] * len(methods.Method._fields))._replace(
        scheme_inputs=lambda *_: None, width=8
    )
    scheme = make_scheme(c, chosen, with_temperature, SOURCE, schedule)
    state = scheme.init()
    slopes = jax.tree.map(np.ones_like, scheme.resolve(state, None))
    after = scheme.update(state, None, slopes)
    moved = jax.tree.map(lambda old, new: old - new, state[0], after[0])
    np.testing.assert_allclose(jax.tree.leaves(moved), expected, rtol=2e-3)  # of a bias near -10


FACTS = Facts(
    key=jax.random.key(0),
    examples=9,
    width=4,
    steps_per_epoch=5,
    total_steps=30,
    optimizer=optax.sgd(0.1),
    sigmoid=False,
    image_text=False,
)


def test_tempnet_begins_with_draws_that_no_step_and_no_network_has():
    of_network = TEMPERATURES["tempnet"](FACTS, tau_min=0.1, tau_max=0.2).init()[0]
    for key in jax.random.split(FACTS.key):  # of the networks and of the steps
        sizes = {"features": 4, "num_examples": 9, "optimizer": optax.sgd(0.1)}
        other = schemes.tempnet(key, **sizes).init()[0]
        assert (other["kernel"] != of_network["kernel"]).any()


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_kuklevas_temperature_moves_once_an_epoch_or_every_step(interval):
    scheme = TEMPERATURES["cosine_schedule"](
        FACTS, tau_min=0.1, tau_max=1.0, half_period=4.0, interval=interval
    )
    state, found = scheme.init(), []
    for _ in range(30):
        found.append(float(scheme.resolve(state, None).tau))
        state = scheme.update(state, None, None)
    risen = TEMPERATURES["linear_schedule"](FACTS, tau_min=0.1, tau_max=0.2)
    at = lambda step: float(risen.resolve(jax.numpy.int32(step), None).tau)
    assert (at(0), at(29)) == (pytest.approx(0.1), pytest.approx(0.2))
    epochs = np.arange(30) / 5 if interval == "step" else np.arange(30) // 5
    expected = 0.1 + 0.5 * (1.0 - 0.1) * (1 + np.cos(np.pi * epochs / 4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("loss", ["dcl", "rgcl", "supcon"])
def test_simclr_learns_with_the_other_losses(loss, monkeypatch):
    monkeypatch.setattr(networks, "make_encoder", pixels)
    _, plain = take(settings(), devices=1, count=1)
    temperature = {"temperature": {"name": "constant"}} if loss == "rgcl" else {}
    _, logged = take(settings(loss={"name": loss}, **temperature), devices=1)
    assert all(np.isfinite(line["loss"]) for line in logged)
    assert logged[0]["loss"] != plain[0]["loss"]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("simclr", "isogclr"),
        pytest.param("moco_v2", "learned", marks=pytest.mark.ci),
        pytest.param("moco_v3", "isogclr", marks=pytest.mark.ci),
        pytest.param("nnclr", "isogclr", marks=pytest.mark.ci),
    ],
)
def test_schemes_are_the_same_on_one_device_and_eight(method, name, monkeypatch):
    monkeypatch.setattr(networks, "make_encoder", pixels)
    c = settings(method=method, temperature={"name": name}, optimizer={"learning_rate": 1e-3})
    (one, logged), (eight, logged_of_eight) = take(c, devices=1), take(c, devices=8)
    for line, other in zip(logged, logged_of_eight, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, one.scheme, eight.scheme)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_the_parts_whose_settings_apply_to_it(method):
    taken = set(arguments(METHODS[method].build))
    for field in fields():
        assert set(field.parts) <= set(Parts._fields)
        applies = method in field.only_for.get("method", [method])
        if field.name.startswith(("projector.", "loss.")):
            assert applies == bool(taken & set(field.parts)), field.name
        elif field.parts:
            assert taken & set(field.parts), field.name


@pytest.mark.parametrize("method", METHODS)
def test_a_method_uses_every_part_that_it_takes(method):
    """Else the settings of a part would be ignored without a word."""
    build = METHODS[method].build
    tree = ast.parse(inspect.getsource(build))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(arguments(build)) <= used


def test_moco_v2_splits_no_batchnorm_where_the_encoder_has_none():
    """Nor that of its head, whose groups nobody could set."""
    model = {"name": "vit_micro", "patch": 4}
    head = {"name": "simclr", "out": 8}
    c = settings(method="moco_v2", model=model, projector=head, moco={"queue_size": 32})
    method = steps.make(c, SOURCE).method
    state = jax.eval_shape(method.init, jax.random.key(0))
    batch = {**SOURCE.gather(np.arange(6)), "row": np.arange(6)}  # 8 groups would not divide it
    embedded, _ = jax.eval_shape(method.embed, *state, batch, jax.random.key(1))
    assert embedded.points["queries"].shape == (6, 8)


def test_the_supervised_loss_needs_labels():
    unlabelled = data.Source(read=SOURCE.read, index=SOURCE.index, image_shape=SOURCE.image_shape)
    with pytest.raises(run.ConfigError, match=r"config\.loss\.name: found supcon with images"):
        check_labels(settings(loss={"name": "supcon"}), unlabelled)


@pytest.mark.ci
@pytest.mark.parametrize("method", ["moco_v2", "moco_v3"])
def test_one_device_and_eight_learn_the_same(method):
    # A small learning rate, and groups that are not small: both keep rounding from growing.
    c = settings(method=method, optimizer={"learning_rate": 1e-3})
    (one, logged), (eight, logged_of_eight) = take(c, devices=1), take(c, devices=8)
    for line, other in zip(logged, logged_of_eight, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(compare, one.memory, eight.memory)


@pytest.mark.ci
@pytest.mark.parametrize("method", ["simclr", "moco_v2", "moco_v3", "nnclr", "byol"])
def test_a_vision_transformer_goes_with_every_method(method):
    moco = {"moco": {"queue_size": 32}} if method == "moco_v2" else {}
    c = settings(method=method, model={"name": "vit_tiny", "freeze_patches": True}, **moco)
    made = steps.make(c, SOURCE).method
    params, stats, memory = jax.eval_shape(made.init, jax.random.key(0))
    assert "kernel" not in params["encoder"].get("patches", {})
    assert stats["encoder"]["patches"]["kernel"].shape == (4 * 4 * 3, 192)
    assert ("predictor" in params) == (method in ("moco_v3", "nnclr", "byol"))
    assert ("queue" in memory) == (method in ("moco_v2", "nnclr"))


@pytest.mark.ci
@pytest.mark.parametrize("method", ["simclr", "moco_v3", "byol"])
def test_a_convnext_goes_with_methods_and_its_patch_is_a_setting(method):
    c = settings(method=method, model={"name": "convnext_atto", "patch": 1})
    params, *_ = jax.eval_shape(steps.make(c, SOURCE).method.init, jax.random.key(0))
    assert params["encoder"]["layers"]["stem"]["conv"]["kernel"].shape == (1, 1, 3, 40)
    with pytest.raises(
        run.ConfigError, match=r"config\.model\.patch: found 4 with images of 8 x 8"
    ):
        steps.make(settings(method=method, model={"name": "convnext_atto"}), SOURCE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"patch": 3}, r"config\.model\.patch: found 3 with images of 8 x 8; .* example 2"),
        ({"heads": 5}, r"config\.model\.heads: found 5"),
    ],
)
def test_a_transformer_that_cannot_be_made_is_refused(model, message):
    c = settings(model={"name": "vit_tiny", **model})
    with pytest.raises(run.ConfigError, match=message):
        steps.make(c, SOURCE)
