"""Hugging Face data sets on disk: every form that is written gives the same images."""

import io
import os
import pathlib
import re
import subprocess
import sys
import threading

os.environ["HF_HUB_OFFLINE"] = "1"  # read by `datasets` when it is imported; it only writes here

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dystress_jax import data
from dystress_jax.data import _hf_tables
from dystress_jax.errors import ArgumentError

ROOT = pathlib.Path(__file__).parent.parent
COUNT = 20
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
TESTS = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = RNG.permutation(np.arange(COUNT) % 3)
TEST_LABELS = np.arange(6) % 3
NAMES = ("ox", "ant", "bee")
CAPTIONS = [[f"text {k} of {i}" for k in range(i % 3 + 1)] for i in range(COUNT)]
FEATURES = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=[*NAMES]))


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [png(image) for image in IMAGES]
TEST_FILES = [png(image) for image in TESTS]


def rows(files, labels, **more):
    """The columns of a split as `datasets` stores them."""
    images = [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)]
    return {"image": images, "label": [int(label) for label in labels]} | more


def data_set(files, labels, features=FEATURES):
    return datasets.Dataset.from_dict(rows(files, labels), features=features)


def write(folder, table, name="train", **options):
    """A parquet file, by pyarrow alone."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), folder / f"{name}.parquet", **options)
    return folder


def open_hf(folder, **options):
    return data.open_splits("hf", path=str(folder), **({"holdout": 0} | options))


# Every form


def saved_dict(folder):
    splits = {"train": data_set(FILES, LABELS), "test": data_set(TEST_FILES, TEST_LABELS)}
    datasets.DatasetDict(splits).save_to_disk(folder, num_shards={"train": 3, "test": 1})


def hub_parquet(folder):
    """As `push_to_hub` names the files, and in its folder."""
    (folder / "data").mkdir(parents=True)
    for split, files, labels in (("train", FILES, LABELS), ("test", TEST_FILES, TEST_LABELS)):
        whole = data_set(files, labels)
        for i in range(2):
            name = f"{split}-{i:05}-of-00002.parquet"
            whole.shard(2, i, contiguous=True).to_parquet(folder / "data" / name, batch_size=3)


def plain_parquet(kind, name):
    def make(folder):
        schema = pa.schema({"picture": kind, "label": pa.int32()})
        for split, files, labels in (("train", FILES, LABELS), ("test", TEST_FILES, TEST_LABELS)):
            as_struct = [{"path": None, "bytes": file} for file in files]
            images = as_struct if pa.types.is_struct(kind) else files
            table = pa.table({"picture": images, "label": labels.tolist()}, schema=schema)
            write(folder, table, name.format(split), row_group_size=4)

    return make


FORMS = {
    "saved DatasetDict": saved_dict,
    "parquet of the hub": hub_parquet,
    "structs": plain_parquet(pa.struct({"path": pa.string(), "bytes": pa.binary()}), "{}_0"),
    "bytes": plain_parquet(pa.binary(), "{}"),
    "long bytes": plain_parquet(pa.large_binary(), "{}.plain"),
}


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """The splits of the same images from arrays."""
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez(
        path,
        train_images=IMAGES,
        train_labels=LABELS,
        test_images=TESTS,
        test_labels=TEST_LABELS,
        class_names=NAMES,
    )
    return data.open_splits("npz", path=str(path), holdout=0.25)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("image_size", [0, 4])
def test_every_form_gives_the_batches_of_the_same_arrays(form, image_size, npz, tmp_path):
    FORMS[form](tmp_path)
    splits = open_hf(tmp_path, holdout=0.25, image_size=image_size)
    names = NAMES if form in ("saved DatasetDict", "parquet of the hub") else ("0", "1", "2")
    assert list(splits) == ["train", "holdout", "test"]
    for split, source in splits.items():
        expected = npz[split]
        assert source.class_names == names
        np.testing.assert_array_equal(source.labels(), expected.labels())
        np.testing.assert_array_equal(source.index, expected.index)
        assert source.num_stored == expected.num_stored
        assert source.image_shape == ((4, 4, 3) if image_size else (8, 8, 3))
        if image_size:
            half = Image.fromarray(expected[1]["image"]).resize((4, 4), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(source[1]["image"], half)
            continue
        found, wanted = (data.batches(each, batch_size=4, seed=3) for each in (source, expected))
        for _ in range(9):
            batch, same = next(found), next(wanted)
            assert batch.keys() == same.keys()
            for key in batch:
                np.testing.assert_array_equal(batch[key], same[key])


def test_one_saved_data_set_and_unnamed_files_are_training_images(tmp_path):
    data_set(FILES, LABELS).save_to_disk(tmp_path / "saved")
    for name, rows_of in (("0000", slice(0, 12)), ("0001", slice(12, COUNT))):
        data_set(FILES[rows_of], LABELS[rows_of]).to_parquet(
            tmp_path / "parquet" / f"{name}.parquet"
        )
    saved_dict(tmp_path / "dict")
    for folder in ("saved", "parquet", "dict/train"):
        splits = open_hf(tmp_path / folder)
        assert list(splits) == ["train"]
        np.testing.assert_array_equal(splits["train"].gather(np.arange(COUNT))["image"], IMAGES)
        np.testing.assert_array_equal(splits["train"].labels(), LABELS)


def test_the_library_reads_the_same(tmp_path):
    """The writer's own reader, on images of any mode."""
    pictures = [
        Image.fromarray(IMAGES[0]),
        Image.fromarray(IMAGES[1, ..., 0]),
        Image.new("RGBA", (8, 8), (9, 9, 9, 0)),
    ]
    whole = datasets.Dataset.from_dict(
        {"img": pictures}, features=datasets.Features(img=datasets.Image())
    )
    whole.save_to_disk(tmp_path)
    theirs = datasets.load_from_disk(tmp_path)
    ours = open_hf(tmp_path)["train"]
    for i in range(2):
        np.testing.assert_array_equal(ours[i]["image"], np.asarray(theirs[i]["img"].convert("RGB")))
    np.testing.assert_array_equal(ours[2]["image"], np.full((8, 8, 3), 255))  # white shines through
    assert (ours.num_classes, ours[0]["label"]) == (0, -1)


def test_images_may_be_files_beside_the_data(tmp_path):
    (tmp_path / "a.png").write_bytes(FILES[0])
    images = [
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": FILES[1], "path": "b.png"},
    ]
    write(tmp_path / "parquet", {"image": images})
    found = open_hf(tmp_path / "parquet", outside=True)["train"].gather(np.arange(2))["image"]
    np.testing.assert_array_equal(found, IMAGES[:2])
    message = "^outside: the image .*a.png in row 0 of train .* is not below `path`; allowed: True"
    with pytest.raises(ArgumentError, match=message):
        open_hf(tmp_path / "parquet")
    with pytest.raises(data.UnreadableError, match=r"a.png in row 0 of train"):
        open_hf(tmp_path / "parquet", image_size=8)["train"][0]


def test_paths_of_images_start_in_the_folder_of_the_data(tmp_path, monkeypatch):
    (tmp_path / "set" / "images").mkdir(parents=True)
    for row in range(2):
        (tmp_path / "set" / "images" / f"{row}.png").write_bytes(FILES[row])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"another")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = [{"bytes": None, "path": f"images/{row}.png"} for row in range(2)]
    write(tmp_path / "set" / "data", {"image": pa.array(images, kind)})
    monkeypatch.chdir(tmp_path)
    for path in ("set", tmp_path / "set"):
        for outside in (False, True):
            found = open_hf(path, outside=outside)["train"].gather(np.arange(2))["image"]
            np.testing.assert_array_equal(found, IMAGES[:2])
    images[1]["path"] = "../x.png"
    write(tmp_path / "set" / "data", {"image": pa.array(images, kind)})
    with pytest.raises(
        ArgumentError, match=r"^outside: the image .*x.png in row 1 of train .* not"
    ):
        open_hf("set")


def test_files_that_are_not_read_are_told(tmp_path):
    splits = {
        name: data_set(FILES[:2], [0, 1]) for name in ("train", "test", "validation", "unlabelled")
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for name, part in splits.items():
        for row in range(2):
            shard = f"{name}-{row:05}-of-00002.parquet"
            part.shard(2, row).to_parquet(tmp_path / "parquet" / shard)
    for form, unused in (
        ("saved", ("unlabelled/*.arrow", "validation/data-*.arrow")),
        ("parquet", ("unlabelled-*.parquet", "validation-*.parquet")),
    ):
        [note] = open_hf(tmp_path / form)["train"].notes
        said = ", ".join(str(tmp_path / form / name) for name in unused)
        assert note == f"files that are none of the data: {said}"


@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "testing"), ("train", "Val")])
def test_names_of_splits_are_recognised_however_they_are_written(names, tmp_path):
    for form in ("saved", "parquet"):
        (tmp_path / form).mkdir()
    parts = dict(
        zip(names, (data_set(FILES, LABELS), data_set(FILES[:3], LABELS[:3])), strict=True)
    )
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    for name, part in parts.items():
        part.to_parquet(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet")
    for form in ("saved", "parquet"):
        splits = open_hf(tmp_path / form, image_size=8)
        assert {split: len(part) for split, part in splits.items()} == {"train": 20, "test": 3}


# Read in place


@pytest.mark.parametrize("form", ["saved DatasetDict", "parquet of the hub"])
def test_nothing_is_written_downloaded_or_imported_beside_pyarrow(form, tmp_path):
    FORMS[form](tmp_path / "data set")
    home = tmp_path / "home"
    home.mkdir()
    everything = lambda: {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    before = everything()
    code = f"""
import socket, sys
def refuse(*_, **__): raise RuntimeError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from dystress_jax import data
train = data.open_splits("hf", path={str(tmp_path / "data set")!r})["train"]
print(next(data.batches(train, batch_size=8, seed=0))["image"].shape, "datasets" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HOME": str(home), "HF_HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "(8, 8, 8, 3) False", done.stderr
    assert everything() == before


@pytest.mark.parametrize("form", ["saved DatasetDict", "parquet of the hub"])
@pytest.mark.parametrize("kept_bytes", [2**32, 0])
def test_many_threads_read_any_rows(form, kept_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(_hf_tables, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr("dystress_jax.data._decoding.MEMORY_BYTES", 0)  # so that every row is read
    FORMS[form](tmp_path)
    source = open_hf(tmp_path, image_size=8)["train"]
    faults = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            some = rng.integers(0, COUNT, 7)
            batch = source.gather(some)
            same = (batch["image"] == IMAGES[some]).all() and (batch["label"] == LABELS[some]).all()
            faults.extend([] if same else [some])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize(("kept_bytes", "groups"), [(2**32, [0, 1, 4]), (0, [0, 1, 0, 4] * 3)])
def test_a_row_group_is_read_once_while_there_is_room(kept_bytes, groups, tmp_path, monkeypatch):
    monkeypatch.setattr(_hf_tables, "KEPT_BYTES", kept_bytes)
    write(tmp_path, {"image": FILES}, row_group_size=4)
    table = _hf_tables.open_tables(tmp_path)[0]["train"]
    read = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns: read.append(group) or read_row_group(self, group, columns),
    )
    for _ in range(3):
        for row in (3, 5, 0, 19):
            assert table.file("image", row) == FILES[row]
    assert read == groups


# Labels


def features(**columns):
    return datasets.Features(image=datasets.Image(), **columns)


CLASSES = datasets.ClassLabel(names=[*NAMES])
NUMBERS = datasets.Value("int64")
STRINGS = datasets.Value("string")


@pytest.mark.parametrize(
    ("kind", "labels", "names", "expected"),
    [
        (CLASSES, [2, -1, None, 0], NAMES, [2, -1, -1, 0]),
        (NUMBERS, [10, -1, None, 9], ("9", "10"), [1, -1, -1, 0]),
        (datasets.Value("uint8"), [1, 1, None, 0], ("0", "1"), [1, 1, -1, 0]),
        (STRINGS, ["ox", "", None, "ant"], ("ant", "ox"), [1, -1, -1, 0]),
        (datasets.Value("large_string"), ["10", "9", None, "9"], ("9", "10"), [1, 0, -1, 0]),
        (STRINGS, ["2.0", "-1", "nan", "10"], ("2", "10"), [0, -1, -1, 1]),
        (datasets.Value("float64"), [10.0, -1.0, None, 9.0], ("9", "10"), [1, -1, -1, 0]),
        (datasets.Value("float32"), [1.0, np.nan, 0.0, 0.0], ("0", "1"), [1, -1, 0, 0]),
        (NUMBERS, [None, -1, None, -1], (), [-1] * 4),
        (CLASSES, [-1, -1, -1, -1], NAMES, [-1] * 4),
    ],
)
def test_labels_of_any_kind(kind, labels, names, expected, tmp_path):
    columns = {"image": [{"bytes": file} for file in FILES[:4]], "label": labels}
    whole = datasets.Dataset.from_dict(columns, features=features(label=kind))
    whole.save_to_disk(tmp_path / "saved")
    whole.to_parquet(tmp_path / "parquet" / "train.parquet")
    for form in ("saved", "parquet"):
        source = open_hf(tmp_path / form)["train"]
        assert source.class_names == names
        assert source.labels().tolist() == expected
        assert [int(example["label"]) for example in source] == expected


def test_labels_that_are_stored_once_each_or_are_two_things_are_names(tmp_path):
    kinds = pa.array(["ox", "ant", None, "ox"]).dictionary_encode()
    write(tmp_path / "dictionary", {"image": FILES[:4], "label": kinds})
    write(tmp_path / "bool", {"image": FILES[:4], "label": [True, False, None, True]})
    for form, names in (("dictionary", ("ant", "ox")), ("bool", ("False", "True"))):
        source = open_hf(tmp_path / form)["train"]
        assert (source.class_names, source.notes) == (names, ())
        assert source.labels().tolist() == [1, 0, -1, 1]


@pytest.mark.parametrize("other", ["train-00001-of-00002", "test"])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 1], [1.0, None], [1, -1]),
        ([0.0, 1.0], [1, 0], [1, 0]),
        ([0, 1], [-1.0, np.nan], [-1, -1]),
        ([None, None], [0, 1], None),  # the type of the first says nothing
        (["ox", "ant"], [-1, None], [-1, -1]),
        ([0, 1], ["", "-1"], [-1, -1]),
    ],
)
def test_labels_may_be_of_another_type_in_another_file(first, second, expected, other, tmp_path):
    name = "train" if other == "test" else "train-00000-of-00002"
    write(tmp_path, {"image": FILES[:2], "label": first}, name)
    write(tmp_path, {"image": FILES[2:4], "label": second}, other)
    splits = open_hf(tmp_path)
    labels = np.concatenate([source.labels() for source in splits.values()])
    if expected is None:
        assert labels.tolist() == ([-1] * 4 if other == "test" else [-1, -1, 0, 1])
    else:
        assert splits["train"].num_classes == 2
        assert labels[2:].tolist() == expected


@pytest.mark.parametrize("other", ["train-00001-of-00002", "test"])
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([0, 1], ["0", "1"], "0, a number, in row 0 of train .* and '0', a string, in row"),
        (["ox", "ant"], [None, 1.0], "'ox', a string, in row 0 of .* and 1.0, a number, in row"),
        ([0, 1], [True, False], "0, a number, in row 0 of .* and True, True or False, in row"),
    ],
)
def test_strings_beside_integers_are_no_labels(first, second, said, other, tmp_path):
    name = "train" if other == "test" else "train-00000-of-00002"
    write(tmp_path, {"image": FILES[:2], "label": first}, name)
    write(tmp_path, {"image": FILES[2:4], "label": second}, other)
    said = rf"{said}.* \({other}.parquet\); allowed: integers or strings"
    with pytest.raises(ArgumentError, match=f"^label_column: found in 'label' {said}"):
        open_hf(tmp_path)


def test_a_column_of_labels_that_cannot_be_read_is_told(tmp_path):
    write(tmp_path, {"image": FILES[:4], "label": [0.5, 1.5, 2.5, 0.5]})
    source = open_hf(tmp_path)["train"]
    assert source.num_classes == 0
    [note] = source.notes
    assert note.startswith("the column label (double) holds neither integers nor strings")


@pytest.mark.parametrize(
    "unused",
    [
        {"image": FILES[:2], "label": ["what no other split has", ""], "text": ["a", "b"]},
        {"image": FILES[:2], "label": ["ox", "ox"], "text": ["a", ""]},
        {"picture": FILES[:2], "label": ["ox", "ox"], "text": ["a", "b"]},
    ],
)
def test_a_split_that_nobody_uses_may_be_anything(unused, tmp_path):
    sound = {"image": FILES[:3], "label": ["ox", "ant", "bee"], "text": ["a", "b", "c"]}
    for name, table in (("train", sound), ("test", sound), ("validation", unused)):
        write(tmp_path, table, f"{name}-00000-of-00001")
    splits = open_hf(tmp_path, captions="text")
    assert {split: len(part) for split, part in splits.items()} == {"train": 3, "test": 3}
    assert splits["test"].class_names == ("ant", "bee", "ox")


FOUND = [
    ({"coarse_label": CLASSES, "fine_label": CLASSES}, "", "fine_label"),
    ({"coarse_label": CLASSES, "fine_label": CLASSES}, "coarse_label", "coarse_label"),
    ({"id": NUMBERS, "kind": CLASSES}, "", "kind"),
    ({"id": NUMBERS, "title": STRINGS}, "", None),
    ({"id": NUMBERS, "title": STRINGS}, "id", "id"),
    ({"kind": CLASSES, "labels": STRINGS}, "", "labels"),
    ({"label": datasets.List(NUMBERS), "kind": CLASSES}, "", "kind"),
]


@pytest.mark.parametrize(("columns", "chosen", "expected"), FOUND)
def test_the_column_of_labels_is_found(columns, chosen, expected, tmp_path):
    values = {  # each column has labels of its own
        name: [[0]] * 4 if isinstance(kind, datasets.List) else [i, 1, 1, 1]
        for i, (name, kind) in enumerate(columns.items())
    }
    texts = {k: [str(v) for v in values[k]] for k in values if columns[k] == STRINGS}
    images = {"image": [{"bytes": file} for file in FILES[:4]]}
    whole = datasets.Dataset.from_dict(images | values | texts, features=features(**columns))
    whole.to_parquet(tmp_path / "train.parquet")
    source = open_hf(tmp_path, label_column=chosen)["train"]
    if expected is None:
        assert source.num_classes == 0
    else:
        names = [source.class_names[label] for label in source.labels()]
        values = values[expected]
        assert names == (
            [NAMES[v] for v in values] if columns[expected] == CLASSES else [*map(str, values)]
        )


def test_classes_of_train_and_test_are_matched_by_name(tmp_path):
    other = datasets.ClassLabel(names=[*NAMES[::-1]])
    splits = {
        "train": data_set(FILES, LABELS),
        "test": data_set(TEST_FILES, TEST_LABELS, features(label=other)),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    test = open_hf(tmp_path)["test"]
    assert test.class_names == NAMES
    np.testing.assert_array_equal(test.labels(), 2 - TEST_LABELS)
    write(tmp_path / "texts", {"image": FILES[:2], "label": ["b", "a"]})
    write(tmp_path / "texts", {"image": FILES[:2], "label": ["c", "a"]}, "test")
    splits = open_hf(tmp_path / "texts")
    assert splits["train"].class_names == ("a", "b", "c")
    assert splits["test"].labels().tolist() == [2, 0]


# Test images


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["validation", "test"], "test"),
        (["val", "dev", "valid", "validation"], "validation"),
        (["val"], "val"),
        (["unsupervised"], None),
        (["validation", "unlabelled test"], "validation"),
        (["unlabelled test"], "test"),
        (["test of no rows", "valid"], "valid"),
    ],
)
def test_the_test_images_are_those_with_labels(names, expected, tmp_path):
    write(tmp_path, {"image": FILES[:9], "label": [0, 1, 2] * 3})
    for i, name in enumerate(names):
        labels = [-1, -1] if name.startswith("unlabelled") else [1, 2]
        split = name.removeprefix("unlabelled ").removesuffix(" of no rows")
        table = pa.table({"image": FILES[2 * i : 2 * i + 2], "label": labels})
        write(tmp_path, table[:0] if "no rows" in name else table, f"{split}-00000-of-00001")
    splits = open_hf(tmp_path)
    assert len(splits["train"]) == 9
    if expected is None:
        assert list(splits) == ["train"]
    else:
        i = [name.split(" of")[0].split()[-1] for name in names].index(expected)
        found = splits["test"].gather(np.arange(2))["image"]
        np.testing.assert_array_equal(found, IMAGES[2 * i : 2 * i + 2])


# Captions


@pytest.mark.parametrize("column", ["one", "several"])
def test_captions(column, tmp_path):
    one = [f"  {group[0]} " for group in CAPTIONS]
    several = [[*group, None, " "] for group in CAPTIONS]
    columns = features(label=CLASSES, one=STRINGS, several=datasets.List(STRINGS))
    whole = datasets.Dataset.from_dict(
        rows(FILES, LABELS, one=one, several=several), features=columns
    )
    whole.save_to_disk(tmp_path / "saved")
    whole.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    names = [NAMES[label] for label in TEST_LABELS]
    write(tmp_path / "parquet", {"image": TEST_FILES, "label": names}, "test")
    for form in ("saved", "parquet"):
        splits = open_hf(tmp_path / form, captions=column)
        expected = [tuple(group[: 1 if column == "one" else 3]) for group in CAPTIONS]
        assert [example["captions"] for example in splits["train"]] == expected
        assert open_hf(tmp_path / form)["train"].captions is None
    assert splits["test"].captions is None  # it has no such column
    np.testing.assert_array_equal(splits["test"].labels(), TEST_LABELS)


def test_test_images_with_captions_come_first(tmp_path):
    table = {"image": FILES[:2], "text": ["a", "b"]}
    write(tmp_path, table)
    write(tmp_path, table | {"text": ["", None]}, "test")
    write(tmp_path, table | {"text": ["c", "d"]}, "val")
    assert [example["captions"] for example in open_hf(tmp_path, captions="text")["test"]] == [
        ("c",),
        ("d",),
    ]


# What cannot be used


@pytest.mark.parametrize("form", ["saved", "parquet"])
@pytest.mark.parametrize("broken", [FILES[2][:-30], b"", None, b"no image"])
def test_an_image_that_cannot_be_read_is_named_with_its_split_and_row(form, broken, tmp_path):
    files = [*FILES[:2], broken, *FILES[3:5]]
    images = {"image": [file if file is None else {"bytes": file} for file in files]}
    test = datasets.Dataset.from_dict(images | {"label": LABELS[:5].tolist()}, features=FEATURES)
    splits = {"train": data_set(FILES, LABELS), "test": test}
    if form == "saved":
        datasets.DatasetDict(splits).save_to_disk(tmp_path)
    else:
        for split, part in splits.items():
            part.to_parquet(tmp_path / f"{split}.parquet")
    said = rf"test of {re.escape(str(tmp_path))}, row 2: cannot read the image: "
    test = open_hf(tmp_path, image_size=8)["test"]
    np.testing.assert_array_equal(test[3]["image"], IMAGES[3])
    with pytest.raises(data.UnreadableError, match=f"^{said}"):
        test[2]
    with pytest.raises(data.UnreadableError, match=f"^{said}"):
        next(data.batches(test, batch_size=5, seed=0))
    if broken and broken.startswith(FILES[2][:4]):  # its header is good
        with pytest.raises(data.UnreadableError, match=f"^{said}"):
            open_hf(tmp_path)["test"][2]
    else:
        with pytest.raises(ArgumentError, match=f"^path: {said}"):
            open_hf(tmp_path)
    for image_size in (0, 4):
        some = data.open_splits(
            "hf", path=str(tmp_path), image_size=image_size, on_error="skip", holdout=0.25
        )
        assert [int(example["index"]) for example in some["test"]] == [0, 1, 3, 4]
        assert "row 2" in some["test"].skipped[0]
        assert not some["holdout"].skipped


def test_several_sizes_need_an_image_size(tmp_path):
    write(tmp_path, {"image": [*FILES, png(IMAGES[0, :4])]})
    sizes = rf"8 x 8 \(height x width\), train of {tmp_path}, row 20 is 4 x 8; "
    message = rf"^image_size: .*: .*, row 0 is {sizes}"
    with pytest.raises(ArgumentError, match=message):
        open_hf(tmp_path)
    assert open_hf(tmp_path, image_size=6)["train"].image_shape == (6, 6, 3)


TWO_IMAGES = {"left": FILES, "right": FILES, "note": ["x"] * COUNT, "score": [0.5] * COUNT}
ONE_IMAGE = {"image": FILES, "note": ["x"] * 19 + [" "], "score": [0.5] * COUNT}


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            TWO_IMAGES,
            {},
            r"^image_column: found ''; allowed: a column of images: left, right. The columns of "
            r"train of .* are left \(binary\), right \(binary\), note \(string\), score \(d.*\).$",
        ),
        (
            TWO_IMAGES,
            {"image_column": "note"},
            "^image_column: found 'note'; allowed: .* left, right",
        ),
        (TWO_IMAGES, {"image_column": "up"}, "^image_column: found 'up'; allowed: .* left, right"),
        (
            {"note": ["x"]},
            {},
            "^image_column: found ''; allowed: a column of images: none. The col",
        ),
        (
            ONE_IMAGE,
            {"label_column": "score"},
            "^label_column: found 'score'; allowed: .*: note. T",
        ),
        (
            ONE_IMAGE,
            {"label_column": "kind"},
            "^label_column: found 'kind'; allowed: .*: note. The",
        ),
        (
            ONE_IMAGE,
            {"captions": "score"},
            "^captions: found 'score'; allowed: .* strings: note. T",
        ),
        (
            ONE_IMAGE,
            {"captions": "text"},
            "^captions: found 'text'; allowed: .* strings: note. The",
        ),
        (ONE_IMAGE, {"captions": "note"}, "^captions: train of .*, row 19: no text in the column "),
        (
            ONE_IMAGE | {"note": [None] * COUNT},
            {"captions": "note"},
            "^captions: found 'note'; all",
        ),
        (
            ONE_IMAGE | {"note": [""] * COUNT},
            {"captions": "note"},
            "^captions: train of .*, row 0:",
        ),
        (
            ONE_IMAGE | {"label": [-2] * COUNT},
            {},
            "^label_column: train of .*, row 0: the label is -2",
        ),
        (
            ONE_IMAGE | {"label": [-2.0] * COUNT},
            {},
            "^label_column: train of .*, row 0: the label is -2.0",
        ),
        (ONE_IMAGE, {"image_size": -1}, "^image_size: found -1"),
        (ONE_IMAGE, {"holdout": 1.5}, "^holdout: found 1.5"),
    ],
)
def test_columns_that_cannot_be_used(table, options, message, tmp_path):
    write(tmp_path, table)
    with pytest.raises(ArgumentError, match=message):
        open_hf(tmp_path, **options)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ant", "", "ox"], "1 of its classes ''"),
        (["a", "o\u0308x", "\u00f6x"], "2 of .* '\u00f6x'"),
    ],
)
def test_class_labels_without_a_name_for_each_class_are_refused(names, said, tmp_path):
    kind = datasets.ClassLabel(names=names)
    columns = {"image": [{"bytes": file} for file in FILES[:3]], "label": [0, 1, 2]}
    whole = datasets.Dataset.from_dict(columns, features=features(label=kind))
    whole.save_to_disk(tmp_path / "saved")
    with pytest.raises(ArgumentError, match=f"^label_column: .*calls {said}; allowed: a name for"):
        open_hf(tmp_path / "saved")


def test_class_labels_that_cannot_be_used(tmp_path):
    columns = features(left=CLASSES, right=CLASSES)
    table = {"image": [{"bytes": file} for file in FILES[:2]], "left": [0, 1], "right": [0, 1]}
    datasets.Dataset.from_dict(table, features=columns).save_to_disk(tmp_path / "two")
    with pytest.raises(
        ArgumentError, match=r"^label_column: found ''; allowed: .*: left, right. The"
    ):
        open_hf(tmp_path / "two")
    assert open_hf(tmp_path / "two", label_column="right")["train"].num_classes == 3
    data_set(FILES[:2], [0, 1]).to_parquet(tmp_path / "x.parquet")
    stored = pq.read_table(tmp_path / "x.parquet")
    wrong = stored.set_column(1, "label", pa.array([0, 3])).replace_schema_metadata(
        stored.schema.metadata
    )
    write(tmp_path / "wrong", wrong)
    with pytest.raises(ArgumentError, match=r"row 1: the label is 3; allowed: -1 .*, 0 to 2.$"):
        open_hf(tmp_path / "wrong")
    write(tmp_path / "new", stored)
    write(tmp_path / "new", {"image": FILES[:1], "label": ["cow"]}, "test")
    with pytest.raises(ArgumentError, match=r"^label_column: test of .* has the class 'cow'"):
        open_hf(tmp_path / "new")


def test_folders_that_are_no_data_sets(tmp_path):
    for name in (
        "empty",
        "text",
        "half",
        "lost",
        "corrupt",
        "torn",
        "no_train",
        "mixed",
        "no_image",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    write(tmp_path / "half", {"image": FILES}, "train-00001-of-00002")
    for name in ("lost", "corrupt", "torn"):
        saved_dict(tmp_path / name)
    (tmp_path / "lost" / "train" / "data-00001-of-00003.arrow").unlink()
    (tmp_path / "corrupt" / "test" / "state.json").write_text("{}")
    arrow = tmp_path / "torn" / "train" / "data-00000-of-00003.arrow"
    arrow.write_bytes(arrow.read_bytes()[:900])
    write(tmp_path / "no_train", {"image": FILES}, "test")
    write(tmp_path / "mixed", {"image": FILES, "label": LABELS}, "train-00000-of-00002")
    write(tmp_path / "mixed", {"image": FILES}, "train-00001-of-00002")
    write(tmp_path / "no_image", {"image": FILES})
    write(tmp_path / "no_image", {"picture": FILES}, "test")
    for name, message in {
        "nowhere": "^path: there is no folder '.*nowhere'",
        "empty": "^path: .*empty holds no data set: neither a dataset_dict.json .* nor a .parquet",
        "text": "^path: cannot read train of .*text: .*[Pp]arquet",
        "half": "^path: .*half has 1 files of train, but their names say that there are 2; copy",
        "lost": "^path: cannot read train of .*lost: .*data-00001-of-00003.arrow",
        "corrupt": "^path: .*corrupt is no whole data set of save_to_disk: KeyError",
        "torn": "^path: cannot read train of .*torn",
        "no_train": "^path: .*no_train has no rows of a split train; its splits are test.$",
        "mixed": "^path: .*train-00001-of-00002.parquet has other columns than .*train-00000-of",
        "no_image": "^image_column: found 'image'; allowed: a column of images: picture. The",
    }.items():
        with pytest.raises(ArgumentError, match=message):
            open_hf(tmp_path / name)


@pytest.mark.parametrize(
    ("column", "said"), [("label", "column label"), ("text", "column text"), ("image", "row 0")]
)
def test_parquet_that_is_damaged_in_a_column_is_refused(column, said, tmp_path):
    table = {"image": FILES, "label": [f"class {i}" for i in range(COUNT)], "text": ["a"] * COUNT}
    write(tmp_path, table)
    file = tmp_path / "train.parquet"
    chunks = pq.read_metadata(file).row_group(0)
    start = chunks.column(list(table).index(column)).dictionary_page_offset
    content = file.read_bytes()
    file.write_bytes(content[:start] + b"\xff" * 24 + content[start + 24 :])
    with pytest.raises(ArgumentError, match=f"^path: cannot read {said} of train of .*copy the"):
        open_hf(tmp_path, captions="text")


def test_files_of_one_split_that_number_other_classes_are_refused(tmp_path):
    """The labels of the second would have been those of the first file's names."""
    hub_parquet(tmp_path)
    assert open_hf(tmp_path)["train"].class_names == NAMES
    other = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[*NAMES[::-1]])
    )
    second = tmp_path / "data" / "train-00001-of-00002.parquet"
    datasets.Dataset.from_parquet(str(second)).cast(other).to_parquet(second)
    with pytest.raises(ArgumentError, match=r"^path: .*train-00001.* has other class names than"):
        open_hf(tmp_path)


def test_a_missing_package_is_answered_with_the_command_that_installs_it(tmp_path, monkeypatch):
    write(tmp_path, {"image": FILES})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArgumentError, match=r"^source: .*pip install .*\[hf\]'$"):
        open_hf(tmp_path)


def test_images_may_be_grey(tmp_path):
    rgb = open_hf(write(tmp_path, {"image": FILES}))["train"]
    found = data.resized(rgb, (8, 8, 1)).gather(np.arange(COUNT))["image"]
    expected = [np.asarray(Image.fromarray(image).convert("L")) for image in IMAGES]
    np.testing.assert_array_equal(found[..., 0], expected)
