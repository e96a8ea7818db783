"""Rows that only fill up the batch, and positives of any kind, in every loss and strategy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, temperatures
from tests import every_loss, oracles

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

N, D = 8, 4
REAL = np.array([True, True, False, True, True, False, False, True])
LABELS = np.array([0, 1, 0, 1, 2, 2, 1, 0])
CLASSES = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]] * 2, bool)
LISTED = np.array([[0, 3], [1, 1], [2, 5], [7, 3], [4, 0], [5, 6], [6, 6], [7, 2]])
MARKED = np.random.default_rng(3).random((N, N)) < 0.3
MARKED[4] = False  # no positive at all
QUEUE = jax.random.normal(jax.random.key(5), (8, D))
TAU = lambda s: oracles.dystress(s, 0.1, 0.3)


def siglip(images, texts, *, temperature, **how):
    scale, bias = 1 / temperature.tau_min, -temperature.tau_max
    return losses.siglip(images, texts, scale=scale, bias=bias, **how)


def three_views(a, b, **how):
    return losses.nt_xent((a, b, a - b), **how)


def rgcl(a, b, *, temperature, **how):
    return losses.rgcl(a, b, temperature=temperature.tau_min + temperature.tau_max, **how)


FURTHER = {"negatives": QUEUE}
# The loss, its further arguments, and those of them that have one entry per example.
LOSSES = {
    "nt_xent": (losses.nt_xent, {}),
    "nt_xent, three views": (three_views, {}),
    "nt_xent, smooth, further negatives": (
        functools.partial(losses.nt_xent, label_smoothing=0.2),
        FURTHER,
    ),
    "dcl": (losses.dcl, {}),
    "dcl, two logarithms": (functools.partial(losses.dcl, joint=False), {}),
    "dclw": (losses.dclw, {}),
    "rgcl": (rgcl, {}),
    "rgcl, further negatives": (rgcl, FURTHER),
    "info_nce": (losses.info_nce, {}),
    "info_nce, decoupled": (functools.partial(losses.info_nce, decoupled=True), {}),
    "supcon": (losses.supcon, {"labels": LABELS}),
    "supcon, several labels": (losses.supcon, {"labels": CLASSES}),
    "clip": (losses.clip, {}),
    "clip, labels": (losses.clip, {"labels": LABELS}),
    "siglip": (siglip, {}),
    "siglip, labels": (siglip, {"labels": LABELS}),
    "moco": (losses.moco, {"queue": QUEUE}),
}


def make_views(n=N, dtype=None):
    a, b = jax.random.normal(jax.random.key(0), (2, n, D), dtype)
    return a, a + b


def with_gradients(loss):
    """(views, temperature) -> weighted sum, values and all gradients, compiled."""

    def weighted(views, temperature, more):
        value = loss(*views, temperature=temperature, **more)
        return jnp.sum(value * jnp.linspace(0.5, 1.5, value.size, dtype=value.dtype)), value

    return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))


def as_strategy(loss, strategy):
    if strategy in ("dense", "tiled"):
        return functools.partial(loss, strategy=strategy, tile_size=3)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
    return losses.on_mesh(loss, mesh, strategy=strategy, tile_size=3)


def assert_same(found, expected, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-30))


TEMPERATURE = jax.tree.map(jnp.float32, temperatures.dystress(0.1, 0.3, stop_gradient=False))


# The ring knows terms and pairs, not losses: one loss of each kind of these.
RING = ("nt_xent", "nt_xent, three views", "nt_xent, smooth, further negatives", "dclw", "rgcl")
RING += ("info_nce", "supcon, several labels", "clip", "siglip, labels")


def strategies_of(name, *, first):
    """Those of a loss; gathered, which is tiled behind its own gathering, of the first one only."""
    on_ring = ["ring"] if name in (*RING, first) else []
    return ("dense", "tiled", *on_ring, *(["gathered"] if name == first else []))


def sides_of(name):
    """How many anchors each example is."""
    one = name.split(",")[0] in ("info_nce", "clip", "siglip", "moco")
    return 3 if "three" in name else 1 if one else 2


def tau_of(name):
    """A temperature for each anchor."""
    return jnp.linspace(0.2, 0.6, sides_of(name) * N, dtype=jnp.float32)


@functools.cache
def of_real_rows(name, *, per_anchor):
    """The dense loss and its gradients, of the real rows alone, with one tau or one per anchor.

    The weights of the sum are those that these rows have in the whole batch.
    """
    loss, more = (PER_ANCHOR if per_anchor else LOSSES)[name]
    real = np.tile(REAL, sides_of(name))
    few = {
        k: jnp.asarray(v) if k in ("queue", "negatives") else jnp.asarray(v)[REAL]
        for k, v in more.items()
    }
    weights = np.linspace(0.5, 1.5, len(real), dtype=np.float32)[real]

    def alone(views, temperature):
        value = loss(*views, temperature=temperature, strategy="dense", **few)
        return jnp.sum(value * weights), value

    temperature = tau_of(name)[real] if per_anchor else TEMPERATURE
    with_slopes = jax.jit(jax.value_and_grad(alone, argnums=(0, 1), has_aux=True))
    return with_slopes([x[REAL] for x in make_views()], temperature)


# The losses that differ in kind, in the tiles where masks are tiled too and on the ring.
in_ci = pytest.mark.ci
QUICK = ("nt_xent", "supcon", "clip", "siglip, labels")
CASES = [
    pytest.param(
        name, strategy, marks=() if strategy in ("tiled", "ring") and name in QUICK else in_ci
    )
    for name in LOSSES
    for strategy in ("dense", "tiled", "ring")  # test_every_loss has `where` in all of them
    if strategy != "ring" or name in (*RING, *QUICK)
]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_rows_that_fill_up_the_batch_are_not_there(name, strategy):
    """Loss and gradients are those of the real rows alone; the others hold NaN."""
    loss, more = LOSSES[name]
    views = make_views()
    padded = [jnp.where(jnp.asarray(REAL)[:, None], x, jnp.nan) for x in views]
    by_rows = {k: jnp.asarray(v) for k, v in more.items()}
    (_, value), (of_views, of_temperature) = with_gradients(as_strategy(loss, strategy))(
        padded, TEMPERATURE, by_rows | {"where": jnp.asarray(REAL)}
    )
    real = np.tile(REAL, sides_of(name))
    (_, expected), (slope, of_tau) = of_real_rows(name, per_anchor=False)
    assert_same(np.asarray(value)[real], expected)
    assert np.all(np.asarray(value)[~real] == 0)
    for found, right in zip(of_views, slope, strict=True):
        assert_same(found[REAL], right)
        assert np.all(np.asarray(found)[~REAL] == 0)
    assert_same(of_temperature, of_tau)


PER_ANCHOR = {
    **{name: of for name, of in LOSSES.items() if not name.startswith(("siglip", "rgcl"))},
    "rgcl": (losses.rgcl, {}),
    "separate": (
        lambda a, b, temperature, **how: losses.nt_xent(
            a, b, temperature=temperatures.separate(0.3, temperature), **how
        ),
        {},
    ),
}


OF_ANCHORS = (("nt_xent", "tiled"), ("nt_xent", "ring"), ("rgcl", "dense"), ("clip", "tiled"))


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, strategy, marks=() if (name, strategy) in OF_ANCHORS else in_ci)
        for name in PER_ANCHOR
        for strategy in strategies_of(name, first="nt_xent")
    ],
)
def test_a_temperature_of_rows_that_fill_up_the_batch_may_be_anything(name, strategy):
    """Loss and all gradients are those of the real rows alone; eager values are those of jit."""
    loss, more = PER_ANCHOR[name]
    views = make_views()
    padded = [jnp.where(jnp.asarray(REAL)[:, None], x, jnp.nan) for x in views]
    real, tau = np.tile(REAL, sides_of(name)), tau_of(name)
    by_rows = {k: jnp.asarray(v) for k, v in more.items()}
    given = by_rows | {"where": jnp.asarray(REAL)}
    fill = lambda number: jnp.where(jnp.asarray(real), tau, number)
    spread = as_strategy(loss, strategy)
    (_, value), (of_views, of_tau) = with_gradients(spread)(padded, fill(jnp.nan), given)
    (_, expected), (slope, slope_of_tau) = of_real_rows(name, per_anchor=True)
    assert_same(np.asarray(value)[real], expected)
    assert np.all(np.asarray(value)[~real] == 0)
    assert_same([x[REAL] for x in of_views], slope)
    assert_same(of_tau[real], slope_of_tau)
    for masked in (*(x[~REAL] for x in of_views), of_tau[~real]):
        assert np.all(np.asarray(masked) == 0)
    if strategy == "ring" and name != "nt_xent":
        return  # outside jit it is the same program
    # What makes a temperature without the mask refuses what is not > 0, but for NaN.
    anything = strategy == "dense" and name != "separate"
    for number in (jnp.nan, 0.0, -1.0) if anything else (jnp.nan,):
        assert_same(spread(*padded, temperature=fill(number), **given), value)


def _filled(numbers, fill):
    """The numbers, with others for the rows that only fill up the batch."""
    real = jnp.tile(jnp.asarray(REAL), numbers.shape[0] // N)
    there = real[:, None] & real[None, :] if numbers.ndim == 2 else real
    return jnp.where(there, numbers, jnp.asarray(fill, numbers.dtype))


def _weights(*shape):
    return jax.random.uniform(jax.random.key(9), shape, minval=0.5, maxval=2.0)


# Numbers and further arrays of a loss, with anything for the rows that only fill up the batch.
ENTRIES = {
    "rgcl, a running mean": (
        losses.rgcl,
        lambda fill: {
            "temperature": temperatures.PerExample(
                _filled(_weights(2 * N), fill), _filled(_weights(2 * N), fill)
            )
        },
        None,
    ),
    "rgcl, weights": (
        functools.partial(losses.rgcl, temperature=0.3),
        lambda fill: {"weights": _filled(_weights(2 * N), fill)},
        None,
    ),
    "nt_xent, weights": (
        functools.partial(losses.nt_xent, temperature=0.3),
        lambda fill: {"weights": _filled(_weights(2 * N, 2 * N), fill)},
        None,
    ),
    "siglip, weights": (
        functools.partial(losses.siglip, scale=3.0, bias=-1.0),
        lambda fill: {"weights": _filled(_weights(N), fill)},
        None,
    ),
    "siglip, weights of pairs": (
        functools.partial(losses.siglip, scale=3.0, bias=-1.0),
        lambda fill: {"weights": _filled(_weights(N, N), fill)},
        None,
    ),
    "info_nce, positives": (
        losses.info_nce,
        lambda fill: {"temperature": jnp.float32(0.3)},
        lambda fill: _filled(jnp.asarray(LISTED[:, 0], jnp.int32), 0 if fill == 1 else -1),
    ),
}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, strategy, marks=() if strategy == "tiled" else in_ci)
        for name in ENTRIES
        for strategy in ("dense", "tiled", "ring")
    ],
)
def test_entries_of_rows_that_fill_up_the_batch_may_be_anything(name, strategy):
    loss, numbers, positives = ENTRIES[name]

    def found(fill, strategy):
        fixed = {"where": jnp.asarray(REAL)}
        fixed |= {} if positives is None else {"positives": positives(fill)}
        spread = as_strategy(loss, strategy)
        at_once = every_loss.with_gradients(spread)(make_views(), numbers(fill), fixed)
        return at_once, spread(*make_views(), **numbers(fill), **fixed)

    expected, _ = found(1.0, "dense")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(expected))
    compiled, eager = found(jnp.nan, strategy)
    every_loss.assert_same(compiled, expected)
    every_loss.assert_same(eager, expected[0][1])


@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_one_weight_of_zero_leaves_out_what_a_zero_for_each_does(strategy):
    """The gradient by such a weight is 0 too."""
    for loss, number in (
        (functools.partial(losses.nt_xent, label_smoothing=0.2), 2 * N),
        (functools.partial(losses.clip, label_smoothing=0.2), N),
        (losses.dclw, 2 * N),
    ):
        spread = as_strategy(functools.partial(loss, temperature=jnp.float32(0.3)), strategy)
        slopes = every_loss.with_gradients(spread)
        alike, each = (
            slopes(make_views(), {"weights": weights}, {})
            for weights in (jnp.float32(0.0), jnp.zeros(number))
        )
        assert np.isfinite(alike[0][1]).all()
        every_loss.assert_same((alike[0], alike[1][0]), (each[0], each[1][0]))
        assert alike[1][1]["weights"] == 0


def _weights_without(*rows):
    """1 for each pair, and 0 for all pairs of these rows."""
    return jnp.where(jnp.isin(jnp.arange(2 * N), jnp.array(rows)), 0.0, 1.0)[:, None] * jnp.ones(
        (1, 2 * N)
    )


decoupled_info_nce = functools.partial(losses.info_nce, decoupled=True)
ONE_REAL = {"where": jnp.arange(N) == 3}
# Losses without the positive in the sum, and arguments with which some anchors have no negative.
WITHOUT_NEGATIVES = {
    "dcl": (losses.dcl, ONE_REAL, range(2 * N)),
    "dcl, own view": (functools.partial(losses.dcl, own_view=True), ONE_REAL, range(2 * N)),
    "dcl, two logarithms": (functools.partial(losses.dcl, joint=False), ONE_REAL, range(2 * N)),
    "dclw": (losses.dclw, ONE_REAL, range(2 * N)),
    "rgcl": (losses.rgcl, ONE_REAL, range(2 * N)),
    "info_nce": (decoupled_info_nce, ONE_REAL, range(N)),
    "info_nce, all are positives": (
        decoupled_info_nce,
        {"positives": jnp.arange(N)[:, None] * jnp.ones((1, N), int) != 2},
        [0, 1, 3, 4, 5, 6, 7],
    ),
    "dcl, weights": (losses.dcl, {"weights": _weights_without(2, 9)}, [2, 9]),
    "dcl, one weight": (losses.dcl, {"weights": jnp.float32(0)}, range(2 * N)),
    "rgcl, weights": (losses.rgcl, {"weights": _weights_without(2, 9)}, [2, 9]),
    "moco": (
        functools.partial(losses.moco, decoupled=True),
        {"queue": QUEUE, "where_queue": jnp.zeros(8, bool)},
        range(N),
    ),
}


LONELY = (("dcl", "tiled"), ("dcl", "ring"), ("rgcl, weights", "tiled"), ("moco", "dense"))


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, strategy, marks=() if (name, strategy) in LONELY else in_ci)
        for name in WITHOUT_NEGATIVES
        for strategy in strategies_of(name, first="dcl")
    ],
)
def test_an_anchor_without_negatives_has_loss_zero_and_no_gradient(name, strategy):
    """The others have what they have without it."""
    loss, more, alone = WITHOUT_NEGATIVES[name]
    temperature = jnp.float32(0.3)
    alone = np.isin(np.arange(2 * N), list(alone))
    loss_of_all = as_strategy(loss, strategy)

    def total(views, temperature):
        value = loss_of_all(*views, temperature=temperature, **more)
        return jnp.sum(value), value

    compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, value), slopes = compiled(make_views(), temperature)
    alone = alone[: len(value)]
    assert np.all(np.asarray(value)[alone] == 0)
    assert_same(loss_of_all(*make_views(), temperature=temperature, **more), value)
    if alone.all():
        assert all(np.all(np.asarray(slope) == 0) for slope in jax.tree.leaves(slopes))
        return
    others = {k: v for k, v in more.items() if k != "weights"}

    def total_of_others(views, temperature):
        value = loss(*views, temperature=temperature, strategy="dense", **others)
        value = value[jnp.asarray(np.flatnonzero(~alone))]
        return jnp.sum(value), value

    expected = jax.jit(jax.value_and_grad(total_of_others, argnums=(0, 1), has_aux=True))
    (_, right), right_slopes = expected(make_views(), temperature)
    assert_same(np.asarray(value)[~alone], right)
    assert_same(slopes, right_slopes)


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_a_batch_without_a_real_row_has_loss_zero_and_no_gradient(strategy):
    for loss, more in LOSSES.values():
        more = {k: jnp.asarray(v) for k, v in more.items()}
        (_, value), slopes = with_gradients(as_strategy(loss, strategy))(
            make_views(), TEMPERATURE, more | {"where": jnp.zeros(N, bool)}
        )
        assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves((value, slopes)))


@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_a_queue_that_is_not_full_counts_as_far_as_it_is(strategy):
    loss = functools.partial(losses.moco, temperature=0.1, strategy=strategy, tile_size=3)
    padded = QUEUE.at[5:].set(jnp.nan)
    np.testing.assert_allclose(
        loss(*make_views(), padded, where_queue=jnp.arange(8) < 5),
        loss(*make_views(), QUEUE[:5]),
        rtol=1e-6,
    )


one_hot = lambda index, m=N: np.arange(m) == np.asarray(index)[:, None]
listed = lambda rows: np.any(np.arange(N) == np.asarray(rows)[:, :, None], axis=1)
POSITIVES = {
    "one each": (LISTED[:, 0], one_hot(LISTED[:, 0])),
    "several": (LISTED, listed(LISTED)),
    "bools": (MARKED, MARKED),
}


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("kind", POSITIVES)
def test_info_nce_with_any_positives_equals_the_oracle(kind, decoupled):
    positives, marked = POSITIVES[kind]
    keys = np.ones(N, bool) if decoupled else np.arange(N) != 3
    with jax.enable_x64(True):
        views = make_views(dtype=jnp.float64)
        found = losses.info_nce(
            *views,
            temperature=temperatures.dystress(0.1, 0.3),
            positives=jnp.asarray(positives),
            decoupled=decoupled,
            where_keys=None if decoupled else jnp.asarray(keys),
        )
        a, b = map(np.asarray, views)
    allowed = np.broadcast_to(keys, (N, N))
    expected = oracles.many_positives(a, b, TAU, marked, allowed, decoupled)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_supcon_with_several_labels_equals_the_oracle():
    with jax.enable_x64(True):
        views = make_views(dtype=jnp.float64)
        found = losses.supcon(
            *views, jnp.asarray(CLASSES), temperature=temperatures.dystress(0.1, 0.3)
        )
        z = np.concatenate(views)
    labels = np.tile(CLASSES, (2, 1)).astype(int)
    others = ~np.eye(2 * N, dtype=bool)
    expected = oracles.many_positives(z, z, TAU, labels @ labels.T > 0, others)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


UNLABELLED = np.array([0, -1, 2, 1, -1, 2, 0, -1])
PAIRS_OF_LABELS = {
    "supcon": (functools.partial(losses.supcon, temperature=0.2), False),
    "clip, of each side": (functools.partial(losses.clip, temperature=0.2), True),
    "siglip": (functools.partial(losses.siglip, scale=9.0, bias=-2.0), False),
}


@pytest.mark.parametrize("strategy", ["tiled", "ring"])
@pytest.mark.parametrize("name", PAIRS_OF_LABELS)
def test_a_row_of_bools_without_a_class_is_one_of_its_own_as_minus_one_is(name, strategy):
    loss, of_each_side = PAIRS_OF_LABELS[name]
    numbers, marks = jnp.asarray(UNLABELLED), jnp.asarray(UNLABELLED[:, None] == np.arange(3))
    both = lambda x: (x, x[::-1]) if of_each_side else x
    loss = as_strategy(loss, strategy)
    call = jax.jit(lambda labels, *views: loss(*views, labels=both(labels)))
    total = lambda labels: lambda views: jnp.sum(call(labels, *views))
    views = make_views()
    np.testing.assert_allclose(call(marks, *views), call(numbers, *views), rtol=1e-6, atol=1e-7)
    slopes = (jax.grad(total(labels))(views) for labels in (marks, numbers))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *slopes)


def test_clip_and_siglip_with_labels_and_any_number_of_texts_equal_the_oracle():
    labels = LABELS, np.array([0, 1, 2, 2, 1, 3])
    with jax.enable_x64(True):
        (images, _), (texts, _) = make_views(dtype=jnp.float64), make_views(6, jnp.float64)
        how = {"labels": tuple(map(jnp.asarray, labels))}
        by_loss = losses.clip(images, texts, temperature=temperatures.dystress(0.1, 0.3), **how)
        by_sigmoid = losses.siglip(images, texts, scale=9.0, bias=-2.0, **how)
        images, texts = np.asarray(images), np.asarray(texts)
    np.testing.assert_allclose(
        by_loss, oracles.clip_by_labels(images, texts, labels, TAU), rtol=1e-9
    )
    expected = oracles.siglip_by_labels(images, texts, labels, 9.0, -2.0)
    np.testing.assert_allclose(by_sigmoid, expected, rtol=1e-9)


OTHER_NUMBERS = {
    "info_nce, more keys": (losses.info_nce, {}, 12),
    "info_nce, more keys, masks": (losses.info_nce, {"where": REAL}, 12),
    "info_nce, keys masked": (losses.info_nce, {"where_keys": np.arange(12) != 2}, 12),
    "info_nce, one each": (losses.info_nce, {"positives": LISTED[:, 0]}, N),
    "info_nce, several": (losses.info_nce, {"positives": LISTED}, 12),
    "info_nce, bools": (losses.info_nce, {"positives": MARKED}, N),
    "clip, more texts": (losses.clip, {}, 12),
    "clip, a text missing": (losses.clip, {"where_texts": REAL}, N),
    "siglip, more texts": (siglip, {}, 12),
    "clip, labels of both": (losses.clip, {"labels": (LABELS, np.arange(12) % 4)}, 12),
    "clip, fewer texts": (losses.clip, {"labels": (LABELS, np.array([0, 1, 2, 5]))}, 4),
    "siglip, labels of both": (siglip, {"labels": (LABELS, np.arange(12) % 4)}, 12),
}


@functools.cache
def dense(name):
    loss, more, m = OTHER_NUMBERS[name]
    more = jax.tree.map(jnp.asarray, more)
    views = make_views()[0], make_views(m)[1]
    how = functools.partial(loss, strategy="dense")
    return views, more, with_gradients(how)(views, TEMPERATURE, more)


@pytest.mark.ci
@pytest.mark.parametrize("strategy", ["tiled", "ring"])
@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_other_numbers_and_positives_are_the_same_in_every_strategy(name, strategy):
    views, more, expected = dense(name)
    loss, *_ = OTHER_NUMBERS[name]
    assert_same(with_gradients(as_strategy(loss, strategy))(views, TEMPERATURE, more), expected)


def test_further_texts_are_negatives_of_the_images_only():
    images, texts = make_views()[0], make_views(12)[1]
    more = losses.clip(images, texts, temperature=0.1)
    both = (
        losses.info_nce(images, texts, temperature=0.1)
        + losses.info_nce(texts[:N], images, temperature=0.1)
    ) / 2
    np.testing.assert_allclose(more, both, rtol=1e-6)


@pytest.mark.ci
def test_equal_captions_are_no_negatives():
    texts = jnp.eye(4)[jnp.arange(8) % 4]  # eight images, four captions, aligned
    loss = functools.partial(losses.clip, texts, texts, temperature=0.05)
    np.testing.assert_allclose(loss(), np.log(2), rtol=1e-5)
    # Two positives of equal logit share a softmax: log 2 is then the least that there is.
    np.testing.assert_allclose(loss(labels=jnp.arange(8) % 4), np.log(2), rtol=1e-5)
    slope = lambda **how: jax.grad(lambda x: losses.clip(x, texts, temperature=0.5, **how).mean())
    noisy = texts + 0.3 * jax.random.normal(jax.random.key(0), texts.shape)
    expected = lambda x: losses.info_nce(
        x, texts, temperature=0.5, positives=jnp.arange(8)[:, None] % 4 + jnp.array([[0, 4]])
    )
    labels = jnp.arange(8) % 4
    found = losses.clip(noisy, texts, temperature=0.5, labels=labels)
    assert not np.allclose(found, losses.clip(noisy, texts, temperature=0.5))
    assert np.isfinite(slope(labels=labels)(noisy)).all()
    other = losses.info_nce(
        texts, noisy, temperature=0.5, positives=labels[:, None] + jnp.array([[0, 4]])
    )
    np.testing.assert_allclose(found, (expected(noisy) + other) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, where=jnp.ones(3, bool)),
            r"where: found shape \(3,\) of bool; allowed: 4 bools, False for each example",
        ),
        (
            lambda x: losses.info_nce(x, x, temperature=0.1, where_keys=jnp.ones(4)),
            r"where_keys: found shape \(4,\) of float32; allowed: 4 bools",
        ),
        (
            lambda x: losses.info_nce(x, x, temperature=0.1, positives=jnp.ones((4, 3), bool)),
            r"positives: found shape \(4, 3\) of bool; allowed: 4 integers.*shape \(4, 4\)",
        ),
        (
            lambda x: losses.info_nce(x, x, temperature=0.1, positives=jnp.array([[0, 4]] * 4)),
            "positives: found 4; allowed: rows of the 4 `keys`, 0 to 3",
        ),
        (
            lambda x: losses.clip(x, x[:3], temperature=0.1),
            "texts: found 3 rows; allowed: at least 4, because text i belongs to image i",
        ),
        (
            lambda x: losses.clip(x, x[:3], temperature=0.1, labels=jnp.arange(4)),
            r"texts: found shape \(3, 8\); allowed: \(4, 8\)",
        ),
        (
            lambda x: losses.clip(
                x, x, temperature=0.1, labels=(jnp.arange(4), jnp.ones((4, 2), bool))
            ),
            r"labels: found shapes \(4,\) and \(4, 2\); allowed: integers twice, or bools twice",
        ),
        (
            lambda x: losses.clip(
                x, x[:3], temperature=jnp.ones(4), labels=(jnp.arange(4), jnp.arange(3))
            ),
            "temperature: found one per anchor, with 4 images and 3 texts",
        ),
    ],
)
def test_a_bad_argument_is_refused_with_what_was_found(call, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((4, 8)))


def test_an_index_of_no_key_gives_nan_where_it_cannot_be_refused():
    keys = jnp.eye(3)
    loss = jax.jit(
        lambda positives: losses.info_nce(keys, keys, temperature=0.1, positives=positives)
    )
    found = loss(jnp.array([[0, 1], [3, 0], [2, -1]]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, True])


@pytest.mark.parametrize("strategy", ["dense", losses.tiled(3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_query_without_its_own_key_has_no_loss(strategy, smoothing):
    """What stands in a row that is not real does not matter, nor does it pull."""
    q, k = jax.random.normal(jax.random.key(0), (2, 7, 4))
    there = jnp.arange(7) != 2

    def loss(keys, **more):
        how = {"temperature": 0.3, "label_smoothing": smoothing, "strategy": strategy}
        return losses.info_nce(q, keys, where_keys=there, **how, **more)

    listed = loss(k, positives=jnp.arange(7))
    for value in (loss(k), loss(k.at[2].set(1.0)), loss(k.at[2].set(jnp.nan))):
        np.testing.assert_allclose(value, listed, rtol=1e-5, atol=1e-6)
        assert value[2] == 0
    of_query = lambda q: losses.info_nce(
        q, k, temperature=0.3, where_keys=there, label_smoothing=smoothing, strategy=strategy
    )
    gradient = jax.jacrev(of_query)(q)
    assert not gradient[2].any()
    assert gradient[3].any()


def test_statistics_know_a_query_without_its_own_key():
    q, k = jax.random.normal(jax.random.key(0), (2, 7, 4))
    how = {"temperature": 0.3, "where_keys": jnp.arange(7) != 2}
    found = losses.statistics(losses.info_nce, q, k, **how)
    listed = losses.statistics(losses.info_nce, q, k, positives=jnp.arange(7), **how)
    np.testing.assert_array_equal(found.positives.number, [1, 1, 0, 1, 1, 1, 1])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(listed), strict=True):
        keep = np.arange(7) != 2  # a mean over no positives is none
        np.testing.assert_allclose(one[keep], other[keep], rtol=1e-4, atol=1e-5)


def test_labels_of_fewer_texts_than_images_take_masks_of_both():
    images = jax.random.normal(jax.random.key(0), (7, 4))
    texts = jax.random.normal(jax.random.key(1), (4, 4))
    labels = (jnp.array([0, 0, 1, 1, 2, 2, 3]), jnp.arange(4))
    real, real_texts = jnp.arange(7) < 6, jnp.arange(4) < 3
    found = losses.clip(
        images, texts, temperature=0.3, labels=labels, where=real, where_texts=real_texts
    )
    few = (labels[0][:6], labels[1][:3])
    alone = losses.clip(images[:6], texts[:3], temperature=0.3, labels=few)
    np.testing.assert_allclose(found[:6], alone, rtol=1e-5)
    assert found[6] == 0
