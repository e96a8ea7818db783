"""Parts of one's own, by name and from Python: trained with, continued, evaluated, misused."""

import dataclasses
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, methods, report, run, schemes, sharding, temperatures
from dystress_jax.files import write_json
from dystress_jax.run import Own, cli, evaluations, measuring
from dystress_jax.run._loss import make_loss, spread
from dystress_jax.run._own import choose
from dystress_jax.run.fields import put
from dystress_jax.run.measuring import NotMeasuredError
from dystress_jax.run.tables import make
from dystress_jax.training import checkpoint
from dystress_jax.training.log import DivergedError
from tests import oracles, own, runs
from tests.command_lines import parsed

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 4

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Without labels: at the end nothing but evaluations of one's own can be measured."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, train_images=rng.integers(0, 256, (40, 8, 8, 3), np.uint8))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def small(images, **fields):
    """A run of a second, as flags."""
    settings = {
        "data.source": "npz",
        "data.path": images,
        "batch_size": 16,
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": 2,
        "projector.out": 8,
    }
    for name, value in fields.items():
        settings[name.replace("__", ".")] = value
    return [f"--config.{name}={value}" for name, value in settings.items()]


def start(name, *arguments):
    """What a command does with a command line, in this process."""
    with parsed(name, *arguments) as (module, command):
        getattr(module, {"train": "train", "eval": "evaluate"}[name])(command)


def train(*arguments, workdir="run"):
    start("train", *arguments, f"--workdir={workdir}")
    return logged(workdir)


def evaluate(name, *arguments, workdir="run"):
    start("eval", f"--evaluation={name}", *arguments, f"--workdir={workdir}")
    [path] = pathlib.Path(workdir, "eval").glob(f"{name.replace(':', '.')}*.json")
    return json.loads(path.read_text())


def logged(workdir="run"):
    lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "images_per_second": None} for line in lines]


def read(workdir, name):
    return json.loads(pathlib.Path(workdir, name).read_text())


def lose_newest_checkpoint(workdir="run"):
    """As if the run had been killed before it was saved."""
    *_, newest = checkpoint.steps(pathlib.Path(workdir, "checkpoints"))
    shutil.rmtree(pathlib.Path(workdir, "checkpoints", str(newest)))


@pytest.mark.ci
def test_a_temperature_takes_its_options_and_the_fields_that_it_names(images):
    lines = train(
        "--config.temperature.name=tests.own:falling",
        "--config.temperature.options.slope=0.25",
        "--config.temperature.tau_min=0.05",
        *small(images),
    )
    assert len(lines) == STEPS
    for line in lines:
        expected = 0.05 + 0.25 * (1 - line["positive_similarity"])
        np.testing.assert_allclose(line["positive_tau"], expected, rtol=1e-5)
    recorded = read("run", "config.json")["temperature"]
    assert (recorded["name"], recorded["options"]) == ("tests.own:falling", {"slope": 0.25})


@pytest.mark.ci
def test_a_scheme_goes_on_from_its_state_and_an_evaluation_finds_it(images):
    name, rate = "--config.temperature.name=tests.own:follower", "--config.temperature.options.rate"
    command = [name, f"{rate}=0.3", "--config.evaluation=tests.own:sizes", *small(images)]
    whole = train(*command)
    assert len({line["positive_tau"] for line in whole}) == STEPS
    measured = read("run", "summary.json")["evaluations"]["tests.own:sizes"]
    assert measured["remembered"] > 0.2
    lose_newest_checkpoint()
    assert train(*command) == whole
    assert read("run", "summary.json")["evaluations"]["tests.own:sizes"] == measured
    found = evaluate("tests.own:sizes")
    assert found == {**found, **measured, "checkpoint_step": STEPS}
    with pytest.raises(run.ConfigError, match=r"temperature\.options\.rate: 0\.3 -> 0\.5"):
        train(*command, f"{rate}=0.5")


@pytest.mark.parametrize("line", ["options = {'value': 0.3}", "options.value = 0.3"])
def test_a_config_file_gives_options_and_the_command_line_overrides_them(line, monkeypatch):
    file = pathlib.Path("settings.py")
    file.write_text(
        textwrap.dedent(f"""
        from dystress_jax import run

        def get_config():
            config = run.defaults()
            config.temperature.name = "tests.own:number"
            config.temperature.{line}
            return config
        """)
    )
    found = []
    monkeypatch.setattr(run, "train", lambda config, workdir: found.append(config.temperature))
    value = "--config.temperature.options.value"
    for more in ([], [f"{value}=0.4"], ["--config.temperature.name=dystress"]):
        start("train", "--config=settings.py", *more)
    # Options of a name that the command line replaces go with it.
    assert [temperature.options for temperature in found] == [{"value": 0.3}, {"value": 0.4}, {}]
    more = ["--config.temperature.name=dystress", f"{value}=0.4"]
    start("train", "--config=settings.py", *more)  # of these the run says that nothing takes them
    assert found[-1].options == {"value": 0.4}


@pytest.mark.ci
def test_a_module_is_found_in_the_current_directory_with_its_neighbours(images):
    pathlib.Path("neighbour.py").write_text("TAU = 0.3")
    pathlib.Path("mine.py").write_text(
        "def tau():\n    import neighbour\n    return neighbour.TAU\n"
    )
    [line] = train("--config.temperature.name=mine:tau", *small(images, steps=1))
    assert line["positive_tau"] == pytest.approx(0.3)


@pytest.mark.ci
def test_a_loss_without_strategies_is_called_with_its_options(images):
    reference = train(*small(images), workdir="reference")
    options = ["--config.loss.name=tests.own:plain", "--config.loss.options.margin=2.5"]
    found = train(*options, *small(images))
    for line, expected in zip(found, reference, strict=True):
        np.testing.assert_allclose(line["loss"], expected["loss"] + 2.5, rtol=1e-6)
        assert line["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("name", ["of_classes", "of_classes_by_name"])
def test_a_loss_that_asks_for_labels_is_given_those_of_the_data(images, name):
    config = run.from_config_dict(
        {
            "data": {"source": "npz", "path": str(images)},
            "batch_size": 8,
            "model": {"name": "tests.own:flat"},
            "temperature": {"name": "constant", "tau": 0.5},
            "loss": {"name": f"tests.own:{name}"},
        }
    )
    made = run.build(config, pathlib.Path("run"))
    a, b = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    labels = np.array([1, -1, 0, 1, -1, -1, 0, 2])
    embedded = methods.Embedded({"view_a": a, "view_b": b}, np.zeros((8, 2, 6), np.float32))
    batch = {"label": labels, "row": np.arange(8)}
    on_device = jax.tree.map(jnp.asarray, (embedded, temperatures.constant(0.5), (), batch))
    values, _ = made.method.contrast({}, *on_device, jax.random.key(0))
    apart = np.where(labels < 0, 100 + np.arange(8), labels)
    expected = oracles.supcon(a, b, apart, lambda s: np.full_like(s, 0.5))
    np.testing.assert_allclose(values, 1000 * 3 / 8 + expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["simclr", "moco_v2", "moco_v3", "nnclr"])
def test_a_loss_without_a_temperature_is_given_none_by_any_method(images, method):
    """Values by NumPy: 1 - cos of the positives, without a factor of tau."""
    name = "pulls_of_queue" if method == "moco_v2" else "pulls"
    queue = {"queue_size": 16} if method in ("moco_v2", "nnclr") else {}
    moco = {**queue, "bn_groups": 1} if method == "moco_v2" else queue
    config = run.from_config_dict(
        {
            "method": method,
            "data": {"source": "npz", "path": str(images)},
            "batch_size": 8,
            "model": {"name": "tests.own:flat"},
            "loss": {"name": f"tests.own:{name}", "options": {"margin": 1.0}},
            "moco": moco,
        }
    )
    made = run.build(config, pathlib.Path("run"))
    assert made.scheme is None
    a, b = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    key = jax.random.key(0)
    length = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    # The nearest neighbours of nnclr are in the queue: the embeddings themselves.
    queue = np.concatenate([length(a), length(b)])
    memory = {"queue": queue, "labels": np.full(16, -1), "position": 0}
    points = {
        **{"view_a": a, "view_b": b, "queries": a, "keys": b},
        **{"queries_a": a, "keys_b": b, "queries_b": b, "keys_a": a},
        **{"embeddings_a": a, "embeddings_b": b, "predictions_a": a, "predictions_b": b},
    }
    embedded = methods.Embedded(points, np.zeros((8, 2, 6), np.float32))
    batch = {"label": np.full(8, -1), "row": np.arange(8)}
    on_device = jax.tree.map(jnp.asarray, (embedded, None, memory, batch))
    values, outcome = made.method.contrast({}, *on_device, key)
    expected = 1 - np.sum(length(a) * length(b), axis=1)
    ways = 1 if method in ("simclr", "moco_v2") else 2
    np.testing.assert_allclose(values, np.tile(expected, ways), rtol=1e-5)
    if outcome.factor is not None:
        np.testing.assert_array_equal(outcome.factor, 2.0)  # the two means of moco_v3 are added
    assert {"positive_similarity", "negative_similarity"} <= set(outcome.metrics)
    assert not {"positive_tau", "negative_tau"} & set(outcome.metrics)


@pytest.mark.ci
def test_a_run_without_a_temperature_says_and_logs_none(images, capsys):
    """Its loss has no such argument; the records of pairs have no curve of it either."""
    lines = train("--config.loss.name=tests.own:pulls", *small(images, steps=2))
    assert "simclr, tests.own:pulls; 2 steps" in capsys.readouterr().out
    for line in lines:
        np.testing.assert_allclose(line["loss"], -line["positive_similarity"], rtol=1e-5)
        assert not {"positive_tau", "negative_tau"} & set(line)
    assert evaluate("tests.own:sizes")["protocol"] == {"steps": 2}


def test_a_temperature_that_a_loss_in_python_would_ignore_is_refused(images):
    data = {"source": "npz", "path": str(images)}
    fields = {"data": data, "batch_size": 16, "temperature": {"tau_max": 0.5}}
    config = run.from_config_dict(fields)
    said = (
        r"temperature\.tau_max: found 0\.5 with config\.loss\.name python:pulls, .*an argument temp"
    )
    with pytest.raises(run.ConfigError, match=said):
        run.build(config, pathlib.Path("run"), own=Own(loss=own.pulls))


def test_a_temperature_of_a_file_gives_way_to_a_loss_without_one():
    settings = run.defaults()
    settings.temperature.name, settings.temperature.tau = "constant", 0.3
    found = run.override(settings, {"loss.name": "tests.own:pulls"})
    assert found.temperature == run.Config().temperature
    with pytest.raises(run.ConfigError, match=r"found 'dystress' with config\.loss\.name tests"):
        run.override(settings, {"loss.name": "tests.own:pulls", "temperature.name": "dystress"})


@pytest.mark.parametrize("strategy", ["auto", "gathered", "ring", "tiled"])
def test_a_loss_with_strategies_is_computed_by_all_devices(strategy):
    config = run.from_config_dict({"loss": {"name": "tests.own:shared", "strategy": strategy}})
    mesh = jax.make_mesh((8,), (sharding.AXIS,), (jax.sharding.AxisType.Auto,))
    views = jax.random.normal(jax.random.key(0), (2, 16, 4))
    loss = spread(config, mesh, make_loss(config, choose(config).loss))
    lowered = jax.jit(lambda a, b: loss(a, b, temperature=0.2)).lower(*views)
    assert ("manual" in lowered.as_text()) == (strategy != "tiled")
    expected = losses.nt_xent(*views, temperature=0.2)
    np.testing.assert_allclose(lowered.compile()(*views), expected, rtol=1e-5)


@pytest.mark.ci
def test_an_encoder_and_a_source_are_trained_and_found_again(images):
    command = [
        "--config.model.name=tests.own:flat",
        "--config.model.options.width=5",
        "--config.data.source=tests.own:stripes",
        "--config.data.options.count=50",
        "--config.data.holdout=0.2",
        "--config.evaluation=tests.own:sizes",
    ]
    rest = [f for f in small(images) if "data" not in f]
    whole = train(*command, *rest)
    assert len({line["loss"] for line in whole}) == STEPS
    lose_newest_checkpoint()
    assert train(*command, *rest) == whole
    found = evaluate("tests.own:sizes", "--checkpoint=2")
    assert (found["train_images"], found["holdout_images"]) == (40, 10)
    assert found["protocol"] == {"steps": 2}
    assert pathlib.Path("run", "eval", "tests.own.sizes_2.json").is_file()


@pytest.mark.ci
def test_a_method_of_parts_takes_options_and_the_settings_of_every_group(images):
    [line] = train(
        "--config.method=tests.own:logging",
        "--config.method_options.note=7",
        "--config.moco.momentum=0.5",
        "--config.loss.name=dcl",
        "--config.temperature.name=constant",
        "--config.temperature.tau=0.3",
        *small(images, steps=1),
    )
    assert (line["note"], line["momentum"], line["width"]) == (7, 0.5, 8)
    assert line["positive_tau"] == pytest.approx(0.3)


@pytest.mark.ci
def test_a_method_may_have_no_temperature(images):
    lines = train("--config.method=tests.own:pulling", *small(images, steps=2))
    assert "positive_tau" not in lines[0]
    assert evaluate("tests.own:sizes", workdir="run")["protocol"] == {"steps": 2}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("temperature.name=nowhere:f", "the module nowhere cannot be imported (ModuleNotFound"),
        ("temperature.name=tests.own:fallin", "found 'tests.own:fallin', but there is no fallin"),
        (
            "temperature.name=tests.own:fallin",
            "allowed: a function of tests.own. Did you mean fall",
        ),
        ("temperature.name=tests.own:TAU.x", "but there is no x; allowed: a function of tests.own"),
        ("temperature.name=tests.own:TAU", "which is a float; allowed: a function."),
        ("temperature.name=tests.own:", "allowed: MODULE:OBJECT, as in my_code:mine."),
        ("temperature.name=:f", "allowed: MODULE:OBJECT"),
        ("temperature.name=python:f", "the run was given f in Python, which no file can hold"),
        (
            "temperature.name=tests.own:nothing",
            "config.temperature.name: tests.own:nothing gives a NoneType; allowed: a number, a "
            "Temperature, a function of the similarity, or a schemes.Scheme",
        ),
        ("temperature.name=tests.own:uncalled", "give what it returns, called with its numbers"),
        (
            "temperature.name=tests.own:number",
            "config.temperature.name: the argument value of tests.own:number has no value; "
            "allowed: config.temperature.options.value=VALUE, or a default in the function. "
            "The run gives facts. The function that is named here returns the temperature",
        ),
        ("temperature.name=tests/own.py:falling", "without .py. Did you mean tests.own:falling?"),
        (
            "temperature.name=tests.own:falling temperature.options.slope=abc",
            "config.temperature.options.slope: found 'abc'; allowed: a number.",
        ),
        (
            "loss.name=tests.own:without_return",
            "tests.own:without_return gives None; allowed: a loss. Is its `return` missing?",
        ),
        (
            "temperature.name=tests.own:falling temperature.options.slop=1",
            "config.temperature.options.slop: found 1, but tests.own:falling has no such argument; "
            "allowed: tau_min, slope. Did you mean slope?",
        ),
        (
            "temperature.name=tests.own:falling temperature.tau_min=1 "
            "temperature.options.tau_min=2",
            "config.temperature.options.tau_min: found 2; allowed: config.temperature.tau_min.",
        ),
        (
            "temperature.name=tests.own:follower temperature.options.facts=1",
            "config.temperature.options.facts: found 1; allowed: to leave it out, since the run",
        ),
        (
            "temperature.name=tests.own:falling temperature.tau_max=0.5",
            "config.temperature.tau_max: found 0.5 with config.temperature.name "
            "tests.own:falling, which would ignore it; allowed: where the function has an argument "
            "tau_max. Delete it, or change config.temperature.name.",
        ),
        (
            "temperature.name=constant temperature.options.slope=1",
            "found 1, but constant has no such argument; allowed: none.",
        ),
        ("temperature.options.slope", "allowed: --config.temperature.options.slope=VALUE."),
        (
            "loss.name=tests.own:plain loss.strategy=tiled",
            "config.loss.strategy: found 'tiled' with config.loss.name tests.own:plain, which",
        ),
        (
            "loss.name=tests.own:plain loss.options.temperature=1",
            "to leave it out, since the run sets it.",
        ),
        (
            "loss.name=tests.own:plain loss.options.view_a=1",
            "to leave it out, since the run sets it.",
        ),
        (
            "loss.name=tests.own:pulls temperature.tau_max=0.5",
            "config.temperature.tau_max: found 0.5 with config.loss.name tests.own:pulls, which "
            "would ignore it; allowed: with a loss that has an argument temperature. Delete it, or "
            "change config.loss.name.",
        ),
        ("loss.name=tests.own:plain loss.options.x=1", "no such argument; allowed: margin."),
        (
            "loss.options.label_smoothing=2.0",
            "config.loss.options.label_smoothing: found 2.0; allowed: in [0, 1)",
        ),
        ("loss.options.where=1.0", "config.loss.options"),
        ("loss.name=tests.own:half_shared", "config.loss.name: found a function of view_a, view_b"),
        ("model.name=tests.own:nothing", "gives a NoneType; allowed: a models.Network"),
        (
            "model.name=tests.own:flat model.options.told=7",
            "config.model.name: tests.own:flat makes [2, 6] of 2 images; allowed: one row of "
            "out_features, 7, for each.",
        ),
        (
            "model.name=tests.own:flat model.patch=2",
            "config.model.patch: found 2 with config.model",
        ),
        (
            "model.name=tests.own:flat method=moco_v2 moco.queue_size=32",
            "config.moco.bn_groups: found 8 with config.model.name tests.own:flat, which takes no "
            "bn_groups; allowed: 1.",
        ),
        (
            "data.source=tests.own:listed",
            "config.data.source: tests.own:listed returns list; allowed: a dict with a Source for",
        ),
        (
            "data.source=tests.own:stripes",
            "config.data.source: the argument count of tests.own:stripes has no value",
        ),
        (
            "data.source=tests.own:stripes data.path=x",
            "config.data.path: found 'x' with config.data",
        ),
        (
            "method=tests.own:nothing",
            "config.method: tests.own:nothing gives a NoneType; allowed: a",
        ),
        ("method=tests.own:unsaid", "config.method: tests.own:unsaid calls loss(), which"),
        ("method=tests.own:logging", "allowed: config.method_options.note=VALUE, or a default in "),
        ("method=tests.own:logging method_options.nt=1", "config.method_options.nt: found 1, but "),
        (
            "method=tests.own:reading",
            "config.method: tests.own:reading asks for towers, which only",
        ),
        (
            "method=tests.own:pulling moco.momentum=0.5",
            "config.moco.momentum: found 0.5 with config",
        ),
        (
            "method=tests.own:pulling temperature.tau_max=0.5",
            "config.temperature.tau_max: found 0.5 with config.method tests.own:pulling, which "
            "would ignore it; allowed: with a method that has a temperature.",
        ),
        (
            "method=tests.own:alone",
            "config.projector.out: found 8 with config.method tests.own:alone, which would ignore "
            "it; allowed: with a method that has an argument projector. Delete it, or change",
        ),
        (
            "method=tests.own:alone projector.out=128 projector.hidden=4",
            "config.projector.hidden: found 4 with config.method tests.own:alone, which would "
            "ignore it; allowed: with a method that has an argument projector or head.",
        ),
        (
            "method=tests.own:alone projector.out=128 loss.name=dcl",
            "config.loss.name: found 'dcl' with config.method tests.own:alone, which would ignore",
        ),
        (
            "method=tests.own:alone projector.out=128 loss.strategy=tiled",
            "config.loss.strategy: found 'tiled' with config.method tests.own:alone, which would",
        ),
        ("method=tests.own:averaging", "config.method: tests.own:averaging gives [] of float32"),
        (
            "loss.name=tests.own:of_the_batch",
            "config.loss.name: tests.own:of_the_batch gives [] of float32; allowed: one real "
            "number for each anchor, [16] or [32] here.",
        ),
        ("loss.name=tests.own:of_some", "config.loss.name: tests.own:of_some gives [31] of float"),
        ("loss.name=tests.own:counted", "config.loss.name: tests.own:counted gives [16] of int32"),
        (
            "loss.name=tests.own:on_the_host",
            "config.loss.name: tests.own:on_the_host fails with TracerArrayConversionError (",
        ),
        ("loss.name=tests.own:on_the_host", f"The line: {own.__file__}, "),
        (
            "model.name=tests.own:without_train",
            "config.model.name: tests.own:without_train fails with TypeError (",
        ),
        (
            "model.name=tests.own:without_train",
            "'train'); allowed: a module that is called with images and train=True or False.",
        ),
        (
            "loss.name=tests.own:of_queries",
            "config.loss.name: tests.own:of_queries fails with TypeError (missing a required "
            "argument: 'queue'); allowed: what JAX can trace and differentiate, called with "
            "view_a, view_b, temperature.",
        ),
        (
            "method=moco_v2 loss.name=tests.own:shared",
            "(too many positional arguments); allowed: what JAX can trace and differentiate, "
            "called with queries, keys, queue, temperature.",
        ),
        (
            "temperature.name=tests.own:forgetful",
            "config.temperature.name: tests.own:forgetful fails with TypeError (",
        ),
        ("evaluation=tests.own:speed", "config.evaluation: found 'tests.own:speed', but there is"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(images, command, message):
    overrides = [f"--config.{override}" for override in command.split()]
    given = [f for f in small(images) if "data" not in f or "data.source" not in command]
    with pytest.raises(run.ConfigError) as error:
        start("train", *given, *overrides, "--workdir=run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not pathlib.Path("run", "checkpoints").exists()


@pytest.mark.ci
@pytest.mark.parametrize("name", ["without_a_number", "without_a_slope"])
def test_a_loss_of_ones_own_that_is_nan_at_once_is_called_by_its_name(images, name):
    with pytest.raises(DivergedError, match=rf"at step 1: tests\.own:{name} gives NaN or inf"):
        start("train", *small(images), f"--config.loss.name=tests.own:{name}", "--workdir=run")
    told = json.loads(pathlib.Path("run/diverged.json").read_text())["diverged"]
    [found] = report.gather(["run"])
    assert f"The run has diverged: {told}" in found.missing


def test_an_error_of_a_function_that_one_s_own_calls_is_no_option(tmp_path):
    config = run.override(run.defaults(), {"data.source": "tests.own:in_0_to_1"})
    with pytest.raises(run.ConfigError, match=r"^images: found float32 .*; allowed: uint8"):
        run.build(config, tmp_path)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"method": "tests.own:alone"}, own.alone),
        ({"method": "tests.own:predicting", "projector": {"hidden": 4}}, own.predicting),
        (
            {
                "method": "tests.own:changing",
                "projector": {"out": 8},
                "loss": {"name": "dcl", "strategy": "tiled"},
            },
            own.changing,
        ),
    ],
)
def test_a_method_takes_the_settings_of_the_parts_that_it_has_as_arguments(
    images, settings, method
):
    given = {"data": {"source": "npz", "path": str(images)}, "batch_size": 16, "steps": 1}
    named = run.from_config_dict({**given, **settings})
    for config, mine in ((named, Own()), (put(named, "method", "simclr"), Own(method=method))):
        made = run.build(config, pathlib.Path("run"), own=mine)
        assert made.method.width == 8
        assert made.config.method.endswith(f":{method.__name__}")


def test_options_must_fit_in_the_record_of_the_run():
    options = {"f": lambda: 0}
    with pytest.raises(run.ConfigError, match=r"config\.loss\.options\.f: found <function.*json"):
        run.from_config_dict({"loss": {"name": "tests.own:plain", "options": options}})
    found = run.from_config_dict({"loss": {"options": {"x": [1, [2.0, None]], "y": {"z": "a"}}}})
    assert found.loss.options == {"x": (1, (2.0, None)), "y": {"z": "a"}}
    assert run.from_config_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_an_argument_is_an_option_or_a_field_that_is_set_or_keeps_its_own_default():
    def given(*overrides):
        command = cli.Command()
        command.read(["train.py", *(f"--config.{override}" for override in overrides)])
        settings = run.defaults()
        settings.temperature.name = "tests.own:ranged"
        for override in overrides:
            name, _, value = override.partition("=")
            if ".options." not in name:
                settings.update_from_flattened_dict({name: float(value)})
        config = command.settings(settings)
        return make(config, "temperature.name", own.ranged)

    assert given() == (0.01, 5.0)  # not ours, 0.1 and 0.2
    assert given("temperature.options.tau_min=0.5") == (0.5, 5.0)
    assert given("temperature.tau_max=0.5") == (0.01, 0.5)
    assert given("temperature.tau_min=0.1") == (0.1, 5.0)  # our default, but said
    with pytest.raises(run.ConfigError, match=r"options\.tau_min: found 0\.5; allowed: config\.t"):
        given("temperature.options.tau_min=0.5", "temperature.tau_min=0.3")


@pytest.mark.ci
def test_evaluations_of_ones_own_take_options_and_may_be_given_in_python(images):
    flags = [*small(images), "--config.evaluation=tests.own:scaled"]
    train(*flags, "--config.evaluation_options.factor=3.0")
    summary = read("run", "summary.json")
    assert summary["evaluations"]["tests.own:scaled"]["scaled"] == 3.0
    assert evaluate("tests.own:scaled")["scaled"] == 3.0
    config = run.read_config("run")
    again = run.train(config, "run", own=Own(evaluations={"mine": own.scaled}))
    assert again["evaluations"]["mine"]["scaled"] == 3.0
    with pytest.raises(run.ConfigError, match=r"options\.facto: found 3, .*allowed: factor"):
        train(*flags, "--config.evaluation_options.facto=3", workdir="wrong")
    with pytest.raises(run.ConfigError, match=r"options\.factor: found 'much'; allowed: a number"):
        train(*flags, "--config.evaluation_options.factor=much", workdir="wrong")


def knn(experiment, state):
    """An evaluation of one's own with a name of ours."""
    raise AssertionError("it must not be measured")


def test_evaluations_of_ones_own_have_names_of_their_own(tmp_path):
    message = r"^evaluations: found 'knn', which is one of ours; allowed: another name"
    config = runs.grey_settings(tmp_path / "grey.npz")
    with pytest.raises(run.ConfigError, match=message):
        run.train(config, tmp_path / "run", own=Own(evaluations={"knn": knn}))
    assert not (tmp_path / "run").exists()
    write_json(tmp_path / "run" / "config.json", dataclasses.asdict(config))
    with pytest.raises(run.ConfigError, match=message):
        run.evaluate(tmp_path / "run", knn)
    assert measuring.own_table({"knn": evaluations.knn}) == {"knn": evaluations.knn}


def test_a_function_may_take_any_options():
    options = {"value": 0.3}
    config = run.from_config_dict(
        {"temperature": {"name": "tests.own:any_options", "options": options}}
    )
    made = run.tables.make(config, "temperature.name", own.any_options, facts=None)
    assert made == 0.3


def test_what_is_wrong_is_told_without_a_traceback_and_the_module_is_named(images):
    command = [sys.executable, str(ROOT / "train.py"), "--workdir=run", *small(images)]
    done = subprocess.run(
        [*command, "--config.temperature.name=nowhere:f"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ConfigError: config.temperature.name: the module nowhere cannot")
    assert done.stderr.count("\n") == 1


def zero(experiment, state):
    return 0


@pytest.mark.ci
def test_an_evaluation_that_does_not_fit_is_refused(images):
    train(*small(images, steps=1))
    for name, message in (
        ("tests.own:nowhere", r"--evaluation: found 'tests.own:nowhere', but there is no nowhere"),
        ("tests.own:with_an_array", r"gives what does not fit in JSON"),
    ):
        with pytest.raises(run.ConfigError, match=message):
            evaluate(name)
    with pytest.raises(run.ConfigError, match=r"evaluation: zero gives a int; allowed: an"):
        run.evaluate("run", zero)
    assert not pathlib.Path("run", "eval").exists()


@pytest.mark.ci
def test_an_evaluation_that_is_refused_at_the_end_costs_none_of_the_others(images):
    names = "tests.own:with_an_array,tests.own:broken,tests.own:sizes"
    told = (
        r"with_an_array gives what does not fit in JSON.*\n.*broken fails with KeyError .*own\.py, "
    )
    with pytest.raises(NotMeasuredError, match=told):
        train(*small(images, steps=1), f"--config.evaluation={names}")
    summary = read("run", "summary.json")
    assert list(summary["evaluations"]) == ["tests.own:sizes"]
    assert "settings_digest" not in summary  # it is not complete: a sweep tries it again


@pytest.mark.ci
class TestFromPython:
    """Objects in place of names."""

    def config(self, images, **fields):
        settings = {
            "data": {"options": {"count": 40}},
            "batch_size": 16,
            "steps": STEPS,
            "log_every": 1,
            "checkpoint_every": 2,
            "projector": {"out": 8},
        }
        return run.from_config_dict({**settings, **fields})

    def test_a_run_takes_goes_on_with_and_is_evaluated_with_objects(self, images):
        config = self.config(images, method_options={"note": 3})
        mine = Own(
            temperature=schemes.scheduled(temperatures.constant, tau=lambda step: 0.1 + 0.1 * step),
            loss=lambda a, b, *, temperature: own.plain(a, b, temperature=temperature, margin=9.0),
            method=own.logging,
            model=own.flat(channels=3, image_size=8),
            source=own.stripes,
        )
        first = run.train(config, "run", own=mine)
        assert first["steps"] == STEPS
        whole = logged()
        np.testing.assert_allclose(
            [line["positive_tau"] for line in whole], [0.1, 0.2, 0.3, 0.4], 1e-6
        )
        assert all(line["loss"] > 9 and line["note"] == 3 for line in whole)
        recorded = read("run", "config.json")
        assert recorded["method"] == "python:logging"
        assert recorded["temperature"]["name"] == "python:Scheme"
        assert recorded["model"]["name"] == "python:Network"
        assert recorded["data"]["source"] == "python:stripes"

        lose_newest_checkpoint()
        run.train(config, "run", own=mine)
        assert logged() == whole
        for settings in (config, None):
            result, numbers = run.evaluate("run", own.sizes, config=settings, own=mine)
            assert (result.value("remembered"), numbers["checkpoint_step"]) == (STEPS, STEPS)
        knows = r"config\.temperature\.name: the run was given Scheme in Python, .*Give it again"
        for settings in (config, run.read_config("run")):
            with pytest.raises(run.ConfigError, match=knows):
                run.train(settings, "run")
            with pytest.raises(run.ConfigError, match=knows):
                run.evaluate("run", own.sizes, config=settings, own=mine._replace(temperature=None))
        with pytest.raises(run.ConfigError, match=knows):
            evaluate("tests.own:sizes")

    def test_other_numbers_are_another_object(self, images):
        source = {"source": own.stripes}
        config = self.config(images, steps=1)
        run.train(config, "run", own=Own(temperature=temperatures.dystress(0.1, 0.2), **source))
        [line] = logged()
        assert 0.1 < line["positive_tau"] < 0.2
        for other in (0.1, temperatures.dystress(0.1, 0.3), lambda s: 0.1 + s**2):
            with pytest.raises(run.ConfigError, match=r"temperature\.name: 'python:.* -> 'python:"):
                run.train(config, "run", own=Own(temperature=other, **source))

    @pytest.mark.parametrize(
        ("mine", "settings", "message"),
        [
            (
                Own(temperature="warm"),
                {},
                r"temperature\.name: python:'warm' gives a str; allowed",
            ),
            (
                Own(temperature=-1.0),
                {},
                r"python:-1\.0 gives no temperature: tau: found -1\.0; allowed: > 0\.",
            ),
            (
                Own(temperature=lambda s: s),
                {},
                r"gives tau = -1 at the similarity -1; allowed: above 0 for all similarities",
            ),
            (
                Own(model=own.Flat),
                {},
                r"config\.model\.name: .* gives a .*; allowed: a models\.Net",
            ),
            (Own(source={"train": 1}), {}, r"config\.data\.source: found a dict in own=; allowed"),
            (
                Own(source=own.listed),
                {},
                r"config\.data\.options\.count: found 40, but python:list",
            ),
            (Own(method=own.nothing), {}, r"config\.method: python:nothing gives a NoneType"),
            (
                Own(temperature=0.1),
                {"temperature": {"tau_max": 0.5}},
                r"config\.temperature\.tau_max: found 0\.5 with config\.temperature\.name "
                r"python:0\.1, which would ignore it; allowed: its default\.",
            ),
            (Own(loss=own.plain), {"loss": {"strategy": "ring"}}, r"config\.loss\.strategy: found"),
            (
                Own(temperature=0.1),
                {"temperature": {"options": {"x": 1}}},
                r"config\.temperature\.options\.x: found 1, but python:0\.1 has no such argument",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, images, mine, settings, message):
        mine = mine._replace(source=mine.source or own.stripes)
        with pytest.raises(run.ConfigError, match=message):
            run.train(self.config(images, **settings), "run", own=mine)
        assert not pathlib.Path("run", "checkpoints").exists()


@pytest.fixture(scope="module")
def labelled_images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 3), np.uint8), rng.integers(0, 2, 40)
    np.savez(path, train_images=images, train_labels=labels)
    return path


@pytest.mark.ci
def test_every_example_of_the_page_runs(images, labelled_images):
    """Its files are written, its commands are carried out, on fewer images than it says."""
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2 * 8 + 1
    commands = 0
    for language, block in blocks:
        assert block.count("\n") <= 20
        if language == "python" and block.startswith("# "):
            pathlib.Path(block.split()[1]).write_text(block)
        elif language == "python":
            with jax.numpy_rank_promotion("allow"):  # as for every user
                exec(compile(block, "extending.md", "exec"), {})
        for line in block.replace("\\\n", "").splitlines() if language == "bash" else ():
            program, command, *arguments = shlex.split(line)
            assert program == "dystress"
            if command == "train":
                labelled = any("evaluation" in argument for argument in arguments)
                arguments += quick_flags(labelled_images if labelled else images, arguments)
            with jax.numpy_rank_promotion("allow"):
                start(command, *arguments)
            commands += 1
    assert commands == 9
    written = json.loads(pathlib.Path("runs/rank/eval/my_evaluation.rank.json").read_text())
    assert 1 < written["effective_rank"] < 5
    assert read("runs/rank", "summary.json")["evaluations"]["my_evaluation:rank"]
    tau = [line["positive_tau"] for line in logged("runs/cooling")]
    assert tau == pytest.approx([0.5, 0.5 * 0.2**0.5])


def quick_flags(images, given):
    """Two steps on few images, as far as the command does not say what else."""
    flags = small(images, steps=2, knn_every=0)
    named = {flag.partition("=")[0] for flag in given}
    if "--config.data.source" in named:
        flags = [flag for flag in flags if not flag.startswith("--config.data.")]
    return flags
