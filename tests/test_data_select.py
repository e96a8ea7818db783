"""Some of the examples: a fair sample, a long tail, some of the classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dystress_jax import data
from dystress_jax.data import from_arrays, from_reader

RNG = np.random.default_rng(0)
NAMES = tuple("abcdefghij")


def labelled(labels, names=NAMES, read_one_by_one=False):
    """A source of images that hold their own number."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    if read_one_by_one:
        return from_reader(
            lambda row: (images[row], int(labels[row])),
            length=len(labels),
            image_shape=(1, 1, 3),
            class_names=names,
        )
    return from_arrays(images, np.array(labels), class_names=names)


BALANCED = RNG.permutation(np.repeat(np.arange(10), 500))


# Subset


@pytest.mark.parametrize("order", ["by class", "in turn", "random"])
@pytest.mark.parametrize("size", [10, 100, 333, 4999])
def test_a_subset_keeps_the_share_of_every_class(order, size):
    labels = {"by class": np.sort(BALANCED), "in turn": np.arange(5000) % 10, "random": BALANCED}
    some = data.subset(labelled(labels[order]), size)
    assert len(some) == len(set(some.index)) == size
    assert (np.diff(some.index) > 0).all()
    counts = np.bincount(some.labels(), minlength=10)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(some.labels(), labels[order][some.index])
    # Spread over the class, not its first few.
    for c in range(10):
        inside = np.searchsorted(np.flatnonzero(labels[order] == c), some.index[some.labels() == c])
        assert np.diff(inside, prepend=0, append=500).max() <= 2 * 5000 / size


def test_a_subset_of_a_subset_and_of_unknown_labels():
    source = labelled(BALANCED).take(np.arange(100, 1100))
    assert set(data.subset(source, 50).index) <= set(range(100, 1100))
    unread = labelled(BALANCED, read_one_by_one=True)
    assert data.subset(unread, 4).index.tolist() == [0, 1250, 2500, 3750]
    partly = labelled(np.where(BALANCED == 3, -1, BALANCED))
    assert (
        np.bincount(data.subset(partly, 100).labels() + 1).tolist()
        == [10, 10, 10, 10, 0] + [10] * 6
    )
    assert data.subset(source, 0) is data.subset(source, 1000) is source


def test_limit_is_the_number_of_training_images():
    whole = data.open_splits("embedded")
    splits = data.open_splits("embedded", limit=500)
    assert {split: len(source) for split, source in splits.items()} == {
        "train": 500,
        "holdout": 312,
        "test": 1563,
    }
    shares = [np.bincount(s["train"].labels()) / len(s["train"]) for s in (splits, whole)]
    np.testing.assert_allclose(*shares, atol=1 / 500)
    np.testing.assert_array_equal(splits["train"].index, data.subset(whole["train"], 500).index)
    assert splits["train"].num_stored == whole["train"].num_stored
    for limit in (-1, 2815):
        with pytest.raises(ValueError, match=rf"^limit: found {limit}; .* up to the 2814 training"):
            data.open_splits("embedded", limit=limit)


def test_stored_rows_are_counted_where_nobody_says_how_many():
    source = labelled(BALANCED)
    bare = data.Source(read=source.read, index=source.index, image_shape=(1, 1, 3))
    assert bare.num_stored == 5000
    assert bare.take(np.arange(3)).num_stored == 5000
    nothing = data.Source(read=source.read, index=source.index[:0], image_shape=(1, 1, 3))
    assert nothing.num_stored == 0


# Long tail


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        # floor(500 ratio^(c / 9)) in 40 digits, but at least 1
        (0.01, [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]),
        (0.1, [500, 387, 299, 232, 179, 139, 107, 83, 64, 50]),
        (0.001, [500, 232, 107, 50, 23, 10, 5, 2, 1, 1]),
        (1.0, [500] * 10),
    ],
)
@pytest.mark.parametrize("read_one_by_one", [False, True])
def test_a_long_tail_follows_the_formula(ratio, expected, read_one_by_one):
    source = labelled(BALANCED, read_one_by_one=read_one_by_one)
    tail = data.long_tail(source, ratio)
    assert np.bincount(tail.labels()).tolist() == expected
    assert (np.diff(tail.index) > 0).all()
    np.testing.assert_array_equal(tail.labels(), BALANCED[tail.index])
    assert tail.num_stored == 5000


def test_a_long_tail_is_always_the_same_and_nested():
    tails = [set(data.long_tail(labelled(BALANCED), ratio).index) for ratio in (0.5, 0.1, 0.01)]
    assert tails[2] < tails[1] < tails[0]
    # Runs of other versions are compared on the same images.
    few = data.long_tail(labelled(np.arange(40) % 4, names=NAMES[:4]), 0.1)
    assert few.index[few.labels() > 1].tolist() == [10, 15, 22]
    again = data.long_tail(labelled(BALANCED), 0.1).index
    assert set(again) == tails[1]
    # Not the first of each class: stored order may mean something.
    last_class = np.flatnonzero(BALANCED == 9)
    assert not tails[2] >= set(last_class[:5])
    assert sum(again[BALANCED[again] == 9] > np.median(last_class)) > 10


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    ratio=st.floats(0.001, 1.0),
)
def test_a_long_tail_of_uneven_classes(counts, ratio):
    labels = np.repeat(np.arange(len(counts)), counts)
    found = data.long_tail(labelled(labels, names=NAMES[: len(counts)]), ratio).labels()
    there = [c for c, have in enumerate(counts) if have]  # a class without images is none
    for c, have in enumerate(counts):
        place = there.index(c) if have else 0
        share = max(counts) * ratio ** (place / max(len(there) - 1, 1))
        expected = have if ratio == 1 else min(have, max(1, int(share + 1e-6)))
        assert (found == c).sum() == expected


def test_only_the_training_part_gets_a_long_tail(tmp_path):
    path = str(tmp_path / "data.npz")
    images = np.zeros((5000, 1, 1, 3), np.uint8)
    np.savez(
        path,
        train_images=images,
        train_labels=BALANCED,
        test_images=images,
        test_labels=BALANCED,
    )
    plain = data.open_splits("npz", path=path, holdout=0.1)
    tail = data.open_splits("npz", path=path, holdout=0.1, imbalance_ratio=0.01)
    for split in ("holdout", "test"):
        np.testing.assert_array_equal(tail[split].index, plain[split].index)
    counts, before = (np.bincount(s["train"].labels()) for s in (tail, plain))
    shares = np.floor(before.max() * 0.01 ** (np.arange(10) / 9))
    np.testing.assert_array_equal(counts, np.minimum(shares, before))
    limited = data.open_splits("npz", path=path, holdout=0.1, imbalance_ratio=0.01, limit=500)
    np.testing.assert_allclose(
        np.bincount(limited["train"].labels()), counts * 500 / counts.sum(), atol=1
    )


@pytest.mark.parametrize(
    ("labels", "ratio", "message"),
    [
        (BALANCED, 0.0, "^imbalance_ratio: found 0.0; allowed: above 0, at most 1"),
        (BALANCED, 1.5, "^imbalance_ratio: found 1.5; allowed"),
        (BALANCED, float("nan"), "^imbalance_ratio: found nan; allowed"),
        (None, 0.1, "found 0.1, but 20 of the 20 training images have no label; allowed: 1, or"),
        ([0, 1, -1, -1], 0.1, "but 2 of the 4 training images have no label"),
    ],
)
def test_long_tails_that_cannot_be_made(labels, ratio, message):
    source = from_arrays(np.zeros((20, 1, 1, 3), np.uint8)) if labels is None else labelled(labels)
    with pytest.raises(ValueError, match=message):
        data.long_tail(source, ratio)


def test_labelled_keeps_what_has_a_label():
    labels = np.where(np.arange(20) % 5, -1, 2)
    source = labelled(labels, names=("a", "b", "c"))
    assert data.labelled(source).index.tolist() == [0, 5, 10, 15]
    unread = labelled(labels, names=("a", "b", "c"), read_one_by_one=True)
    assert data.labelled(unread) is unread  # nobody reads all images to know


def test_unlabelled_images_stay_as_they_are_without_a_tail():
    source = from_arrays(np.zeros((20, 1, 1, 3), np.uint8))
    assert data.long_tail(source, 1.0) is source


# Classes


@pytest.mark.parametrize("read_one_by_one", [False, True])
def test_classes_that_are_left_out_leave_no_gap(read_one_by_one):
    labels = np.array([0, 2, -1, 1, 3, 2, 1])
    source = labelled(labels, names=("a", "b", "c", "d"), read_one_by_one=read_one_by_one)
    some = data.without_classes(source, ["b", "d"])
    assert some.class_names == ("a", "c")
    assert some.index.tolist() == [0, 1, 2, 5]
    assert some.labels().tolist() == [0, 1, -1, 1]
    batch = some.gather(np.array([3, 2]))
    assert batch["label"].tolist() == [1, -1]
    assert batch["image"][:, 0, 0, 0].tolist() == [5, 2]
    everything = data.without_classes(source, [])
    assert everything.labels().tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Flags"], "^names: found 'Flags'; allowed: some of a, b"),
        (["a", "b"], "found 'all of them'; allowed: some of a, b"),
    ],
)
def test_classes_that_cannot_be_left_out(names, message):
    with pytest.raises(ValueError, match=message):
        data.without_classes(labelled([0, 1], names=("a", "b")), names)


def test_classes_of_equal_names_stay_apart():
    source = labelled([0, 1, 2, 3, -1], names=("a", "b", "c", "b"))
    some = data.without_classes(source, ["a"])
    assert some.class_names == ("b", "c", "b")
    assert some.labels().tolist() == [0, 1, 2, -1]
