"""Schemes against golden numbers computed in NumPy from the published rules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dystress_jax import losses, schemes, temperatures
from tests import oracles

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 4, 6))
A32, B32 = jnp.float32(A), jnp.float32(B)
VIEWS = schemes.of_views(jnp.float32(A), jnp.float32(B), example=jnp.array([5, 0, 2, 7]))


def test_any_optax_schedule_on_any_field():
    schedule = optax.linear_schedule(0.1, 0.2, transition_steps=10)  # the stabilisation of DySTreSS
    scheme = schemes.scheduled(temperatures.dystress, tau_min=schedule, tau_max=0.2)
    state = scheme.init()
    for step in range(12):
        temperature = jax.jit(scheme.resolve)(state, None)
        expected = temperatures.dystress(0.1 + 0.01 * min(step, 10), 0.2)
        np.testing.assert_allclose(temperature.tau_min, expected.tau_min, rtol=1e-6)
        state = scheme.update(state, None, None)


def test_a_temperature_among_the_fields_stays_what_it_is():
    dynamic = temperatures.dystress(0.1, 0.2)
    scheme = schemes.scheduled(
        temperatures.separate, positives=lambda step: 0.1 + 0.1 * step, negatives=dynamic
    )
    found = scheme.resolve(jnp.int32(1), None)
    assert float(found.positives.tau) == pytest.approx(0.2)
    assert found.negatives is dynamic


def test_cosine_schedule_is_the_rule_of_kukleva_et_al():
    # tau_min + .5 (tau_max - tau_min)(1 + cos(pi e / t_max)), t_max = 200, tau in [.1, 1]
    golden = {0: 1.0, 50: 0.868198, 100: 0.55, 200: 0.1, 300: 0.55, 400: 1.0, 500: 0.55}
    schedule = schemes.cosine_schedule()
    for epoch, tau in golden.items():
        np.testing.assert_allclose(schedule(epoch), tau, rtol=1e-6)


def test_macl_follows_the_mean_positive_similarity():
    # tau0 (1 + alpha (A - A0)); -sg[1 / (1 - P)] ln P
    positive = np.mean(np.sum(oracles.unit(A) * oracles.unit(B), axis=1))
    scheme = schemes.macl(tau=0.1, alpha=0.5, threshold=0.2)
    temperature = scheme.resolve(scheme.init(), VIEWS)
    np.testing.assert_allclose(temperature.tau, 0.1 * (1 + 0.5 * (positive - 0.2)), rtol=1e-5)
    tau = lambda a: scheme.resolve((), schemes.of_views(a, B32)).tau
    assert not np.any(jax.grad(tau)(A32))  # in a gradient it is a number
    p = np.array([0.9, 0.5, 1e-3])
    np.testing.assert_allclose(
        schemes.macl_reweight(jnp.float32(-np.log(p))), -np.log(p) / (1 - p), rtol=1e-5
    )
    slope = jax.grad(lambda loss: schemes.macl_reweight(loss).sum())(jnp.float32(-np.log(p)))
    np.testing.assert_allclose(slope, 1 / (1 - p), rtol=1e-5)
    assert np.isfinite(schemes.macl_reweight(jnp.zeros(1)))


@pytest.mark.parametrize("loss", [1e-30, 1e-12, 1e-8, 1e-7, 1e-3, 80.0])
def test_however_small_a_loss_it_is_weighed_by_the_formula(loss):
    weight = lambda x: -np.expm1(-np.float64(x))
    given = jnp.float32([loss])
    found, slope = jax.value_and_grad(lambda x: schemes.macl_reweight(x).sum())(given)
    np.testing.assert_allclose(found, loss / weight(loss), rtol=1e-5)
    np.testing.assert_allclose(slope, 1 / weight(loss), rtol=1e-5)
    found = schemes.dual_temperature_reweight(given, jnp.float32([1e-3]))
    np.testing.assert_allclose(found, loss * weight(1e-3) / weight(loss), rtol=1e-5)


def test_a_loss_that_is_rounded_or_no_softmax_is_left_as_it_is():
    """Such as that of a mask, of one's own written as logsumexp, or without the positive."""
    for given in ([0.0, 1.0], [1e-45, 1.0], [-2.0, 1.0]):
        weighed = lambda x: schemes.macl_reweight(x)[0] + schemes.dual_temperature_reweight(x, x)[0]
        np.testing.assert_allclose(weighed(jnp.float32(given)), 2 * given[0], atol=1e-37)
        np.testing.assert_allclose(jax.grad(weighed)(jnp.float32(given))[0], 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["isogclr", "tempnet"])
def test_an_example_or_a_side_that_there_is_none_of_shows(name):
    make = {
        "isogclr": lambda n, **how: schemes.isogclr(n, **how),
        "tempnet": lambda n, **how: tempnet(num_examples=n, features=A32.shape[1], **how),
    }[name]
    scheme = make(4)
    inputs = schemes.of_views(A32[:3], B32[:3], example=jnp.array([3, 4, 0]))
    found = scheme.resolve(scheme.init(), inputs).log_mean
    np.testing.assert_array_equal(np.isnan(found), [False, True, False] * 2)
    # -1 is no example either, and not the last one; what is kept of the others stays.
    inputs = schemes.of_views(A32[:3], B32[:3], example=jnp.array([1, -1, 0]))
    before = scheme.init()
    found = scheme.resolve(before, inputs)
    np.testing.assert_array_equal(np.isnan(found.log_mean), [False, True, False] * 2)
    after = scheme.update(before, inputs, found)
    of_examples = lambda state: [x for x in jax.tree.leaves(state) if x.shape == (2, 4)]
    assert of_examples(after)
    for new, old in zip(of_examples(after), of_examples(before), strict=True):
        np.testing.assert_array_equal(new[:, 2:], old[:, 2:])
    scheme = make(9, sides=1)
    inputs = schemes.of_views(A32[:3], B32[:3], example=jnp.arange(3))
    found = scheme.resolve(scheme.init(), inputs).log_mean
    np.testing.assert_array_equal(np.isnan(found), [False] * 3 + [True] * 3)


def test_learned_scale_is_clamped_after_each_step():
    scheme = schemes.learned_scale(optax.sgd(0.1), max_scale=100.0)
    state = scheme.init()
    np.testing.assert_allclose(state[0], 2.6593, rtol=1e-4)  # ln(1 / 0.07)
    loss = lambda temperature: losses.clip(A32, B32, temperature=temperature).mean()
    temperature = scheme.resolve(state, None)
    gradient = jax.grad(loss)(temperature)
    expected = state[0] - 0.1 * gradient.log_scale
    np.testing.assert_allclose(scheme.update(state, None, gradient)[0], expected, rtol=1e-6)
    far = lambda sign: temperatures.Learned(jnp.float32(sign * 100.0))
    np.testing.assert_allclose(scheme.update(state, None, far(-1))[0], 4.6052, rtol=1e-4)
    assert scheme.update(state, None, far(1))[0] == 0


def test_learned_scale_and_bias_clamp_the_scale_alone():
    scheme = schemes.learned_scale_and_bias(optax.sgd(0.1))
    state = scheme.init()
    far = lambda sign: temperatures.LearnedWithBias(
        jnp.float32(sign * 100.0), bias=jnp.float32(sign * 200.0)
    )
    for sign, log_scale, bias in ((-1, np.log(100.0), 10.0), (1, 0.0, -30.0)):
        np.testing.assert_allclose(
            scheme.update(state, None, far(sign))[0], (log_scale, bias), rtol=1e-6
        )


@pytest.mark.parametrize("make", [schemes.learned_scale, schemes.learned_scale_and_bias])
@pytest.mark.parametrize("scale", [0.7, 150.0])
def test_a_learned_temperature_has_the_limits_of_its_scheme(make, scale):
    scheme = make(optax.sgd(0.1), log_scale=np.log(scale), min_scale=0.5, max_scale=200.0)
    np.testing.assert_allclose(scheme.resolve(scheme.init(), None).scale, scale, rtol=1e-6)


def test_a_scheme_says_how_the_loss_is_weighed():
    assert schemes.macl().reweight is schemes.macl_reweight
    assert schemes.fixed(0.1).reweight is None
    assert schemes.learned_scale(optax.sgd(0.1)).reweight is None


def test_whatever_a_loss_takes_as_a_temperature_is_a_scheme():
    scheme = schemes.macl()
    assert schemes.as_scheme(scheme) is scheme
    dynamic = temperatures.dystress()
    assert schemes.as_scheme(dynamic).resolve((), None) is dynamic
    resolved = schemes.as_scheme(lambda s: 0.1 + 0.1 * s * s).resolve((), None)
    np.testing.assert_allclose(resolved(jnp.float32(1.0)), 0.2, rtol=1e-6)


def tempnet(**how):
    few = {"features": 6, "num_examples": 8, "optimizer": optax.sgd(0.1), "hidden": 5}
    return schemes.tempnet(jax.random.key(0), **{**few, **how})


@pytest.mark.parametrize(
    ("old", "new"), [("Batch", "SchemeInputs"), ("cosine_oscillation", "cosine_schedule")]
)
def test_an_old_name_is_answered_with_the_new_one(old, new):
    with pytest.raises(AttributeError, match=f"no attribute '{old}': it is now called {new}"):
        getattr(schemes, old)
    assert hasattr(schemes, new)
    assert not hasattr(schemes, old)


class Isogclr:
    """The rule of iSogCLR in plain loops: one anchor at a time, the diagonal masked."""

    gamma, beta, rho, eta, clip, low, high = 0.8, 0.5, 0.4, 0.03, 3.0, 0.005, 1.0

    def __init__(self):
        self.s, self.u = {}, {}
        self.tau = {}

    def differences(self, views, i):
        """h of the negatives of anchor i: s_ij less the similarity of its positive."""
        z = oracles.unit(np.concatenate(views))
        s, p = z @ z[i], (i + len(z) // 2) % len(z)
        return np.delete(s, [i, p]) - s[p]

    def slope(self, views, index):
        n = len(index)
        slopes = {}
        for i in range(2 * n):
            who = i // n, index[i % n]
            tau = self.tau.setdefault(who, 0.1)
            h = self.differences(views, i)
            mean = np.mean(np.exp(h / tau))
            self.s[who] = (
                (1 - self.gamma) * self.s[who] + self.gamma * mean if who in self.s else mean
            )
            weighted = np.mean(np.exp(h / tau) / self.s[who] * h / tau)
            slopes[who] = np.log(self.s[who]) + self.rho - weighted
        return slopes

    def update(self, views, index):
        for who, slope in self.slope(views, index).items():
            clipped = np.clip(slope, -self.clip, self.clip)
            self.u[who] = (1 - self.beta) * self.u.get(who, 0.0) + self.beta * clipped
            self.tau[who] = np.clip(self.tau[who] - self.eta * self.u[who], self.low, self.high)


class IsogclrOfPairs(Isogclr):
    """Of images with texts: no anchor is compared with its own kind."""

    beta, rho, clip = 0.9, 6.0, 5.0

    @classmethod
    def of(cls, tau, inputs, rho=7.0):
        """The slopes of a first batch whose temperatures are these."""
        golden, n = cls(), len(tau) // 2
        index = np.asarray(inputs.example)[:n]
        golden.rho = rho
        golden.tau = {(i // n, index[i % n]): t for i, t in enumerate(np.float64(tau))}
        return golden.slope((A, B), index)

    def differences(self, views, i):
        images, texts = map(oracles.unit, views)
        n = len(images)
        s = texts @ images[i] if i < n else images @ texts[i - n]
        return np.delete(s, i % n) - s[i % n]


@pytest.mark.parametrize(
    ("golden", "how", "inputs_of"),
    [
        (Isogclr, {}, schemes.of_views),
        (IsogclrOfPairs, {"beta": 0.9, "rho": 6.0, "clip": 5.0}, schemes.of_image_text),
    ],
)
def test_isogclr_keeps_a_temperature_for_each_example(golden, how, inputs_of):
    scheme, golden = schemes.isogclr(9, **how), golden()
    state = scheme.init()
    update = jax.jit(
        lambda state, a, b, example: scheme.update(state, inputs_of(a, b, example=example), None)
    )
    batches = [([5, 0, 2, 7], 0), ([2, 5, 8, 1], 1), ([5, 2, 0, 8], 2)]
    for index, seed in batches:
        views = np.random.default_rng(seed).standard_normal((2, 4, 6))
        state = update(state, *jnp.float32(views), jnp.array(index))
        golden.update(views, index)
    for (view, example), tau in golden.tau.items():
        np.testing.assert_allclose(state.tau[view, example], tau, rtol=1e-4)
    untouched = [3, 4, 6]
    np.testing.assert_allclose(state.tau[:, untouched], 0.1)
    order = scheme.resolve(state, schemes.of_views(A32, B32, example=jnp.array([8, 3, 5, 2])))
    np.testing.assert_array_equal(order.tau, state.tau[:, jnp.array([8, 3, 5, 2])].reshape(-1))
    assert losses.nt_xent(A32, B32, temperature=order).shape == (8,)


def test_each_side_may_have_a_network_of_its_own():
    """The two learn as two networks do that see the anchors of their side only."""
    scheme = tempnet(num_examples=9, networks=2)
    inputs = schemes.of_image_text(A32, B32, example=jnp.array([5, 0, 2, 7]))
    state = scheme.init()
    found, after = jax.jit(
        lambda state: (scheme.resolve(state, inputs).tau, scheme.update(state, inputs, None))
    )(state)
    slopes = np.float64([*IsogclrOfPairs.of(found, inputs).values()])
    for side, of_side in enumerate((slice(0, 4), slice(4, 8))):
        alone = tempnet(num_examples=9)
        mine = jax.tree.map(lambda leaf, side=side: leaf[side], state[0])
        seen = inputs._replace(
            **{name: getattr(inputs, name)[of_side] for name in ("anchors", "example", "side")}
        )
        tau = lambda params, alone=alone, seen=seen: (
            alone.resolve((params, None, state[2]), seen).tau
        )
        np.testing.assert_allclose(tau(mine), found[of_side], rtol=1e-5)
        slope = jax.grad(lambda params, tau=tau, s=slopes[of_side]: (tau(params) * s).mean())(mine)
        moved = jax.tree.map(lambda new, old, side=side: new[side] - old, after[0], mine)
        for name in slope:
            np.testing.assert_allclose(moved[name], -0.1 * slope[name], rtol=2e-3, atol=1e-6)
    assert not np.allclose(*state[0]["kernel"])
    with pytest.raises(ValueError, match="networks: found 3; allowed: 1, or `sides` = 2"):
        tempnet(networks=3)


@pytest.mark.ci
def test_tempnet_predicts_and_learns_by_its_rule():
    scheme = tempnet(num_examples=9, prototypes=16)
    state = scheme.init()
    params = {k: np.float64(v) for k, v in state[0].items()}

    def tau(params):
        sigmoid = lambda x: 1 / (1 + np.exp(-x))
        z = sigmoid(oracles.unit(np.concatenate([A, B])) @ params["kernel"] + params["bias"])
        match = z @ oracles.unit(params["prototypes"]).T
        e = np.exp(match / np.exp(params["log_softness"]))
        softmax = e / e.sum(1, keepdims=True)
        inner = (softmax - 1 / 16) * sigmoid(match)
        return 0.005 + 0.045 * sigmoid(inner @ params["weights"] + params["offset"])

    np.testing.assert_allclose(
        jax.jit(lambda s: scheme.resolve(s, VIEWS))(state).tau, tau(params), rtol=1e-3
    )
    golden = Isogclr()
    golden.rho = 7.0
    index = np.array(VIEWS.example)[:4]
    golden.tau = {(i // 4, index[i % 4]): t for i, t in enumerate(tau(params))}
    slopes = np.array(list(golden.slope((A, B), index).values()))
    step = 1e-4
    moved = lambda sign: tau(params | {"offset": params["offset"] + sign * step})
    slope = np.mean(slopes * (moved(1) - moved(-1)) / (2 * step))
    update = lambda views: jax.jit(lambda state: scheme.update(state, views, None))(state)
    after = update(VIEWS)
    np.testing.assert_allclose(after[0]["offset"], -0.1 * slope, rtol=2e-3)
    assert np.isfinite(after[2][:, index]).all()
    with_key = VIEWS._replace(key=jax.random.key(1))
    dropped = update(with_key)
    assert dropped[0]["offset"] != after[0]["offset"]
    # One mask: the running mean is that of the temperatures that the encoder's loss takes.
    tau = np.asarray(scheme.resolve(state, with_key).tau)
    assert np.abs(tau - scheme.resolve(state, VIEWS).tau).max() > 1e-6
    golden = Isogclr()
    golden.tau = {(i // 4, index[i % 4]): t for i, t in enumerate(tau)}
    golden.slope((A, B), index)
    log_mean = [np.log(golden.s[i // 4, index[i % 4]]) for i in range(8)]
    np.testing.assert_allclose(dropped[2][:, index].reshape(-1), log_mean, rtol=1e-3)


def test_tempnet_reads_directions_not_lengths():
    scheme = tempnet()
    short, long = (
        scheme.resolve(scheme.init(), schemes.of_views(k * A32, k * B32, example=jnp.arange(4)))
        for k in (1.0, 10.0)
    )
    np.testing.assert_allclose(short.tau, long.tau, rtol=1e-6)
    assert np.ptp(short.tau) > 1e-4


def authors_gradient(a, b, pairs, index, tau, before, gamma=0.8):
    """Of iSogCLR's losses.py, in NumPy: weights exp(h / tau) / s on h, both sides added.

    `pairs` are (anchor, its positive, its negatives) among the rows of a, then of b; `before` are
    the running means by side and example, which are moved.
    """
    x, n = np.concatenate([a, b]).astype(np.float64), len(index)
    z = oracles.unit(x)
    s, of_z = z @ z.T, np.zeros_like(z)
    for i, p, others in pairs:
        who = i // n, index[i % n]
        e = np.exp((s[i, others] - s[i, p]) / tau[i])
        before[who] = (1 - gamma) * before[who] + gamma * e.mean() if who in before else e.mean()
        weights = e / before[who] / len(others) / n  # the mean over the batch, sides added
        for weight, k in zip(weights, others, strict=True):
            of_z[i] += weight * (z[k] - z[p])
            of_z[k] += weight * z[i]
            of_z[p] -= weight * z[i]
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return (of_z - z * np.sum(z * of_z, axis=1, keepdims=True)) / length


def pairs_of_views(n):
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        yield i, p, [k for k in range(2 * n) if k not in (i, p)]


def pairs_of_image_text(n):
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        yield i, p, [k for k in range(n * (i < n), n * (i < n) + n) if k != p]


OF = {
    "views": (losses.rgcl, schemes.of_views, pairs_of_views, {}),
    "images and texts": (
        losses.clip_rgcl,
        schemes.of_image_text,
        pairs_of_image_text,
        {"networks": 2},
    ),
}


@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("name", ["isogclr", "tempnet"])
def test_rgcl_has_the_gradient_of_the_authors_loss_with_its_running_mean(name, of):
    loss, inputs_of, pairs, how = OF[of]
    scheme = {
        "isogclr": lambda: schemes.isogclr(9, tau_init=0.2),
        "tempnet": lambda: tempnet(num_examples=9, tau_min=0.1, tau_max=0.5, **how),
    }[name]()
    state, before = scheme.init(), {}

    @jax.jit
    def step(state, a, b, example):
        inputs = inputs_of(a, b, example=example, key=jax.random.key(0))
        temperature = scheme.resolve(state, inputs)
        mean = lambda both: loss(*both, temperature=temperature).mean()
        gradient = jnp.concatenate(jax.grad(mean)((a, b)))
        return scheme.update(state, inputs, None), gradient, temperature.tau

    for index, seed in [([5, 0, 2, 7], 0), ([2, 5, 8, 1], 1), ([5, 2, 0, 8], 2)]:
        views = np.random.default_rng(seed).standard_normal((2, 4, 6))
        views[1] += views[0]
        state, gradient, tau = step(state, *jnp.float32(views), jnp.array(index))
        expected = authors_gradient(*views, pairs(4), index, np.float64(tau), before)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["isogclr", "tempnet"])
def test_a_state_is_float32_where_float64_is_allowed_and_stays_so(name):
    scheme = {"isogclr": lambda: schemes.isogclr(9), "tempnet": lambda: tempnet(num_examples=9)}
    with jax.enable_x64(True):
        scheme = scheme[name]()
        views = jax.random.normal(jax.random.key(0), (2, 4, 6), jnp.float64)
        inputs = schemes.of_views(*views, example=jnp.arange(4), key=jax.random.key(0))
        before = jax.eval_shape(scheme.init)
        after = jax.eval_shape(lambda state: scheme.update(state, inputs, None), before)
    kinds = lambda state: [x.dtype for x in jax.tree.leaves(state)]
    assert kinds(after) == kinds(before)
    assert jnp.dtype(jnp.float64) not in kinds(before)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"example": None}, r"inputs\.example: found None"),
        ({"side": None}, r"inputs\.side: found None"),
        ({"decoupled": None}, r"inputs\.decoupled: found None"),
        ({"negatives": 0}, "with 0 negatives"),
    ],
)
def test_a_batch_that_lacks_what_a_scheme_learns_from_is_refused(missing, message):
    scheme = schemes.isogclr(9)
    with pytest.raises(ValueError, match=message):
        scheme.update(scheme.init(), VIEWS._replace(**missing), None)


def test_a_temperature_for_each_example_needs_the_examples():
    scheme = schemes.isogclr(9)
    with pytest.raises(ValueError, match=r"of_views\(view_a, view_b, example=\.\.\.\)"):
        scheme.resolve(scheme.init(), schemes.of_views(A32, B32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: schemes.cosine_schedule(0.5, 0.1),
            "tau_min: found 0.5; allowed: <= `tau_max` = 0.1",
        ),
        (lambda: schemes.cosine_schedule(half_period=0), "half_period: found 0; allowed: > 0"),
        (lambda: schemes.macl(alpha=2.0), r"alpha: found 2.0; allowed: in \[0, 1\]"),
        (
            lambda: schemes.learned_scale(optax.sgd(1.0), max_scale=1.0),
            "max_scale: found 1.0; allowed: more than `min_scale` = 1.0",
        ),
        (lambda: schemes.macl(tau=0.0), "tau: found 0.0; allowed: > 0"),
        (
            lambda: schemes.isogclr(4, tau_init=2.0),
            "tau_init: found 2.0; allowed: from `tau_min` = 0.005 to `tau_max` = 1.0",
        ),
        (lambda: schemes.isogclr(0), "num_examples: found 0; allowed: at least 1"),
        (lambda: schemes.isogclr(4, sides=3), "sides: found 3; allowed: 1 or 2"),
        (lambda: schemes.isogclr(4, rho=-0.1), "rho: found -0.1; allowed: at least 0"),
        (lambda: schemes.isogclr(4, gamma=0.0), r"gamma: found 0.0; allowed: in \(0, 1\]"),
        (lambda: schemes.isogclr(4, beta=1.5), r"beta: found 1.5; allowed: in \(0, 1\]"),
        (lambda: schemes.isogclr(4, clip=0.0), "clip: found 0.0; allowed: > 0"),
        (lambda: schemes.isogclr(4, learning_rate=0.0), "learning_rate: found 0.0; allowed: > 0"),
        (lambda: tempnet(features=0), "features: found 0; allowed: at least 1"),
        (lambda: tempnet(prototypes=0), "prototypes: found 0; allowed: at least 1"),
        (lambda: tempnet(gamma=2.0), r"gamma: found 2.0; allowed: in \(0, 1\]"),
        (lambda: tempnet(dropout=1.0), r"dropout: found 1.0; allowed: in \[0, 1\)"),
    ],
)
def test_a_bad_number_is_refused_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        schemes.cosine_schedule(0.1, 0.5),
        optax.cosine_decay_schedule(0.5, 100),
        optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 1, 9)], [5]),
    ],
)
def test_a_schedule_is_no_function_of_the_similarity(schedule, unchecked_shapes):
    """It would be called with similarities for steps, and stay where it begins."""
    with pytest.raises(TypeError, match=r"found a schedule, .* schemes\.scheduled\("):
        losses.nt_xent(A32, B32, temperature=schedule)
    scheme = schemes.scheduled(temperatures.constant, tau=schedule)
    assert losses.nt_xent(A32, B32, temperature=scheme.resolve(scheme.init(), None)).shape == (8,)
    with pytest.raises(TypeError, match=r"found Scheme\. .*scheme\.resolve\(state, inputs\)"):
        losses.nt_xent(A32, B32, temperature=scheme)
