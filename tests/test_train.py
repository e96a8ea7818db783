"""train.py and eval.py as a person uses them: started, interrupted, killed, resumed, misused."""

import importlib.metadata
import json
import random
import re
import shlex
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dystress_jax import run
from dystress_jax.run.summary import result_file
from dystress_jax.training import checkpoint
from tests.command_lines import parsed
from tests.processes import (
    ROOT,
    command,
    curve,
    finish,
    finish_in_two_processes,
    lines,
    saved_bits,
    start,
    summary,
    wait_for_step,
)

STEPS, EVERY = 24, 5

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_processes")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of 12 x 12 images, told apart by their colour."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"

    def split(count):
        labels = rng.integers(0, 2, count)
        base = np.where(labels[:, None, None, None] == 1, [200, 80, 60], [60, 80, 200])
        noise = rng.integers(-50, 50, (count, 12, 12, 3))
        return np.clip(base + noise, 0, 255).astype(np.uint8), labels.astype(np.int32)

    train_images, train_labels = split(80)
    test_images, test_labels = split(24)
    np.savez(
        path,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )
    return path


def settings(images, **fields):
    return {
        "data__source": "npz",
        "data__path": images,
        "batch_size": 16,
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": EVERY,
        "knn_every": 8,
        "projector__out": 8,
        **fields,
    }


def train(workdir, images, code=0, **fields):
    return finish(start(command("train.py", workdir, **settings(images, **fields))), code)


BASELINES = [
    f"knn_{name}"
    for name in ("untrained", "raw_pixels", "centred_pixels", "histogram", "mean_colour")
]


def assert_same_run(workdir, reference):
    assert [line["step"] for line in lines(workdir)] == list(range(1, STEPS + 1))
    assert curve(workdir) == curve(reference)
    found, expected = saved_bits(workdir, STEPS), saved_bits(reference, STEPS)
    assert len(found) > 20
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name in ("knn_trained", *BASELINES):
        found, expected = (
            json.loads((w / "summary.json").read_text()) for w in (workdir, reference)
        )
        assert found[name] == expected[name]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, images):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    output = train(workdir, images)
    return workdir, output


def test_a_run_writes_what_it_promises_and_closes_with_a_table(uninterrupted):
    workdir, output = uninterrupted
    assert [line["step"] for line in lines(workdir)] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines(workdir) if "knn" in line] == [8, 16, 24]
    listed = (ROOT / "docs" / "run-files.md").read_text()
    for path in workdir.iterdir():
        if not path.name.startswith((".", "events.out")):
            assert f"`{path.name}" in listed, path.name
    about = json.loads((workdir / "environment.json").read_text())
    assert "train.py" in about["command"][0]
    assert about["versions"]["jax"] == importlib.metadata.version("jax")
    counts = json.loads((workdir / "eval" / "knn_confusion.json").read_text())["counts"]
    top1 = json.loads((workdir / "summary.json").read_text())["knn_trained"]
    assert np.trace(counts) / np.sum(counts) == pytest.approx(top1)
    assert set(lines(workdir)[-1]) >= {
        "loss",
        "learning_rate",
        "gradient_norm",
        "positive_similarity",
        "negative_similarity",
        "positive_tau",
        "negative_tau",
        "images_per_second",
        "knn",
        "probe_accuracy",
    }
    numbers = summary(workdir)
    names = {"knn_trained", *BASELINES}
    assert {"seconds", *names, *(f"{name}_balanced" for name in names)} <= set(numbers)
    assert numbers["knn_split"] == "test"
    assert numbers["knn_raw_pixels"] > 0.9
    for name in BASELINES:
        share, balanced = (f"{100 * numbers[n]:.1f} %" for n in (name, f"{name}_balanced"))
        shown = name.removeprefix("knn_").replace("_", " ")
        assert re.search(f"^{shown} top1 +{share} +balanced +{balanced} +k ", output, re.MULTILINE)
    assert f"{100 * numbers['knn_trained']:.1f} %" in output
    assert "note: baselines: each baseline has the best k of 1, 20, 200" in output
    assert output.rstrip().endswith(f"dystress report {shlex.quote(str(workdir))}")
    for name in ("neighbours", "map"):
        with Image.open(workdir / f"{name}.png") as picture:
            assert min(picture.size) > 100
    assert json.loads((workdir / "config.json").read_text())["data"]["source"] == "npz"
    assert list(workdir.glob("events.out.tfevents.*"))
    assert checkpoint.steps(workdir / "checkpoints")[-1] == STEPS
    assert len(checkpoint.steps(workdir / "checkpoints")) <= 3


@pytest.mark.ci
def test_a_run_killed_twice_ends_with_the_same_bits(uninterrupted, tmp_path, images):
    reference, _ = uninterrupted
    moments = sorted(random.Random(0).sample(range(2, STEPS - 1), 2))
    print("killed after the lines", moments)
    for kill_after in moments:
        process = start(command("train.py", tmp_path, **settings(images)))
        wait_for_step(process, tmp_path, kill_after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    train(tmp_path, images)
    assert_same_run(tmp_path, reference)


@pytest.mark.ci
def test_a_killed_run_goes_on_with_its_queue_and_its_momentum_encoder(tmp_path, images):
    fields = {"method": "moco_v2", "moco__queue_size": 64, "moco__bn_groups": 2}
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    train(reference, images, **fields)
    process = start(command("train.py", killed, **settings(images, **fields)))
    wait_for_step(process, killed, 2 * EVERY + 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    train(killed, images, **fields)
    assert_same_run(killed, reference)
    names = saved_bits(reference, STEPS)
    for part in ("queue", "position", "key_params"):
        assert any(f"['memory']['{part}']" in name for name in names), names.keys()


@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_stop_saves_says_where_and_goes_on_exactly(
    uninterrupted, tmp_path, images, number
):
    reference, _ = uninterrupted
    process = start(command("train.py", tmp_path, **settings(images)))
    wait_for_step(process, tmp_path, 7)
    process.send_signal(number)
    output = finish(process)
    assert f"{number.name}: stopped after step" in output
    assert str(tmp_path / "checkpoints") in output
    assert lines(tmp_path)[-1]["step"] == checkpoint.steps(tmp_path / "checkpoints")[-1] < STEPS
    output = train(tmp_path, images)
    assert "going on from the checkpoint at step" in output
    assert_same_run(tmp_path, reference)


@pytest.mark.ci
def test_more_signals_while_it_saves_change_nothing(uninterrupted, tmp_path, images):
    reference, _ = uninterrupted
    process = start(command("train.py", tmp_path, **settings(images, checkpoint_every=1000)))
    wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:  # schedulers repeat themselves
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    output, _ = process.communicate()
    # The last of them may come when everything is saved and Python is on its way out.
    assert process.returncode in (0, -signal.SIGTERM)
    assert "SIGTERM: stopped after step" in output
    [step] = checkpoint.steps(tmp_path / "checkpoints")
    assert lines(tmp_path)[-1]["step"] == step
    train(tmp_path, images)
    assert_same_run(tmp_path, reference)


@pytest.mark.ci
def test_a_run_that_is_complete_says_so_and_keeps_its_numbers(uninterrupted, images):
    workdir, _ = uninterrupted
    before = summary(workdir)
    output = train(workdir, images)
    assert f"complete at step {STEPS}" in output
    assert re.search(r"^time of the run +\d+ s$", output, flags=re.MULTILINE)
    after = summary(workdir)
    assert after.pop("seconds") > 0.5 * before.pop("seconds")
    assert after == before


@pytest.mark.ci
def test_a_run_does_not_go_on_with_other_images(uninterrupted, tmp_path, images):
    workdir, _ = uninterrupted
    before = (workdir / "config.json").read_text()
    arrays = dict(np.load(images))
    changed = tmp_path / "changed.npz"
    np.savez(changed, **{**arrays, "train_images": 255 - arrays["train_images"]})
    said = r"72 of \[12, 12, 3\] in 2 classes, .*?content (\w+) then, 72 .*? content (\w+)"
    then, now = re.search(said, train(workdir, changed, code=1)).groups()
    assert then != now
    arrays["train_images"] = arrays["train_images"][:64]
    arrays["train_labels"] = arrays["train_labels"][:64]
    fewer = tmp_path / "fewer.npz"
    np.savez(fewer, **arrays)
    said = re.compile(
        r"trained on other images: 72 of \[12, 12, 3\] in 2 classes, .*?content \w+ then, 58 of"
    )
    assert said.search(train(workdir, fewer, code=1))
    assert (workdir / "config.json").read_text() == before
    other = [*command("eval.py", workdir, data__path=fewer), "--evaluation=knn"]
    output = finish(start(other))  # an evaluation goes on, and says so
    assert "note: the training images are others than those of the run: 72 of" in output


@pytest.mark.ci
def test_a_damaged_newest_checkpoint_costs_only_its_steps(uninterrupted, tmp_path, images):
    reference, _ = uninterrupted
    process = start(command("train.py", tmp_path, **settings(images)))
    wait_for_step(process, tmp_path, 3 * EVERY + 1)
    process.send_signal(signal.SIGINT)
    finish(process)
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    for path in (tmp_path / "checkpoints" / str(newest) / "train").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    output = train(tmp_path, images)
    assert f"checkpoint {newest}" in output
    assert f"moved to {tmp_path / 'damaged' / str(newest)}" in output
    assert_same_run(tmp_path, reference)


def test_a_run_goes_on_only_with_its_own_model_and_data(uninterrupted, images):
    workdir, _ = uninterrupted
    before = curve(workdir)
    output = train(workdir, images, code=1, temperature__tau_max=0.5, seed=3)
    assert "config.temperature.tau_max: 0.2 -> 0.5" in output
    assert "config.seed: 0 -> 3" in output
    assert "new --workdir" in output
    assert curve(workdir) == before


@pytest.mark.ci
@pytest.mark.parametrize("knn_every", [0, 1])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, images, knn_every):
    fields = {"optimizer__learning_rate": 1e17, "checkpoint_every": 1, "knn_every": knn_every}
    output = train(tmp_path, images, code=1, **fields)
    assert "DivergedError" in output
    assert "is inf at step 2; newest checkpoint before it:" in output
    assert f"{tmp_path / 'checkpoints' / '1'} (step 1, loss " in output
    assert "Traceback" not in output


@pytest.mark.ci
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.temprature.tau=1", "Did you mean config.temperature.tau?"),
        ("--config.batch_size=abc", "config.batch_size: found 'abc'; allowed: a whole number."),
        ("--config.batch_size=300", "there are only 72 training images"),
        ("--config.temperature.tau_min=0.3", "config.temperature.tau_min: found 0.3"),
        ("--config.data.path=nowhere.npz", "nowhere.npz"),
        ("--config.data.source=embedded", "with config.data.source embedded, which would ignore"),
        ("--config.topology.tokens=4", "config.topology.tokens: found 4 with config.method simclr"),
        ("--config.loss.options={}", "one option at a time, --config.loss.options.NAME=VALUE"),
        ("--config.temperature.name=free", "free is now called temperature_free"),
        ("--config.data.wrong_pairs=0.5", "is now called config.data.caption_noise"),
        ("--config.temperature=constant", "such as config.temperature.name"),
        ("--workdir=gs://bucket/run", "--workdir: found 'gs://bucket/run'; allowed: a directory"),
        ("--num_processes=2", "allowed: with --distributed"),
        ("--config.augment.mean=(0.1,0.2)", "config.augment.mean: found (0.1, 0.2)"),
        ("--config=clip_quikstart", "Did you mean clip_quickstart?"),
        ("--workdr=x", "--workdr: no such flag. Did you mean --workdir?"),
        ("--batch_size=3", "--batch_size: no such flag. Did you mean --config.batch_size?"),
        ("simclr_cifar10.py", "as --NAME=VALUE. Did you mean --config=simclr_cifar10.py?"),
        ("runs/first", "found 'runs/first'; allowed: flags, as --NAME=VALUE. Did you mean --workd"),
    ],
)
def test_a_mistake_is_answered_without_a_traceback(tmp_path, images, flag, message):
    python, script, *others = command("train.py", tmp_path / "run", **settings(images))
    first = flag.startswith("--config=")  # must come before the fields of the config
    flags = [flag, *others] if first else [*others, flag]
    output = finish(start([python, script, *flags]), code=1)
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.batch_size = 'many'", "line 4: batch_size: found many, a str; allowed: a whole"),
        ("config.temprature.tau = 0.1", "mine.py, line 4: 'temprature'"),
        (
            "config.evaluation = ['knn']",
            "evaluation: found ['knn'], a list; allowed: a text",
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_answered_without_a_traceback(tmp_path, line, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dystress_jax import run\ndef get_config():\n    config = run.defaults()\n"
        f"    {line}\n    return config\n"
    )
    script = [sys.executable, str(ROOT / "train.py"), f"--config={file}", f"--workdir={tmp_path}"]
    output = finish(start(script), code=1)
    assert str(file) in output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize("evaluation", ["knn", "linear_probe"])
def test_eval_writes_numbers_and_protocol(uninterrupted, evaluation):
    workdir, _ = uninterrupted
    arguments = [*command("eval.py", workdir, probe__epochs=3), f"--evaluation={evaluation}"]
    output = finish(start(arguments))
    # Nearest neighbours read nothing of the probe.
    reads = {"probe.epochs": 3} if evaluation == "linear_probe" else {}
    name = result_file(evaluation, "newest", reads)
    result = json.loads((workdir / "eval" / name).read_text())
    assert result["checkpoint_step"] == STEPS
    assert result["settings"] == reads
    assert result["split"] == "test"
    assert result["seed"] == 0
    assert result["protocol"]["evaluation"] == evaluation
    assert f"{100 * result['top1']:.1f} %" in output
    if evaluation == "knn":
        assert result["top1"] == summary(workdir)["knn_trained"]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--evaluation=knn", "--config.augment.std=(0.5,)"], "the run was trained with"),
        (["--evaluation=foo"], "knn"),
        ([], "evaluation"),
    ],
)
def test_eval_answers_a_mistake_without_a_traceback(uninterrupted, flags, message):
    workdir, _ = uninterrupted
    output = finish(start([*command("eval.py", workdir), *flags]), code=1)
    assert message in output
    assert "Traceback" not in output


@pytest.mark.ci
def test_eval_knows_its_run_however_the_flag_is_written(uninterrupted):
    workdir, _ = uninterrupted
    arguments = [sys.executable, str(ROOT / "eval.py"), "--workdir", str(workdir)]
    finish(start([*arguments, "--evaluation", "knn", "--checkpoint", "best"]))
    result = json.loads((workdir / "eval" / "knn_best.json").read_text())
    best = max(checkpoint.scores(workdir / "checkpoints").items(), key=lambda kv: kv[1])
    assert result["checkpoint_step"] == best[0]
    assert result["protocol"]["bank_images"] == 72


def test_eval_of_a_checkpoint_that_is_not_there_names_those_that_are(uninterrupted):
    workdir, _ = uninterrupted
    arguments = [*command("eval.py", workdir), "--evaluation=knn", "--checkpoint=7"]
    assert "allowed: newest, best, " in finish(start(arguments), code=1)


def test_eval_of_no_run_says_so(tmp_path):
    arguments = [*command("eval.py", tmp_path), "--evaluation=knn"]
    assert "found no run in" in finish(start(arguments), code=1)


def test_eval_of_a_run_with_a_slip_in_its_name_names_the_run(tmp_path):
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    (tmp_path / "runs" / "photos" / "config.json").write_text("{}")
    with (
        pytest.raises(run.ConfigError, match=r"found no run in .* Did you mean .*/photos\?"),
        parsed("eval", f"--workdir={tmp_path / 'runs' / 'photo'}", "--evaluation=knn"),
    ):
        pass


@pytest.mark.ci
@pytest.mark.parametrize(
    "left_out", [["train_labels", "test_labels"], ["test_labels", "test_images", "train_labels"]]
)
def test_images_without_labels_can_be_trained_on(tmp_path, images, left_out):
    arrays = dict(np.load(images))
    path = tmp_path / "unlabelled.npz"
    np.savez(path, **{name: a for name, a in arrays.items() if name not in left_out})
    output = train(tmp_path / "run", path, steps=2)
    assert "no labelled or captioned test or held-out images" in output
    assert (tmp_path / "run" / "neighbours.png").exists()  # they need no labels
    assert (tmp_path / "run" / "map.png").exists()
    assert "probe_loss" not in lines(tmp_path / "run")[-1]
    assert "knn" not in lines(tmp_path / "run")[-1]


@pytest.mark.ci
def test_test_images_without_labels_leave_the_held_out_ones_to_measure_by(tmp_path, images):
    arrays = dict(np.load(images))
    del arrays["test_labels"]
    np.savez(tmp_path / "partly.npz", **arrays)
    train(tmp_path / "run", tmp_path / "partly.npz", steps=2)
    assert summary(tmp_path / "run")["knn_split"] == "holdout"


@pytest.mark.ci
def test_two_processes_train_the_same_as_one(tmp_path, images):
    # A small learning rate: a large one makes rounding grow.
    fields = settings(images, steps=8, knn_every=8, optimizer__learning_rate=0.002)
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(start(command("train.py", alone, **fields)))
    finish_in_two_processes(command("train.py", together, **fields))
    found, expected = ([line["loss"] for line in lines(w)] for w in (together, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in ("knn_trained", *BASELINES):
        assert summary(together)[name] == summary(alone)[name]
    assert (together / "neighbours.png").read_bytes() == (alone / "neighbours.png").read_bytes()
