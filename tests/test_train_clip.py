"""train.py and eval.py with clip: what a run leaves, killed and resumed, and wrong input."""

import dataclasses
import json
import re
import shutil
import signal
import time

import filelock
import numpy as np
import pytest
from PIL import Image

from dystress_jax import data, run
from dystress_jax.data.tokenizer import load_tokenizer, train_tokenizer
from dystress_jax.files import write_json
from dystress_jax.run import ConfigError, _evaluate, _prepare, language
from dystress_jax.run._same_images import describe
from dystress_jax.run.data import with_absolute_paths
from dystress_jax.run.fields import fields, get, is_of_a_machine, put
from dystress_jax.training import checkpoint
from tests.processes import (
    command,
    curve,
    finish,
    finish_in_two_processes,
    lines,
    saved_bits,
    start,
    summary,
)

STEPS, EVERY = 16, 5
NAMES = ("red", "green", "blue")
BROKEN = (2, 4, 6)  # images that are missing, no image, and huge; their lines are 4, 6 and 8

LANGUAGE = {
    "text__context": 6,
    "text__vocab_size": 64,
    "topology__dims": 8,
    "zero_shot__prompts": "name",
}

pytestmark = [
    pytest.mark.ci,
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_processes"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of drawings, one colour each, and a caption file with labels and splits."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(64):
        colour = i % 3
        pixels = rng.integers(0, 100, (8, 8, 3))
        pixels[..., colour] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        pairs.append(f"{i}.png,a {NAMES[colour]} drawing {i}")
    split = lambda i: "test" if i >= 48 else "train"
    rows = [f"{pair},{NAMES[i % 3]},{split(i)}" for i, pair in enumerate(pairs)]
    (folder / "captions.csv").write_text("\n".join(["path,caption,label,split", *rows]))
    good = [pair for i, pair in enumerate(pairs) if i not in BROKEN]
    (folder / "good.csv").write_text("\n".join(["path,caption", *good]))
    (folder / "2.png").unlink()
    (folder / "4.png").write_text("no image")
    (folder / "6.png").write_bytes(b"P6 12000 12000 255\n")  # the header of 144 million pixels
    return folder


def settings(folder, **fields):
    return {
        "method": "clip",
        **LANGUAGE,
        "data__source": "folder",
        "data__path": folder,
        "data__captions": "captions.csv",
        "data__on_error": "skip",
        "temperature__name": "learned",
        "temperature__tau": 0.2,
        "optimizer__name": "adamw",
        "optimizer__learning_rate": 0.002,
        "augment__recipe": "weak",
        "batch_size": 16,
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": EVERY,
        "knn_every": 0,
        **fields,
    }


def train(workdir, folder, **fields):
    return finish(start(command("train.py", workdir, **settings(folder, **fields))))


def refused(workdir, folder, **fields):
    """What a person is told, in this process, which starts faster."""
    built = run.defaults()
    built.update_from_flattened_dict(
        {
            name.replace("__", "."): str(v)
            if name.endswith(("path", "captions", "vocabulary", "class_names"))
            else v
            for name, v in settings(folder, **fields).items()
        }
    )
    with pytest.raises(ConfigError) as error:
        run.train(run.from_config_dict(built), workdir)
    return str(error.value)


def kill_after_a_checkpoint(arguments, workdir):
    process = start(arguments)
    deadline = time.monotonic() + 300
    while not checkpoint.steps(workdir / "checkpoints"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_same_after_a_kill(reference, workdir, arguments):
    """Kill, go on, compare with a run that nobody killed; returns every array of its end."""
    kill_after_a_checkpoint(arguments, workdir)
    assert "going on from the checkpoint at step" in finish(start(arguments))
    assert [line["step"] for line in lines(workdir)] == list(range(1, STEPS + 1))
    assert curve(workdir) == curve(reference)
    found, expected = saved_bits(workdir, STEPS), saved_bits(reference, STEPS)
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name, value in summary(reference).items():
        if name != "seconds":
            assert summary(workdir)[name] == value, name
    return {name: value for name, value in found.items() if "['scheme']" in name}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, pairs):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return workdir, train(workdir, pairs)


def test_a_run_leaves_vocabulary_picture_recalls_and_a_list_of_what_it_left_out(
    uninterrupted, pairs
):
    workdir, output = uninterrupted
    assert {"scale", "logit_gap", "positive_tau", "probe_accuracy"} <= set(lines(workdir)[-1])
    tokenizer = load_tokenizer(workdir / "tokenizer.json", context=6)
    assert f"vocabulary: {tokenizer.vocab_size:,} tokens" in output
    with Image.open(workdir / "retrieval.png") as picture:
        assert picture.size == (200 + 9 * 68 + 12, 12 * 68 + 4)
    numbers = summary(workdir)
    assert numbers["retrieval_split"] == numbers["zero_shot_split"] == "test"
    for name, chance in numbers["retrieval_chance"].items():
        assert 0 <= numbers[name] <= 1
        assert chance == pytest.approx(int(name.rpartition("_")[2]) / 16)
    assert len(numbers["retrieval_chance"]) == 6
    assert numbers["zero_shot_classes"] == 3
    assert numbers["zero_shot_chance"] == pytest.approx(1 / 3)
    assert numbers["zero_shot_top5"] == 1.0
    assert "retrieval, test images" in output
    assert "zero shot, test images, 3 classes" in output
    listed = (workdir / "skipped.txt").read_text().splitlines()
    assert f"left out: 3 that cannot be used, listed in {workdir / 'skipped.txt'}" in output
    for line, image, what in zip(
        listed, BROKEN, ("there is no image", "cannot read", "12000 x 12000 pixels"), strict=True
    ):
        assert f"{pairs / 'captions.csv'}, line {image + 2}: " in line
        assert what in line


def test_two_processes_train_and_judge_the_same_as_one(uninterrupted, tmp_path, pairs):
    reference, _ = uninterrupted
    finish_in_two_processes(command("train.py", tmp_path, **settings(pairs)))
    found, expected = ([line["loss"] for line in lines(w)] for w in (tmp_path, reference))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    same = lambda numbers: {k: v for k, v in numbers.items() if k != "seconds"}
    assert same(summary(tmp_path)) == same(summary(reference))
    assert (tmp_path / "retrieval.png").read_bytes() == (reference / "retrieval.png").read_bytes()


def test_a_killed_run_goes_on_with_its_scale(uninterrupted, tmp_path, pairs):
    reference, _ = uninterrupted
    arguments = command("train.py", tmp_path, **settings(pairs))
    scheme = assert_same_after_a_kill(reference, tmp_path, arguments)
    log_scale = [value for value in scheme.values() if value.dtype == np.float32 and not value.ndim]
    assert any(
        abs(value - np.log(5)) < 0.1 and value != np.float32(np.log(5)) for value in log_scale
    )


@pytest.fixture(scope="module")
def per_example(tmp_path_factory, pairs):
    """SimCLR with the temperature of iSogCLR, a number for each image and view; its settings."""
    workdir = tmp_path_factory.mktemp("per_example")
    fields = {
        **dict.fromkeys(LANGUAGE),
        "method": "simclr",
        "data__captions": "good.csv",
        "data__on_error": "raise",
        "temperature__name": "isogclr",
        "temperature__tau_max": 0.7,
    }
    train(workdir, pairs, **fields)
    return workdir, fields


def test_a_killed_run_goes_on_with_the_temperatures_of_its_examples(per_example, tmp_path, pairs):
    reference, fields = per_example
    arguments = command("train.py", tmp_path, **settings(pairs, **fields))
    scheme = assert_same_after_a_kill(reference, tmp_path, arguments)
    [tau] = [value for name, value in scheme.items() if "tau" in name]
    assert tau.shape == (2, 61)
    assert len(np.unique(tau)) > 61


def test_a_run_without_texts_has_nothing_to_retrieve(per_example):
    workdir, _ = per_example
    with pytest.raises(ConfigError, match=r"method simclr, .* allowed: knn, .*linear_probe"):
        run.evaluate(workdir, "retrieval")


@pytest.mark.parametrize("evaluation", ["retrieval", "zero_shot"])
def test_eval_writes_what_the_run_has_said(uninterrupted, evaluation):
    workdir, _ = uninterrupted
    output = finish(start([*command("eval.py", workdir), f"--evaluation={evaluation}"]))
    result = json.loads((workdir / "eval" / f"{evaluation}.json").read_text())
    assert result["split"] == "test"
    assert result["checkpoint_step"] == STEPS
    assert result["protocol"]["evaluation"] == evaluation
    said = summary(workdir)
    if evaluation == "zero_shot":
        assert result["top1"] == said["zero_shot_top1"]
        assert f"{100 * result['top1']:.1f} %" in output
    else:
        assert result["chance"] == said["retrieval_chance"]
        for name in said["retrieval_chance"]:
            assert result[name] == said[name]
        assert "image to text recall at 1" in output


def test_another_vocabulary_is_refused_with_both_names(uninterrupted, tmp_path, pairs):
    file, moved = tmp_path / "vocabulary.json", tmp_path / "run"
    train_tokenizer(["red", "red"], vocab_size=64).save(file)
    workdir, _ = uninterrupted
    given = {"text__vocabulary": file, "text__vocab_size": 4096}  # the second at its default
    said = refused(workdir, pairs, **given)
    assert f"config.text.vocabulary: {file} has" in said
    # A run that began with that file, when there were other words in it.
    shutil.copytree(workdir, moved)
    begun = json.loads((moved / "config.json").read_text())
    begun["text"] |= {"vocabulary": str(file), "vocab_size": 4096}
    (moved / "config.json").write_text(json.dumps(begun))
    before = (moved / "tokenizer.json").read_bytes()
    said = refused(moved, pairs, **given)
    sizes = [load_tokenizer(path).vocab_size for path in (file, moved / "tokenizer.json")]
    assert f"config.text.vocabulary: {file} has {sizes[0]} tokens" in said
    assert f"but the run began with {moved / 'tokenizer.json'}: {sizes[1]} tokens" in said
    assert (moved / "tokenizer.json").read_bytes() == before
    # Without its own words, those of the file are compared with what the checkpoints remember.
    (moved / "tokenizer.json").unlink()
    said = refused(moved, pairs, **given)
    assert said.count(", vocabulary ") == 2
    assert not (moved / "tokenizer.json").exists()


def test_an_image_that_cannot_be_read_later_is_named_and_nothing_else(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
    source = data.open_splits("folder", path=str(tmp_path), image_size=8, holdout=0.0)["train"]

    def build(*_, **__):
        source.gather(np.arange(2))

    monkeypatch.setattr(_prepare, "build", build)
    monkeypatch.setattr(_evaluate, "rebuild", build)
    c = run.from_config_dict({"method": "clip"})
    for task in (
        lambda: run.train(c, tmp_path / "run"),
        lambda: run.evaluate(tmp_path / "run", "knn"),
    ):
        with pytest.raises(ConfigError, match=r"config\.data: cannot read the image .*half\.png.*"):
            task()
        write_json(tmp_path / "run" / "config.json", dataclasses.asdict(c))


def test_a_run_keeps_its_words_when_the_file_that_they_came_from_is_gone(uninterrupted, tmp_path):
    workdir, _ = uninterrupted
    source = data.open_splits("embedded")["train"]
    gone = run.from_config_dict(
        {"method": "clip", "text": {"vocabulary": str(tmp_path / "gone.txt"), "context": 6}}
    )
    own = load_tokenizer(workdir / "tokenizer.json")
    assert language.make_tokenizer(gone, source, workdir).fingerprint == own.fingerprint
    with pytest.raises(ConfigError, match=r"config\.text\.vocabulary: .*gone\.txt"):
        language.make_tokenizer(gone, source, tmp_path)


def test_a_second_run_in_the_same_directory_is_refused_and_changes_nothing(uninterrupted, pairs):
    workdir, _ = uninterrupted
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with filelock.FileLock(workdir / ".lock"):
        said = refused(workdir, pairs)
    assert f"--workdir: another run is writing to {workdir}." in said
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_a_vocabulary_that_no_checkpoint_knows_is_made_anew(uninterrupted, tmp_path, pairs):
    """As after a kill before the first checkpoint, and then other settings."""
    source = data.open_splits("folder", path=str(pairs), captions="good.csv")["train"]
    workdir, _ = uninterrupted
    (tmp_path / "tokenizer.json").write_bytes((workdir / "tokenizer.json").read_bytes())
    small = run.from_config_dict({"method": "clip", "text": {"vocab_size": 30}})
    assert language.make_tokenizer(small, source, tmp_path).vocab_size <= 30
    assert language.make_tokenizer(small, source, workdir).vocab_size > 30


def test_paths_stay_true_from_another_directory(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for name in ("here.csv", "both.csv", "images/both.csv"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)

    def absolute(captions):
        given = {
            "method": "clip",
            "data": {"source": "folder", "path": "images", "captions": captions},
            "text": {"vocabulary": "vocab.txt"},
            "zero_shot": {"class_names": "names.txt"},
        }
        return with_absolute_paths(run.from_config_dict(given))

    c = absolute("here.csv")
    assert c.data.path == str(tmp_path / "images")
    assert c.text.vocabulary == str(tmp_path / "vocab.txt")
    assert c.zero_shot.class_names == str(tmp_path / "names.txt")
    assert c.data.captions == str(tmp_path / "here.csv")
    # The file below the images comes first, wherever the command is given.
    assert absolute("both.csv").data.captions == "both.csv"


@pytest.mark.parametrize(
    "name", [*(field.name for field in fields() if field.meaning.of_a_machine), "eval_on.more.path"]
)
def test_what_is_of_a_machine_may_differ_and_a_path_is_whole(tmp_path, monkeypatch, name):
    assert is_of_a_machine(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    config = put(put(run.Config(), "data.source", "folder"), "data.path", "images")
    if name.startswith("eval_on."):
        config = put(config, "eval_on", {"more": {"source": "folder", "path": "here"}})
        assert with_absolute_paths(config).eval_on["more"]["path"] == str(tmp_path / "here")
    elif isinstance(get(config, name), str):
        found = with_absolute_paths(put(config, name, "here"))
        assert get(found, name) == str(tmp_path / "here")
    else:
        assert get(with_absolute_paths(config), name) == get(config, name)


def test_the_words_of_a_run_are_part_of_what_it_is_known_by():
    source = data.open_splits("embedded")["test"]
    words = [train_tokenizer(["red cat"] * n, vocab_size=40) for n in (2, 3)]
    other = train_tokenizer(["red dog"] * 2, vocab_size=40)
    a, b, c = (describe({"train": source}, tokenizer) for tokenizer in (*words, other))
    assert a == b != c


def test_the_images_of_a_run_are_known_by_which_caption_is_whose():
    def described(*captions):
        source = data.open_splits("embedded")["test"].take(np.arange(2))
        of_two = dataclasses.replace(source, captions=data.Captions.of(captions))
        return describe({"train": of_two})

    first = described(["a", "b"], ["c"])
    assert first == described(["a", "b"], ["c"])
    assert re.match(r"2 of \[32, 32, 3\] in 8 classes, .*content \w{12}, captions ", first)
    assert first != described(["a"], ["b", "c"])


def test_other_captions_are_refused_when_a_run_goes_on(uninterrupted, pairs):
    workdir, _ = uninterrupted
    file = pairs / "captions.csv"
    before = file.read_text()
    try:
        file.write_text(before.replace("a red drawing 3,", "a pink drawing 3,"))
        said = refused(workdir, pairs, steps=STEPS + 1)
    finally:
        file.write_text(before)
    assert "trained on other images" in said
    assert len(set(re.findall(", captions ([0-9a-f]{12})", said))) == 2


def test_a_wrong_number_of_class_names_is_told_before_the_first_step(tmp_path, pairs):
    names, workdir = tmp_path / "names.txt", tmp_path / "run"
    names.write_text("red\ngreen\n")
    said = refused(workdir, pairs, zero_shot__class_names=names)
    assert f"config.zero_shot.class_names: {names} has 2 class names" in said
    assert "there are 3 classes" in said
    assert not workdir.exists()


def test_images_without_labels_cannot_be_captioned_by_prompts(tmp_path, pairs):
    said = refused(
        tmp_path / "run",
        pairs,
        data__captions="good.csv",
        data__on_error="raise",
        data__prompts="photos",
    )
    assert "config.data.prompts: 55 of 55 images have no label" in said


def test_a_missing_image_is_refused_with_file_and_line_and_nothing_is_written(tmp_path, pairs):
    workdir = tmp_path / "run"
    said = refused(workdir, pairs, data__on_error="raise")
    assert f"config.data.captions: {pairs / 'captions.csv'}, line 4: there is no image" in said
    assert "(and 2 more)" in said
    assert "config.data.on_error=skip" in said
    assert not workdir.exists()


# Pillow warns where we refuse.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_image_is_refused_by_its_header(tmp_path, pairs):
    (tmp_path / "huge.csv").write_text("path,caption\n0.png,a drawing\n6.png,a huge one\n")
    said = refused(
        tmp_path / "run",
        pairs,
        data__captions=tmp_path / "huge.csv",
        data__on_error="raise",
    )
    assert f"{tmp_path / 'huge.csv'}, line 3: " in said
    assert "12000 x 12000 pixels are more than" in said
    assert not (tmp_path / "run").exists()
