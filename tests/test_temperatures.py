"""Temperatures against their published formulas, in float64 NumPy, and as pytrees."""

import dataclasses
import functools
import inspect
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import register_dataclass

from dystress_jax import losses, metrics, schemes, similarities, temperatures
from dystress_jax.errors import ArgumentError
from dystress_jax.losses import nt_xent
from dystress_jax.microscope import Compared, look
from tests import oracles

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# -1 and 1 included, and the few units in the last place that rounding adds to a cosine.
GRID = np.concatenate([np.linspace(-1, 1, 401), [1 + 2e-7, -1 - 2e-7]])

FORMULAS = {
    "constant": (temperatures.constant(0.3), lambda s: np.full_like(s, 0.3)),
    "dystress": (
        temperatures.dystress(0.07, 0.2),
        lambda s: 0.07 + 0.5 * (0.2 - 0.07) * (1 + np.cos(np.pi * (1 + s))),
    ),
    "dystress over a wide range": (
        temperatures.dystress(0.01, 1.0),
        lambda s: 0.01 + 0.5 * (1.0 - 0.01) * (1 + np.cos(np.pi * (1 + s))),
    ),
    "shifted": (
        temperatures.shifted_dystress(0.1, 0.2),
        lambda s: np.where(s <= 0.4, 0.1 + 0.05 * (1 + np.cos(np.pi * (s - 0.4) / 0.7)), 0.2),
    ),
    "shifted, narrow": (
        temperatures.shifted_dystress(0.04, 0.05, shift=-0.2, width=0.3),
        lambda s: np.where(s <= 0.2, 0.04 + 0.005 * (1 + np.cos(np.pi * (s - 0.2) / 0.3)), 0.05),
    ),
    "linear": (temperatures.linear(0.1, 0.5), lambda s: 0.1 + 0.4 * np.abs(s)),
    "monotone cosine": (
        temperatures.monotone_cosine(0.1, 0.5),
        lambda s: 0.1 + 0.4 * (1 + s) / 2,
    ),
    "exponential": (temperatures.exponential(), lambda s: 0.2 - 0.1 * np.exp(-3.5 * np.abs(s))),
    "learned": (temperatures.learned(2.0), lambda s: np.full_like(s, np.exp(-2.0))),
    "learned, clamped": (temperatures.learned(9.0), lambda s: np.full_like(s, 0.01)),
    "function": (
        temperatures.as_temperature(lambda s: 0.1 + 0.2 * s * s),
        lambda s: 0.1 + 0.2 * s * s,
    ),
}


@pytest.mark.parametrize(("temperature", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_equals_the_published_formula(temperature, formula):
    tau = temperature(jnp.asarray(GRID, jnp.float32))
    assert tau.dtype == jnp.float32
    np.testing.assert_allclose(tau, formula(np.clip(GRID, -1, 1)), rtol=2e-6)
    with jax.enable_x64(True):
        grid = GRID[:-2]
        tau = temperature(jnp.asarray(grid, jnp.float64))
        assert tau.dtype == jnp.float64
        if not isinstance(temperature, temperatures.Function):  # made for float32, above
            np.testing.assert_allclose(tau, formula(grid), rtol=1e-12)


@pytest.mark.parametrize(("temperature", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_never_falls_below_the_bound_it_promises(temperature, formula):
    bound = temperature.lower_bound()
    if bound is not None:
        assert float(bound) <= formula(GRID).min() * (1 + 1e-6)


def test_temperature_free_logit_is_the_log_odds():
    s = np.concatenate([np.linspace(-0.999, 0.999, 333), [-1e-3, 0.0, 9.9e-3, 1.01e-2]])
    logit = jnp.asarray(s) / temperatures.temperature_free()(jnp.asarray(s, jnp.float32))
    np.testing.assert_allclose(logit, np.log((1 + s) / (1 - s)), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda s: s / temperatures.temperature_free()(s))(1.0))
    free = temperatures.temperature_free()
    for dtype in (jnp.bfloat16, jnp.float16):
        tau = free(jnp.array([-1.0, 0.5, 1.0], dtype))
        assert tau.dtype == dtype
        expected = free(jnp.array([-1.0, 0.5, 1.0]))
        np.testing.assert_allclose(np.float32(tau), expected, rtol=1e-2)


@pytest.mark.parametrize(("make", "slope"), [("linear", 0.1), ("monotone_cosine", 0.05)])
def test_the_slope_at_the_ends_is_that_inside(make, slope):
    tau = getattr(temperatures, make)(0.1, 0.2, stop_gradient=False)
    for s in (0.3, 1.0):
        np.testing.assert_allclose(jax.grad(tau)(s), slope, rtol=1e-6)
    low = jax.grad(tau)(-1.0)
    np.testing.assert_allclose(low, -slope if make == "linear" else slope, rtol=1e-6)
    assert jax.grad(tau)(1.5) == 0


WITH_STOP_GRADIENT = [
    name
    for name in temperatures.__all__
    if inspect.isfunction(make := getattr(temperatures, name))
    and "stop_gradient" in inspect.signature(make).parameters
]


@pytest.mark.parametrize("name", WITH_STOP_GRADIENT)
def test_stop_gradient_decides_whether_tau_has_a_slope(name):
    make, s = getattr(temperatures, name), jnp.float32(0.2)
    assert jax.grad(make(stop_gradient=True))(s) == 0
    moves = make(stop_gradient=False)
    step = (moves(s + 1e-2) - moves(s - 1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(moves)(s), step, rtol=1e-2)
    assert step != 0


def test_a_scale_that_is_a_whole_number_has_the_limits_that_were_given():
    for log_scale, limits, scale in ((0, {"min_scale": 2.0}, 2.0), (3, {"max_scale": 9.5}, 9.5)):
        tau = temperatures.learned(log_scale, **limits)
        np.testing.assert_allclose(tau(jnp.zeros(())), 1 / scale, rtol=1e-6)


def temo(s, tau_min=0.01, a=0.04):
    return tau_min + a * np.sqrt((np.float64(s) + 1) / 2)


def test_temo_equals_the_published_formula():
    grid = np.linspace(-1, 1, 401)[1:]
    tau = temperatures.temo()(jnp.asarray(grid, jnp.float32))
    np.testing.assert_allclose(tau, temo(np.float32(grid)), rtol=2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(temperatures.temo()(jnp.asarray(grid)), temo(grid), rtol=1e-12)
        wide = temperatures.temo(0.2, 0.7)(jnp.asarray(grid))
        np.testing.assert_allclose(wide, temo(grid, 0.2, 0.5), rtol=1e-12)
        # It is not detached: d tau / ds = a / (4 sqrt((s + 1) / 2)).
        slope = jax.vmap(jax.grad(temperatures.temo()))(jnp.asarray(grid))
        np.testing.assert_allclose(slope, 0.01 / np.sqrt((grid + 1) / 2), rtol=1e-12)
    assert jax.grad(temperatures.temo(stop_gradient=True))(jnp.float32(0.3)) == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("s", [-1.0 - 2e-7, -1.0, -1.0 + 1e-7, 1.0, 1.0 + 2e-7])
def test_temo_is_finite_where_its_slope_is_not(s, dtype):
    logit = lambda s, temperature: s / temperature(s)
    temperature = jax.tree.map(dtype, temperatures.temo())
    value, gradients = jax.value_and_grad(logit, argnums=(0, 1))(dtype(s), temperature)
    for x in jax.tree.leaves((value, gradients)):
        assert x.dtype == dtype
        assert np.isfinite(np.float32(x))
    if dtype == jnp.float32:
        np.testing.assert_allclose(temperature(dtype(s)), temo(np.clip(s, -1, 1)), rtol=2.1e-3)


@given(st.floats(1e-3, 10.0), st.floats(1.0, 1e3))
@settings(deadline=None)
def test_the_logit_of_temo_increases_for_every_range(tau_min, ratio):
    s = np.linspace(-1, 1, 2001)
    slope = np.diff(s / temo(s, tau_min, tau_min * (ratio - 1)))
    assert slope.min() > 0
    s = np.float32(s[1:])
    tau = temperatures.temo(tau_min, tau_min * ratio)(jnp.asarray(s))
    np.testing.assert_allclose(tau, temo(s, tau_min, tau_min * (ratio - 1)), rtol=1e-5)


def test_shifted_profile_at_minus_one_and_one_is_the_plain_one():
    s = jnp.asarray(GRID, jnp.float32)
    shifted = temperatures.shifted_dystress(0.07, 0.2, shift=-1.0, width=1.0)
    np.testing.assert_allclose(shifted(s), temperatures.dystress(0.07, 0.2)(s), rtol=1e-6)


@given(
    st.floats(1e-3, 10.0), st.floats(1.0, 1e3), st.floats(-1.0, 1.0), st.sampled_from([True, False])
)
@settings(deadline=None)
def test_dystress_stays_in_its_range_and_is_even(tau_min, ratio, s, stop_gradient):
    tau_max = tau_min * ratio
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wide ranges without stop_gradient warn, tested below
        tau = temperatures.dystress(tau_min, tau_max, stop_gradient=stop_gradient)
    value, mirrored = tau(jnp.array([s, -s], jnp.float32))
    assert tau_min * (1 - 1e-6) <= float(value) <= tau_max * (1 + 1e-6)
    assert value == mirrored


@pytest.mark.parametrize("s", [-0.7, -0.2, 0.3, 0.9, 1.0 + 2e-7])
def test_derivative_of_dystress(s):
    open_ended = temperatures.dystress(0.1, 0.2, stop_gradient=False)
    expected = 0.05 * np.pi * np.sin(np.pi * s) if abs(s) <= 1 else 0.0
    np.testing.assert_allclose(jax.grad(open_ended)(jnp.float32(s)), expected, rtol=1e-5, atol=1e-6)
    assert jax.grad(temperatures.dystress(0.1, 0.2))(jnp.float32(s)) == 0


def test_leaves_are_numbers_to_trace_and_differentiate():
    temperature = temperatures.dystress(0.1, 0.2)
    assert jax.tree.leaves(temperature) == [0.1, 0.2]
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    loss = lambda t: nt_xent(*views, temperature=t).mean()
    gradient = jax.grad(loss)(jax.tree.map(jnp.float32, temperature))
    assert isinstance(gradient, temperatures.Dystress)
    assert all(leaf != 0 for leaf in jax.tree.leaves(gradient))


def test_a_sweep_by_vmap_equals_a_loop_and_compiles_once():
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    low, high = jnp.array([0.05, 0.1, 0.2]), jnp.array([0.1, 0.4, 0.2])
    compilations = []

    @jax.jit
    def sweep(low, high):
        compilations.append(1)
        one = lambda low, high: nt_xent(*views, temperature=temperatures.dystress(low, high))
        return jax.vmap(one)(low, high)

    rows = [
        nt_xent(*views, temperature=temperatures.dystress(*pair))
        for pair in zip(low, high, strict=True)
    ]
    np.testing.assert_allclose(sweep(low, high), jnp.stack(rows), rtol=1e-6)
    sweep(low * 2, high * 2)
    assert len(compilations) == 1


def test_a_function_may_close_over_a_parameter_to_learn():
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    by_function = lambda scale: nt_xent(*views, temperature=lambda s: scale + 0 * s).sum()
    by_constant = lambda scale: nt_xent(*views, temperature=scale).sum()
    for function in (by_function, jax.jit(by_function)):
        np.testing.assert_allclose(jax.grad(function)(0.3), jax.grad(by_constant)(0.3), rtol=1e-5)


def test_a_temperature_of_ones_own():
    @register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Quadratic(temperatures.Temperature):
        tau: float

        def __call__(self, similarity):
            return self.tau * (1 + similarity**2)

    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    ours = nt_xent(*views, temperature=Quadratic(0.2))
    np.testing.assert_allclose(ours, nt_xent(*views, temperature=lambda s: 0.2 * (1 + s**2)))


TAU = jnp.linspace(0.1, 1.0, 8)  # one for each anchor of four examples


@register_dataclass
@dataclasses.dataclass(frozen=True)
class OfRows(temperatures.Temperature):
    """One of one's own, whose leaf meets the similarities in some way."""

    tau: jax.Array
    meet: object = dataclasses.field(metadata={"static": True})
    is_per_anchor: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, similarity):
        return self.meet(self.tau, similarity) * (1 + similarity**2)


def as_column(tau, similarity):
    return tau.reshape(-1, *[1] * (similarity.ndim - 1))


NOT_ELEMENTWISE = {
    "a function with a column": lambda s: TAU[:, None] + 0 * s,
    "a function with a row": lambda s: TAU[None, :] + 0 * s,
    "a class with a row": OfRows(TAU, lambda tau, s: tau),
    "a class with a column": OfRows(TAU, lambda tau, s: tau[:, None]),
    "a column without is_per_anchor": OfRows(TAU, as_column),
    "a row with is_per_anchor": OfRows(TAU, lambda tau, s: tau, True),
    "a column of matrices only": OfRows(TAU, lambda tau, s: tau[:, None], True),
    "constant": temperatures.constant(TAU),
    "learned": temperatures.learned(-jnp.log(TAU)),
    "dystress": temperatures.dystress(TAU, 1.0),
    "dystress, a column": temperatures.dystress(TAU[:, None], 1.0),
    "exponential": temperatures.exponential(TAU, 1.0),
    "temperature_free": temperatures.temperature_free(TAU),
    "hard negatives": temperatures.hard_negatives(0.1, TAU),
    "of the negatives": temperatures.separate(0.1, temperatures.constant(TAU)),
}


@pytest.mark.parametrize("strategy", ["dense", "tiled", "ring"])
@pytest.mark.parametrize("name", NOT_ELEMENTWISE)
def test_tau_of_another_shape_than_the_similarities_is_refused(name, strategy):
    loss = functools.partial(nt_xent, strategy=strategy, tile_size=3)
    if strategy == "ring":
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
        loss = losses.on_mesh(nt_xent, mesh, strategy="ring")
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    with pytest.raises(ArgumentError) as raised:
        loss(*views, temperature=NOT_ELEMENTWISE[name])
    assert "tau has shape" in str(raised.value)
    assert "a pytree class with is_per_anchor, in which a leaf t [n]" in str(raised.value)


def test_tau_of_another_shape_is_refused_wherever_temperatures_are_used():
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    bad = temperatures.constant(TAU)
    rows = jnp.arange(4)
    pairs = Compared(*views, views[1], groups=(rows, rows), labels=(rows, rows))
    for use in (
        lambda: losses.statistics(nt_xent, *views, temperature=bad),
        lambda: losses.siglip(*views, scale=TAU[:4], bias=0.0),
        lambda: metrics.pair_statistics(*views, temperature=bad),
        lambda: look(pairs, bad),
        lambda: nt_xent(*views, temperature=schemes.fixed(bad).resolve((), None)),
    ):
        with pytest.raises(ArgumentError, match="found"):
            use()


@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_a_class_of_ones_own_per_anchor_scales_its_rows(strategy):
    """Also under `hard_negatives`, whose beta may then be one for each anchor."""
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    beta = jnp.linspace(0.0, 3.0, 8)
    how = {"strategy": strategy, "tile_size": 3}
    ours = OfRows(TAU, as_column, True)
    found = nt_xent(*views, temperature=ours, **how)
    harder = nt_xent(*views, temperature=temperatures.hard_negatives(ours, beta), **how)
    for row, (tau, each) in enumerate(zip(TAU, beta, strict=True)):
        alone = lambda s, tau=tau: tau * (1 + s**2)
        np.testing.assert_allclose(found[row], nt_xent(*views, temperature=alone)[row], rtol=1e-5)
        alone = temperatures.hard_negatives(alone, each)
        np.testing.assert_allclose(harder[row], nt_xent(*views, temperature=alone)[row], rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"beta: found shape \(3,\); allowed: one number"):
        temperatures.hard_negatives(ours, jnp.ones(3))


@pytest.mark.parametrize("tau", [lambda s: 0.1 if s > 0 else 0.2, lambda s: 0.1 + np.abs(s)])
@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_a_temperature_that_cannot_be_traced_is_told_so(tau, strategy):
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    for temperature in (tau, OfRows(TAU[0], lambda leaf, s: tau(s))):
        with pytest.raises(ArgumentError, match=r"written with jax.numpy. jnp.where takes"):
            nt_xent(*views, temperature=temperature, strategy=strategy)


@pytest.mark.parametrize("tau", [True, np.bool_(True), jnp.ones(8, bool)])
def test_a_bool_is_no_temperature(tau):
    with pytest.raises(TypeError, match="temperature must be a number; found a bool"):
        temperatures.as_temperature(tau)


def test_a_closure_inside_a_shard_map_of_ones_own_is_told_to_be_a_class():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
    rows = jax.P("data")

    def mean(depth, check_vma):
        def local(depth, a, b):
            by_function = lambda s: 0.1 + depth * s * s
            return nt_xent(a, b, temperature=by_function, strategy="ring", axis_name="data")

        specs = (jax.P(), rows, rows)
        spread = jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=check_vma
        )
        return spread(depth, *jax.random.normal(jax.random.key(0), (2, 4, 8))).mean()

    with pytest.raises(ArgumentError, match="closes over traced values, inside a shard_map; allo"):
        jax.jit(functools.partial(mean, check_vma=True))(jnp.float32(0.1))
    assert np.isfinite(jax.jit(functools.partial(mean, check_vma=False))(jnp.float32(0.1)))


def test_separate_temperatures_reach_their_pairs():
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    loss = lambda p, n: nt_xent(*views, temperature=temperatures.separate(p, n)).sum()
    np.testing.assert_allclose(loss(0.3, 0.3), nt_xent(*views, temperature=0.3).sum(), rtol=1e-6)
    assert loss(0.3, 0.5) != loss(0.5, 0.3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: temperatures.constant(0.0), "tau: found 0.0; allowed: > 0"),
        (lambda: temperatures.as_temperature(-0.1), "tau: found -0.1; allowed: > 0"),
        (lambda: temperatures.dystress(0.0, 0.2), "tau_min: found 0.0; allowed: > 0"),
        (
            lambda: temperatures.dystress(0.3, 0.2),
            "tau_min: found 0.3; allowed: <= `tau_max` = 0.2",
        ),
        (
            lambda: temperatures.shifted_dystress(0.3, 0.2),
            "tau_min: found 0.3; allowed: <= `tau_max` = 0.2",
        ),
        (lambda: temperatures.shifted_dystress(width=0.0), "width: found 0.0; allowed: > 0"),
        (lambda: temperatures.linear(-1.0), "tau_min: found -1.0; allowed: > 0"),
        (
            lambda: temperatures.monotone_cosine(0.3, 0.2),
            "tau_min: found 0.3; allowed: <= `tau_max` = 0.2",
        ),
        (lambda: temperatures.temo(0.3, 0.2), "tau_min: found 0.3; allowed: <= `tau_max` = 0.2"),
        (lambda: temperatures.temo(0.0), "tau_min: found 0.0; allowed: > 0"),
        (
            lambda: temperatures.exponential(0.3, 0.2),
            "tau_min: found 0.3; allowed: <= `tau_max` = 0.2",
        ),
        (lambda: temperatures.exponential(-0.1), "tau_min: found -0.1; allowed: > 0"),
        (lambda: temperatures.exponential(rate=-1.0), "rate: found -1.0; allowed: >= 0"),
        (
            lambda: temperatures.learned(max_scale=1.0),
            "max_scale: found 1.0; allowed: more than `min_scale` = 1.0",
        ),
        (lambda: temperatures.learned(min_scale=0.0), "min_scale: found 0.0; allowed: > 0"),
        (lambda: temperatures.temperature_free(0.0), "scale: found 0.0; allowed: > 0"),
        (lambda: temperatures.temperature_free(epsilon=0.0), "epsilon: found 0.0; allowed: in"),
        (lambda: temperatures.per_anchor(jnp.zeros(2)), r"tau: found \[0. 0.\]; allowed: > 0"),
    ],
)
def test_a_bad_number_is_refused_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_wide_range_without_stop_gradient_warns():
    with pytest.warns(UserWarning, match=r"tau_max / tau_min = 5 exceeds 4.504"):
        temperatures.dystress(0.1, 0.5, stop_gradient=False)
    with pytest.warns(UserWarning, match="Use stop_gradient=True"):
        temperatures.shifted_dystress(0.1, 0.5, stop_gradient=False)
    temperatures.dystress(0.1, 0.45, stop_gradient=False)  # any warning would be an error
    temperatures.dystress(0.1, 0.5)


@pytest.mark.parametrize(
    ("make", "profile", "ratio"),
    [
        (temperatures.dystress, oracles.dystress, 4.504),
        (temperatures.shifted_dystress, oracles.shifted_dystress, 2.043),
    ],
)
def test_the_ratio_of_the_warning_is_where_the_logit_stops_increasing(make, profile, ratio):
    s = np.linspace(-1, 1, 200_001)
    slope = lambda ratio: np.diff(s / profile(s, 1.0, ratio)).min()
    assert slope(ratio - 2e-3) > 0 > slope(ratio + 2e-3)
    make(0.1, 0.1 * (ratio - 2e-3), stop_gradient=False)  # any warning would be an error
    with pytest.warns(UserWarning, match=f"exceeds {ratio}"):
        make(0.1, 0.1 * (ratio + 2e-3), stop_gradient=False)
    make(0.1, 0.5)


def test_the_ratio_of_the_warning_holds_for_each_of_many_temperatures():
    many = {"shift": jnp.array([-1.0, -0.4]), "width": jnp.array([1.0, 0.7])}
    temperatures.shifted_dystress(0.1, jnp.array([0.45, 0.2]), **many, stop_gradient=False)
    with pytest.warns(UserWarning, match=r"tau_max / tau_min = 3 exceeds 2\.043"):
        temperatures.shifted_dystress(0.1, jnp.array([0.45, 0.3]), **many, stop_gradient=False)


@pytest.mark.parametrize("log_scale", [0.0, math.log(100)])
def test_a_learned_scale_on_its_limit_has_its_whole_gradient(log_scale):
    tau = lambda log_scale: temperatures.Learned(log_scale)(jnp.zeros(()))
    on_limit = jnp.float32(log_scale)
    np.testing.assert_allclose(jax.grad(tau)(on_limit), -tau(on_limit), rtol=1e-6)
    assert jax.grad(tau)(on_limit + (0.1 if log_scale else -0.1)) == 0


def test_a_function_that_makes_a_temperature_is_no_temperature():
    with pytest.raises(TypeError, match="temperature returned a Dystress: give what it returns"):
        temperatures.as_temperature(temperatures.dystress)


def test_a_temperature_that_is_no_pytree_is_told_what_is_missing():
    @dataclasses.dataclass(frozen=True)
    class Unregistered(temperatures.Temperature):
        tau: float

        def __call__(self, similarity):
            return jnp.full_like(similarity, self.tau)

    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    with pytest.raises(TypeError, match=r"Unregistered is no pytree; write @jax.tree_util."):
        nt_xent(*views, temperature=Unregistered(0.1))
    with pytest.raises(TypeError, match=r"Unregistered is no pytree"):
        temperatures.separate(0.1, Unregistered(0.1))


def test_two_separate_temperatures_cannot_be_called_as_one():
    with pytest.raises(TypeError, match="call its for_positives or its for_negatives"):
        temperatures.separate(0.1, 0.2)(jnp.zeros(2))


CROSSED = ("dystress", "shifted_dystress", "linear", "monotone_cosine", "temo", "exponential")


@pytest.mark.parametrize("name", CROSSED)
def test_ends_that_cross_while_they_are_traced_give_the_same_in_tiles(name):
    a, noise = jax.random.normal(jax.random.key(0), (2, 12, 8))

    @functools.partial(jax.jit, static_argnums=2)
    def loss(tau_min, tau_max, strategy):
        tau = getattr(temperatures, name)(tau_min, tau_max)
        how = (
            {"strategy": strategy} if strategy == "dense" else {"strategy": "tiled", "tile_size": 5}
        )
        return nt_xent(a, a + 0.5 * noise, temperature=tau, **how)

    expected = loss(0.1, 0.005, "dense")
    assert np.all(np.isfinite(expected))
    # A loss near 0 is exp(-200): what rounds a logit by 2e-5 rounds it by as much of itself.
    np.testing.assert_allclose(loss(0.1, 0.005, "tiled"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("log_scale", [-9.0, 0.0, math.log(1 / 0.07), 4.6, 9.0])
def test_what_is_learned_promises_its_number_as_the_bound(log_scale):
    # The limit, 1 / 100, would make tiles look for the largest logit first at every number.
    tau = temperatures.learned(log_scale)
    np.testing.assert_array_equal(tau.lower_bound(), tau(jnp.zeros(())))
    passes = lambda log_scale: str(
        jax.make_jaxpr(
            lambda t, x: nt_xent(
                x, x, temperature=temperatures.learned(t), strategy="tiled", tile_size=4
            )
        )(log_scale, jnp.ones((8, 4)))
    )
    assert " cond[" in passes(log_scale)  # the pass without a maximum, where it is enough


IN_A_MODULE = {
    "itself": lambda tau: tau,
    "constant": temperatures.constant,
    "dystress": lambda tau: temperatures.dystress(tau, 0.2),
    "shifted_dystress": lambda tau: temperatures.shifted_dystress(tau, 0.2, stop_gradient=False),
    "linear": lambda tau: temperatures.linear(0.05, tau),
    "exponential": lambda tau: temperatures.exponential(0.05, tau),
    "learned": temperatures.learned,
    "temperature_free": temperatures.temperature_free,
    "per_anchor": lambda tau: temperatures.per_anchor(tau * jnp.ones(8)),
    "separate": lambda tau: temperatures.separate(tau, 0.2),
}


@pytest.mark.parametrize("name", IN_A_MODULE)
def test_a_variable_of_a_module_counts_as_its_array(name):
    views = jax.random.normal(jax.random.key(0), (2, 4, 8))
    loss = lambda tau: nt_xent(*views, temperature=IN_A_MODULE[name](tau)).mean()

    class Model(nnx.Module):
        def __init__(self):
            self.tau = nnx.Param(jnp.float32(0.1))

    value, gradient = jax.value_and_grad(loss)(jnp.float32(0.1))
    of_module = nnx.jit(nnx.value_and_grad(lambda model: loss(model.tau)))
    found, slope = of_module(Model())
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(slope["tau"][...], gradient, rtol=1e-5)
    np.testing.assert_allclose(loss(nnx.Param(jnp.float32(0.1))), value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_an_anchor_may_be_as_unsure_as_it_likes(dtype):
    logits = jnp.zeros((6, 6)).at[:, 0].set(jnp.array([3.0, 0.0, -9.0, -17.0, -50.0, -100.0]))

    def slopes(views, logits):
        loss = lambda logit: losses.nt_xent(
            *views, temperature=temperatures.uncertainty(logit), strategy="dense"
        ).mean()
        return jax.jit(jax.vmap(jax.grad(loss)))(logits)

    views = jax.random.normal(jax.random.key(0), (2, 3, 4))
    found = slopes(views, logits.astype(dtype))
    with jax.enable_x64(True):
        expected = slopes(views.astype(float), logits.astype(float))
    smallest = 1e-6 if dtype == jnp.float16 else 1e-9
    np.testing.assert_allclose(np.float64(found), expected, rtol=2e-3, atol=smallest)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("similarity", [jnp.array([-1, 0, 1]), 0, 1, 0.5])
@pytest.mark.parametrize(
    "temperature",
    [
        *(temperatures.constant(0.1), temperatures.learned(), temperatures.temperature_free()),
        *(temperatures.dystress(), temperatures.shifted_dystress(), temperatures.temo()),
        temperatures.hard_negatives(0.1, 2.0).for_negatives,
        temperatures.as_temperature(lambda s: 0.1 + 0.1 * s * s),
    ],
    ids=lambda x: type(x).__name__,
)
def test_similarities_may_be_whole_numbers_and_no_arrays(temperature, similarity):
    expected = temperature(jnp.asarray(similarity, jnp.float32))
    np.testing.assert_allclose(temperature(similarity), expected, rtol=1e-6)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda x: temperatures.learned(0.0, max_scale=x), "max_scale"),
        (lambda x: temperatures.temperature_free(epsilon=x), "epsilon"),
        (lambda x: similarities.sphere.with_angular_margin(x), "margin"),
        (lambda x: schemes.isogclr(4, rho=x), "rho"),
    ],
)
def test_what_a_program_is_written_for_is_no_traced_number(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}: found a traced value; allowed: a number"):
        jax.jit(lambda x: make(x) and x)(0.5)


def test_a_complex_temperature_is_refused():
    with pytest.raises(TypeError, match="temperature must be real; found complex numbers"):
        temperatures.as_temperature(jnp.array([0.1 + 1j]))
