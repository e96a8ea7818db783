"""What `losses.statistics` says of each anchor, against NumPy, in every strategy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import oracles

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

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


def share_of_hardest(s, pull, part):
    """By sorting: what the most similar 1 / part of the pairs have; equal ones in proportion."""
    wanted = max(-(-len(s) // part), 1)
    limit = np.sort(s)[-wanted]
    above, at = s > limit, s == limit
    return (pull[above].sum() + pull[at].mean() * (wanted - above.sum())) / pull.sum()


def of_anchor(
    s, negative, positive, tau, slope, log_weight=0.0, tau_of_positives=None, sigmoid=None
):
    """The numbers of one row of similarities; `sigmoid` is the bias of one."""
    of_positives = tau_of_positives or tau
    logit = np.where(positive, s / of_positives(s), s / tau(s)) + (sigmoid or 0.0)
    l = (logit + log_weight)[negative]
    p, n = np.logaddexp.reduce(logit[positive]), np.logaddexp.reduce(l)
    probability = 1 / (1 + np.exp(n - p))
    if sigmoid is not None:
        l, probability = -np.log1p(np.exp(-l)), np.mean(1 / (1 + np.exp(-logit[positive])))
    q = np.exp(l - np.logaddexp.reduce(l))
    pull = q * np.abs((tau(s) - s * slope(s)) / tau(s) ** 2)[negative]
    entropy = -np.sum(q * np.log(q))
    spread = lambda x: (x.mean(), x.min(), x.max())
    return {
        "positive_logit": logit[positive].mean(),
        "positive_probability": probability,
        "entropy": entropy,
        "effective_negatives": np.exp(entropy),
        "hardest_1_percent": share_of_hardest(s[negative], pull, 100),
        "hardest_10_percent": share_of_hardest(s[negative], pull, 10),
        "negatives.number": len(l),
        "negatives.similarity": spread(s[negative]),
        "negatives.tau": spread(tau(s)[negative]),
        "positives.similarity": spread(s[positive]),
        "positives.tau": spread(of_positives(s)[positive]),
    }


def assert_equals(found, expected, rtol):
    for name in expected[0]:
        value = functools.reduce(getattr, name.split("."), found)
        of_each = np.array([each[name] for each in expected])
        value = value[:3] if isinstance(value, losses.Spread) else (value,)
        of_each = of_each.T if of_each.ndim == 2 else (of_each,)
        for x, y in zip(value, of_each, strict=True):
            np.testing.assert_allclose(x, y, rtol=rtol, err_msg=name)


VIEWS = np.tile(np.eye(N, dtype=bool), (2, 2))
OWN = np.eye(2 * N, dtype=bool)
SAME = np.tile(LABELS[:, None] == LABELS, (2, 2))
OF_VIEW = np.repeat(np.arange(2), N)
CASES = {
    "nt_xent": (losses.nt_xent, (), ~VIEWS, VIEWS & ~OWN),
    "dcl": (losses.dcl, (), ~VIEWS, VIEWS & ~OWN),
    "dcl, own view": (
        functools.partial(losses.dcl, own_view=True),
        (),
        (OF_VIEW[:, None] == OF_VIEW) & ~OWN,
        VIEWS & ~OWN,
    ),
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
    own = np.eye(N, dtype=bool)
    s = x @ y.T
    expected = [
        of_anchor(row, ~own[i], own[i], TAU, flat) for m in (s, s.T) for i, row in enumerate(m)
    ]
    assert_equals(both, expected, 1e-9)
    with_key = np.concatenate([np.diag(s)[:, None], x @ queue.T], axis=1)
    first = np.arange(N + 1) == 0
    assert_equals(queued, [of_anchor(row, ~first, first, TAU, flat) for row in with_key], 1e-9)


def flat(s):
    return 0 * s


def constant(s):
    return 0.1 + 0 * s


def test_rgcl_takes_a_number_for_each_anchor():
    tau = np.linspace(0.1, 0.3, 2 * N)
    with jax.enable_x64(True):
        views = make_views(dtype=jnp.float64)
        found = look(losses.rgcl, *views, temperature=jnp.asarray(tau))
        z = oracles.unit(np.concatenate(views))
    s, positive = z @ z.T, VIEWS & ~OWN
    each = lambda i: of_anchor(s[i], ~VIEWS[i], positive[i], lambda s: tau[i] + 0 * s, flat)
    assert_equals(found, [each(i) for i in range(2 * N)], 1e-9)


def test_info_nce_has_the_positives_that_it_is_given():
    marked = np.eye(N, dtype=bool) | np.eye(N, k=2, dtype=bool)
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        found = look(losses.info_nce, a, b, temperature=0.1, positives=jnp.asarray(marked))
        s = oracles.unit(np.asarray(a)) @ oracles.unit(np.asarray(b)).T
    each = lambda i: of_anchor(s[i], ~marked[i], marked[i], constant, flat)
    assert_equals(found, [each(i) for i in range(N)], 1e-9)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_siglip_asks_of_each_pair_alone(labels):
    same = np.eye(N, dtype=bool) if labels is None else labels[:, None] == labels
    how = {"scale": 8.0, "bias": -3.0}
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        of_labels = {} if labels is None else {"labels": jnp.asarray(labels)}
        found = look(losses.siglip, a, b, strategy="tiled", tile_size=5, **how, **of_labels)
        s = oracles.unit(np.asarray(a)) @ oracles.unit(np.asarray(b)).T
    tau = lambda s: 1 / 8 + 0 * s
    each = lambda i: of_anchor(s[i], ~same[i], same[i], tau, flat, sigmoid=-3.0)
    assert_equals(found, [each(i) for i in range(N)], 1e-9)
    # The shares are those of the gradient of the loss: by the logits of the negatives.
    weight = 1 / (1 + np.exp(-(8 * s[0] - 3)))
    q = weight[~same[0]] / weight[~same[0]].sum()
    np.testing.assert_allclose(found.entropy[0], -np.sum(q * np.log(q)), rtol=1e-9)


def test_what_lies_outside_counts_in_the_first_and_in_the_last_bin():
    ends = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    for tau, first_or_last in ((1e-4, 0), (100.0, -1)):
        found = losses.statistics(losses.nt_xent, ends, ends, temperature=tau, bins=4)
        assert found.negatives.similarity.histogram.tolist() == [[2, 0, 0, 0]] * 4
        assert found.positives.similarity.histogram.tolist() == [[0, 0, 0, 1]] * 4
        assert found.negatives.tau.histogram[:, first_or_last].tolist() == [2] * 4


def test_statistics_are_numbers_without_a_gradient():
    a, b = make_views()
    of_all = lambda a: sum(
        jnp.sum(x) for x in jax.tree.leaves(losses.statistics(losses.dcl, a, b, temperature=0.2))
    )
    assert not np.any(jax.grad(of_all)(a))


def test_siglip_says_so_where_every_sigmoid_is_nearly_0():
    a, b = make_views()
    found = look(losses.siglip, a, b, scale=10.0, bias=-1000.0)
    # Far below 0 a sigmoid is an exponential: the softmax of the same logits.
    expected = look(losses.info_nce, a, b, temperature=0.1)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-3)
    assert np.all(found.positive_probability == 0)


TEMPERATURES = {
    "function": (lambda s: 0.1 + 0.1 * s * s, lambda i: lambda s: 0.1 + 0.1 * s * s),
    "per anchor": (jnp.linspace(0.1, 0.5, 2 * N), lambda i: lambda s: TAUS[i] + 0 * s),
    "learned": (temperatures.learned(jnp.log(8.0)), lambda i: lambda s: 1 / 8 + 0 * s),
    "separate": (
        temperatures.separate(0.2, temperatures.dystress(0.1, 0.3)),
        lambda i: TAU,
    ),
}
TAUS = np.linspace(0.1, 0.5, 2 * N)


@pytest.mark.ci
@pytest.mark.parametrize("name", TEMPERATURES)
def test_any_temperature_is_looked_at(name):
    temperature, tau_of = TEMPERATURES[name]
    how = {"strategy": "tiled", "tile_size": 5}
    views = make_views()
    found = jax.jit(
        lambda views: losses.statistics(losses.nt_xent, *views, temperature=temperature, **how)
    )(views)
    z = oracles.unit(np.concatenate(views).astype(np.float64))
    s, positive = z @ z.T, VIEWS & ~OWN
    slope = (lambda s: 0.2 * s) if name == "function" else flat
    of_positives = (lambda s: 0.2 + 0 * s) if name == "separate" else None
    each = lambda i: of_anchor(
        s[i], ~VIEWS[i], positive[i], tau_of(i), slope, tau_of_positives=of_positives
    )
    assert_equals(found, [each(i) for i in range(2 * N)], 2e-4)


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
    expected = [
        of_anchor(z[i] @ z.T, negative[i], positive[i], constant, flat, log_weight)
        for i in range(2 * N)
    ]
    assert_equals(found, expected, 1e-9)


def on_two_devices(loss, arrays, strategy, **how):
    """In that strategy, over devices where it is one for several."""
    of_loss = functools.partial(losses.statistics, loss)
    if strategy in ("dense", "tiled"):
        tile = None if strategy == "dense" else 47
        run = functools.partial(of_loss, strategy=strategy, tile_size=tile)
    else:
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
        run = losses.on_mesh(of_loss, mesh, strategy=strategy, tile_size=47)
    return jax.jit(lambda arrays, how: run(*arrays, temperature=0.1, **how))(arrays, how)


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        *(("far apart", strategy) for strategy in ("dense", "tiled", "ring")),
        ("many alike", "tiled"),
        pytest.param("far apart", "gathered", marks=pytest.mark.ci),
        pytest.param("many alike", "ring", marks=pytest.mark.ci),
    ],
)
def test_shares_of_the_hardest_are_those_of_sorting(kind, strategy):
    """With weights that differ by factors of thousands, the weight of one pair decides."""
    n, m, random = 90, 400, np.random.default_rng(0)
    if kind == "far apart":
        queries, keys = random.standard_normal((n, 8)), random.standard_normal((m, 8))
    else:  # few similarities, each of them of many pairs
        queries, keys = (np.sign(random.standard_normal((k, 6))) for k in (n, m))
        keys[1] = -keys[0]
    w = np.exp(3 * random.standard_normal((n, m)))
    with jax.enable_x64(True):
        arrays = jnp.asarray(queries), jnp.asarray(keys)
        found = on_two_devices(losses.info_nce, arrays, strategy, weights=jnp.asarray(w))
        s = oracles.unit(queries) @ oracles.unit(keys).T
    pull = w * np.exp(s / 0.1)
    s = np.round(s, 9)  # equal ones are equal
    for part, shares in ((100, found.hardest_1_percent), (10, found.hardest_10_percent)):
        others = ~np.eye(n, m, dtype=bool)
        each = zip(s, pull, others, strict=True)
        expected = [share_of_hardest(row[other], of[other], part) for row, of, other in each]
        np.testing.assert_allclose(shares, expected, rtol=1e-6)


def test_shares_are_right_to_the_rounding_of_float32():
    n, random = 700, np.random.default_rng(1)
    queries, keys = random.standard_normal((2, n, 32)).astype(np.float32)
    found = look(losses.info_nce, jnp.asarray(queries), jnp.asarray(keys), temperature=0.1)
    s = oracles.unit(queries.astype(np.float64)) @ oracles.unit(keys.astype(np.float64)).T
    others = ~np.eye(n, dtype=bool)
    for part, shares in ((100, found.hardest_1_percent), (10, found.hardest_10_percent)):
        each = [
            share_of_hardest(s[i, o], np.exp(s[i, o] / 0.1), part) for i, o in enumerate(others)
        ]
        np.testing.assert_allclose(shares, each, rtol=2e-5)


HOW = {
    "nt_xent": (losses.nt_xent, make_views()),
    "three views": (losses.nt_xent, (make_views(3),)),
    "supcon": (losses.supcon, (*make_views(), jnp.asarray(LABELS))),
    "clip": (losses.clip, make_views()),
    "siglip": (losses.siglip, make_views()),
}


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["tiled", "ring"])
@pytest.mark.parametrize("name", HOW)
def test_every_strategy_says_the_same(name, strategy):
    loss, arrays = HOW[name]
    how = {"temperature": temperatures.dystress(0.1, 0.3), "bins": 7}
    if name == "siglip":
        how = {"scale": 5.0, "bias": -2.0, "bins": 7}
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


def test_the_ring_takes_tiles_that_are_not_filled():
    views = tuple(x[:10] for x in make_views())
    mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    of_loss = functools.partial(losses.statistics, losses.nt_xent)
    found = losses.on_mesh(of_loss, mesh, strategy="ring", tile_size=3)(*views, temperature=0.1)
    expected = look(losses.nt_xent, *views, temperature=0.1)
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


@pytest.mark.parametrize(
    ("loss", "how", "message"),
    [
        (
            lambda a, b, **how: a @ b.T,
            {},
            "loss: found .*; allowed: a loss of dystress_jax.losses, or one that hands",
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
