"""Every kind of data set through the one interface, and what each refuses."""

import functools
import inspect
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageOps

from dystress_jax import data
from dystress_jax.data import _decoding, from_arrays, from_reader, split_holdout
from dystress_jax.data._images import look, read_image, read_whole_image
from dystress_jax.errors import ArgumentError
from tools import make_patches

ROOT = pathlib.Path(__file__).parent.parent
EMBEDDED = ROOT / "dystress_jax" / "data" / "embedded"
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)
TEST = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = np.sort(np.arange(20) % 2)  # folders are read class by class
TEST_LABELS = np.sort(np.arange(6) % 2)
NAMES = ("cat", "dog")


def png(image):
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root, images, labels=None):
    """One file an image, in a folder a class if there are labels."""
    for i, image in enumerate(images):
        folder = root if labels is None else root / NAMES[labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(png(image))
    return root


def prepare_tfds(data_set, directory, *, image=None, label=True, splits=None):
    """Write a tfds data set in array_record by a builder; returns its folder."""
    feature = image or tfds.features.Image(shape=(8, 8, 3))
    names = tfds.features.ClassLabel(names=NAMES) if label is True else label
    content = splits or {"train": (TRAIN, LABELS), "test": (TEST, TEST_LABELS)}

    # Not registered: what reads it later has only the files.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = data_set
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": feature} | ({"label": names} if label else {})
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # to know what is at which row
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(*rows) for split, rows in content.items()}

        def _generate_examples(self, images, labels):
            for i, (picture, number) in enumerate(zip(images, labels, strict=True)):
                encoded = picture
                if isinstance(feature, tfds.features.Image):
                    encoded = io.BytesIO(picture) if isinstance(picture, bytes) else png(picture)
                yield i, {"image": encoded} | ({"label": number} if label else {})

    builder = Builder(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


@pytest.fixture(scope="session")
def tfds_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    prepare_tfds("two_kinds", directory)
    return directory


def open_kind(kind, tmp_path, tfds_directory, **options):
    """The same 20 + 6 images from any kind of data set."""
    if kind == "tfds":
        return data.open_splits("tfds", name="two_kinds", path=str(tfds_directory), **options)
    if kind == "folder":
        write_folder(tmp_path / "train", TRAIN, LABELS)
        write_folder(tmp_path / "test", TEST, TEST_LABELS)
        return data.open_splits("folder", path=str(tmp_path), **options)
    path = tmp_path / "data.npz"
    np.savez(
        path,
        train_images=TRAIN,
        train_labels=LABELS,
        test_images=TEST,
        test_labels=TEST_LABELS,
        class_names=NAMES,
    )
    return data.open_splits("npz", path=str(path), **options)


@pytest.mark.parametrize("kind", ["tfds", "folder", "npz"])
def test_every_kind_gives_the_same_examples(kind, tmp_path, tfds_directory):
    splits = open_kind(kind, tmp_path, tfds_directory, holdout=0)
    assert list(splits) == ["train", "test"]
    for split, images, labels in (("train", TRAIN, LABELS), ("test", TEST, TEST_LABELS)):
        source = splits[split]
        assert len(source) == len(images)
        assert source.image_shape == (8, 8, 3)
        assert source.class_names == NAMES
        assert source.num_classes == 2
        assert source.num_stored == len(images)
        assert source.captions is None
        np.testing.assert_array_equal(source.labels(), labels)
        for i, example in enumerate(source):
            np.testing.assert_array_equal(example["image"], images[i])
            assert example["image"].dtype == np.uint8
            assert (example["label"], example["index"]) == (labels[i], i)
            assert example["label"].dtype == example["index"].dtype == np.int32
        rows = np.array([3, 0, 3, 5])
        batch = source.gather(rows)
        np.testing.assert_array_equal(batch["image"], images[rows])
        np.testing.assert_array_equal(batch["label"], labels[rows])
        np.testing.assert_array_equal(batch["index"], rows)
        np.testing.assert_array_equal(source[-1]["image"], images[-1])
        with pytest.raises(IndexError, match=f"example {len(images)} of a source with"):
            source[len(images)]


@pytest.mark.parametrize("kind", ["tfds", "folder"])
@pytest.mark.parametrize("shape", [(6, 6, 1), (4, 6, 1)])
def test_files_may_be_grey_and_arrays_may_not(kind, shape, tmp_path, tfds_directory):
    size = 6 if shape[0] == shape[1] else 0
    splits = open_kind(kind, tmp_path, tfds_directory, holdout=0, image_size=size)
    train = data.resized(splits["train"], shape)
    files = tmp_path / "as_files"
    files.mkdir()
    for i, image in enumerate(TRAIN):
        (files / f"{i:02}.png").write_bytes(png(image))
    expected = data.as_images(sorted(map(str, files.iterdir())), shape)
    found = train.gather(np.arange(len(TRAIN)), whole=False)
    np.testing.assert_array_equal(found["image"], expected)
    np.testing.assert_array_equal(found["label"], LABELS)
    assert train.image_shape == shape
    if size:  # whole pictures too
        whole, rgb = (s.gather(np.arange(3), whole=True) for s in (train, splits["train"]))
        assert whole["image"].shape == (3, 9, 9, 1)
        np.testing.assert_array_equal(whole["extent"], rgb["extent"])
        gray = Image.fromarray(rgb["image"][2]).convert("L")
        np.testing.assert_array_equal(whole["image"][2, ..., 0], np.asarray(gray))
    arrays = open_kind("npz", tmp_path, tfds_directory, holdout=0)["train"]
    with pytest.raises(ArgumentError, match=r"images: found 3 channels in images .*; allowed: 1"):
        data.resized(arrays, shape)


@pytest.mark.parametrize("kind", ["tfds", "folder", "npz"])
def test_every_kind_holds_out_the_same_images_and_resizes(kind, tmp_path, tfds_directory):
    splits = open_kind(kind, tmp_path, tfds_directory, holdout=0.25, image_size=4)
    sizes = [(split, len(source)) for split, source in splits.items()]
    assert sizes == [("train", 15), ("holdout", 5), ("test", 6)]
    index = np.concatenate([splits[s].index for s in ("train", "holdout")])
    assert sorted(index) == list(range(20))
    assert splits["holdout"].index.tolist() == [1, 8, 10, 18, 19]  # the same for ever
    assert splits["train"].num_stored == splits["holdout"].num_stored == 20
    reference = Image.fromarray(TRAIN[8]).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(splits["holdout"][1]["image"], reference)
    assert splits["test"].gather(np.arange(6))["image"].shape == (6, 4, 4, 3)


def test_subset_is_spread_evenly():
    source = from_arrays(TRAIN, LABELS, class_names=NAMES)
    assert data.subset(source, 4).index.tolist() == [0, 5, 10, 15]
    assert data.subset(source, 0) is source
    assert data.subset(source, 20) is source


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("zip", {}, "^source: found 'zip'; allowed: embedded, tfds, folder, npz"),
        ("embedded", {"image_size": -1}, "^image_size: found -1; allowed: 0 or more pixels"),
        ("embedded", {"holdout": 1.0}, "^holdout: found 1.0; allowed: a share .*, from 0, below 1"),
        ("embedded", {"holdout": 0.9999}, "^holdout: found 0.9999 .* leaves none to train on"),
        ("folder", {"path": "/no/such"}, "^path: there is no folder '/no/such'"),
        ("folder", {"path": ""}, "^path: there is no folder ''"),
        ("folder", {}, "^path: found none, but `source` folder needs it"),
        ("npz", {"path": "/no/such.npz"}, "^path: there is no file '/no/such.npz'"),
        ("npz", {"path": "."}, "^path: . is a folder; allowed: a file, or the source folder"),
        ("npz", {"path": "/no", "image_size": -2}, "^image_size: found -2"),
        ("tfds", {}, "^name: found '' without `path`; allowed: a name of tensorflow-datasets"),
    ],
)
def test_bad_settings_are_refused(kind, options, message):
    with pytest.raises(ArgumentError, match=message) as raised:
        data.open_splits(kind, **options)
    # The layer above knows these names, and puts its own in their place.
    own = set(inspect.signature(data.open_splits).parameters)
    known = own.union(*(inspect.signature(opener).parameters for opener in data.SOURCES.values()))
    error = raised.value
    assert {error.argument, *re.findall("`(.*?)`", error.text)} <= known


@pytest.mark.parametrize("kind", data.SOURCES)
def test_a_source_names_its_arguments(kind):
    parameters = inspect.signature(data.SOURCES[kind]).parameters
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert (defaults["image_size"], defaults["holdout"]) == (0, 0.1)
    assert defaults.get("captions", "") == ""
    assert defaults.get("on_error", "raise") == "raise"


def test_what_is_heavy_is_imported_when_it_is_used():
    code = (
        "import sys; from dystress_jax import data; data.open_splits('embedded'); "
        "print({'tensorflow_datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"


# Your own


def test_the_own_source_of_the_guide_works_and_is_short(tmp_path, monkeypatch):
    guide = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## A source of your own.*?```python\n(.*?)```", guide, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 32, 32, 3), np.uint8)
    for split, rows in (("train", range(8)), ("test", range(8, 10))):
        (tmp_path / "images" / split).mkdir(parents=True)
        for row in rows:
            np.save(tmp_path / "images" / split / f"{NAMES[row % 2]}_{row}.npy", images[row])
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    splits = found["splits"]
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 6,
        "holdout": 2,
        "test": 2,
    }
    assert splits["train"].class_names == NAMES
    assert [NAMES[example["label"]] for example in splits["test"]] == ["cat", "dog"]
    np.testing.assert_array_equal(splits["test"].gather(np.arange(2))["image"], images[8:])


def of_arrays(*, count=20, **test):
    source = from_arrays(TRAIN[:count], LABELS[:count], class_names=NAMES)
    return split_holdout(source, 0.25) | test


def test_a_function_is_a_source():
    assert len(data.open_splits(of_arrays)["train"]) == 15
    test = from_arrays(TEST)
    splits = data.open_splits(of_arrays, count=16, limit=4, imbalance_ratio=0.5, test=test)
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 4,
        "holdout": 4,
        "test": 6,
    }
    assert splits["test"] is test
    by_partial = data.open_splits(functools.partial(of_arrays, count=8))
    assert len(by_partial["train"]) == 6


def needs_a_path(*, path, count=1):
    raise AssertionError("called without its path")


TALL_SOURCE = from_arrays(TEST[:, :, :4], np.zeros(6, int), class_names=NAMES)
OTHER_CLASSES = from_arrays(TEST, TEST_LABELS, class_names=("dog", "cat"))


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (needs_a_path, {}, "^path: found none, but `source` needs_a_path needs it.$"),
        (
            needs_a_path,
            {"path": "x", "image_size": 3},
            "^image_size: found 3, but `source` needs_a_path takes no such argument; allowed: "
            "`path`, `count`.$",
        ),
        (lambda: [from_arrays(TRAIN)], {}, "^source: <lambda> returns list; allowed: a dict with"),
        (lambda: {"test": from_arrays(TEST)}, {}, "^source: .* returns nothing for 'train'; allow"),
        (lambda: {"train": TRAIN}, {}, "^source: <lambda> returns ndarray for 'train'; allowed"),
        (
            lambda: {"train": from_arrays(TRAIN), "val": from_arrays(TEST)},
            {},
            "^source: <lambda> returns Source for 'val'; allowed: .* train, .* holdout and test",
        ),
        (
            of_arrays,
            {"test": TALL_SOURCE},
            r"^source: of_arrays returns images \[8, 8, 3\] in train, \[8, 4, 3\] in test; allowed",
        ),
        (of_arrays, {"test": OTHER_CLASSES}, "^source: .* other class names in test than in train"),
    ],
)
def test_functions_that_are_no_sources(source, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        data.open_splits(source, **arguments)


@pytest.mark.parametrize(
    ("labels", "captions", "message"),
    [
        ([0, 2, 1], None, "^labels: found 2 with 2 `class_names`; allowed: -1"),
        ([0, -2, 1], None, "^labels: found -2 with 2 `class_names`"),
        ([0, 1], None, r"^labels: found int64 \[2\]; allowed: one integer an image, \[3\]"),
        ([0, 1, 1, 0], None, r"^labels: found int64 \[4\]"),
        ([0.0, 1.0, 1.0], None, r"^labels: found float64 \[3\]"),
        (None, ["a", "b"], "^captions: found those of 2 images; allowed: of all 3 images"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(labels, captions, message):
    options = {
        "labels": None if labels is None else np.array(labels),
        "captions": None if captions is None else data.Captions.of([text] for text in captions),
        "class_names": NAMES,
    }
    with pytest.raises(ArgumentError, match=message):
        from_arrays(TRAIN[:3], **options)
    with pytest.raises(ArgumentError, match=message):
        from_reader(lambda row: (TRAIN[row], -1), length=3, image_shape=(8, 8, 3), **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (TRAIN[0, :1, :1], r"^read_one: image 1 is uint8 \[1, 1, 3\]; allowed: uint8 \[8, 8, 3\]"),
        (TRAIN[0] / 255, r"^read_one: image 1 is float64 \[8, 8, 3\]; allowed"),
        (TRAIN[0].tolist(), r"^read_one: image 1 is int64 \[8, 8, 3\]; allowed"),
    ],
)
def test_an_image_of_another_kind_is_refused_when_it_is_read(image, message):
    source = from_reader(lambda row: (image, -1), length=3, image_shape=(8, 8, 3))
    with pytest.raises(ArgumentError, match=message):
        source.gather(np.array([1]))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((TRAIN[0], 2), r"^read_one: image 1 has the label 2 with 2 `class_names`; allowed: -1"),
        ((TRAIN[0], -2), "^read_one: image 1 has the label -2"),
        ((TRAIN[0], "cat"), "^read_one: image 1 has the label 'cat'"),
        (TRAIN[0], "^read_one: of image 1 it returns ndarray; allowed: a tuple, the image and its"),
        ((TRAIN[0], 0, 0), "^read_one: of image 1 it returns tuple"),
    ],
)
def test_what_is_no_class_is_refused_when_it_is_read(returned, message):
    source = from_reader(
        lambda row: returned, length=3, image_shape=(8, 8, 3), class_names=("a", "b")
    )
    with pytest.raises(ArgumentError, match=message):
        source.gather(np.array([1]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            TRAIN / 255,
            r"^images: found float64 \[20, 8, 8, 3\]; allowed: uint8 .*\(255 \* images\)",
        ),
        (TRAIN[..., 0], r"^images: found uint8 \[20, 8, 8\]; allowed: .*images\[\.\.\., None\]"),
        (
            TRAIN.transpose(0, 3, 1, 2),
            r"^images: found uint8 \[20, 3, 8, 8\]; .*Channels come last",
        ),
        (np.concatenate([TRAIN, TRAIN[..., :1]], -1), r"^images: found uint8 \[20, 8, 8, 4\]"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images, message):
    with pytest.raises(ArgumentError, match=message):
        from_arrays(images)


def test_lists_are_taken_for_arrays_and_names():
    """So that splits with a list and with a tuple of names have the same classes."""
    images, labels = TRAIN[:3], [0, -1, 1]
    options = {"labels": labels, "class_names": ["a", "b"]}
    read = from_reader(lambda row: (images[row], -1), length=3, image_shape=(8, 8, 3), **options)
    for source in (from_arrays(images, **options), read):
        assert source.class_names == ("a", "b")
        assert source.labels().tolist() == labels
        assert source.image_shape == (8, 8, 3)
    same = {"train": read, "test": from_arrays(images, labels, class_names=("a", "b"))}
    assert set(data.open_splits(lambda: same)) == {"train", "test"}
    with pytest.raises(
        ArgumentError, match=r"^image_shape: found \[8, 8, 4\]; allowed: height, wi"
    ):
        from_reader(lambda row: (images[row], -1), length=3, image_shape=(8, 8, 4))
    with pytest.raises(ArgumentError, match=r"^class_names: found 'ab'; allowed"):
        from_arrays(images, labels, class_names="ab")


def test_an_image_that_its_reader_cannot_read_is_named():
    def read_one(row):
        raise OSError(f"disk {row} is gone")

    source = from_reader(read_one, length=3, image_shape=(8, 8, 3))
    with pytest.raises(data.UnreadableError, match=r"^disk 2 is gone$"):
        source[2]


# Holdout


def test_holdout_keeps_groups_together():
    source = from_arrays(TRAIN)
    groups = np.arange(20) // 4
    splits = split_holdout(source, 0.4, groups=groups)
    held = set(groups[splits["holdout"].index])
    assert len(held) == 2
    assert held.isdisjoint(groups[splits["train"].index])
    assert len(splits["holdout"]) == 8


def test_a_tenth_is_held_out_and_is_the_same_in_every_version():
    assert split_holdout(from_arrays(TRAIN))["holdout"].index.tolist() == [1, 18]
    assert split_holdout(from_arrays(TRAIN), 0.2)["holdout"].index.tolist() == [1, 8, 18, 19]


def test_a_small_share_still_holds_out_one():
    assert len(split_holdout(from_arrays(TRAIN), 0.001)["holdout"]) == 1


# Embedded


def test_embedded_has_the_sizes_it_says():
    splits = data.open_splits("embedded")
    assert {split: len(source) for split, source in splits.items()} == {
        "train": 2814,
        "holdout": 312,
        "test": 1563,
    }
    assert splits["train"].num_classes == 8
    for source in splits.values():
        batch = source.gather(np.arange(len(source)))
        assert batch["image"].shape[1:] == source.image_shape == (32, 32, 3)
        assert set(batch["label"]) == set(range(8))
    resized = data.open_splits("embedded", image_size=16)["test"]
    assert resized[0]["image"].shape == resized.image_shape == (16, 16, 3)


def test_both_drawings_of_a_concept_are_on_one_side_of_the_holdout():
    splits = data.open_splits("embedded")
    held = splits["holdout"].index
    assert np.array_equal(held[:156] + 1563, held[156:])
    assert not set(held % 1563) & set(splits["train"].index % 1563)


def test_no_drawing_is_there_twice():
    splits = data.open_splits("embedded", holdout=0)
    drawings = splits["train"].gather(np.arange(3126))["image"]
    assert len(np.unique(drawings.reshape(3126, -1), axis=0)) == 3126


def test_drawings_words_and_labels_belong_together():
    concepts = json.loads((EMBEDDED / "concepts.json").read_text(encoding="utf-8"))
    captions = concepts["captions"]
    assert len(captions) == len(set(captions)) == len(concepts["labels"]) == 1563
    splits = data.open_splits("embedded", holdout=0)
    expected = {  # what three pixels in the middle look like, and the category
        "red circle": (lambda r, g, b: r > 1.5 * g and r > 1.5 * b, "Symbols"),
        "blue circle": (lambda r, g, b: b > g > r, "Symbols"),
        "green apple": (lambda r, g, b: g > r and g > 1.5 * b, "Food & Drink"),
        "tangerine": (lambda r, g, b: r > 1.2 * g > 1.2 * b, "Food & Drink"),
        "black heart": (lambda r, g, b: max(r, g, b) < 90, "Smileys & Emotion"),
        "pig nose": (lambda r, g, b: r > 1.2 * g and b > 0.5 * r, "Animals & Nature"),
    }
    for caption, (looks_right, category) in expected.items():
        row = captions.index(caption)
        for source, at in (
            (splits["train"], row),
            (splits["train"], row + 1563),
            (splits["test"], row),
        ):
            example = source[at]
            middle = example["image"][16:19, 14:18].astype(float).mean((0, 1))
            assert looks_right(*middle), (caption, at, middle)
            assert source.class_names[example["label"]] == category


def test_embedded_patches_have_the_sizes_they_say():
    splits = data.open_splits("embedded", name="patches")
    assert {split: len(source) for split, source in splits.items()} == {
        "train": 2188,
        "holdout": 214,
        "test": 1051,
    }
    for source in splits.values():
        assert source.num_classes == len(set(source.labels())) == 11
        assert source.captions is None
        assert source[0]["image"].shape == source.image_shape == (32, 32, 1)
    resized = data.open_splits("embedded", name="patches", image_size=16)["test"]
    assert resized[0]["image"].shape == resized.image_shape == (16, 16, 1)


def test_every_grey_value_is_as_frequent_in_a_patch_as_any_other():
    for source in data.open_splits("embedded", name="patches").values():
        images = source.gather(np.arange(len(source)))["image"].reshape(len(source), -1)
        np.testing.assert_array_equal(
            np.sort(images, axis=1), np.tile(np.repeat(17 * np.arange(16), 64), (len(source), 1))
        )
        assert len(np.unique(images, axis=0)) == len(source)


def test_no_block_of_a_photograph_is_on_both_sides_of_the_holdout():
    about = json.loads((EMBEDDED / "patches.json").read_text(encoding="utf-8"))
    block = list(zip(about["train_labels"], about["train_blocks"], strict=True))
    splits = data.open_splits("embedded", name="patches")
    held, kept = ({block[row] for row in splits[s].index} for s in ("holdout", "train"))
    assert held.isdisjoint(kept)
    for label in range(11):
        of_class = [block for block in held | kept if block[0] == label]
        assert len(held.intersection(of_class)) == max(1, round(0.1 * len(of_class)))


def test_no_pixel_is_in_a_patch_for_training_and_in_one_for_testing():
    pixels = np.arange(200 * 330).reshape(200, 330)  # each has a value of its own
    found = make_patches.patches(pixels, label=0)
    train, test = (
        set(np.concatenate([p.grey.ravel() for p in found[s]])) for s in ("train", "test")
    )
    assert len(train) > len(test) > 1000
    assert train.isdisjoint(test)
    for patch in found["train"]:
        assert patch.grey.shape == (32, 32)
        rows, columns = np.divmod(patch.grey, 330)
        assert set((rows // 96 * 4 + columns // 96).ravel()) == {patch.block}


def test_flat_patches_are_left_out_and_levels_keep_the_order():
    noisy = RNG.normal(100, 20, (96, 192)).round()
    noisy[:, :96] = 7
    found = make_patches.patches(noisy, label=0)
    assert not found["test"]  # the first block
    assert len(found["train"]) == 25
    image = noisy[None, :32, 96:128]
    [flat] = make_patches.flatten(image, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(flat.ravel())[::17], np.full(16, 64))
    order = np.argsort(flat.ravel(), kind="stable")
    assert (np.diff(image.ravel()[order].reshape(16, 64).min(axis=1)) >= 0).all()
    assert image.ravel()[order][:64].max() <= image.ravel()[order][64:].min()


def test_without_a_name_the_embedded_images_are_the_drawings():
    named, unnamed = (data.open_splits("embedded", name=n)["train"] for n in ("emoji", ""))
    assert named.class_names == unnamed.class_names
    np.testing.assert_array_equal(named[5]["image"], unnamed[5]["image"])
    with pytest.raises(ArgumentError, match=r"found 'patch'; allowed: emoji, patches\. Did you"):
        data.open_splits("embedded", name="patch")


def test_embedded_files_are_small_and_their_licences_are_named():
    files = [path for path in EMBEDDED.iterdir() if path.name != "NOTICE.md"]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    notice = (EMBEDDED / "NOTICE.md").read_text(encoding="utf-8")
    for path in files:
        assert f"`{path.name}`" in notice
    for photograph, file in make_patches.PHOTOGRAPHS.items():
        assert f"| {photograph} | `{file}` |" in notice


# Folder


def test_flat_folder_is_unlabelled(tmp_path):
    write_folder(tmp_path, TRAIN)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    splits = data.open_splits("folder", path=str(tmp_path))
    assert list(splits) == ["train", "holdout"]
    train = splits["train"]
    assert (len(train), train.num_classes, train.class_names) == (18, 0, ())
    assert {int(example["label"]) for example in train} == {-1}
    np.testing.assert_array_equal(train[0]["image"], TRAIN[train.index[0]])


def test_what_a_mac_adds_to_an_archive_is_no_class(tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / name, TRAIN[:3])
        write_folder(tmp_path / "__MACOSX" / name, TRAIN[:1])
    train = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]
    assert (len(train), train.class_names) == (6, ("a", "b"))


def test_a_link_back_into_the_folder_counts_no_image_twice(tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / name, TRAIN[:3])
    (tmp_path / "a" / "back").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]) == 6


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
        ("train", "Val"),
        ("around/all/train", "around/all/Validation"),
    ],
)
def test_names_of_splits_are_recognised_however_they_are_written(tmp_path, train, test):
    write_folder(tmp_path / train, TRAIN, LABELS)
    write_folder(tmp_path / test, TEST, TEST_LABELS)
    splits = data.open_splits("folder", path=str(tmp_path), holdout=0)
    assert {split: len(part) for split, part in splits.items()} == {"train": 20, "test": 6}
    assert splits["train"].class_names == NAMES
    assert splits["train"].notes == ()


def test_folders_whose_names_are_ambiguous_are_refused(tmp_path):
    for name in ("two/train", "two/Training", "classes/train", "classes/bus", "deep/cat/test"):
        write_folder(tmp_path / name / "cat", TRAIN[:2])
    write_folder(tmp_path / "deep" / "cat" / "train", TRAIN[:2])
    write_folder(tmp_path / "deep" / "dog" / "train", TRAIN[:2])
    write_folder(tmp_path / "linked" / "train", TRAIN, LABELS)
    (tmp_path / "linked" / "test").symlink_to(tmp_path / "linked" / "train")
    for name, message in {
        "two": "found (train and Training|Training and train); allowed: one name of each split",
        "classes": "train would be all training images, beside other folders of images such as .*b",
        "deep": "cat has a folder test in it, whose images would be trained on; allowed: train/CL",
        "linked": "train and test of .*linked are the same folder",
    }.items():
        with pytest.raises(ArgumentError, match=f"^path: .*{message}"):
            data.open_splits("folder", path=str(tmp_path / name))


def test_files_and_folders_that_are_not_used_are_told(tmp_path):
    write_folder(tmp_path / "train", TRAIN, LABELS)
    write_folder(tmp_path / "test", TEST, TEST_LABELS)
    write_folder(tmp_path / "other", TEST)
    for name in ("a.txt", "b.TXT", "list"):
        (tmp_path / "train" / "cat" / name).write_text("no image")
    unused, others = data.open_splits("folder", path=str(tmp_path))["train"].notes
    assert unused == f"folders that are none of the data: {tmp_path / 'other'}"
    assert others == "files that are no images by their names: 2 .txt, 1 without an ending"


def add_link_to_nowhere(root):
    (root / "ant").symlink_to(root / "no such folder")
    return "ant is a link to nowhere"


def add_second_link(root):
    (root / "eel").symlink_to(root / "cat", target_is_directory=True)
    return "eel is the same folder as .*cat"


def add_pipe(root):
    os.mkfifo(root / "cat" / "pipe.png")
    return "pipe.png is no regular file"


@pytest.mark.parametrize("add", [add_link_to_nowhere, add_second_link, add_pipe])
def test_what_cannot_be_listed_is_named_or_left_out(tmp_path, add):
    write_folder(tmp_path, TRAIN, LABELS)
    fault = add(tmp_path)
    for image_size in (0, 4):
        options = {"path": str(tmp_path), "image_size": image_size}
        with pytest.raises(ArgumentError, match=f"^path: .*{fault}"):
            data.open_splits("folder", **options)
        train = data.open_splits("folder", **options, on_error="skip", holdout=0)["train"]
        assert len(train) == 20
        assert re.search(fault, train.skipped[0])


def test_a_folder_that_cannot_be_read_is_named_or_left_out(tmp_path, monkeypatch):
    write_folder(tmp_path, TRAIN, LABELS)
    (tmp_path / "eel").mkdir()
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("eel"):  # as for a user who is not root
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(ArgumentError, match=r"cannot read the folder .*eel: Permission denied"):
        data.open_splits("folder", path=str(tmp_path))
    assert data.open_splits("folder", path=str(tmp_path), on_error="skip")["train"].skipped


def test_accents_composed_or_not_are_one_class_and_jfif_are_images(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for split, name in (("train", composed), ("test", decomposed)):
        for kind in (name, "tea"):
            (tmp_path / split / kind).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(TRAIN[i]).save(tmp_path / split / kind / f"{i}.jfif", "JPEG")
    splits = data.open_splits("folder", path=str(tmp_path), holdout=0)
    assert splits["train"].class_names == (composed, "tea")
    assert splits["test"].labels().tolist() == [0, 0, 1, 1]
    with pytest.raises(ArgumentError, match=r"no folder .*, but one that looks the same: .*u0301"):
        data.open_splits("folder", path=str(tmp_path / "test" / composed))


def test_a_path_that_is_not_there_is_answered_with_a_like_one_that_is(tmp_path):
    write_folder(tmp_path / "photos" / "cats", TRAIN)
    (tmp_path / "phots2").mkdir()  # nearer by its name, but without the cats
    np.savez(tmp_path / "digits.npz", train_images=TRAIN)
    for name, path, meant in (
        ("folder", "phots", "phots2"),
        ("folder", "phots/cats", "photos/cats"),
        ("npz", "digit.npz", "digits.npz"),
    ):
        with pytest.raises(ArgumentError, match=rf"'\. Did you mean {tmp_path}/{meant}\?$"):
            data.open_splits(name, path=str(tmp_path / path))
    for path in ("elsewhere", "photos/0", "a\0b"):
        with pytest.raises(ArgumentError, match=r"there is no folder '.*'\.$"):
            data.open_splits("folder", path=str(tmp_path / path))


def test_folders_that_tell_nothing_apart_are_unlabelled(tmp_path):
    write_folder(tmp_path / "one" / "all", TRAIN)
    for i in range(4):
        write_folder(tmp_path / "each" / f"{i}", TRAIN[i : i + 1])
    for name, count in (("one", 20), ("each", 4)):
        train = data.open_splits("folder", path=str(tmp_path / name), holdout=0)["train"]
        assert (len(train), train.num_classes) == (count, 0)
        assert train[0]["label"] == -1


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_deeper_files_belong_to_the_class_and_test_labels_follow_train(tmp_path, name):
    write_folder(tmp_path / "train" / "dog" / "big", TRAIN[:2])
    write_folder(tmp_path / "train" / "cat", TRAIN[2:4])
    write_folder(tmp_path / "train" / "ant", TRAIN[4:6])
    write_folder(tmp_path / name / "dog", TEST[:1])
    splits = data.open_splits("folder", path=str(tmp_path), holdout=0)
    assert splits["train"].class_names == ("ant", "cat", "dog")
    assert [int(example["label"]) for example in splits["train"]] == [0, 0, 1, 1, 2, 2]
    assert [int(example["label"]) for example in splits["test"]] == [2]
    np.testing.assert_array_equal(splits["train"][5]["image"], TRAIN[1])


SMALL = TRAIN[0]


def saved(path, image, **options):
    image.save(path, **options)
    return path


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def palette_image():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


TALL = TRAIN[0, :, :4]
MODES = {
    "RGB": (Image.fromarray(SMALL), {}, SMALL),
    "grayscale": (Image.fromarray(SMALL[..., 0]), {}, np.repeat(SMALL[..., :1], 3, -1)),
    "one bit": (
        Image.fromarray(np.eye(4, dtype=bool)),
        {},
        np.repeat(np.eye(4)[..., None] * 255, 3, -1),
    ),
    "16 bits": (Image.fromarray(np.full((4, 4), 0x8123, np.uint16)), {}, np.full((4, 4, 3), 0x81)),
    "palette": (palette_image(), {}, np.full((4, 4, 3), (10, 200, 30))),
    "transparent palette": (palette_image(), {"transparency": 1}, np.full((4, 4, 3), 255)),
    "transparent": (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), {}, np.full((4, 4, 3), 255)),
    "half transparent": (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), {}, np.full((4, 4, 3), 204)),
    "gray with alpha": (Image.new("LA", (4, 4), (0, 51)), {}, np.full((4, 4, 3), 204)),
    "turned left": (Image.fromarray(TALL), {"exif": exif(6)}, np.rot90(TALL, -1)),
    "turned right": (Image.fromarray(TALL), {"exif": exif(8)}, np.rot90(TALL)),
    "upside down": (Image.fromarray(TALL), {"exif": exif(3)}, np.rot90(TALL, 2)),
}


@pytest.mark.parametrize("mode", MODES)
def test_any_mode_becomes_upright_rgb(mode, tmp_path):
    image, options, expected = MODES[mode]
    for i in range(2):
        saved(tmp_path / f"{i}.png", image, **options)
    source = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]
    assert source.image_shape == expected.shape
    np.testing.assert_array_equal(source[0]["image"], expected)


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_orientation_that_there_is_not_leaves_a_picture_as_it_is(orientation, tmp_path):
    saved(tmp_path / "a.png", Image.fromarray(TALL), exif=exif(orientation))
    source = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]
    assert source.image_shape == TALL.shape
    np.testing.assert_array_equal(source[0]["image"], TALL)


def test_a_transparent_value_of_16_bits_becomes_white(tmp_path):
    values = np.full((4, 4), 40_000, np.uint16)
    values[0] = 9_000
    saved(tmp_path / "a.png", Image.fromarray(values), transparency=9_000)
    found = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"][0]["image"]
    np.testing.assert_array_equal(found[0], 255)
    np.testing.assert_array_equal(found[1:], 40_000 // 256)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_a_picture_that_lies_on_its_side_has_the_shape_that_is_read(kind, orientation, tmp_path):
    """In every kind of file: Pillow turns a TIFF itself, and no other."""
    for i in range(2):
        options = {"exif": exif(orientation), **({"lossless": True} if kind == "webp" else {})}
        saved(tmp_path / f"{i}.{kind}", Image.fromarray(TALL), **options)
    source = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]
    expected = ImageOps.exif_transpose(Image.open(tmp_path / f"0.{kind}"))
    assert source.image_shape == ((4, 8, 3) if orientation >= 5 else (8, 4, 3))
    np.testing.assert_array_equal(source[0]["image"], np.asarray(expected))


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    source = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]
    np.testing.assert_allclose(source[0]["image"].reshape(-1, 3).mean(0), (255, 0, 0), atol=3)


def test_mixed_sizes_are_cut_to_the_central_square(tmp_path):
    bands = np.zeros((8, 24, 3), np.uint8)
    for i in range(3):
        bands[:, 8 * i : 8 * i + 8, i] = 255
    Image.fromarray(bands).save(tmp_path / "wide.png")
    Image.fromarray(bands.swapaxes(0, 1)).save(tmp_path / "high.png")
    Image.fromarray(np.full((3, 3, 3), (0, 255, 0), np.uint8)).save(tmp_path / "small.png")
    source = data.open_splits("folder", path=str(tmp_path), image_size=8, holdout=0)["train"]
    for example in source:
        np.testing.assert_array_equal(example["image"], np.full((8, 8, 3), (0, 255, 0)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_resizing_averages_instead_of_skipping(tmp_path, suffix):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1).repeat(256, 0)
    Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    source = data.open_splits("folder", path=str(tmp_path), image_size=32, holdout=0)["train"]
    # Pixel i of 32 covers columns 8 i to 8 i + 7, whose mean is 8 i + 3.5; cubic edges differ.
    inner = source[0]["image"][:, 2:-2].astype(float)
    np.testing.assert_allclose(
        inner, np.broadcast_to((8 * np.arange(2, 30) + 3.5)[:, None], (32, 28, 3)), atol=1.5
    )


PICTURES = [(40, 60), (80, 40), (16, 200), (10, 8)]  # height, width
REDUCED = [(16, 24), (24, 12), (2, 24), (10, 8)]  # to 16 and at most 24


@pytest.mark.parametrize("whole", [True, False])
def test_training_sees_whole_pictures(whole, tmp_path):
    gradients = [
        np.stack(np.broadcast_arrays(*np.ogrid[:h, :w], np.zeros((1, 1), int)), axis=-1)
        for h, w in PICTURES
    ]
    for i, gradient in enumerate(gradients):
        Image.fromarray(gradient.astype(np.uint8)).save(tmp_path / f"{i}.png")
    options = {"path": str(tmp_path), "image_size": 16, "holdout": 0.0, "whole": whole}
    source = data.open_splits("folder", **options)["train"]
    assert source.gather(np.arange(4))["image"].shape == (4, 16, 16, 3)
    iterator = data.batches(source, batch_size=4, seed=0, threads=0)
    batch = next(iterator)
    if not whole:
        assert "extent" not in batch
        assert batch["image"].shape == (4, 16, 16, 3)
        return
    order = np.argsort(batch["index"])
    assert batch["image"].shape == (4, 24, 24, 3)
    assert batch["extent"][order].tolist() == [list(size) for size in REDUCED]
    for picture, (h, w), (height, width) in zip(
        batch["image"][order], REDUCED, PICTURES, strict=True
    ):
        assert not picture[h:].any()
        assert not picture[:, w:].any()
        # From edge to edge: nothing is cut off, whatever the filter.
        assert picture[h - 1, 0, 0] >= height - 1 - 0.6 * height / h
        assert picture[0, w - 1, 1] >= width - 1 - 0.6 * width / w
        assert picture[0, 0].max() <= max(height / h, width / w)


def test_mixed_sizes_need_an_image_size(tmp_path):
    write_folder(tmp_path, TRAIN[:2])
    Image.new("RGB", (9, 8)).save(tmp_path / "odd.png")
    sizes = r"000\.png is 8 x 8 \(height x width\), .*odd\.png is 8 x 9; allowed: a side"
    message = rf"^image_size: .* differ: .*{sizes}"
    with pytest.raises(ValueError, match=message):
        data.open_splits("folder", path=str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no image at all", png(SMALL)[:60], png(SMALL)[:-30]])
def test_an_unreadable_file_is_named(tmp_path, content):
    write_folder(tmp_path, TRAIN[:2])
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read the image .*broken.png"):
        data.open_splits("folder", path=str(tmp_path), holdout=0)["train"][2]
    source = data.open_splits("folder", path=str(tmp_path), image_size=8, holdout=0)["train"]
    iterator = data.batches(source, batch_size=3, seed=0)
    with pytest.raises(ValueError, match=r"cannot read the image .*broken.png"):
        next(iterator)


@pytest.mark.parametrize("limit", [40, 20])
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    write_folder(tmp_path, TRAIN[:2])
    source = data.open_splits("folder", path=str(tmp_path), image_size=8, holdout=0)["train"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=r"cannot read the image .*000.png.*pixels"):
            source[0]


RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (RAMP.astype(np.int32), "up to 255, nearly black .* to use 8 of the bits"),
        (RAMP.astype(np.uint16) << 2, "up to 1020, nearly black .* to use 10 of the bits"),
        (RAMP.astype(np.uint16) << 4, "up to 4080, nearly black .* to use 12 of the bits"),
        (RAMP.astype(np.int32) << 9, "from 0 to 130560, more than 16 bits; save it"),
        (RAMP.astype(np.int32) - 300, "from -300 to -45, more than 16 bits; save it"),
    ],
)
def test_whole_numbers_that_eight_bits_would_spoil_are_refused(tmp_path, stored, message):
    saved(tmp_path / "x.tif", Image.fromarray(stored))
    with pytest.raises(ValueError, match=rf"x.tif: its pixels are whole numbers {message}"):
        read_image(str(tmp_path / "x.tif"), 0)


def deep_png(pixels):
    """A PNG of 16 bits a channel with 3 or 4 channels, which Pillow does not write."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("shift", "bits"), [(2, 10), (4, 12), (5, 0), (8, 0)])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_of_colour_that_use_fewer_are_refused(shift, bits, alpha):
    pixels = SMALL.astype(np.uint16) << shift
    pixels[0, 0] = 255 << shift
    if alpha:
        pixels = np.dstack([pixels, np.full((8, 8), 65535)])
    if bits:
        with pytest.raises(ValueError, match=f"16 bits and are nearly black, .* use {bits} of the"):
            read_image(deep_png(pixels), 0)
        with pytest.raises(ValueError, match="nearly black"):
            read_whole_image(deep_png(pixels), 4)
    else:
        np.testing.assert_array_equal(read_image(deep_png(pixels), 0), pixels[..., :3] >> 8)


def test_black_with_sixteen_bits_is_black(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(np.zeros((4, 4), np.uint16)))
    assert not read_image(str(path), 0).any()
    assert not read_image(deep_png(np.zeros((4, 4, 3))), 0).any()


def exif_block(*entries):
    """EXIF data as a writer would store them: (tag, kind, count, value of 4 bytes) each."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    head = b"Exif\0\0II*\0\x08\0\0\0"
    return head + struct.pack("<H", len(entries)) + body + b"\0\0\0\0"


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    ("block", "is_turned"),
    [
        (exif_block(TURNED), True),
        (exif_block((0x100, 2, 4, b"abc\0"), TURNED), True),  # the width as a text
        (exif_block((0x100, 9, 1, struct.pack("<i", -5)), TURNED), True),  # below 0
        (exif_block(TURNED, (0x11A, 11, 1, struct.pack("<f", np.nan))), True),  # a resolution
        (exif_block((0x112, 2, 4, b"abc\0")), False),  # the orientation as a text
        (b"Exif\0\0no header at all", False),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_data_that_nobody_needs_may_be_faulty(tmp_path, block, is_turned, suffix):
    image = Image.fromarray(np.full((4, 8, 3), 200, np.uint8))
    path = str(saved(tmp_path / f"x.{suffix}", image, exif=block))
    shape = (8, 4) if is_turned else (4, 8)
    assert look(path, upright=True) == shape
    assert read_image(path, 0).shape == (*shape, 3)
    assert read_image(path, 2).shape == (2, 2, 3)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
    source = data.open_splits("folder", path=str(tmp_path), holdout=0)["train"]
    with pytest.raises(ValueError, match=r"float.tif: its pixels are floating-point"):
        source[0]


def test_a_file_of_another_kind_is_refused_whatever_its_name(tmp_path):
    (tmp_path / "drawing.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(
        ValueError, match=r"cannot read the image .*drawing.png: it is none of BMP, GIF, JPEG"
    ):
        data.open_splits("folder", path=str(tmp_path))


def test_flat_test_images_are_unlabelled(tmp_path):
    write_folder(tmp_path / "train", TRAIN, LABELS)
    write_folder(tmp_path / "test", TEST)
    splits = data.open_splits("folder", path=str(tmp_path))
    assert splits["train"].num_classes == 2
    assert {int(example["label"]) for example in splits["test"]} == {-1}


def test_ambiguous_folders_are_refused(tmp_path):
    write_folder(tmp_path / "empty" / "cat" / "x", [])
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "both", TRAIN[:2])
    write_folder(tmp_path / "both" / "cat", TRAIN[2:3])
    write_folder(tmp_path / "no_train" / "val" / "cat", TRAIN[:2])
    write_folder(tmp_path / "new_class" / "train", TRAIN, LABELS)
    write_folder(tmp_path / "new_class" / "test" / "ant", TEST)
    write_folder(tmp_path / "no_test" / "train", TRAIN)
    (tmp_path / "no_test" / "test").mkdir()
    for name, message in {
        "empty": "there are no images below .*empty; looked for files ending in .bmp",
        "both": "has images beside sub-folders of images, for example .*000.png and .*cat",
        "no_train": "has a folder val, but no folder train",
        "new_class": "the test images of .* have the class 'ant'",
        "no_test": "there are no images below .*test",
    }.items():
        with pytest.raises(ValueError, match=message):
            data.open_splits("folder", path=str(tmp_path / name))


# Read one by one


@pytest.mark.parametrize(("memory", "times"), [(2**30, 1), (0, 2)])
def test_a_small_source_is_decoded_once(monkeypatch, memory, times):
    monkeypatch.setattr(_decoding, "MEMORY_BYTES", memory)
    asked = []

    def read_one(row):
        asked.append(row)
        return TRAIN[row], LABELS[row]

    source = from_reader(read_one, length=20, image_shape=(8, 8, 3), class_names=NAMES)
    for rows in (np.arange(20), np.arange(20)[::-1]):
        batch = source.gather(rows)
        np.testing.assert_array_equal(batch["image"], TRAIN[rows])
        np.testing.assert_array_equal(batch["label"], LABELS[rows])
    assert sorted(asked) == sorted([*range(20)] * times)


# npz


def write_npz(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return str(path)


def test_npz_of_gray_images_without_labels(tmp_path):
    for images in (TRAIN[..., 0], TRAIN[..., :1]):
        path = write_npz(tmp_path, train_images=images)
        splits = data.open_splits("npz", path=path, holdout=0)
        assert list(splits) == ["train"]
        assert splits["train"].image_shape == (8, 8, 1)
        assert splits["train"].num_classes == 0
        assert splits["train"][0]["label"] == -1
        np.testing.assert_array_equal(splits["train"][3]["image"], TRAIN[3, ..., :1])
        resized = data.open_splits("npz", path=path, holdout=0, image_size=16)["train"]
        assert resized[0]["image"].shape == resized.image_shape == (16, 16, 1)


def test_npz_classes_without_names_are_numbers_and_some_labels_may_be_missing(tmp_path):
    labels = np.where(np.arange(20) < 5, -1, np.arange(20) % 3).astype(np.uint8).astype(np.int64)
    labels[:5] = -1
    path = write_npz(tmp_path, train_images=TRAIN, train_labels=labels)
    train = data.open_splits("npz", path=path, holdout=0)["train"]
    assert train.class_names == ("0", "1", "2")
    assert [int(example["label"]) for example in train] == labels.tolist()


GOOD = {"train_images": TRAIN, "train_labels": LABELS}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": TRAIN}, "no array train_images; it has images"),
        (
            {"train_images": TRAIN / 255},
            r"train_images .* is float64 \[20, 8, 8, 3\]; allowed: uint8",
        ),
        ({"train_images": TRAIN[..., :2]}, r"is uint8 \[20, 8, 8, 2\]; allowed: uint8 \[n, height"),
        ({"train_images": TRAIN[0, 0]}, r"is uint8 \[8, 3\]; allowed"),
        ({"train_images": TRAIN[:0]}, r"train_images of .* is empty: \[0, 8, 8, 3\]"),
        (
            GOOD | {"train_labels": LABELS[1:]},
            r"train_labels .* is int64 \[19\]; .* an image, \[20\]",
        ),
        (GOOD | {"train_labels": LABELS / 1}, "train_labels .* is float64"),
        (GOOD | {"train_labels": LABELS - 2}, "train_labels of .* holds -2; allowed: 0, 1"),
        (
            GOOD | {"class_names": ["cat"]},
            "has 1 class_names, but the label 1; allowed: labels up to 0",
        ),
        (
            GOOD | {"test_images": TEST[:, :4]},
            r"images of \(8, 8, 3\) to train and \(4, 8, 3\) to test",
        ),
        (
            GOOD | {"class_names": [0.5, 1.5]},
            r"class_names of .* is float64 \[2\]; allowed: strings, one a class, \[2\]",
        ),
        (GOOD | {"class_names": [NAMES]}, r"class_names of .* is <U3 \[1, 2\]; allowed: strings"),
        (GOOD | {"class_names": [b"caf\xe9", b"tea"]}, "class_names of .* is no text in UTF-8"),
        (
            GOOD | {"train_captions": [b"caf\xe9"] * 20},
            "train_captions of .* is no text in UTF-8: .*; save strings",
        ),
        ({"train_images": np.array([{}])}, "is no .npz file of plain arrays"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path, arrays, message):
    path = write_npz(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message):
        data.open_splits("npz", path=path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^path: .*data.npz is no .npz file of plain arrays"):
        data.open_splits("npz", path=str(path))


@pytest.mark.parametrize("kind", ["U", "S"])
def test_npz_texts_may_be_bytes(kind, tmp_path):
    names = [name.encode() for name in ("café", "tea")]
    arrays = {"class_names": np.array(names), "train_captions": np.array(names * 10)}
    if kind == "U":
        arrays = {key: np.char.decode(found, "utf-8") for key, found in arrays.items()}
    path = write_npz(tmp_path, **GOOD, **arrays)
    train = data.open_splits("npz", path=path, holdout=0)["train"]
    assert train.class_names == ("café", "tea")
    assert train[0]["captions"] == ("café",)


def test_a_damaged_npz_is_refused(tmp_path):
    path = pathlib.Path(tmp_path / "data.npz")
    np.savez_compressed(path, train_images=np.repeat(TRAIN[..., :1] % 8, 3, -1))
    whole = path.read_bytes()
    for at in range(100, len(whole) - 100, 97):
        path.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
        with pytest.raises(ArgumentError, match=r"^path: .*data.npz is no .npz file of plain arr"):
            data.open_splits("npz", path=str(path))


def test_a_member_of_an_npz_that_is_no_array_is_refused_where_it_would_be_read(tmp_path):
    path = write_npz(tmp_path, train_images=TRAIN)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("README.txt", "hello")
    assert data.open_splits("npz", path=path)["train"].num_classes == 0
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("train_labels", "hello")
    with pytest.raises(ArgumentError, match=r"data.npz is no .*: its train_labels is no array"):
        data.open_splits("npz", path=path)


def test_an_npz_that_claims_more_than_the_memory_is_refused(tmp_path):
    path = write_npz(tmp_path, train_images=TRAIN)
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }"
    header = header.ljust(117) + "\n"
    claim = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train_images.npy", claim)
    with pytest.raises(ArgumentError, match=r"^path: .*data.npz does not fit into the memor"):
        data.open_splits("npz", path=path)


# tfds


def test_tfds_is_read_without_tensorflow(tmp_path, tfds_directory):
    planted = tmp_path / "tensorflow" / "__init__.py"  # found before an installed one
    planted.parent.mkdir()
    planted.write_text("raise RuntimeError('somebody imported TensorFlow')")
    code = f"""
import sys
from dystress_jax import data
train = data.open_splits("tfds", name="two_kinds", path={str(tfds_directory)!r})["train"]
batch = next(data.batches(train, batch_size=8, seed=0))
print(batch["image"].shape, "tensorflow" in sys.modules)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "(8, 8, 8, 3) False", done.stderr


def test_tfds_by_the_folder_of_one_data_set(tfds_directory):
    path = str(tfds_directory / "two_kinds" / "1.0.0")
    train = data.open_splits("tfds", path=path, holdout=0)["train"]
    np.testing.assert_array_equal(train[7]["image"], TRAIN[7])


def test_tfds_of_mixed_sizes_without_labels(tmp_path):
    pictures = [TRAIN[0], TRAIN[1, :, :4], TRAIN[2, :5]]
    folder = prepare_tfds(
        "mixed",
        tmp_path,
        image=tfds.features.Image(shape=(None, None, 3)),
        label=False,
        splits={"train": (pictures, [0, 0, 0])},
    )
    with pytest.raises(ValueError, match=r"^image_size: .* but those of mixed/1.0.0 differ"):
        data.open_splits("tfds", path=str(folder))
    splits = data.open_splits("tfds", path=str(folder), image_size=4, holdout=0)
    assert list(splits) == ["train"]
    assert splits["train"].num_classes == 0
    assert [int(example["label"]) for example in splits["train"]] == [-1, -1, -1]
    np.testing.assert_array_equal(
        splits["train"][1]["image"],
        Image.fromarray(TRAIN[1, 2:6, :4]),  # the central square of 8 x 4
    )


def test_tfds_of_plain_gray_arrays(tmp_path):
    folder = prepare_tfds(
        "gray",
        tmp_path,
        image=tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
        splits={"train": (TRAIN[..., :1], LABELS)},
    )
    train = data.open_splits("tfds", path=str(folder), holdout=0)["train"]
    assert train.image_shape == (8, 8, 1)
    np.testing.assert_array_equal(train[4]["image"], TRAIN[4, ..., :1])
    resized = data.open_splits("tfds", path=str(folder), image_size=4, holdout=0)["train"]
    assert resized[4]["image"].shape == (4, 4, 1)


def test_tfds_takes_the_validation_split_where_test_has_no_labels(tmp_path):
    folder = prepare_tfds(
        "like_imagenet",
        tmp_path,
        splits={
            "train": (TRAIN, LABELS),
            "test": (TEST[:3], [-1, -1, -1]),
            "validation": (TEST, TEST_LABELS),
        },
    )
    test = data.open_splits("tfds", path=str(folder))["test"]
    assert [int(example["label"]) for example in test] == TEST_LABELS.tolist()


def in_a_file(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_tfds_decodes_any_file_as_a_folder_does(tmp_path):
    picture = Image.fromarray(SMALL)
    alpha = Image.fromarray(np.dstack([SMALL, SMALL[..., 0]]))
    files = {
        "palette.png": in_a_file(picture.quantize(8)),
        "alpha.png": in_a_file(alpha),
        "cmyk.jpg": in_a_file(picture.convert("CMYK"), "JPEG"),
        "gray.png": in_a_file(picture.convert("L")),
        "plain.png": png(SMALL),
    }
    (tmp_path / "files").mkdir()
    for name, content in files.items():
        (tmp_path / "files" / name).write_bytes(content)
    by_files = data.open_splits("folder", path=str(tmp_path / "files"), holdout=0)["train"]
    folder = prepare_tfds(
        "any_kind",
        tmp_path,
        label=False,
        splits={"train": ([files[name] for name in sorted(files)], [0] * len(files))},
    )
    by_tfds = data.open_splits("tfds", path=str(folder), holdout=0)["train"]
    for one, other in zip(by_tfds, by_files, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    assert by_tfds[3]["image"].max() > 8  # colours, not their numbers


def test_tfds_names_an_example_that_cannot_be_read_or_leaves_it_out(tmp_path):
    pictures = [TRAIN[0], png(TRAIN[1])[:90], TRAIN[2], TRAIN[3, :4]]
    folder = prepare_tfds("faulty", tmp_path, splits={"train": (pictures, [0, 1, 0, 1])})
    open_it = functools.partial(data.open_splits, "tfds", path=str(folder), holdout=0)
    train = open_it()["train"]
    with pytest.raises(data.UnreadableError, match=r"^example 1 of train of faulty/1.0.0: ca"):
        train[1]
    message = "^example 3 of train of faulty/1.0.0 is 4 x 8, where the data set says 8 x 8"
    with pytest.raises(data.UnreadableError, match=message):
        train[3]
    some = open_it(on_error="skip")["train"]
    assert [int(example["index"]) for example in some] == [0, 2]
    assert [line[:9] for line in some.skipped] == ["example 1", "example 3"]
    with pytest.raises(ValueError, match=r"^on_error: found 'stop'; allowed: raise, skip"):
        open_it(on_error="stop")


@pytest.mark.parametrize("kind", [tfds.features.Scalar(np.int64), tfds.features.Sequence(np.int64)])
def test_a_tfds_label_that_is_no_class_is_told(kind, tmp_path):
    labels = [[0]] * 20 if isinstance(kind, tfds.features.Sequence) else LABELS
    folder = prepare_tfds("other_labels", tmp_path, label=kind, splits={"train": (TRAIN, labels)})
    train = data.open_splits("tfds", path=str(folder))["train"]
    assert train.num_classes == 0
    [note] = train.notes
    assert re.fullmatch("the feature label is a .*int64.*, no ClassLabel: .* have no labels", note)


@pytest.mark.parametrize(
    ("kept", "said"), [(None, "missing or empty"), (0, "missing or empty"), (500, "cut off")]
)
def test_a_tfds_file_that_has_not_been_copied_is_named(kept, said, tmp_path):
    folder = prepare_tfds("lost", tmp_path)
    (file,) = folder.glob("*test*.array_record*")
    content = file.read_bytes()
    file.unlink()
    if kept is not None:
        file.write_bytes(content[:kept])
    with pytest.raises(ArgumentError, match=f"^path: the file {file} of the data set is {said}"):
        data.open_splits("tfds", path=str(folder))


def test_a_damaged_tfds_file_is_named_by_its_example(tmp_path):
    folder = prepare_tfds("damaged", tmp_path)
    source = data.open_splits("tfds", path=str(folder), holdout=0)["train"]
    (file,) = folder.glob("*train*.array_record*")
    file.unlink()
    with pytest.raises(data.UnreadableError, match=f"^cannot read example 3 of train of .*{file}"):
        source[3]


def test_tfds_data_sets_that_cannot_be_read_are_refused(tmp_path, tfds_directory):
    deep = tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16)
    deep_folder = prepare_tfds(
        "deep", tmp_path, image=deep, splits={"train": (TRAIN[..., 0].astype(np.uint16), LABELS)}
    )
    nested = prepare_tfds(
        "nested",
        tmp_path,
        image={"x": tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8)},
        splits={"train": ([{"x": TRAIN[0]}], [0])},
    )
    only_test = prepare_tfds("only_test", tmp_path, splits={"test": (TEST, TEST_LABELS)})
    records = prepare_tfds("records", tmp_path)
    info = records / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    torn = prepare_tfds("torn", tmp_path) / "features.json"
    torn.write_text(torn.read_text()[:50])
    for options, message in (
        ({"path": str(torn.parent)}, "^path: found '.*torn/1.0.0', which .* cannot open: Expect"),
        ({"name": "torn", "path": str(tmp_path)}, "^name: found 'torn', which .* open: Expecting"),
        ({"name": "cifar10/big"}, "^name: found 'cifar10/big', which .*: BuilderConfig big not"),
        ({"name": "cifar10:9.9.9"}, "^name: found 'cifar10:9.9.9', which .* at version 9.9.9, onl"),
        ({"name": "no_such_set", "path": str(tmp_path)}, "knows no 'no_such_set', and none is"),
        ({"path": str(tmp_path / "nowhere")}, "^path: no prepared data set in .*nowhere"),
        (
            {"name": "cifar10", "path": str(tmp_path)},
            "tfds build cifar10 --file_format=array_record",
        ),
        ({"path": str(records)}, "format without random access; prepare it in another"),
        ({"path": str(deep_folder)}, r"are uint16 \[8, 8, 1\]; allowed: uint8"),
        (
            {"path": str(nested)},
            "^name: the feature 'image' of nested/1.0.0 is a FeaturesDict; all",
        ),
        ({"name": "cifar10[:50%]"}, "^name: found 'cifar10.:50%.'; allowed: NAME, NAME/CONFIG"),
        ({"path": str(only_test)}, "only_test/1.0.0 has no split train; it has test"),
    ):
        with pytest.raises(ValueError, match=message):
            data.open_splits("tfds", **options)
