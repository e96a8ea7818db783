"""The dense losses against the float64 oracle, at the edges, and their errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dystress_jax import losses, similarities, temperatures
from dystress_jax.losses import info_nce, moco, nt_xent
from tests import oracles

pytestmark = pytest.mark.usefixtures("strict_dtypes")

N, D = 5, 8


def _views(case, n=N, d=D, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, n, d))
    if case == "collapsed":
        a[:], b[:] = a[0], a[0]
    elif case == "orthogonal":
        a = b = np.eye(n, d)
    elif case == "aligned":
        b = a.copy()
    elif case == "antipodal":
        b = -a
    elif case == "duplicated":
        a[1], b[1] = a[0], b[0]
    elif case == "zero rows":
        a[0], b[1] = 0, 0
    elif case == "two examples":
        a, b = a[:2], b[:2]
    return a, b


CASES = [
    "random",
    "collapsed",
    "orthogonal",
    "aligned",
    "antipodal",
    "duplicated",
    "zero rows",
    "two examples",
]
RANGES = [(0.01, 0.01), (0.01, 1.0), (0.07, 0.2), (0.1, 0.2), (1.0, 1.0)]


@functools.partial(jax.jit, static_argnames=("stop_gradient", "strategy", "profile"))
def _value_and_grad(
    views, tau_range, stop_gradient=True, strategy="dense", profile=temperatures.dystress
):
    temperature = profile(*tau_range, stop_gradient=stop_gradient)

    def mean(views):  # tiles of four or two rows
        how = {"strategy": strategy, "tile_size": 4}
        value = nt_xent(*views, temperature=temperature, **how)
        return value.mean(), value

    (_, value), gradient = jax.value_and_grad(mean, has_aux=True)(views)
    return value, gradient


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize("profile", ["dystress", "shifted_dystress"])
@pytest.mark.parametrize("case", CASES)
def test_nt_xent_equals_the_oracle_in_float64(case, profile, stop_gradient):
    a, b = _views(case)
    for tau_min, tau_max in RANGES:
        tau = lambda s, low=tau_min, high=tau_max: getattr(oracles, profile)(s, low, high)
        with jax.enable_x64(True):
            value, gradient = _value_and_grad(
                (jnp.array(a), jnp.array(b)),
                (tau_min, tau_max),
                stop_gradient,
                profile=getattr(temperatures, profile),
            )
        np.testing.assert_allclose(value, oracles.nt_xent(a, b, tau), rtol=1e-9, atol=1e-12)
        assert np.all(np.isfinite(gradient))
        if case == "zero rows":  # the oracle is not differentiable there
            assert np.all(np.asarray(gradient[0])[0] == 0)
            continue
        frozen = (a, b) if stop_gradient else None
        expected = oracles.gradient(
            lambda x, tau=tau, frozen=frozen: oracles.nt_xent(*x, tau, frozen).mean(),
            np.stack([a, b]),
            step=1e-6,
        )
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6 * scale / tau_min**0.5)


@functools.partial(jax.jit, static_argnames="stop_gradient")
def _info_nce_and_grad(pair, positives, tau_range, stop_gradient):
    temperature = temperatures.dystress(*tau_range, stop_gradient=stop_gradient)

    def total(pair):
        value = info_nce(*pair, temperature=temperature, positives=positives)
        return value.sum(), value

    (_, value), gradient = jax.value_and_grad(total, has_aux=True)(pair)
    return value, gradient


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_info_nce_equals_the_oracle_with_any_candidates(case, stop_gradient):
    queries, keys = _views(case)
    queries = queries[:4]
    positives = np.array([4, 0, 0, 3])[: len(queries)] % len(keys)
    for tau_range in RANGES:
        tau = lambda s, tau_range=tau_range: oracles.dystress(s, *tau_range)
        with jax.enable_x64(True):
            value, gradients = _info_nce_and_grad(
                (jnp.array(queries), jnp.array(keys)),
                jnp.array(positives),
                tau_range,
                stop_gradient,
            )
        expected = oracles.info_nce(queries, keys, tau, positives)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
        if case == "zero rows":  # the oracle is not differentiable there
            continue
        frozen = (queries, keys) if stop_gradient else None
        oracle = lambda q, k, tau=tau, frozen=frozen: oracles.info_nce(q, k, tau, positives, frozen)
        expected = (
            oracles.gradient(lambda q, oracle=oracle: oracle(q, keys).sum(), queries),
            oracles.gradient(lambda k, oracle=oracle: oracle(queries, k).sum(), keys),
        )
        for found, slope in zip(gradients, expected, strict=True):
            atol = 2e-6 * (1 + np.abs(slope).max()) / tau_range[0] ** 0.5
            np.testing.assert_allclose(found, slope, rtol=0, atol=atol)


def test_info_nce_takes_the_first_keys_as_positives_by_default():
    queries, keys = jax.random.normal(jax.random.key(0), (2, 6, D))
    loss = jax.jit(functools.partial(info_nce, temperature=0.1))
    np.testing.assert_array_equal(
        loss(queries[:4], keys), loss(queries[:4], keys, positives=jnp.arange(4))
    )


@pytest.mark.parametrize("strategy", ["dense", "tiled"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", CASES)
def test_every_temperature_stays_finite_and_right(case, dtype, strategy):
    """tau from 1e-3 to 10: the loss is as exact as the rounding of the logits allows."""
    a, b = (jnp.asarray(view, dtype) for view in _views(case))
    for tau in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        value, gradient = _value_and_grad((a, b), (tau, tau), strategy=strategy)
        oracles.assert_nt_xent(value, gradient, a, b, tau)


LABELS = np.array([3, 1, 3, 3, 0])
TAU = lambda s: oracles.dystress(s, 0.07, 0.2)
AGAINST_ORACLES = {
    "dcl": (losses.dcl, lambda a, b: oracles.dcl(a, b, TAU)),
    "dcl, two logarithms": (
        functools.partial(losses.dcl, joint=False),
        lambda a, b: oracles.dcl_two_logarithms(a, b, TAU),
    ),
    "dclw": (
        functools.partial(losses.dclw, sigma=0.4),
        lambda a, b: oracles.dclw(a, b, TAU, 0.4),
    ),
    "supcon": (
        lambda a, b, temperature: losses.supcon(
            a, b, jnp.asarray(LABELS[: len(a)]), temperature=temperature
        ),
        lambda a, b: oracles.supcon(a, b, LABELS[: len(a)], TAU),
    ),
    "rgcl": (
        lambda a, b, temperature: losses.rgcl(a, b, temperature=0.1),
        lambda a, b: 0.2 * (oracles.dcl(a, b, lambda s: 0.1 + 0 * s) - np.log(2 * len(a) - 2)),
    ),
    "moco": (
        lambda a, b, temperature: losses.moco(a, b, b[1:], temperature=temperature),
        lambda a, b: oracles.moco(a, b, b[1:], TAU),
    ),
    "clip": (losses.clip, lambda a, b: oracles.clip(a, b, TAU)),
    "siglip": (
        lambda a, b, temperature: losses.siglip(a, b, scale=12.0, bias=-5.0),
        lambda a, b: oracles.siglip(a, b, 12.0, -5.0),
    ),
}


@pytest.mark.parametrize("name", AGAINST_ORACLES)
def test_every_loss_equals_its_oracle(name):
    loss, oracle = AGAINST_ORACLES[name]
    compiled = jax.jit(lambda a, b: loss(a, b, temperature=temperatures.dystress(0.07, 0.2)))
    for case in ("random", "collapsed", "aligned", "antipodal", "duplicated", "two examples"):
        a, b = _views(case)
        with jax.enable_x64(True):
            value = compiled(jnp.array(a), jnp.array(b))
        np.testing.assert_allclose(value, oracle(a, b), rtol=1e-9, atol=1e-12, err_msg=case)


def test_supcon_with_all_labels_different_is_nt_xent():
    a, b = (jnp.asarray(view, jnp.float32) for view in _views("random"))
    temperature = temperatures.separate(0.2, temperatures.dystress())
    np.testing.assert_allclose(
        losses.supcon(a, b, jnp.arange(N), temperature=temperature),
        nt_xent(a, b, temperature=temperature),
        rtol=1e-5,
    )


def test_clip_flattens_tokens():
    images, texts = jax.random.normal(jax.random.key(0), (2, 4, 3, 5))
    oblique = similarities.oblique(3)
    loss = jax.jit(functools.partial(losses.clip, temperature=0.1, similarity=oblique))
    np.testing.assert_array_equal(
        loss(images, texts), loss(images.reshape(4, -1), texts.reshape(4, -1))
    )


@given(st.integers(0, 2**31), st.floats(0.02, 2.0))
@settings(max_examples=20, deadline=None)
def test_permutation_and_rotation_change_nothing(seed, tau):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, N, D))
    order = rng.permutation(N)
    rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
    with jax.enable_x64(True):
        loss = lambda a, b: _value_and_grad((jnp.array(a), jnp.array(b)), (tau, 2 * tau), True)[
            0
        ].reshape(2, N)
        np.testing.assert_allclose(loss(a[order], b[order]), loss(a, b)[:, order], rtol=1e-9)
        np.testing.assert_allclose(loss(a @ rotation, b @ rotation), loss(a, b), rtol=1e-9)


def test_constant_temperature_is_the_classic_nt_xent():
    a, b = (jnp.asarray(view, jnp.float32) for view in _views("random"))
    z = similarities.normalize(jnp.concatenate([a, b]))
    logits = jnp.where(jnp.eye(2 * N, dtype=bool), -jnp.inf, z @ z.T / 0.2)
    labels = jnp.roll(jnp.arange(2 * N), N)
    classic = -jax.nn.log_softmax(logits)[jnp.arange(2 * N), labels]
    np.testing.assert_allclose(nt_xent(a, b, temperature=0.2), classic, rtol=1e-5)


def test_a_temperature_per_anchor_scales_its_row():
    a, b = (jnp.asarray(view, jnp.float32) for view in _views("random"))
    taus = jnp.linspace(0.1, 0.5, 2 * N)
    rows = jnp.stack([nt_xent(a, b, temperature=float(tau)) for tau in taus])
    np.testing.assert_allclose(nt_xent(a, b, temperature=taus), jnp.diagonal(rows), rtol=1e-5)


def test_rows_of_length_one_need_no_normalisation():
    a, b = (similarities.normalize(jnp.asarray(v, jnp.float32)) for v in _views("random"))
    np.testing.assert_allclose(
        nt_xent(a, b, temperature=0.1, normalize=False), nt_xent(a, b, temperature=0.1), rtol=1e-5
    )


def test_without_normalisation_the_length_of_a_row_counts():
    a, b = _views("random")
    z = np.concatenate([2 * oracles.unit(a), oracles.unit(b)])
    logits = np.where(np.eye(2 * N, dtype=bool), -np.inf, z @ z.T / 0.5)
    positives = logits[np.arange(2 * N), np.roll(np.arange(2 * N), N)]
    expected = np.logaddexp.reduce(logits, axis=1) - positives
    views = jnp.split(jnp.float32(z), 2)
    found = nt_xent(*views, temperature=0.5, normalize=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(nt_xent(*views, temperature=0.5) - found).max() > 0.1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: losses.rgcl(x, x, temperature=temperatures.dystress()),
            ValueError,
            "temperature: found Dystress; allowed: a number, or one for each anchor",
        ),
        (
            lambda x: losses.dclw(x, x, temperature=0.1, sigma=0.0),
            ValueError,
            "sigma: found 0.0; allowed: > 0",
        ),
        (
            lambda x: losses.siglip(x, x, scale=-1.0, bias=0.0),
            ValueError,
            "scale: found -1.0; allowed: > 0",
        ),
        (
            lambda x: losses.moco(x, x[:2], x, temperature=0.1),
            ValueError,
            r"keys: found shape \(2, 8\)",
        ),
        (
            lambda x: losses.supcon(x, x, jnp.zeros(4), temperature=0.1),
            ValueError,
            r"labels: found shape \(4,\) of float32; allowed: 4 integers, one for each example, or "
            r"bools \[4, classes\]",
        ),
        (
            lambda x: nt_xent(x, x[:3], temperature=0.1),
            ValueError,
            r"view_b: found shape \(3, 8\); allowed: \(4, 8\)",
        ),
        (
            lambda x: nt_xent(x, x[:, :3], temperature=0.1),
            ValueError,
            "view_b: .* rows of the same length",
        ),
        (
            lambda x: nt_xent(x[0], x[0], temperature=0.1),
            ValueError,
            r"view_a: found shape \(8,\); allowed: \[rows, features\]",
        ),
        (
            lambda x: nt_xent(x[:1], x[:1], temperature=0.1),
            ValueError,
            "view_a: found 1 rows; allowed: at least 2",
        ),
        (
            lambda x: nt_xent(x.astype(jnp.int32), x, temperature=0.1),
            TypeError,
            "view_a must be floating point; found int32",
        ),
        (lambda x: nt_xent(x, x, temperature=0.0), ValueError, "tau: found 0.0; allowed: > 0"),
        (
            lambda x: nt_xent(x, x, temperature=jnp.ones(4)),
            ValueError,
            r"temperature: found shape \(4,\) .*: 8 entries",
        ),
        (
            lambda x: nt_xent(x, x, temperature=jnp.ones((2, 2))),
            ValueError,
            r"tau: found shape \(2, 2\); allowed: one axis",
        ),
        (lambda x: nt_xent(x, x, temperature="warm"), TypeError, "found str"),
        (
            lambda x: info_nce(x, x[:3], temperature=0.1),
            ValueError,
            "keys: found 3 rows; allowed: at least 4",
        ),
        (
            lambda x: info_nce(x[:1], x[:1], temperature=0.1),
            ValueError,
            "keys: found 1 rows; allowed: at least 2",
        ),
        (
            lambda x: info_nce(x, x, temperature=0.1, positives=jnp.arange(3)),
            ValueError,
            r"positives: found shape \(3,\) of int32; allowed: 4 integers, one for each query",
        ),
        (
            lambda x: info_nce(x, x, temperature=0.1, positives=jnp.zeros(4)),
            ValueError,
            "of float32",
        ),
        *(
            (
                lambda x, loss=loss: loss(x[None], x[None], temperature=0.1),
                ValueError,
                r"view_a: found shape \(1, 4, 8\); allowed: \[rows, features\]",
            )
            for loss in (nt_xent, losses.dcl, losses.dclw, losses.rgcl)
        ),
        *(
            (
                lambda x, loss=loss: loss(x.tolist(), x.tolist(), temperature=0.1),
                ValueError,
                "(view_a|queries|images): found a list; allowed: an array",
            )
            for loss in (nt_xent, losses.dcl, info_nce, losses.clip)
        ),
        *(
            (
                lambda x, how=how: nt_xent(x, x, temperature=0.1, **how),
                ValueError,
                f"{name}: found a list; allowed: an array",
            )
            for name, how in (
                ("where", {"where": [True] * 4}),
                ("weights", {"weights": [1.0] * 8}),
                ("label_smoothing", {"label_smoothing": [0.1]}),
                ("negatives", {"negatives": [[1.0] * 8]}),
            )
        ),
        (
            lambda x: losses.supcon(x, x, [0, 1, 0, 1], temperature=0.1),
            ValueError,
            "labels: found a list; allowed: an array",
        ),
        (
            lambda x: info_nce(x, x, temperature=0.1, positives=[0, 1, 2, 3]),
            ValueError,
            "positives: found a list; allowed: an array",
        ),
        (
            lambda x: losses.clip(x, x, temperature=0.1, negatives=[x, x, x]),
            ValueError,
            "negatives: found 3 of them; allowed: an array, or a pair",
        ),
        (
            lambda x: losses.clip(x[:0], x[:0], temperature=0.1),
            ValueError,
            "images: found 0 rows; allowed: at least 2",
        ),
        (
            lambda x: losses.info_nce(x[:0], x, temperature=0.1),
            ValueError,
            "queries: found 0 rows; allowed: at least 1",
        ),
        (
            lambda x: losses.clip(
                x[:0], x, temperature=0.1, labels=(jnp.arange(0), jnp.arange(len(x)))
            ),
            ValueError,
            "images: found 0 rows; allowed: at least 1",
        ),
        (
            lambda x: nt_xent(x[:, :0], x[:, :0], temperature=0.1),
            ValueError,
            "view_a: found rows of no number; allowed: of at least 1",
        ),
        (
            lambda x: losses.siglip(x[:0], x[:0], scale=1.0, bias=0.0),
            ValueError,
            "images: found 0 rows; allowed: at least 2",
        ),
        (
            lambda x: moco(x, x, x[:0], temperature=0.1),
            ValueError,
            "queue: found 0 rows; allowed: at least 1, with `where_queue`",
        ),
        (
            lambda x: nt_xent(x, x, temperature=0.1, negatives=x[:0]),
            ValueError,
            "negatives: found 0 rows; allowed: at least 1, or None",
        ),
        (
            lambda x: nt_xent(x, x, temperature=0.1, label_smoothing=jnp.zeros(8)),
            ValueError,
            r"label_smoothing: found shape \(8,\); allowed: one number",
        ),
        (
            lambda x: info_nce(x, x, temperature=0.1, decoupled=True, label_smoothing=jnp.zeros(4)),
            ValueError,
            r"label_smoothing: found shape \(4,\); allowed: one number",
        ),
        (
            lambda x: losses.dclw(x, x, temperature=0.1, sigma=jnp.ones(4)),
            ValueError,
            r"sigma: found shape \(4,\); allowed: one number",
        ),
        (
            lambda x: losses.siglip(x, x, scale=jnp.ones(4), bias=0.0),
            ValueError,
            r"scale: found shape \(4,\); allowed: one number",
        ),
        (
            lambda x: losses.siglip(x, x, scale=1.0, bias=jnp.ones(4)),
            ValueError,
            r"bias: found shape \(4,\); allowed: one number",
        ),
        (lambda x: nt_xent(x, x, temperature=True), TypeError, "found a bool"),
        (
            lambda x: info_nce(x, x, temperature=0.1, positives=jnp.eye(4, dtype=int)),
            ValueError,
            "positives: found a matrix of the integers 0 and 1; allowed: the same as bools",
        ),
    ],
)
def test_a_bad_argument_is_refused_with_what_was_found(call, error, message, unchecked_shapes):
    with pytest.raises(error, match=message):
        call(jnp.ones((4, 8)))


def test_a_list_is_the_pair_of_clip_and_siglip():
    a, b, c = jax.random.normal(jax.random.key(0), (3, 4, D))
    label = jnp.arange(4) % 3
    of_clip = functools.partial(losses.clip, a, b, temperature=0.1)
    of_siglip = functools.partial(losses.siglip, a, b, scale=2.0, bias=-1.0)
    for loss, name, pair in (
        (of_clip, "negatives", (b, c)),
        (of_clip, "labels", (label, label)),
        (of_siglip, "labels", (label, label)),
    ):
        np.testing.assert_array_equal(loss(**{name: list(pair)}), loss(**{name: pair}))


@pytest.mark.parametrize("strategy", ["dense", "tiled", "ring"])
def test_siglip_has_its_gradient_where_a_traced_scale_is_zero(strategy):
    a, b = np.random.default_rng(0).standard_normal((2, 6, D))
    loss = functools.partial(losses.siglip, strategy=strategy, tile_size=4)
    if strategy == "ring":
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
        loss = losses.on_mesh(losses.siglip, mesh, strategy="ring", tile_size=2)
    with jax.enable_x64(True):
        total = lambda scale, bias, a, b: loss(a, b, scale=scale, bias=bias).sum()
        numbers = jnp.float64(0.0), jnp.float64(-2.0), jnp.asarray(a), jnp.asarray(b)
        value, slopes = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))(*numbers)
    z = 2 * np.eye(6) - 1
    s = oracles.unit(a) @ oracles.unit(b).T
    wrong = 1 / (1 + np.exp(z * -2.0))  # sigma(-z (0 s + b))
    np.testing.assert_allclose(value, np.sum(np.log1p(np.exp(-z * -2.0))), rtol=1e-12)
    np.testing.assert_allclose(slopes[0], -np.sum(z * s * wrong), rtol=1e-12)
    np.testing.assert_allclose(slopes[1], -np.sum(z * wrong), rtol=1e-12)
    assert all(np.all(np.asarray(slope) == 0) for slope in slopes[2:])


def test_decoupled_losses_leave_the_positive_out_of_the_denominator():
    queries, keys, queue = np.random.default_rng(2).standard_normal((3, 5, D))
    tau = lambda s: oracles.dystress(s, 0.07, 0.2)
    temperature = temperatures.dystress(0.07, 0.2)

    def expected(negatives, positive):
        logits = negatives / tau(negatives)
        return np.logaddexp.reduce(logits, axis=1) - positive / tau(positive)

    q, k, u = (oracles.unit(x) for x in (queries, keys, queue))
    s = q @ k.T
    others = s[~np.eye(5, dtype=bool)].reshape(5, 4)
    with jax.enable_x64(True):
        options = {"temperature": temperature, "decoupled": True}
        batch = info_nce(jnp.array(queries), jnp.array(keys), **options)
        stored = moco(jnp.array(queries), jnp.array(keys), jnp.array(queue), **options)
    np.testing.assert_allclose(batch, expected(others, s.diagonal()), rtol=1e-12)
    np.testing.assert_allclose(stored, expected(q @ u.T, s.diagonal()), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8])
def test_supcon_takes_labels_of_few_bits(dtype):
    """More rows than the labels' type has numbers."""
    views = jax.random.normal(jax.random.key(0), (2, 160, 4))
    labels = np.arange(160) % 5
    loss = jax.jit(functools.partial(losses.supcon, temperature=0.1))
    np.testing.assert_array_equal(
        loss(*views, jnp.asarray(labels, dtype)), loss(*views, jnp.asarray(labels, jnp.int32))
    )


SOME_LABELS = np.array([2, -1, 0, -1, 2, -3, 0, -1])  # any number below 0 is no label
APART = np.where(SOME_LABELS < 0, 100 + np.arange(8), SOME_LABELS)
SAME = APART[:, None] == APART[None, :]
OF_LABELS = {
    "supcon": lambda a, b, labels, **how: losses.supcon(a, b, labels, temperature=0.2, **how),
    "clip": lambda a, b, labels, **how: losses.clip(a, b, labels=labels, temperature=0.2, **how),
    "siglip": lambda a, b, labels, **how: losses.siglip(
        a, b, labels=labels, scale=5.0, bias=-1.0, **how
    ),
}


@pytest.mark.parametrize("how", ["dense", "tiled", "gathered", "ring"])
@pytest.mark.parametrize("name", OF_LABELS)
def test_rows_without_a_label_are_classes_of_their_own(name, how):
    a, b = jax.random.normal(jax.random.key(0), (2, 8, 4))
    loss, given = OF_LABELS[name], (np.float64(a), np.float64(b))
    expected = {
        "supcon": lambda tau: oracles.supcon(*given, APART, tau),
        "clip": lambda tau: np.mean(
            [oracles.many_positives(*way, tau, SAME) for way in (given, given[::-1])], axis=0
        ),
        "siglip": lambda tau: oracles.siglip_by_labels(*given, (APART, APART), 5.0, -1.0),
    }[name](lambda s: np.full_like(s, 0.2))
    if how in ("gathered", "ring"):
        mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
        spread = losses.on_mesh(loss, mesh, strategy=how)
        found = spread(a, b, labels=jnp.asarray(SOME_LABELS, jnp.int8))
    else:
        found = loss(a, b, jnp.asarray(SOME_LABELS, jnp.int8), strategy=how)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_an_image_without_a_label_has_no_text(name):
    images, texts = jax.random.normal(jax.random.key(0), (2, 8, 4))
    texts = texts[:6]
    labels = SOME_LABELS, SOME_LABELS[1:7]
    apart = APART, np.where(labels[1] < 0, 200 + np.arange(6), labels[1])
    found = OF_LABELS[name](images, texts, tuple(map(jnp.asarray, labels)))
    given = np.float64(images), np.float64(texts), apart
    if name == "clip":
        expected = oracles.clip_by_labels(*given, lambda s: np.full_like(s, 0.2))
    else:
        expected = oracles.siglip_by_labels(*given, 5.0, -1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dclw_is_finite_for_any_sigma_and_similarity():
    a, b = jax.random.normal(jax.random.key(0), (2, 5, 8))
    loss = functools.partial(losses.dclw, temperature=1.0)
    strongest = np.argmax(np.sum(oracles.unit(np.array(a)) * oracles.unit(np.array(b)), axis=1))
    weight = 2.0 - 5 * (np.arange(5) == strongest)  # all the weight of a softmax on the closest
    s = oracles.unit(np.concatenate([a, b])) @ oracles.unit(np.concatenate([a, b])).T
    same = np.tile(np.eye(5, dtype=bool), (2, 2))
    negatives = np.log(np.sum(np.where(same, 0, np.exp(s)), axis=1))
    expected = negatives - np.tile(weight, 2) * np.tile(np.diagonal(s[:5, 5:]), 2)
    np.testing.assert_allclose(loss(a, b, sigma=1e-4), expected, rtol=1e-5)
    assert np.isfinite(loss(30 * a, 30 * a, similarity=similarities.inner_product)).all()


@pytest.mark.parametrize("positives", [[3, 1], [-1, 1]])
def test_info_nce_refuses_positives_that_are_no_keys(positives):
    keys = jnp.eye(3)
    with pytest.raises(
        ValueError, match=f"found {positives[0]}; allowed: rows of the 3 `keys`, 0 to 2"
    ):
        info_nce(keys[:2], keys, temperature=0.1, positives=jnp.array(positives))


@pytest.mark.parametrize("loss", [info_nce, losses.clip])
@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_two_precisions_give_the_wider_one(loss, strategy):
    a, b = np.random.default_rng(0).standard_normal((2, 6, 4))
    with jax.enable_x64(True):
        of = jax.jit(functools.partial(loss, temperature=0.1, strategy=strategy, tile_size=3))
        with jax.numpy_dtype_promotion("standard"):
            found = of(jnp.asarray(a, jnp.float32), jnp.asarray(b))
        expected = of(jnp.asarray(a), jnp.asarray(b))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def every_loss(a, b, labels, strategy, **how):
    """Every loss of these two views, by name."""
    how = {"strategy": strategy, **how}
    tau = {"temperature": 0.1}
    found = {
        "nt_xent": nt_xent(a, b, **tau, **how),
        "dcl": losses.dcl(a, b, **tau, **how),
        "dcl of each view": losses.dcl(a, b, joint=False, **tau, **how),
        "dclw": losses.dclw(a, b, **tau, **how),
        "info_nce": info_nce(a, b, **tau, **how),
        "supcon": losses.supcon(a, b, labels, **tau, **how),
        "clip": losses.clip(a, b, **tau, **how),
        "siglip": losses.siglip(a, b, scale=10.0, bias=-10.0, **how),
    }
    if "axis_name" in how:
        return found
    for name in ("oblique", "oblique_geodesic"):
        similarity = getattr(similarities, name)(2)
        found[name] = nt_xent(a, b, similarity=similarity, **tau, **how)
    for name in ("geodesic", "squared_euclidean", "euclidean", "inner_product"):
        found[name] = nt_xent(a, b, similarity=getattr(similarities, name), **tau, **how)
    for make in (temperatures.shifted_dystress, temperatures.linear, temperatures.temperature_free):
        found[make.__name__] = nt_xent(a, b, temperature=make(), **how)
    found["moco"] = moco(a, b, b[::-1], **tau, **how)
    return found


@pytest.mark.parametrize("where", ["dense", "tiled", "gathered", "ring"])
def test_nan_in_an_embedding_shows_in_every_loss(where):
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 4))
    labels = jnp.array([0, 1, 0, 1])
    if where in ("dense", "tiled"):
        every = jax.jit(functools.partial(every_loss, strategy=where))
    else:
        mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
        of_rows = functools.partial(every_loss, strategy=where, axis_name="data")
        rows = jax.sharding.PartitionSpec("data")
        every = jax.jit(jax.shard_map(of_rows, mesh=mesh, in_specs=(rows,) * 3, out_specs=rows))
    for name, values in every(a, b, labels).items():
        assert np.isfinite(values).all(), name
    for name, values in every(a.at[2, 3].set(jnp.nan), b, labels).items():
        assert np.isnan(values).any(), name
    for name, values in every(a, b.at[1].set(jnp.inf), labels).items():
        assert not np.isfinite(values).all(), name


def test_weights_that_are_nan_show_in_the_loss_and_in_its_gradient():
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    loss = lambda w: nt_xent(a @ w, b @ w, temperature=0.1).mean()
    value, gradient = jax.value_and_grad(loss)(jnp.full((3, 3), jnp.nan))
    assert np.isnan(value)
    assert np.isnan(gradient).all()


def test_positives_that_are_no_keys_give_nan_where_they_cannot_be_refused():
    keys = jnp.eye(3)
    loss = jax.jit(lambda positives: info_nce(keys, keys, temperature=0.1, positives=positives))
    found = loss(jnp.array([0, 3, -1]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, True])
    np.testing.assert_allclose(found[0], info_nce(keys, keys, temperature=0.1)[0])


@pytest.mark.ci
def test_every_loss_is_exported_with_a_symbolic_number_of_rows(unchecked_shapes):
    n, *_ = jax.export.symbolic_shape("n")
    symbolic = [jax.ShapeDtypeStruct((n, 4), jnp.float32)] * 2
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)

    def means(a, b, labels):
        return {k: v.mean() for k, v in every_loss(a, b, labels, strategy="auto").items()}

    exported = jax.export.export(jax.jit(means))(*symbolic, labels)
    a, b = jax.random.normal(jax.random.key(0), (2, 5, 4))
    number = jnp.arange(5) % 2
    expected = jax.jit(means)(a, b, number)
    for name, value in exported.call(a, b, number).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    slope = jax.grad(lambda a, b: nt_xent(a, b, temperature=0.1).mean())
    of_any = jax.export.export(jax.jit(slope))(*symbolic)
    np.testing.assert_allclose(of_any.call(a, b), slope(a, b), atol=1e-6)
    with pytest.raises(ValueError, match="found 'tiled' with a symbolic number of rows; allowed"):
        jax.export.export(jax.jit(functools.partial(nt_xent, temperature=0.1, strategy="tiled")))(
            *symbolic
        )
    n, k = jax.export.symbolic_shape("n, k")
    symbolic = [jax.ShapeDtypeStruct((n, 4), jnp.float32)] * 2
    rgcl = lambda a, b, others: losses.rgcl(a, b, temperature=0.1, negatives=others)
    exported = jax.export.export(jax.jit(rgcl))(
        *symbolic, jax.ShapeDtypeStruct((k, 4), jnp.float32)
    )
    np.testing.assert_allclose(exported.call(a, b, a[:2]), rgcl(a, b, a[:2]), rtol=1e-5)


@pytest.mark.parametrize("where", [None, jnp.arange(4) < 3])
def test_a_negative_weight_is_refused_unless_nobody_counts_it(where):
    views = jax.random.normal(jax.random.key(0), (2, 4, 3))
    weights = jnp.ones(8).at[jnp.array([3, 7])].set(-1.0)
    call = lambda **more: nt_xent(*views, temperature=0.3, where=where, **more)
    if where is None:
        with pytest.raises(ValueError, match=r"^weights: found -1\.0; allowed: >= 0"):
            call(weights=weights)
    else:
        np.testing.assert_allclose(call(weights=weights), call(), rtol=1e-6)
        with pytest.raises(ValueError, match=r"^weights: found -2\.0; allowed: >= 0"):
            call(weights=weights.at[5].set(-2.0))  # of a real row


@pytest.mark.parametrize("wrong", [np.nan, -1.0])
def test_a_traced_weight_that_is_no_weight_shows_unless_nobody_counts_it(wrong):
    """Where nobody can refuse it: such a pair was left out in silence."""
    views = jax.random.normal(jax.random.key(0), (2, 4, 3))
    of_all = jnp.ones(8).at[jnp.array([3, 7])].set(wrong)
    of_pairs = jnp.ones((8, 8)).at[2, 5].set(wrong).at[:, jnp.array([3, 7])].set(wrong)
    loss = lambda weights, where: nt_xent(*views, temperature=0.3, where=where, weights=weights)
    slope = jax.grad(lambda *given: loss(*given).sum())
    # The anchors 3 and 7 are no negatives of each other.
    for weights, anchors in ((of_all, 6), (of_pairs, 6), (of_pairs.at[:, 3:].set(1.0), 0)):
        found = jax.jit(loss)(weights, None)
        assert np.isnan(found).sum() == anchors
    real = jnp.arange(4) < 3
    found, of_weights = jax.jit(lambda w: (loss(w, real), slope(w, real)))(of_all)
    np.testing.assert_allclose(found, loss(jnp.ones(8), real), rtol=1e-6)
    np.testing.assert_allclose(of_weights, slope(jnp.ones(8), real), rtol=1e-5)
    with pytest.raises(ValueError, match=rf"^weights: found {wrong}; allowed: >= 0"):
        loss(of_all, None)


def test_weights_may_be_whole_numbers_or_a_mask():
    views = jax.random.normal(jax.random.key(0), (2, 3, 4))
    loss = lambda weights: nt_xent(*views, temperature=0.3, weights=weights)
    kept = np.array([True, False, True, True, True, False])
    np.testing.assert_array_equal(loss(kept), loss(jnp.float32(kept)))
    np.testing.assert_array_equal(loss(2), loss(2.0))


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e-18, 1.0, 1e20, 1e30])
def test_rows_that_are_constants_of_a_program_are_divided_by_their_length(scale):
    """XLA divided by the square of their largest number, which left the range."""
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    fixed = b * scale
    loss = lambda a, b: nt_xent(a, b, temperature=0.1, strategy="dense").mean()
    found = jax.jit(jax.value_and_grad(lambda a: loss(a, fixed)))(a)
    expected = jax.jit(jax.value_and_grad(loss))(a, b)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["n 1", "1 m", "1 1", "n", "both"])
@pytest.mark.parametrize("strategy", ["dense", "tiled"])
def test_a_similarity_of_another_shape_than_the_matrix_is_refused(strategy, shape):
    product = lambda a, b: a @ b.T
    of = {
        "n 1": lambda a, b: product(a, b)[:, :1],
        "1 m": lambda a, b: product(a, b)[:1],
        "1 1": lambda a, b: product(a, b)[:1, :1],
        "n": lambda a, b: product(a, b)[:, 0],
        "both": lambda a, b: (product(a, b), product(a, b)),
    }[shape]
    views = jax.random.normal(jax.random.key(0), (2, 4, 3))
    with pytest.raises(ValueError, match=r"^similarity: found the shape .* of 2 rows and 3"):
        nt_xent(*views, temperature=0.3, similarity=of, strategy=strategy)


def test_a_margin_to_learn_is_refused_where_tiles_hold_positives():
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    several = jnp.array([[0, 1], [1, 2], [2, 3], [3, 0]])

    def value(m, strategy, **how):
        learned = dataclasses.replace(similarities.sphere, positive=lambda s: s - m)
        return info_nce(a, b, temperature=0.3, similarity=learned, strategy=strategy, **how).sum()

    for how in ({}, {"positives": several}):
        assert np.isfinite(jax.grad(value)(0.1, "dense", **how))
    expected = jax.grad(value)(0.1, "dense")
    np.testing.assert_allclose(jax.grad(value)(0.1, "tiled"), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="similarity: found a function that closes over traced"):
        jax.grad(value)(0.1, "tiled", positives=several)


def test_the_kernel_says_that_it_has_no_derivative_of_a_gradient():
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    loss = lambda a: nt_xent(a, b, temperature=0.3, strategy="fused").mean()
    assert np.isfinite(jax.grad(loss)(a)).all()
    with pytest.raises(ValueError, match=r"^strategy: found fused, in a derivative of a gradient"):
        jax.grad(lambda a: jnp.sum(jax.grad(loss)(a) ** 2))(a)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("size", [[4, 4], (4, 4, 4), 4.0, (4,), 0, (2, 0)])
def test_a_tile_is_one_number_or_two(size):
    with pytest.raises(ValueError, match=r"^tile_size: found .*; allowed: at least 1, whole, or a"):
        nt_xent(jnp.eye(3), jnp.eye(3), temperature=0.3, strategy="tiled", tile_size=size)


@pytest.mark.parametrize("number", [np.float64(0.1), np.full(6, 0.1)], ids=["one", "each"])
def test_numbers_in_float64_leave_losses_of_float32_in_float32(number):
    with jax.enable_x64(True):
        a, b = jax.random.normal(jax.random.key(0), (2, 3, 4), jnp.float32)
        assert losses.rgcl(a, b, temperature=number).dtype == jnp.float32
        sigma = np.float64(0.5)
        assert losses.dclw(a, b, temperature=0.1, sigma=sigma).dtype == jnp.float32
