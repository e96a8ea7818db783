"""What `losses.statistics` says of each anchor, against NumPy, in every strategy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import oracles

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("strict_dtypes"),
    pytest.mark.usefixtures("quick_compile"),
]

N, D = 12, 5
TAU = lambda s: oracles.dystress(s, 0.1, 0.3)
SLOPE = lambda s: -0.1 * np.pi * np.sin(np.pi * (1 + s))
LABELS = np.arange(N) % 4


def make_views(k=2, dtype=None):
    first, *others = jax.random.normal(jax.random.key(0), (k, N, D), dtype)
    return (first, *(first + other for other in others))


def look(loss, *arrays, **how):
    """Compiled, in which the rest of the library is quicker too."""
    static = {k: v for k, v in how.items() if k in ("strategy", "tile_size", "similarity", "bins")}
    traced = {k: v for k, v in how.items() if k not in static}
    of_loss = functools.partial(losses.statistics, loss, **static)
    return jax.jit(lambda arrays, traced: of_loss(*arrays, **traced))(arrays, traced)


def of_anchor(s, negative, positive, tau, slope, log_weight=0.0):
    """The numbers of one row of similarities."""
    logit = s / tau(s)
    l = (logit + log_weight)[negative]
    q = np.exp(l - np.logaddexp.reduce(l))
    pull = q * np.abs((tau(s) - s * slope(s)) / tau(s) ** 2)[negative]
    by_hardness = pull[np.argsort(-s[negative])] / pull.sum()
    top = lambda part: by_hardness[: max(int(np.ceil(part * len(l))), 1)].sum()
    entropy = -np.sum(q * np.log(q))
    p, n = np.logaddexp.reduce(logit[positive]), np.logaddexp.reduce(l)
    spread = lambda x: (x.mean(), x.min(), x.max())
    return {
        "positive_logit": logit[positive].mean(),
        "positive_probability": 1 / (1 + np.exp(n - p)),
        "entropy": entropy,
        "effective_negatives": np.exp(entropy),
        "hardest_1_percent": top(0.01),
        "hardest_10_percent": top(0.1),
        "negatives.number": len(l),
        "negatives.similarity": spread(s[negative]),
        "negatives.tau": spread(tau(s[negative])),
        "positives.similarity": spread(s[positive]),
        "positives.tau": spread(tau(s[positive])),
    }


def assert_equals(found, expected, rtol, but=()):
    for name in expected[0].keys() - set(but):
        value = functools.reduce(getattr, name.split("."), found)
        of_each = np.array([each[name] for each in expected])
        value = value[:3] if isinstance(value, losses.Spread) else (value,)
        of_each = of_each.T if of_each.ndim == 2 else (of_each,)
        # A bin in which the limit lies counts in part.
        near = 0.03 if name.startswith("hardest") else rtol
        for x, y in zip(value, of_each, strict=True):
            np.testing.assert_allclose(x, y, rtol=near, err_msg=name)


VIEWS = np.tile(np.eye(N, dtype=bool), (2, 2))
OWN = np.eye(2 * N, dtype=bool)
SAME = np.tile(LABELS[:, None] == LABELS, (2, 2))
CASES = {
    "nt_xent": (losses.nt_xent, (), ~VIEWS, VIEWS & ~OWN),
    "dcl": (losses.dcl, (), ~VIEWS, VIEWS & ~OWN),
    "dcl, two logarithms": (functools.partial(losses.dcl, joint=False), (), ~VIEWS, VIEWS & ~OWN),
    "dclw": (losses.dclw, (), ~VIEWS, VIEWS & ~OWN),
    "supcon": (losses.supcon, (jnp.asarray(LABELS),), ~SAME, SAME & ~OWN),
}


@pytest.mark.parametrize(
    ("name", "stop_gradient"),
    [
        ("nt_xent", False),
        ("supcon", True),
        *(pytest.param(name, True, marks=pytest.mark.ci) for name in CASES if name != "supcon"),
    ],
)
def test_the_numbers_of_each_anchor_are_those_of_the_oracle(name, stop_gradient):
    loss, more, negative, positive = CASES[name]
    with jax.enable_x64(True):
        views = make_views(dtype=jnp.float64)
        temperature = temperatures.dystress(0.1, 0.3, stop_gradient=stop_gradient)
        found = look(loss, *views, *more, temperature=temperature)
        z = oracles.unit(np.concatenate(views))
    slope = (lambda s: 0 * s) if stop_gradient else SLOPE
    s = z @ z.T
    expected = [of_anchor(s[i], negative[i], positive[i], TAU, slope) for i in range(2 * N)]
    assert_equals(found, expected, 1e-9)
    for kind, chosen in ((found.negatives, negative), (found.positives, positive)):
        for spread, edges, values in (
            (kind.similarity, found.similarity_edges, s),
            (kind.tau, found.tau_edges, TAU(s)),
        ):
            edges = np.asarray(edges, np.float64)
            for row, x, of in zip(spread.histogram, values, chosen, strict=True):
                np.testing.assert_array_equal(row, np.histogram(x[of], edges)[0])


def test_clip_has_the_images_first_and_moco_its_queue():
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        how = {"temperature": temperatures.dystress(0.1, 0.3)}
        both = look(losses.clip, a, b, **how)
        queued = look(losses.moco, a, b, b[::-1] - a, **how)
        x, y = oracles.unit(np.asarray(a)), oracles.unit(np.asarray(b))
        queue = oracles.unit(np.asarray(b[::-1] - a))
    flat, own = lambda s: 0 * s, np.eye(N, dtype=bool)
    s = x @ y.T
    expected = [
        of_anchor(row, ~own[i], own[i], TAU, flat) for m in (s, s.T) for i, row in enumerate(m)
    ]
    assert_equals(both, expected, 1e-9)
    with_key = np.concatenate([np.diag(s)[:, None], x @ queue.T], axis=1)
    first = np.arange(N + 1) == 0
    assert_equals(queued, [of_anchor(row, ~first, first, TAU, flat) for row in with_key], 1e-9)


def test_weights_and_further_negatives_count():
    w = np.random.default_rng(0).uniform(0.2, 3, 2 * N)
    with jax.enable_x64(True):
        views = make_views(dtype=jnp.float64)
        further = views[1][:3] - views[0][:3]
        how = {"weights": jnp.asarray(w), "negatives": further}
        found = look(losses.nt_xent, *views, temperature=0.1, **how)
        z = oracles.unit(np.concatenate([*views, further]))
    log_weight = np.log(np.concatenate([w, np.ones(3)]))
    negative = np.pad(~VIEWS, ((0, 0), (0, 3)), constant_values=True)
    positive = np.pad(VIEWS & ~OWN, ((0, 0), (0, 3)))
    flat = lambda s: 0 * s
    expected = [
        of_anchor(z[i] @ z.T, negative[i], positive[i], lambda s: 0.1 + 0 * s, flat, log_weight)
        for i in range(2 * N)
    ]
    # Weights of any size in one bin: shares of it say little here.
    assert_equals(found, expected, 1e-9, but=("hardest_1_percent", "hardest_10_percent"))


HOW = {
    "nt_xent": (losses.nt_xent, make_views()),
    "three views": (losses.nt_xent, (make_views(3),)),
    "supcon": (losses.supcon, (*make_views(), jnp.asarray(LABELS))),
    "clip": (losses.clip, make_views()),
}


@pytest.mark.parametrize("strategy", ["tiled", "gathered", "ring"])
@pytest.mark.parametrize(
    "name", ["clip", *(pytest.param(name, marks=pytest.mark.ci) for name in HOW if name != "clip")]
)
def test_every_strategy_says_the_same(name, strategy):
    loss, arrays = HOW[name]
    how = {"temperature": temperatures.dystress(0.1, 0.3), "bins": 7}
    expected = jax.jit(lambda x: losses.statistics(loss, *x, strategy="dense", **how))(arrays)
    if strategy == "tiled":
        tiled = {"strategy": strategy, "tile_size": 5}
        found = jax.jit(lambda x: losses.statistics(loss, *x, **tiled, **how))(arrays)
    else:
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
        of_loss = functools.partial(losses.statistics, loss)
        on_all = losses.on_mesh(of_loss, mesh, strategy=strategy, tile_size=5)
        found = jax.jit(lambda x: on_all(*x, **how))(arrays)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)


def test_arrays_that_are_split_are_looked_at_where_they_are():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    views = jax.device_put(make_views(), jax.NamedSharding(mesh, jax.P("data")))
    found = look(losses.nt_xent, *views, temperature=0.1)
    expected = look(losses.nt_xent, *make_views(), temperature=0.1)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-5)


def test_the_memory_of_tiles_is_linear():
    def temporaries(n):
        views = jax.ShapeDtypeStruct((n, 8), jnp.float32)
        look = lambda a, b: losses.statistics(
            losses.nt_xent, a, b, temperature=0.1, strategy="tiled", tile_size=64
        )
        return jax.jit(look).lower(views, views).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) < 2.5 * temporaries(1024)


def test_rows_that_only_fill_up_have_nothing():
    real = jnp.arange(N) < 8
    views = [jnp.where(real[:, None], x, jnp.nan) for x in make_views()]
    found = look(losses.nt_xent, *views, temperature=0.1, where=real)
    expected = look(losses.nt_xent, *(x[:8] for x in make_views()), temperature=0.1)
    both = np.tile(np.asarray(real), 2)
    np.testing.assert_allclose(found.entropy[both], expected.entropy, rtol=1e-5)
    np.testing.assert_allclose(
        found.hardest_10_percent[both], expected.hardest_10_percent, rtol=1e-5
    )
    assert np.all(found.negatives.number[~both] == 0)


def test_a_share_of_many_is_found_to_a_bin():
    n = 600
    with jax.enable_x64(True):
        queries, keys = jax.random.normal(jax.random.key(1), (2, n, 32), jnp.float64)
        found = look(losses.info_nce, queries, keys, temperature=0.1)
        s = oracles.unit(np.asarray(queries)) @ oracles.unit(np.asarray(keys)).T
    flat, own = lambda s: 0 * s, np.eye(n, dtype=bool)
    each = [of_anchor(s[i], ~own[i], own[i], lambda s: 0.1 + 0 * s, flat) for i in range(n)]
    for name in ("hardest_1_percent", "hardest_10_percent"):
        expected = np.array([numbers[name] for numbers in each])
        np.testing.assert_allclose(getattr(found, name), expected, rtol=0.03)


@pytest.mark.parametrize(
    ("loss", "how", "message"),
    [
        (
            lambda *x, temperature, **how: losses.siglip(*x, scale=1.0, bias=0.0, **how),
            {},
            "loss: found .*; allowed: a loss of dystress_jax.losses with a softmax",
        ),
        (losses.nt_xent, {"bins": 0}, "bins: found 0; allowed: at least 1"),
        (losses.nt_xent, {"strategy": "fast"}, "strategy: found 'fast'; allowed"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(loss, how, message, unchecked_shapes):
    with pytest.raises(ArgumentError, match=message):
        losses.statistics(loss, *make_views(), temperature=0.1, **how)


def test_margins_and_other_similarities_are_looked_at_as_they_are():
    similarity = similarities.sphere.with_angular_margin(0.3)
    found = look(losses.nt_xent, *make_views(), temperature=0.1, similarity=similarity)
    plain = look(losses.nt_xent, *make_views(), temperature=0.1)
    angle = np.arccos(np.asarray(plain.positives.similarity.mean))
    np.testing.assert_allclose(found.positives.similarity.mean, np.cos(angle + 0.3), atol=1e-5)
    np.testing.assert_array_equal(found.negatives.similarity.mean, plain.negatives.similarity.mean)
