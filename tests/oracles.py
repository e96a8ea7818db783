"""The published formulas in float64 NumPy, written without any code of the package."""

import numpy as np


def dystress(s, tau_min, tau_max):
    return tau_min + 0.5 * (tau_max - tau_min) * (1 + np.cos(np.pi * (1 + s)))


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)


def nt_xent(view_a, view_b, tau, frozen=None):
    """-s_ip / tau + log sum_{k != i} exp(s_ik / tau), anchors in the order of the package.

    `tau` is a function of the similarity matrix; `frozen` are embeddings at which it is evaluated
    instead, which is what a stopped gradient means.
    """
    z = unit(np.concatenate([view_a, view_b]).astype(np.float64))
    s = z @ z.T
    at = s if frozen is None else unit(np.concatenate(frozen)) @ unit(np.concatenate(frozen)).T
    logits = s / tau(at)
    n = len(view_a)
    losses = []
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        losses.append(np.logaddexp.reduce(logits[i, others]) - logits[i, (i + n) % (2 * n)])
    return np.array(losses)


def info_nce(queries, keys, tau, positives, frozen=None):
    """-s_ip / tau + log sum_j exp(s_ij / tau)."""
    s = unit(queries.astype(np.float64)) @ unit(keys.astype(np.float64)).T
    at = s if frozen is None else unit(frozen[0]) @ unit(frozen[1]).T
    logits = s / tau(at)
    return np.array(
        [np.logaddexp.reduce(row) - row[p] for row, p in zip(logits, positives, strict=True)]
    )


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function."""
    result = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result
