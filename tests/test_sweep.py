"""Runs of many settings: which ones, under which names, and that a sweep goes on."""

import csv
import json
import shlex

import pytest
from absl import flags

from dystress_jax import commands, run
from dystress_jax.report import gather, overview
from dystress_jax.run import _sweep
from dystress_jax.run.measuring import NotMeasuredError
from dystress_jax.run.overrides import take_varied
from dystress_jax.training.log import DivergedError
from tests.command_lines import parsed
from tests.runs import settings, write_images

pytestmark = pytest.mark.usefixtures("one_device")


def names(over, *, seeds=1, base=(), **options):
    loose = run.defaults()
    loose.update_from_flattened_dict(dict(base))
    return [one.name for one in run.combinations(loose, over, seeds=seeds, **options)]


def test_every_combination_has_every_seed_and_no_setting_that_it_would_ignore():
    over = {"temperature.name": ["constant", "dystress"], "temperature.tau": [0.1, 0.5]}
    found = run.combinations(run.defaults(), over, seeds=2)
    assert [one.name for one in found] == [
        f"temperature={rest}_seed={seed}"
        for seed in (0, 1)
        for rest in ("constant_tau=0.1", "constant_tau=0.5", "dystress")
    ]
    for one in found:
        assert one.config.seed == one.changes["seed"]
        assert one.config.temperature.name == one.changes["temperature.name"]
        expected = one.changes.get("temperature.tau", run.defaults().temperature.tau)
        assert one.config.temperature.tau == expected
        assert one.config == run.override(run.defaults(), one.changes)


def test_what_a_combination_ignores_of_the_other_flags_is_left_out_of_it():
    loose = run.defaults()
    loose.temperature.tau_max = 0.7
    over = {"temperature.name": ["constant", "dystress"]}
    flagged = {"temperature.tau_max": 0.2}
    constant, dystress = run.combinations(loose, over, seeds=1, overridden=flagged)
    assert (constant.config.temperature.tau_max, dystress.config.temperature.tau_max) == (0.2, 0.7)
    # Where no setting that is varied makes it useless, it is refused as of a single run.
    with pytest.raises(run.ConfigError, match=r"temperature\.tau: found 0.3 with .* ignore it"):
        run.combinations(run.defaults(), {"temperature.tau": [0.3, 0.4]})


def test_seeds_begin_at_that_of_the_settings():
    assert [one.name for one in run.combinations(run.defaults(), {})] == [
        f"seed={seed}" for seed in range(3)
    ]
    assert names({}, seeds=2, base={"seed": 7}) == ["seed=7", "seed=8"]
    with pytest.raises(run.ConfigError, match="--seeds: found 0"):
        names({}, seeds=0)


def test_names_of_directories_are_short_and_differ():
    assert names({"model.name": ["resnet18"], "data.limit": [5, 20]}) == [
        "model=resnet18_limit=5_seed=0",
        "model=resnet18_limit=20_seed=0",
    ]
    # Where another field has the same last name, nobody could tell which is meant.
    assert names({"temperature.learning_rate": [0.5]}, base={"temperature.name": "learned"}) == [
        "temperature.learning_rate=0.5_seed=0"
    ]
    paths = [f"/{'long/' * 40}{name}.npz" for name in "ab"]
    found = names({"data.path": paths}, seeds=2, base={"data.source": "npz"})
    assert len(set(found)) == 4
    assert all(len(name) < 100 and "/" not in name for name in found)
    assert found[0].endswith("_seed=0")
    assert names({"augment.mean": [(0.4,), (0.5, 0.25, 0.5)]}) == [
        "mean=0.4_seed=0",
        "mean=0.5+0.25+0.5_seed=0",
    ]
    assert names({"init_from": ["", "weights.npz"]}) == [
        "init_from=none_seed=0",
        "init_from=weights.npz_seed=0",
    ]


def test_values_that_are_written_alike_are_runs_of_their_own():
    both = {"data.path": ["/photos", "~/photos"]}
    found = names(both, seeds=2, base={"data.source": "folder"})
    assert len(set(found)) == 4
    assert found == names(both, seeds=2, base={"data.source": "folder"})
    assert all(name.startswith("path=photos-") for name in found)
    own = {"temperature.name": "tests.own:falling", "temperature.tau_min": 0.3}
    base = run.to_config_dict(run.override(run.defaults(), own))
    signs = run.combinations(base, {"temperature.options.slope": [-0.5, 0.5]}, seeds=1)
    assert [one.name for one in signs] == ["slope=-0.5_seed=0", "slope=0.5_seed=0"]


def test_options_of_ones_own_are_varied_too():
    own = {"temperature.name": "tests.own:falling", "temperature.tau_min": 0.3}
    over = {"temperature.options.slope": [0.2, 0.4]}
    found = run.combinations(run.to_config_dict(run.override(run.defaults(), own)), over, seeds=1)
    assert [one.name for one in found] == ["slope=0.2_seed=0", "slope=0.4_seed=0"]
    assert [one.config.temperature.options for one in found] == [{"slope": 0.2}, {"slope": 0.4}]
    # They are left out where what a combination names has no such argument.
    over |= {"temperature.name": ["tests.own:falling", "constant"]}
    assert names(over) == [
        "slope=0.2_temperature=tests.own-falling_seed=0",
        "temperature=constant_seed=0",
        "slope=0.4_temperature=tests.own-falling_seed=0",
    ]


def read(*arguments):
    """The runs that a command line of a sweep describes."""
    with parsed("sweep", *arguments) as (_, command):
        loose, overridden = command.loose(flags.FLAGS.config)
        seeds = flags.FLAGS.seeds
        return run.combinations(loose, command.over, seeds=seeds, overridden=overridden)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--over.seed=1,2"], r"--over.seed: found 1, 2; allowed: --seeds=N"),
        (["--over.temperature.tua=1"], "Did you mean config.temperature.tau"),
        (["--over.batch_size=32,x"], "config.batch_size: found 'x'; allowed: a whole number"),
        (["--over.batch_size"], "--over.batch_size: found no value"),
        (
            ["--over.batch_size", "--seeds=3"],
            "--over.batch_size: .*: --over.batch_size=VALUE,VALUE",
        ),
        (["--over.batch_size=32,32"], "--over.batch_size: found a value twice"),
        (["--over.batch_size=32,64", "--config.batch_size=16"], "allowed: one of the two"),
        (["--over.batch_size=1,64"], "config.batch_size: found 1; allowed: >= 2"),
        (["--over.temperature.tau_max=0.2,,0.3"], "temperature.tau_max: found ''"),
        (
            ["--over.evaluation=knn,linear_probe"],
            "--over.evaluation: found, .* trained alike; allowed: --config.evaluation=VALUE",
        ),
        (["--over.run_name=a,b"], "--over.run_name: .* allowed: --config.run_name=VALUE"),
        (
            ["--over.knn.k=5,20", "--over.temperature.tau_max=0.3,0.4"],
            r"--over\.knn\.k: .* dystress eval: --evaluation=knn --config\.knn\.k=VALUE",
        ),
        (["--over.temperature.tau_min=0.1,5.0"], "In the combination temperature.tau_min=5.0"),
        (["--over.temperature=0.1"], "a group of fields"),
    ],
)
def test_what_cannot_be_varied_is_told_before_anything_is_trained(arguments, told):
    with pytest.raises(run.ConfigError, match=told):
        read(*arguments)


def test_commas_within_brackets_belong_to_a_value():
    given = ["sweep", "--over.probe.l2=(1.0,2.0),(3.0,)", "--over.loggers", "trackio,wandb"]
    given += ["--over.knn.k=(5,20),1", "--over.evaluation=(knn,transfer),,knn"]
    others, found = take_varied(given)
    assert others == ["sweep"]
    assert found == {
        "probe.l2": [(1.0, 2.0), (3.0,)],
        "loggers": [("trackio",), ("wandb",)],
        "knn.k": [(5, 20), 1],
        "evaluation": ["knn,transfer", "", "knn"],
    }


def test_the_commands_that_are_printed_train_these_runs(tmp_path, monkeypatch, capsys):
    """Each is read by `dystress train`, and comes to the settings of its run."""
    monkeypatch.chdir(tmp_path)
    given = [
        "--over.temperature.name=constant,dystress",
        "--over.temperature.tau=0.1,0.2",
        "--over.augment.mean=(0.4,),(0.5,0.25,0.5)",
        "--config.temperature.tau_max=0.5",
        "--seeds",
        "2",
        "--config",
        "cifar10_small",
        "--config.run_name=two words",
        "--workdir=o'er here",
    ]
    expected = read(*given)
    with parsed("sweep", *given, "--print") as (module, command):
        module.sweep(command)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected) == 12
    for line, one in zip(lines, expected, strict=True):
        program, name, *rest = shlex.split(line)
        assert (program, name) == ("dystress", "train")
        with parsed("train", *rest) as (_, command):
            assert command.settings(flags.FLAGS.config) == one.config
            assert flags.FLAGS.workdir == f"o'er here/{one.name}"


def test_what_no_run_uses_of_the_config_file_is_told_once(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(
        "from dystress_jax import run\n"
        "def get_config():\n"
        "    settings = run.defaults()\n"
        "    settings.temperature.tau_max, settings.temperature.tau_min = 0.7, 0.05\n"
        "    return settings\n"
    )

    def told(*given):
        with parsed("sweep", f"--config={config}", *given) as (module, command):
            loose, overridden = command.loose(flags.FLAGS.config)
            runs = run.combinations(loose, command.over, overridden=overridden)
            return module.unused_by_all(loose, runs)

    none_uses = told("--config.temperature.name=constant", "--over.temperature.tau=0.1,0.2")
    assert [line.partition(":")[0] for line in none_uses] == [
        "config.temperature.tau_min",
        "config.temperature.tau_max",
    ]
    # One of the temperatures does use them.
    assert told("--over.temperature.name=constant,dystress") == []
    assert told("--over.temperature.tau_max=0.3") == []


def test_a_command_that_is_printed_has_no_option_of_another_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [
        "--over.temperature.name=tests.own:falling,constant",
        "--config.temperature.options.slope=0.2",
        "--config.temperature.tau_min=0.3",
        "--seeds=1",
    ]
    with parsed("sweep", *given, "--print") as (module, command):
        module.sweep(command)
    own, constant = capsys.readouterr().out.splitlines()
    assert "--config.temperature.options.slope=0.2" in own
    assert "options" not in constant
    for line, one in zip((own, constant), read(*given), strict=True):
        with parsed("train", *shlex.split(line)[2:]) as (_, command):
            assert command.settings(flags.FLAGS.config) == one.config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("images"))
    return run.to_config_dict(settings(folder, evaluation="-baselines", knn_every=0))


@pytest.mark.ci
def test_a_sweep_trains_what_is_missing_and_lays_all_side_by_side(base, tmp_path, monkeypatch):
    over = {"temperature.tau_max": [0.2, 0.5]}
    runs = run.combinations(base, over, seeds=1)
    trained, train = [], _sweep.train

    def counted(config, workdir, **options):
        trained.append(workdir.name)
        return train(config, workdir, **options)

    monkeypatch.setattr(_sweep, "train", counted)
    first = run.sweep(runs[:1], tmp_path)
    found = run.sweep(runs, tmp_path)
    assert trained == [one.name for one in runs]
    # A run that is to be longer, or measured by more, is none that is complete.
    for change in ({"steps": 9}, {"evaluation": "linear_probe"}):
        other = run.override(base, {"temperature.tau_max": 0.5, **change})
        assert _sweep._known(tmp_path / runs[1].name, other) is None
    assert found[runs[0].name] == json.loads(json.dumps(first[runs[0].name]))
    [row, other] = overview(gather([tmp_path])).rows
    assert (row.settings, other.settings) == ((0.2,), (0.5,))
    for one, measured in zip(runs, (row, other), strict=True):
        assert measured.measured["kNN accuracy"].tolist() == [found[one.name]["knn_trained"]]


def test_a_run_that_diverges_does_not_end_the_others_and_a_signal_does(
    base, tmp_path, monkeypatch, capsys
):
    runs = run.combinations(base, {"temperature.tau_max": [0.2, 0.3, 0.5, 0.6]}, seeds=1)

    def train(config, workdir, **options):
        if config.temperature.tau_max == 0.2:
            digest = _sweep.digest_of(_sweep.with_absolute_paths(config))
            told = {"diverged": "the loss is NaN", "settings_digest": digest}
            (workdir / "diverged.json").write_text(json.dumps(told))  # as a real run does
            raise DivergedError("the loss is NaN")
        return {"stopped_after": 7} if config.temperature.tau_max == 0.5 else {"seconds": 1.0}

    monkeypatch.setattr(_sweep, "train", train)
    for one in runs:
        (tmp_path / one.name).mkdir()
    found = run.sweep(runs, tmp_path)
    assert [*found] == [one.name for one in runs[:2]]
    assert found[runs[0].name]["diverged"] == "the loss is NaN"
    assert found[runs[1].name] == {"seconds": 1.0}
    assert "run 3 of 4" in capsys.readouterr().out
    # It would go the same way again.
    monkeypatch.setattr(_sweep, "train", lambda *_, **__: {"seconds": 2.0})
    assert run.sweep(runs, tmp_path)[runs[0].name] == found[runs[0].name]
    assert "has diverged; to try it again, delete" in capsys.readouterr().out
    (tmp_path / runs[0].name / "diverged.json").unlink()
    assert run.sweep(runs, tmp_path)[runs[0].name] == {"seconds": 2.0}


def test_a_run_that_an_evaluation_refuses_does_not_end_the_others(
    base, tmp_path, monkeypatch, capsys
):
    runs = run.combinations(base, {"temperature.tau_max": [0.2, 0.3]}, seeds=1)

    def train(config, workdir, **options):
        if config.temperature.tau_max == 0.2:
            raise NotMeasuredError("config.labels.shots: found 10")
        return {"seconds": 1.0}

    monkeypatch.setattr(_sweep, "train", train)
    found = run.sweep(runs, tmp_path)
    assert found[runs[0].name] == {"refused": "config.labels.shots: found 10"}
    assert found[runs[1].name] == {"seconds": 1.0}
    assert f"{runs[0].name} is trained, but: config.labels.shots" in capsys.readouterr().out
    given = ["--over.temperature.tau_max=0.2,0.3", f"--workdir={tmp_path}", "--seeds=1"]
    with parsed("sweep", *given) as (module, command):
        monkeypatch.setattr(module.run, "sweep", lambda runs, workdir: found)
        with pytest.raises(SystemExit, match=r"ConfigError: 1 of 2 runs, such as tau_max=0\.2"):
            module.sweep(command)
    assert "1 of 2 runs are complete; the same command goes on" in capsys.readouterr().out


@pytest.mark.ci
def test_a_run_that_cannot_begin_does_not_end_the_others(base, tmp_path, capsys):
    over = {"init_from": [str(tmp_path / "gone"), ""], "batch_size": [4096, 16]}
    runs = run.combinations(base, over, seeds=1)
    found = run.sweep(runs, tmp_path / "runs")
    whys = [summary.get("refused", "") for summary in found.values()]
    assert ["gone" in why for why in whys] == [True, True, False, False]
    assert "config.batch_size: found 4096" in whys[2]
    assert not whys[3]
    assert 0 <= found[runs[3].name]["knn_trained"] <= 1
    assert "run 3 of 4: " in (said := capsys.readouterr().out)
    assert said.count("is not trained: ") == 3


@pytest.mark.ci
def test_the_command_writes_a_table_and_a_line_for_each_run(base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mine.py"
    config.write_text(
        "from dystress_jax import run\n"
        "def get_config():\n"
        f"    return run.to_config_dict(run.from_config_dict({base.to_dict()!r}))\n"
    )
    given = ["--over.temperature.tau_max=0.2,0.5", f"--config={config}", "--seeds=2"]
    with parsed("sweep", *given) as (module, command):
        module.sweep(command)
    table = (tmp_path / "runs" / "mine_tau_max" / "table.md").read_text()
    assert table.splitlines()[0].startswith("| temperature.tau_max | ")
    assert len(table.split("\n\n")[0].splitlines()) == 4
    assert table in capsys.readouterr().out + "\n"
    with open(tmp_path / "runs" / "mine_tau_max" / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["temperature.tau_max"], row["seed"]) for row in rows] == [
        ("0.2", "0"),
        ("0.5", "0"),
        ("0.2", "1"),
        ("0.5", "1"),
    ]
    commands.main(["dystress", "report", "runs/mine_tau_max", "--out=again.md"])
    assert (tmp_path / "again.md").read_text() == table
    # A part of the grid leaves the rows of the others.
    with parsed("sweep", "--over.temperature.tau_max=0.5", *given[1:]) as (module, command):
        module.sweep(command)
    again = (tmp_path / "runs" / "mine_tau_max" / "table.md").read_text()
    rows = lambda text: sorted(
        row.split("|")[1].strip() for row in text.split("\n\n")[0].split("\n")
    )
    assert rows(again) == rows(table)
    assert {"0.2", "0.5"} < {*rows(again)}
