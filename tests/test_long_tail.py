"""Rare and frequent classes, each with an accuracy of their own."""

import jax
import numpy as np
import pytest

from dystress_jax import data, evaluation, sharding
from dystress_jax.evaluation._frequency import by_frequency

MESH = sharding.make_mesh(jax.devices()[:1])
NAMES = tuple("abcdefg")
TRAINED = (3, 40, 9, 1, 0, 40, 5)  # images of each class; "e" has none


def thirds(trained, tested):
    """The tested classes of each third, the rarest first; of equal ones the first is rarer."""
    order = sorted((c for c in range(len(trained)) if tested[c]), key=lambda c: (trained[c], c))
    third = len(order) // 3
    return {"few": order[:third], "medium": order[third : 2 * third], "many": order[2 * third :]}


def found_of(rng, tested):
    labels = np.repeat(np.arange(7), tested)
    predicted = np.where(rng.random(len(labels)) < 0.6, labels, rng.integers(0, 7, len(labels)))
    return labels, predicted, evaluation.confusion(predicted, labels, NAMES)


@pytest.mark.parametrize(
    ("tested", "notes"),
    [
        (
            (3, 9, 2, 4, 5, 1, 6),
            ["3 classes of 9 to 40", "2 classes of 3 to 5", "2 classes of 0 to 1"],
        ),
        ((3, 9, 2, 4, 0, 1, 0), ["3 classes of 9 to 40", "1 class of 3", "1 class of 1"]),
    ],
)
def test_each_third_is_the_mean_over_its_classes(tested, notes):
    labels, predicted, found = found_of(np.random.default_rng(0), tested)
    trained = np.repeat(np.arange(7), TRAINED)
    rows = by_frequency(evaluation.Row("1_shot_top1", 0.5), found, trained)
    names = ("many", "medium", "few")
    assert [row.name for row in rows] == [f"1_shot_top1_{name}" for name in names]
    assert [row.note for row in rows] == [f"{note} images" for note in notes]
    right = predicted == labels
    for row, name in zip(rows, names, strict=True):
        shares = [right[labels == c].mean() for c in thirds(TRAINED, tested)[name]]
        assert row.value == pytest.approx(np.mean(shares), abs=1e-12)


@pytest.mark.parametrize(
    ("trained", "tested", "long"),
    [
        ((9, 90, 50, 50, 50, 50, 9), (1,) * 7, True),  # ten times as many, no less
        ((9, 89, 50, 50, 50, 50, 9), (1,) * 7, False),
        ((0, 9, 5, 5, 5, 5, 5), (1,) * 7, False),  # of none, as of one
        ((0, 10, 5, 5, 5, 5, 5), (1,) * 7, True),
        ((1, 20, 20, 20, 20, 20, 2), (0, 1, 1, 1, 1, 1, 0), False),  # no rare one is tested
        ((1, 20, 0, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0, 0), False),  # two are tested
        ((1, 20, 5, 0, 0, 0, 0), (1, 1, 1, 0, 0, 0, 0), True),
    ],
)
def test_only_a_long_tail_that_is_tested_has_thirds(trained, tested, long):
    _, _, found = found_of(np.random.default_rng(1), tested)
    rows = by_frequency(evaluation.Row("top1", 0.5), found, np.repeat(np.arange(7), trained))
    assert len(rows) == (3 if long else 0)


def test_two_classes_have_no_thirds():
    found = evaluation.confusion(np.array([0, 0]), np.array([0, 1]), ("cat", "dog"))
    assert by_frequency(evaluation.Row("top1", 0.5), found, np.repeat([0, 1], [50, 1])) == ()


def coloured(sizes):
    """Images of three colours, which tell their class, but every second one of "c" is red."""
    labels = np.repeat(np.arange(3), sizes).astype(np.int32)
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    images[np.arange(len(labels)), ..., labels] = 200
    images[labels == 2] = images[labels == 2] * (np.arange(sizes[2]) % 2)[:, None, None, None]
    images[(images == 0).all(axis=(1, 2, 3)), ..., 0] = 200
    return data.from_arrays(images, labels, class_names=("a", "b", "c"))


@pytest.mark.parametrize("name", ["knn", "few_shot", "few_labels", "linear_probe"])
def test_an_evaluation_tells_rare_classes_from_frequent_ones(name):
    train, test = coloured((60, 20, 4)), coloured((10, 10, 10))
    more = {
        "knn": {"k": 1},
        "few_shot": {"shots": (2,), "seeds": (0, 1)},
        "few_labels": {"fractions": (0.5, 1.0), "seeds": (0, 1)},
        "linear_probe": {"candidates": (10.0,), "epochs": 5, "seeds": (0, 1)},
    }
    evaluate = getattr(evaluation, f"evaluate_{name}")
    result = evaluate(evaluation.raw_pixels, train, test, mesh=MESH, **more[name])
    prefix = {"few_shot": "2_shot_", "few_labels": "50_percent_"}.get(name, "")
    rare = result.row(f"{prefix}top1_few")
    assert rare.note == "1 class of 4 images"
    assert (rare.std is None) == (name == "knn")
    if name != "few_labels":  # the confusion is of the first seed alone
        assert result.confusion.of in ("", "seed 0")
    values = [row.value for row in result.rows if row.name.startswith(f"{prefix}top1_")]
    assert np.mean(values) == pytest.approx(result.row(f"{prefix}top1").balanced, abs=1e-6)
    if name == "knn":
        assert values == [1.0, 1.0, 0.5]
