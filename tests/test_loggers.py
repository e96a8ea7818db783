"""Where a run can be watched: TensorBoard itself, and services as small stand-ins for them."""

import json
import struct
import sys
import types

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from dystress_jax import run
from dystress_jax.run.overrides import check_overrides, take_from_absl
from dystress_jax.training import loggers
from tests import runs

pytestmark = pytest.mark.usefixtures("one_device")


def begun(workdir, **changes):
    of = {
        "workdir": workdir,
        "name": "mine",
        "project": "ours",
        "config": {"seed": 3, "temperature": {"tau": 0.1}},
        "hparams": {"seed": 3, "temperature.tau": 0.1, "dtype": "float32", "remat": False},
        "first_step": 0,
        "known_as": None,
        "tell": print,
    }
    return loggers.Begun(**(of | changes))


def events(workdir):
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, the event, its checksum
            [length] = struct.unpack_from("<Q", content, at)
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16


def values(workdir):
    return {value.tag: (e.step, value) for e in events(workdir) for value in e.summary.value}


def log_some(opened):
    opened.scalars(1, {"loss": 2.5})
    opened.histograms(1, {"similarity": (np.array([-1.0, 0.0, 1.0]), np.array([3, 4]))})
    opened.images(1, {"views": np.full((4, 6, 3), 9, np.uint8)})
    opened.close()


def test_tensorboard_has_numbers_histograms_pictures_and_settings(tmp_path):
    log_some(loggers.open_loggers(["tensorboard"], begun(tmp_path)))
    found = values(tmp_path)
    assert found["loss"][0] == 1
    assert found["loss"][1].simple_value == 2.5
    assert list(found["similarity"][1].histo.bucket) == [3, 4]
    picture = found["views"][1].image
    assert (picture.height, picture.width) == (4, 6)
    content = found["_hparams_/session_start_info"][1].metadata.plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["temperature.tau"].number_value == 0.1
    assert shown["dtype"].string_value == "float32"
    assert not shown["remat"].bool_value
    assert "_hparams_/session_end_info" in found
    assert not (tmp_path / loggers.FILE).exists()


class Service(types.ModuleType):
    """Remembers every call; runs are known by an id or a name, as the service knows them."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []
        self.info = types.SimpleNamespace(run_id="0123abc")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **keywords):
            self.calls.append((name, args, keywords))
            return self

        return call

    def called(self, name):
        return [(*args, keywords) for called, args, keywords in self.calls if called == name]


@pytest.fixture
def services(monkeypatch):
    made = {name: Service(name) for name in ("wandb", "mlflow", "trackio")}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_wandb_goes_on_with_the_same_run(tmp_path, services):
    log_some(loggers.open_loggers(["wandb"], begun(tmp_path)))
    log_some(loggers.open_loggers(["wandb"], begun(tmp_path, first_step=7)))
    wandb = services["wandb"]
    [(first,), (second,)] = wandb.called("init")
    assert first == second
    assert first.pop("id")
    assert first == {
        "project": "ours",
        "name": "mine",
        "resume": "allow",
        "dir": str(tmp_path),
        "config": {"seed": 3, "temperature": {"tau": 0.1}},
    }
    # Not wandb's own step, which would refuse what is written again after a kill.
    assert ("*", {"step_metric": "step"}) in wandb.called("define_metric")
    assert ({"step": 1, "loss": 2.5}, {}) in wandb.called("log")
    [(counts_and_edges,), *_] = wandb.called("Histogram")
    assert [list(x) for x in counts_and_edges["np_histogram"]] == [[3, 4], [-1, 0, 1]]
    assert wandb.called("Image")[0][0].shape == (4, 6, 3)
    assert wandb.called("finish") == [({"exit_code": 0},)] * 2


def test_mlflow_goes_on_with_the_same_run_and_keeps_its_parameters(tmp_path, services):
    log_some(loggers.open_loggers(["mlflow"], begun(tmp_path)))
    opened = loggers.open_loggers(["mlflow"], begun(tmp_path, first_step=7))
    opened.close(failed=True)
    mlflow = services["mlflow"]
    assert mlflow.called("set_experiment") == [("ours", {})] * 2
    assert mlflow.called("start_run") == [
        ({"run_id": None, "run_name": "mine"},),
        ({"run_id": "0123abc", "run_name": "mine"},),
    ]
    assert mlflow.called("log_params") == [(begun(tmp_path).hparams, {})]
    assert mlflow.called("log_metrics") == [({"loss": 2.5}, {"step": 1, "run_id": "0123abc"})]
    assert [found[-1] for found in mlflow.called("log_image")] == [{"key": "views", "step": 1}]
    assert mlflow.called("end_run") == [({"status": "FINISHED"},), ({"status": "FAILED"},)]
    assert json.loads((tmp_path / loggers.FILE).read_text()) == {"mlflow": "0123abc"}


def test_trackio_goes_on_with_the_same_run(tmp_path, services):
    log_some(loggers.open_loggers(["trackio"], begun(tmp_path)))
    log_some(loggers.open_loggers(["trackio"], begun(tmp_path, first_step=7)))
    (other := tmp_path / "other").mkdir()
    loggers.open_loggers(["trackio"], begun(other)).close()
    trackio = services["trackio"]
    first, second, third = (found["name"] for [found] in trackio.called("init"))
    assert first == second != third
    assert first.startswith("mine-")
    assert all(found["resume"] == "allow" for [found] in trackio.called("init"))
    assert ({"loss": 2.5}, {"step": 1}) in trackio.called("log")
    assert len(trackio.called("finish")) == 3


def test_grey_pictures_have_three_channels(tmp_path, services):
    opened = loggers.open_loggers(["trackio", "wandb"], begun(tmp_path))
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    opened.images(1, {"views": grey})
    for name in ("trackio", "wandb"):
        [[shown, _]] = services[name].called("Image")
        np.testing.assert_array_equal(shown, np.concatenate([grey] * 3, axis=2))


def test_several_have_the_same_and_one_that_fails_is_left_out(tmp_path, services):
    said = []
    names = ["tensorboard", "wandb", "trackio"]
    opened = loggers.open_loggers(names, begun(tmp_path, tell=said.append))

    def full(*args, **keywords):
        raise ConnectionError("no network\nand more")

    services["wandb"].log = full
    log_some(opened)
    assert said == ["wandb has failed, the run goes on without it (ConnectionError: no network)"]
    assert ({"loss": 2.5}, {"step": 1}) in services["trackio"].called("log")
    assert "loss" in values(tmp_path)
    assert set(json.loads((tmp_path / loggers.FILE).read_text())) == {"wandb", "trackio"}


def test_a_package_that_is_not_there_is_told_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(loggers.LoggerError, match=r"found wandb, .*pip install wandb"):
        loggers.open_loggers(["tensorboard", "wandb"], begun(tmp_path))
    assert not list(tmp_path.iterdir())
    config = runs.settings(runs.write_images(tmp_path / "images"), loggers=("wandb",))
    with pytest.raises(run.ConfigError, match=r"^config\.loggers: found wandb, whose package"):
        run.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_is_told_in_one_line(tmp_path, services):
    def refuse(**keywords):
        raise ValueError("no key: log in\nwith a key")

    services["wandb"].init = refuse
    with pytest.raises(loggers.LoggerError, match=r"^wandb cannot begin \(ValueError: no key: log"):
        loggers.open_loggers(["tensorboard", "wandb"], begun(tmp_path))
    (tmp_path / loggers.FILE).write_text("[1, ")
    with pytest.raises(loggers.LoggerError):
        loggers.open_loggers(["wandb"], begun(tmp_path))


def test_loggers_are_named_on_the_command_line():
    given = ["train", "--config.loggers=wandb,mlflow"]
    check_overrides(given)
    assert take_from_absl(given) == (["train"], {"loggers": ("wandb", "mlflow")})
    assert take_from_absl(["--config.loggers=trackio"])[1] == {"loggers": ("trackio",)}
    assert take_from_absl(["--config.loggers="])[1] == {"loggers": ()}
    assert take_from_absl(["--config.loggers=('wandb', 'mlflow')"])[1] == {
        "loggers": ("wandb", "mlflow")
    }
    assert run.override(run.defaults(), {"loggers": ()}).loggers == ()
    with pytest.raises(run.ConfigError, match=r"config\.loggers: found 'wand'; allowed: .*wandb"):
        run.override(run.defaults(), {"loggers": ("wand",)})
    with pytest.raises(run.ConfigError, match=r"config\.loggers: found 'wandb'; allowed: names"):
        run.override(run.defaults(), {"loggers": "wandb"})


@pytest.mark.ci
def test_a_run_tells_its_loggers_from_its_first_views_to_its_closing_numbers(tmp_path, services):
    folder = runs.write_images(tmp_path / "images")
    config = runs.settings(
        folder, steps=2, knn_every=0, loggers=("tensorboard", "wandb"), run_name="drawings"
    )
    run.train(config, tmp_path / "run")
    wandb = services["wandb"]
    [[begun]] = wandb.called("init")
    assert (begun["name"], begun["project"]) == ("drawings", "dystress")
    assert begun["config"]["data"]["path"] == str(folder)
    logged = [found[0] for found in wandb.called("log")]
    assert [found["step"] for found in logged if "loss" in found] == [1, 2]
    [closing] = [found for found in logged if "knn/top1" in found]
    numbers = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert closing["knn/top1"] == numbers["evaluations"]["knn"]["top1"]
    views, *closing = (found[0] for found in wandb.called("Image"))
    assert views.shape == (24, 96, 3)  # two rows of eight
    assert all(picture.shape[2] == 3 for picture in closing)
    assert wandb.called("finish") == [({"exit_code": 0},)]
    shown = values(tmp_path / "run")
    assert {"loss", "views", "knn/confusion", "map", "knn/top1", "_hparams_/experiment"} <= set(
        shown
    )
    # All steps are there: what follows is measured again, in the same run.
    run.train(config, tmp_path / "run")
    first, second = (found["id"] for [found] in wandb.called("init"))
    assert first == second
    assert len(wandb.called("Image")) == 1 + 2 * len(closing)  # no views a second time
