# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What the types say to whoever uses the losses: pyright reads this file, and pytest runs it.

Where a line is ignored it is an error: pyright refuses the remark if it is none.
"""

import functools
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import pytest

from dystress_jax import losses, similarities, temperatures

KEYS = jnp.eye(4)
MESH = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))


def test_a_loss_is_an_array_on_a_mesh_too():
    on_all = losses.on_mesh(losses.info_nce, MESH, strategy="ring")
    assert_type(losses.info_nce(KEYS, KEYS, temperature=0.1), jax.Array)
    assert_type(on_all(KEYS, KEYS, temperature=0.1), jax.Array)


def test_statistics_are_statistics_on_a_mesh_too():
    of_loss = functools.partial(losses.statistics, losses.siglip)
    found = losses.on_mesh(of_loss, MESH)(KEYS, KEYS, scale=1.0, bias=0.0)
    assert_type(found, losses.Statistics)
    assert_type(found.negatives, losses.Kind)
    assert_type(found.negatives.tau, losses.Spread)


def test_a_loss_of_ones_own_hands_its_strategy_on():
    def mine(a: jax.Array, b: jax.Array, **how: Any) -> jax.Array:
        return losses.info_nce(a, b, **how)

    def alone(a: jax.Array, b: jax.Array) -> jax.Array:
        return a @ b

    assert_type(losses.on_mesh(mine, MESH)(KEYS, KEYS, temperature=0.1), jax.Array)
    assert_type(losses.statistics(mine, KEYS, KEYS, temperature=0.1), losses.Statistics)
    with pytest.raises(ValueError, match="the keyword strategy"):
        losses.on_mesh(alone, MESH)  # pyright: ignore[reportArgumentType]


def test_a_temperature_keeps_its_class():
    assert_type(temperatures.constant(0.1), temperatures.Constant)
    assert_type(temperatures.as_temperature(temperatures.dystress()), temperatures.Dystress)
    number = temperatures.as_temperature(0.1)
    assert_type(number, temperatures.Constant | temperatures.PerAnchor)
    assert isinstance(number, temperatures.Constant)
    function = temperatures.as_temperature(lambda s: 0.1 + s * s)
    assert_type(function, temperatures.Temperature)


@pytest.mark.parametrize(
    ("make", "public"),
    [
        (lambda: temperatures.per_anchor(jnp.ones(2)), temperatures.PerAnchor),
        (lambda: temperatures.dystress(), temperatures.Dystress),
        (lambda: temperatures.shifted_dystress(), temperatures.ShiftedDystress),
        (lambda: temperatures.linear(), temperatures.Linear),
        (lambda: temperatures.monotone_cosine(), temperatures.MonotoneCosine),
        (lambda: temperatures.temo(), temperatures.Temo),
        (lambda: temperatures.exponential(), temperatures.Exponential),
        (lambda: temperatures.learned(1.0), temperatures.Learned),
        (lambda: temperatures.temperature_free(), temperatures.TemperatureFree),
        (lambda: temperatures.separate(0.1, 0.2), temperatures.Separate),
        (lambda: temperatures.hard_negatives(0.1), temperatures.Separate),
        (lambda: temperatures.uncertainty(jnp.ones(2)), temperatures.PerAnchor),
    ],
)
def test_what_a_function_makes_has_a_public_class(make, public):
    assert isinstance(make(), public)
    assert public.__name__ in temperatures.__all__


def test_strategies_are_values_of_public_classes():
    assert_type(losses.dense(), losses.Dense)
    assert_type(losses.tiled(4), losses.Tiled)
    assert_type(losses.gathered("data", within=losses.dense()), losses.Gathered)
    assert_type(losses.ring("data", tile=(2, 4)), losses.Ring)


def test_words_that_are_none_are_errors(unchecked_shapes):
    with pytest.raises(ValueError, match="strategy"):
        losses.info_nce(KEYS, KEYS, temperature=0.1, strategy="rings")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="strategy"):
        losses.on_mesh(losses.clip, MESH, strategy="rings")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="precision"):
        similarities.sphere.with_precision("float16")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="normalise"):
        losses.clip(KEYS, KEYS, temperature=0.1, normalise=False)  # pyright: ignore[reportCallIssue]
