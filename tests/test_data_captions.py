"""Captions: where they come from, which is used when, and what a faulty caption file leads to."""

import csv
import functools
import io
import itertools
import json
import os
import pathlib
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageFile

from dystress_jax import data
from dystress_jax.data import _language, _stored, from_arrays, from_reader, split_holdout
from dystress_jax.errors import ArgumentError

COUNT = 50
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
LABELS = np.arange(COUNT) % 7
NAMES = tuple("abcdefg")
# Image i has i % 4 + 1 captions.
GROUPS = [[f"text {k} of {i}" for k in range(i % 4 + 1)] for i in range(COUNT)]
SOURCE = from_arrays(IMAGES, LABELS, class_names=NAMES, captions=data.Captions.of(GROUPS))


def encode(texts):
    """Two integers a text of GROUPS: which of the image's captions, and which image."""
    return np.array([[int(text.split()[1]), int(text.split()[3])] for text in texts])


TOKENS = data.with_tokens(SOURCE, encode)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width, height):
    """A PNG that says it has this many pixels, and has none."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# Tokens in batches


def test_tokens_are_those_of_the_image():
    for batch in take(data.batches(TOKENS, batch_size=8, seed=0), 12):
        assert batch["tokens"].dtype == np.int32
        assert batch["tokens"].shape == (8, 2)
        np.testing.assert_array_equal(batch["tokens"][:, 1], batch["index"])
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["index"]])
        assert (batch["tokens"][:, 0] <= batch["index"] % 4).all()
    assert "tokens" not in next(data.batches(SOURCE, batch_size=8, seed=0))


def choices(source, *, epochs=6, batch_size=5, **options):
    """Which caption each stored image has in each epoch, -1 = not seen."""
    per_epoch = len(source) // batch_size
    local = batch_size // options.get("process_count", 1)
    chosen = np.full((epochs, COUNT), -1)
    batches = take(data.batches(source, batch_size=batch_size, **options), epochs * per_epoch)
    for step, batch in enumerate(batches):
        assert len(batch["index"]) == local
        chosen[step // per_epoch, batch["index"]] = batch["tokens"][:, 0]
    return chosen


def test_the_caption_depends_on_seed_epoch_and_index_alone():
    whole = choices(TOKENS, seed=3)
    assert (whole >= 0).all()
    part = data.with_tokens(split_holdout(SOURCE, 0.3)["train"], encode)
    for other in (
        choices(TOKENS, seed=3, batch_size=10, threads=0),
        choices(TOKENS, seed=3, batch_size=10, process_count=2, process_index=1),
        choices(part, seed=3),
    ):
        seen = other >= 0
        assert seen.sum() >= 6 * 20
        np.testing.assert_array_equal(other[seen], whole[seen])
    assert (choices(TOKENS, seed=4) != whole).mean() > 0.3
    assert (whole[1:] != whole[:-1]).mean() > 0.3


def test_every_caption_is_used_as_often():
    chosen = choices(TOKENS, seed=0, epochs=400)
    for k in range(4):  # images with k + 1 captions, 12 or more of them
        shares = np.bincount(chosen[:, k::4].ravel(), minlength=k + 1) / chosen[:, k::4].size
        # The standard error of a share is at most sqrt(.25 / 4800) = .007.
        np.testing.assert_allclose(shares, 1 / (k + 1), atol=0.03)


@pytest.mark.parametrize("threads", [0, 3])
def test_resumes_with_exactly_the_next_captions(threads):
    options = {"batch_size": 8, "seed": 5, "threads": threads}
    full = take(data.batches(TOKENS, **options), 30)
    for position in (0, 6, 13):
        first = data.batches(TOKENS, **options)
        take(first, position)
        second = data.batches(TOKENS, **options)
        second.set_state(json.loads(json.dumps(first.get_state())))
        for found, expected in zip(take(second, 15), full[position:], strict=False):
            for key in expected:
                np.testing.assert_array_equal(found[key], expected[key])


def test_padded_batches_have_the_first_caption():
    batches = list(data.padded_batches(TOKENS, batch_size=16))
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert tokens.shape == (64, 2)
    np.testing.assert_array_equal(tokens[mask], [(0, i) for i in range(COUNT)])
    assert not tokens[~mask].any()
    assert "tokens" not in next(data.padded_batches(SOURCE, batch_size=16))


def test_only_the_captions_of_a_source_are_encoded_and_each_once(monkeypatch):
    monkeypatch.setattr(_language, "CHUNK", 7)
    asked = []

    def watched(texts):
        asked.append(list(texts))
        return encode(texts)

    splits = split_holdout(SOURCE, 0.4)
    for part in splits.values():
        tokens = data.with_tokens(part, watched)
        for row in range(0, len(part), 7):
            batch = tokens.gather(np.array([row]))
            np.testing.assert_array_equal(batch["tokens"], [[0, batch["index"][0]]])
    assert max(map(len, asked)) == 7
    assert sorted(itertools.chain(*asked)) == sorted(itertools.chain(*GROUPS))


def test_captions_of_one_text_are_encoded_once_and_share_their_tokens(monkeypatch):
    monkeypatch.setattr(_language, "CHUNK", 3)
    asked = []

    def letters(texts):
        asked.extend(texts)
        return np.array([[len(text), *map(ord, text[:1] or "-")] for text in texts])

    groups = [["b", "a", "b"], ["", "c"], [], ["a"], ["d", "b", "a", ""], ["not of the source"]]
    stored = from_arrays(IMAGES[:6], captions=data.Captions.of(groups))
    source = data.with_tokens(stored.take(np.array([4, 0, 3, 1])), letters)
    assert asked == ["b", "a", "", "c", "d"]
    assert source.captions.tokens.rows.shape == (5, 2)
    texts, _, tokens = data.list_captions(source)
    assert texts == (*groups[4], *groups[0], *groups[3], *groups[1])
    np.testing.assert_array_equal(tokens, letters(texts))
    rows = np.array([0, 0, 1, 3, 2, 1])
    draw = np.array([0.3, 0.9, 0.99, 0.5, 0.7, 0.4])
    batch = source.gather(rows, draw)
    assert batch["tokens"].dtype == np.int32
    np.testing.assert_array_equal(batch["tokens"], letters(["b", "", "b", "c", "a", "a"]))


def test_texts_are_told_apart_in_the_order_in_which_they_come():
    texts = ["b", "", "b", "a", "B", "", "a ", "b"]
    distinct, position = data.unique_texts(texts)
    assert distinct == ["b", "", "a", "B", "a "]
    assert [distinct[i] for i in position] == texts
    distinct, position = data.unique_texts([])
    assert (distinct, position.dtype, position.shape) == ([], np.int32, (0,))


def test_captions_are_listed_with_their_images():
    some = TOKENS.take(np.array([7, 2, 7]))
    texts, owner, tokens = data.list_captions(some)
    assert texts == (*GROUPS[7], *GROUPS[2], *GROUPS[7])
    assert owner.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    np.testing.assert_array_equal(tokens, encode(texts))
    assert data.list_captions(SOURCE).tokens is None
    assert SOURCE[6]["captions"] == tuple(GROUPS[6])
    assert "captions" not in from_arrays(IMAGES)[0]


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            lambda texts: np.zeros((len(texts), 3)),
            r"^encode: its tokens .* are float64 \[123, 3\]; allowed: integers",
        ),
        (lambda texts: np.zeros(len(texts), int), r"are int64 \[123\]; allowed: integers \[123, "),
        (lambda texts: np.zeros((4, 3), int), r"its tokens of 123 texts are int64 \[4, 3\]"),
    ],
)
def test_tokens_of_another_kind_are_refused(encoder, message):
    with pytest.raises(ValueError, match=message):
        data.with_tokens(SOURCE, encoder)


def test_what_needs_captions_says_so():
    for ask in (
        lambda source: data.with_tokens(source, encode),
        data.list_captions,
        data.classes_from_captions,
    ):
        with pytest.raises(ValueError, match=r"^source: the images have no captions; allowed"):
            ask(from_arrays(IMAGES))


# Classes and captions


def test_class_names_become_captions():
    odd = from_arrays(IMAGES, LABELS, class_names=("a {b}", *NAMES[1:])).take(np.arange(5, 12))
    one = data.captions_from_labels(odd)
    assert one[2]["captions"] == ("a photo of a a {b}.",)  # label 0
    assert one[6]["captions"] == ("a photo of a e.",)
    two = data.captions_from_labels(odd, ["{}", "{}!"])
    assert data.list_captions(two).texts[:4] == ("f", "f!", "g", "g!")


def test_class_names_become_captions_where_labels_come_with_the_images():
    source = from_reader(
        lambda row: (IMAGES[row], int(LABELS[row])),
        length=COUNT,
        image_shape=(4, 4, 3),
        class_names=NAMES,
    )
    np.testing.assert_array_equal(source.labels(), LABELS)
    assert data.list_captions(data.captions_from_labels(source, "{}")).texts == tuple(
        NAMES[label] for label in LABELS
    )


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        (LABELS, "a photo", "^templates: found 'a photo'; allowed: texts with one {} each"),
        (LABELS, ["{}", "{} {}"], "found '{} {}'; allowed"),
        (LABELS, [], "found 'none'; allowed"),
        (np.where(LABELS == 3, -1, LABELS), "{}", "^source: 7 of 50 images have no label"),
        (None, "{}", "50 of 50 images have no label"),
    ],
)
def test_captions_that_cannot_be_made_of_labels(labels, templates, message):
    source = from_arrays(IMAGES, labels, class_names=() if labels is None else NAMES)
    with pytest.raises(ValueError, match=message):
        data.captions_from_labels(source, templates)


def test_captions_become_classes():
    groups = [["x"], ["y", "x"], ["x"], ["z"]]
    source = from_arrays(IMAGES[:4], captions=data.Captions.of(groups))
    classes = data.classes_from_captions(source)
    assert classes.class_names == ("x", "y", "z")
    assert classes.labels().tolist() == classes.gather(np.arange(4))["label"].tolist()
    assert classes.labels().tolist() == [0, 1, 0, 2]
    assert classes.has_labels
    few = data.classes_from_captions(source.take(np.array([3, 2])))
    assert (few.class_names, few.labels().tolist()) == (("z", "x"), [0, 1])


def test_class_names_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffant\r\n  café \r\nox\r\n\r\n".encode())
    assert data.read_class_names(str(path), 3) == ("ant", "café", "ox")
    for content, message in (
        (b"ant\nbee\n", r"^path: .*names.txt has 2 class names, but there are 3 classes"),
        (b"ant\n\nbee\n", r"names.txt, line 2: no name; allowed: one name a line"),
        (b"", r"names.txt, line 1: no name"),
        ("ant\ncafé\nox".encode("latin-1"), r"names.txt, line 2: no UTF-8 text \(byte 0xe9\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            data.read_class_names(str(path), 3)
    with pytest.raises(ValueError, match=r"there is no file '.*none.txt' of class names"):
        data.read_class_names(str(tmp_path / "none.txt"), 3)


# Embedded


def test_embedded_names_go_with_the_drawings_of_all_artists():
    splits = data.open_splits("embedded")
    test = data.list_captions(splits["test"])
    for split in ("train", "holdout"):
        source = splits[split]
        texts = data.list_captions(source).texts
        assert texts == tuple(test.texts[i % 1563] for i in source.index)
        assert source.num_stored == 2 * 1563
    concepts = data.classes_from_captions(splits["test"])
    assert (concepts.num_classes, splits["test"].num_stored) == (1563, 1563)
    assert not set(data.list_captions(splits["train"]).texts) & set(
        data.list_captions(splits["holdout"]).texts
    )


# Folder with a caption file

PAIRS = [
    ("a.png", "a red, round apple"),
    ("sub/b.png", "日本の猫 🐈"),
    ("a.png", 'it says "apple"'),
    ("c.png", "two\nlines"),
]
PICTURES = {"a.png": IMAGES[0], "sub/b.png": IMAGES[1], "c.png": IMAGES[2]}


def write_images(root):
    for name, image in PICTURES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(image))
    return root


def as_csv(pairs, columns=("path", "caption"), delimiter=","):
    rows = [columns, *pairs]
    quoted = [delimiter.join('"' + v.replace('"', '""') + '"' for v in row) for row in rows]
    return "\r\n".join(quoted) + "\r\n"


def as_jsonl(pairs, columns=("path", "caption")):
    return "\n".join(json.dumps(dict(zip(columns, pair, strict=True))) for pair in pairs)


def open_pairs(root, captions="captions.csv", **options):
    options = {"holdout": 0} | options
    return data.open_splits("folder", path=str(root), captions=captions, **options)


FORMS = {
    "captions.csv": as_csv(PAIRS),
    "marked.csv": "\ufeff" + as_csv(PAIRS),
    "names.csv": as_csv(PAIRS, ("File_Name", " Text ")),
    "tabs.tsv": as_csv(PAIRS, ("image", "caption"), "\t"),
    "lines.jsonl": as_jsonl(PAIRS) + "\n\n",
    "escapes.jsonl": as_jsonl(PAIRS, ("image", "text")).replace("\n", "\r\n"),
    "lists.jsonl": "\n".join(
        json.dumps({"file_name": name, "caption": [t for n, t in PAIRS if n == name], "n": 3})
        for name in PICTURES
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_every_form_gives_the_same_pairs(name, on_error, tmp_path):
    write_images(tmp_path)
    (tmp_path / name).write_bytes(FORMS[name].encode())
    source = open_pairs(tmp_path, name, on_error=on_error)["train"]
    assert [example["captions"] for example in source] == [
        ("a red, round apple", 'it says "apple"'),
        ("日本の猫 🐈",),
        ("two\nlines",),
    ]
    np.testing.assert_array_equal(source.gather(np.arange(3))["image"], IMAGES[:3])
    assert (source.num_classes, source.skipped, source.num_stored) == (0, (), 3)


def test_the_caption_file_may_be_elsewhere(tmp_path, monkeypatch):
    write_images(tmp_path / "images")
    (tmp_path / "c.csv").write_text(as_csv(PAIRS), encoding="utf-8")
    assert len(open_pairs(tmp_path / "images", str(tmp_path / "c.csv"))["train"]) == 3
    assert len(open_pairs(tmp_path / "images", "../c.csv")["train"]) == 3
    with pytest.raises(ValueError, match=r"^captions: there is no file .*images/c.csv, .*or"):
        open_pairs(tmp_path / "images", "c.csv")
    monkeypatch.chdir(tmp_path)
    assert len(open_pairs("images", "c.csv")["train"]) == 3
    (tmp_path / "images" / "c.csv").write_text("path,caption\na.png,x\n")  # this one is nearer
    assert len(open_pairs("images", "c.csv")["train"]) == 1


def test_captions_are_those_of_a_stored_image_alone():
    captions = data.Captions.of(GROUPS)
    assert list(captions) == list(map(tuple, GROUPS))
    for stored in (-1, len(GROUPS)):
        with pytest.raises(IndexError, match=f"found {stored}; allowed: a stored image, 0 to "):
            captions[stored]


def test_splits_and_labels_by_column(tmp_path):
    write_images(tmp_path)
    rows = [
        ("a.png", "x", "ox", "train"),
        ("sub/b.png", "y", "ant", "val"),
        ("c.png", "z", "", ""),
        ("sub/b.png", "w", "ant", "test"),
        ("a.png", "v", "bee", "validation"),
    ]
    (tmp_path / "c.csv").write_text(as_csv(rows, ("path", "caption", "label", "split")))
    splits = open_pairs(tmp_path, "c.csv")
    assert list(splits) == ["train", "test"]
    assert splits["train"].class_names == ("ant", "ox")  # bee is in no split
    [note] = splits["train"].notes
    assert note == (
        f"lines of {tmp_path / 'c.csv'} that are none of the data: 1 of validation, 1 of val"
    )
    assert splits["train"].labels().tolist() == [1, -1]
    assert [example["captions"] for example in splits["train"]] == [("x",), ("z",)]
    assert [(e["captions"], e["label"]) for e in splits["test"]] == [(("w",), 0)]
    numbers = "\n".join(
        json.dumps({"path": path, "caption": "x", "label": 7, "split": split})
        for path, split in (("a.png", "train"), ("c.png", "validation"))
    )
    (tmp_path / "c.jsonl").write_text(numbers)
    splits = open_pairs(tmp_path, "c.jsonl")
    assert splits["test"].class_names == ("7",)
    assert not splits["train"].notes


def test_folders_beside_the_captioned_ones_are_told(tmp_path):
    for folder in ("train", "test", "val"):
        write_images(tmp_path / folder)
        (tmp_path / folder / "c.csv").write_text(as_csv([("a.png", "x")]))
    [note] = open_pairs(tmp_path, "c.csv")["train"].notes
    assert note == f"folders that are none of the data: {tmp_path / 'val'}"


def test_an_image_that_is_trained_on_is_not_tested(tmp_path):
    write_images(tmp_path)
    rows = [("a.png", "x", "train"), ("./sub/../a.png", "w", "test"), ("c.png", "z", "test")]
    (tmp_path / "c.csv").write_text(as_csv(rows, ("path", "caption", "split")))
    with pytest.raises(ValueError, match=r"c.csv, line 3: a training image too, by line 2"):
        open_pairs(tmp_path, "c.csv")
    splits = open_pairs(tmp_path, "c.csv", on_error="skip")
    assert [e["captions"] for e in splits["test"]] == [("z",)]
    assert "line 3: a training image too" in splits["test"].skipped[0]


def test_a_label_in_one_of_the_lines_of_an_image_is_its_label(tmp_path):
    write_images(tmp_path)
    rows = [("a.png", "x", ""), ("a.png", "y", "ox"), ("a.png", "z", ""), ("c.png", "w", "ant")]
    (tmp_path / "c.csv").write_text(as_csv(rows, ("path", "caption", "label")))
    train = open_pairs(tmp_path, "c.csv")["train"]
    assert train.labels().tolist() == [1, 0]
    assert train[0]["captions"] == ("x", "y", "z")
    rows[2] = ("a.png", "z", "ant")
    (tmp_path / "c.csv").write_text(as_csv(rows, ("path", "caption", "label")))
    with pytest.raises(ValueError, match="line 4: another label than in line 2"):
        open_pairs(tmp_path, "c.csv")


def test_minus_one_is_no_class_and_other_numbers_below_zero_are_in_their_order(tmp_path):
    labels = ["10", "-2", "-1", "3"]
    rows = [(f"{i}.png", "x", label) for i, label in enumerate(labels)]
    for path, *_ in rows:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / path)
    (tmp_path / "c.csv").write_text(as_csv(rows, ("path", "caption", "label")))
    source = open_pairs(tmp_path, "c.csv", holdout=0)["train"]
    assert source.class_names == ("-2", "3", "10")
    assert source.labels().tolist() == [2, 0, -1, 1]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_numbers_that_pandas_wrote_beside_gaps_are_those_without(form, tmp_path):
    labels = [2.0, 2, -1.0, float("nan"), "nan", "-1.0", "2.0", None, "10"]
    rows = [(f"{i}.png", "x", label) for i, label in enumerate(labels)]
    for path, *_ in rows:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / path)
    columns = ("path", "caption", "label")
    texts = [(*row[:2], "" if row[2] is None else str(row[2])) for row in rows]
    written = as_csv(texts, columns) if form == "csv" else as_jsonl(rows, columns)
    (tmp_path / f"c.{form}").write_text(written)
    source = open_pairs(tmp_path, f"c.{form}", holdout=0)["train"]
    assert source.class_names == ("2", "10")
    assert source.labels().tolist() == [0, 0, -1, -1, -1, -1, 0, -1, 1]


def test_numbers_for_classes_are_in_their_order(tmp_path):
    write_images(tmp_path)
    rows = [("a.png", "x", "10"), ("sub/b.png", "y", "9"), ("c.png", "z", "100")]
    (tmp_path / "c.csv").write_text(as_csv(rows, ("path", "caption", "label")))
    assert open_pairs(tmp_path, "c.csv")["train"].class_names == ("9", "10", "100")


def test_a_caption_may_be_longer_than_the_csv_module_allows(tmp_path):
    write_images(tmp_path)
    limit = csv.field_size_limit()
    (tmp_path / "c.csv").write_text(as_csv([("a.png", "x" * 200_000)], ("path", "caption")))
    assert len(open_pairs(tmp_path, "c.csv")["train"][0]["captions"][0]) == 200_000
    assert csv.field_size_limit() == limit


def test_splits_by_folder(tmp_path):
    for part, pairs in (("train", PAIRS), ("val", PAIRS[1:])):
        write_images(tmp_path / part)
        (tmp_path / part / "meta.jsonl").write_text(as_jsonl(pairs))
    splits = open_pairs(tmp_path, "meta.jsonl", holdout=0.4)
    assert {split: len(source) for split, source in splits.items()} == {
        "train": 2,
        "holdout": 1,
        "test": 3,
    }
    assert [e["captions"][0] for e in splits["test"]] == [text for _, text in PAIRS[1:]]
    (tmp_path / "val" / "meta.jsonl").unlink()
    with pytest.raises(ValueError, match=r"^captions: there is no file .*val/meta.jsonl"):
        open_pairs(tmp_path, "meta.jsonl")


GOOD_CSV = "path,caption\na.png,an apple\n"
GOOD_JSON = '{"path": "a.png", "caption": "an apple"}\n'
CSV_FAULTS = {
    "nothing.png,x": "there is no image '.*nothing.png'",
    "broken.png,x": "cannot read the image .*broken.png",
    "huge.png,x": "cannot read the image .*huge.png: .*pixels",
    "sub,x": "there is no image '.*sub'",
    ",x": "no path of an image; allowed: path or file_name or image",
    "  ,x": "no path of an image",
    "c.png,": "no caption; allowed: caption or text, not empty",
    'c.png,"  "': "no caption",
    "c.png": "1 fields, where the header has 2",
    "c.png,one, two": "3 fields, where the header has 2; a text with ',' in it must be in double",
}
JSON_FAULTS = {
    '{"path": "c.png"': "no JSON: Expecting ',' delimiter",
    "c.png": "no JSON: Expecting value",
    "[" * 100_000: "no JSON",
    '["c.png", "x"]': r"""found '\["c.png", "x"\]'; allowed: one JSON object a line""",
    '{"path": "c.png"}': "no caption; allowed: caption or text, not empty",
    '{"path": "c.png", "caption": []}': "no caption",
    '{"path": "c.png", "caption": ["x", ""]}': "no caption",
    '{"path": "c.png", "caption": null}': "no caption",
    '{"caption": "x"}': "no path of an image",
    '{"path": 3, "caption": "x"}': "the image is 3; allowed: a text",
    '{"path": "c.png", "caption": {"x": 1}}': "the caption is {.*; allowed: a text",
    '{"path": "c.png", "caption": ["x", 1.5]}': "the caption is 1.5; allowed: a text",
    '{"path": "c.png", "caption": "x", "label": 1.5}': "the label is 1.5; allowed: a text",
    '{"path": "c.png", "text": "x", "caption": "y"}': "the caption is there as caption and as text",
    '{"path": "c.png", "path": "a.png", "caption": "y"}': "no JSON: a name is there twice: path, ",
    '{"path": "c.png", "caption": "\\ud83d"}': "the caption has half a character",
    '{"path": "\\u0000.png", "caption": "x"}': "there is no image",
    '{"path": "c.png", "caption": "x", "split": "mine"}': "the split is 'mine'; allowed: train, ",
}
FAULTS = [("captions.csv", GOOD_CSV, 3, line, what) for line, what in CSV_FAULTS.items()] + [
    ("captions.jsonl", GOOD_JSON, 2, line, what) for line, what in JSON_FAULTS.items()
]


@pytest.mark.parametrize(("name", "good", "number", "line", "what"), FAULTS)
def test_a_faulty_line_is_named_or_left_out(name, good, number, line, what, tmp_path):
    write_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(png(IMAGES[3])[:20])
    (tmp_path / "huge.png").write_bytes(bomb(60_000, 60_000))
    end = "c.png,the end\n" if name.endswith("csv") else GOOD_JSON.replace("a.png", "c.png")
    (tmp_path / name).write_text(good + line + "\n" + end)
    with pytest.raises(ValueError, match=rf"^captions: .*{name}, line {number}: {what}"):
        open_pairs(tmp_path, name)
    source = open_pairs(tmp_path, name, on_error="skip")["train"]
    assert [len(example["captions"]) for example in source] == [1, 1]
    np.testing.assert_array_equal(source.gather(np.arange(2))["image"], IMAGES[[0, 2]])
    (skipped,) = source.skipped
    assert f"{name}, line {number}: " in skipped


WHOLE_FILE_FAULTS = {
    "header.csv": (b"path,caption,path\n", "line 1: the column 'path' is there twice"),
    "synonyms.csv": (b"path,image,caption\n", "line 1: the column 'image' is there twice, or und"),
    "nameless.csv": (b"a.png,an apple\n", "line 1: no column for the image; found a.png, an apple"),
    "captionless.csv": (b"path\na.png\n", "line 1: no column for the caption; found path; allowed"),
    "empty.csv": (b"", "line 1: no column for the image; found none"),
    "only_header.csv": (b"path,caption\n", "there are no train images that can be used"),
    "empty.jsonl": (b"\n", "there are no train images that can be used"),
    "open.csv": (
        b'path,caption\na.png,x\nc.png,"never\nclosed\n',
        "line 3: no CSV: unexpected end of data",
    ),
    "stray.csv": (b'path,caption\na.png,"x" y\n', "line 2: no CSV: ',' expected after '\"'"),
    "latin.csv": (
        "path,caption\na.png,ok\nc.png,café\n".encode("latin-1"),
        r"line 3: no UTF-8 text \(byte 0xe9\); save the file in UTF-8",
    ),
    "wide.jsonl": (GOOD_JSON.encode("utf-16"), r"line 1: no UTF-8 text \(byte 0xff\)"),
    "pairs.json": (GOOD_JSON.encode(), "is of an unknown kind; allowed: .csv, .tsv, .jsonl"),
}


@pytest.mark.parametrize("name", WHOLE_FILE_FAULTS)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_cannot_be_understood_is_refused(name, on_error, tmp_path):
    content, message = WHOLE_FILE_FAULTS[name]
    write_images(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^captions: .*{message}"):
        open_pairs(tmp_path, name, on_error=on_error)


def test_the_first_fault_is_told_and_how_many_more(tmp_path):
    write_images(tmp_path)
    lines = ["path,caption", "a.png,x", "no1.png,x", "c.png", "no2.png,x"]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    message = r"c.csv, line 3: there is no image .*no1.png' \(and 2 more\). `on_error`=skip"
    with pytest.raises(ValueError, match=message):
        open_pairs(tmp_path, "c.csv")
    skipped = open_pairs(tmp_path, "c.csv", on_error="skip")["train"].skipped
    assert [text.split(": ")[0][-6:] for text in skipped] == ["line 3", "line 4", "line 5"]
    (tmp_path / "c.csv").write_text("path,caption\nno1.png,x\n")
    with pytest.raises(
        ValueError, match=r"no train images that can be used; the first fault: .*line 2"
    ):
        open_pairs(tmp_path, "c.csv", on_error="skip")


@pytest.mark.parametrize("with_captions", [True, False])
def test_an_image_that_breaks_when_decoded(with_captions, tmp_path):
    folder = tmp_path / "images"
    write_images(folder)
    (folder / "c.png").write_bytes(png(IMAGES[2])[:-30])  # its header is good
    (tmp_path / "c.csv").write_text(as_csv(PAIRS), encoding="utf-8")
    options = {"captions": "../c.csv"} if with_captions else {}
    if not with_captions:
        (folder / "sub" / "b.png").rename(folder / "b.png")
    where = r"^.*c.csv, line 5: cannot" if with_captions else "^cannot"
    source = open_pairs(folder, **({"captions": ""} | options))["train"]
    assert len(source) == 3
    with pytest.raises(ValueError, match=rf"{where} read the image .*c.png: .*truncated"):
        next(data.batches(source, batch_size=3, seed=0))

    splits = open_pairs(folder, **({"captions": ""} | options), on_error="skip", holdout=0.5)
    assert [len(source) for source in splits.values()] == [1, 1]
    assert splits["train"].num_stored == 3
    (skipped,) = splits["train"].skipped
    assert "cannot read the image" in skipped
    assert splits["holdout"].skipped == ()  # told once
    for source in splits.values():
        assert source[0]["image"].shape == (4, 4, 3)


@pytest.mark.parametrize("captions", ["", "captions.csv"])
def test_a_folder_of_broken_images_only(captions, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "captions.csv").write_text("path,caption\na.png,x\n")
    with pytest.raises(ValueError, match=r"there are no train images that can be used; the first"):
        open_pairs(tmp_path, captions, on_error="skip")


@pytest.mark.parametrize("side", [60_000, 11_000])  # above twice Pillow's limit, and below
@pytest.mark.parametrize("captions", ["", "captions.csv"])
def test_a_bomb_is_refused_by_its_header(captions, side, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(
        png(IMAGES[0, :, :3])
    )  # not square, so it has a side to lie on
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    (tmp_path / "captions.csv").write_text("path,caption\na.png,x\nbomb.png,boom\n")
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: decoded.append(self.size) or load(self)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if captions:
            with pytest.raises(ValueError, match=r"line 3: cannot read the image .*bomb.png.*pix"):
                open_pairs(tmp_path, captions, image_size=4)
        else:
            source = open_pairs(tmp_path, captions, image_size=4)["train"]
            with pytest.raises(ValueError, match=r"cannot read the image .*bomb.png: .*pixels"):
                source.gather(np.array([1]))
        assert decoded == []
        source = open_pairs(tmp_path, captions, image_size=4, on_error="skip")["train"]
    assert set(decoded) == {(3, 4)}
    assert len(source) == len(source.skipped) == 1


def test_opening_pairs_reads_headers_only_and_batches_only_their_images(tmp_path, monkeypatch):
    write_images(tmp_path)
    (tmp_path / "captions.csv").write_text(as_csv(PAIRS), encoding="utf-8")
    read = []
    read_image = _stored.read_image
    monkeypatch.setattr(
        _stored, "read_image", lambda path, size: read.append(path) or read_image(path, size)
    )
    source = open_pairs(tmp_path, image_size=4)["train"]
    assert read == []
    source.gather(np.array([1]))
    assert read == [str(tmp_path / "sub" / "b.png")]


def test_pairs_of_several_sizes_need_an_image_size(tmp_path):
    write_images(tmp_path)
    Image.new("RGB", (9, 8)).save(tmp_path / "c.png")
    (tmp_path / "captions.csv").write_text(as_csv(PAIRS), encoding="utf-8")
    sizes = r"4 x 4 \(height x width\), .* is 8 x 9"
    with pytest.raises(ValueError, match=rf"^image_size: .* differ: .* is {sizes}"):
        open_pairs(tmp_path)
    assert open_pairs(tmp_path, image_size=6)["train"].image_shape == (6, 6, 3)


# npz


def test_npz_captions(tmp_path):
    path = str(tmp_path / "data.npz")
    several = np.array([["x", ""], ["y", " é "], ["", "z"]])
    np.savez(
        path,
        train_images=IMAGES[:3],
        train_captions=several,
        test_images=IMAGES[3:5],
        test_captions=np.array(["v", "w"]),
    )
    splits = data.open_splits("npz", path=path, holdout=0)
    assert [e["captions"] for e in splits["train"]] == [("x",), ("y", "é"), ("z",)]
    assert [e["captions"] for e in splits["test"]] == [("v",), ("w",)]
    np.savez(path, train_images=IMAGES[:3])
    assert data.open_splits("npz", path=path)["train"].captions is None


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["x", "y"], r"train_captions of .* is <U1 \[2\]; allowed: strings, \[3\] or \[3, "),
        ([1, 2, 3], r"train_captions of .* is int64 \[3\]"),
        ([[["x"]], [["y"]], [["z"]]], r"is <U1 \[3, 1, 1\]"),
        (["x", " ", "z"], "has no caption for image 1; allowed: at least one"),
    ],
)
def test_bad_npz_captions_are_refused(captions, message, tmp_path):
    path = str(tmp_path / "data.npz")
    np.savez(path, train_images=IMAGES[:3], train_captions=np.array(captions))
    with pytest.raises(ValueError, match=message):
        data.open_splits("npz", path=path)


# tfds


class Sentences(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images with texts in three forms, and in a few that are none."""

    VERSION = tfds.core.Version("1.0.0")
    name = "sentences"

    def _info(self):
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(4, 4, 3)),
                    "caption": text,
                    "several": tfds.features.Sequence(text),
                    "captions": tfds.features.Sequence({"id": np.int64, "text": text}),
                    "number": np.int64,
                    "sometimes": text,
                    "never": text,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in ("train", "test", "validation")}

    def _generate_examples(self, split):
        for i, group in enumerate(GROUPS[:6]):
            texts = [] if split == "test" else [f"{split} {text} é" for text in group]
            yield (
                i,
                {
                    "image": png(IMAGES[i]),
                    "caption": texts[0] if texts else "",
                    "several": texts,
                    "captions": [{"id": k, "text": text} for k, text in enumerate(texts)],
                    "number": i,
                    "sometimes": "x" * (i % 2),
                    "never": "",
                },
            )


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    builder = Sentences(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


@pytest.mark.parametrize(("feature", "most"), [("caption", 1), ("several", 4), ("captions", 4)])
def test_tfds_captions(feature, most, sentences, monkeypatch):
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: decoded.append(self.size) or load(self)
    )
    splits = data.open_splits("tfds", path=sentences, holdout=0, captions=feature)
    assert decoded == []
    for split, called in (("train", "train"), ("test", "validation")):
        source = splits[split]  # the test split's images have no captions
        assert [e["captions"] for e in source] == [
            tuple(f"{called} {text} é" for text in group[:most]) for group in GROUPS[:6]
        ]
        np.testing.assert_array_equal(source.gather(np.arange(6))["image"], IMAGES[:6])


def test_tfds_captions_are_read_only_when_asked_for(sentences):
    splits = data.open_splits("tfds", path=sentences)
    assert {source.captions for source in splits.values()} == {None}


@pytest.mark.parametrize("captions", ["several", ""])
def test_tfds_files_that_are_damaged_are_named_while_they_are_opened(captions, tmp_path):
    """Also where only labels are looked at, of which these images have none."""
    builder = Sentences(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    folder = pathlib.Path(builder.data_path)
    assert data.open_splits("tfds", path=str(folder), captions=captions)
    (file,) = folder.glob("*train*.array_record*")
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * (len(content) - 200) + content[-100:])
    if captions:
        with pytest.raises(ArgumentError, match=r"^path: cannot read example \d+ of train of sent"):
            data.open_splits("tfds", path=str(folder), captions=captions)
    else:  # nothing was read yet
        source = data.open_splits("tfds", path=str(folder), holdout=0)["train"]
        with pytest.raises(data.UnreadableError, match=r"^cannot read example 0 of train of sent"):
            source[0]


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("title", "sentences/1.0.0 has no feature 'title'; it has caption, captions, image"),
        ("number", "the feature 'number' of sentences/1.0.0 is .*; allowed: a text, a sequence"),
        ("sometimes", "'sometimes' of sentences/1.0.0 has no text for example 0 of train"),
        ("never", "the feature 'never' of sentences/1.0.0 is empty"),
    ],
)
def test_tfds_features_that_are_no_captions_are_refused(feature, message, sentences):
    with pytest.raises(ValueError, match=rf"^captions: .*{message}"):
        data.open_splits("tfds", path=sentences, captions=feature)


# Settings


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "embedded",
            {"captions": "c.csv"},
            "^captions: found 'c.csv', but `source` embedded takes no such argument; "
            "allowed: `name`, `image_size`, `holdout`.$",
        ),
        ("npz", {"on_error": "skip"}, "^on_error: .* npz takes .*; allowed: `path`, `image_size`"),
        (
            "folder",
            {"path": "", "on_error": "ignore"},
            "^on_error: found 'ignore'; allowed: raise, skip",
        ),
        ("folder", {"captions": "c.csv", "path": "/no"}, "^path: there is no folder '/no'"),
    ],
)
def test_bad_settings_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        data.open_splits(kind, **options)


@pytest.mark.parametrize("form", ["absolute", "upwards", "link"])
def test_images_outside_the_folder_need_a_setting(tmp_path, form):
    inside = tmp_path / "data"
    inside.mkdir()
    for path in (inside / "a.png", tmp_path / "private.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    path = {"absolute": tmp_path / "private.png", "upwards": "../private.png"}.get(form, "b.png")
    if form == "link":
        (inside / "b.png").symlink_to(tmp_path / "private.png")
    (inside / "c.csv").write_text(f"path,caption\na.png,a\n{path},b\n")
    open_it = functools.partial(
        data.open_splits, "folder", path=str(inside), captions="c.csv", holdout=0
    )
    message = "^captions: .*c.csv, line 3: the image .* is not below `path`; `outside` allows"
    with pytest.raises(ValueError, match=message):
        open_it()
    assert len(open_it(outside=True)["train"]) == 2
    assert "line 3" in open_it(on_error="skip")["train"].skipped[0]


def test_a_missing_image_whose_name_looks_the_same_is_named(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "cafe\u0301.png")
    (tmp_path / "c.csv").write_text("path,caption\ncaf\u00e9.png,a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"but one that looks the same: .*'cafe.u0301.png' on the"):
        data.open_splits("folder", path=str(tmp_path), captions="c.csv")


def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "c.csv").write_text("path,caption\na.png,a\n")
    with pytest.raises(ValueError, match=r"line 2: cannot read the image .*a.png: it is no regula"):
        data.open_splits("folder", path=str(tmp_path), captions="c.csv")


def test_the_columns_of_open_clip_are_read_where_there_are_no_others(tmp_path):
    files = ["one.png", "two.png"]
    for file, image in zip(files, IMAGES, strict=False):
        (tmp_path / file).write_bytes(png(image))
    of_open_clip = tmp_path / "captions.tsv"
    of_open_clip.write_text("filepath\ttitle\n" + "".join(f"{f}\ta {f}\n" for f in files))
    pairs = data.open_splits(
        "folder", path=str(tmp_path), captions="captions.tsv", image_size=8, holdout=0.0
    )
    assert len(pairs["train"]) == 2
    of_open_clip.rename(tmp_path / "captions.csv")
    with pytest.raises(ValueError, match=r"no column for the image.* by tabs: name it \.tsv\."):
        data.open_splits(
            "folder", path=str(tmp_path), captions="captions.csv", image_size=8, holdout=0.0
        )
    (tmp_path / "captions.csv").write_text("path;caption\none.png;one\n")
    with pytest.raises(ValueError, match=r"by semicolons: save it with commas\."):
        data.open_splits(
            "folder", path=str(tmp_path), captions="captions.csv", image_size=8, holdout=0.0
        )
    both = "path,title,caption\n" + "".join(f"{f},A title,a {f}\n" for f in files)
    (tmp_path / "captions.csv").write_text(both)
    pairs = data.open_splits(
        "folder", path=str(tmp_path), captions="captions.csv", image_size=8, holdout=0.0
    )
    assert pairs["train"].captions is not None
