"""What a run records of the pairs that its loss compares."""

import functools
import json
import pathlib
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from dystress_jax import metrics, microscope, report, run, sharding, similarities, temperatures
from dystress_jax.errors import ArgumentError
from dystress_jax.files import FileError
from dystress_jax.microscope import KINDS, Compared, Recorder
from dystress_jax.microscope._records import together
from dystress_jax.run import _recording, networks
from dystress_jax.training import init_state, prepared
from dystress_jax.training.loggers import Begun, open_loggers
from dystress_jax.training.watch import before, make_look
from tests import runs, steps, test_clip
from tests.test_methods import SOURCE, pixels
from tests.test_methods import settings as method_settings

N, M, D = 9, 24, 5

TEMPERATURES = {
    "constant": temperatures.constant(0.3),
    "dystress": temperatures.dystress(0.1, 0.2),
    "through": temperatures.dystress(0.1, 0.3, stop_gradient=False),
    "temo": temperatures.temo(0.1, 0.5),
    "per_anchor": temperatures.per_anchor(np.linspace(0.1, 0.9, 2 * N, dtype=np.float32)),
    "separate": temperatures.separate(0.25, temperatures.linear(0.2, 0.4)),
    "function": temperatures.as_temperature(lambda s: 0.2 + 0.1 * s**2),
}


def pairs(seed=0, *, classes=3, **changes):
    """Anchors among candidates, whose first are the positives."""
    rng = np.random.default_rng(seed)
    anchors = rng.normal(size=(N, D)).astype(np.float32)
    positives = (anchors + rng.normal(size=(N, D)) / 2).astype(np.float32)
    others = rng.normal(size=(M - N, D)).astype(np.float32)
    groups = np.arange(N, dtype=np.int32), np.arange(M, dtype=np.int32)
    labels = groups[0] % classes, rng.integers(0, classes, M).astype(np.int32)
    labels[1][:N], labels[1][-2:] = labels[0], -1
    candidates = np.concatenate([positives, others])
    made = Compared(anchors, positives, candidates, groups, labels)._replace(**changes)
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, made)


def look(compared, temperature, **options):
    """What the microscope finds, fetched."""
    return jax.device_get(jax.jit(lambda: microscope.look(compared, temperature, **options))())


def cosines(compared):
    unit = lambda x: np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True)
    a, p, c = (unit(x) for x in (compared.anchors, compared.positives, compared.candidates))
    return np.sum(a * p, axis=1), a @ c.T


def kinds_of(compared):
    """Which pairs are negatives, true and false ones."""
    negative = np.not_equal.outer(*map(np.asarray, compared.groups))
    of_anchor, of_candidate = map(np.asarray, compared.labels)
    known = (of_anchor >= 0)[:, None] & (of_candidate >= 0)
    same = np.equal.outer(of_anchor, of_candidate)
    return negative, negative & known & ~same, negative & known & same


def gradients(compared, temperature):
    """Of the negatives' part of the loss with respect to each similarity, by differentiation."""
    _, s = cosines(compared)
    negative, *_ = kinds_of(compared)
    part = temperature.for_negatives
    if part.is_per_anchor:
        part = jax.tree.map(lambda leaf: leaf[:N], part)

    def pushed(s):
        logit = s / part(s)
        if isinstance(temperature, temperatures.LearnedWithBias):
            return jnp.sum(jnp.where(negative, jax.nn.softplus(logit + temperature.bias), 0.0))
        return jnp.sum(jax.nn.logsumexp(jnp.where(negative, logit, -jnp.inf), axis=1))

    found = np.abs(jax.grad(pushed)(jnp.float32(s)))
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.ci] if name in ("temo", "separate", "constant") else []
        )
        for name in TEMPERATURES
    ],
)
def test_histograms_and_weights_are_those_of_numpy(name):
    compared, temperature = pairs(), TEMPERATURES[name]
    found = look(compared, temperature)
    positive, s = cosines(compared)
    negatives = kinds_of(compared)
    chosen = [positive, *(s[kind] for kind in negatives)]
    expected = [np.histogram(x, found["similarity_edges"])[0] for x in chosen]
    np.testing.assert_array_equal(found["similarity"], expected)

    middles = (found["similarity_edges"][1:] + found["similarity_edges"][:-1]) / 2
    for name, a, b in (
        ("positive_negative", 0, 1),
        ("positive_true", 0, 2),
        ("positive_false", 0, 3),
        ("true_false", 2, 3),
    ):
        oracle = scipy.stats.wasserstein_distance(middles, middles, expected[a], expected[b])
        assert found[f"emd_{name}"] == pytest.approx(oracle, abs=1e-5)

    def tau(part, s):
        if part.is_per_anchor:
            part = jax.tree.map(lambda leaf: leaf[:N], part)
        return np.asarray(part(jnp.float32(s)))

    of_negatives = tau(temperature.for_negatives, s)
    chosen = [tau(temperature.for_positives, positive), *(of_negatives[k] for k in negatives)]
    expected = [np.histogram(x, found["tau_edges"])[0] for x in chosen]
    np.testing.assert_array_equal(found["tau"], expected)

    # The curves are those of a negative at each edge; of several anchors the mean.
    edges = np.float32(found["similarity_edges"])
    curves = lambda s: tau(temperature.for_negatives, np.broadcast_to(s, (N, len(edges))))
    np.testing.assert_allclose(found["curve_tau"], curves(edges).mean(axis=0), rtol=1e-5)
    logit = (edges / curves(edges)).mean(axis=0)
    np.testing.assert_allclose(found["curve_logit"], logit, rtol=1e-5, atol=1e-6)
    if name in ("dystress", "constant"):  # whose tau counts as a number in the gradient
        np.testing.assert_allclose(found["curve_slope"], 1 / found["curve_tau"], rtol=1e-5)
        expected = found["curve_logit"] - np.log(found["curve_tau"])
        np.testing.assert_allclose(found["curve_log_weight"], expected, rtol=1e-4, atol=1e-5)

    weight = gradients(compared, temperature)
    expected = [np.histogram(weight[k], found["weight_edges"])[0] for k in negatives]
    np.testing.assert_array_equal(found["weight"][1:], expected)
    mass = [np.histogram(s[k], found["similarity_edges"], weights=weight[k])[0] for k in negatives]
    np.testing.assert_allclose(found["gradient"][1:], np.array(mass) / N, atol=1e-6)

    entropies = [scipy.stats.entropy(row) for row in weight]
    assert found["entropy"] == pytest.approx(np.mean(entropies), rel=1e-5)
    assert found["effective_negatives"] == pytest.approx(np.mean(np.exp(entropies)), rel=1e-5)
    by_hardness = [w[k][np.argsort(-x[k])] for w, x, k in zip(weight, s, negatives[0], strict=True)]
    for share, count in (("hardest_1_percent", 1), ("hardest_10_percent", 3)):  # of 23
        found_share = np.mean([row[:count].sum() for row in by_hardness])
        assert found[share] == pytest.approx(found_share, rel=1e-5)
    hardest = [np.searchsorted(np.cumsum(row), 0.8) + 1 for row in by_hardness]
    assert found["hardest_for_80_percent"] == pytest.approx(np.mean(hardest))


def test_the_weights_of_a_sigmoid_are_its_own():
    compared = pairs()
    temperature = temperatures.LearnedWithBias(jnp.log(5.0), bias=jnp.float32(-2.0))
    found = look(compared, temperature)
    entropies = [scipy.stats.entropy(row) for row in gradients(compared, temperature)]
    assert found["entropy"] == pytest.approx(np.mean(entropies), rel=1e-5)
    without = look(compared, temperatures.learned(jnp.log(5.0)))
    assert found["entropy"] != pytest.approx(without["entropy"], rel=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
def test_the_earth_movers_distance_is_that_of_scipy(seed, n, m):
    rng = np.random.default_rng(seed)
    edges = np.linspace(-1, 1, 41).astype(np.float32)
    a, b = rng.uniform(-1, 1, n), np.tanh(rng.normal(size=m))
    binned = [jnp.float32(np.histogram(x, edges)[0]) for x in (a, b)]
    found = microscope.earth_movers_distance(*binned, jnp.asarray(edges))
    middles = (edges[1:] + edges[:-1]) / 2
    oracle = scipy.stats.wasserstein_distance(middles, middles, *binned)
    assert found == pytest.approx(oracle, abs=1e-6)
    width = edges[1] - edges[0]
    assert abs(found - scipy.stats.wasserstein_distance(a, b)) <= width + 1e-6


@pytest.mark.parametrize("shape", [(9, 4), (3, 20), (1, 5)])
def test_the_effective_rank_is_that_of_the_anchors_on_the_sphere(shape):
    points = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = microscope.complete({"anchors": points, "entropy": np.float32(1)})
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    singular = np.linalg.svd(np.float64(unit), compute_uv=False)
    share = singular / singular.sum()
    expected = np.exp(-np.sum(share * np.log(share)))
    assert found["effective_rank"] == pytest.approx(expected, rel=1e-6)
    assert found.keys() == {"entropy", "effective_rank"}


def test_the_effective_rank_of_a_collapsed_batch_is_one():
    one = np.tile(np.float32([0.3, -0.2, 0.9]), (50, 1))
    assert microscope.complete({"anchors": one})["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert microscope.complete({"anchors": 0 * one})["effective_rank"] == 1
    assert np.isnan(microscope.complete({"anchors": one * np.nan})["effective_rank"])


def test_more_anchors_than_are_looked_at_change_nothing():
    compared, temperature = pairs(), TEMPERATURES["per_anchor"]
    few = compared._replace(
        anchors=compared.anchors[:4],
        positives=compared.positives[:4],
        groups=(compared.groups[0][:4], compared.groups[1]),
        labels=(compared.labels[0][:4], compared.labels[1]),
    )
    found, expected = look(compared, temperature, max_anchors=4), look(few, temperature)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_a_temperature_only_similarities_are_measured():
    found, with_one = look(pairs(), None), look(pairs(), TEMPERATURES["dystress"])
    np.testing.assert_array_equal(found["similarity"], with_one["similarity"])
    assert {"entropy", "tau", "weight"}.isdisjoint(found)


def test_many_pairs_go_in_parts(monkeypatch):
    whole = look(pairs(), TEMPERATURES["dystress"])
    monkeypatch.setattr("dystress_jax.microscope._look.PAIRS_AT_ONCE", 2 * M)
    parts = look(pairs(), TEMPERATURES["dystress"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), whole, parts)


def test_a_similarity_without_limits_has_the_edges_of_its_batch():
    compared = pairs(similarity=similarities.inner_product)
    found = look(compared, temperatures.constant(1.0))
    values = np.asarray(compared.anchors) @ np.asarray(compared.candidates).T
    assert found["similarity_edges"][0] == pytest.approx(values.min(), rel=1e-5)
    assert found["similarity_edges"][-1] == pytest.approx(values.max(), rel=1e-5)
    assert found["similarity"].sum(axis=1)[:2].tolist() == [N, N * (M - 1)]


def test_measures_of_classes_are_those_of_the_anchors_with_a_label():
    compared = pairs()
    unknown = compared.labels[0].at[jnp.array([0, 3])].set(-1)
    found = look(
        compared._replace(labels=(unknown, compared.labels[1])), temperatures.constant(0.1)
    )
    known = np.asarray(unknown) >= 0
    x, labels = compared.anchors[known], unknown[known]
    assert found["tolerance"] == pytest.approx(float(metrics.tolerance(x, labels)), rel=1e-5)
    expected = float(metrics.inter_class_uniformity(x, labels))
    assert found["inter_class_uniformity"] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(
        float(metrics.inter_class_uniformity(compared.anchors, compared.labels[0])), rel=1e-4
    )


@pytest.mark.ci
def test_what_cannot_be_said_is_left_out():
    compared = pairs()
    nobody = tuple(jnp.full_like(label, -1) for label in compared.labels)
    found = look(compared._replace(labels=nobody), temperatures.constant(0.1))
    left_out = {"tolerance", "inter_class_uniformity", "emd_true_false"}
    left_out |= {"emd_positive_true", "emd_positive_false"}
    said = microscope.scalars(found)
    assert left_out == set(microscope.scalars(look(compared, temperatures.constant(0.1)))) - set(
        said
    )
    assert {name for name in microscope.histograms(found) if "true" in name} == set()
    broken = compared._replace(anchors=compared.anchors.at[0, 0].set(jnp.nan))
    found = look(broken, temperatures.constant(0.1))
    assert found["similarity"].sum(axis=1)[:2].tolist() == [N - 1, (N - 1) * (M - 1)]
    assert "entropy" not in microscope.scalars(found)
    # A single class, and an anchor without any negative.
    alone = pairs(classes=1, groups=(jnp.zeros(N, jnp.int32), jnp.zeros(M, jnp.int32)))
    found = look(alone, temperatures.constant(0.1))
    assert found["similarity"].sum(axis=1).tolist() == [N, 0, 0, 0]


# Settings, and the pairs that there should be: positives, and negatives if that is known.
METHODS = {
    "simclr": ({}, 16, 16 * 30),
    "supcon": ({"method": "simclr", "loss": {"name": "supcon"}}, 16, None),
    "isogclr": ({"method": "simclr", "temperature": {"name": "isogclr"}}, 16, 16 * 30),
    "moco_v2": ({}, 16, 16 * 32),
    "moco_v3": ({}, 16, 16 * 15),
    "nnclr": ({}, 16, 16 * 15),
    "byol": ({}, 16, 0),
    "clip": ({"topology": {"name": "oblique", "tokens": 2}}, test_clip.BATCH, None),
    "siglip": (
        {"method": "clip", "loss": {"name": "siglip"}, "temperature": {"name": "learned"}},
        test_clip.BATCH,
        None,
    ),
}
QUICK = ("simclr", "moco_v2", "byol", "siglip")


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.ci) for name in METHODS],
)
def test_every_method_says_what_it_compares_on_one_device_and_eight(name, monkeypatch):
    monkeypatch.setattr(networks, "make_encoder", pixels)
    monkeypatch.setattr(networks, "make_towers", test_clip.linear_towers)
    fields, positives, negatives = METHODS[name]
    fields = {"method": name, **fields}
    of_texts = fields["method"] == "clip"
    source, tokenizer = (test_clip.SOURCE, test_clip.TOKENIZER) if of_texts else (SOURCE, None)
    c = (test_clip.settings if of_texts else method_settings)(**fields)
    gathered = source.gather(np.arange(c.batch_size))
    batch = {key: jnp.asarray(x) for key, x in gathered.items()}
    points, found = None, []
    for devices in (1, 8):
        made = steps.make(c, source, devices=devices, tokenizer=tokenizer)
        method, scheme, mesh = made.method, made.scheme, made.mesh
        state = init_state(method, made.optimizer, scheme=scheme, seed=0, mesh=mesh)
        seen = before(state)
        if points is None:
            points = jax.device_get(points_of(method, state, batch, seen.key))
        look_at = make_look(method, scheme=scheme, mesh=mesh)
        arrays = (sharding.shard_batch(x, mesh) for x in (batch, points))
        found.append(jax.device_get(look_at(seen, *arrays)))
    one, eight = found
    counts = dict(zip(KINDS, one["similarity"].sum(axis=1).tolist(), strict=True))
    assert counts["positive"] == positives
    if of_texts:
        assert counts["negative"] == positives * (positives - 1)
    elif negatives is None:  # no pair of one class is pushed apart
        assert counts["false_negative"] == 0 < counts["true_negative"] == counts["negative"]
    else:
        assert counts["negative"] == negatives
    assert set(one) == set(eight)
    for key in one:
        np.testing.assert_allclose(one[key], eight[key], rtol=1e-5, atol=1e-6, err_msg=key)
    assert ("tau" in one) == (name != "byol")
    # What the report says and draws of it: all it can, and why there is no more.
    records = microscope.Records.of(np.array([5]), {key: x[None] for key, x in one.items()})
    page = report.page([report.Run(name, f"/{name}", records=records)])
    assert 'id="figure-similarities"' in page
    assert ('id="figure-logits"' in page) == (name != "byol")
    assert ('id="figure-gradients"' in page) == (name != "byol")
    assert ("No curve of a temperature: the method has none" in page) == (name == "byol")


@functools.partial(jax.jit, static_argnums=0)
def points_of(method, state, batch, key):
    """The points of a step."""
    ready = prepared(method, batch, key)
    embedded, _ = method.embed(state.params, state.stats, state.memory, ready, key)
    return embedded.points


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(
        path,
        train_images=rng.integers(0, 256, (40, 8, 8, 3), np.uint8),
        train_labels=np.arange(40) % 3,
    )
    return path


def train(workdir, images, **changes):
    fields = {
        "data": {"source": "npz", "path": str(images), "holdout": 0.0},
        "batch_size": 8,
        "steps": 6,
        "log_every": 1,
        "checkpoint_every": 2,
        "checkpoint_keep": 5,
        "knn_every": 0,
        "projector": {"hidden": 8, "out": 4},
        **changes,
    }
    run.train(run.from_config_dict(fields), workdir)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.ci
def test_a_run_learns_the_same_with_the_microscope_and_records_the_same_in_two_parts(
    tmp_path, images
):
    without = train(tmp_path / "without", images, microscope={"every": 0})
    with_it = train(tmp_path / "with", images, microscope={"every": 2})
    for name in ("loss", "gradient_norm", "parameter_norm"):
        assert [line[name] for line in with_it] == [line[name] for line in without]
    assert not list((tmp_path / "without" / "microscope").iterdir())
    folder = tmp_path / "with" / "microscope"
    records = microscope.read(tmp_path / "with")
    assert records.steps.tolist() == [1, 2, 4, 6]
    entropies = {line["step"]: line.get("microscope_entropy") for line in with_it}
    assert [step for step, value in entropies.items() if value is not None] == [1, 2, 4, 6]
    np.testing.assert_allclose(records["entropy"], [entropies[step] for step in (1, 2, 4, 6)])
    assert records.arrays["tau"].axes == ("step", "kind", "tau")
    assert records.of_kind("similarity", "positive").sum(axis=1).tolist() == [8] * 4
    with pytest.raises(ArgumentError, match=r"name: found 'entropi'; .*Did you mean entropy\?"):
        records["entropi"]
    with pytest.raises(ArgumentError, match="kind: found 'negatives'; allowed: positive, negat"):
        records.of_kind("similarity", "negatives")
    # Some images, and where the encoder of the checkpoint puts them.
    watched = microscope.watched(tmp_path / "with", records)
    assert (watched.steps.tolist(), watched.split, len(watched.ids)) == ([1, 6], "train", 40)
    pixels = np.load(images)["train_images"][watched.ids]
    np.testing.assert_array_equal(watched.pictures, pixels)
    encoder = run.load(tmp_path / "with")
    half = {"rtol": 1e-3, "atol": 1e-2}  # precision
    np.testing.assert_allclose(watched.features[-1], encoder.features(pixels), **half)
    points = encoder.embeddings(pixels)
    np.testing.assert_allclose(watched.embeddings[-1], points, **half)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(watched.similarity[-1], unit @ unit.T, atol=1e-3)
    # In two parts: what lies after the last checkpoint of the first is recorded again.
    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "with", parts)
    for step in ("4", "6"):
        shutil.rmtree(parts / "checkpoints" / step)
    (parts / "microscope" / "00000005.npz").write_bytes(b"of a run that went another way")
    train(parts, images, microscope={"every": 2})
    written = {path.name: path.read_bytes() for path in (parts / "microscope").iterdir()}
    assert written == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tensorboard_has_the_histograms(tmp_path):
    found = look(pairs(), TEMPERATURES["dystress"])
    begun = Begun(tmp_path, "", "", {}, {}, first_step=0, known_as=None, tell=print)
    opened = open_loggers(["tensorboard"], begun)
    opened.histograms(3, microscope.histograms(found))
    opened.close()
    [path] = tmp_path.glob("events.out.tfevents.*")
    content, at, shown = path.read_bytes(), 0, {}
    while at < len(content):  # length, its checksum, the event, its checksum
        [length] = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        shown |= {value.tag: (event.step, value.histo) for value in event.summary.value}
        at += length + 16
    assert {"similarity_positive", "tau_negative", "gradient_false_negative"} <= set(shown)
    step, histogram = shown["similarity_true_negative"]
    row = KINDS.index("true_negative")
    assert step == 3
    assert list(histogram.bucket) == found["similarity"][row].tolist()
    np.testing.assert_allclose(histogram.bucket_limit, found["similarity_edges"][1:])


def test_records_that_cannot_be_written_are_told_once_and_left_out(tmp_path):
    told = []
    recorder = Recorder(tmp_path, first_step=0, tell=told.append)
    recorder.write(1, {"entropy": np.float32(1.0)})
    shutil.rmtree(tmp_path / "microscope")
    recorder.write(2, {"entropy": np.float32(1.0)})
    recorder.write(3, {"entropy": np.float32(1.0)})
    [message] = told
    assert "cannot be written" in message
    assert not (tmp_path / "microscope").exists()


def test_a_record_that_cannot_be_read_is_told_once_and_not_added_to(tmp_path):
    told = []
    recorder = Recorder(tmp_path, first_step=0, tell=told.append)
    recorder.write(1, {"entropy": np.float32(1.0)})
    (tmp_path / "microscope" / "00000001.npz").write_bytes(b"broken")
    recorder.add(1, {"knn": np.float32(0.5)})
    recorder.add(1, {"knn": np.float32(0.5)})
    [message] = told
    assert "cannot be read" in message
    assert "The run goes on" in message


def test_an_array_of_another_shape_is_missing_in_its_record():
    found = {
        pathlib.Path("1.npz"): {"tau": np.ones((4, 3)), "entropy": np.float32(2)},
        pathlib.Path("2.npz"): {"tau": np.ones((4, 5)), "entropy": np.float32(3)},
    }
    read = together(found)
    assert read["tau"].shape == (2, 4, 3)
    assert np.isnan(read["tau"][1]).all()
    assert read["entropy"].tolist() == [2, 3]


def test_records_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"microscope cannot be read: .* not there"):
        microscope.read(tmp_path)
    recorder = Recorder(tmp_path, first_step=0)
    with pytest.raises(FileError, match="no records: none was due yet"):
        microscope.read(tmp_path)
    recorder.write(1, {"entropy": np.float32(1.0)})
    recorder.write(2, {"entropy": np.float32(2.0), "tau": np.ones((4, 3))})
    records = microscope.read(tmp_path)
    assert np.isnan(records["tau"][0]).all()
    assert records["tau"][1].sum() == 12
    whole = (tmp_path / "microscope" / "00000002.npz").read_bytes()
    for broken in (b"", b"nothing", whole[: len(whole) // 2], whole[:-30]):
        (tmp_path / "microscope" / "00000002.npz").write_bytes(broken)
        with pytest.raises(FileError, match=r"00000002\.npz cannot be read: it is no whole"):
            microscope.read(tmp_path)


def test_a_method_that_does_not_say_what_it_compares_is_not_recorded():
    made = steps.make(method_settings(), SOURCE)
    silent = made.method._replace(compared=None)
    assert make_look(silent, scheme=made.scheme, mesh=made.mesh) is None


@pytest.mark.ci
def test_a_run_of_such_a_method_still_says_where_its_images_lie(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_recording, "make_look", lambda *_, **__: None)
    config = runs.settings(runs.write_images(tmp_path / "images"), steps=2, checkpoint_every=0)
    run.train(config, tmp_path / "run")
    assert "records no pairs, only where some images lie: the method" in capsys.readouterr().out
    records = microscope.read(tmp_path / "run")
    assert "similarity" not in records.arrays
    watched = microscope.watched(tmp_path / "run", records)
    assert watched.steps.tolist() == [1, 2]
    page = report.page(report.gather([tmp_path / "run"]))
    assert "No records of pairs" in page
    assert "What is in the space?" in page
