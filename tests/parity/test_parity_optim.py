"""Optimisers beside torch, lightly and MoCo v3: five steps under a rising and falling rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dystress_jax import optim
from tests.parity.golden import golden


def after_five_steps(optimizer, params, gradients):
    """In float64; `optimizer` takes the schedule."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(params)
        for step in range(5):
            gradient = jax.tree.map(lambda g, step=step: jnp.asarray(g[step]), gradients)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(np.asarray, params)


def schedule_of(rates):
    return lambda step: jnp.asarray(np.float64(rates))[step]


def assert_equal(found, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-7, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda rate: optim.sgd(rate, momentum=0.9, weight_decay=0.05)),
        ("sgd_without_momentum", lambda rate: optim.sgd(rate, momentum=0.0, weight_decay=0.05)),
        ("adamw", lambda rate: optim.adamw(rate, weight_decay=0.05)),
    ],
)
def test_sgd_and_adamw_are_those_of_torch(name, make):
    stored = golden("torch")
    optimizer = make(schedule_of(stored["rates"]))
    assert_equal(after_five_steps(optimizer, stored["params"], stored["gradients"]), stored[name])


@pytest.mark.parametrize("form", ["lightly", "moco_v3"])
def test_lars_is_that_of_its_source(form):
    stored = golden(form)["lars"]
    optimizer = optim.lars(schedule_of(stored["rates"]), weight_decay=0.01, form=form)
    found = after_five_steps(optimizer, stored["params"], stored["gradients"])
    assert_equal(found, stored["after"])
    others = set(optim.LARS_FORMS) - {form}
    for other in others:
        optimizer = optim.lars(schedule_of(stored["rates"]), weight_decay=0.01, form=other)
        changed = after_five_steps(optimizer, stored["params"], stored["gradients"])
        assert np.abs(changed["kernel"] - found["kernel"]).max() > 1e-6


def test_the_cosine_by_the_epoch_is_that_of_torch():
    expected = golden("torch")["cosine"]
    schedule = optim.warmup_cosine(0.2, total_steps=6 * 4, interval=4)
    found = [float(schedule(step)) for step in range(24)]
    np.testing.assert_allclose(found, np.repeat(expected, 4), rtol=1e-6)
