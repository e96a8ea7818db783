"""Logistic regression with all labels and with few, beside scikit-learn's."""

import functools
import itertools

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from dystress_jax import data, evaluation, run, sharding
from dystress_jax.errors import ArgumentError
from dystress_jax.evaluation._draws import some_of_each_class
from dystress_jax.run import evaluations, measuring
from tests import runs

NAMES = ("red", "green", "blue")


def source(count, seed):
    """Tiny images whose colour tells the class, more or less; the first class is the largest."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=(0.5, 0.3, 0.2))
    colours = np.random.default_rng(98).uniform(90, 160, (3, 1, 1, 3))
    pixels = colours[labels] + rng.normal(size=(count, 2, 2, 3)) * 40
    return data.from_arrays(pixels.clip(0, 255).astype(np.uint8), labels, class_names=NAMES)


TRAIN, HOLDOUT, TEST = source(150, 0), source(60, 1), source(200, 2)
MESH = {"mesh": sharding.make_mesh(jax.devices()[:1])}


@jax.jit
def encode(images):
    return images.reshape(len(images), -1) / 64.0 - 2.0


def arrays(of):
    gathered = of.gather(np.arange(len(of)))
    return np.asarray(encode(gathered["image"]), np.float64), gathered["label"]


def fitted(x, y, strength):
    """Of the sum of the losses plus strength times the squares of the weights."""
    return LogisticRegression(
        C=1 / (2 * strength), solver="newton-cholesky", tol=1e-8, max_iter=1000
    ).fit(x, y)


def chosen(train, validation):
    """The procedure of Kornblith's linear_eval, word by word, on scikit-learn."""
    score = lambda strength: fitted(*train, strength).score(*validation)
    tried = [10.0**power for power in range(6, -7, -2)]
    scores = [score(strength) for strength in tried]
    best, top, step = tried[int(np.argmax(scores))], max(scores), 100.0
    for _ in range(4):
        step = step**0.5
        left = score(best / step)
        if left > top:
            best, top = best / step, left
            continue
        right = score(best * step)
        if right > top:
            best, top = best * step, right
    return best, top


@pytest.mark.ci
def test_transfer_is_the_published_procedure():
    result = evaluation.evaluate_transfer(encode, TRAIN, TEST, holdout=HOLDOUT, **MESH)
    train, holdout, test = map(arrays, (TRAIN, HOLDOUT, TEST))
    strength, top1 = chosen(train, holdout)
    assert result.protocol["l2_of_the_sum"] == pytest.approx(strength)
    assert result.protocol["validation_top1"] == pytest.approx(top1)
    both = [np.concatenate(parts) for parts in zip(train, holdout, strict=True)]
    assert result.value("top1") == pytest.approx(fitted(*both, strength).score(*test))
    assert 0.5 < result.value("top1") < 1


def test_without_held_out_images_a_tenth_of_each_class_chooses():
    result = evaluation.evaluate_transfer(encode, TRAIN, TEST, **MESH)
    assert result.protocol["validation"] == "a tenth of each class"
    assert result.protocol["train_images"] + result.protocol["validation_images"] == 150
    sizes = np.bincount(TRAIN.labels())
    assert result.protocol["validation_images"] == sum(round(0.1 * size) for size in sizes)


@pytest.mark.ci
def test_several_seeds_of_transfer_draw_the_images_that_choose():
    result = evaluation.evaluate_transfer(
        encode, TRAIN, TEST, holdout=HOLDOUT, seeds=(0, 3), **MESH
    )
    (x, y), held_out, test = arrays(TRAIN), arrays(HOLDOUT), arrays(TEST)
    x, y = np.concatenate([x, held_out[0]]), np.concatenate([y, held_out[1]])
    scores = []
    for seed, of in zip((0, 3), result.protocol["chosen"], strict=True):
        tenth = some_of_each_class(y, lambda size: round(0.1 * size), seed)
        few, strength = (x[tenth], y[tenth]), of["l2_of_the_sum"]
        on_few = fitted(x[~tenth], y[~tenth], strength).score(*few)
        assert of["validation_top1"] == pytest.approx(on_few)
        # Of so few images one more or less makes another strength the best.
        assert on_few >= chosen((x[~tenth], y[~tenth]), few)[1] - 1.01 / len(few[1])
        scores.append(fitted(x, y, strength).score(*test))
    assert result.value("top1") == pytest.approx(np.mean(scores))
    assert [row[0].value for row in result.by_seed.values()] == pytest.approx(scores)
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(ArgumentError, match=r"seeds: found .*allowed: different num"):
            evaluation.evaluate_transfer(encode, TRAIN, TEST, seeds=seeds, **MESH)


def test_few_shots_are_the_published_classifier():
    result = evaluation.evaluate_few_shot(
        encode, TRAIN, TEST, shots=(1, 5), seeds=(7, 8, 9), **MESH
    )
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    (x, y), (test_x, test_y) = arrays(TRAIN), arrays(TEST)
    for shot in (1, 5):
        scores, balanced = [], []
        for draw in range(3):
            some = some_of_each_class(y, lambda size, shot=shot: shot, 7 + draw)
            assert np.bincount(y[some]).tolist() == [shot] * 3
            few = fitted(unit(x[some]), y[some], 0.5)
            scores.append(few.score(unit(test_x), test_y))
            balanced.append(balanced_accuracy_score(test_y, few.predict(unit(test_x))))
        assert result.value(f"{shot}_shot_top1") == pytest.approx(np.mean(scores))
        assert result.row(f"{shot}_shot_top1").balanced == pytest.approx(np.mean(balanced))
        in_json = result.to_json()
        assert in_json[f"{shot}_shot_top1_std"] == pytest.approx(np.std(scores, ddof=1))
        of_each = [in_json["by_seed"][seed][f"{shot}_shot_top1"] for seed in ("7", "8", "9")]
        assert of_each == pytest.approx(scores)
    with pytest.raises(ArgumentError, match=r"shots: found \(1, 1\); allowed: different whole"):
        evaluation.evaluate_few_shot(encode, TRAIN, TEST, shots=(1, 1), **MESH)
    with pytest.raises(ArgumentError, match=r"shots: found 99, but the smallest class has \d+ tr"):
        evaluation.evaluate_few_shot(encode, TRAIN, TEST, shots=(1, 99), **MESH)


def named(of, names):
    batch = of.gather(np.arange(len(of)))
    return data.from_arrays(batch["image"], batch["label"], class_names=names)


def test_a_name_without_images_keeps_nobody_from_the_others():
    train, test = (named(of, (*NAMES, "white")) for of in (TRAIN, TEST))
    result = evaluation.evaluate_few_shot(encode, train, test, shots=(5,), seeds=(7,), **MESH)
    alone = evaluation.evaluate_few_shot(encode, TRAIN, TEST, shots=(5,), seeds=(7,), **MESH)
    assert result.value("5_shot_top1") == pytest.approx(alone.value("5_shot_top1"), abs=0.02)
    assert not result.notes


def test_labels_that_only_choose_do_not_make_a_class_known():
    batch = TRAIN.gather(np.arange(len(TRAIN)))
    some = batch["label"] < 2
    train = data.from_arrays(batch["image"][some], batch["label"][some], class_names=NAMES)
    how = {"holdout": HOLDOUT, "fractions": (1.0,), "seeds": (0,), **MESH}
    result = evaluation.evaluate_few_labels(encode, train, TEST, **how)
    assert any("blue" in note for note in result.notes)
    for fractions in ((), (0.5, 0.5), (0.0,), (1.5,)):
        with pytest.raises(ArgumentError, match=r"fractions: found .*allowed: different numbers"):
            evaluation.evaluate_few_labels(encode, train, TEST, **{**how, "fractions": fractions})


def test_few_labels_are_balanced_and_choose_by_held_out_images():
    result = evaluation.evaluate_few_labels(
        encode, TRAIN, TEST, holdout=HOLDOUT, fractions=(0.6,), seeds=(0, 1), **MESH
    )
    (x, y), test = arrays(TRAIN), arrays(TEST)
    scores, balanced = [], []
    for draw in range(2):
        some = some_of_each_class(y, lambda size: max(1, round(0.6 * size)), draw)
        assert np.bincount(y[some]).tolist() == [round(0.6 * n) for n in np.bincount(y)]
        strength, _ = chosen((x[some], y[some]), arrays(HOLDOUT))
        few = fitted(x[some], y[some], strength)
        scores.append(few.score(*test))
        balanced.append(balanced_accuracy_score(test[1], few.predict(test[0])))
    assert result.value("60_percent_top1") == pytest.approx(np.mean(scores))
    assert result.row("60_percent_top1").balanced == pytest.approx(np.mean(balanced))
    for fractions in ((), (0.0,), (1.5,)):
        with pytest.raises(ArgumentError, match=r"fractions: found .*allowed: .* in \(0, 1\]"):
            evaluation.evaluate_few_labels(encode, TRAIN, TEST, fractions=fractions, **MESH)


def test_the_confusion_of_several_measurements_says_of_which_it_is():
    few_shot = functools.partial(evaluation.evaluate_few_shot, encode, TRAIN, TEST, **MESH)
    several, one = few_shot(shots=(1, 2), seeds=(7, 8)), few_shot(shots=(1,), seeds=(7,))
    assert several.confusion == one.confusion
    assert several.to_json()["per_class_of"] == "1 shot, seed 7"
    assert "per_class_of" not in one.to_json()
    seeds = few_shot(shots=(2,), seeds=(7, 8))
    assert seeds.to_json()["per_class_of"] == "seed 7"
    few_labels = evaluation.evaluate_few_labels(
        encode, TRAIN, TEST, holdout=HOLDOUT, fractions=(0.6, 1.0), seeds=(1,), **MESH
    )
    assert few_labels.to_json()["per_class_of"] == "60 % of the labels"
    transfer = evaluation.evaluate_transfer(
        encode, TRAIN, TEST, holdout=HOLDOUT, seeds=(3, 4), **MESH
    )
    assert transfer.to_json()["per_class_of"] == "seed 3"
    probe = evaluation.evaluate_linear_probe(
        encode,
        TRAIN,
        TEST,
        solver="lbfgs",
        candidates=(0.1,),
        fractions=(0.5, 1.0),
        seeds=(1, 2),
        **MESH,
    )
    assert probe.to_json()["per_class_of"] == "50 % of the labels, seed 1"


def test_draws_are_seeded_and_nested():
    labels = np.random.default_rng(0).integers(0, 4, 100)
    draw = lambda count, seed: some_of_each_class(labels, lambda size: count, seed)
    np.testing.assert_array_equal(draw(5, 0), draw(5, 0))
    assert (draw(5, 0) != draw(5, 1)).any()
    assert draw(5, 0)[draw(2, 0)].all()


@pytest.mark.parametrize(
    "labels",
    [
        np.random.default_rng(0).integers(-1, 6, 200),
        np.repeat([4, -1, 0, 9], [1, 30, 57, 2]),  # classes without an image, and of one
        np.zeros(20, int),
        np.full(5, -1),
        np.zeros(0, int),
    ],
    ids=["some unlabelled", "uneven", "one class", "none labelled", "empty"],
)
def test_draws_are_the_first_of_each_class_in_one_shuffled_order(labels):
    for seed, count in itertools.product(
        (0, 7), (lambda size: 3, lambda size: round(0.1 * size), lambda size: size)
    ):
        shuffled = np.random.RandomState(seed).permutation(len(labels))
        expected = np.zeros(len(labels), bool)
        for label in set(labels[labels >= 0].tolist()):
            of_class = [i for i in shuffled if labels[i] == label]
            expected[of_class[: count(len(of_class))]] = True
        found = some_of_each_class(labels.astype(np.int32), count, seed)
        np.testing.assert_array_equal(found, expected)
    found = data.draw_of_each_class(labels, np.arange(10), seed=7)
    for label in range(10):
        of_class = [i for i in shuffled if labels[i] == label]
        assert sorted(of_class[:label]) == np.flatnonzero(found & (labels == label)).tolist()


@pytest.mark.ci
def test_a_run_is_evaluated_by_each_with_its_settings(tmp_path):
    folder = runs.write_images(tmp_path / "images")
    labels = {"labels.shots": (2.0,), "labels.fractions": (0.5,), "labels.seeds": 1}
    experiment, state = runs.saved(runs.settings(folder, **labels), tmp_path / "run", steps=(1,))
    measure = lambda experiment, name: measuring.measure(
        evaluations.EVALUATIONS[name], experiment, state, name=name
    )
    for name, row in (
        ("transfer", "top1"),
        ("few_labels", "50_percent_top1"),
        ("few_shot", "2_shot_top1"),
    ):
        found = measure(experiment, name)
        assert found.split == "test"
        assert 0 <= found.value(row) <= 1
        assert found.confusion.counts.sum() == 16
    config = runs.settings(folder, **{"labels.shots": (500.0,)})
    with pytest.raises(run.ConfigError, match=r"config\.labels\.shots: found 500, but"):
        measure(experiment._replace(config=config), "few_shot")
