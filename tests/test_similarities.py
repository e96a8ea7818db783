"""Similarities against NumPy, their ranges, and their gradients where distances vanish."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dystress_jax import losses, similarities
from tests import oracles

pytestmark = pytest.mark.usefixtures("strict_dtypes")

A, B = np.random.default_rng(0).standard_normal((2, 5, 6))


def _tokens(x, m):
    return oracles.unit(x.reshape(len(x), m, -1))


def _angle(x):
    return np.arccos(np.clip(x, -1, 1))


FORMULAS = {
    "sphere": (similarities.sphere, oracles.unit(A) @ oracles.unit(B).T),
    "geodesic": (similarities.geodesic, -_angle(oracles.unit(A) @ oracles.unit(B).T)),
    "inner product": (similarities.inner_product, A @ B.T),
    "euclidean": (similarities.euclidean, -np.linalg.norm(A[:, None] - B[None], axis=-1)),
    "squared": (
        similarities.squared_euclidean,
        -(np.linalg.norm(A[:, None] - B[None], axis=-1) ** 2),
    ),
    "oblique": (
        similarities.oblique(3),
        np.einsum("nkd,mkd->nm", _tokens(A, 3), _tokens(B, 3)),
    ),
    "oblique geodesic": (
        similarities.oblique_geodesic(3),
        -np.sqrt(np.sum(_angle(np.einsum("nkd,mkd->nmk", _tokens(A, 3), _tokens(B, 3))) ** 2, -1)),
    ),
}


@pytest.mark.parametrize(("similarity", "expected"), FORMULAS.values(), ids=FORMULAS.keys())
def test_equals_its_formula(similarity, expected):
    with jax.enable_x64(True):
        a, b = jnp.array(A), jnp.array(B)
        np.testing.assert_allclose(similarity(a, b), expected, rtol=1e-9)
        points = similarity.project(a), similarity.project(b)
        np.testing.assert_allclose(similarity.paired(*points), np.diagonal(expected), rtol=1e-9)
    assert similarity.low <= expected.min()
    assert expected.max() <= similarity.high


@pytest.mark.parametrize(("similarity", "expected"), FORMULAS.values(), ids=FORMULAS.keys())
def test_the_gradient_for_reverse_mode_is_the_same(similarity, expected):
    weights = np.cos(np.arange(25)).reshape(5, 5)
    with jax.enable_x64(True):
        total = lambda s: lambda a, b: jnp.sum(s(a, b) * weights)
        gradients = [
            jax.jit(jax.grad(total(s), argnums=(0, 1)))(jnp.array(A), jnp.array(B))
            for s in (similarity, similarity.for_reverse_mode())
        ]
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("similarity", [s for s, _ in FORMULAS.values()], ids=FORMULAS.keys())
def test_equal_opposite_and_zero_rows_have_finite_gradients(similarity):
    a = jnp.asarray(np.stack([A[0], A[0], -A[0], 0 * A[0]]), jnp.float32)
    loss = lambda a: losses.nt_xent(a, a, temperature=0.5, similarity=similarity).mean()
    value, gradient = jax.jit(jax.value_and_grad(loss))(a)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 6]))
@settings(max_examples=20, deadline=None)
def test_oblique_is_m_times_the_cosine_of_the_flattened_tokens(seed, m):
    a, b = np.random.default_rng(seed).standard_normal((2, 4, 6))
    a, b = (_tokens(x, m).reshape(4, -1) for x in (a, b))
    with jax.enable_x64(True):
        oblique = similarities.oblique(m)(jnp.array(a), jnp.array(b))
        np.testing.assert_allclose(
            oblique / m, similarities.sphere(jnp.array(a), jnp.array(b)), atol=1e-12
        )


@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_the_mean_over_tokens_has_the_range_of_the_sphere(m):
    a, b = jnp.float32(A), jnp.float32(B)
    mean = similarities.oblique(m, mean=True)
    assert (mean.low, mean.high) == (-1.0, 1.0)
    np.testing.assert_allclose(m * mean(a, b), similarities.oblique(m)(a, b), atol=1e-6 * m)
    np.testing.assert_allclose(mean.as_cosine(mean(a, a)).diagonal(), 1.0, atol=1e-6)


def test_oblique_with_one_token_is_the_sphere():
    a, b = jnp.float32(A), jnp.float32(B)
    np.testing.assert_array_equal(similarities.oblique(1)(a, b), similarities.sphere(a, b))


@pytest.mark.parametrize("name", ["sphere", "geodesic", "oblique", "oblique geodesic"])
def test_temperatures_see_one_for_aligned_and_minus_one_for_opposite_rows(name):
    similarity = FORMULAS[name][0]
    a = jnp.float32(A)
    aligned, opposite = similarity(a, a), similarity(a, -a)
    np.testing.assert_allclose(jnp.diagonal(similarity.as_cosine(aligned)), 1, atol=2e-3)
    np.testing.assert_allclose(jnp.diagonal(similarity.as_cosine(opposite)), -1, atol=2e-3)


def test_a_plain_function_is_a_similarity():
    a, b = jnp.float32(A), jnp.float32(B)
    cosine = lambda a, b: similarities.normalize(a) @ similarities.normalize(b).T
    np.testing.assert_allclose(
        losses.nt_xent(a, b, temperature=0.1, similarity=cosine),
        losses.nt_xent(a, b, temperature=0.1),
        rtol=1e-5,
    )


def test_tiny_and_huge_rows_are_normalised():
    x = jnp.float32(A) * jnp.float32([1e-30, 1e30, 1e-20, 1.0, 0.0])[:, None]
    lengths = jnp.linalg.norm(similarities.normalize(x), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 1, 1, 0], rtol=1e-6)
    largest = jnp.float32([[9e37, 4e37], [3.4e38, -3.4e38], [2.0, 0.0]])
    expected = [[0.9138, 0.4061], [0.7071, -0.7071], [1, 0]]
    for normalize in (similarities.normalize, jax.jit(similarities.normalize)):
        np.testing.assert_allclose(normalize(largest), expected, atol=1e-4)
    sums = jax.grad(lambda x: similarities.normalize(x).sum())(largest)
    assert np.isfinite(sums).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: similarities.oblique(0), "num_tokens: found 0; allowed: at least 1"),
        (
            lambda: similarities.oblique(4)(jnp.ones((2, 6)), jnp.ones((2, 6))),
            "num_tokens: found 4; allowed: a divisor of 6",
        ),
    ],
)
def test_a_bad_number_of_tokens_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _rounded(x):
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def test_bfloat16_rounds_the_operands_and_nothing_else():
    a, b = oracles.unit(A), oracles.unit(B)
    weights = np.cos(np.arange(25)).reshape(5, 5)
    narrow = similarities.sphere.with_precision("bfloat16").for_reverse_mode().between
    total = lambda a, b: jnp.sum(narrow(a, b) * jnp.float32(weights))
    value, gradients = jax.jit(lambda a, b: (narrow(a, b), jax.grad(total, (0, 1))(a, b)))(
        jnp.float32(a), jnp.float32(b)
    )
    assert value.dtype == jnp.float32
    a, b, weights = _rounded(np.float32(a)), _rounded(np.float32(b)), _rounded(weights)
    np.testing.assert_allclose(value, a @ b.T, atol=1e-6)
    for found, expected in zip(gradients, (weights @ b, weights.T @ a), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_similarity_has_precisions(name):
    similarity, expected = FORMULAS[name]
    a, b = jnp.float32(A), jnp.float32(B)
    scale = np.abs(expected).max()
    for precision, error in (("bfloat16", 5e-2), ("tensorfloat32", 1e-5), ("float32", 1e-5)):
        found = similarity.with_precision("bfloat16").with_precision(precision)(a, b)
        np.testing.assert_allclose(found, expected, atol=error * scale)
    assert similarity.with_precision("bfloat16") == similarity.with_precision("bfloat16")
    assert not np.array_equal(similarity.with_precision("bfloat16")(a, b), similarity(a, b))


def test_tiles_keep_the_precision():
    a, b = jnp.float32(A), jnp.float32(B)
    narrow = similarities.sphere.with_precision("bfloat16")
    loss = lambda a, b, strategy, similarity=narrow: losses.nt_xent(
        a, b, temperature=0.1, similarity=similarity, strategy=strategy
    ).sum()
    values = [float(loss(a, b, strategy)) for strategy in ("dense", "tiled")]
    np.testing.assert_allclose(*values, rtol=1e-5)
    assert abs(values[0] - float(loss(a, b, "dense", similarities.sphere))) > 1e-4


@pytest.mark.parametrize(
    ("similarity", "precision", "message"),
    [
        (similarities.sphere, "bf16", "precision: found 'bf16'; allowed: float32, tensorfloat32"),
        (
            similarities.as_similarity(lambda a, b: a @ b.T),
            "bfloat16",
            "precision: found one for a measure of your own",
        ),
    ],
)
def test_a_precision_that_cannot_be_is_refused(similarity, precision, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        similarity.with_precision(precision)


DISTANCES = {
    "laplace": similarities.kernel(1),
    "root": similarities.kernel(0.5),
    "gauss": similarities.kernel(2),
    "euclidean": similarities.euclidean,
    "squared": similarities.squared_euclidean,
}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(("shift", "gap"), [(0, 0), (0, 1e-3), (100, 0.1)])
def test_rows_that_are_near_or_far_from_zero_have_the_gradient_of_float64(name, shift, gap):
    """Rounding of |u|^2 + |v|^2 - 2 u.v hides small distances; a slope there may be anything."""
    similarity, strategy = DISTANCES[name], "tiled" if name == "root" else "dense"
    random = np.random.default_rng(1)
    a = oracles.unit(random.standard_normal((9, 16))) + shift
    rows = [np.float32(x) for x in (a, a + gap * random.standard_normal((9, 16)) / 4)]

    def gradient(dtype):
        how = {"similarity": similarity, "strategy": strategy, "tile_size": 4}
        loss = lambda a, b: losses.nt_xent(a, b, temperature=1.0, **how).mean()
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(*(jnp.asarray(x, dtype) for x in rows))

    found = np.stack(gradient(jnp.float32))
    with jax.enable_x64(True):
        expected = np.stack(gradient(jnp.float64))
    # Equal points may come out of their projection with another last digit each.
    tolerance = 2e-3 if gap else 0.5
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_a_row_far_from_all_others_hides_no_distance_between_these():
    a = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    for far in (1e3, 1e6):
        b = np.concatenate([a, a[:1] + np.float32(far), np.full((1, 8), np.nan, np.float32)])
        expected = -((a.astype(np.float64)[:, None] - b.astype(np.float64)[None]) ** 2).sum(-1)
        squared = similarities.squared_euclidean(jnp.asarray(a), jnp.asarray(b))
        np.testing.assert_allclose(squared[:, :6], expected[:, :6], atol=1e-5)
        np.testing.assert_allclose(squared[:, 6], expected[:, 6], rtol=1e-5)
        assert np.isnan(squared[:, 7]).all()
        distances = similarities.euclidean(jnp.asarray(a), jnp.asarray(b))
        np.testing.assert_allclose(distances[:, :7], -np.sqrt(-expected[:, :7]), atol=2e-3)


def test_equal_rows_far_from_zero_have_no_distance():
    """Its slope ends where rounding of the rows begins; its value does not."""
    a = np.float32(np.random.default_rng(0).standard_normal((5, 8)) + 1e4)
    expected = np.sqrt(((a.astype(np.float64)[:, None] - a.astype(np.float64)[None]) ** 2).sum(-1))
    found = similarities.euclidean(jnp.asarray(a), jnp.asarray(a))
    np.testing.assert_allclose(found, -expected, atol=2e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", [*DISTANCES, "sphere", "geodesic"])
def test_half_precision_is_widened_first(name, dtype):
    others = {"sphere": similarities.sphere, "geodesic": similarities.oblique_geodesic(2)}
    similarity = (DISTANCES | others)[name]
    a, b = jax.random.normal(jax.random.key(0), (2, 5, 8)).astype(dtype)
    found = similarity(a, b)
    assert found.dtype == jnp.float32
    wide = [x.astype(jnp.float32) for x in (a, b)]
    np.testing.assert_array_equal(found, similarity(*wide))


@pytest.mark.parametrize("name", ["laplace", "root", "euclidean"])
def test_near_negatives_have_no_exploding_gradient_in_bfloat16(name):
    random = np.random.default_rng(1)
    a = oracles.unit(np.ones((9, 16)) + 1e-3 * random.standard_normal((9, 16)))
    rows = [np.float32(x) for x in (a, a + 0.1 * random.standard_normal((9, 16)))]
    loss = lambda a, b, **how: losses.nt_xent(
        a, b, temperature=1.0, similarity=DISTANCES[name], **how
    ).mean()
    found = jax.grad(functools.partial(loss, precision="bfloat16"))(*map(jnp.asarray, rows))
    with jax.enable_x64(True):
        expected = np.asarray(jax.grad(loss)(*(jnp.asarray(x, jnp.float64) for x in rows)))
    assert np.linalg.norm(np.asarray(found) - expected) < np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("similarity", "slope"),
    [
        (similarities.kernel(1), 1.0),
        (similarities.kernel(0.5), 0.5 * 2e-4**-0.5),
        (similarities.euclidean, 1.0),
    ],
)
def test_the_slope_of_a_small_distance_is_that_of_its_formula(similarity, slope):
    u, v = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 2e-4]])
    found = jax.grad(lambda u: similarity(u, v)[0, 0])(u)
    np.testing.assert_allclose(found, [[0.0, slope]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: similarities.oblique(2),
        lambda: similarities.oblique(2, mean=True),
        lambda: similarities.oblique_geodesic(2),
        lambda: similarities.kernel(1, 2),
        lambda: similarities.sphere.with_angular_margin(0.3),
    ],
)
def test_equal_ones_are_equal_and_compile_once(make):
    compiled = []

    @functools.partial(jax.jit, static_argnames="similarity")
    def measure(a, b, similarity):
        compiled.append(similarity)
        return similarity(a, b)

    again = pickle.loads(pickle.dumps(make()))
    assert make() == again
    assert hash(make()) == hash(again)
    for similarity in (make(), make(), again):
        measure(jnp.float32(A), jnp.float32(B), similarity)
    assert len(compiled) == 1
