"""What an encoder must beat, against features and votes by hand."""

import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from dystress_jax import data, evaluation, sharding
from dystress_jax.evaluation import Result, Row, baselines
from dystress_jax.run import show, summary

NAMES = ("a", "b", "c")
KS = (1, 5, 40)


def source(count, channels, seed):
    """Classes of other brightness and other contrast, which overlap; the last is rare."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=(0.5, 0.4, 0.1))
    middle = np.array([[90, 120, 150], [130, 110, 120], [150, 120, 90]])[labels][:, :channels]
    contrast = np.array([20, 45, 70])[labels][:, None, None, None]
    images = middle[:, None, None] + contrast * rng.normal(size=(count, 5, 4, channels))
    images = images + 25 * rng.normal(size=(count, 1, 1, channels))
    return data.from_arrays(images.clip(0, 255).astype(np.uint8), labels, class_names=NAMES)


def arrays(of):
    batch = of.gather(np.arange(len(of)))
    return batch["image"].astype(int), batch["label"]


def raw(images):
    return images.reshape(len(images), -1) / 255


def histogram(images):
    channels = images.shape[-1]
    bins = 64 if channels == 1 else 8
    found = []
    for image in images:
        counts, _ = np.histogramdd(
            image.reshape(-1, channels), bins=bins, range=[(0, 256)] * channels
        )
        found.append(np.sqrt(counts.ravel() / counts.sum()))
    return np.stack(found)


def mean_colour(images):
    angle = np.pi * images.mean(axis=(1, 2)) / 255
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def by_hand(bank, labels, queries, k):
    model = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
    )
    return model.fit(bank, labels).predict(queries)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_baseline_is_the_vote_by_hand_with_the_k_that_is_best_for_it(channels):
    train, test = source(150, channels, 0), source(90, channels, 1)
    (bank, labels), (queries, wanted) = arrays(train), arrays(test)
    mix = np.random.default_rng(2).normal(size=(20 * channels, 6))
    untrained = jax.jit(lambda x: x.reshape(len(x), -1).astype(jnp.float32) @ jnp.float32(mix))
    mean = raw(bank).mean(axis=0)
    features = {
        "untrained": lambda x: x.reshape(len(x), -1) @ mix,
        "raw_pixels": raw,
        "centred_pixels": lambda x: raw(x) - mean,
        "histogram": histogram,
        "mean_colour": mean_colour,
    }
    found = evaluation.evaluate_baselines(
        untrained, train, test, k=KS, mesh=sharding.make_mesh(), batch_size=64
    )
    assert [row.name for row in found.rows] == [f"{name}_top1" for name in features]
    for row, (name, of) in zip(found.rows, features.items(), strict=True):
        predicted = {k: by_hand(of(bank), labels, of(queries), k) for k in KS}
        shares = {k: np.mean(guess == wanted) for k, guess in predicted.items()}
        # Similarities that are equal but for rounding may be ordered otherwise in float32.
        close = {"abs": 1.5 / len(queries)}
        for k in KS:
            assert found.protocol["top1_by_k"][name][str(k)] == pytest.approx(shares[k], **close)
        assert row.value == max(found.protocol["top1_by_k"][name].values())
        [best] = [k for k in KS if row.note == f"k {k}"]
        assert row.value == found.protocol["top1_by_k"][name][str(best)]
        balanced = balanced_accuracy_score(wanted, predicted[best])
        assert row.balanced == pytest.approx(balanced, abs=0.06)
        assert abs(row.balanced - row.value) > 0.01  # the two are told apart
        of_each = found.to_json()["per_class_accuracy"][row.name]
        assert list(of_each) == list(NAMES)
        assert np.mean(list(of_each.values())) == pytest.approx(row.balanced)
        shares = [np.mean(predicted[best][wanted == i] == i) for i in range(3)]
        np.testing.assert_allclose(list(of_each.values()), shares, atol=0.13)
    assert (found.protocol["bank_images"], found.protocol["test_images"]) == (150, 90)
    [note] = found.notes
    assert "best k of 1, 5, 40, chosen on the 90 images that are measured" in note
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_made_one_baseline_after_another_in_the_same_memory(channels):
    train, test = source(70, channels, 0), source(30, channels, 1)
    train = train.relabel(np.where(np.arange(70) % 5, train.labels(), -1), NAMES)
    mesh = sharding.make_mesh()
    encode = lambda encoder: [
        evaluation.encode_source(encoder, images, mesh=mesh)[0] for images in (train, test)
    ]
    raw = encode(evaluation.raw_pixels)
    expected = {
        "untrained": encode(evaluation.mean_colour),
        "raw_pixels": raw,
        "centred_pixels": [x - raw[0].mean(axis=0) for x in raw],
        "histogram": encode(evaluation.histogram),
        "mean_colour": encode(evaluation.mean_colour),
    }
    names, of_untrained, before = [], None, None
    for name, *both in baselines._features(evaluation.mean_colour, train, test, mesh, 16):
        assert of_untrained is None or of_untrained() is None
        for found, wanted in zip(both, expected[name], strict=True):
            np.testing.assert_array_equal(found.features, wanted)
        if name == "untrained":
            of_untrained = weakref.ref(both[0].features)
        if name == "centred_pixels":
            assert np.shares_memory(both[0].features, before)
        before = both[0].features if name == "raw_pixels" else None
        names.append(name)
        del both, found  # as the evaluation does
    assert names == list(expected)


def test_only_the_arrangement_of_pixels_makes_no_difference_to_histogram_and_mean():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (16, 3))
    images = jnp.uint8([values[rng.permutation(16)].reshape(4, 4, 3) for _ in range(8)])
    for features in (evaluation.histogram(images), evaluation.mean_colour(images)):
        np.testing.assert_array_equal(features, np.tile(features[:1], (8, 1)))


def test_a_colour_is_the_nearer_the_less_it_differs():
    levels = np.arange(0, 256, 5)
    images = jnp.uint8(np.tile(levels[:, None, None, None], (1, 2, 2, 1)))
    features = evaluation.mean_colour(images)
    for row, level in enumerate(levels):
        order = np.argsort(-np.asarray(features @ features[row]), kind="stable")
        differences = np.abs(levels[order] - level)
        assert (np.diff(differences) >= 0).all()


def test_with_a_bank_of_few_images_all_of_them_vote():
    few = source(4, 3, 0)
    found = evaluation.evaluate_baselines(
        evaluation.raw_pixels, few, source(9, 3, 1), mesh=sharding.make_mesh()
    )
    assert list(found.protocol["top1_by_k"]["untrained"]) == ["1", "4"]
    assert found.rows[0].value == found.rows[1].value


def test_the_summary_has_every_baseline_and_its_balanced_accuracy():
    rows = (Row("untrained_top1", 0.25, balanced=0.2), Row("mean_colour_top1", 0.5, balanced=0.4))
    knn = Result((Row("top1", 0.75, balanced=0.7),), {"bank_images": 5}, split="test")
    numbers = summary.of_results({"knn": knn, "baselines": Result(rows, {})})
    del numbers["evaluations"]
    assert numbers == {
        "knn_trained": 0.75,
        "knn_trained_balanced": 0.7,
        "knn_split": "test",
        "knn_bank": 5,
        "knn_untrained": 0.25,
        "knn_untrained_balanced": 0.2,
        "knn_mean_colour": 0.5,
        "knn_mean_colour_balanced": 0.4,
    }
    shown = show.results({"baselines": Result(rows, {})})
    assert "untrained top1     25.0 %   balanced 20.0 %" in shown


def test_what_is_given_twice_is_measured_once():
    train, test = source(80, 3, 0), source(60, 3, 1)
    found = evaluation.evaluate_knn(
        evaluation.raw_pixels,
        train,
        test,
        k=(3, 3, 99, 200),  # more than there are: the whole bank
        temperature=(0.1, 0.5, 0.1),
        mesh=sharding.make_mesh(),
    )
    names = ("top1", "top1_k3_t0.5", "top1_k80_t0.1", "top1_k80_t0.5")
    assert [row.name for row in found.rows if row.name.startswith("top1")] == [*names]
    assert found.protocol["temperature"] == [0.1, 0.5]


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    train, test = source(80, 3, 0), source(60, 3, 1)
    found = evaluation.evaluate_knn(
        evaluation.raw_pixels, train, test, k=(3, 9), mesh=sharding.make_mesh()
    )
    (bank, labels), (queries, wanted) = arrays(train), arrays(test)
    for row, k in ((found.row("top1"), 3), (found.row("top1_k9"), 9)):
        guess = by_hand(raw(bank), labels, raw(queries), k)
        assert row.balanced == pytest.approx(balanced_accuracy_score(wanted, guess))
        assert row.note == f"k {k}"
    assert found.to_json()["balanced"]["top1"] == found.to_json()["balanced_accuracy"]
    # A class that is not in the test set counts nothing.
    scores = jnp.float32(rng.normal(size=(30, 4)))
    seen = rng.integers(0, 3, 30)
    (top1, _), _ = evaluation._result.classified(scores, jnp.int32(seen), tuple("abcd"))
    kept = np.asarray(scores.argmax(axis=1))
    shares = [np.mean(kept[seen == c] == c) for c in range(3)]
    assert top1.balanced == pytest.approx(np.mean(shares))
