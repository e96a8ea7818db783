"""The representation: every row against float64, and as eval.py and a run report it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import evaluation, run
from dystress_jax.errors import ArgumentError
from dystress_jax.evaluation import evaluate_representation
from dystress_jax.run.evaluations import representation_of
from tests import oracles

pytestmark = pytest.mark.usefixtures("one_device")


def representation_oracle(x, a, b, labels):
    """Every row in float64, from whole matrices of pairs; NaN where there are none."""
    x, a, b = map(oracles.unit, np.float64([x, a, b]))
    other = ~np.eye(len(x), dtype=bool)

    def mean(values, chosen):
        return values[chosen].mean() if chosen.any() else np.nan

    def uniformity(points):
        squared = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
        return np.log(mean(np.exp(-2 * squared), ~np.eye(len(points), dtype=bool)))

    known = (labels >= 0)[:, None] & (labels >= 0)[None]
    same = known & (labels[:, None] == labels[None])
    means = [x[labels == label].mean(axis=0) for label in np.unique(labels[labels >= 0])]
    singular = np.linalg.svd(x, compute_uv=False)
    p = singular[singular > 0] / singular.sum()
    return {
        "alignment": np.mean(np.sum((a - b) ** 2, axis=1)),
        "uniformity": uniformity(x),
        "tolerance": mean(x @ x.T, same & other),
        "tolerance_all_pairs": mean(x @ x.T * same, known & other),
        "inter_class_uniformity": uniformity(oracles.unit(np.array(means).reshape(-1, x.shape[1]))),
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
        "true_positive_similarity": np.mean(np.sum(a * b, axis=1)),
        "true_negative_similarity": mean(a @ b.T, known & ~same),
        "false_negative_similarity": mean(a @ b.T, same & other),
    }


def views(count, seed=0, width=5, classes=6):
    """Embeddings of images and of two views of each, of different lengths."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    x = np.float32(rng.normal(size=(classes, width))[labels] + rng.normal(size=(count, width)))
    a, b = x + 0.5 * rng.normal(size=(2, *x.shape))
    return x, np.float32(a), np.float32(3 * b), labels


def partly_labelled(labels):
    return np.where(np.arange(len(labels)) % 3 == 1, -1, labels)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("count", "label", "left_out"),
    [
        (256, lambda y: y, set()),
        (301, partly_labelled, set()),  # a ragged block of images, and one of labelled images
        (530, lambda y: np.where(y == 3, 1000, y) * 7, set()),
        (40, np.zeros_like, {"inter_class_uniformity", "true_negative_similarity"}),
        (9, lambda y: np.arange(len(y)), {"tolerance", "false_negative_similarity"}),
        (
            12,
            lambda y: np.r_[4, np.full(len(y) - 1, -1)],
            {
                "tolerance",
                "tolerance_all_pairs",
                "inter_class_uniformity",
                "true_negative_similarity",
                "false_negative_similarity",
            },
        ),
        (
            12,
            lambda y: np.full_like(y, -1),
            {
                "tolerance",
                "tolerance_all_pairs",
                "inter_class_uniformity",
                "true_negative_similarity",
                "false_negative_similarity",
            },
        ),
        (
            1,
            lambda y: y,
            {
                "uniformity",
                "tolerance",
                "tolerance_all_pairs",
                "inter_class_uniformity",
                "true_negative_similarity",
                "false_negative_similarity",
            },
        ),
    ],
    ids=["block", "ragged", "any labels", "one class", "one image a class", "one", "none", "image"],
)
def test_the_representation_is_measured_over_all_pairs_there_are(count, label, left_out):
    x, a, b, labels = views(count)
    labels = label(labels)
    result = evaluate_representation(x, a, b, labels)
    expected = representation_oracle(x, a, b, labels)
    assert [row.name for row in result.rows] == [name for name in expected if name not in left_out]
    assert {name for name, value in expected.items() if np.isnan(value)} == left_out
    for row in result.rows:
        np.testing.assert_allclose(
            row.value, expected[row.name], rtol=2e-6, atol=2e-7, err_msg=row.name
        )
        assert (row.chance, row.share) == (None, False)
    assert result.protocol == {
        "evaluation": "representation",
        "images": count,
        "labelled_images": (labels >= 0).sum(),
        "classes": len(set(labels[labels >= 0])),
        "dimension": 5,
    }


def test_images_that_are_there_twice_are_pairs_like_others():
    x, a, b, labels = (np.concatenate([part, part]) for part in views(150))
    result = evaluate_representation(x, a, b, labels)
    for name, value in representation_oracle(x, a, b, labels).items():
        np.testing.assert_allclose(result.value(name), value, rtol=2e-6, atol=2e-7, err_msg=name)


def test_collapsed_embeddings_are_as_alike_as_can_be():
    x, labels = np.full((40, 5), 2.0, np.float32), np.arange(40) % 3
    result = evaluate_representation(x, x, x, labels)
    distances = ("alignment", "uniformity", "inter_class_uniformity")
    same_pairs = np.mean([labels[i] == labels[j] for i in range(40) for j in range(40) if i != j])
    for row in result.rows:
        expected = 0 if row.name in distances else same_pairs if "all_pairs" in row.name else 1
        np.testing.assert_allclose(row.value, expected, rtol=1e-4, atol=1e-6, err_msg=row.name)


def test_the_prefix_tells_two_kinds_of_embeddings_apart():
    x, a, b, labels = views(20)
    plain = evaluate_representation(x, a, b, labels)
    named = evaluate_representation(*map(jnp.asarray, (x, a, b)), labels, prefix="features_")
    assert named.rows == tuple(row._replace(name=f"features_{row.name}") for row in plain.rows)
    merged = json.loads(json.dumps({**plain.to_json(), **named.to_json()}))
    assert merged["features_tolerance"] == merged["tolerance"]
    assert named.protocol["features_dimension"] == 5


def test_a_representation_that_cannot_be_measured_is_refused_with_the_reason():
    x, a, b, labels = views(8)
    measure = evaluate_representation
    with pytest.raises(ArgumentError, match="embeddings: found none"):
        measure(x[:0], a[:0], b[:0], labels[:0])
    a[3, 1] = np.inf
    with pytest.raises(evaluation.NotFiniteError, match="features of 1 of 8 images are NaN"):
        measure(x, a, b, labels)


SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)


def settings(path):
    return run.from_config_dict(
        {
            "batch_size": 8,
            "steps": 2,
            "log_every": 1,
            "knn_every": 2,
            "data": {"source": "npz", "path": str(path), "holdout": 0.2},
            "model": {"name": "vit_micro", "patch": 4},
            "projector": {"hidden": 8, "out": 4},
        }
    )


@pytest.mark.ci
@pytest.mark.parametrize("labelled", [True, False])
def test_a_run_logs_it_of_the_held_out_images_and_eval_gives_it_of_the_test_images(
    tmp_path, labelled
):
    labels = {"train_labels": np.arange(32) % 2, "test_labels": np.arange(8) % 2}
    arrays = {"train_images": IMAGES[:32], "test_images": IMAGES[32:]}
    np.savez(tmp_path / "images.npz", **arrays, **(labels if labelled else {}))
    config, workdir = settings(tmp_path / "images.npz"), tmp_path / "run"
    run.train(config, workdir)
    *_, last = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    always = ("alignment", "uniformity", "effective_rank", "true_positive_similarity")
    of_classes = ("tolerance", "true_negative_similarity", "false_negative_similarity")
    for kind in ("features", "embeddings"):
        assert all(np.isfinite(last[f"{kind}_{name}"]) for name in always)
        assert all((f"{kind}_{name}" in last) == labelled for name in of_classes)
    assert ("knn" in last) == labelled

    result, numbers = run.evaluate(workdir, "representation")
    assert (result.split, numbers["protocol"]["images"]) == ("test", 8)
    assert numbers["protocol"]["embeddings_dimension"] == 4
    assert numbers["protocol"]["recipe"] == "simclr_cifar"
    experiment, state = run.restore(workdir)
    x = oracles.unit(np.float64(experiment.embed(state.params, state.stats, IMAGES[32:])[1]))
    squared = ((x[:, None] - x) ** 2).sum(axis=-1)[~np.eye(8, dtype=bool)]
    found = result.value("embeddings_uniformity")
    assert found == pytest.approx(np.log(np.exp(-2 * squared).mean()), rel=1e-4)
    key = jax.random.fold_in(jax.random.key(0), IMAGES[32:].sum())
    _, pairs = experiment.embed_views(state.params, state.stats, key, IMAGES[32:])
    a, b = (oracles.unit(np.float64(pairs[:, view])) for view in (0, 1))
    mean = (a * b).sum(axis=1).mean()
    assert result.value("embeddings_true_positive_similarity") == pytest.approx(mean, rel=1e-3)
    again = representation_of(experiment, state, "test", at_most=4)
    assert again.protocol["images"] == 4
