"""Rules of other papers as temperatures, similarities and weights, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, schemes, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import oracles

pytestmark = pytest.mark.usefixtures("strict_dtypes")

N, D = 6, 5
TAU = lambda s: oracles.dystress(s, 0.1, 0.3)


@pytest.fixture
def views():
    with jax.enable_x64(True):
        a, b = jax.random.normal(jax.random.key(0), (2, N, D), jnp.float64)
        yield a, a + b


def exact(views):
    return [np.asarray(view) for view in views]


@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_dhel_has_the_negatives_of_the_own_view(views, strategy):
    found = losses.dcl(
        *views,
        temperature=temperatures.dystress(0.1, 0.3),
        own_view=True,
        strategy=strategy,
        tile_size=4,
    )
    np.testing.assert_allclose(found, oracles.dhel(*exact(views), TAU), rtol=1e-9)


def test_dual_temperature_is_the_published_rule(views):
    """sg[(1 - P_b) / (1 - P_a)] (-log P_a)."""
    dual = lambda a, b: schemes.dual_temperature_reweight(
        losses.nt_xent(a, b, temperature=0.1), losses.nt_xent(a, b, temperature=1.0)
    )
    a, b = exact(views)
    narrow, wide = (oracles.nt_xent(a, b, lambda s, tau=tau: tau + 0 * s) for tau in (0.1, 1.0))
    ratio = (1 - np.exp(-wide)) / (1 - np.exp(-narrow))
    np.testing.assert_allclose(dual(*views), ratio * narrow, rtol=1e-9)
    # The weights are numbers in the gradient.
    found = jax.grad(lambda a: dual(a, views[1]).sum())(views[0])
    weighed = lambda a: (jnp.asarray(ratio) * losses.nt_xent(a, views[1], temperature=0.1)).sum()
    np.testing.assert_allclose(found, jax.grad(weighed)(views[0]), rtol=1e-8, atol=1e-12)
    assert np.isfinite(schemes.dual_temperature_reweight(jnp.zeros(1), jnp.ones(1))).all()


def test_temperature_as_uncertainty_is_the_published_rule(views):
    """logit = s sigmoid(t_i) / tau_0."""
    t = jnp.linspace(-2.0, 3.0, N, dtype=jnp.float64)
    loss = lambda t: losses.info_nce(*views, temperature=temperatures.uncertainty(t))
    a, b = map(oracles.unit, exact(views))
    logits = a @ b.T / (1 + np.exp(-np.asarray(t)))[:, None] / 0.07
    expected = np.logaddexp.reduce(logits, axis=1) - np.diag(logits)
    np.testing.assert_allclose(loss(t), expected, rtol=1e-9)
    assert np.all(np.asarray(jax.grad(lambda t: loss(t).sum())(t)) != 0)


@pytest.mark.ci
@pytest.mark.parametrize("gammas", [(1.0,), (0.5,), (2.0,), (1.0, 2.0)])
@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_kernels_are_the_published_rule(views, gammas, strategy):
    """logit = -(2 - 2 s)^(gamma / 2) / tau; a product of kernels adds them."""
    how = {"similarity": similarities.kernel(*gammas), "strategy": strategy, "tile_size": 4}
    loss = lambda a: losses.info_nce(a, views[1], temperature=0.3, **how)
    a, b = map(oracles.unit, exact(views))
    logits = -sum((2 - 2 * a @ b.T) ** (gamma / 2) for gamma in gammas) / 0.3
    expected = np.logaddexp.reduce(logits, axis=1) - np.diag(logits)
    np.testing.assert_allclose(loss(views[0]), expected, rtol=1e-6)
    gradient = jax.grad(lambda a: loss(a).sum())
    assert np.isfinite(gradient(views[0])).all()
    assert np.isfinite(gradient(views[1])).all()  # equal points, where a root has no slope


def test_the_gaussian_kernel_is_the_sphere_at_half_the_temperature(views):
    kernel = losses.nt_xent(*views, temperature=0.2, similarity=similarities.kernel(2))
    np.testing.assert_allclose(kernel, losses.nt_xent(*views, temperature=0.1), rtol=1e-9)


@pytest.mark.parametrize("per_anchor", [False, True])
def test_weights_of_hard_negatives_are_a_temperature(views, per_anchor):
    """exp(beta s) in front of each negative, and of no positive."""
    beta, tau = 3.0, np.linspace(0.1, 0.2, N) if per_anchor else 0.1
    temperature = temperatures.hard_negatives(jnp.asarray(tau), beta)
    a, b = map(oracles.unit, exact(views))
    found = losses.info_nce(*views, temperature=temperature)
    by_weights = losses.info_nce(
        *views, temperature=jnp.asarray(tau), weights=jnp.asarray(np.exp(beta * a @ b.T))
    )
    s = a @ b.T
    logits = s / (tau[:, None] if per_anchor else tau) + beta * s * ~np.eye(N, dtype=bool)
    expected = np.logaddexp.reduce(logits, axis=1) - np.diag(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(by_weights, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: temperatures.hard_negatives(0.1, -1.0), "beta: found -1.0; allowed: >= 0"),
        (lambda: temperatures.uncertainty(jnp.zeros(2), 0.0), "tau: found 0.0; allowed: > 0"),
        (lambda: temperatures.uncertainty(jnp.zeros((2, 1))), r"tau: found shape \(2, 1\)"),
        (lambda: similarities.kernel(), r"gammas: found \(\); allowed: one or more numbers"),
        (lambda: similarities.kernel(3), r"gammas: found \(3,\); allowed"),
    ],
)
def test_bad_numbers_are_refused(call, message, unchecked_shapes):
    with pytest.raises(ArgumentError, match=message):
        call()
