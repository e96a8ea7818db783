"""The profile of some steps of a run: written where asked for, and never in the way of the run."""

import gzip
import json

import jax
import pytest

from dystress_jax import run
from tests import runs

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return runs.write_images(tmp_path_factory.mktemp("data") / "images")


def train(images, workdir, recorded, *, steps=4):
    few = {"checkpoint_every": 0, "knn_every": 0, "evaluation": "-baselines"}
    config = runs.settings(images, profile_steps=recorded, steps=steps, **few)
    return run.train(config, workdir)


@pytest.mark.parametrize(("recorded", "which"), [(1, "steps 3 to 3"), (9, "the steps from 3 on")])
def test_a_profile_holds_the_steps_that_are_asked_for(recorded, which, images, tmp_path, capsys):
    assert train(images, tmp_path / "run", recorded)["steps"] == 4
    [trace] = tmp_path.glob("run/profile/plugins/profile/*/perfetto_trace.json.gz")
    assert f"profile of {which}: open {trace}" in capsys.readouterr().out
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    called = [event["name"] for event in events if "train_step" in event.get("name", "")]
    assert called, {event.get("name") for event in events}


def test_a_run_goes_on_where_another_profile_is_being_made(images, tmp_path, capsys):
    with jax.profiler.trace(tmp_path / "other"):
        assert train(images, tmp_path / "run", 1)["steps"] == 4
    assert "no profile (config.profile_steps): " in capsys.readouterr().out
    assert not (tmp_path / "run" / "profile").exists()


def test_a_run_that_is_too_short_says_that_it_has_no_profile(images, tmp_path, capsys):
    train(images, tmp_path / "run", 1, steps=2)
    assert (
        "no profile (config.profile_steps): the run ends before step 3" in capsys.readouterr().out
    )
