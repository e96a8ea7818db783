"""Clip through the config: every temperature and topology, devices, micro-batches, noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import (
    augment,
    data,
    evaluation,
    losses,
    methods,
    metrics,
    models,
    run,
    schemes,
    sharding,
    temperatures,
)
from dystress_jax.data.tokenizer import train_tokenizer
from dystress_jax.errors import ArgumentError
from dystress_jax.evaluation import Result
from dystress_jax.methods._clip import _permute_subset
from dystress_jax.run import measuring, networks
from dystress_jax.run._own import choose
from dystress_jax.run._scheme import optimizer_of_numbers
from dystress_jax.run._splits import EvaluationError, zero_shot_task
from dystress_jax.run.data import open_sources
from dystress_jax.training import new_state, whole_gradient
from tests import oracles, steps

STORED, BATCH, CONTEXT, WORDS = 64, 16, 6, 60
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (STORED, 8, 8, 3), dtype=np.uint8)
NUMBERS = [str(number) for number in range(STORED)]
TOKENIZER = train_tokenizer(NUMBERS, vocab_size=WORDS, context=CONTEXT)
SOURCE = data.with_tokens(
    data.Source(
        read=lambda rows: (IMAGES[rows], np.int32(rows % 3)),
        index=np.arange(STORED, dtype=np.int32),
        image_shape=(8, 8, 3),
        class_names=("a", "b", "c"),
        captions=data.Captions.of([text] for text in NUMBERS),
    ),
    TOKENIZER.encode,
)

pytestmark = pytest.mark.slow


def settings(**fields):
    base = {
        "method": "clip",
        "batch_size": BATCH,
        "epochs": 1,
        "augment": {"recipe": "weak"},
        "model": {"name": "vit_micro"},
        "text": {"context": CONTEXT},
        "topology": {"dims": 8},
        "temperature": {"name": "learned", "tau": 0.07},
        "optimizer": {"name": "adamw", "learning_rate": 2e-3},
        "probe": {"online": False},
    }
    if fields.get("method", "clip") != "clip":
        base = {name: base[name] for name in ("batch_size", "epochs", "augment")}
    return run.from_config_dict(base | merged(base, fields))


def merged(base, fields):
    """The fields, in a group over those of `base`; another temperature takes none of them."""

    def own(name, value):
        return {} if name == "temperature" and "name" in value else base.get(name, {})

    return {
        name: {**own(name, value), **value} if isinstance(value, dict) else value
        for name, value in fields.items()
    }


def linear_towers(c, builder, *, tokenizer, **known):
    """Towers that compile at once: pixels and mean word vectors, and a matrix each."""
    del builder, known
    g = c.topology
    size = IMAGES[0].size

    # Numbers of the host: a random draw would take longer to compile than all the rest.
    normal = lambda *shape: jnp.float32(np.random.default_rng(0).standard_normal(shape))

    def matrix(rows, columns):
        kernel = normal(rows, columns) / rows**0.5
        apply = lambda params, stats, x, *, train: (x @ params["kernel"], stats)
        return models.Network(lambda key: ({"kernel": kernel}, {}), apply, columns)

    pixels = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
    words = lambda params, stats, ids, *, train: (params["words"][ids].mean(axis=1), stats)
    draw = lambda key: ({"words": normal(tokenizer.vocab_size, 8)}, {})
    width = g.dims * g.tokens
    image = models.Network(lambda key: ({}, {}), pixels, size), matrix(size, width)
    return image, (models.Network(draw, words, 8), matrix(8, width))


@pytest.fixture
def quick_views(monkeypatch):
    """Views that compile at once and, as the real ones, depend on the place in the batch."""

    def view(key, images, how, *, size, rows):
        del key, how, size
        return augment.to_float(images) + rows[:, None, None, None] / BATCH

    monkeypatch.setattr(augment, "view", view)


@pytest.fixture
def quick_towers(monkeypatch, quick_views):
    monkeypatch.setattr(networks, "make_towers", linear_towers)


def make(c, devices=1):
    return steps.make(c, SOURCE, devices=devices, tokenizer=TOKENIZER)


def start(made):
    """The state before the first step."""
    key = jax.random.key(0)
    return jax.jit(lambda: new_state(made.method, made.optimizer, key, scheme=made.scheme))()


def take(c, devices=1, count=3):
    """The state after the steps, and what was logged."""
    batches = [SOURCE.gather(np.arange(BATCH) + BATCH * number) for number in range(count)]
    return make(c, devices).take(batches, devices=devices, micro_batches=c.batch.micro_batches)


def whole_batch():
    batch = SOURCE.gather(np.arange(BATCH))
    return jax.tree.map(jnp.asarray, {**batch, "row": np.arange(BATCH, dtype=np.int32)})


@pytest.mark.usefixtures("quick_towers")
def test_one_token_on_the_oblique_manifold_is_the_sphere_bit_for_bit():
    sphere, log_of_sphere = take(settings())
    oblique, log_of_oblique = take(settings(topology={"name": "oblique", "tokens": 1}))
    assert len({line["loss"] for line in log_of_sphere}) == 3
    assert log_of_sphere == log_of_oblique
    jax.tree.map(np.testing.assert_array_equal, sphere, oblique)


@pytest.mark.ci
@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize(
    ("strategy", "loss"), [("gathered", "softmax"), ("ring", "softmax"), ("auto", "siglip")]
)
def test_one_device_and_eight_learn_the_same(strategy, loss):
    c = settings(
        loss={"name": loss, "strategy": strategy, "tile_size": 4}, data={"caption_noise": 0.5}
    )
    (one, logged), (eight, logged_of_eight) = take(c, devices=1), take(c, devices=8)
    for line, other in zip(logged, logged_of_eight, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert line["scale"] == pytest.approx(other["scale"], rel=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (one.params, one.scheme), (eight.params, eight.scheme))


@pytest.mark.ci
@pytest.mark.usefixtures("quick_views")
def test_micro_batches_have_the_gradient_of_the_whole_batch(monkeypatch):
    """With a transformer, which has no BatchNorm."""
    make_towers = networks.make_towers

    def towers(*config, **known):
        return make_towers(*config, **known)[0], linear_towers(*config, **known)[1]

    monkeypatch.setattr(networks, "make_towers", towers)

    def after_one_step(micro_batches):
        c = settings(
            batch={"micro_batches": micro_batches},
            data={"caption_noise": 0.5},
            # The parameters move by their gradient.
            optimizer={"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0},
        )
        state, [logged] = take(c, count=1)
        return (state.params, state.scheme[0]), logged

    (whole, line), (parts, line_of_parts) = after_one_step(1), after_one_step(4)
    assert line["gradient_norm"] > 0.1
    assert line_of_parts == pytest.approx(line, rel=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), whole, parts)


RANGES = {
    "constant": (0.1, 0.1),
    "dystress": (0.1, 0.2),
    "shifted_dystress": (0.1, 0.2),
    "temo": (0.1, 0.2),
    "cosine_schedule": (0.1, 0.2),
    "linear_schedule": (0.1, 0.2),
    "learned": (0.01, 1.0),
    "temperature_free": (0.0, 0.5),
}


@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize(
    ("loss", "name"), [*(("softmax", name) for name in RANGES), ("siglip", "learned")]
)
def test_every_temperature_stays_in_its_range(loss, name):
    interval = {"interval": "step"} if name == "cosine_schedule" else {}
    c = settings(loss={"name": loss}, temperature={"name": name, "tau": 0.1, **interval})
    _, logged = take(c)
    low, high = RANGES[name]
    for line in logged:
        assert all(np.isfinite(value) for value in line.values())
        for pairs in ("positive_tau", "negative_tau"):
            assert low - 1e-6 <= line[pairs] <= high + 1e-6
        assert line["scale"] == pytest.approx(1 / line["positive_tau"], rel=1e-5)
        if line["positive_tau"] == line["negative_tau"]:
            gap = line["positive_similarity"] - line["negative_similarity"]
            found = line["logit_gap"] * line["positive_tau"]
            assert found == pytest.approx(gap, rel=1e-3, abs=1e-4)
    assert len({line["loss"] for line in logged}) == 3
    assert (len({line["positive_tau"] for line in logged}) > 1) == (name != "constant")


@pytest.mark.usefixtures("quick_towers")
def test_a_loss_without_temperature_and_similarity_is_given_neither():
    fields = {"loss": {"name": "tests.own:pulls"}, "temperature": {"name": "dystress"}}
    made = make(settings(**fields))
    _, [line] = made.take([SOURCE.gather(np.arange(BATCH))])
    assert made.scheme is None
    np.testing.assert_allclose(line["loss"], -line["positive_similarity"], rtol=1e-5)
    assert not {"positive_tau", "negative_tau", "scale", "logit_gap"} & set(line)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"temperature": {"name": "tempnet"}, "data": {"prompts": "a {}"}},
            r"found tempnet with config\.data\.prompts a {}, whose texts name classes",
        ),
        (
            {"loss": {"name": "siglip"}, "temperature": {"name": "constant"}},
            "found constant .* siglip, which learns its scale and its bias; allowed: learned; or",
        ),
        (
            {"loss": {"name": "siglip"}, "temperature": {"name": "macl"}},
            "found macl .*siglip",
        ),
        (
            {
                "method": "simclr",
                "temperature": {"name": "isogclr", "tau": 0.1},
                "data": {"source": "folder", "path": "images", "on_error": "skip"},
            },
            r"found isogclr .*on_error skip, which may leave out other images .*on_error raise\.$",
        ),
        ({"loss": {"name": "dcl"}}, r"config\.loss\.name: found dcl with .* clip; .* simclr"),
        ({"method": "simclr", "loss": {"name": "siglip"}}, "found siglip with .* simclr"),
        (
            {"topology": {"name": "geodesic"}, "temperature": {"name": "temperature_free"}},
            r"found temperature_free with .* geodesic, .*config\.topology\.name sphere, oblique\.$",
        ),
        (
            {"temperature": {"tau": 0.005}},
            r"config\.temperature\.tau: found 0\.005, a scale of 200, .*from 0\.01 to 1",
        ),
        (
            {"topology": {"tokens": 2}},
            r"tokens: found 2 with .*topology\.name sphere, .* with .* oblique, oblique_",
        ),
        ({"topology": {"match_range": True}}, r"match_range: found True with .* sphere"),
        ({"data": {"prompts": "a photo"}}, r"config\.data\.prompts: found 'a photo'; allowed"),
        (
            {"zero_shot": {"prompts": "{} {}"}},
            r"config\.zero_shot\.prompts: found '\{\} \{\}'; allowed",
        ),
        ({"zero_shot": {"prompts": ""}}, r"config\.zero_shot\.prompts: found ''; allowed"),
        (
            {"temperature": {"name": "dystress"}, "topology": {"name": "euclidean"}},
            r"dystress with config\.topology\.name euclidean, whose .* no limits, .*; allowed",
        ),
        (
            {"temperature": {"tau": 1.12}},
            r"tau: found 1\.12, a scale of 0\.8929, .*allowed: from 0\.01 to 1\.$",
        ),
        (
            {"temperature": {"min_scale": 7.0, "max_scale": 6.0}},
            r"config\.temperature\.max_scale: found 6\.0; allowed: more than "
            r"config\.temperature\.min_scale = 7\.0",
        ),
        (
            {"data": {"caption_noise": 1.0}},
            r"config\.data\.caption_noise: found 1\.0; allowed: below",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(fields, message):
    with pytest.raises(run.ConfigError, match=message):
        settings(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": {"name": "small"}},
            r"mode: found 'multi' with config\.topology\.tokens 2 .*reshape",
        ),
        (
            {"text": {"pooling": "eot"}},
            r"mode: found 'multi' with config\.topology\.tokens 2 and config\.text\.pooling 'eot'",
        ),
    ],
)
def test_several_class_tokens_need_towers_that_have_them(fields, message):
    c = settings(topology={"name": "oblique", "tokens": 2}, **fields)
    with pytest.raises(run.ConfigError, match=message):
        make(c)


TOPOLOGIES = [
    ("sphere", 1, False),
    ("oblique", 4, False),
    ("oblique", 4, True),
    ("geodesic", 1, False),
    ("oblique_geodesic", 4, False),
    ("euclidean", 1, False),
    ("squared_euclidean", 1, False),
    ("inner_product", 1, False),
]


@pytest.mark.ci
@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize(("name", "tokens", "match_range"), TOPOLOGIES)
def test_every_topology_learns(name, tokens, match_range):
    topology = {"name": name, "tokens": tokens, "dims": 2, "match_range": match_range}
    _, logged = take(settings(topology=topology), count=2)
    assert all(np.isfinite(value) for line in logged for value in line.values())
    assert logged[0]["loss"] != logged[1]["loss"]
    assert logged[0]["gradient_norm"] > 1e-3
    high = {"oblique": 1.0 if match_range else 4.0}.get(name, 1.0)
    if name in ("sphere", "oblique"):
        assert -high <= logged[0]["negative_similarity"] <= high


@pytest.mark.parametrize(
    ("model", "mode", "class_tokens"),
    [("vit_micro", "multi", 4), ("vit_micro", "reshape", 1), ("small", "reshape", 1)],
)
def test_four_tokens_of_two_numbers_come_from_class_tokens_or_by_cutting(model, mode, class_tokens):
    topology = {"name": "oblique", "tokens": 4, "dims": 2, "mode": mode}
    c = settings(model={"name": model}, topology=topology)
    image, text = networks.make_towers(c, choose(c).model, size=8, channels=3, tokenizer=TOKENIZER)
    for encoder, projection in (image, text):
        params, _ = jax.eval_shape(projection.init, jax.random.key(0))
        assert projection.out_features == 8
        width = encoder.out_features // class_tokens
        assert params["kernel"].shape == (width, 8 // class_tokens)
    method = make(c).method
    params, stats, memory = jax.eval_shape(method.init, jax.random.key(0))
    batch = jax.eval_shape(whole_batch)
    embedded, _ = jax.eval_shape(method.embed, params, stats, memory, batch, jax.random.key(0))
    assert {x.shape for x in embedded.points.values()} == {(BATCH, 8)}


@pytest.mark.parametrize(
    ("n", "share"), [(32, 0.0), (32, 0.25), (32, 0.75), (8, 0.1), (5, 0.05), (3, 0.1), (2, 0.5)]
)
def test_caption_noise_are_a_deal_in_which_nobody_keeps_his_own(n, share):
    deals = 400 if n == 32 else 4000
    keys = jax.random.split(jax.random.key(0), deals)
    dealt = np.asarray(jax.vmap(lambda key: _permute_subset(key, n, share))(keys))
    np.testing.assert_array_equal(np.sort(dealt, axis=1), np.broadcast_to(np.arange(n), (deals, n)))
    draw = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys))
    chosen = draw < share
    moved = dealt != np.arange(n)
    # One alone has nobody to change with: it moves with another, half the time. All others that are
    # chosen get another's text, but for the last one where all are.
    count, all_but_one = chosen.sum(axis=1), moved.sum(axis=1) <= n - 1
    assert all_but_one.all()
    several = (count > 1) & (count < n)
    np.testing.assert_array_equal(moved[several], chosen[several])
    assert set(moved[count == 1].sum(axis=1)) <= {0, 2}
    if n == 2:  # one pair stays right
        assert not moved.any()
        return
    assert abs(moved.mean() - share) <= 4 * np.sqrt(2 * share / (n * deals))
    if n == 32 and share:
        assert len({tuple(row) for row in dealt}) > 0.9 * deals


@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_caption_noise_are_the_same_on_every_number_of_devices_and_change_texts_only(share):
    c = settings(data={"caption_noise": share})
    method = make(c).method
    batch, key = whole_batch(), jax.random.key(3)
    alone = jax.jit(method.prepare)(batch, key)
    eight = sharding.make_mesh()
    spread = jax.jit(method.prepare)(sharding.shard_batch(batch, eight), key)
    right = np.asarray(alone.get("right", np.ones(len(batch["row"]), bool)))
    np.testing.assert_array_equal(right.all(), share == 0)
    kept = (np.asarray(alone["tokens"]) == np.asarray(batch["tokens"])).all(axis=1)
    assert kept[right].all()
    for name, value in alone.items():
        np.testing.assert_array_equal(spread[name], value)
        if name not in ("tokens", "right", "named", "of_text"):
            np.testing.assert_array_equal(value, batch[name])
    assert (np.asarray(alone["tokens"]) != batch["tokens"]).any() == (share > 0)
    one_by_one = lambda tokens: sorted(map(tuple, np.asarray(tokens).tolist()))
    assert one_by_one(alone["tokens"]) == one_by_one(batch["tokens"])
    if share:
        kept = (alone["tokens"] == batch["tokens"]).all(axis=1)
        np.testing.assert_array_equal(alone["right"], kept)


@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize("name", ["softmax", "siglip"])
def test_captions_that_name_the_class_are_no_negatives_of_each_other(name):
    batch, key = whole_batch(), jax.random.key(3)

    def values(**fields):
        made = make(settings(loss={"name": name}, **fields))
        state = start(made)
        prepared = made.method.prepare(batch, key)
        embedded, _ = made.method.embed(state.params, state.stats, state.memory, prepared, key)
        temperature = (
            temperatures.LearnedWithBias(jnp.float32(2.0), bias=jnp.float32(-3.0))
            if name == "siglip"
            else temperatures.constant(0.2)
        )
        found, _ = made.method.contrast(
            state.params, embedded, temperature, state.memory, prepared, key
        )
        return found, embedded.points

    plain, points = values()
    found, _ = values(data={"prompts": "photos"})
    loss = {"softmax": losses.clip, "siglip": methods.siglip}[name]
    temperature = (
        temperatures.LearnedWithBias(jnp.float32(2.0), bias=jnp.float32(-3.0))
        if name == "siglip"
        else 0.2
    )
    expected = loss(
        points["images"],
        points["texts"],
        temperature=temperature,
        labels=jnp.asarray(batch["label"]),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(found, plain)
    noisy = make(settings(data={"prompts": "photos", "caption_noise": 0.5})).method
    moved = noisy.prepare(batch, key)
    # The tokens of a stored image are its number, its label that number modulo three.
    before, after = (np.asarray(x["tokens"]) for x in (batch, moved))
    order = [np.flatnonzero((before == row).all(axis=1))[0] for row in after]
    np.testing.assert_array_equal(moved["named"], np.asarray(batch["label"])[order])


@pytest.mark.usefixtures("quick_towers")
def test_the_deal_shares_no_random_numbers_with_the_views():
    """The view of image i is drawn with fold_in(key, i)."""
    method = make(settings(data={"caption_noise": 0.5})).method
    key, batch = jax.random.key(3), whole_batch()
    found = method.prepare(batch, key)["tokens"]
    of_views = jax.vmap(lambda row: _permute_subset(jax.random.fold_in(key, row), BATCH, 0.5))
    for source in np.asarray(of_views(batch["row"])):
        assert (found != batch["tokens"][source]).any()


@pytest.mark.usefixtures("quick_towers")
def test_the_log_has_the_gap_at_which_caption_noise_balance():
    _, [line] = take(settings(data={"caption_noise": 0.25}), count=1)
    assert line["equilibrium_gap"] == pytest.approx(np.log((BATCH - 1) * 0.75 / 0.25), rel=1e-6)
    np.testing.assert_allclose(line["equilibrium_gap"], metrics.equilibrium_gap(BATCH, 0.25))
    _, [line] = take(settings(), count=1)
    assert "equilibrium_gap" not in line
    _, [line] = take(settings(data={"caption_noise": 0.25}, loss={"name": "siglip"}), count=1)
    expected = metrics.equilibrium_gap(BATCH, 0.25, sigmoid=True)
    np.testing.assert_allclose(line["equilibrium_gap"], expected)


@pytest.mark.usefixtures("quick_towers")
def test_texts_of_a_class_are_no_negatives_and_without_a_label_each_is_a_class_of_its_own():
    image, text = linear_towers(settings(), None, tokenizer=TOKENIZER)
    view = lambda key, images, rows: augment.to_float(images)
    method = methods.clip(image, text, view=view, by_class=True)
    params, stats, memory = method.init(jax.random.key(0))
    batch, key = whole_batch(), jax.random.key(1)

    def of(labels):
        given = {**batch, "label": jnp.int32(labels)}
        embedded, _ = method.embed(params, stats, memory, given, key)
        tau = temperatures.constant(0.1)
        values, outcome = method.contrast(params, embedded, tau, memory, given, key)
        return values, outcome.metrics, method.compared(embedded, memory, given, key)

    own, classes = np.arange(BATCH), np.arange(BATCH) % 3
    unlabelled, _, compared = of(np.full(BATCH, -1))
    np.testing.assert_allclose(unlabelled, of(own)[0], rtol=1e-6)
    assert len({*np.asarray(compared.groups[0]).tolist()}) == BATCH
    _, found, compared = of(classes)
    np.testing.assert_array_equal(compared.groups[0], classes)
    points, _ = method.embed(params, stats, memory, batch, key)
    unit = {name: oracles.unit(np.float64(x)) for name, x in points.points.items()}
    s = unit["images"] @ unit["texts"].T
    apart = classes[:, None] != classes[None, :]
    np.testing.assert_allclose(found["negative_similarity"], s[apart].mean(), rtol=1e-4, atol=1e-6)
    gap = (np.diagonal(s).mean() - s[apart].mean()) / 0.1
    np.testing.assert_allclose(found["logit_gap"], gap, rtol=1e-4)
    _, found, _ = of(np.zeros(BATCH))
    assert np.isnan(found["logit_gap"])
    assert np.isnan(found["negative_similarity"])


@pytest.mark.usefixtures("unchecked_shapes")
def test_the_sigmoid_loss_needs_a_temperature_with_a_bias():
    tau = temperatures.constant(0.1)
    with pytest.raises(ArgumentError, match=r"temperature: found Constant; .*scale_and_bias"):
        methods.siglip(jnp.eye(2), jnp.eye(2), temperature=tau)


def test_a_temperature_with_a_bias_says_that_a_loss_of_ones_own_is_a_sigmoids():
    image, text = linear_towers(settings(), None, tokenizer=TOKENIZER)
    own = lambda images, texts, *, temperature: methods.siglip(
        images, texts, temperature=temperature
    )
    view = lambda key, x, rows: augment.to_float(x)
    method = methods.clip(image, text, view=view, loss=own, caption_noise=0.25)
    key = jax.random.key(0)
    params, stats, memory = method.init(key)
    batch = method.prepare(whole_batch(), key)
    embedded, _ = method.embed(params, stats, memory, batch, key)
    temperature = temperatures.LearnedWithBias(jnp.log(5.0), bias=jnp.float32(-2.0))
    _, outcome = method.contrast(params, embedded, temperature, memory, batch, key)
    expected = metrics.equilibrium_gap(BATCH, 0.25, sigmoid=True)
    np.testing.assert_allclose(outcome.metrics["equilibrium_gap"], expected)


def test_one_pair_of_a_batch_stays_right_so_that_the_gap_is_a_number():
    deals = [np.asarray(_permute_subset(jax.random.key(seed), 4, 0.99)) for seed in range(20)]
    for dealt in deals:
        assert (dealt == np.arange(4)).sum() == 1


@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_gap_is_between_the_mean_logits_of_right_and_of_negative_pairs(share):
    low, high = 0.1, 0.3
    temperature = {"name": "dystress", "tau_min": low, "tau_max": high}
    c = settings(data={"caption_noise": share}, temperature=temperature)
    made = make(c)
    method, state, key = made.method, start(made), jax.random.key(3)

    @jax.jit
    def found(state):
        batch = method.prepare(whole_batch(), key)
        embedded, _ = method.embed(state.params, state.stats, (), batch, key)
        temperature = made.scheme.resolve(state.scheme, None)
        _, outcome = method.contrast(state.params, embedded, temperature, (), batch, key)
        return batch["tokens"], embedded.points, outcome.metrics["logit_gap"]

    tokens, points, gap = found(state)
    a, b = (oracles.unit(np.float64(points[side])) for side in ("images", "texts"))
    s = a @ b.T
    logits = s / (low + (high - low) * np.sin(np.pi * s / 2) ** 2)
    right = (tokens == whole_batch()["tokens"]).all(axis=1)
    assert right.all() == (share == 0)
    expected = np.diag(logits)[right].mean() - logits[~np.eye(BATCH, dtype=bool)].mean()
    assert float(gap) == pytest.approx(expected, rel=1e-4)


def first_step(made, state):
    """Loss, the scheme's next state, and the embeddings that they come from."""
    batch, key = whole_batch(), state.key

    @jax.jit
    def both(state):
        found = whole_gradient(made.method, made.scheme)(state, batch, key)
        return found, made.method.embed(state.params, state.stats, (), batch, key)[0]

    found, embedded = both(state)
    return float(found.loss), found.scheme, embedded


@pytest.mark.usefixtures("quick_towers")
def test_a_scheme_sees_the_pairs_that_the_loss_compares():
    made, batch = make(settings()), whole_batch()
    state = start(made)
    embedded, _ = made.method.embed(state.params, state.stats, (), batch, state.key)
    inputs = made.method.scheme_inputs(embedded, (), batch, state.key)
    tau = np.linspace(0.1, 0.5, 2 * BATCH)
    a, b = (oracles.unit(np.float64(embedded.points[side])) for side in ("images", "texts"))
    logits = a @ b.T / tau[:BATCH, None], b @ a.T / tau[BATCH:, None]
    others = [np.exp(x).sum(axis=1, where=~np.eye(BATCH, dtype=bool)) for x in logits]
    expected = np.concatenate([np.log(e) - np.diag(x) for e, x in zip(others, logits, strict=True)])
    found = inputs.decoupled(temperatures.per_anchor(np.float32(tau)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert inputs.negatives == BATCH - 1
    np.testing.assert_array_equal(inputs.side, np.repeat([0, 1], BATCH))
    np.testing.assert_array_equal(inputs.example, np.tile(batch["index"], 2))
    for seen, right in ((inputs.anchors, (a, b)), (inputs.positives, (b, a))):
        np.testing.assert_allclose(oracles.unit(np.float64(seen)), np.concatenate(right))


@pytest.mark.usefixtures("quick_towers")
@pytest.mark.parametrize("loss", ["auto", pytest.param("softmax", marks=pytest.mark.ci)])
@pytest.mark.parametrize("name", ["isogclr", "tempnet"])
def test_each_image_and_each_text_has_a_temperature_alike_on_one_device_and_eight(name, loss):
    at_first = {"tau": 0.2} if name == "isogclr" else {}
    low, high = 0.005, 0.5
    temperature = {"name": name, "tau_min": low, "tau_max": high, **at_first}
    fields = {"loss": {"name": loss}, "temperature": temperature}
    batches = [SOURCE.gather(np.arange(BATCH) + BATCH * number) for number in range(2)]
    found = [make(settings(**fields), n).take(batches, devices=n) for n in (1, 8)]
    (one, logged), (eight, logged_of_eight) = found
    if name == "isogclr":
        assert one.scheme.tau.shape == (2, len(SOURCE))
        assert min(np.ptp(tau) for tau in one.scheme.tau) > 1e-3
    else:  # a network for the images and one for the texts
        assert all(x.shape[0] == 2 for x in jax.tree.leaves(one.scheme[0]))
        assert not np.allclose(*one.scheme[0]["kernel"])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    # Adam makes steps of one size of slopes that are nothing but rounding.
    of_run = lambda state: (state.params, state.scheme if name == "isogclr" else state.scheme[2])
    jax.tree.map(close, of_run(one), of_run(eight))
    for line, other in zip(logged, logged_of_eight, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert low < line["positive_tau"] < high


@pytest.mark.parametrize("given", [None, 0.5])
def test_for_images_and_texts_isogclr_has_the_numbers_that_its_authors_have_for_them(given):
    """A step that moves no image: tau - 0.03 x 0.9 x rho of an anchor whose positive equals all."""
    c = settings(temperature={"name": "isogclr", "tau_min": 0.01, "tau_max": 1.0, "rho": given})
    scheme = make(c).scheme
    same, n = jnp.ones((2, 4)), len(SOURCE)
    inputs = schemes.of_image_text(same, same, example=jnp.array([1, 0]))
    tau = scheme.update(scheme.init(), inputs, None).tau
    rho = 5.0 if given is None else given  # 6, clipped
    expected = np.full((2, n), 0.1)
    expected[:, :2] = max(0.1 - 0.03 * 0.9 * rho, 0.01)
    np.testing.assert_allclose(tau, expected, rtol=1e-5)


@pytest.mark.usefixtures("quick_towers")
def test_the_learned_scale_follows_the_optimiser_and_is_clamped():
    rate = 0.1
    c = settings(optimizer={"name": "sgd", "learning_rate": rate, "momentum": 0.0})
    made = make(c)
    state = start(made)
    loss, scheme, embedded = first_step(made, state)
    a, b = (oracles.unit(np.float64(embedded.points[side])) for side in ("images", "texts"))

    def oracle(t):
        logits = np.exp(t) * a @ b.T
        own = np.diag(logits)
        rows, columns = (np.log(np.exp(x).sum(axis=1)) for x in (logits, logits.T))
        return np.mean((rows + columns) / 2 - own)

    t = -np.log(0.07)
    assert float(state.scheme[0]) == pytest.approx(t, rel=1e-6)
    assert loss == pytest.approx(oracle(t), rel=1e-5)
    slope = (oracle(t + 1e-5) - oracle(t - 1e-5)) / 2e-5
    assert abs(slope) > 1e-2
    assert float(scheme[0]) == pytest.approx(t - rate * slope, rel=1e-5)
    _, logged = take(
        settings(
            temperature={"min_scale": 5.0, "max_scale": 20.0},
            optimizer={"name": "sgd", "learning_rate": 1e4, "momentum": 0.0},
        ),
        count=2,
    )
    assert logged[0]["scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert logged[1]["scale"] == pytest.approx(5.0 if slope > 0 else 20.0, rel=1e-5)


@pytest.mark.usefixtures("quick_towers")
def test_towers_and_scale_have_the_adam_of_the_settings_and_the_scale_no_decay():
    """Two steps by NumPy, in which beta2 and eps count."""
    rate, beta2, eps = 0.1, 0.5, 0.3
    numbers = {"learning_rate": rate, "beta2": beta2, "eps": eps, "weight_decay": 0.5}
    c = settings(optimizer={"name": "adamw", **numbers}, epochs=100)
    made = make(c)

    def steps_of(optimizer, w):
        state, found = optimizer.init(w), []
        for gradient in (1.0, -3.0):
            update, state = optimizer.update(jnp.float32(gradient), state, w)
            w = w + update
            found.append(float(w))
        return found

    def oracle(w, decay):
        first, second, found = 0.0, 0.0, []
        for step, gradient in enumerate((1.0, -3.0), start=1):
            first = 0.9 * first + 0.1 * gradient
            second = beta2 * second + (1 - beta2) * gradient**2
            adam = first / (1 - 0.9**step) / (np.sqrt(second / (1 - beta2**step)) + eps)
            w -= float(made.schedule.learning_rate(step - 1)) * (adam + decay * w)
            found.append(w)
        return found

    w = jnp.float32(2.0)
    np.testing.assert_allclose(steps_of(made.optimizer, w), oracle(2.0, 0.5), rtol=1e-5)
    of_scale = optimizer_of_numbers(c, made.schedule)
    np.testing.assert_allclose(steps_of(of_scale, w), oracle(2.0, 0.0), rtol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "siglip"])
def test_the_limits_of_the_scale_are_those_of_the_config(loss):
    limits = {"min_scale": 0.5, "max_scale": 6.25}
    c = settings(
        loss={"name": loss},
        temperature={"tau": 1.12, **limits},
        optimizer={"name": "sgd", "learning_rate": 1.0},
    )
    scheme = make(c).scheme
    state = scheme.init()
    temperature = scheme.resolve(state, None)
    assert float(temperature.scale) == pytest.approx(1 / 1.12)  # below 1, where CLIP would clamp
    for sign, expected in ((1.0, 0.5), (-1.0, 6.25)):
        steep = jax.tree.map(lambda leaf, sign=sign: jnp.float32(sign * 1e9), temperature)
        after = scheme.update(state, None, steep)
        assert float(scheme.resolve(after, None).scale) == pytest.approx(expected)


@pytest.mark.parametrize(("matched", "high"), [(False, 4.0), (True, 1.0)])
def test_the_range_of_the_oblique_manifold_is_matched_where_the_config_says_so(matched, high):
    c = settings(topology={"name": "oblique", "tokens": 4, "dims": 2, "match_range": matched})
    similarity = make(c).parts.similarity
    assert (similarity.low, similarity.high) == (-high, high)
    x = jnp.ones((1, 8))
    np.testing.assert_allclose(similarity(x, x), high, rtol=1e-6)


@pytest.mark.ci
def test_the_config_chooses_where_a_text_is_read():
    """At its end, which a later word moves, or at the first token."""
    read = {}
    ids = jnp.array([[2, 9, 3, 0, 0, 0]])
    for pooling in ("cls", "eot"):
        c = settings(text={"pooling": pooling, "context": CONTEXT})
        model = choose(c).model
        _, (text, _) = networks.make_towers(c, model, size=8, channels=3, tokenizer=TOKENIZER)
        params, stats = text.init(jax.random.key(0))
        read[pooling], _ = text.apply(params, stats, ids, train=False)
        shown, _ = text.apply(params, stats, jnp.where(ids == 0, 9, ids), train=False)
        assert np.abs(shown - read[pooling]).max() > 1e-4
    assert np.abs(read["cls"] - read["eot"]).max() > 1e-3


@pytest.mark.usefixtures("quick_towers")
def test_the_scale_and_the_bias_of_siglip_are_learned():
    rate = 0.01
    c = settings(
        loss={"name": "siglip"},
        temperature={"tau": 0.1, "bias": -5.0},
        optimizer={"name": "sgd", "learning_rate": rate, "momentum": 0.0},
    )
    made = make(c)
    state = start(made)
    loss, scheme, embedded = first_step(made, state)
    a, b = (oracles.unit(np.float64(embedded.points[side])) for side in ("images", "texts"))

    def oracle(parameters):
        t, bias = parameters
        sign = 2 * np.eye(BATCH) - 1
        return np.log1p(np.exp(-sign * (np.exp(t) * a @ b.T + bias))).sum() / BATCH

    first = np.array([np.log(10.0), -5.0])
    np.testing.assert_allclose(state.scheme[0], first, rtol=1e-6)
    assert loss == pytest.approx(oracle(first), rel=1e-5)
    steps = 1e-5 * np.eye(2)
    slopes = [(oracle(first + s) - oracle(first - s)) / 2e-5 for s in steps]
    assert min(map(abs, slopes)) > 1e-2
    np.testing.assert_allclose(scheme[0], first - rate * np.array(slopes), rtol=1e-5)


def test_evaluations_that_are_measured_together_embed_the_images_once(monkeypatch):
    asked = []

    def counting(encoder, source, *, mesh):
        asked.append(source)
        return evaluation.EmbeddedImages(encoder, source, jnp.zeros((STORED, 8)))

    monkeypatch.setattr(evaluation, "embed_images", counting)
    experiment = make(settings()).experiment({"test": SOURCE, "holdout": SOURCE})
    state = jax.eval_shape(experiment.init_state)
    shared = measuring.shared_by(experiment, state)

    def mine(experiment, state, *, embedded, split="test"):
        return Result((), {"images": len(embedded(split).embeddings)})

    for _ in range(2):
        found = measuring.measure(mine, experiment, state, name="mine", shared=shared)
        assert found.protocol == {"images": STORED}
    assert asked == [SOURCE]
    measuring.measure(mine, experiment, state, name="mine")  # by itself
    assert len(asked) == 2


def task(fields, **sources):
    """What the splits are measured on."""
    made = make(settings(zero_shot=fields))
    return zero_shot_task(made.experiment(sources))


@pytest.mark.ci
def test_zero_shot_is_measured_on_the_first_split_that_has_what_it_needs(tmp_path):
    silent = dataclasses.replace(SOURCE, captions=None)
    nameless = silent.relabel(np.full(STORED, -1), ())
    by_label = task({"classes": "labels"}, test=nameless, holdout=silent)
    assert (by_label.split, by_label.class_names) == ("holdout", ("a", "b", "c"))
    by_caption = task({"classes": "captions"}, test=silent, holdout=SOURCE)
    assert (by_caption.split, by_caption.class_names) == ("holdout", tuple(NUMBERS))
    np.testing.assert_array_equal(by_caption.source.labels(), np.arange(STORED))
    assert task({"classes": "captions"}, test=SOURCE, holdout=SOURCE).split == "test"
    for fields, sources in (
        ({"classes": "captions"}, {"test": silent}),
        ({"classes": "labels"}, {"test": nameless}),
        ({"classes": "labels"}, {}),
    ):
        with pytest.raises(EvaluationError):
            task(fields, **sources)
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncow\n")
    told = task({"classes": "labels", "class_names": str(names)}, test=silent)
    assert told.class_names == ("ant", "bee", "cow")
    with pytest.raises(run.ConfigError, match=r"config\.zero_shot\.class_names: .*3 class"):
        task({"classes": "captions", "class_names": str(names)}, test=SOURCE)


def test_prompts_caption_the_splits_that_have_labels(tmp_path):
    path = tmp_path / "images.npz"
    arrays = {"train_images": IMAGES[:8], "test_images": IMAGES[8:12]}
    np.savez(path, **arrays, train_labels=np.arange(8) % 2, class_names=["cat", "dog"])
    given = {"source": "npz", "path": str(path), "prompts": "a sketch of a {}", "holdout": 0.25}
    c = settings(data=given, zero_shot={"prompts": "name"})
    sources = open_sources(c, choose(c).source)
    assert sources["train"][0]["captions"][0] in ("a sketch of a cat", "a sketch of a dog")
    assert sources["holdout"][0]["captions"][0] in ("a sketch of a cat", "a sketch of a dog")
    assert sources["test"].captions is None
    np.savez(path, **arrays)
    with pytest.raises(run.ConfigError, match=r"config\.data\.prompts: .*of 6 .*no label"):
        open_sources(c, choose(c).source)
