"""Batches: what is in them, in which order, on how many processes, and after a restart."""

import itertools
import json

import numpy as np
import pytest

from dystress_jax import data
from dystress_jax.data import from_arrays, from_reader

COUNT = 50
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
LABELS = np.arange(COUNT) % 7
SOURCE = from_arrays(IMAGES, LABELS, class_names=tuple("abcdefg"))
BATCH = 8
PER_EPOCH = COUNT // BATCH


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def orders(seed, epochs, **options):
    """The indices of each epoch, [epochs per_epoch * batch]."""
    found = take(data.batches(SOURCE, batch_size=BATCH, seed=seed, **options), epochs * PER_EPOCH)
    return np.stack([batch["index"] for batch in found]).reshape(epochs, -1)


def assert_same(batches_a, batches_b):
    for a, b in zip(batches_a, batches_b, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_rows_are_the_examples_they_say(threads):
    for batch in take(data.batches(SOURCE, batch_size=BATCH, seed=1, threads=threads), 14):
        assert batch["image"].shape == (BATCH, 4, 4, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["index"]])
        np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])


def test_an_epoch_visits_no_example_twice_and_drops_the_rest():
    for epoch in orders(seed=3, epochs=20):
        assert len(epoch) == len(set(epoch)) == PER_EPOCH * BATCH
    # The rest is another one each time: over 20 epochs nothing is left out.
    assert set(orders(seed=3, epochs=20).ravel()) == set(range(COUNT))


def test_a_whole_epoch_when_the_batch_divides_the_source():
    found = take(data.batches(SOURCE, batch_size=10, seed=0), 10)
    for epoch in (found[:5], found[5:]):
        assert sorted(np.concatenate([batch["index"] for batch in epoch])) == list(range(COUNT))


def test_order_depends_on_seed_and_epoch_alone():
    np.testing.assert_array_equal(orders(5, 3), orders(5, 3, threads=0))
    different = np.concatenate([orders(seed, 4) for seed in (0, 1, 2, 2**40)])
    assert len(np.unique(different, axis=0)) == len(different)  # near seeds share none either


def test_order_looks_random():
    found = orders(7, 200)
    # Where an example comes in an epoch is uniform: mean 23.5, standard error 1 for each of 50.
    positions = np.full((200, COUNT), np.nan)
    np.put_along_axis(positions, found, np.arange(found.shape[1])[None], axis=1)
    assert np.abs(np.nanmean(positions, axis=0) - 23.5).max() < 4
    assert np.abs(np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("process_count", [2, 4, 8])
def test_processes_share_out_the_same_batches(process_count):
    one = take(data.batches(SOURCE, batch_size=BATCH, seed=2), 15)
    parts = [
        take(
            data.batches(
                SOURCE, batch_size=BATCH, seed=2, process_index=p, process_count=process_count
            ),
            15,
        )
        for p in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(one, joined)


@pytest.mark.parametrize("threads", [0, 2, 5])
def test_resumes_with_exactly_the_next_batch(threads):
    options = {"batch_size": BATCH, "seed": 4, "threads": threads}
    full = take(data.batches(SOURCE, **options), 40)
    positions = np.random.default_rng(threads).permutation(30)[:8]
    for position in [0, PER_EPOCH, *map(int, positions)]:
        first = data.batches(SOURCE, **options)
        take(first, position)
        state = json.loads(json.dumps(first.get_state()))
        next(first)  # going on does not change what was saved

        second = data.batches(SOURCE, **options)
        take(second, 3)  # nor does it matter what was read ahead before
        second.set_state(state)
        assert_same(take(second, 10), full[position : position + 10])


def test_decoded_sources_resume_too():
    source = from_reader(
        lambda row: (IMAGES[row], int(LABELS[row])),
        length=COUNT,
        image_shape=(4, 4, 3),
        class_names=SOURCE.class_names,
    )
    full = take(data.batches(SOURCE, batch_size=BATCH, seed=6), 20)
    iterator = data.batches(source, batch_size=BATCH, seed=6, threads=3)
    assert_same(take(iterator, 9), full[:9])
    resumed = data.batches(source, batch_size=BATCH, seed=6, threads=3)
    resumed.set_state(iterator.get_state())
    assert_same(take(resumed, 11), full[9:])


@pytest.mark.parametrize("batch_size", [1, 8, 10, 50, 64])
@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_padded_batches_hold_every_example_once(batch_size, process_count):
    if batch_size % process_count:
        batch_size *= process_count
    seen = [
        list(
            data.padded_batches(
                SOURCE, batch_size=batch_size, process_index=p, process_count=process_count
            )
        )
        for p in range(process_count)
    ]
    steps = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*seen, strict=True)
    ]
    assert len(steps) == -(-COUNT // batch_size)
    joined = {key: np.concatenate([step[key] for step in steps]) for key in steps[0]}
    mask = joined.pop("mask")
    assert mask.tolist() == [True] * COUNT + [False] * (len(steps) * batch_size - COUNT)
    np.testing.assert_array_equal(joined["index"][mask], np.arange(COUNT))
    np.testing.assert_array_equal(joined["image"][mask], IMAGES)
    np.testing.assert_array_equal(joined["label"][mask], LABELS)
    assert not joined["image"][~mask].any()
    assert (joined["label"][~mask] == -1).all()
    assert (joined["index"][~mask] == -1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 64}, "^batch_size: found 64, but there are only 50 images"),
        ({"batch_size": 0}, "^batch_size: found 0; allowed: a multiple of the 1 processes"),
        (
            {"batch_size": 10, "process_count": 4},
            "^batch_size: found 10; allowed: a multiple of the 4 processes",
        ),
        (
            {"batch_size": 8, "process_index": 2, "process_count": 2},
            "^process_index: found 2; allowed: 0 to 1",
        ),
        ({"batch_size": 8, "threads": -1}, "^threads: found -1; allowed: 0 or more"),
        ({"batch_size": 8, "seed": -1}, "^seed: found -1; allowed: 0 or more"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.batches(SOURCE, **({"seed": 0} | options))
