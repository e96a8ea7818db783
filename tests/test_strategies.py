"""Every strategy equals the dense reference, in value and in every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, similarities, temperatures

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TILE = 8
LABELS = jnp.arange(64) % 5

LOSSES = {
    "nt_xent": losses.nt_xent,
    "dcl": losses.dcl,
    "dcl, two logarithms": functools.partial(losses.dcl, joint=False),
    "dclw": losses.dclw,
    "supcon": lambda a, b, **how: losses.supcon(a, b, LABELS[: len(a)], **how),
    "info_nce": losses.info_nce,
    "info_nce, more keys than queries": lambda a, b, **how: losses.info_nce(
        a[: len(a) // 2], b, positives=jnp.arange(len(a) // 2)[::-1], **how
    ),
    "clip": losses.clip,
    "clip, oblique": functools.partial(losses.clip, similarity=similarities.oblique(2)),
    "moco": lambda a, b, **how: losses.moco(a[:9], b[:9], b[9:], **how),
}
TEMPERATURES = {
    "constant": temperatures.constant(0.1),
    "too low for one pass": temperatures.constant(0.004),
    "dystress": temperatures.dystress(0.07, 0.2),
    "dystress, differentiated through": temperatures.dystress(0.07, 0.2, stop_gradient=False),
    "shifted": temperatures.shifted_dystress(0.1, 0.2, stop_gradient=False),
    "separate": temperatures.separate(0.1, temperatures.dystress(0.1, 0.3)),
    "temperature free": temperatures.temperature_free(),
    "function": lambda s: 0.1 + 0.05 * s * s,
}


def _views(n, d=6, dtype=None, seed=0):
    a, b = jax.random.normal(jax.random.key(seed), (2, n, d), dtype)
    return a, a + b  # positives that are closer than negatives, as in training


def _value_and_gradients(loss, views, kinds, **how):
    """Values, and gradients to embeddings and leaves, for each temperature, in one program."""

    def weighted(views, temperature):
        value = loss(*views, temperature=temperature, **how)
        return jnp.sum(value * jnp.cos(jnp.arange(value.size, dtype=value.dtype))), value

    def both(views, kinds):
        result = {}
        for name, temperature in kinds.items():
            leaves = isinstance(temperature, temperatures.Temperature)
            if leaves:
                temperature = jax.tree.map(lambda x: jnp.asarray(x, views[0].dtype), temperature)
            grad = jax.grad(weighted, argnums=(0, 1) if leaves else 0, has_aux=True)
            result[name] = grad(views, temperature)
        return result

    return jax.jit(functools.partial(both, kinds=kinds))(views)


def _assert_equal(result, expected, rtol):
    """Equal relative to the largest entry of each array."""
    flat, _ = jax.tree.flatten_with_path(expected)
    for (path, b), a in zip(flat, jax.tree.leaves(result), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        assert error <= rtol, f"{jax.tree_util.keystr(path)}: {error:.1e}"


@pytest.mark.parametrize("name", LOSSES)
def test_tiled_equals_dense_in_float64(name):
    with jax.enable_x64(True):
        views = _views(21, dtype=jnp.float64)  # three ragged tiles of 7, six of 7 for two views
        expected = _value_and_gradients(LOSSES[name], views, TEMPERATURES, strategy="dense")
        result = _value_and_gradients(
            LOSSES[name], views, TEMPERATURES, strategy="tiled", tile_size=TILE
        )
    _assert_equal(result, expected, 1e-12)


@pytest.mark.parametrize("n", [2, 3, 8, 37])
def test_tiled_equals_dense_in_float32_at_any_size(n):
    kinds = {name: TEMPERATURES[name] for name in ("constant", "dystress")}
    for loss in (losses.nt_xent, losses.info_nce):
        expected = _value_and_gradients(loss, _views(n), kinds, strategy="dense")
        result = _value_and_gradients(loss, _views(n), kinds, strategy="tiled", tile_size=TILE)
        _assert_equal(result, expected, 2e-6)
