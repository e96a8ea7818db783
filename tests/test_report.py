"""The page about runs: what is gathered, what is said, and that any run gives a page."""

import base64
import dataclasses
import io
import json
import re
import shlex
import subprocess
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl import flags
from bokeh.models import Span
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dystress_jax import commands, explorer, microscope, report, temperatures
from dystress_jax.errors import how_to_install
from dystress_jax.explorer._images import plain_images
from dystress_jax.files import FileError
from dystress_jax.microscope import KINDS, Recorder, Records
from dystress_jax.report import (
    ConfusionCounts,
    CurveOverSteps,
    Measured,
    Run,
    _accuracies,
    _charts,
    _curves,
    _groups,
    _images,
    _layout,
    _next,
    _overview,
    _page,
    _pairs,
    _run,
    _sentences,
    _tables,
)
from dystress_jax.report._sentences import RULES, false_negatives
from dystress_jax.run import combinations, from_config_dict
from tests.command_lines import parsed

N, BINS = 24, 200
LABELS = np.arange(N) % 3


def record(seed=0, *, labelled=True, width=6, **changes):
    """What a run might have found at a step: half of the curve of the logit falls."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(-1, 1, BINS + 1)
    negative = np.histogram(rng.normal(0, 0.2, 900), edges)[0]
    false = negative // 3 * labelled
    positive = np.histogram(rng.normal(0.6, 0.1, N), edges)[0]
    gradient = negative * np.exp(5 * edges[:-1])
    found = {
        "similarity_edges": edges,
        "similarity": np.stack([positive, negative, (negative - false) * labelled, false]),
        "gradient": np.stack([0 * gradient, gradient, gradient / 2, gradient / 2]) / gradient.sum(),
        "curve_tau": 0.1 + 0 * edges,
        "curve_logit": np.minimum(edges, 0.1) * 10,
        "curve_log_weight": edges * 10,
        "entropy": np.float32(2.0),
        "uniformity": np.float32(-2.0),
        "effective_negatives": np.float32(7.4),
        "hardest_1_percent": np.float32(0.2),
        "hardest_for_80_percent": np.float32(1.0),
        "watched_features": rng.normal(size=(N, width)).astype(np.float16),
        "watched_embeddings": rng.normal(size=(N, 4)).astype(np.float16),
        "watched_similarity": np.tanh(rng.normal(size=(N, N))).astype(np.float16),
    }
    found |= changes
    return {name: value for name, value in found.items() if value is not None}


def write(workdir, records, *, labels=LABELS, captions=(), config=(), summary=()):
    """A directory as a run leaves it."""
    workdir.mkdir(parents=True)
    settings = {"seed": 0, "temperature": {"name": "dystress", "tau_max": 0.2}, **dict(config)}
    (workdir / "config.json").write_text(json.dumps(settings))
    lines = [{"step": step, "loss": 5 - step / 10, "knn": 0.4} for step in range(1, 31)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text + '{"step": 31, "lo')
    evaluated = {
        "knn": {
            "top1": 0.5,
            "chance": {"top1": 0.25},
            "per_class_accuracy": {"</script>": 0.2, "dog": 0.8, "none": None},
            "protocol": {"k": 20, "classes": 4},
            "split": "test",
        }
    }
    closing = {
        "knn_trained": 0.5,
        "knn_untrained": 0.3,
        "knn_untrained_balanced": 0.2,
        "knn_bank": 9,
        "evaluations": evaluated,
    }
    (workdir / "summary.json").write_text(json.dumps(closing | dict(summary)))
    (workdir / "eval").mkdir()
    names = {"class_names": ["cat", "dog"], "counts": [[3, 1], [0, 4]]}
    (workdir / "eval" / "knn_confusion.json").write_text(json.dumps(names))
    recorder = Recorder(workdir, first_step=0)
    pictures = np.arange(N * 12, dtype=np.uint8).reshape(N, 2, 2, 3)
    names = ("</script>", "dog", "none") if (np.asarray(labels) >= 0).any() else ()
    recorder.keep(
        microscope.about("test", np.arange(N), np.asarray(labels), names, pictures, captions)
    )
    for step, found in records.items():
        recorder.write(step, found)
    return workdir


def data_of(page):
    return json.loads(re.search(r"const DATA = (.*);\n", page)[1])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    records = {1: record(0), 10: record(1, watched_features=None), 20: record(2)}
    return write(tmp_path_factory.mktemp("runs") / "one", records)


def test_what_a_run_has_left_is_gathered(workdir):
    [run] = report.gather([workdir])
    assert (run.name, run.seed, run.config["temperature.tau_max"]) == ("one", 0, 0.2)
    assert run.curves["loss"].steps.tolist() == list(range(1, 31))
    assert run.baselines == {"trained": 0.5, "untrained": 0.3}
    assert run.chance == 0.25
    assert run.evaluations["knn"].per_class == {"</script>": 0.2, "dog": 0.8, "none": None}
    assert run.confusions["knn"].counts.tolist() == [[3, 1], [0, 4]]
    assert run.images is not None
    assert run.images.steps.tolist() == [1, 20]
    assert run.missing == ()


def test_the_sentences_have_their_numbers(workdir):
    [run] = report.gather([workdir])
    said = " ".join(sentence.text for sentence in report.stand_out(run))
    assert "50.0 % of the images" in said
    assert "20.0 points more" in said
    assert "1 of 38 negatives carry 80 %" in said  # 900 pairs of 24 anchors
    assert "low for this batch" in said
    counts = np.float64(run.records.of_kind("similarity", "negative")[-1])
    above = counts[np.linspace(-1, 1, BINS + 1)[:-1] >= 0.1 - 1e-9].sum() / counts.sum()
    assert f"{100 * above:.1f} % of the negatives lie where the logit falls" in said
    assert "“</script>” (20.0 %)" in said
    assert "still falling" in said
    assert all(sentence.rule for sentence in report.stand_out(run))


def bare(**changes):
    return Run("r", "/r", **changes)


@pytest.mark.parametrize(
    ("of_gradient", "said"),
    [
        (30.0, "they have 30.0 % of the gradient, 3.0 times their share: what is alike is pushed "),
        (11.0, "they have 11.0 % of the gradient, 1.1 times their share: .* about as much"),
        (3.0, "they have 3.0 % of the gradient, 0.3 times their share: they are pushed less than"),
    ],
)
def test_false_negatives_are_pushed_more_or_less_or_as_the_others(of_gradient, said):
    kinds = {"negative": [100.0, 100.0], "false_negative": [10.0, of_gradient]}
    arrays = {name: np.zeros((1, len(KINDS), 2), np.float32) for name in ("similarity", "gradient")}
    for kind, (pairs, weights) in kinds.items():
        row = KINDS.index(kind)
        arrays["similarity"][0, row, 0], arrays["gradient"][0, row, 0] = pairs, weights
    found = false_negatives(bare(records=Records.of(np.array([1]), arrays)))
    assert found.text.startswith("10.0 % of the negatives are of the anchor's own class")
    assert re.search(said, found.text)


@pytest.mark.parametrize(("n", "spread"), [(2, 0.3), (9, 0.2), (9, 2.0)])
def test_features_that_point_the_same_way_are_told_by_their_mean_cosine(n, spread, workdir):
    x = np.ones((n, 4)) + spread * np.random.default_rng(0).normal(size=(n, 4))
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for i, a in enumerate(x) for b in x[:i]]
    [run] = report.gather([workdir])
    lengths = np.linspace(1, 5, n)[:, None]  # which count for nothing
    images = run.images._replace(ids=np.arange(n), features=(x * lengths).astype(np.float32)[None])
    found = _sentences.collapsed(bare(images=images))
    if np.mean(cosines) < 0.9:
        assert spread == 2.0
        assert found is None
    else:
        assert f"have a cosine of {np.mean(cosines):.2f} on average" in found.text


@pytest.mark.parametrize(("fall", "said"), [(0.05, True), (0.01, False), (-0.05, False)])
def test_a_loss_is_still_falling_where_two_standard_errors_say_so(fall, said):
    # Of 41 logged steps a quarter is 10; the standard error of its mean is 0.0105.
    steps = np.tile([0.0316, -0.0316], 5)
    loss = np.concatenate([np.full(21, 9.0), 1.0 + fall + steps, 1.0 + steps])
    found = _sentences.still_learning(
        bare(ended=True, curves={"loss": CurveOverSteps(np.arange(41), loss)})
    )
    assert (found is not None) == said
    if said:
        assert "from 1.050 to 1.000 over the last half" in found.text


def test_groups_without_options_and_what_steps_make_useless_are_no_settings(tmp_path):
    own = {"name": "tests.own:any_options"}
    settings = dataclasses.asdict(from_config_dict({"steps": 4, "epochs": 45, "temperature": own}))
    run_of = lambda **changes: Run(
        "r", "r", config=_run.flat(settings | changes), ignored=_run._ignored(settings | changes)
    )
    own = {"temperature": settings["temperature"] | {"options": {"value": 1}}}
    runs = [run_of(), run_of(epochs=100), run_of(**own)]
    assert [*_groups.settings_that_differ(runs)] == ["temperature.options.value"]


def test_below_a_sentence_stands_a_command_that_works(tmp_path):
    """Each is read as a command line, with the run that it is about."""
    from_settings = lambda **groups: from_config_dict({"epochs": 30, **groups})

    def run_of(config, name="r"):
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)
        plain = dataclasses.asdict(config)
        (workdir / "config.json").write_text(json.dumps(plain))
        return Run(name, str(workdir), config=_run.flat(plain), ignored=_run._ignored(plain))

    constant = run_of(from_settings(temperature={"name": "constant", "tau": 0.05}), "with space")
    dystress = run_of(from_settings(temperature={"stop_gradient": False}), "dystress")
    learned = run_of(from_settings(temperature={"name": "temperature_free"}), "free")
    commands = {
        _next.longer(constant): ("train", lambda c: c.epochs == 60),
        _next.measured(constant, "linear_probe"): ("eval", lambda c: c.epochs == 30),
        _next.other_temperatures(constant, higher=True): (
            "sweep",
            {"temperature.tau": [0.05, 0.1]},
        ),
        _next.other_temperatures(dystress, higher=True): (
            "sweep",
            {"temperature.tau_max": [0.2, 0.4]},
        ),
        _next.other_temperatures(dystress, higher=False): (
            "sweep",
            {"temperature.tau_min": [0.1, 0.05]},
        ),
        _next.without_gradient(dystress): ("sweep", {"temperature.stop_gradient": [False, True]}),
    }
    for command, (name, expected) in commands.items():
        program, named, *given = shlex.split(command)
        assert (program, named) == ("dystress", name)
        with parsed(name, *given) as (_, read):
            if name == "sweep":
                settings, overridden = read.loose(flags.FLAGS.config)
                assert read.over == expected
                combinations(settings, read.over, seeds=1, overridden=overridden)
            else:
                assert expected(read.settings(flags.FLAGS.config))
    assert _next.other_temperatures(learned, higher=True) == ""
    assert _next.without_gradient(constant) == ""
    known = constant._replace(evaluations={"linear_probe": Measured({}, {}, "", {}, {})})
    assert _next.measured(known, "linear_probe") == ""
    nothing = bare()
    assert not any((_next.longer(nothing), _next.measured(nothing, "knn")))
    assert _next.other_temperatures(nothing, higher=True) == ""


def test_advice_in_the_terminal_has_each_sentence_with_its_rule(workdir, capsys):
    commands.main(["dystress", "advise", str(workdir), f"--workdir={workdir}"])
    out, [run] = capsys.readouterr().out, report.gather([workdir])
    said = " ".join(out.split())
    for sentence in report.stand_out(run):
        assert " ".join(sentence.text.split()) in said
        assert f"rule: {sentence.rule}" in said
        assert sentence.next in said
    assert not re.search(r"^\s*%", out, re.MULTILINE)
    with pytest.raises(SystemExit, match=r"FileError: .*nothing cannot be read"):
        commands.main(["dystress", "advise", "nothing"])
    with pytest.raises(SystemExit) as ended:
        commands.main(["dystress", "advise"])
    assert ended.value.code == 2


@pytest.mark.parametrize("negatives", [1, 4, 5])
def test_of_a_few_negatives_no_share_is_told(negatives):
    """The only one always carries all of the gradient."""
    counts = np.zeros((1, len(KINDS), BINS))
    counts[0, KINDS.index("positive"), -1] = 8
    counts[0, KINDS.index("negative"), 0] = 8 * negatives
    arrays = {"similarity": counts, "hardest_for_80_percent": np.array([float(negatives)])}
    run = bare(records=Records.of(np.array([1]), arrays))
    assert (_sentences.hardest(run) is not None) == (negatives >= 5)


def test_a_rule_that_does_not_hold_says_nothing():
    assert report.stand_out(bare()) == []
    flat = CurveOverSteps(np.arange(40), np.ones(40))
    assert report.stand_out(bare(curves={"loss": flat})) == []
    for value, word in ((0.36, "has helped"), (0.32, "no clear gain"), (0.1, "is better by 20.0")):
        [found] = report.stand_out(bare(baselines={"trained": value, "a": 0.3}))
        assert word in found.text
    only = bare(evaluations={"knn": Measured({}, {}, "", {"a": 0.1, "b": None}, {})})
    assert report.stand_out(only) == []
    assert len(RULES) == len({rule.__name__ for rule in RULES})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.integers(1, 6))
def test_one_layout_undoes_a_rotation_and_keeps_the_places_of_the_last_step(seed, n, width):
    rng = np.random.default_rng(seed)
    last = rng.normal(size=(n, width))
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    turned, wider, reference = _layout.lay_out(
        [last @ rotation, np.pad(last, ((0, 0), (0, 3))), last]
    ).places
    np.testing.assert_allclose(turned, reference, atol=1e-6)
    np.testing.assert_allclose(wider, reference, atol=1e-6)
    # Of one step alone, the projection onto the two axes of most variance.
    x = last / np.linalg.norm(last, axis=1, keepdims=True)
    x = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    for axis in range(min(2, len(s))):
        if s[axis] > 1e-6:
            found = np.corrcoef(reference[:, axis], u[:, axis])[0, 1]
            assert abs(found) == pytest.approx(1, abs=1e-6)


def test_umap_is_fitted_once_and_keeps_the_places_that_it_has_fitted(monkeypatch):
    """With a stand-in for the package, which is large and slow."""

    class UMAP:
        def __init__(self, **options):
            assert options["random_state"] == 0

        def fit(self, x):
            self.embedding_ = x[:, :2] * 2
            return self

        def transform(self, x):
            return x[:, :2] * 3

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    last = np.random.default_rng(0).normal(size=(6, 3))
    (first, second, fitted), by = _layout.lay_out([last, last, last], layout="UMAP")
    assert by == "UMAP"
    np.testing.assert_array_equal(first, second)
    # All are scaled together, so what was placed anew lies half as far out again.
    spread = lambda x: np.ptp(x, axis=0)
    np.testing.assert_allclose(spread(first), 1.5 * spread(fitted), rtol=1e-5)


FEW = {
    "one row": np.ones((1, 4)),
    "two rows": np.eye(4)[:2],
    "one dimension": np.arange(-4.0, 5)[:, None],
    "two dimensions": np.random.default_rng(0).normal(size=(9, 2)),
    "equal rows": np.ones((9, 4)),
}


class NoFit:
    """Of umap-learn, where no small input may arrive."""

    def __init__(self, **options):
        raise AssertionError("UMAP was asked for too little")


class NoNumbers:
    def __init__(self, **options):
        pass

    def fit(self, x):
        self.embedding_ = np.full((len(x), 2), np.nan)
        return self

    def transform(self, x):
        return np.full((len(x), 2), np.nan)


@pytest.mark.parametrize("name", [*FEW, "not finite"])
def test_where_umap_has_too_little_to_go_by_pca_places_the_rows(monkeypatch, name):
    stand_in = NoNumbers if name == "not finite" else NoFit
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=stand_in))
    x = FEW.get(name, np.random.default_rng(0).normal(size=(9, 4)))
    places, by = _layout.lay_out([x[::-1], x], layout="UMAP")
    assert by == "PCA"
    np.testing.assert_array_equal(places, _layout.lay_out([x[::-1], x]).places)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FEW, "enough", "three rows"])
def test_umap_itself_places_anything(name):
    pytest.importorskip("umap")  # the extra `umap`: numba is slow to come to a new Python
    x = np.random.default_rng(0).normal(size=(3 if name == "three rows" else 20, 4))
    places, by = _layout.lay_out([FEW.get(name, x)] * 2, layout="UMAP")
    assert np.isfinite(places).all()
    assert by in ({"PCA"} if name in FEW else {"UMAP"} if name == "enough" else {"PCA", "UMAP"})


def test_neighbours_and_shares_are_those_of_numpy(workdir):
    x = np.random.default_rng(0).normal(size=(9, 4))
    near, cosines = _images.neighbours(x, 3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    all_of = unit @ unit.T
    for row in range(9):
        order = [j for j in np.argsort(-all_of[row]) if j != row][:3]
        assert near[row].tolist() == order
        np.testing.assert_allclose(cosines[row], all_of[row][order])
    [run] = report.gather([workdir])
    frame = _pairs.frames(run)[-1]["pairs"]
    counts = run.records.of_kind("similarity", "negative")[-1].reshape(50, 4).sum(axis=1)
    np.testing.assert_allclose(frame["negative"], counts / counts.sum(), rtol=1e-4)
    assert sum(frame["gradient"]) == pytest.approx(1, rel=1e-3)


def test_runs_that_differ_in_their_seed_only_are_one_line_and_a_band(tmp_path):
    def of(name, seed, tau):
        values = np.array([1.0, 2.0, 3.0]) + seed
        config = {"seed": seed, "temperature.tau": tau}
        return Run(name, name, config, {"loss": CurveOverSteps(np.array([1, 2, 3]), values)})

    runs = [of("a", 0, 0.1), of("b", 1, 0.1), of("c", 0, 0.2)]
    assert [group.runs for group in _groups.groups_of(runs)] == [(0, 1), (2,)]
    [chart] = _curves.curves(runs)
    kinds = [type(drawn.glyph).__name__ for drawn in chart.figure.renderers]
    assert kinds == ["VArea", "Line", "Line"]
    band, mean = (drawn.data_source.data for drawn in chart.figure.renderers[:2])
    np.testing.assert_array_equal(band["y1"], [1, 2, 3])
    np.testing.assert_array_equal(band["y2"], [2, 3, 4])
    np.testing.assert_array_equal(mean["y"], [1.5, 2.5, 3.5])
    assert "temperature.tau" in _tables.differences(runs)
    # A group has one colour in all charts, which is that of its switch.
    [single] = [drawn.glyph for drawn in chart.figure.renderers[2:]]
    assert single.line_color == _charts.inks(runs)[2][0] == _charts.COLOURS[1]


def test_of_classes_that_are_recognised_alike_none_is_the_least():
    of = lambda *shares: Measured(
        {"top1": 0.5}, {}, "test", dict(zip("abc", shares, strict=False)), {}
    )
    run = Run("r", "r", {"seed": 0}, evaluations={"knn": of(1.0, 1.0), "eval knn": of(1.0, 0.5)})
    said = _sentences.weakest_class(run)
    assert said.text.startswith("By eval knn, the class recognised least is “b” (50.0 %)")
    assert _sentences.weakest_class(run._replace(evaluations={"knn": of(1.0, 1.0)})) is None


def test_a_seed_that_has_diverged_ends_no_curve_of_the_others():
    def of(seed, steps, level, **changes):
        curve = CurveOverSteps(np.array(steps), np.full(len(steps), level))
        return Run(f"r{seed}", "", {"seed": seed}, {"loss": curve}, **changes)

    ten, seven = range(10, 101, 10), range(7, 101, 7)  # of seeds that are logged at other steps
    gone = of(2, [10, 20, 30], 9.0, ended=False, diverged=True)
    [chart] = _curves.curves([of(0, ten, 1.0), of(1, seven, 2.0), gone])
    left_out = "r0 and 2 more seeds: from 1.5 to 1.5 (left out: 1 that has not ended)"
    assert chart.about == f"loss over the steps. {left_out}."
    mean = chart.figure.renderers[1].data_source.data
    assert (min(mean["x"]), max(mean["x"])) == (10, 98)
    assert set(mean["x"]) == {step for step in (*ten, *seven) if 10 <= step <= 98}
    # As long as none has ended, all are drawn as far as they have come.
    [chart] = _curves.curves([of(0, ten, 1.0, ended=False), gone])
    assert chart.about.endswith("from 5 to 5.")
    assert max(chart.figure.renderers[1].data_source.data["x"]) == 30


def of_group(name, tau, accuracies, **changes):
    """Runs of other seeds each, of one temperature, which may depend on s."""
    edges = np.linspace(-1, 1, BINS + 1)
    found = record(curve_tau=tau + 0 * edges, **changes)
    records = Records.of(np.array([5]), {n: np.asarray(x)[None] for n, x in found.items()})
    return [
        Run(
            f"{name}{seed}",
            f"/{name}{seed}",
            {"seed": seed, "temperature.name": name},
            baselines={"trained": value},
            records=records,
        )
        for seed, value in enumerate(accuracies)
    ]


def test_runs_are_held_against_the_first_one_with_their_numbers():
    edges = np.linspace(-1, 1, BINS + 1)
    base = of_group("a", 0.2, [0.40, 0.42])
    # Lower above 0.5 by 0.1 at most, and the same elsewhere.
    other = of_group(
        "b",
        np.where(edges > 0.5, 0.2 - 0.2 * (edges - 0.5), 0.2),
        [0.50, 0.54, 0.55],
        hardest_for_80_percent=np.float32(2.0),
        uniformity=np.float32(-2.5),
    )
    said = [sentence.text for sentence in report.compare([*base, *other])]
    ours, theirs = np.array([0.50, 0.54, 0.55]), np.array([0.40, 0.42])
    points = 100 * (ours.mean() - theirs.mean())
    whole = " ".join(said)
    assert "Over the 2 seeds of “a0” the kNN accuracy is 41.0 % on average, with a st" in whole
    assert "“b0” beside “a0”: temperature.name is b, not a." in said
    assert (
        f"The kNN accuracy of “b0” is {points:.1f} points higher than that of “a0”: 53.0 % and "
        f"41.0 % (3 and 2 seeds, standard deviations {100 * ours.std(ddof=1):.1f} and "
        f"{100 * theirs.std(ddof=1):.1f}: more than seeds alone explain)."
    ) in said
    negatives = other[0].records.of_kind("similarity", "negative")[0]
    middles = (edges[1:] + edges[:-1]) / 2
    lower = middles > 0.51  # from there on by more than 1 %
    share = 100 * negatives[lower].sum() / negatives.sum()
    assert (
        "The temperature of “b0”, beside that of “a0”, is lower where s > 0.51 (by up to 0.099, at "
        f"s = 0.99), where {share:.1f} % of its negatives lie."
    ) in said
    assert "comes from 2 of 38 negatives, in “a0” from 1 of 38" in whole
    assert "“b0” listens to more of them" in whole
    assert re.search(r"cover the sphere more evenly than .*\(uniformity -2\.50 and -2\.00", whole)
    assert all(sentence.rule for sentence in report.compare([*base, *other]))
    # The other way round, what was higher is lower.
    back = " ".join(sentence.text for sentence in report.compare([*other, *base]))
    assert f"{points:.1f} points lower" in back
    assert "is higher where s > 0.51" in back


def test_accuracies_of_other_images_are_not_compared():
    with_data = lambda runs, **data: [
        run._replace(config=run.config | {f"data.{name}": x for name, x in data.items()})
        for run in runs
    ]
    base = with_data(of_group("a", 0.2, [0.4, 0.42]), name="patches", threads=2, limit=0)
    said = lambda **data: " ".join(
        s.text for s in report.compare([*base, *with_data(of_group("b", 0.2, [0.9, 0.8]), **data)])
    )
    same = said(name="patches", threads=4, limit=100)
    assert "The kNN accuracy of “b0” is 44.0 points higher" in same
    assert "not compared" not in same
    other = said(name="emoji", threads=2, limit=0, path="/x")
    assert "points higher" not in other
    assert "The accuracies of “b0” and “a0” are not compared: data.name and data.path differ" in (
        other
    )


@pytest.mark.parametrize(
    ("changes", "differing"),
    [({"knn.k": 5}, "knn.k"), ({"probe.epochs": 5}, ""), ({"knn.k": 5, "seed": 1}, "knn.k")],
)
def test_what_is_measured_in_another_way_is_not_compared(changes, differing):
    """By another k; the linear probe was not asked for, so its settings count for nothing."""
    base = of_group("a", 0.2, [0.4, 0.42])
    knn = {"knn": Measured({"top1": 0.4}, {}, "test", {}, {})}
    settings = {"knn.k": 20, "probe.epochs": 90}
    base = [run._replace(config=run.config | settings, evaluations=knn) for run in base]
    other = [run._replace(name="b", config=run.config | changes) for run in base]
    found = report.overview([*base, *other])
    assert found.otherwise == ((differing,) if differing else ())
    told = " ".join(sentence.text for sentence in report.compare([*base, *other]))
    assert ("not compared: knn.k differs" in told) == bool(differing)


def test_results_of_another_checkpoint_say_so(tmp_path):
    workdir = write(tmp_path / "one", {})
    (workdir / "summary.json").write_text(json.dumps({"steps": 30, "knn_trained": 0.5}))
    steps = {"knn": 20, "knn_best": 20, "knn_20": 20, "linear_probe": 30, "retrieval": 20}
    for name, step in steps.items():
        (workdir / "eval" / f"{name}.json").write_text(
            json.dumps({"top1": 0.25, "checkpoint_step": step, "split": "test"})
        )
    [run] = report.gather([workdir])
    assert [*run.evaluations] == [
        "eval knn at step 20",
        "eval knn_20",
        "eval knn_best",
        "eval linear_probe",
        "eval retrieval at step 20",
    ]
    assert [*run.confusions] == ["knn at step 20"]
    assert "knn at step 20 top1" in _groups.measures_of([run])
    # What the end was measured by is not proposed again.
    assert _next.measured(run, "linear_probe") == ""
    assert _next.measured(run, "retrieval") != ""


def test_chance_is_that_of_each_run(tmp_path):
    runs = [
        run._replace(chance=chance)
        for run, chance in zip(
            of_group("a", 0.2, [0.4]) + of_group("b", 0.2, [0.5]) + of_group("c", 0.2, [0.6]),
            (0.1, 0.25, 0.1),
            strict=True,
        )
    ]
    lines = lambda runs: [
        x.location for x in _accuracies.baselines(runs).figure.center if isinstance(x, Span)
    ]
    keys = lambda runs: [
        key.label for key in _accuracies.baselines(runs).keys if "chance" in key.label
    ]
    assert lines(runs) == [10, 25]
    assert keys(runs) == ["chance of a0, c0: 10.0 %", "chance of b0: 25.0 %"]
    assert lines(runs[::2]) == [10]
    assert keys(runs[::2]) == ["chance"]
    measured = [
        run._replace(
            evaluations={"knn": Measured({"top1": 0.4}, {"top1": run.chance}, "test", {}, {})}
        )
        for run in runs
    ]
    assert "10.0 % or 25.0 %" in _tables.evaluations(measured)


def swept(accuracies, **changes):
    """Runs of a sweep: a name and an accuracy for each seed, by the temperature."""
    return [
        Run(
            f"tau={tau}_seed={seed}",
            f"/tau={tau}_seed={seed}",
            {"seed": seed, "temperature.tau": tau, "temperature.name": "constant"},
            {"knn": CurveOverSteps(np.array([1, 9]), np.array([0.1, value - 0.1]))},
            baselines={"trained": value},
            **changes,
        )
        for tau, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


ACCURACIES = {0.5: [0.40, 0.41, 0.42], 0.1: [0.50, 0.53, 0.56], 0.2: [0.48, 0.5, 0.58], 1.0: [0.3]}


def test_settings_are_laid_side_by_side_with_the_means_of_their_seeds():
    runs = swept(ACCURACIES)
    found = report.overview(runs)
    assert found.settings == ("temperature.tau",)
    assert found.measures == ("kNN accuracy on held-out images", "kNN accuracy")
    assert [row.settings for row in found.rows] == [(tau,) for tau in ACCURACIES]
    for row, values in zip(found.rows, ACCURACIES.values(), strict=True):
        np.testing.assert_array_equal(row.measured["kNN accuracy"], values)
        np.testing.assert_allclose(row.measured[found.measures[0]], np.array(values) - 0.1)
    marks = ["behind", "best", "level", "unknown"]
    assert _overview.standing(found, "kNN accuracy") == marks
    first, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in report.markdown(found).splitlines()
    ]
    assert first == ["temperature.tau", *(f"{name}, %" for name in found.measures), "seeds"]
    assert [row[2] for row in rows if len(row) > 3] == [
        "41.0 ± 1.0",
        "53.0 ± 3.0 ★",
        "52.0 ± 5.3 ≈",
        "30.0 ?",
    ]
    assert [row[3] for row in rows if len(row) > 3] == ["3", "3", "3", "1"]
    lines = [line.split(",") for line in report.as_csv(runs).splitlines()]
    assert lines[0] == ["run", "temperature.tau", "seed", *found.measures, "ended"]
    assert [float(line[4]) for line in lines[1:]] == [x for of in ACCURACIES.values() for x in of]
    assert {line[5] for line in lines[1:]} == {"complete"}
    # Of more than a few settings the best is named, in place of each beside the first.
    said = [sentence.text for sentence in report.compare(runs)]
    assert said[1] == (
        "The kNN accuracy is highest of “tau=0.1, 3 seeds”, 53.0 %: seeds alone could make the "
        "difference to 1 of the others; further behind than seeds alone explain: 1 of the others; "
        "with one seed it is not known what seeds do: 1 of the others."
    )
    said = [sentence.text for sentence in report.compare(swept(ACCURACIES | {1.0: [0.3, 0.31]}))]
    assert "alone explain: 2 of the others." in said[1]


def test_a_difference_that_seeds_alone_could_make_is_told_by_welch():
    """Against Welch's formula, and the tail of Student's t by a sum of its density."""
    rng = np.random.default_rng(0)
    for a, b in ((3, 3), (2, 7), (5, 2)):
        x, y = rng.normal(0.5, 0.1, a), rng.normal(0.6, 0.02, b)
        vx, vy = x.var(ddof=1) / a, y.var(ddof=1) / b
        t = abs(x.mean() - y.mean()) / np.sqrt(vx + vy)
        df = (vx + vy) ** 2 / (vx**2 / (a - 1) + vy**2 / (b - 1))
        angle = np.linspace(np.arctan(t / np.sqrt(df)), np.pi / 2, 200_001)
        whole = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
        # t = sqrt(df) tan(angle) has the density cos(angle)^(df - 1), up to a factor.
        area = lambda z, df=df: np.trapezoid(np.maximum(np.cos(z), 0) ** (df - 1), z)
        assert _overview.by_chance(x, y) == pytest.approx(2 * area(angle) / area(whole), rel=1e-4)
    assert _overview.by_chance(np.array([0.5]), np.array([0.4, 0.5])) is None
    same = np.full(3, 0.5)
    assert _overview.by_chance(same, same) == 1
    assert _overview.by_chance(same, same + 0.1) == 0
    assert _overview.by_chance(same - 0.1, same + (0.1 - 0.2)) == 1  # but for rounding
    assert 0 < _overview.by_chance(same, np.array([0.5, 0.6, 0.7])) < 1


def test_an_evaluation_after_the_run_is_the_same_measure_as_one_at_its_end():
    of = lambda value: Measured({"top1": value}, {}, "test", {}, {})
    first, second = swept({0.1: [0.5, 0.6]})
    first = first._replace(evaluations={"linear_probe": of(0.7)})
    again = {"eval linear_probe": of(0.8), "knn": of(0.5), "eval knn": of(0.9)}
    found = _groups.measures_of([first, second._replace(evaluations=again)])
    assert found["linear_probe top1"].tolist() == [0.7, 0.8]
    assert found["eval knn top1"].tolist() == [0.9]
    assert "knn top1" not in found


def test_few_runs_with_many_measures_lie_on_their_side():
    of = lambda value: Measured({"top1": value}, {}, "test", {}, {})
    measured = {f"eval linear_probe_probe.epochs={n}": of(n / 10) for n in range(1, 6)}
    cells = lambda runs: [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in report.markdown(report.overview(runs)).splitlines()
        if line.startswith("|")
    ]
    few = [run._replace(evaluations=measured) for run in swept({0.1: [0.5], 0.2: [0.6]})]
    upright, on_its_side = cells(swept({0.1: [0.5], 0.2: [0.6]})), cells(few)
    assert upright[0][0] == "temperature.tau"
    assert on_its_side[0] == ["", "tau=0.1_seed=0", "tau=0.2_seed=0"]
    assert ["temperature.tau", "0.1", "0.2"] in on_its_side
    assert ["linear_probe_probe.epochs=3 top1, %", "30.0 ★", "30.0 ?"] in on_its_side
    many = {tau / 100: [0.5] for tau in range(1, 30)}  # so many columns would be wider still
    many = [run._replace(evaluations=measured) for run in swept(many)]
    assert cells(many)[0][0] == "temperature.tau"


def test_rare_classes_are_a_measure_of_their_own():
    of = lambda *rows: Measured(dict(rows), {}, "test", {}, {})
    first, second = swept({0.1: [0.5, 0.6]})
    thirds = {"knn": of(("top1", 0.5), ("top1_many", 0.6), ("top1_few", 0.1))}
    shares = ("1_percent_top1", 0.4), ("1_percent_top1_few", 0.2), ("10_percent_top1_few", 0.3)
    first = first._replace(evaluations=thirds | {"few_labels": of(*shares)})
    found = _groups.measures_of([first, second])
    assert found["kNN accuracy of rare classes"].tolist() == [0.1]
    assert found["few_labels 1 percent top1"].tolist() == [0.4]
    assert found["few_labels 1 percent top1 of rare classes"].tolist() == [0.2]
    assert sum("rare" in name for name in found) == 2


def test_what_a_run_without_test_images_measured_is_called_so():
    """Its numbers choose, or were chosen by: they stand in no column of test images."""
    of = lambda split, **rows: Measured(rows, {}, split, {}, {})
    first, second = swept({0.1: [0.5, 0.6]})
    probed = lambda split: {
        "knn": of(split, top1=0.5, top1_few=0.25),
        "linear_probe": of(split, top1=0.75),
    }
    alone = first._replace(evaluations=probed("holdout"))
    assert {name: x.tolist() for name, x in _groups.measures_of([alone]).items()} == {
        "kNN accuracy on held-out images": [0.5],
        "kNN accuracy of rare classes on held-out images": [0.25],
        "linear_probe top1 on held-out images": [0.75],
    }
    beside = _groups.measures_of([second._replace(evaluations=probed("test"))])
    assert beside["kNN accuracy"].tolist() == [0.6]
    assert beside["kNN accuracy on held-out images"].tolist() == [0.5]  # as watched
    others = [run._replace(evaluations=probed("holdout")) for run in swept({0.3: [0.7, 0.8]})]
    said = [s.text for s in report.compare([alone, *others])]
    assert any("The kNN accuracy on held-out images of “tau=0.3” is 25.0" in x for x in said)


def test_what_has_not_learned_is_no_measure_of_a_setting():
    of = lambda value: Measured({"untrained_top1": value}, {}, "test", {}, {})
    runs = swept({0.1: [0.5, 0.6], 0.2: [0.5, 0.6]})
    names = ("baselines", "eval baselines", "baselines on pets", "eval baselines_best")
    runs = [run._replace(evaluations={name: of(0.3) for name in names}) for run in runs]
    assert not any("untrained" in name for name in report.overview(runs).measures)


def test_a_seed_that_is_there_twice_counts_once_everywhere():
    first, second = swept({0.1: [0.5, 0.7]})
    probed = lambda run, value: run._replace(
        evaluations={"linear_probe": Measured({"top1": value}, {}, "test", {}, {})}
    )
    first, second = probed(first, 0.5), probed(second, 0.7)
    runs = [first, first._replace(place="/copy"), second]
    assert "60.0 ± 14.1 %" in _tables.evaluations(runs)
    chart = _accuracies.baselines(runs)
    assert "60.0" in chart.about
    # What is the same in all settings is one bar.
    with_pixels = lambda runs: [
        run._replace(baselines=run.baselines | {"raw pixels": 0.3}) for run in runs
    ]
    two = with_pixels(swept({0.1: [0.5, 0.7], 0.2: [0.4, 0.4]}))
    assert _accuracies.baselines(two).about == (
        "trained · tau=0.1, 2 seeds 60.0 %; trained · tau=0.2, 2 seeds 40.0 %; raw pixels · all "
        "30.0 %"
    )
    watched = lambda run, value: run._replace(
        curves={"loss": CurveOverSteps(np.array([1, 9]), np.full(2, value))}
    )
    [loss] = _curves.curves(
        [watched(run, value) for run, value in zip(runs, (1.0, 5.0, 3.0), strict=True)]
    )
    assert "tau=0.1, 2 seeds: from 2 to 2" in loss.about
    [over, *_] = report.compare(runs)
    assert over.text.startswith("Over the 2 seeds of")


def test_what_is_no_accuracy_of_a_whole_run_does_not_count():
    first, second, third = swept({0.1: [0.5, 0.6, 0.7]})
    measured = lambda *runs: {k: v.tolist() for k, v in _groups.measures_of(runs).items()}
    # A run that goes on has watched its images too early; what a damaged file says is no share.
    assert measured(first, second._replace(ended=False))[_groups.WATCHED] == [0.4]
    for broken in (float("nan"), 7.0):
        other = second._replace(baselines={"trained": broken})
        assert measured(first, other)["kNN accuracy"] == [0.5]
    # A copy of a run is no further seed.
    copied = first._replace(place="/copy")
    unmeasured = third._replace(baselines={})
    found = report.overview([first, second, unmeasured, copied])
    assert [row.seeds for row in found.rows] == [3]
    assert "55.0 ± 7.1 (2 seeds)" in report.markdown(found)
    # Where one row alone has a number, none is the best.
    other = [run._replace(baselines={}, curves={}) for run in swept({0.2: [0.5]})]
    found = report.overview([first, second, *other])
    assert _overview.standing(found, "kNN accuracy") == ["", ""]
    assert report.compare([first, second, *other])[-1].text.startswith("“tau=0.2_seed=0” beside")


def test_seeds_that_have_diverged_are_counted_and_told():
    """A mean of those that are left is no mean of the setting."""
    runs = swept({0.01: [0.7, 0.6, 0.8], 0.1: [0.5, 0.6, 0.7]})
    gone = {"ended": False, "diverged": True, "baselines": {}, "curves": {}}
    runs[1], runs[2] = (run._replace(**gone) for run in runs[1:3])
    found = report.overview(runs)
    assert [(row.seeds, row.diverged) for row in found.rows] == [(3, 2), (3, 0)]
    assert "70.0 (1 seed)" in report.markdown(found)
    assert "3, 2 diverged |" in report.markdown(found)
    assert "3, 2 diverged" in report.page(runs)
    ended = [line.rpartition(",")[2] for line in report.as_csv(runs).splitlines()]
    assert ended == ["ended", "complete", "diverged", "diverged", *["complete"] * 3]
    said = "Of the 3 seeds of “tau=0.01, 3 seeds” 2 have diverged; the means are of the others."
    assert report.compare(runs)[0].text == said
    # One that was tried again in another place is no lost seed.
    again = runs[1]._replace(ended=True, diverged=False, baselines={"trained": 0.6}, name="again")
    found = report.overview([*runs, again])
    assert [(row.seeds, row.diverged) for row in found.rows] == [(3, 1), (3, 0)]
    # A setting of which no run is left has its row.
    rows = report.overview([run._replace(**gone) for run in runs[:3]] + runs[3:]).rows
    assert [(row.settings, row.diverged) for row in rows] == [((0.01,), 3), ((0.1,), 0)]


def test_settings_that_change_no_number_are_no_other_settings():
    runs = swept({0.1: [0.5, 0.6, 0.7]})
    for number, run in enumerate(runs):
        more = {"run_name": f"r{number}", "data.threads": number, "microscope.every": number}
        runs[number] = run._replace(config=run.config | more)
    assert [group.runs for group in _groups.groups_of(runs)] == [(0, 1, 2)]
    assert report.overview(runs).settings == ()
    assert "run_name" in _tables.differences(runs)
    # Other settings under the same names, as of a sweep that is measured anew, have other names.
    again = [
        run._replace(name=f"again/{run.name}", config=run.config | {"knn.k": 5}) for run in runs
    ]
    same = [run._replace(name=run.name.removeprefix("again/")) for run in again]
    names = [group.name for group in _groups.groups_of([*runs, *same])]
    assert names == ["tau=0.1, 3 seeds (tau=0.1_seed=0)"] * 2
    assert _groups.settings_that_differ([*runs, Run("z", "/z.npz")]) == {}


def test_the_same_images_at_another_path_are_no_other_setting(tmp_path):
    def of(seed, root, content, more):
        data = {"source": "folder", "path": f"{root}/photos", "captions": f"{root}/c.csv"}
        further = {"more": {"source": "npz", "path": f"{root}/more.npz"}}
        place = tmp_path / f"{root.strip('/')}_{seed}_{content}_{more}"
        write(place, {}, config={"seed": seed, "data": data, "eval_on": further})
        described = {"images": content, "config.eval_on.more": more}
        if content:
            (place / "images.json").write_text(json.dumps({"described": described}))
        return place

    def grouped(*places):
        runs = report.gather(places)
        groups = [group.runs for group in _groups.groups_of(runs)]
        return groups, [*_groups.settings_that_differ(runs)]

    base = of(0, "/mnt", "4 images", "5 images")
    same = of(1, "/scratch", "4 images", "5 images")
    assert grouped(base, same) == ([(0, 1)], [])
    assert report.overview(report.gather([base, same])).comparable
    # Each page still says where the images of a run were.
    assert "/scratch/photos" in _tables.differences(report.gather([base, same]))
    own, further = ["data.path", "data.captions"], ["eval_on.more.path"]
    others = of(1, "/scratch", "6 images", "5 images")
    assert grouped(base, others) == ([(0,), (1,)], own)
    assert grouped(base, of(1, "/scratch", "4 images", "7 images")) == ([(0,), (1,)], further)
    # Nothing is known of the images of a run of an earlier version.
    assert grouped(base, of(1, "/scratch", "", "")) == ([(0,), (1,)], [*own, *further])
    # Other weights may lie at another path, and nothing says what they are.
    settings = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(settings | {"init_from": "/weights.pth"}))
    assert grouped(base, same)[0] == [(0,), (1,)]


def test_accuracies_of_other_images_have_no_best():
    runs = [
        run._replace(config=run.config | {"data.name": f"of {run.config['temperature.tau']}"})
        for run in swept(ACCURACIES)
    ]
    found = report.overview(runs)
    assert not found.comparable
    assert "other images or classes, or in another way (data.name)" in " ".join(
        report.markdown(found).split()
    )
    assert set(_overview.standing(found, "kNN accuracy")) == {""}
    assert report.compare(runs) == []
    assert _accuracies.over_setting(runs, found) == []


def test_settings_that_a_run_ignores_are_no_difference():
    runs = [
        Run("a", "/a", {"temperature.name": "constant", "temperature.tau": 0.1, "x": 1}),
        Run("b", "/b", {"temperature.name": "dystress", "temperature.tau": 0.2, "x": 1}),
    ]
    runs[1] = runs[1]._replace(ignored=frozenset({"temperature.tau"}))
    assert _groups.settings_that_differ(runs) == {"temperature.name": ["constant", "dystress"]}
    assert "<td>0.1</td><td>—</td>" in _tables.differences(runs)
    assert "0.2" not in _tables.differences(runs)


def test_accuracies_over_a_number_are_drawn_where_it_has_three_values():
    runs = swept(ACCURACIES)
    constant = Run("d_seed=0", "/d", {"seed": 0, "temperature.name": "dystress"})
    runs.append(
        constant._replace(
            config=constant.config | {"temperature.tau": 0.7},
            ignored=frozenset({"temperature.tau"}),
            baselines={"trained": 0.45},
        )
    )
    watched, closing = _accuracies.over_setting(runs, report.overview(runs))
    assert "over temperature.tau" in closing.title
    drawn = [(type(x.glyph).__name__, x.data_source.data) for x in closing.figure.renderers]
    [line] = [data for name, data in drawn if name == "Line" and len(data["x"]) == 4]
    assert line["x"] == [0.1, 0.2, 0.5, 1.0]
    np.testing.assert_allclose(line["y"], [53, 52, 41, 30])
    # What has no such number is a line from side to side.
    [across] = [data for name, data in drawn if name == "Line" and len(data["x"]) == 2]
    assert (across["x"], across["y"]) == ([0.1, 1.0], [45.0, 45.0])
    bars = [data for name, data in drawn if name == "Segment"]
    np.testing.assert_allclose([bars[1]["y0"], bars[1]["y1"]], [[50], [56]])
    inks = _charts.inks(runs)
    assert [key.colour for key in closing.keys] == [inks[i][0] for i in (0, 3, 6, 9, 10)]
    assert len(watched.keys) == 4
    # Of many settings those of one line share a colour, and the key says what they have in common.
    many = [
        run._replace(
            name=f"{run.name}_{size}",
            place=f"{run.place}_{size}",
            config=run.config | {"batch_size": size},
        )
        for size in (16, 32)
        for run in swept({tau / 10: [tau / 20, tau / 19] for tau in range(1, 12)})
    ]
    [closing] = _accuracies.over_setting(many, report.overview(many))[-1:]
    assert [key.label for key in closing.keys] == ["batch_size=16", "batch_size=32"]
    assert len({key.colour for key in closing.keys}) == 2
    assert 4 <= len(closing.figure.xaxis[0].ticker.ticks) <= _accuracies.TICKS
    one = many[:22]
    assert _accuracies.over_setting(one, report.overview(one))[-1].keys == ()
    two = swept({0.1: [0.5], 0.2: [0.6]})
    assert _accuracies.over_setting(two, report.overview(two)) == []


def test_a_directory_of_runs_stands_for_them_and_of_many_one_of_each_setting_is_shown(tmp_path):
    for tau in (1.0, 0.25, 0.5):
        for seed in range(3):
            config = {"seed": seed, "temperature": {"name": "constant", "tau": tau}}
            write(tmp_path / f"tau={tau}_seed={seed}", {5: record(seed)}, config=config)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")  # of weights for another library
    runs = report.gather([tmp_path])
    taus = [0.25] * 3 + [0.5] * 3 + [1.0] * 3
    assert [run.config["temperature.tau"] for run in runs] == taus
    assert [run.seed for run in runs] == [0, 1, 2] * 3
    page = report.page(runs)
    assert page.index("Settings beside each other") < page.index("What stands out")
    shown = [run["name"] for run in data_of(page)["runs"] if run["images"]]
    assert shown == ["tau=0.25_seed=0", "tau=0.5_seed=0", "tau=1.0_seed=0"]
    assert 'data-run="3 4 5"' in page
    assert "shown of 3 of the 9 runs" in page
    # A run that is given twice, by whatever path, comes once, where it comes first.
    first, second = (tmp_path / f"tau={tau}_seed=0" for tau in (1.0, 0.25))
    (tmp_path / "link").symlink_to(first)
    again = report.gather([first, second, tmp_path / "link", tmp_path / "export" / ".." / first])
    assert [run.config["temperature.tau"] for run in again] == [1.0, 0.25]
    # A few are all shown, and one alone has nothing beside it.
    few = data_of(report.page(runs[:4]))["runs"]
    assert all(run["images"] for run in few)
    assert "Settings beside each other" not in report.page(runs[:1])


def test_what_does_not_differ_is_not_said():
    base = of_group("a", 0.2, [0.40, 0.42])
    assert report.compare(base[:1]) == []
    assert report.compare([]) == []
    same = [run._replace(config=run.config | {"x": 1}) for run in base]
    said = [sentence.text for sentence in report.compare([*base, *same])]
    assert [text for text in said if not text.startswith("Over the")] == [
        "“a0” beside “a0”: x is 1, not unset.",
        "The kNN accuracy of “a0” is the same as that of “a0”: 41.0 % and 41.0 % (2 seeds each, "
        "standard deviations 1.4 and 1.4: no more than seeds alone explain).",
    ]
    one = [run.text for run in report.compare([base[0], same[1]])]
    assert "2.0 points higher" in one[1]
    assert "(one seed each: what seeds do is not known)" in one[1]
    assert report.compare([bare(), bare()._replace(place="/s")]) == []
    broken = base[0]._replace(
        records=Records.of(
            np.array([5]),
            {"similarity_edges": np.full((1, 3), np.nan), "curve_tau": np.full((1, 3), np.nan)},
        )
    )
    assert len(report.compare([broken, *same])) == 3


def test_the_page_holds_everything_and_asks_for_nothing(workdir):
    page = report.page(report.gather([workdir]))
    assert len(page.encode()) < 8e6
    asked = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"(?!data:)[^\"]*", page)
    assert asked == []
    assert "default-src 'none'" in page
    [run] = data_of(page)["runs"]
    assert run["steps"] == [1, 10, 20]
    assert len(run["images"]["pictures"]) == N
    assert set(run["images"]["places"]) == {"features", "embeddings"}
    # Names are the user's: none of them is HTML.
    outside = page.replace(re.search(r"const DATA = .*;\n", page)[0], "")
    assert "&lt;/script&gt;" in outside
    assert "“</script>" not in outside


def test_the_modality_gap_is_that_of_numpy(tmp_path):
    texts = np.random.default_rng(1).normal(size=(N, 4)).astype(np.float16)
    records = {step: record(step, watched_partners=texts) for step in (1, 5)}
    [run] = report.gather([write(tmp_path / "r", records, captions=("text",) * N)])
    gap, pairs = _sentences.gaps_of(run.images)
    assert gap.steps.tolist() == [1, 5]
    for t in range(2):
        a, b = (
            np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True)
            for x in (run.images.embeddings[t], texts)
        )
        assert gap.values[t] == pytest.approx(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))
        assert pairs.values[t] == pytest.approx(np.linalg.norm(a - b, axis=1).mean())
    assert f"gap is {gap.values[-1]:.2f}" in " ".join(s.text for s in report.stand_out(run))
    chart = _curves.modality_gap([run])
    np.testing.assert_array_equal(chart.figure.renderers[0].data_source.data["y"], gap.values)
    assert _curves.modality_gap([bare()]) is None


def test_runs_that_watch_the_same_images_share_pictures_and_a_layout(tmp_path):
    records = {1: record(0), 20: record(2)}
    runs = report.gather(
        [
            write(tmp_path / "a", records),
            write(tmp_path / "b", records),
            write(tmp_path / "c", {1: record(0, width=9)}, labels=np.zeros(N, int)),
        ]
    )
    runs[2] = runs[2]._replace(images=runs[2].images._replace(ids=np.arange(N) + 1))
    a, b, c = _images.of_images(runs)
    assert (a["pictures_of"], b["pictures_of"], c["pictures_of"]) == (0, 0, 2)
    assert b["pictures"] is None
    assert a["places"] == b["places"]
    assert report.page(runs)


def test_similarities_that_are_no_cosines_keep_their_scale(workdir):
    [run] = report.gather([workdir])
    large = run.images._replace(similarity=run.images.similarity * 40)
    found = explorer.plain_images(large)
    stored = np.frombuffer(base64.b64decode(found["similarity"]), "<i2").reshape(N, N)
    expected = large.similarity[-1]
    np.testing.assert_allclose(stored / 32767 * found["largest"], expected, atol=1e-3)


BROKEN = {
    "no records": {},
    "one class": {5: record(labelled=True)},
    "no labels": {5: record(labelled=False)},
    "NaN records": {
        step: record(
            step,
            uniformity=np.float32(np.nan),
            similarity=np.zeros((4, BINS), int),
            watched_features=np.full((N, 6), np.nan, np.float16),
        )
        for step in (1, 5)
    },
    "no negatives": {
        5: record(
            similarity=np.stack([np.ones(BINS)] + [np.zeros(BINS)] * 3),
            gradient=None,
            curve_tau=None,
            curve_logit=None,
            curve_log_weight=None,
            hardest_for_80_percent=None,
        )
    },
    "edges are NaN": {5: record(similarity_edges=np.full(BINS + 1, np.nan))},
    "earlier version": {
        5: record(**{name: None for name in record() if name.startswith(("curve_", "watched_"))})
    },
    "pairs": {5: record(watched_partners=np.ones((N, 4), np.float16))},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_page_says_what_is_missing(tmp_path, name):
    labels = {"one class": np.zeros(N, int), "no labels": np.full(N, -1)}.get(
        name, np.arange(N) % 3
    )
    captions = tuple(f"text {i}" for i in range(N)) if name == "pairs" else ()
    [run] = report.gather([write(tmp_path / "r", BROKEN[name], labels=labels, captions=captions)])
    page = report.page([run])
    text = " ".join(run.missing) + " ".join(s.text for s in report.stand_out(run))
    says = {
        "no records": "no records: none was due yet",
        "one class": "All images with a label that are watched are of one class, “</script>”",
        "no labels": "No image that is watched has a label",
        "NaN records": "2 of 2 records are not finite",
        "earlier version": "No record has images",
        "pairs": "The modality gap is",
    }
    assert says.get(name, "") in text
    for sentence in run.missing:
        assert sentence in page
    if name == "no records":
        assert "No records of pairs" in page
        assert "No images have been recorded" in page
    assert ("No curve of a temperature" in page) == (name in ("no negatives", "earlier version"))


def test_imported_weights_are_no_run_that_has_not_ended(tmp_path):
    workdir = tmp_path / "imported"
    (workdir / "checkpoints" / "0").mkdir(parents=True)
    (workdir / "config.json").write_text('{"seed": 0}')
    [run] = report.gather([workdir])
    assert run.missing == ("The weights are imported: nothing was trained here.",)
    (workdir / "checkpoints" / "30").mkdir()
    [run] = report.gather([workdir])
    assert "The run has not ended: there is no summary.json yet." in run.missing


def test_a_collapse_is_not_told_of_the_first_step(workdir):
    [run] = report.gather([workdir])
    same = np.ones_like(run.images.features)
    alike = run._replace(images=run.images._replace(features=same))
    assert "At step 20 the features of two images have a cosine of 1.00" in (
        _sentences.collapsed(alike).text
    )
    first = alike.images._replace(steps=run.images.steps[:1], features=same[:1])
    assert first.steps.tolist() == [1]
    assert _sentences.collapsed(alike._replace(images=first)) is None


def test_damaged_files_are_told_and_left_out(tmp_path):
    workdir = write(tmp_path / "r", {5: record(), 6: record()})
    (workdir / "summary.json").write_text("{")
    (workdir / "eval" / "knn_confusion.json").write_text('{"class_names": ["a"], "counts": "x"}')
    (workdir / "eval" / "odd.json").write_text("[1, 2]")
    (workdir / "microscope" / "00000005.npz").write_bytes(b"nothing")
    metrics = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text("[]\n{nothing\n" + metrics)
    [run] = report.gather([workdir])
    text = " ".join(run.missing)
    for told in (
        "summary.json cannot be read",
        "no confusion matrix",
        "00000005.npz cannot be",
        "odd.json holds no names with values",
        "metrics.jsonl: 2 of 33 lines are damaged",
    ):
        assert told in text
    assert run.records.steps.tolist() == run.images.steps.tolist() == [6]  # the whole one is kept
    assert report.page([run])
    with pytest.raises(FileError, match="there is no such directory"):
        report.gather([tmp_path / "nowhere"])
    with pytest.raises(FileError, match=f"no such directory. Did you mean {workdir}\\?"):
        report.gather([workdir, tmp_path / "rr"])
    np.savez(tmp_path / "embedded.npz", features=np.eye(3))
    with pytest.raises(FileError, match=r"Did you mean .*embedded\.npz\?"):
        microscope.read_embeddings(tmp_path / "embeded.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no run"):
        report.gather([tmp_path / "empty"])


def test_a_large_picture_of_neighbours_is_made_small_enough(tmp_path, monkeypatch):
    workdir = write(tmp_path / "r", {5: record()})
    path = workdir / "neighbours.png"
    noise = np.random.default_rng(0).integers(0, 255, (700, 600, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > 1_000_000
    shown = lambda: re.findall(
        r'class="wide" src="data:image/(\w+);base64,([^"]*)"', report.page(report.gather([workdir]))
    )
    [(kind, content)] = shown()
    content = base64.b64decode(content)
    assert kind == "webp"
    assert len(content) <= 1_000_000
    assert Image.open(io.BytesIO(content)).size == (600, 700)
    # So many that it must be reduced too.
    monkeypatch.setattr(_page, "LARGEST_PICTURE", 50_000)
    [(_, content)] = shown()
    assert Image.open(io.BytesIO(base64.b64decode(content))).size < (600, 700)
    path.write_bytes(b"x" * 60_000)
    assert not shown()
    assert "r: neighbours.png cannot be shown" in report.page(report.gather([workdir]))
    Image.fromarray(noise[:20]).save(path)
    assert shown() == [("png", base64.b64encode(path.read_bytes()).decode())]


def test_a_large_confusion_lists_what_is_confused_most():
    counts = 9 * np.eye(30, dtype=int)
    counts[3, 7] = 5
    names = tuple(f"class {i}" for i in range(30))
    shown = _tables.confusions(bare(confusions={"knn": ConfusionCounts(names, counts)}))
    assert "class 7</td><td>5</td><td>35.7 %" in shown
    assert shown.count("<tr>") == 2


def test_the_tables_of_classes_say_of_which_measurement_they_are(tmp_path):
    workdir = write(tmp_path / "r", {5: record()})
    of = {"class_names": ["a", "b"], "counts": [[1, 0], [1, 1]], "of": "1 shot, seed 0"}
    (workdir / "eval" / "few_shot_confusion.json").write_text(json.dumps(of))
    few = {"1_shot_top1": 0.5, "per_class_of": "1 shot, seed 0"}
    few |= {"per_class_accuracy": {"a": 1.0, "b": 0.5}}
    (workdir / "eval" / "few_shot.json").write_text(json.dumps(few))
    each = {"raw_pixels_top1": {"a": 0.5, "b": 0.5}}
    (workdir / "eval" / "baselines.json").write_text(json.dumps({"per_class_accuracy": each}))
    [run] = report.gather([workdir])
    page = report.page([run])
    assert "few_shot (1 shot, seed 0): accuracy of each class" in page
    assert "few_shot (1 shot, seed 0): which classes are taken for which" in page
    assert "baselines: accuracy of each class" not in page
    assert "knn: which classes are taken for which" in page


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_embeddings_from_elsewhere_are_a_run_of_one_record(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 5))
    b = a + rng.normal(size=(40, 5)) / 4
    path = npz(tmp_path / "z.npz", view_a=a, view_b=b, labels=np.arange(40) % 4)
    run = report.of_embeddings(path, temperatures.constant(0.2))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(run.images.similarity[0], unit(a) @ unit(b).T, atol=1e-5)
    counts = run.records["similarity"][0].sum(axis=1)
    assert dict(zip(KINDS, counts.tolist(), strict=True))["negative"] == 40 * 39
    np.testing.assert_allclose(run.records["curve_tau"][0], 0.2, rtol=1e-6)
    assert report.page([run])
    # Without views an image is no positive of itself.
    alone = report.of_embeddings(npz(tmp_path / "y.npz", features=a), temperatures.constant(0.2))
    assert alone.records["similarity"][0, 0].sum() == 0
    assert report.page([alone])
    named = npz(tmp_path / "n.npz", features=a, labels=np.array(["cat", "dog"] * 20))
    assert microscope.read_embeddings(named).class_names == ("cat", "dog")
    one = report.of_embeddings(npz(tmp_path / "o.npz", features=a[:1]), temperatures.constant(0.2))
    assert "one row only" in report.page([one])
    broken = npz(tmp_path / "b.npz", features=np.where(np.arange(40)[:, None] < 3, np.nan, a))
    assert "3 of 40 rows are NaN" in " ".join(microscope.read_embeddings(broken).notes)
    many = microscope.read_embeddings(npz(tmp_path / "m.npz", features=a), at_most=10)
    assert many.ids.tolist() == list(range(0, 40, 4))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones(3)}, "found nothing; allowed: the array features"),
        ({"view_a": np.ones((3, 2))}, "found view_a alone"),
        ({"features": np.ones(3)}, r"shape \[3\]"),
        ({"features": np.ones((3, 0))}, r"shape \[3, 0\]"),
        ({"features": np.array([["a"]])}, "type <U1"),
        ({"features": np.ones((3, 2), complex)}, "type complex128; allowed: real numbers"),
        ({"features": np.ones((3, 2)), "labels": [0, 1]}, "another number of labels"),
        ({"features": np.ones((3, 2)), "labels": [0.5, 1, 1]}, "labels of float64"),
        ({"features": np.ones((3, 2)), "images": np.ones((3, 2, 2, 3))}, "allowed: uint8"),
        ({"view_a": np.ones((3, 2)), "view_b": np.ones((3, 4))}, "two shapes"),
        ({"features": np.full((3, 2), np.nan)}, "no row of finite numbers"),
        (
            {"features": np.ones((3, 2)), "labels": np.ones((3, 2), int)},
            r"labels of shape \[3, 2\]",
        ),
        (
            {"features": np.ones((3, 2)), "ids": np.ones((3, 2))},
            r"ids of shape \[3, 2\]; allowed: one",
        ),
        (
            {"features": np.ones((3, 2)), "images": np.ones((3, 0, 5, 3), np.uint8)},
            r"images of shape \[3, 0, 5, 3\]",
        ),
        (
            {"features": np.ones((3, 2)), "labels": [b"\xff", b"a", b"b"]},
            "labels of bytes; allowed",
        ),
    ],
)
def test_embeddings_that_cannot_be_used_are_refused(tmp_path, arrays, told):
    with pytest.raises(microscope.EmbeddingsError, match=told):
        microscope.read_embeddings(npz(tmp_path / "z.npz", **arrays))


def test_rows_beyond_single_precision_keep_their_direction(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 3))
    scales = np.array([1e300, 1e-300, 1e25, 1e-25, 1.0, 0.0])[:, None]
    path = npz(tmp_path / "z.npz", features=rows * scales)
    run = report.of_embeddings(path, temperatures.constant(0.5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) * (scales > 0)
    np.testing.assert_allclose(run.images.similarity[0], unit @ unit.T, atol=1e-6)
    assert report.page([run])


def test_labels_and_names_of_any_kind_are_read(tmp_path):
    features = np.eye(4)
    read = lambda **arrays: microscope.read_embeddings(npz(tmp_path / "z.npz", **arrays))
    dates = np.array([20230102, 20230101, -1, 20230102])
    found = read(features=features, labels=dates)
    assert found.class_names == ("20230101", "20230102")
    assert found.labels.tolist() == [1, 0, -1, 1]
    huge = read(features=features, labels=np.array([2**63 + 5, 1, 1, 0], np.uint64))
    assert huge.labels.min() >= 0
    found = read(features=features, labels=np.array([b"dog", b"", "é".encode(), b"dog"]))
    assert found.class_names == ("dog", "é")
    assert found.labels.tolist() == [0, -1, 1, 0]
    for ids in (np.array([b"a", b"b", b"c", b"d"]), np.arange(4).astype("datetime64[D]")):
        found = read(features=features, ids=ids)
        json.dumps(plain_images(found))
        assert found.ids[1] in ("b", "1970-01-02")


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_a_table_from_elsewhere_is_read_too(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 3))
    names = pa.array(["dog", "cat", None, "dog", "cat", "cat"])
    vectors = {"view_a": x.tolist(), "view_b": (x + 1).tolist(), "more": ["x"] * 6}
    path = parquet(tmp_path / "z.parquet", class_name=names, caption=list("abcdef"), **vectors)
    found = microscope.read_embeddings(path)
    assert (found.class_names, found.partner) == (("cat", "dog"), "view")
    assert found.labels.tolist() == [1, 0, -1, 1, 0, 0]
    assert found.captions == tuple("abcdef")
    np.testing.assert_allclose(found.embeddings[0], x, rtol=1e-6)
    np.testing.assert_allclose(found.partners[0], x + 1, rtol=1e-6)
    halves = pa.FixedSizeListArray.from_arrays(pa.array(np.float16(x.ravel())), 3)
    columns = {"features": halves, "label": pa.array([0, 1, None, 0, 1, 1])}
    found = microscope.read_embeddings(
        parquet(tmp_path / "h.parquet", class_name=names.dictionary_encode(), **columns)
    )
    assert found.labels.tolist() == [1, 0, -1, 1, 0, 0]
    np.testing.assert_array_equal(found.features[0], np.float16(x))
    del columns["label"]
    numbered = parquet(tmp_path / "n.parquet", label=pa.array([0, 1, None, 0, 1, 1]), **columns)
    assert microscope.read_embeddings(numbered).labels.tolist() == [0, 1, -1, 0, 1, 1]
    assert report.page([report.of_embeddings(path, temperatures.constant(0.2))])


def test_files_of_another_kind_and_broken_ones_are_refused(tmp_path, monkeypatch):
    read = microscope.read_embeddings
    for name, told in (("z.csv", "ends in .csv; allowed: .* .npz or .parquet"), ("z", "nothing")):
        (tmp_path / name).write_text("1,2")
        with pytest.raises(microscope.EmbeddingsError, match=told):
            read(tmp_path / name)
    for name in ("z.npz", "z.parquet"):
        with pytest.raises(FileError, match="No such file"):
            read(tmp_path / name)
        (tmp_path / name).write_bytes(b"PAR1 and nothing of it")
        with pytest.raises(FileError, match=f"{name} cannot be read: it is no whole"):
            read(tmp_path / name)
    uneven = parquet(tmp_path / "u.parquet", features=[[1.0], [1.0, 2.0]])
    missing = parquet(tmp_path / "m.parquet", features=[[1.0], None])
    for path in (uneven, missing):
        with pytest.raises(microscope.EmbeddingsError, match="features that differ in length"):
            read(path)
    with pytest.raises(microscope.EmbeddingsError, match="found nothing; allowed"):
        read(parquet(tmp_path / "o.parquet", other=[1.0]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(microscope.EmbeddingsError, match=r"pip install .*\[hf\]'"):
        read(uneven)


def test_the_command_writes_the_page_and_says_what_is_missing(
    tmp_path, monkeypatch, capsys, workdir
):
    monkeypatch.chdir(tmp_path)
    path = npz(tmp_path / "z.npz", features=np.random.default_rng(0).normal(size=(40, 5)))
    commands.main(["dystress", "report", str(workdir), f"--embeddings={path}", "--out=r.html"])
    out, _ = capsys.readouterr()
    assert re.fullmatch(r"written: r\.html \(\d\.\d MB\)\n", out)
    commands.main(["dystress", "report", str(workdir), str(workdir), "--out=r.csv"])
    assert (tmp_path / "r.csv").read_text().splitlines()[1].startswith("one,0,")
    capsys.readouterr()
    assert len(data_of((tmp_path / "r.html").read_text())["runs"]) == 2
    with pytest.raises(SystemExit, match=r"FileError: .*nothing cannot be read"):
        commands.main(["dystress", "report", "nothing"])
    commands.main(["dystress", "report", f"--workdir={workdir}", "--out=w.csv"])
    assert (tmp_path / "w.csv").read_text().splitlines()[1].startswith("one,0,")
    with pytest.raises(SystemExit, match=r"--out: found r\.pdf; allowed: .*\.html, \.md or \.csv"):
        commands.main(["dystress", "report", str(workdir), "--out=r.pdf"])
    for wrong in ([], [f"--embeddings={path}", "--tau=0"], [f"--embeddings={path}", "--tau=x"]):
        with pytest.raises(SystemExit) as ended:
            commands.main(["dystress", "report", *wrong])
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        commands.main(["dystress", "report", "--help"])
    assert not ended.value.code


def test_a_class_whose_name_is_no_utf8_is_on_the_page(tmp_path, capsys):
    """Names of folders may be any bytes; JSON keeps them as a half of a pair."""
    workdir = write(tmp_path / "run", {1: record(1)})
    strange = json.dumps({"class_names": ["caf\udce9", "b"], "counts": [[1, 0], [1, 1]]})
    (workdir / "eval").mkdir(exist_ok=True)
    (workdir / "eval" / "knn_confusion.json").write_text(strange)
    commands.main(["dystress", "report", str(workdir), f"--out={tmp_path / 'r.html'}"])
    assert "written: " in capsys.readouterr().out
    assert r"caf\udce9" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_files_of_one_name_are_told_apart_and_the_same_one_comes_once(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 5))
    for folder, labels in (("a", np.arange(40) % 2), ("b", np.zeros(40, int))):
        (tmp_path / folder).mkdir()
        npz(
            tmp_path / folder / "z.npz",
            features=np.where(np.arange(40)[:, None] < 2, np.nan, x),
            labels=labels,
        )
    files = ["a/z.npz", "b/z.npz", "a/../a/z.npz"]
    commands.main(
        ["dystress", "report", *(f"--embeddings={file}" for file in files), "--out=r.html"]
    )
    told = capsys.readouterr().err.splitlines()
    assert told == [f"{name}: 2 of 40 rows are NaN or infinite." for name in ("a/z.npz", "b/z.npz")]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert [run["name"] for run in data_of(page)["runs"]] == ["a/z.npz", "b/z.npz"]
    heads = re.findall(r"<h3>([^<]*)</h3>", page)
    assert {"a/z.npz", "b/z.npz"} <= set(heads)
    # In Python the same file may come under two temperatures.
    twice = [report.of_embeddings("a/z.npz", temperatures.constant(tau)) for tau in (0.1, 0.5)]
    page = report.page(twice)
    assert [run["name"] for run in data_of(page)["runs"]] == ["z.npz", "z.npz (2)"]
    assert len(re.findall("negatives carry 80 %", page)) == 2


def test_without_the_library_of_the_charts_the_command_says_what_to_install():
    code = (
        "import sys; sys.modules['bokeh'] = None; from dystress_jax import commands; "
        "commands.main(['dystress', 'report', 'runs/a'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "found no package bokeh" in done.stderr
    assert how_to_install("train,report") in done.stderr
