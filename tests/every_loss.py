"""Every public loss with every keyword that its values depend on: one table for many tests."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dystress_jax import losses, similarities, temperatures

D, K = 4, 5  # length of a row, and further negatives or rows of a queue
ELSEWHERE = ("strategy", "tile_size", "axis_name", "temperature", "normalize", "precision")


class Case(NamedTuple):
    """A loss of some rows.

    Attributes:
        loss: with the options that are no arrays.
        arrays: by position.
        numbers: by keyword, of which gradients are taken.
        fixed: further arrays by keyword.
        keywords: the options, for whoever counts them.
    """

    loss: Any
    arrays: tuple
    numbers: dict
    fixed: dict
    keywords: frozenset


def _random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def _views(n, k=2):
    first, *others = _random(k, n, D)
    return (first, *(first + other for other in others))


def _weights(*shape):
    """Some of them 0: these pairs are left out."""
    random = np.random.default_rng(1)
    kept = random.random(shape) > 0.2
    return jnp.asarray(random.uniform(0.2, 3.0, shape) * kept, jnp.float32)


def _real(n, *fill):
    return jnp.asarray(~np.isin(np.arange(n), fill))


def _dynamic():
    numbers = temperatures.dystress(0.1, 0.3, stop_gradient=False)
    return jax.tree.map(jnp.float32, numbers)


MARGIN = {"similarity": similarities.sphere.with_angular_margin(0.3)}
SMOOTH = {"label_smoothing": jnp.float32(0.2)}
FURTHER = {"negatives": _random(K, D, seed=7)}
SOME = {"where_negatives": _real(K, 1)}


def _case(loss, arrays, numbers=None, fixed=None, temperature=None, **options):
    numbers = (numbers or {}) | (temperature or {"temperature": _dynamic()})
    keywords = frozenset({*numbers, *(fixed or {}), *options})
    return Case(functools.partial(loss, **options), arrays, numbers, fixed or {}, keywords)


def _positives(n, m):
    """Two keys of each query, in the order given."""
    return jnp.stack([jnp.arange(n), (jnp.arange(n) + 3) % m], axis=1).astype(jnp.int32)


def _per_example(n):
    tau, log_u = jnp.linspace(0.1, 0.3, 2 * n), jnp.linspace(-1.0, 1.0, 2 * n)
    return {"temperature": temperatures.PerExample(tau, log_u)}


def _by_label(n):
    return jnp.arange(n, dtype=jnp.int32) % 3


def _labels_of_both(n, m):
    return (_by_label(n), jnp.arange(m, dtype=jnp.int32) % 4)


SIGMOID = {"scale": jnp.float32(6.0), "bias": jnp.float32(-3.0)}
QUEUE = _random(K, D, seed=5)
# Of the number of rows: what the loss is called with.
CASES = {
    "nt_xent": lambda n: _case(losses.nt_xent, _views(n)),
    "nt_xent, every shape": lambda n: _case(
        losses.nt_xent,
        _views(n),
        {"weights": _weights(2 * n, 2 * n), **SMOOTH, **FURTHER},
        {"where": _real(n, 2), **SOME},
        **MARGIN,
    ),
    "nt_xent, three views": lambda n: _case(
        losses.nt_xent,
        (jnp.stack(_views(n, 3)),),
        {"weights": _weights(3 * n, 3 * n), **SMOOTH, **FURTHER},
        {"where": _real(n, 2), **SOME},
        **MARGIN,
    ),
    "nt_xent, global and local": lambda n: _case(
        losses.nt_xent, (jnp.stack(_views(n, 4)),), global_views=2
    ),
    "dcl": lambda n: _case(losses.dcl, _views(n)),
    "dcl, every shape": lambda n: _case(
        losses.dcl,
        _views(n),
        {"weights": _weights(2 * n), **FURTHER},
        {"where": _real(n, 2), **SOME},
        **MARGIN,
    ),
    "dcl, own view": lambda n: _case(losses.dcl, _views(n), own_view=True),
    "dcl, two logarithms": lambda n: _case(
        losses.dcl,
        _views(n),
        {"weights": _weights(2 * n, 2 * n)},
        {"where": _real(n, 2)},
        joint=False,
    ),
    "dclw": lambda n: _case(losses.dclw, _views(n)),
    "dclw, every shape": lambda n: _case(
        losses.dclw,
        _views(n),
        {"weights": _weights(2 * n, 2 * n), **FURTHER},
        {"where": _real(n, 2), **SOME},
        sigma=0.7,
        **MARGIN,
    ),
    "rgcl": lambda n: _case(losses.rgcl, _views(n), temperature=_per_example(n)),
    "rgcl, every shape": lambda n: _case(
        losses.rgcl,
        _views(n),
        {"weights": _weights(2 * n), **FURTHER},
        {"where": _real(n, 2), **SOME},
        temperature=_per_example(n),
        **MARGIN,
    ),
    "supcon": lambda n: _case(losses.supcon, (*_views(n), _by_label(n))),
    "supcon, every shape": lambda n: _case(
        losses.supcon,
        (*_views(n), _random(n, 3, seed=3) > 0),
        {"weights": _weights(2 * n, 2 * n), **SMOOTH, **FURTHER},
        {"where": _real(n, 2), **SOME},
        **MARGIN,
    ),
    "info_nce": lambda n: _case(losses.info_nce, _views(n)),
    "info_nce, decoupled": lambda n: _case(losses.info_nce, _views(n), decoupled=True),
    "info_nce, more keys": lambda n: _case(
        losses.info_nce,
        (_views(n)[0], _views(2 * n)[1]),
        {"weights": _weights(n, 2 * n), **SMOOTH, **FURTHER},
        {"where": _real(n, 2), "where_keys": _real(2 * n, 2, n + 1), **SOME},
        **MARGIN,
    ),
    "info_nce, positives": lambda n: _case(
        losses.info_nce,
        (_views(n)[0], _views(2 * n)[1]),
        {"weights": _weights(2 * n), **SMOOTH},
        {"positives": _positives(n, 2 * n), "where_keys": _real(2 * n, 2, n + 1)},
    ),
    "moco": lambda n: _case(losses.moco, (*_views(n), QUEUE)),
    "moco, every shape": lambda n: _case(
        losses.moco,
        (*_views(n), QUEUE),
        {"weights": _weights(n, K), **SMOOTH},
        {"where": _real(n, 2), "where_queue": _real(K, 1)},
        **MARGIN,
    ),
    "moco, decoupled": lambda n: _case(losses.moco, (*_views(n), QUEUE), decoupled=True),
    "clip": lambda n: _case(losses.clip, _views(n)),
    "clip, every shape": lambda n: _case(
        losses.clip,
        _views(n),
        {"weights": _weights(n, n), "negatives": (QUEUE, QUEUE + 1), **SMOOTH},
        {
            "where": _real(n, 2),
            "where_texts": _real(n, 2, 3),
            "where_negatives": (_real(K, 1), None),
        },
        **MARGIN,
    ),
    "clip, more texts": lambda n: _case(losses.clip, (_views(n)[0], _views(2 * n)[1]), FURTHER),
    "clip, labels": lambda n: _case(
        losses.clip, _views(n), {"weights": _weights(n), **FURTHER}, {"labels": _by_label(n)}
    ),
    "clip, labels of both": lambda n: _case(
        losses.clip,
        (_views(n)[0], _views(2 * n)[1]),
        FURTHER,
        {"labels": _labels_of_both(n, 2 * n), "where_texts": _real(2 * n, 2)},
    ),
    "clip, one for each anchor": lambda n: _case(
        losses.clip, _views(n), temperature={"temperature": jnp.linspace(0.1, 0.3, 2 * n)}
    ),
    "clip_rgcl": lambda n: _case(losses.clip_rgcl, _views(n), temperature=_per_example(n)),
    "clip_rgcl, every shape": lambda n: _case(
        losses.clip_rgcl,
        (_views(n)[0], _views(2 * n)[1]),
        {"negatives": (QUEUE, QUEUE + 1)},
        {
            "where": _real(n, 2),
            "where_texts": _real(2 * n, 2, 3, n + 1),
            "where_negatives": (_real(K, 1), None),
        },
        temperature=_per_example(n),
        **MARGIN,
    ),
    "siglip": lambda n: _case(losses.siglip, _views(n), temperature=SIGMOID),
    "siglip, every shape": lambda n: _case(
        losses.siglip,
        (_views(n)[0], _views(2 * n)[1]),
        {"weights": _weights(n, 2 * n)},
        {
            "labels": _labels_of_both(n, 2 * n),
            "where": _real(n, 2),
            "where_texts": _real(2 * n, 2, n + 1),
        },
        temperature=SIGMOID,
        **MARGIN,
    ),
}
PLAIN = tuple(name for name in CASES if "," not in name)


def with_gradients(loss):
    """(arrays, numbers, fixed) -> weighted sum, values and all gradients, compiled."""

    def weighted(arrays, numbers, fixed):
        value = loss(*arrays, **numbers, **fixed)
        return jnp.sum(value * jnp.linspace(0.5, 1.5, value.size, dtype=value.dtype)), value

    return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True, allow_int=True))


def assert_same(found, expected, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if x.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-30))


@functools.cache
def dense(name, n):
    """The case, and what is expected of it."""
    case = CASES[name](n)
    loss = with_gradients(functools.partial(case.loss, strategy="dense"))
    return case, loss(case.arrays, case.numbers, case.fixed)
