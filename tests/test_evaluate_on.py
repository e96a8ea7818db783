"""What a run is worth on other images: other classes, several settings, every class by itself."""

import json
import re
import shutil

import numpy as np
import pytest
from absl import flags
from PIL import Image

from dystress_jax import evaluation, microscope, run
from dystress_jax.commands import COMMANDS
from dystress_jax.commands import eval as eval_command
from dystress_jax.errors import ArgumentError
from dystress_jax.evaluation import features
from dystress_jax.files import FileError
from dystress_jax.run import evaluations, summary
from dystress_jax.run.fields import fields as all_fields
from dystress_jax.run.other_images import open_other
from dystress_jax.run.overrides import take_images
from tests import command_lines, runs

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("one_device")]
NAMES = ("x", "y", "z")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run whose images are gone, and other images with other classes, larger ones."""
    place = tmp_path_factory.mktemp("run")
    folder = runs.write_images(place / "images")
    runs.saved(runs.settings(folder), place / "run", steps=(1, 2))
    shutil.rmtree(folder)
    runs.write_images(place / "other", count=30, side=20, test=12, names=NAMES, seed=1)
    for path in sorted((place / "other" / "train" / "z").iterdir())[3:]:
        path.unlink()  # a small class
    return place


def settings(place):
    return run.read_config(place / "run")


def on(place, **fields):
    return {"source": "folder", "path": str(place / "other"), "holdout": 0.0, **fields}


def by_hand(place, k, temperature, workdir=None):
    """Weighted neighbours in float64, of the features that the encoder gives for the files."""
    encoder = run.load(workdir or place / "run")

    def of(split):
        files = sorted((place / "other" / split).rglob("*.png"))
        features = encoder(list(map(str, files))).astype(np.float64)
        labels = np.array([NAMES.index(path.parent.name) for path in files])
        return features / np.linalg.norm(features, axis=1, keepdims=True), labels

    (bank, known), (queries, labels) = of("train"), of("test")
    similar = queries @ bank.T
    nearest = np.argsort(-similar, axis=1)[:, :k]
    votes = np.zeros((len(queries), 3))
    for row, near in enumerate(nearest):
        np.add.at(votes[row], known[near], np.exp(similar[row, near] / temperature))
    return votes.argmax(axis=1), labels


def test_images_are_encoded_once_for_all_evaluations(place, monkeypatch):
    wanted = ["knn", "transfer", "few_shot", "few_labels", "linear_probe"]
    few = {"labels.shots": (1.0,), "labels.fractions": (0.5,)}
    few |= {"probe.features": "cached", "probe.epochs": 2}
    config = run.override(run.to_config_dict(settings(place)), few)
    alone = {
        name: run.evaluate(place / "run", name, config=config, on=on(place)) for name in wanted
    }
    read, batches = [], features.data.padded_batches

    def counted(source, **options):
        read.append(len(source))
        return batches(source, **options)

    monkeypatch.setattr(features.data, "padded_batches", counted)
    together = run.evaluate_all(place / "run", wanted, config=config, on=on(place))
    for name in wanted:
        assert together[name][1] == alone[name][1]
    # A setting that an evaluation does not read is none of its result's.
    assert together["knn"][1]["settings"] == {}
    assert set(together["linear_probe"][1]["settings"]) == {"probe.features", "probe.epochs"}
    assert together["transfer"][1]["settings"] == {}
    assert together["few_shot"][1]["settings"] == {"labels.shots": (1,)}
    # The training images and those of the test, none of them twice.
    assert sorted(read) == [12, 23]


def test_neighbours_among_other_images_are_those_by_hand(place):
    changed = run.override(run.to_config_dict(settings(place)), {"knn.k": (5, 2)})
    result, numbers = run.evaluate(place / "run", "knn", config=changed, on=on(place))
    for k, name in ((5, "top1"), (2, "top1_k2")):
        predicted, labels = by_hand(place, k, 0.1)
        assert result.value(name) == pytest.approx(np.mean(predicted == labels))
    predicted, labels = by_hand(place, 5, 0.1)
    counts = np.array(
        [[np.sum((labels == i) & (predicted == j)) for j in range(3)] for i in range(3)]
    )
    np.testing.assert_array_equal(result.confusion.counts, counts)
    shares = np.diagonal(counts) / counts.sum(axis=1)
    assert numbers["balanced_accuracy"] == pytest.approx(shares.mean())
    assert numbers["per_class_accuracy"] == dict(zip(NAMES, shares.tolist(), strict=True))
    assert numbers["on"] == on(place)
    assert numbers["protocol"]["bank_images"] == 23
    assert numbers["protocol"]["k"] == [5, 2]
    assert result.split == "test"
    [note] = numbers["notes"]
    assert note == (
        "k is 5, but the class “z” has only 3 training images, so it can be outvoted. Take k=3 or "
        "less to treat all classes alike."
    )


def test_several_evaluations_share_the_images(place):
    config = run.override(
        run.to_config_dict(settings(place)),
        {"probe.solver": "lbfgs", "probe.features": "cached", "probe.l2": (0.1,)},
    )
    found = run.evaluate_all(
        place / "run", ["knn", "linear_probe"], "best", config=config, on=on(place)
    )
    assert list(found) == ["knn", "linear_probe"]
    for result, numbers in found.values():
        assert numbers["checkpoint_step"] == 1
        assert numbers["protocol"]["classes"] == 3
        assert result.confusion.counts.sum() == 12


def test_without_test_images_held_out_ones_are_measured(place, tmp_path):
    shutil.copytree(place / "other" / "train", tmp_path / "flat")
    result, _ = run.evaluate(
        place / "run", "knn", on={"source": "folder", "path": str(tmp_path / "flat")}
    )
    assert result.split == "holdout"


def test_a_checkpoint_that_was_chosen_by_the_images_is_said_to_be(tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(runs.write_images(tmp_path / "both") / "train", folder)
    runs.saved(runs.settings(folder, **{"knn_every": 1, "data.holdout": 0.5}), tmp_path / "run")
    for checkpoint, said in (("newest", False), ("best", True)):
        result, numbers = run.evaluate(tmp_path / "run", "knn", checkpoint)
        assert result.split == "holdout"
        assert (
            any("was chosen by kNN on these" in note for note in numbers.get("notes", ())) == said
        )
    # Each result has the note once, and other images have chosen nothing.
    told = lambda numbers: sum("chosen by kNN" in note for note in numbers.get("notes", ()))
    every = run.evaluate_all(tmp_path / "run", ["knn", "baselines"], "best")
    assert [told(numbers) for _, numbers in every.values()] == [1, 1]
    other = {"source": "folder", "path": str(folder)}
    result, numbers = run.evaluate(tmp_path / "run", "knn", "best", on=other)
    assert (result.split, told(numbers)) == ("holdout", 0)


@pytest.fixture(scope="module")
def pairs(place, tmp_path_factory):
    """An image-text run with a file of names for its own two classes."""
    pairs = tmp_path_factory.mktemp("pairs")
    (pairs / "names.txt").write_text("crimson\nlime\n")
    folder = runs.write_images(pairs / "images")
    named = {"zero_shot.class_names": str(pairs / "names.txt")}
    runs.saved(runs.clip_settings(folder, **named), pairs / "run")
    return pairs


def test_names_of_the_runs_own_classes_are_not_those_of_other_images(place, pairs):
    config, workdir = settings(pairs), pairs / "run"
    result, _ = run.evaluate(workdir, "zero_shot", on=on(place))
    assert result.confusion.class_names == NAMES
    (pairs / "others.txt").write_text("a\nb\nc\n")
    change = {"zero_shot.class_names": str(pairs / "others.txt")}
    config = run.override(run.to_config_dict(config), change)
    result, _ = run.evaluate(workdir, "zero_shot", config=config, on=on(place))
    assert result.confusion.class_names == ("a", "b", "c")


def test_zero_shot_of_images_without_captions_names_their_classes(place, pairs):
    config, named = run.to_config_dict(settings(pairs)), "zero_shot.class_names"
    captions = run.override(config, {"zero_shot.classes": "captions", named: ""})
    with pytest.raises(
        run.ConfigError, match=r"without captions.*--config\.zero_shot\.classes=lab"
    ):
        run.evaluate(pairs / "run", "zero_shot", config=captions, on=on(place))
    labels = run.override(config, {"zero_shot.classes": "labels", named: ""})
    result, _ = run.evaluate(pairs / "run", "zero_shot", config=labels, on=on(place))
    assert result.confusion.class_names == NAMES
    with pytest.raises(run.ConfigError, match="without captions") as raised:
        run.evaluate(pairs / "run", "retrieval", on=on(place))
    assert "zero_shot" not in str(raised.value)


def test_files_are_grey_for_an_encoder_of_grey_images(place, tmp_path):
    config = runs.grey_settings(tmp_path / "grey.npz", **{"knn.k": 1})
    runs.saved(config, tmp_path / "run", steps=(1,))
    result, _ = run.evaluate(tmp_path / "run", "knn", on=on(place))
    predicted, labels = by_hand(place, 1, 0.1, workdir=tmp_path / "run")
    expected = evaluation.confusion(predicted, labels, NAMES)
    assert result.confusion == expected


def test_a_run_whose_images_are_gone_is_told_how_to_take_others(place):
    with pytest.raises(run.ConfigError, match=r"images.*: --on\.source and --on\.path\.$"):
        run.evaluate(place / "run", "knn")


def test_an_image_that_cannot_be_read_is_left_out_by_a_flag(place, tmp_path):
    shutil.copytree(place / "other", tmp_path / "other")
    (tmp_path / "other" / "test" / "x" / "0.png").write_bytes(b"no image")
    broken = on(place, path=str(tmp_path / "other"))
    with pytest.raises(run.ConfigError, match=r"^--on: .*0\.png.* --on\.on_error=skip") as raised:
        run.evaluate(place / "run", "knn", on=broken)
    assert "workdir" not in str(raised.value)
    result, _ = run.evaluate(place / "run", "knn", on={**broken, "on_error": "skip"})
    assert result.protocol["test_images"] == 11


@pytest.mark.parametrize("temperature", ["isogclr", "tempnet"])
def test_other_images_are_left_out_whatever_the_run_was_trained_with(temperature, tmp_path):
    """These have a number for each training image, so that none of those may be left out."""
    runs.write_images(tmp_path / "other", names=NAMES)
    (tmp_path / "other" / "test" / "x" / "0.png").write_bytes(b"no image")
    config = runs.settings(tmp_path / "own", **{"temperature.name": temperature})
    found = open_other(config, on(tmp_path, on_error="skip"), (12, 12, 3))
    assert {split: len(source) for split, source in found.items()} == {"train": 40, "test": 15}
    with pytest.raises(run.ConfigError, match=r"^--on\.caption_noise: found 0\.5 with"):
        open_other(config, on(tmp_path, caption_noise=0.5), (12, 12, 3))
    pairs = runs.clip_settings(tmp_path / "own")
    found = open_other(pairs, on(tmp_path, on_error="skip", prompts="a {}"), (12, 12, 3))
    assert found["train"].captions is not None


def test_a_result_says_where_its_images_are(place, monkeypatch):
    monkeypatch.chdir(place)
    _, numbers = run.evaluate(place / "run", "knn", on=on(place, path="other"))
    assert numbers["on"] == on(place)


def test_what_an_evaluation_lacks_keeps_none_of_the_others(place):
    config = run.override(run.to_config_dict(settings(place)), {"labels.shots": (50.0,)})
    came = {}
    with pytest.raises(run.ConfigError, match=r"config\.labels\.shots: found 50"):
        run.evaluate_all(
            place / "run",
            ["few_shot", "knn"],
            config=config,
            on=on(place),
            measured=lambda name, result, numbers: came.update({name: numbers["top1"]}),
        )
    assert came == {"knn": run.evaluate(place / "run", "knn", on=on(place))[1]["top1"]}
    with pytest.raises(run.ConfigError) as both:
        run.evaluate_all(place / "run", ["few_shot", "zero_shot"], config=config, on=on(place))
    assert re.search(r"labels\.shots: found 50.*\n.*which has no texts", str(both.value))
    with pytest.raises(run.ConfigError, match=r"--evaluation: found none; allowed: knn, "):
        run.evaluate_all(place / "run", [])


def test_a_share_of_the_labels_counts_or_is_refused(place):
    share = {"labels.share": 0.5, "labels.seeds": 2}
    config = run.override(run.to_config_dict(settings(place)), share)
    result, numbers = run.evaluate(place / "run", "few_labels", config=config, on=on(place))
    assert [row.name for row in result.rows] == ["50_percent_top1"]
    assert result.protocol["fractions"] == [0.5]
    assert numbers["settings"]["labels.share"] == 0.5
    for name in ("knn", "transfer", "few_shot", "zero_shot", "baselines"):
        with pytest.raises(
            run.ConfigError, match=rf"^--label_fraction .*--evaluation={name}, .*few_"
        ):
            run.evaluate_all(place / "run", ["few_labels", name], config=config, on=on(place))
    config = run.override(run.to_config_dict(settings(place)), {"labels.seeds": 2})
    with pytest.raises(run.ConfigError, match=r"^--seeds .*--evaluation=knn,baselines, .*few_shot"):
        run.evaluate_all(place / "run", ["knn", "baselines"], config=config, on=on(place))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 7, r"config\.steps: found 7, but .* trained with 3; allowed: settings of "),
        ("data.threads", 5, r"config\.data\.threads: found 5, but the run was trained"),
        ("loss.strategy", "tiled", r"config\.loss\.strategy: found 'tiled', but"),
        ("eval_on", {"x": {"path": "y"}}, r"config\.eval_on.* other images with --on"),
    ],
)
def test_a_setting_that_no_evaluation_reads_is_refused(place, field, value, message):
    config = run.override(run.to_config_dict(settings(place)), {field: value})
    with pytest.raises(run.ConfigError, match=message):
        run.evaluate(place / "run", "knn", config=config)


def test_a_setting_of_another_evaluation_is_told_and_not_in_the_result(place, capsys):
    config = run.override(run.to_config_dict(settings(place)), {"finetune.epochs": 3, "knn.k": 5})
    given = ["finetune.epochs", "knn.k"]
    how = {"config": config, "given": given, "on": on(place)}
    [(_, numbers)] = run.evaluate_all(place / "run", ["knn"], **how).values()
    assert numbers["settings"] == {"knn.k": 5}
    told = "config.finetune.epochs counts for nothing here: only finetune reads it"
    assert capsys.readouterr().out.splitlines().count(told) == 1


def test_each_evaluation_says_what_it_reads():
    assert evaluations.READS.keys() == evaluations.EVALUATIONS.keys()
    named = {field.name for field in all_fields()}
    holders = {*named, *(name.partition(".")[0] for name in named)}
    assert {read for reads in evaluations.READS.values() for read in reads} <= holders
    # Nothing of these groups is left over: some evaluation reads each field.
    for group in ("knn", "probe", "labels", "finetune", "zero_shot"):
        assert all(evaluations.readers(name) for name in named if name.startswith(f"{group}."))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "/nowhere"}, r"^--on\.path: .*nowhere"),
        ({"pth": "x"}, r"^--on\.pth: no such field.*--on\.path"),
        ({"image_size": -1}, r"^--on\.image_size: found -1; allowed: >= 0"),
    ],
)
def test_what_cannot_be_opened_is_told_in_the_names_of_the_flags(place, fields, message):
    with pytest.raises(run.ConfigError, match=message):
        run.evaluate(place / "run", "knn", on=on(place, **fields))


def test_images_without_labels_cannot_be_classified(place, tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((8, 12, 12, 3), np.uint8))
    source = {"source": "npz", "path": str(tmp_path / "x.npz")}
    with pytest.raises(
        run.ConfigError,
        match=r"^--on: found training images without labels.*; or labelled images of another "
        r"source, by --on\.source and --on\.path",
    ):
        run.evaluate(place / "run", "knn", on=source)


@pytest.mark.parametrize("labelled", ["train", "test"])
def test_where_labels_are_missing_the_way_on_is_told(place, tmp_path, labelled):
    arrays = {f"{split}_images": np.zeros((8, 12, 12, 3), np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "x.npz", **arrays, **{f"{labelled}_labels": np.arange(8) % 2})
    source = {"source": "npz", "path": str(tmp_path / "x.npz"), "holdout": 0}
    with pytest.raises(
        run.ConfigError,
        match=r"without labels; allowed: .*label.*; or --evaluation=representation, which needs "
        r"no labels; or labelled images of another source, by --on\.source and --on\.path",
    ):
        run.evaluate(place / "run", "knn", on=source)


def test_the_command_measures_and_keeps_the_confusion(place, capsys):
    before = set(flags.FLAGS)
    arguments = [
        "dystress eval",
        f"--workdir={place / 'run'}",
        "--evaluation=knn,few_shot",
        "--seeds=2",
        "--config.labels.shots=(2,)",
        "--config.knn.k=3,1",
        "--config.knn.temperature=0.1,0.5",
        *(f"--on.{name}={value}" for name, value in on(place).items()),
        "--nocompilation_cache",
    ]
    try:
        with pytest.raises(SystemExit) as ended:
            eval_command.main(arguments)
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "knn, test images, 3 classes of folder" in said.out
    assert "top1 k1 t0.5" in said.out
    assert re.search(r"^top1 +\d+\.\d % +balanced +\d+\.\d % +k 3$", said.out, re.MULTILINE)
    assert re.search(r"2 shot top1 +\d+\.\d % \(\d+\.\d\)", said.out)
    assert "by class (k 3, temperature 0.1): " in said.out
    assert "by class (seed 0): " in said.out
    [few] = (place / "run" / "eval").glob("few_shot*[!n].json")
    assert set(json.loads(few.read_text())["by_seed"]) == {"0", "1"}
    assert json.loads(few.read_text())["per_class_of"] == "seed 0"
    of_first = few.with_name(few.name.replace(".json", "_confusion.json"))
    assert json.loads(of_first.read_text())["of"] == "seed 0"
    [picture] = (place / "run" / "eval").glob("knn*_confusion.png")
    with Image.open(picture) as image:
        assert image.size[0] > 100
    counts = json.loads(picture.with_suffix(".json").read_text())
    assert counts["class_names"] == list(NAMES)
    assert np.sum(counts["counts"]) == 12
    numbers = json.loads(
        picture.with_name(picture.name.replace("_confusion.png", ".json")).read_text()
    )
    assert {"top1", "top1_k3_t0.5", "top1_k1_t0.1", "top1_k1_t0.5"} <= set(numbers)


def test_every_command_has_three_examples_that_its_help_shows():
    for name in COMMANDS:
        module = __import__(f"dystress_jax.commands.{name}", fromlist=["main"])
        assert len(re.findall(rf"^ *dystress {name}", module.__doc__, re.MULTILINE)) >= 3, name


def test_a_config_names_further_images_to_measure_on_while_training(place, tmp_path, capsys):
    folder = runs.write_images(tmp_path / "images")
    config = runs.settings(
        folder,
        steps=2,
        knn_every=2,
        eval_on={"shapes": on(place)},
        checkpoint_every=0,
        evaluation="retrieval",
    )
    numbers = run.train(config, tmp_path / "run")
    assert numbers["evaluations"]["knn on shapes"]["protocol"]["classes"] == 3
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(lines[-1])
    assert logged["knn_shapes"] == numbers["evaluations"]["knn on shapes"]["top1"]
    said = capsys.readouterr().out
    assert "knn on shapes, test images, 3 classes" in said
    # What was asked for and cannot be measured is told, what nobody has asked for is not.
    for name in ("retrieval", "retrieval on shapes"):
        assert (
            f"\n{name} is not measured: --evaluation: found a run with config.method simclr" in said
        )
    assert "zero_shot" not in said
    # The record of that step has what the held-out images say of the encoder.
    records = microscope.read(tmp_path / "run")
    measured = [n for n in logged if n.startswith(("knn", "features_", "embeddings_"))]
    assert {"knn_shapes", "features_effective_rank", "embeddings_alignment"} <= {*measured}
    assert records.steps.tolist() == [1, 2]
    for name in measured:
        np.testing.assert_allclose(records[name], [np.nan, logged[name]], rtol=1e-6)


def test_a_further_image_that_cannot_be_read_is_told_under_its_own_name(tmp_path):
    folder = runs.write_images(tmp_path / "images")
    other = runs.write_images(tmp_path / "other")
    further = {"shapes": {"source": "folder", "path": str(other), "image_size": 12}}
    config = runs.settings(folder, steps=2, knn_every=1, checkpoint_every=1, eval_on=further)
    next((other / "test").rglob("*.png")).write_bytes(b"no image")
    message = r"^config\.eval_on\.shapes: .*other/test/.*--config\.eval_on\.shapes\.on_error=skip"
    with pytest.raises(run.ConfigError, match=message):
        run.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "unreadable.json").exists()


def test_what_cannot_be_kept_is_told_and_the_others_are_measured(tmp_path, capsys):
    runs.saved(runs.settings(runs.write_images(tmp_path / "images")), tmp_path / "run")
    (tmp_path / "run" / "eval").write_text("in the way")
    given = [f"--workdir={tmp_path / 'run'}", "--evaluation=knn,representation"]
    refused = pytest.raises(FileError, match=r"(?s)eval.* cannot be written.*\n.*cannot be written")
    with command_lines.parsed("eval", *given) as (module, command), refused:
        module.evaluate(command)
    told = capsys.readouterr().out
    assert "knn, test images" in told
    assert "representation, test images" in told


def test_neighbours_are_among_as_many_images_as_a_flag_says(tmp_path):
    folder = runs.write_images(tmp_path / "images")
    config = runs.settings(folder, **{"knn.bank": 9})
    runs.saved(config, tmp_path / "run")
    for bank, name in ((9, "knn_knn.bank=9"), (8, "knn_knn.bank=8"), (None, "knn")):
        flag = [] if bank is None else [f"--config.knn.bank={bank}"]
        given = [f"--workdir={tmp_path / 'run'}", "--evaluation=knn", *flag]
        with command_lines.parsed("eval", *given) as (module, command):
            module.evaluate(command)
        found = json.loads((tmp_path / "run" / "eval" / f"{name}.json").read_text())
        assert found["protocol"]["bank_images"] == (bank or 36)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"shapes": "folder"}, r"config\.eval_on\.shapes: found 'folder'; allowed: a name"),
        ({"shapes": {"pth": "x"}}, r"config\.eval_on\.shapes\.pth: no such field"),
    ],
)
def test_further_images_that_are_none_are_refused(further, message):
    with pytest.raises(run.ConfigError, match=message):
        run.from_config_dict({"eval_on": further})


def test_flags_of_other_images_are_checked():
    given = ["eval", "--on.source", "folder", "--on.limit=3", "--options.a=(1,2)", "--x=1"]
    others, found = take_images(given)
    assert others == ["eval", "--x=1"]
    assert found == {"source": "folder", "limit": 3, "options": {"a": (1, 2)}}
    with pytest.raises(run.ConfigError, match=r"--on\.limit: found 'x'; allowed: a whole number"):
        take_images(["--on.limit=x"])
    with pytest.raises(
        run.ConfigError, match=r"--on\.lim: no such field\. Did you mean --on\.limit"
    ):
        take_images(["--on.lim=3"])
    for taken in (["--on.path", "--evaluation=knn"], ["--on.path"]):  # no flag is a value
        with pytest.raises(run.ConfigError, match=r"^--on\.path: found no value; .*--on\.path=VA"):
            take_images(["eval", "--on.source=folder", *taken])
    with pytest.raises(run.ConfigError, match=r"--on\.path: found 'x' without --on\.source"):
        take_images(["--path=x"])
    with pytest.raises(run.ConfigError, match=r"--on\.limit: found 5 without --on\.source"):
        take_images(["--on.limit=5"])
    with pytest.raises(run.ConfigError, match=r"config\.eval_on\.x\.name: .* without config\.eva"):
        open_other(run.from_config_dict({}), {"name": "emoji"}, (8, 8, 3), flag="config.eval_on.x")


def test_classes_of_equal_names_are_numbered():
    """So that none is lost where classes are found by their names, as in JSON."""
    names = ("crane", "dog", "crane", "crane (2)", "crane")
    found = evaluation.confusion(np.array([0, 1, 0, 3, 4]), np.arange(5), names)
    numbered = ("crane", "dog", "crane (3)", "crane (2)", "crane (4)")
    assert found.class_names == numbered
    assert found.by_class() == dict(zip(numbered, (1.0, 1.0, 0.0, 1.0, 1.0), strict=True))
    written = evaluation.Result((), {}, confusion=found).to_json()
    np.testing.assert_allclose(
        np.mean([*written["per_class_accuracy"].values()]), written["balanced_accuracy"]
    )


def test_confusion_of_classes_without_images():
    found = evaluation.confusion(np.array([1, 1, 0]), np.array([1, 0, 0]), ("a", "b", "c"))
    assert found.per_class() == [0.5, 1.0, None]
    assert found.balanced() == 0.75
    many = evaluation.confusion(np.arange(90), np.arange(90), tuple(map(str, range(90))))
    pixels = np.asarray(evaluation.confusion_picture(many))
    assert (np.diagonal(pixels) == 50).all()
    assert (pixels == 255).mean() > 0.98


def test_results_of_other_images_are_kept_apart(tmp_path):
    found = {"settings": {}, "checkpoint_step": 3, "on": {}}
    counts = evaluation.confusion(np.array([0]), np.array([0]), ("a",))
    own = summary.keep_result(tmp_path, "knn", "newest", found, counts)
    other = summary.keep_result(tmp_path, "knn", "newest", found | {"on": {"source": "npz"}})
    assert own != other
    # Paths of one name, and paths that only signs tell apart.
    paths = ("/a/photos", "/b/photos", "/a-b/photos", "/a/b-photos", "/a/b/photos")
    of = lambda path: found | {"on": {"source": "folder", "path": path}}
    files = [summary.keep_result(tmp_path, "knn", "newest", of(path)) for path in paths]
    assert len(set(files)) == len(paths)
    assert summary.keep_result(tmp_path, "knn", "newest", of(paths[0])) == files[0]
    assert files[0].name.startswith("knn_on.source=folder_on.path=photos-")
    later = summary.keep_result(tmp_path, "knn", "newest", found | {"checkpoint_step": 4}, counts)
    assert later == own
    assert (tmp_path / "knn_3.json").exists()
    assert (tmp_path / "knn_3_confusion.png").exists()


def test_a_confusion_stays_beside_its_own_result(tmp_path):
    """The run ends, is evaluated, goes on, ends, and is evaluated again."""

    def counts(*labels):
        known = np.array(labels)
        return evaluation.confusion(known, known, ("a", "b"))

    for step, found in ((100, counts(0, 1)), (200, counts(0, 0, 1))):
        summary.keep_confusions(tmp_path, {"knn": evaluation.Result((), {}, confusion=found)}, step)
        numbers = {"settings": {}, "checkpoint_step": step}
        summary.keep_result(tmp_path, "knn", "newest", numbers, found)
    read = lambda name: json.loads((tmp_path / name).read_text())
    assert [read(name)["checkpoint_step"] for name in ("knn_100.json", "knn.json")] == [100, 200]
    assert read("knn_100_confusion.json")["counts"] == [[1, 0], [0, 1]]
    assert read("knn_confusion.json")["counts"] == [[2, 0], [0, 1]]


def test_of_many_classes_no_pairs_are_counted():
    count = 1_001
    labels = np.repeat(np.arange(count), 2)
    predicted = np.where(np.arange(2 * count) == 1, 5, labels)
    names = tuple(map(str, range(count)))
    found = evaluation.confusion(predicted, labels, names)
    assert found.counts is None
    assert found.by_class() == {"0": 0.5, **dict.fromkeys(names[1:], 1.0)}
    assert found.balanced() == pytest.approx(1 - 0.5 / count)
    assert found == evaluation.confusion(predicted, labels, names)
    assert found != evaluation.confusion(labels, labels, names)
    with pytest.raises(ArgumentError, match=r"found none of 1,001 classes; allowed: at most 1,000"):
        evaluation.confusion_picture(found)
    fewer = evaluation.confusion(predicted[:2000], labels[:2000], names[:1000])
    assert fewer.counts.shape == (1000, 1000)


def test_a_result_of_many_classes_says_that_it_has_no_confusion(place, tmp_path):
    names = tuple(map(str, range(1_001)))
    labels = np.arange(1_001)

    def many(experiment, state):
        del experiment, state
        found = evaluation.confusion(labels, labels, names)
        return evaluation.Result((evaluation.Row("top1", 1.0),), {}, confusion=found)

    result, numbers = run.evaluate(place / "run", many, on=on(place))
    assert numbers["notes"] == ["no confusion matrix: the 1,001 classes are too many for one"]
    assert len(numbers["per_class_accuracy"]) == 1_001
    summary.keep_result(tmp_path, "many", "newest", numbers, result.confusion)
    summary.keep_confusions(tmp_path, {"many": result}, numbers["checkpoint_step"])
    [file] = tmp_path.iterdir()  # no confusion beside it
    assert file.name.startswith("many_on.source=folder")
    few, numbers = run.evaluate(place / "run", "knn", on=on(place))
    assert few.confusion.counts is not None
    assert "no confusion" not in " ".join(numbers.get("notes", []))
