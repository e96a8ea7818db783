"""Optimisers against NumPy re-enactments, the rules and the schedule against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dystress_jax import optim
from dystress_jax.methods._tower import rising_momentum
from dystress_jax.run import from_config_dict
from dystress_jax.run._build import make_optimizer
from dystress_jax.run.experiment import Schedule

RATES = (0.1, 0.2, 0.3)  # a warm-up: the forms of LARS are the same at a constant rate


def problem():
    """Parameters of every kind, and the gradients of three steps."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv": {"kernel": (3, 3, 2, 4)},
        "norm": {"scale": (4,), "bias": (4,)},
        "linear": {"kernel": (4, 5), "bias": (5,)},
    }
    draw = lambda shape: rng.normal(size=shape)
    is_shape = lambda node: isinstance(node, tuple)
    params = jax.tree.map(draw, shapes, is_leaf=is_shape)
    gradients = [jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in RATES]
    return params, gradients


def run(optimizer, params, gradients):
    """Three steps in float64, where Adam's bias correction has no cancellation to forgive."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(np.asarray, params)


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)


def schedule(step):
    return jnp.asarray(RATES)[step]


def sgd(w, gradients, *, decay, momentum=0.9):
    v = np.zeros_like(w)
    for rate, g in zip(RATES, gradients, strict=True):
        v = momentum * v + g + decay * w
        w = w - rate * v
    return w


def norm(x):
    return np.sqrt((x**2).sum())


def trust_of_the_decayed(w, g, decay):
    """As moco-v3's optimizer.py and SimCLR's lars_optimizer.py have it, line by line."""
    u = g + decay * w
    trust = 0.001 * norm(w) / norm(u) if norm(w) > 0 and norm(u) > 0 else 1.0
    return trust * u


def trust_of_both_lengths(w, g, decay):
    """As lightly's lars.py has it, line by line."""
    if decay != 0 and norm(w) != 0 and norm(g) != 0:
        trust = norm(w) / (norm(g) + norm(w) * decay + 1e-8)
        return (g + decay * w) * (trust * 0.001)
    return g


def trust_up_to_the_rate(w, g, decay, rate):
    """As solo-learn's lars.py has it, line by line, with clip_lr and eta 0.02."""
    if norm(w) != 0 and norm(g) != 0:
        trust = norm(w) / (norm(g) + norm(w) * decay + 1e-8)
        trust *= 0.02
        trust = min(trust / rate, 1) if rate else 1
        return (g + decay * w) * trust
    return g


def lars(w, gradients, *, decay, form="moco_v3", momentum=0.9, rates=RATES):
    adapt = trust_of_both_lengths if form == "lightly" else trust_of_the_decayed
    v = np.zeros_like(w)
    for rate, g in zip(rates, gradients, strict=True):
        if form == "solo_learn":
            adapt = functools.partial(trust_up_to_the_rate, rate=rate)
        a = adapt(w, g, decay) if w.ndim > 1 else g
        if form == "simclr":
            v = momentum * v + rate * a
            w = w - v
        else:
            v = momentum * v + a
            w = w - rate * v
    return w


def adamw(w, gradients, *, decay, beta2=0.999, eps=1e-8):
    first, second = np.zeros_like(w), np.zeros_like(w)
    for step, (rate, g) in enumerate(zip(RATES, gradients, strict=True), start=1):
        first = 0.9 * first + 0.1 * g
        second = beta2 * second + (1 - beta2) * g**2
        adam = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - beta2**step)) + eps)
        w = w - rate * (adam + decay * w)
    return w


@pytest.mark.parametrize(
    ("name", "oracle", "keywords"),
    [
        ("sgd", sgd, {"weight_decay": 0.1}),
        ("lars", lars, {"weight_decay": 0.1}),
        *(
            ("lars", functools.partial(lars, form=form), {"weight_decay": 0.1, "form": form})
            for form in optim.LARS_FORMS
        ),
        ("adamw", adamw, {"weight_decay": 0.1}),
        *(
            ("adamw", functools.partial(adamw, **numbers), {"weight_decay": 0.1, **numbers})
            for numbers in ({"beta2": 0.98}, {"eps": 1e-2}, {"beta2": 0.0, "eps": 1.0})
        ),
    ],
)
def test_three_steps_equal_a_numpy_reenactment(name, oracle, keywords):
    params, gradients = problem()
    found = run(optim.OPTIMIZERS[name](schedule, **keywords), params, gradients)
    expected = jax.tree.map(lambda w, *g: oracle(w, g, decay=0.1), params, *gradients)
    assert_equal(found, expected)


@pytest.mark.parametrize("probe", [True, False])
def test_a_long_gradient_is_cut_before_weight_decay_and_without_the_probe(probe):
    settings = {"optimizer": {"clip_norm": 0.5, "weight_decay": 0.1}, "probe": {"online": probe}}
    params, gradients = problem()
    gradients[1] = jax.tree.map(lambda g: g / 100, gradients[1])  # short enough
    of_probe = {"kernel": np.ones((4, 2))}
    with_probe = lambda x: {**x, "probe": of_probe} if probe else x
    optimizer = make_optimizer(from_config_dict(settings), Schedule(1, len(RATES), schedule))
    found = run(optimizer, with_probe(params), [with_probe(g) for g in gradients])

    lengths = [np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g))) for g in gradients]
    assert [length > 0.5 for length in lengths] == [True, False, True]
    shares = [min(1, 0.5 / length) for length in lengths]
    cut = [
        jax.tree.map(lambda x, by=share: x * by, g)
        for g, share in zip(gradients, shares, strict=True)
    ]
    expected = jax.tree.map(lambda w, *g: sgd(w, g, decay=0.1), params, *cut)
    if probe:  # momentum 0.9, rate 0.1, steps of 1, 1.9 and 2.71, never cut
        expected["probe"] = jax.tree.map(lambda w: w - 0.1 * 5.61, of_probe)
    assert_equal(found, expected)


def test_sgd_without_momentum_is_plain_descent():
    params, gradients = problem()
    optimizer = optim.sgd(schedule, momentum=0.0, weight_decay=0.1)
    expected = jax.tree.map(lambda w, *g: sgd(w, g, decay=0.1, momentum=0.0), params, *gradients)
    found = run(optimizer, params, gradients)
    assert_equal(found, expected)


@pytest.mark.parametrize(("name", "oracle"), [("sgd", sgd), ("adamw", adamw)])
def test_decay_can_leave_vectors_alone(name, oracle):
    params, gradients = problem()
    optimizer = optim.OPTIMIZERS[name](schedule, weight_decay=0.1, decay_vectors=False)
    expected = jax.tree.map(
        lambda w, *g: oracle(w, g, decay=0.1 if w.ndim > 1 else 0.0), params, *gradients
    )
    found = run(optimizer, params, gradients)
    assert_equal(found, expected)


@pytest.mark.parametrize("form", optim.LARS_FORMS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("w", "g"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (2.0, 3.0)])
def test_lars_of_zeros_does_as_its_source(form, decay, w, g):
    w, gradients = np.full((2, 3), w), [np.full((2, 3), g)] * len(RATES)
    optimizer = optim.lars(schedule, weight_decay=decay, form=form)
    found = run(optimizer, {"kernel": w}, [{"kernel": gradient} for gradient in gradients])
    expected = lars(w, gradients, decay=decay, form=form)
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("rates", [(0.0, 0.01, 0.2), (0.02, 0.02, 0.02)])
def test_a_step_of_solo_learns_lars_is_at_most_that_of_sgd(rates):
    """At low rates, as in a warm-up, all layers have the rate itself, and decay."""
    params, gradients = problem()
    gradients = [jax.tree.map(lambda g: g / 100, gradient) for gradient in gradients]
    schedule = lambda step: jnp.asarray(rates)[step]
    found = run(optim.lars(schedule, weight_decay=0.1, form="solo_learn"), params, gradients)
    oracle = functools.partial(lars, decay=0.1, form="solo_learn", rates=rates)
    assert_equal(found, jax.tree.map(lambda w, *g: oracle(w, g), params, *gradients))
    # What is left of it is SGD with its decay of kernels.
    kernel, slope = params["conv"]["kernel"], gradients[0]["conv"]["kernel"]
    assert 0.02 * norm(kernel) / (norm(slope) + 0.1 * norm(kernel)) > min(rates)


def test_the_forms_of_lars_part_in_a_warm_up_and_only_there():
    params, gradients = problem()
    change = lambda schedule, form: jax.tree.map(
        lambda new, old: np.linalg.norm(new - old),
        run(optim.lars(schedule, form=form), params, gradients),
        params,
    )["conv"]["kernel"]
    assert change(schedule, "simclr") < 0.9 * change(schedule, "moco_v3")
    assert change(0.1, "simclr") == pytest.approx(change(0.1, "moco_v3"), rel=1e-9)


@pytest.mark.parametrize(
    ("rule", "base", "batch_size", "expected"),
    [
        ("constant", 0.2, 128, 0.2),
        ("linear", 0.3, 4096, 4.8),
        ("linear", 0.1, 256, 0.1),
        ("sqrt", 0.075, 256, 1.2),
        ("sqrt", 0.075, 4096, 4.8),
    ],
)
def test_learning_rate(rule, base, batch_size, expected):
    assert optim.learning_rate(rule, base, batch_size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("warmup", "final"), [(0, 0.0), (0, 0.1), (1, 0.0), (10, 0.0), (10, 0.2), (29, 0.1)]
)
def test_schedule_equals_its_formula_at_every_step(warmup, final):
    total, peak = 30, 1.7
    steps = np.arange(total + 5)
    schedule = optim.warmup_cosine(peak, total_steps=total, warmup_steps=warmup, final=final)
    found = jax.vmap(schedule)(jnp.asarray(steps))
    phase = np.clip((steps - warmup) / (total - warmup), 0, 1)
    expected = np.where(
        steps < warmup,
        peak * steps / max(warmup, 1),
        final + (peak - final) / 2 * (1 + np.cos(np.pi * phase)),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 7])
def test_a_schedule_by_the_epoch_is_pytorchs_between_epochs_and_rises_by_the_step(warmup):
    epochs, steps_per_epoch, peak = 6, 5, 1.7
    total = epochs * steps_per_epoch
    schedule = optim.warmup_cosine(
        peak, total_steps=total, warmup_steps=warmup, interval=steps_per_epoch
    )
    found = [float(schedule(jnp.asarray(step))) for step in range(total)]
    expected = []
    for step in range(total):
        epoch_start = max(step // steps_per_epoch * steps_per_epoch, warmup)
        phase = (epoch_start - warmup) / (total - warmup)
        cosine = peak / 2 * (1 + np.cos(np.pi * phase))
        expected.append(peak * step / warmup if step < warmup else cosine)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    if not warmup:  # CosineAnnealingLR(T_max=6), stepped after each epoch
        torch = [peak * (1 + np.cos(np.pi * epoch / 6)) / 2 for epoch in range(epochs)]
        np.testing.assert_allclose(found[::steps_per_epoch], torch, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.sgd(0.1, momentum=1.0), r"momentum: found 1.0; allowed: in \[0, 1\)"),
        (lambda: optim.adamw(0.1, weight_decay=-1.0), "weight_decay: found -1.0"),
        (lambda: optim.adamw(0.1, beta2=1.0), r"beta2: found 1\.0; allowed: in \[0, 1\)"),
        (lambda: optim.adamw(0.1, eps=0.0), r"eps: found 0\.0; allowed: above 0"),
        (lambda: optim.lars(0.1, form="google"), "form: found 'google'; allowed: moco_v3, lightly"),
        (lambda: optim.lars(0.1, momentum=-0.1), "momentum: found -0.1"),
        (lambda: optim.learning_rate("cubic", 0.1, 8), "rule: found 'cubic'; .*linear, sqrt"),
        (lambda: optim.learning_rate("linear", 0.0, 8), "base: found 0.0; allowed: above 0"),
        (lambda: optim.learning_rate("linear", 0.1, 0), "batch_size: found 0; allowed: at least 1"),
        (lambda: optim.warmup_cosine(0.0, total_steps=9), "peak: found 0.0; allowed: above 0"),
        (lambda: optim.warmup_cosine(1.0, total_steps=9, final=2.0), "final: found 2.0"),
        (lambda: optim.warmup_cosine(1.0, total_steps=5, warmup_steps=5), "5 in a run of 5 steps"),
        (lambda: optim.warmup_cosine(1.0, total_steps=0), "found 0 in a run of 0 steps"),
        (lambda: optim.warmup_cosine(1.0, total_steps=5, warmup_steps=-1), "found -1 in a run"),
        (lambda: optim.warmup_cosine(1.0, total_steps=5, interval=0), "interval: found 0; allowed"),
        (lambda: optim.every(0, lambda step: step), "interval: found 0; allowed"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_take_whole_steps_under_strict_promotion(warmup):
    schedule = optim.warmup_cosine(0.5, total_steps=30, warmup_steps=warmup, interval=4)
    rising = rising_momentum(0.9, 30)
    expected = [(schedule(step), rising(step)) for step in range(31)]
    with jax.numpy_dtype_promotion("strict"):
        found = [(schedule(jnp.int32(step)), rising(jnp.int32(step))) for step in range(31)]
    np.testing.assert_array_equal(found, expected)
