import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from dystress_jax import data, errors, evaluation, sharding
from dystress_jax.errors import ArgumentError
from dystress_jax.evaluation import linear_head
from dystress_jax.evaluation._draws import share_of_each_class
from dystress_jax.evaluation.knn import Labelled, scores_of_each
from dystress_jax.evaluation.linear_head import solve_lbfgs

NAMES = ("red", "green", "blue", "grey", "dark", "light")


def from_arrays(images, labels=None, class_names=()):
    labels = np.full(len(images), -1) if labels is None else labels
    stored = labels.astype(np.int32)
    return data.Source(
        read=lambda rows: (images[rows], stored[rows]),
        index=np.arange(len(images), dtype=np.int32),
        image_shape=images.shape[1:],
        class_names=tuple(class_names),
    )


def one_device():
    return sharding.make_mesh(jax.devices()[:1])


def random_features(count, width=16, classes=6, seed=0):
    """Classes that overlap, so that accuracies are neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = centres[labels] + rng.normal(size=(count, width)) * 1.5
    return features.astype(np.float32), labels.astype(np.int32)


def image_source(count, classes=6, seed=0, noise=30.0, names=None):
    """Tiny images whose colour tells the class, more or less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    colours = np.random.default_rng(98).uniform(40, 215, (classes, 1, 1, 3))
    pixels = colours[labels] + rng.normal(size=(count, 3, 3, 3)) * noise
    images = pixels.clip(0, 255).astype(np.uint8)
    return from_arrays(images, labels, class_names=NAMES[:classes] if names is None else names)


def unlabelled_source(count=20):
    return from_arrays(np.zeros((count, 3, 3, 3), np.uint8))


# --- accuracy ---------------------------------------------------------------------------------


def test_top_accuracy_counts_labels_among_the_highest_scores():
    scores, labels = random_features(200, width=7, classes=7)
    for top in (1, 3, 5):
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        expected = np.mean([label in row for label, row in zip(labels, ranked, strict=True)])
        got = evaluation.top_accuracy(jnp.array(scores), jnp.array(labels), top=top)
        assert float(got) == pytest.approx(expected)


def test_of_equal_scores_the_lower_class_counts_as_higher():
    scores = jnp.zeros((6, 6))
    assert float(evaluation.top_accuracy(scores, jnp.arange(6), top=1)) == pytest.approx(1 / 6)
    assert float(evaluation.top_accuracy(scores, jnp.arange(6), top=5)) == pytest.approx(5 / 6)


def test_nan_among_the_scores_shows():
    scores = jnp.array([[0.1, jnp.nan], [0.5, 0.4]])
    assert np.isnan(evaluation.top_accuracy(scores, jnp.array([1, 0]), top=1))


def test_top_five_of_two_classes_is_everything():
    assert float(evaluation.top_accuracy(jnp.zeros((4, 2)), jnp.array([0, 1, 1, 0]), top=5)) == 1


# --- what an evaluation returns ---------------------------------------------------------------


RESULT = evaluation.Result(
    (
        evaluation.Row("top1", 0.5, chance=0.25),
        evaluation.Row("top5", 1.0),
        evaluation.Row("rank", 7.5, share=False),
    ),
    {"evaluation": "made by hand", "sizes": [1, 2]},
)


def test_a_result_in_json_is_its_rows_by_name_and_what_they_depend_on():
    assert json.loads(json.dumps(RESULT._replace(split="test").to_json())) == {
        "top1": 0.5,
        "top5": 1.0,
        "rank": 7.5,
        "chance": {"top1": 0.25},
        "protocol": {"evaluation": "made by hand", "sizes": [1, 2]},
        "split": "test",
    }
    unguessed = RESULT._replace(rows=RESULT.rows[1:]).to_json()
    assert list(unguessed) == ["top5", "rank", "protocol", "split"]


def test_a_row_is_found_by_its_name_only():
    assert RESULT.value("rank") == 7.5
    with pytest.raises(errors.ArgumentError, match=r"found 'top3'; allowed: top1, top5, rank\."):
        RESULT.value("top3")


# --- nearest neighbours -----------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 20, 250])
def test_knn_votes_match_scikit_learn(k):
    bank, labels = random_features(250)
    queries, _ = random_features(64, seed=1)
    for temperature in (0.07, 0.5):
        oracle = KNeighborsClassifier(
            k, metric="cosine", weights=lambda distance, t=temperature: np.exp((1 - distance) / t)
        )
        expected = oracle.fit(bank.astype(np.float64), labels).predict_proba(
            queries.astype(np.float64)
        )
        got = evaluation.knn_votes(
            jnp.array(queries),
            jnp.array(bank),
            jnp.array(labels),
            k=k,
            temperature=temperature,
            num_classes=6,
        )
        np.testing.assert_allclose(got, expected, atol=2e-5)


def votes(queries, bank, labels, **settings):
    arrays = (jnp.array(a) for a in (queries, bank, labels))
    return np.asarray(evaluation.knn_votes(*arrays, **settings))


def test_more_neighbours_than_there_are_is_all_of_them():
    bank, labels = random_features(30)
    queries, _ = random_features(5, seed=1)
    all_30 = votes(queries, bank, labels, k=30, num_classes=6)
    np.testing.assert_array_equal(votes(queries, bank, labels, k=200, num_classes=6), all_30)


def test_one_class_gets_every_vote():
    bank, _ = random_features(30)
    got = votes(bank[:4], bank, np.zeros(30, np.int32), k=7, num_classes=1)
    np.testing.assert_allclose(got, 1, rtol=1e-6)


def test_the_length_of_features_and_the_size_of_chunks_change_nothing():
    bank, labels = random_features(60)
    queries, _ = random_features(23, seed=1)
    expected = votes(queries, bank, labels, k=9, num_classes=6)
    lengths = np.random.default_rng(2).uniform(0.1, 10, (60, 1)).astype(np.float32)
    longer = votes(queries * 3, bank * lengths, labels, k=9, num_classes=6)
    np.testing.assert_allclose(longer, expected, atol=1e-5)
    chunked = votes(queries, bank, labels, k=9, num_classes=6, chunk_size=5)
    np.testing.assert_allclose(chunked, expected, atol=1e-6)


def test_a_tiny_temperature_leaves_the_nearest_and_no_overflow():
    bank, labels = random_features(60)
    queries, _ = random_features(23, seed=1)
    nearest = votes(queries, bank, labels, k=1, num_classes=6)
    got = votes(queries, bank, labels, k=50, temperature=1e-5, num_classes=6)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got.argmax(axis=1), nearest.argmax(axis=1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_votes_of_half_precision_are_those_of_its_numbers(dtype):
    bank, labels = random_features(60)
    queries, _ = random_features(23, seed=1)
    half = [jnp.asarray(x, dtype) for x in (queries, bank)]
    found = evaluation.knn_votes(*half, jnp.array(labels), k=9, num_classes=6)
    exact = evaluation.knn_votes(
        *(x.astype(jnp.float32) for x in half), jnp.array(labels), k=9, num_classes=6
    )
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("temperature", [0.005, 0.001, 1e-4])
def test_votes_that_are_too_few_for_a_float_are_guesses_too(temperature):
    bank, labels = random_features(250, width=4)
    queries, known = random_features(64, width=4, seed=1)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    exponents = unit(np.float64(queries)) @ unit(np.float64(bank)).T / temperature
    exponents -= exponents.max(axis=1, keepdims=True)
    of_class = np.stack(
        [logsumexp(np.where(labels == c, exponents, -np.inf), axis=1) for c in range(6)], axis=1
    )
    five = np.argsort(-of_class, axis=1)[:, :5]
    given = [Labelled(bank, labels), Labelled(queries, known)]
    [(_, _, scores)] = scores_of_each(*given, ks=(250,), temperatures=(temperature,), num_classes=6)
    expected = (five == known[:, None]).any(axis=1).mean()
    found = evaluation.top_accuracy(scores, jnp.array(known), top=5)
    assert abs(found - expected) <= 1 / 64  # two classes may be as near as rounding tells


def test_of_equally_near_neighbours_the_earlier_counts():
    bank = np.tile(np.float32([[1.0, 0.0]]), (3, 1))
    labels = np.int32([2, 0, 1])
    got = votes(bank[:1], bank, labels, k=1, num_classes=3)
    np.testing.assert_array_equal(got, [[0, 0, 1]])


def test_features_of_length_zero_are_as_near_to_everything():
    got = votes(
        np.zeros((1, 4), np.float32), np.eye(4, dtype=np.float32), np.arange(4), num_classes=4
    )
    np.testing.assert_allclose(got, 0.25)


def test_a_neighbour_without_a_class_has_no_vote():
    """-1 is no label everywhere; counted from the end it would be the last class."""
    bank, labels = jnp.eye(3), jnp.array([0, -1, 5])
    votes = evaluation.knn_votes(jnp.eye(3), bank, labels, k=1, num_classes=3)
    np.testing.assert_array_equal(votes, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    with pytest.raises(ArgumentError, match="num_classes: found 0"):
        evaluation.knn_votes(jnp.eye(3), bank, labels, k=1, num_classes=0)


def test_the_mean_colour_of_a_large_picture_is_that_of_a_small_one():
    """Whose pixels add up to more than an int32 holds."""
    small = jnp.array([[[[10, 200, 255]]]], jnp.uint8)
    large = jnp.broadcast_to(small, (1, 3000, 3000, 3))
    np.testing.assert_allclose(
        evaluation.mean_colour(large), evaluation.mean_colour(small), atol=1e-5
    )


def test_impossible_knn_settings_are_refused():
    bank, labels = random_features(5)
    with pytest.raises(ValueError, match="k: found 0; allowed: at least 1"):
        votes(bank, bank, labels, k=0, num_classes=6)
    with pytest.raises(ArgumentError, match=r"^temperature: found 0\.0; allowed: "):
        votes(bank, bank, labels, k=1, temperature=0.0, num_classes=6)
    with pytest.raises(ArgumentError, match=r"^k: found -1; allowed: at least 1"):
        evaluation.nearest_neighbours(jnp.array(bank), jnp.array(bank), k=-1)
    with pytest.raises(ValueError, match="bank: found no features"):
        votes(bank, bank[:0], labels[:0], num_classes=6)
    source = image_source(8)
    with pytest.raises(ValueError, match="temperature: found 0; allowed: above 0"):
        evaluation.evaluate_knn(
            evaluation.raw_pixels, source, source, temperature=0, mesh=one_device()
        )


# --- features of a source ---------------------------------------------------------------------


def test_encoding_keeps_the_order_and_leaves_out_padding_and_unlabelled_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (37, 3, 3, 3)).astype(np.uint8)
    labels = rng.integers(-1, 3, 37)
    assert (labels == -1).any()
    source = from_arrays(images, labels, class_names=NAMES[:3])
    for mesh in (one_device(), sharding.make_mesh()):
        features, found = evaluation.encode_source(
            evaluation.raw_pixels, source, mesh=mesh, batch_size=10
        )
        np.testing.assert_array_equal(found, labels[labels >= 0])
        expected = images[labels >= 0].reshape(len(found), -1) / np.float32(255)
        np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_a_jitted_encoder_compiles_once_for_all_batches_and_sources():
    traces = []

    @jax.jit
    def encode(images):
        traces.append(images.shape)
        return evaluation.raw_pixels(images)

    for _ in range(2):
        evaluation.evaluate_knn(
            encode, image_source(50), image_source(21, seed=1), mesh=one_device(), batch_size=16
        )
    assert traces == [(16, 3, 3, 3)]


def test_features_that_are_not_finite_are_refused():
    source = image_source(12)
    with pytest.raises(
        evaluation.NotFiniteError, match="features of 12 of 12 images are NaN or infinite"
    ):
        evaluation.encode_source(
            lambda images: evaluation.raw_pixels(images) * jnp.nan, source, mesh=one_device()
        )


def test_sources_without_labels_are_refused_with_the_reason():
    labelled, unlabelled = image_source(12), unlabelled_source()
    with pytest.raises(ValueError, match="train: found 20 images without labels"):
        evaluation.evaluate_knn(evaluation.raw_pixels, unlabelled, labelled, mesh=one_device())
    with pytest.raises(ValueError, match="test: found 0 classes, and 6 in `train`"):
        evaluation.evaluate_knn(evaluation.raw_pixels, labelled, unlabelled, mesh=one_device())
    hidden = from_arrays(np.zeros((4, 3, 3, 3), np.uint8), np.full(4, -1), class_names=NAMES)
    with pytest.raises(ValueError, match="source: found 4 images, none of them with a label"):
        evaluation.evaluate_knn(evaluation.raw_pixels, labelled, hidden, mesh=one_device())


def test_other_classes_in_the_held_out_images_are_refused():
    swapped, source = image_source(12, names=NAMES[::-1]), image_source(12)
    for evaluate in (
        evaluation.evaluate_transfer,
        evaluation.evaluate_few_labels,
        evaluation.evaluate_linear_probe,
    ):
        with pytest.raises(ArgumentError, match=r"holdout: .* classes, and 6 in `train`"):
            evaluate(evaluation.raw_pixels, source, source, holdout=swapped, mesh=one_device())


def test_other_classes_in_the_test_set_are_refused():
    swapped = image_source(12, names=NAMES[::-1])
    with pytest.raises(ValueError, match="allowed: the same classes in the same order"):
        evaluation.evaluate_knn(evaluation.raw_pixels, image_source(12), swapped, mesh=one_device())


def test_knn_of_a_source_is_knn_of_its_pixels_on_one_device_and_on_eight():
    bank, queries = image_source(150, noise=90.0), image_source(61, noise=90.0, seed=1)

    def pixels(source):
        batch = source.gather(np.arange(len(source)))
        return batch["image"].reshape(len(source), -1) / 255, batch["label"]

    oracle = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
    ).fit(*pixels(bank))
    expected = oracle.score(*pixels(queries))
    assert 0.3 < expected < 0.95
    for mesh in (one_device(), sharding.make_mesh()):
        result = evaluation.evaluate_knn(
            evaluation.raw_pixels, bank, queries, k=20, mesh=mesh, batch_size=64
        )
        assert result.value("top1") == pytest.approx(expected)
        assert result.value("top1") <= result.value("top5") <= 1
        few = len(bank.class_names) <= 5  # of which five are always right
        assert [bool(row.note) for row in result.rows if row.name == "top5"] == [few]
        again = evaluation.evaluate_knn(evaluation.raw_pixels, bank, queries, k=20, mesh=mesh)
        assert again == result


def test_five_guesses_of_few_neighbours_do_not_depend_on_the_order_of_the_classes():
    bank, queries = image_source(150, noise=90.0), image_source(61, noise=90.0, seed=1)
    found = []
    for order in (lambda label: label, lambda label: 5 - label):
        renamed = [
            data.from_arrays(batch["image"], order(batch["label"]), class_names=source.class_names)
            for source in (bank, queries)
            for batch in [source.gather(np.arange(len(source)))]
        ]
        result = evaluation.evaluate_knn(
            evaluation.raw_pixels, *renamed, k=1, mesh=one_device(), batch_size=64
        )
        found.append((result.value("top1"), result.value("top5")))
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]  # one neighbour, one guess


def test_the_result_says_how_it_was_measured_and_fits_in_json():
    result = evaluation.evaluate_knn(
        evaluation.raw_pixels, image_source(50), image_source(20, seed=1), mesh=one_device()
    )
    assert json.loads(json.dumps(result.to_json()))["protocol"] == {
        "evaluation": "knn",
        "k": 50,
        "temperature": 0.1,
        "bank_images": 50,
        "test_images": 20,
        "classes": 6,
    }


# --- linear classifiers -----------------------------------------------------------------------


def sgd_oracle(x, y, *, rate, epochs, classes, momentum=0.9):
    """Gradient descent on all examples at once, in float64."""
    x = x.astype(np.float64)
    target = np.eye(classes)[y]
    w, b = np.zeros((x.shape[1], classes)), np.zeros(classes)
    vw, vb = np.zeros_like(w), np.zeros_like(b)
    for step in range(epochs):
        score = x @ w + b
        p = np.exp(score - score.max(axis=1, keepdims=True))
        error = (p / p.sum(axis=1, keepdims=True) - target) / len(x)
        vw, vb = momentum * vw + x.T @ error, momentum * vb + error.sum(axis=0)
        eta = rate * len(x) / 256 * (1 + np.cos(np.pi * step / epochs)) / 2
        w, b = w - eta * vw, b - eta * vb
    return w, b


RATES = (0.1, 2.0)


def test_sgd_with_one_batch_is_gradient_descent_with_momentum_and_cosine():
    x, y = random_features(60)
    head = evaluation.fit_sgd(
        jax.random.key(0), jnp.array(x), jnp.array(y), jnp.array(RATES), num_classes=6, epochs=30
    )
    for candidate, rate in enumerate(RATES):
        w, b = sgd_oracle(x, y, rate=rate, epochs=30, classes=6)
        np.testing.assert_allclose(head.kernel[candidate], w, atol=2e-6)
        np.testing.assert_allclose(head.bias[candidate], b, atol=2e-6)


def test_an_epoch_of_sgd_visits_examples_once_and_drops_the_incomplete_batch():
    # With one feature an example and tiny steps, row i of the kernel moves when i is visited.
    key, rates = jax.random.key(0), jnp.array([1e-3])
    x, y = jnp.eye(10), jnp.zeros(10, jnp.int32)
    head = evaluation.fit_sgd(key, x, y, rates, num_classes=2, epochs=1, batch_size=1, momentum=0.0)
    moved = np.asarray(head.kernel[0, :, 0])
    assert (moved > 0).all()
    # The rate falls as a cosine, a step an example.
    cosine = (1 + np.cos(np.pi * np.arange(10) / 10)) / 2
    np.testing.assert_allclose(np.sort(moved)[::-1], 0.5e-3 / 256 * cosine, rtol=1e-3)

    four = evaluation.fit_sgd(key, x, y, rates, num_classes=2, epochs=1, batch_size=4, momentum=0.0)
    assert (np.asarray(four.kernel[0, :, 0]) > 0).sum() == 8


def test_unlabelled_rows_do_not_count():
    x, y = random_features(40)
    hidden = y.copy()
    hidden[25:] = -1
    fit = lambda x, y, rate: evaluation.fit_sgd(
        jax.random.key(0), jnp.array(x), jnp.array(y), jnp.array([rate]), num_classes=6, epochs=5
    )
    few = fit(x[:25], y[:25], 40 / 25)  # the rate grows with the batch
    np.testing.assert_allclose(fit(x, hidden, 1.0).kernel, few.kernel, atol=1e-6)


def test_lbfgs_matches_scikit_learn():
    x, y = random_features(200)
    strengths = (0.1, 0.003)
    head = evaluation.fit_lbfgs(
        jnp.array(x), jnp.array(y), jnp.array(strengths), num_classes=6, tolerance=1e-5
    )
    for candidate, strength in enumerate(strengths):
        oracle = LogisticRegression(C=1 / (len(x) * strength), tol=1e-8, max_iter=2000)
        oracle.fit(x.astype(np.float64), y)
        np.testing.assert_allclose(head.kernel[candidate], oracle.coef_.T, atol=5e-3)
        probabilities = jax.nn.softmax(head(jnp.array(x))[candidate])
        np.testing.assert_allclose(probabilities, oracle.predict_proba(x), atol=1e-3)


def test_lbfgs_has_by_default_the_weights_of_scikit_learn_at_every_strength():
    x, y = random_features(200)
    strengths = (1e-2, 1e-4)
    head = evaluation.fit_lbfgs(jnp.array(x), jnp.array(y), jnp.array(strengths), num_classes=6)
    for kernel, strength in zip(head.kernel, strengths, strict=True):
        oracle = LogisticRegression(C=1 / (len(x) * strength), tol=1e-6, max_iter=5000)
        expected = oracle.fit(x.astype(np.float64), y).coef_.T
        error = np.linalg.norm(kernel - expected) / np.linalg.norm(expected)
        assert error < 1e-3, (strength, error)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_lbfgs_does_not_stall_far_from_zero(far):
    x, y = random_features(200)
    x = np.concatenate([x, np.ones((200, 1))], axis=1).astype(np.float32)
    x[:, -1] *= far
    head = evaluation.fit_lbfgs(jnp.array(x), jnp.array(y), jnp.array([1e-2]), num_classes=6)
    oracle = LogisticRegression(C=1 / (len(x) * 1e-2), tol=1e-6, max_iter=5000)
    expected = oracle.fit(x[:, :-1].astype(np.float64), y)
    np.testing.assert_allclose(head.kernel[0, :-1], expected.coef_.T, atol=2e-3)
    probabilities = jax.nn.softmax(head(jnp.array(x))[0])
    np.testing.assert_allclose(probabilities, expected.predict_proba(x[:, :-1]), atol=1e-3)


def test_lbfgs_says_whether_it_has_come_to_its_tolerance():
    x, y = (jnp.array(each) for each in random_features(200))
    solve = functools.partial(solve_lbfgs, x, y, jnp.array([1.0, 1e-3]), num_classes=6)
    steps = lambda number: solve(max_steps=number).converged.tolist()
    assert [steps(2), steps(60), steps(1000)] == [[False, False], [True, False], [True, True]]


def test_lbfgs_of_half_precision_is_that_of_its_numbers():
    x, y = random_features(50)
    half = jnp.asarray(x, jnp.float16)
    fit = lambda x: evaluation.fit_lbfgs(x, jnp.array(y), jnp.array([0.1]), num_classes=6)
    np.testing.assert_array_equal(fit(half).kernel, fit(half.astype(jnp.float32)).kernel)


def test_lbfgs_leaves_unlabelled_rows_out_and_refuses_what_has_no_end():
    x, y = random_features(50)
    fit = functools.partial(evaluation.fit_lbfgs, num_classes=6)
    some = np.arange(50) % 4 > 0
    hidden = fit(jnp.array(x), jnp.array(np.where(some, y, -1)), jnp.array([0.1]))
    few = fit(jnp.array(x[some]), jnp.array(y[some]), jnp.array([0.1]))
    for a, b in zip(hidden, few, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for l2, steps, told in (([0.1, 0.0], 9, "l2: found .*0"), ([0.1], 0, "max_steps: found 0")):
        with pytest.raises(ArgumentError, match=f"^{told}.*; allowed: "):
            fit(jnp.array(x), jnp.array(y), jnp.array(l2), max_steps=steps)


def test_lbfgs_keeps_the_precision_of_the_features_with_wide_numbers_on():
    x, y = random_features(50)
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            head = evaluation.fit_lbfgs(
                jnp.asarray(x, dtype), jnp.array(y), jnp.array([0.1]), num_classes=6
            )
            assert head.kernel.dtype == dtype


def view_of_pixels(key, images):
    """No randomness, so that fitting on views can be compared with fitting on cached features."""
    del key
    return evaluation.raw_pixels(images)


@pytest.mark.parametrize("devices", [1, 8])
def test_fitting_on_views_that_do_not_vary_is_fitting_on_cached_features(devices):
    source = image_source(64)
    mesh = sharding.make_mesh(jax.devices()[:devices])
    head = evaluation.fit_augmented(
        jax.jit(view_of_pixels), source, jnp.array(RATES), epochs=10, batch_size=64, mesh=mesh
    )
    x, y = evaluation.encode_source(evaluation.raw_pixels, source, mesh=mesh)
    for candidate, rate in enumerate(RATES):
        w, b = sgd_oracle(x, y, rate=rate, epochs=10, classes=6)
        np.testing.assert_allclose(head.kernel[candidate], w, atol=2e-6)
        np.testing.assert_allclose(head.bias[candidate], b, atol=2e-6)


def test_several_seeds_on_views_are_one_program(monkeypatch):
    traced, step = [], linear_head._sgd_step

    def counted(*args, **given):
        traced.append(1)
        return step(*args, **given)

    monkeypatch.setattr(linear_head, "_sgd_step", counted)
    linear_head._sgd_over.cache_clear()
    how = {"epochs": 2, "batch_size": 16, "mesh": one_device()}
    encode, source = jax.jit(view_of_pixels), image_source(48)
    heads = [
        evaluation.fit_augmented(encode, source, jnp.array(RATES), seed=s, **how) for s in (0, 1)
    ]
    assert len(traced) == 1
    assert not np.array_equal(heads[0].kernel, heads[1].kernel)
    linear_head._sgd_over.cache_clear()


def test_many_steps_on_several_devices_come_to_an_end():
    """Steps that are not waited for pile up, and the devices of a CPU then wait for each other."""
    how = {"epochs": 100, "batch_size": 16, "mesh": sharding.make_mesh()}
    encode = jax.jit(lambda key, images: jnp.tanh(evaluation.raw_pixels(images)))
    head = evaluation.fit_augmented(encode, image_source(48), jnp.array(RATES), **how)
    assert np.isfinite(head.kernel).all()


def test_every_step_has_new_views_and_progress_sees_it():
    keys, seen = [], []

    def encode_view(key, images):
        if not isinstance(images, jax.core.Tracer):
            keys.append(tuple(jax.random.key_data(key).tolist()))
        return evaluation.raw_pixels(images)

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    evaluation.fit_augmented(
        encode_view,
        image_source(40),
        jnp.array([0.1]),
        epochs=3,
        batch_size=16,
        mesh=one_device(),
        progress=progress,
    )
    assert seen == list(range(6))
    assert len(set(keys)) == len(keys) == 6


def probe(train, test, **settings):
    settings = {"mesh": one_device(), "epochs": 20, "candidates": (5.0,), **settings}
    return evaluation.evaluate_linear_probe(evaluation.raw_pixels, train, test, **settings)


TRAIN, HOLDOUT, TEST = (image_source(n, seed=s, noise=60.0) for s, n in enumerate((200, 100, 90)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "lbfgs", "candidates": (1e-3,)},
        {"encode_view": jax.jit(view_of_pixels), "batch_size": 50},
    ],
    ids=["sgd", "lbfgs", "augmented"],
)
def test_the_probe_is_as_good_as_logistic_regression(settings):
    def pixels(source):
        batch = source.gather(np.arange(len(source)))
        return batch["image"].reshape(len(source), -1) / 255, batch["label"]

    oracle = LogisticRegression(C=5.0, max_iter=1000).fit(*pixels(TRAIN)).score(*pixels(TEST))
    assert 0.6 < oracle < 0.99
    result = probe(TRAIN, TEST, **settings)
    assert abs(result.value("top1") - oracle) < 0.06
    assert result.value("top5") >= result.value("top1")


def test_the_probe_is_the_same_on_one_device_and_on_eight():
    one = probe(TRAIN, TEST)
    eight = probe(TRAIN, TEST, mesh=sharding.make_mesh())
    assert one == eight


def test_the_holdout_chooses_and_the_test_set_does_not():
    candidates = (1e-7, 5.0, 1e-6)  # two that hardly learn
    labels = TEST.gather(np.arange(len(TEST)))["label"]
    images = TEST.gather(np.arange(len(TEST)))["image"]
    shuffled = from_arrays(images, np.roll(labels, 1), class_names=NAMES)
    for test in (TEST, shuffled):
        result = probe(TRAIN, test, holdout=HOLDOUT, candidates=candidates)
        assert result.protocol["learning_rate"] == 5.0
        assert np.argmax(result.protocol["holdout_top1"]) == 1
    assert result.value("top1") < 0.5  # its labels are wrong, and that changed nothing above


def test_the_first_of_equal_candidates_is_taken():
    result = probe(TRAIN, TEST, holdout=HOLDOUT, candidates=(3.0, 3.0))
    assert result == probe(TRAIN, TEST, holdout=HOLDOUT, candidates=(3.0, 3.0))
    first, second = result.protocol["holdout_top1"]
    assert first == second


def test_the_probe_says_how_it_was_measured_and_fits_in_json():
    result = probe(TRAIN, TEST, solver="lbfgs", candidates=(1e-2, 1e-3), holdout=HOLDOUT)
    protocol = json.loads(json.dumps(result.to_json()))["protocol"]
    assert protocol["solver"] == "lbfgs"
    assert protocol["l2"] in (1e-2, 1e-3)
    assert protocol["features"] == "cached"
    assert (protocol["train_images"], protocol["test_images"]) == (200, 90)
    sgd = probe(TRAIN, TEST).protocol
    assert (sgd["epochs"], sgd["batch_size"], sgd["learning_rate"]) == (20, 200, 5.0)


def test_classifiers_that_have_not_converged_are_told():
    """Features of very different sizes, a weak L2: more steps than there are."""

    @jax.jit
    def uneven(images):
        pixels = evaluation.raw_pixels(images)
        return pixels * jnp.logspace(-3, 2, pixels.shape[1])[None, :]

    how = {"seeds": (0, 1), "mesh": one_device()}
    measure = functools.partial(evaluation.evaluate_linear_probe, uneven, TRAIN, TEST, **how)
    for strength, of_all in ((1.0, None), (1e-9, "2 of 2")):
        notes = measure(solver="lbfgs", candidates=(strength,), fractions=(0.5,)).notes
        said = f"L-BFGS ended after 1,000 steps, before its tolerance: {of_all} classifiers"
        assert list(notes) == ([said] if of_all else [])
    assert evaluation.evaluate_few_shot(uneven, TRAIN, TEST, shots=(5,), **how).notes == ()


def test_a_share_of_the_labels_is_that_of_every_class_and_several_seeds_have_a_mean():
    settings = {"fractions": (0.1, 1.0), "seeds": (2, 5), "solver": "lbfgs", "candidates": (0.1,)}
    result = probe(TRAIN, TEST, **settings)
    found = json.loads(json.dumps(result.to_json()))
    for name in ("10_percent_top1", "10_percent_top5", "top1", "top5"):
        each = [found["by_seed"][seed][name] for seed in ("2", "5")]
        assert found[name] == pytest.approx(np.mean(each))
        assert found[f"{name}_std"] == pytest.approx(np.std(each, ddof=1))
    (x, y), (test_x, test_y) = (
        evaluation.encode_source(evaluation.raw_pixels, source, mesh=one_device())
        for source in (TRAIN, TEST)
    )
    for seed, rows in result.by_seed.items():
        some = share_of_each_class(y, 0.1, seed)
        assert np.bincount(y[some]).tolist() == [round(0.1 * n) for n in np.bincount(y)]
        oracle = LogisticRegression(C=1 / (0.1 * some.sum()), tol=1e-7, max_iter=5000)
        assert rows[0].value == pytest.approx(oracle.fit(x[some], y[some]).score(test_x, test_y))
    assert found["10_percent_top1"] < found["top1"]
    assert found["top1_std"] == 0  # all labels: nothing was drawn
    images = [of["train_images"] for of in found["protocol"]["measured"]]
    assert images == [some.sum(), 200, some.sum(), 200]
    assert not probe(TRAIN, TEST).by_seed.keys() - {0}


def test_every_seed_of_the_probe_on_views_is_that_seed_alone():
    settings = {"encode_view": jax.jit(view_of_pixels), "batch_size": 20, "fractions": (0.5,)}
    both = probe(TRAIN, TEST, epochs=2, seeds=(0, 1), **settings)
    for seed in (0, 1):
        alone = probe(TRAIN, TEST, epochs=2, seeds=(seed,), **settings)
        assert alone.by_seed[seed] == both.by_seed[seed]
        assert alone.protocol["train_images"] == pytest.approx(100, abs=3)
    assert both.by_seed[0] != both.by_seed[1]
    for fractions in ((), (0.0,), (1.5,)):
        with pytest.raises(ValueError, match=r"fractions: found .*allowed: .* in \(0, 1\]"):
            probe(TRAIN, TEST, fractions=fractions)


def test_the_probe_on_views_fits_on_fewer_images_than_devices():
    settings = {"encode_view": jax.jit(view_of_pixels), "fractions": (0.01,), "epochs": 2}
    result = probe(TRAIN, TEST, mesh=sharding.make_mesh(), **settings)
    assert (result.protocol["train_images"], result.protocol["batch_size"]) == (6, 8)


def test_the_default_protocol_is_the_papers():
    result = evaluation.evaluate_linear_probe(evaluation.raw_pixels, TRAIN, TEST, mesh=one_device())
    expected = {"solver": "sgd", "epochs": 90, "learning_rate": 0.1, "momentum": 0.9}
    assert expected.items() <= result.protocol.items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "adam"}, "solver: found 'adam'; allowed: sgd, lbfgs"),
        ({"epochs": 0}, "epochs: found 0; allowed: at least 1"),
        ({"batch_size": 0}, "batch_size: found 0; allowed: at least 1"),
        (
            {"solver": "lbfgs", "encode_view": view_of_pixels},
            "solver: found 'lbfgs' with `encode_view`; allowed: 'lbfgs' without it",
        ),
        ({"candidates": ()}, r"candidates: found \(\); allowed: numbers above 0"),
        ({"candidates": (0.1, -1.0)}, "allowed: numbers above 0"),
        ({"candidates": (0.1, 1.0)}, "without a `holdout` to choose by"),
    ],
)
def test_impossible_probe_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        probe(TRAIN, TEST, **settings)


def test_a_candidate_that_diverges_is_not_chosen_and_one_alone_is_refused():
    result = probe(TRAIN, TEST, holdout=HOLDOUT, candidates=(1e38, 5.0))
    assert result.protocol["learning_rate"] == 5.0
    assert result.protocol["holdout_top1"][0] is None
    with pytest.raises(ValueError, match=r"candidates: .* has diverged; allowed: smaller"):
        probe(TRAIN, TEST, candidates=(1e38,))


def test_a_probe_without_labels_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="train: found 20 images without labels"):
        probe(unlabelled_source(), TEST)


def test_classes_without_a_training_image_are_told():
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    names = ("a", "b", "c", "d")
    train = data.from_arrays(images, (np.arange(24) % 2).astype(np.int32), class_names=names)
    test = data.from_arrays(images, (np.arange(24) % 4).astype(np.int32), class_names=names)
    mesh = sharding.make_mesh()
    encode = evaluation.raw_pixels
    said = (
        "no training image is of 2 of the 4 tested classes (c, d): their test images (12) count "
        "as wrong"
    )
    of_all = evaluation.evaluate_knn(encode, train, test, k=3, mesh=mesh)
    assert said in of_all.notes
    assert evaluation.evaluate_knn(encode, test, test, k=3, mesh=mesh).notes == ()
    assert said in evaluation.evaluate_transfer(encode, train, test, mesh=mesh).notes
    probed = evaluation.evaluate_linear_probe(encode, train, test, solver="lbfgs", mesh=mesh)
    assert said in probed.notes


def test_an_encoder_may_give_arrays_of_numpy():
    mean = lambda images: np.asarray(images).mean(axis=(1, 2))
    found, labels = evaluation.encode_source(mean, TEST, mesh=one_device())
    expected, same = evaluation.encode_source(
        lambda images: images.mean(axis=(1, 2)), TEST, mesh=one_device()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(labels, same)
