"""Metrics against float64 NumPy written from their formulas."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import metrics, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import oracles

pytestmark = pytest.mark.usefixtures("strict_dtypes")

RNG = np.random.default_rng(0)
# More rows than one block of the row-wise computation, and not a multiple of it.
X, Y = RNG.standard_normal((2, 301, 6))
LABELS = np.concatenate([RNG.integers(0, 7, 300) * 3 - 1, [100]])  # any integers, one singleton


def test_alignment():
    a, b = oracles.unit(X), oracles.unit(Y)
    for alpha in (1.0, 2.0):
        expected = np.mean(np.linalg.norm(a - b, axis=1) ** alpha)
        result = metrics.alignment(jnp.float32(X), jnp.float32(Y), alpha=alpha)
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_uniformity_averages_over_distinct_pairs():
    x = oracles.unit(X)
    for t in (0.5, 2.0):
        pairs = [np.exp(-t * np.sum((a - b) ** 2)) for a, b in itertools.combinations(x, 2)]
        result = metrics.uniformity(jnp.float32(X), t)
        np.testing.assert_allclose(result, np.log(np.mean(pairs)), rtol=1e-5)


def test_uniformity_of_collapsed_embeddings_is_zero_and_stays_finite_for_opposite_ones():
    np.testing.assert_allclose(metrics.uniformity(jnp.ones((5, 3))), 0, atol=1e-6)
    np.testing.assert_allclose(
        metrics.uniformity(jnp.array([[1.0], [-1.0]]), t=100.0), -400, rtol=1e-6
    )


def test_rows_of_zeros_are_one_point_of_length_zero():
    """As after a collapse: no distance between them, and 1 to every point of the sphere."""
    assert metrics.uniformity(jnp.zeros((5, 3))) == 0
    x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [-1.0, 0.0]])
    unit = np.array([[0.0, 0.0], [0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]])
    pairs = [np.exp(-2 * np.sum((a - b) ** 2)) for a, b in itertools.combinations(unit, 2)]
    np.testing.assert_allclose(metrics.uniformity(jnp.float32(x)), np.log(np.mean(pairs)), 1e-6)
    assert metrics.inter_class_uniformity(jnp.zeros((4, 2)), jnp.array([0, 1, 0, 2])) == 0


@pytest.mark.usefixtures("unchecked_shapes")
def test_rows_that_do_not_belong_together_are_refused():
    x, labels = jnp.ones((3, 2)), jnp.arange(3)
    for other in (x[:1], x[:2], x[:, :1]):
        with pytest.raises(ArgumentError, match=r"b: found shape .* allowed: \(3, 2\)"):
            metrics.alignment(x, other)
        with pytest.raises(ArgumentError, match=r"view_b: found shape"):
            metrics.negative_similarities(x, other, labels)
    for function in (metrics.tolerance, metrics.inter_class_uniformity):
        with pytest.raises(ArgumentError, match=r"labels: found shape \(1,\); allowed: \(3,\)"):
            function(x, labels[:1])


def test_uniformity_of_oblique_embeddings_is_the_mean_over_their_tokens():
    tokens = np.split(X * np.repeat([1.0, 5.0, 0.2], 2), 3, axis=1)  # lengths do not matter
    each = [metrics.uniformity(jnp.float32(token)) for token in tokens]
    result = metrics.uniformity(jnp.float32(X), num_tokens=3)
    np.testing.assert_allclose(result, np.mean(each), rtol=1e-5)
    with pytest.raises(
        ValueError, match="num_tokens: found 4; allowed: a divisor of the row length 6"
    ):
        metrics.uniformity(jnp.float32(X), num_tokens=4)


def noisy_slope(texts, own_text, chosen, gap):
    """The slope of the mean loss in the gap: softmax on the true text less how often it is chosen.

    `texts` [n] are what is in the batch; image i truly belongs to text own_text[i], at the logit
    `gap`, and is trained towards the text chosen[i]; every other logit is 0.
    """
    true = texts[None, :] == own_text[:, None]
    weights = np.exp(gap * true)
    softmax = weights / weights.sum(axis=1, keepdims=True)
    return np.mean((softmax * true).sum(axis=1) - (chosen == own_text))


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_equilibrium_gap_of_pairs_permuted_within_the_batch(p):
    own = np.arange(64)
    chosen = own.copy()
    wrong = int(64 * p)
    chosen[:wrong] = np.roll(own[:wrong], 1)
    gap = float(metrics.equilibrium_gap(64, p))
    np.testing.assert_allclose(noisy_slope(chosen, own, chosen, gap), 0, atol=1e-6)
    assert (
        noisy_slope(chosen, own, chosen, gap - 0.1)
        < 0
        < noisy_slope(chosen, own, chosen, gap + 0.1)
    )


def test_equilibrium_gap_of_partners_drawn_from_the_whole_data_set():
    """There it is the size of the data set that counts, 40, and not that of the batch, 8."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 40, (40_000, 8))
    wrong = rng.random(own.shape) < 0.5
    chosen = np.where(wrong, (own + rng.integers(1, 40, own.shape)) % 40, own)
    slope = lambda gap: np.mean(
        [noisy_slope(c, o, c, gap) for o, c in zip(own, chosen, strict=True)]
    )
    gap = float(metrics.equilibrium_gap(40, 0.5))
    assert slope(gap - 0.15) < 0 < slope(gap + 0.15)
    assert slope(float(metrics.equilibrium_gap(8, 0.5))) < -0.05


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_equilibrium_gap_of_the_sigmoid_is_where_its_expected_loss_is_least(p):
    n = 64
    each = p / (n - 1)  # how often a text that is not its own is an image's partner
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    # The slopes of the expected loss of one image in the two logits vanish at the optimum.
    high, low = np.log((1 - p) / p), np.log(each / (1 - each))
    np.testing.assert_allclose(sigmoid(high) - (1 - p), 0, atol=1e-12)
    np.testing.assert_allclose(sigmoid(low) - each, 0, atol=1e-12)
    gap = metrics.equilibrium_gap(n, p, sigmoid=True)
    np.testing.assert_allclose(gap, high - low, rtol=1e-6)


def test_equilibrium_gap_at_the_ends():
    gaps = metrics.equilibrium_gap(11, jnp.array([0.0, 0.5, 10 / 11, 1.0]))
    np.testing.assert_allclose(gaps, [np.inf, np.log(10), 0, -np.inf], atol=1e-5)
    with pytest.raises(ValueError, match="candidates: found 1; allowed: at least 2"):
        metrics.equilibrium_gap(1, 0.5)


def test_inter_class_uniformity_averages_over_pairs_of_classes():
    x = oracles.unit(X)
    means = oracles.unit(np.stack([x[c == LABELS].mean(0) for c in np.unique(LABELS)]))
    pairs = [np.exp(-2 * np.sum((a - b) ** 2)) for a, b in itertools.combinations(means, 2)]
    result = jax.jit(metrics.inter_class_uniformity)(jnp.float32(X), jnp.int32(LABELS))
    np.testing.assert_allclose(result, np.log(np.mean(pairs)), rtol=1e-5)


def test_tolerance_in_both_readings():
    x = oracles.unit(X)
    same = [x[i] @ x[j] for i, j in itertools.permutations(range(301), 2) if LABELS[i] == LABELS[j]]
    result = metrics.tolerance(jnp.float32(X), jnp.int32(LABELS))
    np.testing.assert_allclose(result, np.mean(same), rtol=1e-4)
    result = metrics.tolerance(jnp.float32(X), jnp.int32(LABELS), all_pairs=True)
    np.testing.assert_allclose(result, np.sum(same) / (301 * 300), rtol=1e-4)


def test_negative_similarities_are_of_pairs_of_different_images():
    s = oracles.unit(X) @ oracles.unit(Y).T
    same = LABELS[:, None] == LABELS[None]
    result = metrics.negative_similarities(*jnp.float32([X, Y]), jnp.int32(LABELS))
    expected = {
        "true_negative_similarity": s[~same].mean(),
        "false_negative_similarity": s[same & ~np.eye(301, dtype=bool)].mean(),
    }
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-4, atol=1e-7, err_msg=name)
    # One view in place of two: the false negatives are what the tolerance is of.
    single = metrics.negative_similarities(*jnp.float32([X, X]), jnp.int32(LABELS))
    tolerance = metrics.tolerance(jnp.float32(X), jnp.int32(LABELS))
    np.testing.assert_allclose(single["false_negative_similarity"], tolerance, rtol=1e-6)


def test_negative_similarities_of_no_pair_are_nan():
    alone = metrics.negative_similarities(jnp.eye(3), jnp.eye(3), jnp.arange(3))
    assert np.isnan(alone["false_negative_similarity"])
    assert alone["true_negative_similarity"] == 0
    together = metrics.negative_similarities(jnp.eye(3), jnp.eye(3), jnp.zeros(3, jnp.int32))
    assert np.isnan(together["true_negative_similarity"])


@pytest.mark.parametrize(
    "metric",
    [
        lambda x, y: metrics.uniformity(x),
        metrics.tolerance,
        metrics.inter_class_uniformity,
        lambda x, y: metrics.negative_similarities(x, x, y),
    ],
    ids=["uniformity", "tolerance", "inter-class uniformity", "negative similarities"],
)
def test_the_memory_grows_with_the_rows_and_not_with_their_square(metric):
    n = 50_000
    x, labels = jax.ShapeDtypeStruct((n, 8), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    program = jax.jit(metric).lower(x, labels).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * n * n / 20


def test_a_tighter_class_is_more_tolerant_and_less_uniform():
    centres = RNG.standard_normal((4, 6))
    labels = jnp.arange(64) % 4
    spread = lambda s: jnp.float32(centres[np.arange(64) % 4] + s * RNG.standard_normal((64, 6)))
    loose, tight = spread(1.0), spread(0.1)
    assert metrics.tolerance(tight, labels) > metrics.tolerance(loose, labels)
    assert metrics.uniformity(tight) > metrics.uniformity(loose)


def test_effective_rank():
    singular = np.linalg.svd(X, compute_uv=False)
    p = singular / singular.sum()
    expected = np.exp(-np.sum(p * np.log(p)))
    for scale in (1.0, 1e37, 1e-30):
        scaled = jnp.float32(X * scale / np.abs(X).max())
        np.testing.assert_allclose(metrics.effective_rank(scaled), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.effective_rank(jnp.ones((5, 3))), 1, rtol=1e-4)


def test_recall_at_k():
    q, k = oracles.unit(X), oracles.unit(Y)
    similarity = q @ k.T
    rank = np.sum(similarity > np.diagonal(similarity)[:, None], axis=1)
    for size in (1, 5, 300):
        result = metrics.recall_at_k(jnp.float32(X), jnp.float32(Y), k=size)
        np.testing.assert_allclose(result, np.mean(rank < size), rtol=1e-6)
    assert metrics.recall_at_k(jnp.ones((4, 2)), jnp.ones((4, 2)), k=1) == 0  # collapsed
    assert np.isnan(metrics.recall_at_k(jnp.eye(4), jnp.full((4, 4), jnp.nan), k=3))
    with pytest.raises(ValueError, match="keys: found 2 for 3 queries"):
        metrics.recall_at_k(jnp.eye(3), jnp.eye(3)[:2], k=1)
    with pytest.raises(ValueError, match="k: found 302; allowed: 1 to 301"):
        metrics.recall_at_k(jnp.float32(X), jnp.float32(Y), k=302)


@pytest.mark.parametrize("max_anchors", [16, 1000])
def test_pair_statistics(max_anchors):
    n = min(max_anchors, 301)
    s = oracles.unit(X[:n]) @ oracles.unit(Y[:n]).T
    tau = oracles.dystress(s, 0.1, 0.2)
    off = ~np.eye(n, dtype=bool)
    result = metrics.pair_statistics(
        jnp.float32(X),
        jnp.float32(Y),
        temperature=temperatures.dystress(0.1, 0.2),
        max_anchors=max_anchors,
    )
    expected = {
        "positive_similarity": np.diagonal(s).mean(),
        "negative_similarity": s[off].mean(),
        "positive_tau": np.diagonal(tau).mean(),
        "negative_tau": tau[off].mean(),
    }
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_pair_statistics_on_the_oblique_manifold():
    """In the units of the similarity, -2 to 2; the temperature sees the mean over the tokens."""
    unit = lambda x: np.concatenate([oracles.unit(x[:, :3]), oracles.unit(x[:, 3:])], axis=1)
    s = unit(X[:16]) @ unit(Y[:16]).T
    result = metrics.pair_statistics(
        *jnp.float32([X[:16], Y[:16]]),
        similarity=similarities.oblique(2),
        temperature=temperatures.dystress(0.1, 0.2),
    )
    np.testing.assert_allclose(result["positive_similarity"], np.diagonal(s).mean(), rtol=1e-4)
    expected = oracles.dystress(s / 2, 0.1, 0.2)
    np.testing.assert_allclose(result["positive_tau"], np.diagonal(expected).mean(), rtol=1e-4)


def test_pair_statistics_takes_negatives_from_elsewhere():
    queue = np.random.default_rng(1).normal(size=(20, X.shape[1]))
    s = oracles.unit(X[:10]) @ oracles.unit(queue[:16]).T
    result = metrics.pair_statistics(
        *jnp.float32([X[:10], Y[:10]]),
        negatives=jnp.float32(queue),
        temperature=temperatures.dystress(0.1, 0.2),
        max_anchors=16,
    )
    np.testing.assert_allclose(result["negative_similarity"], s.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        result["negative_tau"], oracles.dystress(s, 0.1, 0.2).mean(), rtol=1e-4
    )


def test_pair_statistics_of_groups_leave_out_who_belongs_together():
    groups = np.arange(16) % 3
    s = oracles.unit(X[:16]) @ oracles.unit(Y[:16]).T
    given = jnp.float32([X[:16], Y[:16]])
    apart = groups[:, None] != groups[None, :]
    found = metrics.pair_statistics(*given, temperature=None, groups=jnp.asarray(groups))
    np.testing.assert_allclose(found["positive_similarity"], np.diagonal(s).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["negative_similarity"], s[apart].mean(), rtol=1e-4, atol=1e-6)
    found = metrics.pair_statistics(*given, temperature=0.1, groups=jnp.zeros(16, int))
    assert np.isnan(found["negative_tau"])
    assert np.isfinite(found["positive_tau"])


def test_a_temperature_that_is_nan_for_other_pairs_is_known_for_its_own():
    views = jnp.eye(4), jnp.eye(4)
    of_positives_alone = lambda s: jnp.where(s > 0.5, 0.2, jnp.nan)
    found = metrics.pair_statistics(*views, temperature=of_positives_alone)
    assert float(found["positive_tau"]) == pytest.approx(0.2)
    assert np.isnan(found["negative_tau"])
    of_negatives_alone = lambda s: jnp.where(s < 0.5, 0.3, jnp.nan)
    found = metrics.pair_statistics(*views, temperature=of_negatives_alone)
    assert float(found["negative_tau"]) == pytest.approx(0.3)
    assert np.isnan(found["positive_tau"])


def test_pair_statistics_takes_a_temperature_per_anchor():
    taus = jnp.linspace(0.1, 0.5, 602)
    result = metrics.pair_statistics(jnp.float32(X), jnp.float32(Y), temperature=taus)
    np.testing.assert_allclose(result["positive_tau"], taus[:256].mean(), rtol=1e-5)


ROWS, CLASSES = RNG.standard_normal((6, 4)), np.array([0, 0, 1, 1, 1, 2])
GRADIENTS = {
    "alignment": lambda x: metrics.alignment(x, jnp.roll(x, 1, axis=0)),
    "alignment, alpha 1": lambda x: metrics.alignment(x, jnp.roll(x, 1, axis=0), alpha=1.0),
    "uniformity": lambda x: metrics.uniformity(x),
    "inter-class uniformity": lambda x: metrics.inter_class_uniformity(x, jnp.asarray(CLASSES)),
    "tolerance": lambda x: metrics.tolerance(x, jnp.asarray(CLASSES)),
}


def _numpy_metric(name, x):
    unit = oracles.unit(x)
    kernel = lambda z: np.mean(
        [np.exp(-2 * np.sum((a - b) ** 2)) for a, b in itertools.combinations(z, 2)]
    )
    if name.startswith("alignment"):
        distances = np.linalg.norm(unit - np.roll(unit, 1, axis=0), axis=1)
        return np.mean(distances ** (1 if name.endswith("1") else 2))
    if name == "uniformity":
        return np.log(kernel(unit))
    if name == "inter-class uniformity":
        return np.log(
            kernel(oracles.unit(np.stack([unit[c == CLASSES].mean(0) for c in (0, 1, 2)])))
        )
    pairs = itertools.permutations(range(6), 2)
    return np.mean([unit[i] @ unit[j] for i, j in pairs if CLASSES[i] == CLASSES[j]])


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_is_that_of_the_formula(name):
    with jax.enable_x64(True):
        found = jax.jit(jax.grad(GRADIENTS[name]))(jnp.asarray(ROWS))
    expected = oracles.gradient(functools.partial(_numpy_metric, name), ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("case", ["collapsed", "antipodal", "duplicated", "zero"])
def test_the_gradient_is_finite_where_rows_agree_cancel_or_vanish(name, case):
    x = {
        "collapsed": np.ones((6, 4)),
        "antipodal": np.stack([ROWS[0], -ROWS[0]] * 3),
        "duplicated": ROWS[[0, 0, 1, 1, 2, 2]],
        "zero": np.zeros((6, 4)),
    }[case]
    value, slope = jax.jit(jax.value_and_grad(GRADIENTS[name]))(jnp.float32(x))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_the_gradient_of_the_effective_rank_of_a_collapse_is_finite():
    """Only one direction is used: the slope of the entropy at the others is infinite."""
    x = jnp.float32(np.outer(np.ones(6), ROWS[0]))
    assert np.isfinite(jax.grad(metrics.effective_rank)(x)).all()


def test_effective_rank_of_nothing_is_one_and_its_gradient_that_of_the_formula():
    assert metrics.effective_rank(jnp.zeros((3, 4))) == 1

    def entropy(x):
        p = np.linalg.svd(x, compute_uv=False)
        p = p / p.sum()
        return np.exp(-np.sum(p * np.log(p)))

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(metrics.effective_rank))(jnp.asarray(ROWS))
    np.testing.assert_allclose(found, oracles.gradient(entropy, ROWS), atol=1e-7)


@pytest.mark.parametrize("row", [0, 5])
def test_nan_in_an_embedding_shows_in_every_metric(row):
    labels = jnp.array([0, 0, 1, 1, 1, 2])  # row 5 is alone in its class

    @jax.jit
    def every(x, y):
        return {
            "alignment": metrics.alignment(x, y),
            "alignment of exponent 1": metrics.alignment(x, y, alpha=1.0),
            "uniformity": metrics.uniformity(x),
            "uniformity of tokens": metrics.uniformity(x, num_tokens=2),
            "inter_class_uniformity": metrics.inter_class_uniformity(x, labels),
            "tolerance": metrics.tolerance(x, labels),
            "effective_rank": metrics.effective_rank(x),
            "recall_at_k": metrics.recall_at_k(x, y, k=2),
            "recall_at_k of keys": metrics.recall_at_k(y, x, k=2),
            **metrics.negative_similarities(x, y, labels),
            **metrics.pair_statistics(x, y, temperature=temperatures.dystress()),
        }

    x, y = jnp.float32(X[:6]), jnp.float32(Y[:6])
    for name, value in every(x, y).items():
        assert np.isfinite(value), name
    for name, value in every(x.at[row, 1].set(jnp.nan), y).items():
        assert np.isnan(value), name


def test_recall_of_a_positive_that_is_no_key_is_nan():
    for positive in (3, -1):
        found = metrics.recall_at_k(jnp.eye(3), jnp.eye(3), k=1, positives=jnp.full(3, positive))
        assert np.isnan(found)


def test_recall_is_exported_with_a_symbolic_number_of_rows(unchecked_shapes):
    n, *_ = jax.export.symbolic_shape("n")
    recall = jax.jit(lambda q, k: metrics.recall_at_k(q, k, k=2))
    exported = jax.export.export(recall)(*[jax.ShapeDtypeStruct((n, 4), jnp.float32)] * 2)
    a, b = jax.random.normal(jax.random.key(0), (2, 7, 4))
    assert exported.call(a, b) == recall(a, b)
