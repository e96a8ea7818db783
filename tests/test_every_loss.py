"""Every loss, in every strategy, on any number of devices, is the dense loss."""

import functools
import inspect

import jax
import numpy as np
import pytest

from dystress_jax import losses, similarities
from tests import every_loss

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

ROWS, TILE = 5, 3  # of each device: neither these nor those of two views fill their tiles


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), auto, devices=jax.devices()[:devices])


def is_loss(name):
    function = getattr(losses, name)
    return inspect.isfunction(function) and "normalize" in inspect.signature(function).parameters


def test_the_table_has_every_loss_with_every_keyword():
    cases = {name: make(ROWS) for name, make in every_loss.CASES.items()}
    public = {name for name in dir(losses) if is_loss(name)}
    assert {name.split(",")[0] for name in cases} == public
    for name in public:
        parameters = inspect.signature(getattr(losses, name)).parameters.values()
        takes = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {*every_loss.ELSEWHERE}
        of_cases = [case.keywords for key, case in cases.items() if key.split(",")[0] == name]
        assert takes <= frozenset().union(*of_cases), name


QUICK = (("nt_xent, every shape", "ring", 3), ("rgcl, every shape", "tiled", 1))


def cases():
    """The plain losses on a ring of three, some with every keyword, and everything in ci.

    The ring, whose program is another with every number of devices, on all of them: the plain
    losses, and those with every keyword on the largest.
    """
    for name in every_loss.CASES:
        has_queue = name.startswith("moco")  # of which nothing travels
        for strategy in ("dense", "tiled") if has_queue else ("tiled", "gathered", "ring"):
            counts = (1, 2, 3, 8) if name in every_loss.PLAIN else (3,)
            if name.endswith("every shape"):
                counts = (3, 8)
            counts = counts if has_queue or strategy == "ring" else counts[::2]
            for devices in counts if has_queue or strategy != "tiled" else (1,):
                plain = name in every_loss.PLAIN and devices == 3 and strategy in ("dense", "ring")
                quick = plain or (name, strategy, devices) in QUICK
                marks = () if quick else pytest.mark.ci
                yield pytest.param(name, strategy, devices, marks=marks)


@pytest.mark.parametrize(("name", "strategy", "devices"), list(cases()))
def test_values_and_gradients_are_those_of_the_dense_loss(name, strategy, devices):
    """Of embeddings, temperatures, weights, further negatives, scale and bias."""
    case, expected = every_loss.dense(name, devices * ROWS)
    how = {"strategy": strategy, "tile_size": TILE}
    loss = losses.on_mesh(case.loss, make_mesh(devices), **how)
    if strategy == "tiled" and devices == 1:
        loss = functools.partial(case.loss, **how)
    found = every_loss.with_gradients(loss)(case.arrays, case.numbers, case.fixed)
    every_loss.assert_same(found, expected, 2e-5)


@pytest.mark.parametrize("name", every_loss.PLAIN)
def test_the_precision_is_that_of_the_similarity(name):
    case = every_loss.CASES[name](ROWS)
    call = lambda **how: case.loss(*case.arrays, **case.numbers, strategy="dense", **how)
    narrow = similarities.sphere.with_precision("bfloat16")
    found = call(precision="bfloat16")
    np.testing.assert_array_equal(found, call(similarity=narrow))
    assert np.any(np.asarray(found) != call())
