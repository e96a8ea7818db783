"""What a run says: of its images, of what it does, and of what it will not do."""

import contextlib
import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from dystress_jax import data, run, weights
from dystress_jax.files import write_json
from dystress_jax.run import _prepare, _same_images, _workdir
from dystress_jax.run._build import make_schedule
from dystress_jax.run._same_images import check_same, describe
from dystress_jax.run.data import (
    lines_about,
    open_sources,
    own_image_in_queue,
    reporting_unreadable_images,
)
from dystress_jax.run.inputs import make_inputs
from dystress_jax.training import checkpoint
from tests import runs

pytestmark = pytest.mark.usefixtures("one_device")

SIZES = {"train": 3, "test": 2}


def images(count, side=(8, 8), labels=None, names=()):
    return data.from_arrays(np.zeros((count, *side, 3), np.uint8), labels, class_names=names)


def test_test_images_without_a_label_have_no_prompt(tmp_path):
    labels = {"train_labels": [0, 1, 1], "test_labels": [1, -1]}
    pixels = {f"{split}_images": np.zeros((n, 8, 8, 3), np.uint8) for split, n in SIZES.items()}
    np.savez(tmp_path / "a.npz", **labels, **pixels)
    path = {"source": "npz", "path": str(tmp_path / "a.npz"), "prompts": "a {}", "holdout": 0.0}
    config = run.from_config_dict({"method": "clip", "knn_every": 0, "data": path})
    sources = open_sources(config, data.SOURCES["npz"])
    assert [len(sources[split]) for split in SIZES] == [3, 1]
    assert sources["test"][0]["captions"] == ("a 1",)
    np.savez(tmp_path / "a.npz", train_labels=[0, -1, 1], **pixels)
    with pytest.raises(run.ConfigError, match=r"data\.prompts: 1 of 3 images have no label"):
        open_sources(config, data.SOURCES["npz"])


def test_images_labels_and_classes_are_counted():
    names = tuple("abcdefg")
    train = images(20, labels=np.where(np.arange(20) < 5, np.arange(20), -1), names=names)
    line, empty = lines_about(run.from_config_dict({}), {"train": train, "test": images(4)})
    assert line == (
        "images: 20 train (5 labelled), 4 test (0 labelled); 8 x 8 x 3; "
        "7 classes: a, b, c, d, e, ..."
    )
    assert empty == "2 of 7 classes have no training image"
    assert lines_about(run.from_config_dict({}), {"train": images(4)})[0].endswith("; no classes")


def test_images_that_are_no_squares_are_seen_with_their_shorter_side():
    config, train = run.from_config_dict({}), images(4, side=(16, 24))
    assert make_inputs(config, train).size == 16
    _, line = lines_about(config, {"train": train})
    assert "images of 16 x 24 are no squares: views have the shorter side, 16" in line
    sized = run.from_config_dict({"augment": {"size": 8}})
    assert len(lines_about(sized, {"train": train})) == 1
    assert make_inputs(sized, train).size == 8


def test_equal_captions_are_told_unless_they_name_the_class():
    source = images(5, labels=np.zeros(5, int), names=("a",))
    texts = (["a drawing"], ["a drawing", "a dog"], ["a cat"], ["a cat"], ["a cow"])
    source = dataclasses.replace(source, captions=data.Captions.of(texts))
    told = lambda source, method="clip", **d: lines_about(
        run.from_config_dict({"method": method, "data": d}), {"train": source}
    )[1:]
    [line] = told(source)
    assert line.startswith("captions: 4 distinct of 6. Two images with the same caption in a batch")
    [line] = told(dataclasses.replace(source, index=source.index[:3]))  # those that are trained on
    assert "3 distinct of 4" in line
    assert not told(source, prompts="a {}")
    assert not told(source, method="simclr")
    assert not told(dataclasses.replace(source, index=source.index[3:]))


def test_a_new_run_does_not_lie_among_its_images(tmp_path):
    for folder in ("flat/cats", "parts/train/cats", "parts/test/cats"):
        (tmp_path / folder).mkdir(parents=True)
    config = lambda path: run.from_config_dict(
        {"data": {"source": "folder", "path": str(tmp_path / path), "image_size": 8}}
    )
    for path, workdir in (
        *(("flat", place) for place in ("flat", "flat/runs/first", "flat/cats/x")),
        *(("parts", place) for place in ("parts/train", "parts/test/run")),
    ):
        with pytest.raises(run.ConfigError, match=r"--workdir: found .* lies among the images of"):
            _workdir.check_run(config(path), tmp_path / workdir)
    for path, workdir in (
        ("flat", "runs/flat"),
        ("flat", "flat/.runs/x"),
        ("parts", "parts/runs"),
        ("none", "none/run"),
    ):
        _workdir.check_run(config(path), tmp_path / workdir)


def test_more_shots_than_a_class_has_images_are_told_before_the_run(tmp_path):
    labels = np.repeat([0, 1, 2, -1], [6, 3, 9, 12])
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    of = {"train_images": images, "train_labels": labels, "test_images": images[:9]}
    np.savez(tmp_path / "few.npz", **of, test_labels=labels[:9])
    config = lambda *shots: run.from_config_dict(
        {
            "data": {"source": "npz", "path": str(tmp_path / "few.npz"), "holdout": 0.0},
            "labels": {"shots": shots},
            "evaluation": "few_shot",
            "knn_every": 0,
            "batch_size": 8,
            "steps": 1,
        }
    )
    with pytest.raises(
        run.ConfigError, match=r"config\.labels\.shots: found 4, but the smallest cl"
    ):
        _prepare.prepare(config(1, 4), tmp_path / "run", run.Own())
    assert not (tmp_path / "run").exists()
    assert _prepare.prepare(config(1, 3), tmp_path / "run", run.Own()).asked == {"few_shot"}


def test_a_run_that_has_ended_without_checkpoints_is_not_written_over(tmp_path):
    config = run.from_config_dict({"checkpoint_every": 0, "batch_size": 16})
    other = run.from_config_dict({"checkpoint_every": 0, "batch_size": 32})
    _workdir.check_run(config, tmp_path)
    write_json(tmp_path / "config.json", dataclasses.asdict(config))
    _workdir.check_run(other, tmp_path)  # nothing that took long is there
    write_json(tmp_path / "summary.json", {})
    longer = dataclasses.replace(config, epochs=config.epochs + 1)
    for same in (config, longer):  # to train it again would delete what it has measured
        with pytest.raises(run.ConfigError, match=r"kept no checkpoint, .* or delete .*summary\.j"):
            _workdir.check_run(same, tmp_path)
    said = r"holds a run with other settings: config\.batch_size: 16 -> 32"
    with pytest.raises(run.ConfigError, match=said):
        _workdir.check_run(other, tmp_path)


def test_a_directory_that_can_hold_no_checkpoint_is_refused_before_the_training(tmp_path):
    workdir = tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")
    with pytest.raises(run.ConfigError, match=r"--workdir: found '.*\\udce9', a name that is no U"):
        _workdir.check_run(run.from_config_dict({}), workdir)
    _workdir.check_run(run.from_config_dict({"checkpoint_every": 0}), workdir)
    _workdir.check_run(run.from_config_dict({}), tmp_path / "café")


@pytest.mark.parametrize(("queue", "count"), [(1024, 5000), (4096, 5000), (6000, 5000)])
def test_how_often_a_queue_holds_the_own_image(queue, count):
    """Counted over two epochs in random orders."""
    rng = np.random.default_rng(0)
    ages = [count - rng.permutation(count) + rng.permutation(count) for _ in range(20)]
    found = np.mean(np.concatenate(ages) <= queue)
    np.testing.assert_allclose(own_image_in_queue(queue, count), found, atol=0.01)


@pytest.mark.parametrize(
    ("method", "queue", "warned"),
    [
        ("moco_v2", 4096, True),
        ("moco_v2", 1024, False),
        ("nnclr", 4096, False),
    ],
)
def test_a_queue_that_is_not_small_beside_the_images_is_told(method, queue, warned):
    config = run.from_config_dict({"method": method, "moco": {"queue_size": queue}})
    lines = lines_about(config, {"train": images(5000)})
    said = "queue_size 4,096 is not small beside 5,000 training images: for 34% of the queries"
    assert any(said in line for line in lines) == warned
    assert len(lines) == 1 + warned


def test_a_warm_up_that_is_no_shorter_than_the_run_says_how_long_both_are():
    settings = {"batch_size": 2, "steps": 10, "optimizer": {"warmup_epochs": 10.0}}
    with pytest.raises(
        run.ConfigError,
        match=r"^config\.optimizer\.warmup_epochs: found 10, a warm-up of 20 steps, which leaves "
        r"none of the 10 in all; allowed: a shorter one\. Lower it, or raise config\.steps\.$",
    ):
        make_schedule(run.from_config_dict(settings), images(4))
    epochs = {"batch_size": 2, "epochs": 1, "optimizer": {"warmup_epochs": 1.0}}
    with pytest.raises(run.ConfigError, match=r"of 2 steps, .* or raise config\.epochs\.$"):
        make_schedule(run.from_config_dict(epochs), images(4))


def npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 255, (400, 4, 4, 3), np.uint8)}
    arrays |= {"train_labels": np.arange(400) % 3, "test_images": arrays["train_images"][:9]}
    np.savez(path, **{**arrays, **{name: change(arrays[name]) for name, change in changes.items()}})
    return data.open_splits("npz", path=str(path))


ROWS = np.arange(400)


def all_but_those_compared(images):
    some = set(data.subset(data.from_arrays(images), 64).index.tolist())
    images = images.copy()
    images[[row for row in range(len(images)) if row not in some]] ^= 255
    return images


@pytest.mark.parametrize(
    "change",
    [
        {"train_images": all_but_those_compared},
        {"train_labels": lambda labels: np.where(np.arange(400) == 7, 0, labels)},
    ],
)
def test_images_and_labels_that_were_replaced_are_noticed(tmp_path, monkeypatch, change):
    path = tmp_path / "x.npz"
    first = describe(npz(path))
    assert describe(npz(path)) == first
    monkeypatch.setattr(checkpoint, "newest_record", lambda directory: {"data": first})
    assert check_same(describe(npz(path)), tmp_path) == ""
    with pytest.raises(run.ConfigError, match=r"trained on other images: .* Compared are l"):
        check_same(describe(npz(path, **change)), tmp_path)


def test_other_test_images_are_told_and_accepted(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    first = describe(npz(path))
    monkeypatch.setattr(checkpoint, "newest_record", lambda directory: {"data": first})
    said = check_same(describe(npz(path, test_images=lambda images: images[:5])), tmp_path)
    assert said.startswith(
        "warning: the test images, or their labels, are others than before: 9 of [4"
    )
    only_train = data.open_splits("npz", path=str(path))
    del only_train["test"]
    assert "none now" in check_same(describe(only_train), tmp_path)
    before = first.partition("; test: ")[0]  # of a run that remembers no test images
    monkeypatch.setattr(checkpoint, "newest_record", lambda directory: {"data": before})
    assert check_same(first, tmp_path) == ""


def test_other_labels_of_held_out_images_are_told(tmp_path, monkeypatch):
    """They choose the best checkpoint: kNN before and after is of two tasks."""
    path = tmp_path / "x.npz"
    sources = npz(path)
    first, held_out = describe(sources), sources["holdout"].index
    monkeypatch.setattr(checkpoint, "newest_record", lambda directory: {"data": first})
    swapped = {"train_labels": lambda labels: np.where(np.isin(ROWS, held_out), 0, labels)}
    said = check_same(describe(npz(path, **swapped)), tmp_path)
    assert said.startswith("warning: the held-out images, or their labels, are others than before")
    without = first.partition("; holdout: ")[0]  # as an earlier version remembers
    monkeypatch.setattr(checkpoint, "newest_record", lambda directory: {"data": without})
    assert check_same(first, tmp_path) == ""


def test_files_of_another_size_are_noticed_and_a_copy_is_the_same(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (100, 8, 8, 3), np.uint8)
    for copy in ("a", "b"):
        for row, image in enumerate(images):
            path = tmp_path / copy / f"{row:03}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
    described = lambda copy: describe(data.open_splits("folder", path=str(tmp_path / copy)))
    assert described("a") == described("b")
    before, splits = described("b"), data.open_splits("folder", path=str(tmp_path / "b"))
    compared = data.subset(splits["train"], 64).index
    [changed, *_] = np.setdiff1d(splits["train"].index, compared)
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / f"{changed:03}.png")
    assert described("b") != before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has ended: its settings, its directory, and what it has said."""
    place, said = tmp_path_factory.mktemp("trained"), io.StringIO()
    config = runs.settings(runs.write_images(place / "images"), steps=4)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        run.train(config, place / "run")
    return config, place / "run", said.getvalue()


@pytest.mark.ci
def test_a_run_says_that_it_compiles_and_what_it_measures(trained):
    _, _, said = trained
    compiling = said.index("compiling the step (once; up to a minute); until it is done, Ctrl-C")
    assert said.index("steps of 16") < compiling < said.index("measuring knn")
    assert "measuring baselines" in said


@pytest.mark.ci
@pytest.mark.parametrize("length", [{"steps": 3}, {"steps": 0, "epochs": 1}])
def test_a_run_does_not_become_shorter_than_it_is(trained, length):
    config, workdir, _ = trained
    before = (workdir / "config.json").read_text()
    [(field, value)] = [item for item in length.items() if item[1]]
    with pytest.raises(
        run.ConfigError, match=rf"^config\.{field}: found {value}, a run of .* 4; all"
    ):
        run.train(run.override(run.to_config_dict(config), length), workdir)
    assert (workdir / "config.json").read_text() == before


@pytest.mark.ci
def test_what_a_run_ends_with_can_be_left_out(trained):
    config, workdir, _ = trained
    without = lambda name: run.override(run.to_config_dict(config), {"evaluation": f"-{name}"})
    run.train(without("baselines"), workdir)
    assert list(json.loads((workdir / "summary.json").read_text())["evaluations"]) == ["knn"]
    with pytest.raises(
        run.ConfigError, match=r"found '-baseline'; allowed: - before .*, baselines"
    ):
        run.train(without("baseline"), workdir)


@pytest.mark.ci
def test_an_image_that_cannot_be_read_is_answered_by_what_was_saved(trained, tmp_path):
    config, workdir, _ = trained

    def broken(config, workdir):
        with reporting_unreadable_images(config, workdir):
            raise data.UnreadableError("1.png: no image")

    with pytest.raises(
        run.ConfigError,
        match=r"^config\.data: 1\.png: no image\. Nothing was saved before: replace the image, and "
        r"give the same command; or add to it --config\.data\.on_error=skip, which",
    ):
        broken(config, tmp_path)
    with pytest.raises(
        run.ConfigError, match=r"goes on; or start in a new --workdir with --config"
    ):
        broken(config, workdir)


@pytest.mark.ci
def test_a_run_goes_on_once_an_image_that_it_has_stopped_at_is_mended(
    tmp_path, monkeypatch, capsys
):
    """The file has another size then. Other images are refused all the same."""
    folder, workdir = runs.write_images(tmp_path / "images"), tmp_path / "run"
    changes = {"data.image_size": 12, "checkpoint_every": 1, "knn_every": 0}
    config = runs.settings(folder, evaluation="knn", **changes)
    monkeypatch.setattr(_same_images, "IMAGES_COMPARED", 2)  # it is met while training
    opened = data.open_splits(
        "folder", path=str(folder), image_size=12, holdout=config.data.holdout
    )
    train, compared = opened["train"], data.subset(opened["train"], 2).index
    read = iter(data.batches(train, batch_size=16, seed=config.seed))
    first, second = (next(read)["index"] for _ in range(2))
    row = next(row for row in second if row not in {*first, *compared})
    broken = pathlib.Path(train.paths[row])
    good = broken.read_bytes()
    broken.write_bytes(good[:60])
    with pytest.raises(run.ConfigError, match=f"{broken.name}.*replace the image, and the same"):
        run.train(config, workdir)
    assert checkpoint.steps(workdir / "checkpoints") == [1]

    broken.write_bytes(good)
    looked_at = pathlib.Path(train.paths[compared[0]])
    before = looked_at.read_bytes()
    looked_at.write_bytes(good)
    with pytest.raises(run.ConfigError, match="trained on other images"):
        run.train(config, workdir)
    looked_at.write_bytes(before)

    capsys.readouterr()
    run.train(config, workdir)
    assert "other sizes since an image could not be read" in capsys.readouterr().out
    assert checkpoint.steps(workdir / "checkpoints")[-1] == 3
    # What it remembers now are the mended files: every size counts again.
    broken.write_bytes(good + b" ")
    with pytest.raises(run.ConfigError, match="trained on other images"):
        run.train(config, workdir)


def test_weights_that_are_not_there_are_told_before_the_images_are_opened(tmp_path):
    config = runs.settings(tmp_path / "nowhere", init_from=str(tmp_path / "none.pth"))
    with pytest.raises(weights.WeightsError, match=r"none\.pth: cannot be read"):
        run.train(config, tmp_path / "run")
