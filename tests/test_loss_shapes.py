"""Views of any number, smooth labels, weights, further negatives and margins, in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import oracles

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

N, D, K = 8, 4, 5
TAU = lambda s: oracles.dystress(s, 0.1, 0.3)
TEMPERATURE = jax.tree.map(jnp.float32, temperatures.dystress(0.1, 0.3, stop_gradient=False))
SMOOTHING, MARGIN = 0.2, 0.3
LABELS = np.arange(N) % 3
in_ci = pytest.mark.ci


def make_views(k=2, dtype=None):
    first, *others = jax.random.normal(jax.random.key(0), (k, N, D), dtype)
    return (first, *(first + other for other in others))


def further(dtype=None):
    return jax.random.normal(jax.random.key(7), (K, D), dtype)


def weights(*shape):
    """Some of them 0: these pairs are left out."""
    random = np.random.default_rng(1)
    return (random.uniform(0.2, 3.0, shape) * (random.random(shape) > 0.2)).astype(np.float32)


VIEWS = functools.partial(np.tile, np.eye(N, dtype=bool), (2, 2))
OWN = np.eye(2 * N, dtype=bool)
SAME = np.tile(LABELS[:, None] == LABELS, (2, 2))
# The loss, its further arguments, anchors and candidates of (a, b), positives and negatives.
two = lambda a, b: (np.concatenate([a, b]),) * 2
LOSSES = {
    "nt_xent": (losses.nt_xent, {}, two, VIEWS() & ~OWN, ~VIEWS()),
    "supcon": (losses.supcon, {"labels": LABELS}, two, SAME & ~OWN, ~SAME),
    "info_nce": (
        losses.info_nce,
        {},
        lambda a, b: (a, b),
        np.eye(N, dtype=bool),
        ~np.eye(N, dtype=bool),
    ),
    "info_nce, positives": (
        losses.info_nce,
        {"positives": np.stack([np.arange(N), (np.arange(N) + 3) % N], axis=1)},
        lambda a, b: (a, b),
        np.eye(N, dtype=bool) | np.eye(N, k=3, dtype=bool) | np.eye(N, k=3 - N, dtype=bool),
        ~(np.eye(N, dtype=bool) | np.eye(N, k=3, dtype=bool) | np.eye(N, k=3 - N, dtype=bool)),
    ),
}


def shapes(name):
    """Every keyword alone, and all of them at once."""
    *_, positive, _ = LOSSES[name]
    n, m = positive.shape
    alone = {
        "smoothing": {"label_smoothing": SMOOTHING},
        "a weight for all": {"weights": np.float32(0.3)},
        "weights of candidates": {"weights": weights(m)},
        "weights of pairs": {"weights": weights(n, m)},
        "further negatives": {"negatives": further()},
        "margin": {"similarity": similarities.sphere.with_angular_margin(MARGIN)},
    }
    both = alone["smoothing"] | alone["weights of pairs"] | alone["further negatives"]
    return alone | {"all at once": both | alone["margin"]}


CASES = [(name, shape) for name in LOSSES for shape in shapes(name)]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_shape_equals_the_oracle(name, shape):
    loss, more, sides, positive, negative = LOSSES[name]
    how = shapes(name)[shape]
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        wide = {k: jnp.asarray(v, jnp.float64) for k, v in how.items() if k != "similarity"}
        wide |= {k: v for k, v in how.items() if k == "similarity"}
        temperature = temperatures.dystress(0.1, 0.3)
        found = loss(a, b, temperature=temperature, **jax.tree.map(jnp.asarray, more), **wide)
        a, b = np.asarray(a), np.asarray(b)
    anchors, candidates = sides(a, b)
    w = np.asarray(how.get("weights", 1.0), np.float64)
    scalar = w if w.ndim == 0 else 1.0
    w = np.broadcast_to(w, positive.shape)
    if "negatives" in how:
        extra = np.asarray(how["negatives"], np.float64)
        candidates = np.concatenate([candidates, extra])
        positive = np.pad(positive, ((0, 0), (0, K)))
        negative = np.pad(negative, ((0, 0), (0, K)), constant_values=True)
        w = np.pad(w, ((0, 0), (0, K)), constant_values=scalar)
    expected = oracles.shaped(
        anchors,
        candidates,
        TAU,
        positive,
        negative,
        smoothing=how.get("label_smoothing", 0.0),
        weights=w,
        margin=MARGIN if "similarity" in how else 0.0,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


DECOUPLED = ("dcl", "dcl, own view", "dcl, two logarithms", "dclw", "rgcl")


@pytest.mark.parametrize("shape", ["weights of candidates", "weights of pairs", "alike"])
@pytest.mark.parametrize("name", DECOUPLED)
def test_negatives_outside_a_softmax_are_weighed_too(name, shape):
    w = np.float64(weights(*{"weights of candidates": (2 * N,)}.get(shape, (2 * N, 2 * N))))
    how = {} if shape == "alike" else {"weights": w}
    if name != "dcl, two logarithms":
        how["negatives"] = np.asarray(further(), np.float64)
    tau = 0.2 + 0 * np.arange(2 * N) if name == "rgcl" else None
    loss = {
        "dcl, own view": functools.partial(losses.dcl, own_view=True),
        "dcl, two logarithms": functools.partial(losses.dcl, joint=False),
    }.get(name) or getattr(losses, name)
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        temperature = temperatures.dystress(0.1, 0.3) if tau is None else jnp.asarray(tau)
        found = loss(a, b, temperature=temperature, **jax.tree.map(jnp.asarray, how))
        views = np.concatenate([a, b])
    z = np.concatenate([views, how.get("negatives", views[:0])])
    extra = ((0, 0), (0, len(z) - 2 * N))
    positive = np.pad(VIEWS() & ~OWN, extra)
    w = np.pad(np.broadcast_to(how.get("weights", 1.0), (2 * N, 2 * N)), extra, constant_values=1)
    of_tau = TAU if tau is None else lambda s: tau[:, None] + 0 * s
    view = np.repeat(np.arange(2), N)
    among = {"dcl, own view": view[:, None] == view}.get(name, True) & ~VIEWS()
    negative = np.pad(among, extra, constant_values=True)
    own, log_sum, total = oracles.weighed(views, z, of_tau, positive, negative, w)
    expected = {
        "dclw": lambda: log_sum - hardness(views) * own,
        "rgcl": lambda: 2 * tau * (log_sum - own - np.log(total)),
        "dcl, two logarithms": lambda: (
            sum(
                oracles.weighed(views, z, of_tau, positive, negative & (view == v), w)[1]
                for v in range(2)
            )
            - own
        ),
    }.get(name, lambda: log_sum - own)()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def hardness(views, sigma=0.5):
    """The weights of the positives in DCLW."""
    z = oracles.unit(views)
    e = np.exp(np.sum(z[:N] * z[N:], axis=1) / sigma)
    return np.tile(2 - e / e.mean(), 2)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_clip_has_further_texts_and_images(labels):
    """In NumPy: each direction with its own, of which some only fill up."""
    texts, images = np.float64(further()), np.float64(further())[::-1] + 1.0
    real = np.arange(K) != 1
    same = np.eye(N, dtype=bool) if labels is None else SAME[:N, :N]
    of_labels = {} if labels is None else {"labels": jnp.asarray(labels)}
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        loss = functools.partial(
            losses.clip, a, b, temperature=temperatures.dystress(0.1, 0.3), **of_labels
        )
        filled = np.where(real[:, None], texts, np.nan).reshape(K, 2, 2)
        both = loss(
            negatives=(jnp.asarray(filled), jnp.asarray(images)),
            where_negatives=(jnp.asarray(real), None),
            label_smoothing=SMOOTHING,
        )
        of_texts = loss(negatives=jnp.asarray(texts[real]), label_smoothing=SMOOTHING)
        of_images = loss(negatives=(None, jnp.asarray(images)), label_smoothing=SMOOTHING)
        a, b = np.asarray(a), np.asarray(b)

    def one_way(x, y, more):
        positive = np.pad(same, ((0, 0), (0, len(more))))
        return oracles.shaped(
            x, np.concatenate([y, more]), TAU, positive, ~positive, smoothing=SMOOTHING
        )

    none = texts[:0]
    for found, more_texts, more_images in (
        (both, texts[real], images),
        (of_texts, texts[real], none),
        (of_images, none, images),
    ):
        expected = (one_way(a, b, more_texts) + one_way(b, a, more_images)) / 2
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_clip_rgcl_has_the_mean_over_all_negatives_of_each_side():
    """In NumPy: more texts than images, further ones, and rows of each that only fill up."""
    m, tau = N + 3, np.linspace(0.2, 0.5, 2 * N)
    more = np.float64(further()), np.float64(further())[::-1] + 1.0
    real, real_texts, real_more = np.arange(N) != 2, np.arange(m) % 5 != 2, np.arange(K) != 1
    with jax.enable_x64(True):
        a, b = jax.random.normal(jax.random.key(0), (2, m, D), jnp.float64)
        a, b = a[:N], a + b
        found = losses.clip_rgcl(
            *(a, b),
            temperature=jnp.asarray(tau),
            negatives=tuple(map(jnp.asarray, more)),
            where=jnp.asarray(real),
            where_texts=jnp.asarray(real_texts),
            where_negatives=(jnp.asarray(real_more), None),
        )
        a, b = np.asarray(a), np.asarray(b)

    def one_way(x, y, more, real, tau):
        positive = np.eye(N, len(y) + len(more), dtype=bool)
        candidates = np.concatenate([y, more])
        negative = ~positive & real
        own, log_sum, number = oracles.weighed(
            x, candidates, lambda s: tau[:, None] + 0 * s, positive, negative
        )
        return tau * (log_sum - own - np.log(number))

    of_images = one_way(a, b, more[0], np.concatenate([real_texts, real_more]), tau[:N])
    of_texts = one_way(b[:N], a, more[1], np.pad(real, (0, K), constant_values=True), tau[N:])
    expected = np.where(real & real_texts[:N], of_images + of_texts, 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("loss", [losses.rgcl, losses.clip_rgcl])
def test_a_running_mean_changes_the_gradient_of_rgcl_and_not_its_value(loss):
    tau, log_mean = jnp.linspace(0.2, 0.5, 2 * N), jnp.linspace(-1.0, 1.0, 2 * N)
    views = make_views()
    slopes = jax.grad(lambda views, tau: loss(*views, temperature=tau).mean())
    plain, with_mean = tau, temperatures.PerExample(tau, log_mean)
    np.testing.assert_allclose(
        loss(*views, temperature=with_mean), loss(*views, temperature=plain), rtol=1e-6
    )
    for x, y in zip(slopes(views, with_mean), slopes(views, plain), strict=True):
        assert np.abs(x - y).max() > 1e-3


@pytest.mark.parametrize("shape", [(), (K,), (N, K)], ids=str)
def test_siglip_weighs_its_negatives(shape):
    w = np.float64(weights(*shape)) if shape else np.float64(0.3)
    labels = np.arange(N), np.arange(K)
    with jax.enable_x64(True):
        (a, _), texts = make_views(dtype=jnp.float64), further(jnp.float64)
        found = losses.siglip(
            *(a, texts),
            scale=5.0,
            bias=-2.0,
            labels=tuple(map(jnp.asarray, labels)),
            weights=jnp.asarray(w),
        )
    expected = oracles.siglip_by_labels(np.asarray(a), np.asarray(texts), labels, 5.0, -2.0, w)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_clip_is_the_mean_of_both_directions_in_every_shape():
    w = weights(N, N)
    with jax.enable_x64(True):
        a, b = make_views(dtype=jnp.float64)
        how = {"label_smoothing": SMOOTHING, "weights": jnp.asarray(w, jnp.float64)}
        temperature = temperatures.dystress(0.1, 0.3)
        found = losses.clip(a, b, temperature=temperature, **how)
        labelled = losses.clip(a, b, temperature=temperature, labels=jnp.asarray(LABELS), **how)
        a, b = np.asarray(a), np.asarray(b)
    for value, same in ((found, np.eye(N, dtype=bool)), (labelled, SAME[:N, :N])):
        each = functools.partial(
            oracles.shaped, tau=TAU, positive=same, negative=~same, smoothing=SMOOTHING
        )
        expected = (each(a, b, weights=w) + each(b, a, weights=w.T)) / 2
        np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_moco_weighs_its_queue_and_smooths_its_target():
    queue, w = further(), weights(N, K)
    a, b = make_views()
    how = {"label_smoothing": SMOOTHING, "weights": jnp.asarray(w)}
    found = losses.moco(a, b, queue, temperature=TEMPERATURE, **how)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for i in range(N):
        candidates = np.concatenate([b[i : i + 1], queue])
        positive = np.arange(K + 1)[None] == 0
        expected = oracles.shaped(
            a[i : i + 1],
            candidates,
            TAU,
            positive,
            ~positive,
            smoothing=SMOOTHING,
            weights=np.concatenate([[1.0], w[i]]),
        )
        np.testing.assert_allclose(found[i], expected[0], rtol=1e-5)


def test_a_queue_beside_the_negatives_of_the_batch():
    a, b = make_views()
    found = losses.info_nce(a, b, temperature=TEMPERATURE, negatives=further())
    more = losses.info_nce(a, jnp.concatenate([b, further()]), temperature=TEMPERATURE)
    np.testing.assert_allclose(found, more, rtol=1e-6)


@pytest.mark.ci
def test_many_views_are_compared_pair_by_pair():
    views = make_views(4)
    of_pair = lambda u, v: losses.nt_xent(views[u], views[v], temperature=TEMPERATURE)[:N]
    found = losses.nt_xent(jnp.stack(views), temperature=TEMPERATURE).reshape(4, N)
    cropped = losses.nt_xent(views, temperature=TEMPERATURE, global_views=2).reshape(4, N)
    for u in range(4):
        others = [of_pair(u, v) for v in range(4) if v != u]
        np.testing.assert_allclose(found[u], sum(others) / 3, rtol=1e-5)
        of_global = [of_pair(u, v) for v in range(2) if v != u]
        np.testing.assert_allclose(cropped[u], sum(of_global) / len(of_global), rtol=1e-5)


def test_two_views_in_one_argument_are_two_views():
    views = make_views()
    how = {"temperature": jnp.linspace(0.1, 0.3, 2 * N), "where": jnp.arange(N) < 6}
    expected = losses.nt_xent(*views, **how)
    np.testing.assert_allclose(losses.nt_xent(jnp.stack(views), **how), expected, rtol=1e-6)


def test_stacked_views_are_split_over_the_devices_that_hold_their_rows():
    """On the compiled program: nobody gets all similarities."""
    mesh = jax.make_mesh((8,), ("data",))
    views = jax.device_put(jnp.stack(make_views(3)), jax.NamedSharding(mesh, jax.P(None, "data")))
    loss = jax.jit(lambda views: losses.nt_xent(views, temperature=TEMPERATURE))
    assert "f32[24,8]" not in loss.lower(views).compile().as_text()
    expected = losses.nt_xent(jnp.stack(make_views(3)), temperature=TEMPERATURE)
    np.testing.assert_allclose(loss(views), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.nt_xent(views, temperature=TEMPERATURE), expected, rtol=1e-5)


def test_margins_fall_with_the_angle_and_have_finite_slopes():
    margin = similarities.sphere.with_angular_margin(0.5).positive
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            cosine = jnp.linspace(-1, 1, 2001, dtype=dtype)
            value = margin(cosine)
            inside = np.arccos(np.asarray(cosine, np.float64)) + 0.5 < np.pi
            expected = np.cos(np.arccos(np.asarray(cosine, np.float64)) + 0.5)
            np.testing.assert_allclose(value[inside], expected[inside], atol=2e-3)
            assert np.all(np.diff(value) > 0)
            assert np.isfinite(jax.vmap(jax.grad(margin))(cosine)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, label_smoothing=1.0),
            r"label_smoothing: found 1.0; allowed: in \[0, 1\)",
        ),
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, weights=jnp.ones(4)),
            r"weights: found shape \(4,\) of float32; allowed: numbers of the shape \(\), \(8,\), "
            r"\(8, 8\)",
        ),
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, weights=-jnp.ones(8)),
            r"weights: found -1.0; allowed: >= 0",
        ),
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, negatives=jnp.ones((3, 5))),
            r"negatives: found shape \(3, 5\); allowed: rows of 8 numbers",
        ),
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, where_negatives=jnp.ones(3, bool)),
            "where_negatives: found a mask without `negatives`",
        ),
        (
            lambda x: losses.nt_xent([x], temperature=0.1),
            r"view_a: found views of the shapes .*; allowed: two or more, each \[rows, features\]",
        ),
        (
            lambda x: losses.nt_xent(x, temperature=0.1),
            r"view_b: found None beside one array of shape \(\d+, 8\); allowed: both views",
        ),
        (
            lambda x: losses.nt_xent(x, x, temperature=0.1, global_views=3),
            "global_views: found 3; allowed: 2 to 2",
        ),
        (
            lambda x: losses.info_nce(x, x, temperature=0.1, decoupled=True, label_smoothing=0.1),
            "label_smoothing: found 0.1 with decoupled=True; allowed: 0",
        ),
        (
            lambda x: losses.dcl(x, x, temperature=0.1, joint=False, negatives=x),
            "negatives: found some with joint=False",
        ),
        (
            lambda x: losses.rgcl(x, x, temperature=0.1, weights=2.0),
            "weights: found one number, which changes no mean",
        ),
        (
            lambda x: losses.clip(x, x, temperature=0.1, where_negatives=(None, jnp.ones(4, bool))),
            "where_negatives: found a mask without `negatives`",
        ),
        (
            lambda x: losses.clip(
                x,
                x[:2],
                temperature=0.1,
                labels=(jnp.arange(4), jnp.arange(2)),
                weights=jnp.ones(4),
            ),
            r"weights: found shape \(4,\) with 4 images and 2 texts; allowed: one number",
        ),
        (
            lambda x: similarities.sphere.with_angular_margin(4.0),
            r"margin: found 4.0; allowed: in \[0, pi\)",
        ),
        (
            lambda x: similarities.geodesic.with_angular_margin(0.1),
            "margin: found one for a similarity of",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(call, message, unchecked_shapes):
    with pytest.raises(ArgumentError, match=message):
        call(jnp.ones((4, 8)))


def _wide(a, b):
    """A similarity of one's own that computes in float64, whatever it is given."""
    return a.astype(jnp.float64) @ b.T.astype(jnp.float64) / 4


CLASSES = jnp.arange(9, dtype=jnp.int32) % 4
MIXED = {
    "siglip, one weight": lambda a, b, how: losses.siglip(
        a, a + 1, scale=3.0, bias=0.0, weights=0.3, **how
    ),
    "siglip of one's own": lambda a, b, how: losses.siglip(
        a, a + 1, scale=3.0, bias=0.0, similarity=_wide, **how
    ),
    "clip of both labels": lambda a, b, how: losses.clip(
        a, b, labels=(CLASSES, CLASSES), temperature=0.2, weights=0.3, **how
    ),
    "clip, further texts": lambda a, b, how: losses.clip(
        a, b, temperature=0.2, negatives=b[:3], label_smoothing=0.1, **how
    ),
    "nt_xent of one's own": lambda a, b, how: losses.nt_xent(
        a, a + 1, temperature=0.2, similarity=_wide, **how
    ),
    "info_nce of positives": lambda a, b, how: losses.info_nce(
        a, b, temperature=0.2, positives=CLASSES[:, None], decoupled=True, **how
    ),
    "three views": lambda a, b, how: losses.nt_xent((a, b, a - b), temperature=0.2, **how),
    "statistics": lambda a, b, how: (
        losses.statistics(
            losses.siglip, a, a + 1, scale=3.0, bias=0.0, weights=0.3, similarity=_wide, **how
        ).entropy
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_tiles_take_what_comes_in_several_precisions(name):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        a, b = jax.random.normal(jax.random.key(0), (2, 9, 4), jnp.float64)
        a = a.astype(jnp.float32)
        found, dense = (MIXED[name](a, b, {"strategy": s}) for s in (losses.tiled(4), "dense"))
        assert found.dtype == dense.dtype
        np.testing.assert_allclose(found, dense, rtol=1e-4, atol=1e-5)
