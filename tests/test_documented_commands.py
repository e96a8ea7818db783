"""Every command that the documentation shows: through the real command line, up to the first step.

Those of docs/extending.md run in `test_extending.py`.
"""

import dataclasses
import functools
import importlib
import json
import pathlib
import re
import sys
import tempfile
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest
from absl import flags

from dystress_jax import commands, data, run
from dystress_jax.run.evaluations import EVALUATIONS
from dystress_jax.run.fields import differences, may_change_on_resume
from dystress_jax.training import make_train_step
from tests.command_lines import parsed

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "tools", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "dystress_jax").rglob("*.py")),
]
# The configs are seen twice, in the package and by the link beside it.
INSIDE = ROOT / "dystress_jax" / "configs"
PAGES = [page for page in PAGES if page.is_file() and not page.is_relative_to(INSIDE)]
# Parts of the reader's own, and commands that are made of pieces: they have tests of their own.
PAGES = [page for page in PAGES if page.is_file() and page.name not in ("extending.md", "_next.py")]
COMMAND = re.compile(
    r"(?:python (?=\w+\.py)|dystress )(train|eval)(?:\.py)?"
    r"((?:[\s\\]+(?:--\S+|\[--config\S+ ?(?:\.\.\.)?\]))*)"
)
OTHERS = re.compile(
    r"(?<!\w)dystress (advise|embed|export|import|report|explore|sweep)\b((?:\\\n|[^`\n\"{)])*)"
)
FRAGMENT = re.compile(r"--config\.[\w.]+=[^\s`]+(?:\s+--config\.[\w.]+=[^\s`]+)*")
# What stands for something of the reader's; paths stay as they are, their content is stood in for.
STANDS_FOR = {
    "configs/NAME.py": "configs/quickstart.py",
    "--config=runs/warm": "--config=quickstart",
    "=NAME": "=quickstart",
    "=mine.py": "=configs/quickstart.py",
    "=my_clip.py": "=configs/clip_quickstart.py",
    "=photos.py": "=configs/quickstart.py",
    "=my_temperature:quadratic": "=tests.own:falling",
    ":METHOD": ":moco_v2",
    "=SEED": "=1",
    "=STEPS": "=400",
    "=N": "=2",
}


class Shown(NamedTuple):
    """A command, or some flags (script ""), and the page that shows it."""

    page: str
    script: str
    flags: tuple[str, ...]

    def __str__(self):
        return " ".join([self.page, self.script, *self.flags])


def words(text):
    for name, value in STANDS_FOR.items():
        text = re.sub(re.escape(name) + r"\b", value, text)
    found = (
        re.split(r"[`\]]", word)[0].rstrip(".,;:)") for word in text.replace("\\\n", " ").split()
    )
    return tuple(word for word in found if word.startswith("--") and "VALUE" not in word)


def shown():
    found = []
    for page in PAGES:
        name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
        found += [Shown(name, script, words(rest)) for script, rest in COMMAND.findall(text)]
        if page.is_relative_to(ROOT / "dystress_jax"):
            continue  # their flags are examples of what is refused too
        rest = COMMAND.sub("", text)
        found += [Shown(name, "", words(flags)) for flags in FRAGMENT.findall(rest)]
        if "| `--config.` |" in text:  # a table of changes to the last command
            [command] = re.findall(r"`(python train\.py [^`]*)` and the fields", text)
            table = text.partition("| `--config.` |")[2].partition("\n\n")[0]
            for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE):
                changes = (f"--config.{change}" for change in re.findall(r"`(.*?)`", row))
                found.append(Shown(name, "train", (*words(command), *changes)))
    return [each for each in dict.fromkeys(found) if each.script or each.flags]


SHOWN = shown()


def read(name, arguments):
    """The settings and the evaluations that a command reads from its command line."""
    with parsed(name, *arguments) as (_, command):
        return command.settings(flags.FLAGS.config), getattr(flags.FLAGS, "evaluation", None)


@functools.cache
def train_settings(arguments):
    if "--resume" not in arguments:
        return read("train", arguments)[0]
    with tempfile.TemporaryDirectory() as folder:  # in place of the run that goes on
        written = dataclasses.asdict(run.from_config_dict({}))
        pathlib.Path(folder, "config.json").write_text(json.dumps(written))
        others = [flag for flag in arguments if not flag.startswith("--workdir")]
        return read("train", [*others, f"--workdir={folder}"])[0]


def configs_for(page):
    """The config that flags on a page change: that of a config file, else any of a few."""
    if page.startswith("configs/"):
        needs = {"clip_oblique_vit_b16": ("--config.data.captions=c.csv",)}
        stem = pathlib.Path(page).stem
        return [(f"--config={page}", *needs.get(stem, ()), "--config.data.path=DIR")]
    few = ("quickstart", "cifar10_small", "clip_quickstart", "moco_v3_cifar10")
    return [(f"--config=configs/{name}.py", "--config.data.path=DIR") for name in few]


def settings_of(command):
    """What a run would be given; flags alone are tried with each config that they may change."""
    if command.script:
        return train_settings(command.flags)
    refused = []
    for base in configs_for(command.page):
        for more in ((), base[1:]):
            try:
                return train_settings((base[0], *more, *command.flags))
            except run.ConfigError as error:
                refused.append(str(error))
    raise AssertionError(refused)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def stand_in(monkeypatch):
    """Images in place of those that a config asks for and that are not there."""

    def open_for(config):
        if config.data.source == "embedded":
            return
        side, count = config.data.image_size or 32, config.batch_size
        captions = data.Captions.of([["a drawing"]] * count) if config.method == "clip" else None
        source = data.Source(
            read=lambda rows: (np.zeros((len(rows), side, side, 3), np.uint8), np.int32(rows % 10)),
            index=np.arange(count, dtype=np.int32),
            image_shape=(side, side, 3),
            class_names=tuple(map(str, range(10))),
            stored_labels=np.arange(count, dtype=np.int32) % 10,
            captions=captions,
        )
        monkeypatch.setattr(data, "open_splits", lambda *_, **__: {"train": source, "test": source})

    return open_for


TRACED: set[str] = set()
NOT_OF_THE_STEP = ("seed", "epochs", "steps", "eval_on", "knn", "labels", "finetune", "zero_shot")


def program_of(config):
    """What the program of a step depends on, and where its images come from."""
    fields = dataclasses.asdict(config)
    fields["data"] = {name: fields["data"][name] for name in ("source", "name", "image_size")}
    every = [name for name in fields if name.endswith("_every") or name in NOT_OF_THE_STEP]
    return repr({name: _kinds(x) for name, x in fields.items() if name not in every})


def _kinds(value):
    """Which number it is makes no other program, but for 0 and 1, which switch things off."""
    if isinstance(value, dict):
        return {name: _kinds(x) for name, x in value.items()}
    return "a number" if isinstance(value, float) and value not in (0.0, 1.0) else value


TRAINED = [each for each in SHOWN if each.script != "eval"]


def test_commands_are_found_in_all_kinds_of_pages():
    pages = {pathlib.Path(each.page).parts[0] for each in SHOWN}
    assert pages == {"README.md", "docs", "configs", "dystress_jax"}
    assert {each.script for each in SHOWN} == {"", "train", "eval"}
    assert len(SHOWN) > 50


@pytest.mark.parametrize("command", TRAINED, ids=str)
def test_what_is_shown_is_accepted(command):
    assert settings_of(command) is not None


# Flags that a config file shows change what its own command does: that is traced.
OF_STEPS = [each for each in TRAINED if each.script or not each.page.startswith("configs/")]


@pytest.mark.ci
@pytest.mark.parametrize("command", OF_STEPS, ids=str)
def test_the_first_step_of_what_is_shown_is_a_program(command, tmp_path, stand_in, monkeypatch):
    """Traced, not compiled, and once for commands whose steps come to the same."""
    config = settings_of(command)
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary=""))
    if program_of(config) in TRACED:
        return
    TRACED.add(program_of(config))
    stand_in(config)
    if config.loss.strategy == "fused":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    experiment = run.build(config, tmp_path)
    if not command.script and experiment.train.image_shape[0] > 64:
        return  # a variant of a large network, whose config file is traced
    step = make_train_step(
        experiment.method,
        experiment.optimizer,
        experiment.schedule.learning_rate,
        scheme=experiment.scheme,
        mesh=experiment.mesh,
        micro_batches=config.batch.micro_batches,
    )
    batch = {
        key: jax.ShapeDtypeStruct((config.batch_size, *value.shape[1:]), value.dtype)
        for key, value in experiment.train.gather(np.arange(1)).items()
    }
    jax.eval_shape(step, experiment.abstract_state(), batch)


@pytest.mark.parametrize("command", [each for each in SHOWN if each.script == "eval"], ids=str)
def test_what_is_shown_of_evaluations_is_accepted(command, tmp_path):
    """Of the run that the same page trains before, or of the quickstart of its kind."""
    *_, trained = [
        settings_of(Shown("README.md", "train", ("--config=configs/clip_quickstart.py",))),
        *(settings_of(e) for e in SHOWN if e.page == command.page and e.script == "train"),
    ]
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(trained)))
    own = [flag for flag in command.flags if not flag.startswith("--workdir")]
    missing = [] if any("--evaluation" in flag for flag in own) else ["--evaluation=knn"]
    settings, names = read("eval", [*own, *missing, f"--workdir={tmp_path}"])
    assert set(names) <= {*EVALUATIONS, "NAME"}
    changed = differences(dataclasses.asdict(trained), dataclasses.asdict(settings))
    assert all(may_change_on_resume(field) for field in changed)


def shown_of_others():
    found = []
    for page in PAGES:
        name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
        for script, rest in OTHERS.findall(text):
            for old, new in STANDS_FOR.items():
                rest = re.sub(re.escape(old) + r"\b", new, rest)
            given = tuple(rest.replace("\\\n", " ").split())
            if given and given not in (("--help",), ("FILE",)):
                found.append(Shown(name, script, given))
    return list(dict.fromkeys(found))


SHOWN_OF_OTHERS = shown_of_others()


def test_the_other_commands_are_found():
    assert {each.script for each in SHOWN_OF_OTHERS} == {*commands.COMMANDS} - {"train", "eval"}


@pytest.mark.parametrize("command", SHOWN_OF_OTHERS, ids=str)
def test_what_is_shown_of_other_commands_is_accepted(command, monkeypatch):
    """Their flags are read and checked; what a page would be made of is stood in for."""
    name, given = command.script, command.flags
    if name not in ("report", "explore", "advise"):
        named = [argument for argument in given if argument.startswith("--")]
        with parsed(name, *named) as (_, read):
            if name == "import":
                read.settings(flags.FLAGS.config)
            if name == "sweep":
                settings, overridden = read.loose(flags.FLAGS.config)
                seeds = flags.FLAGS.seeds
                found = run.combinations(settings, read.over, seeds=seeds, overridden=overridden)
                assert len(found) > seeds * (len(read.over) > 0)
        return
    module = importlib.import_module(f"dystress_jax.commands.{name}")
    anything = mock.MagicMock()
    anything.gather.return_value, anything.page.return_value = [], "a page"
    anything.compare.return_value = anything.told_apart.return_value = []
    anything.as_csv.return_value = "a table"
    anything.of_run.return_value = anything, anything, ()
    for used in ("report", "explorer", "microscope", "write_text", "webbrowser"):
        monkeypatch.setattr(module, used, anything, raising=False)
    module.main([name, *given])
    made = anything.page, anything.markdown, anything.as_csv, anything.compare
    assert any(one.called for one in made)
