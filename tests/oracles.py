"""The published formulas in float64 NumPy, written without any code of the package."""

import numpy as np


def dystress(s, tau_min, tau_max):
    return tau_min + 0.5 * (tau_max - tau_min) * (1 + np.cos(np.pi * (1 + s)))


def shifted_dystress(s, tau_min, tau_max, shift=-0.4, width=0.7):
    below = tau_min + 0.5 * (tau_max - tau_min) * (1 + np.cos(np.pi * (s + shift) / width))
    return np.where(s <= -shift, below, tau_max)


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


def nt_xent_gradient(view_a, view_b, tau):
    """The gradients of the mean loss at a constant temperature: (softmax - target) z / tau.

    A row of zeros stays where it is and gets none.
    """
    x = np.concatenate([view_a, view_b]).astype(np.float64)
    z, n = unit(x), len(view_a)
    logits = z @ z.T / tau
    np.fill_diagonal(logits, -np.inf)
    softmax = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    slope = (softmax - np.roll(np.eye(2 * n), n, axis=1)) / (2 * n * tau)
    of_z = (slope + slope.T) @ z
    length = np.linalg.norm(x, axis=1, keepdims=True)
    of_x = (of_z - z * np.sum(z * of_z, axis=1, keepdims=True)) / np.where(length > 0, length, 1)
    return np.where(length > 0, of_x, 0).reshape(2, n, -1)


def assert_nt_xent(value, gradient, view_a, view_b, tau):
    """Value and gradient of the mean are those of the oracle, as far as float32 logits allow."""
    assert value.dtype == np.float32
    exact = [np.asarray(view, np.float64) for view in (view_a, view_b)]
    # A cosine has a relative error of a few 2^-24, a logit the same relative to 1 / tau.
    rounding = 8 * 2**-24 / tau
    expected = nt_xent(*exact, lambda s: tau + 0 * s)
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=rounding)
    for result, slope, view in zip(gradient, nt_xent_gradient(*exact, tau), exact, strict=True):
        assert result.dtype == view_a.dtype
        # The gradient is a weight, with the error of its logit, over tau and the row's length.
        lengths = np.linalg.norm(view, axis=1)
        scale = 1 / (len(value) * tau * np.where(lengths > 0, lengths, 1).min())
        last_place = {"float32": 2**-20, "float16": 2**-11, "bfloat16": 2**-8}[str(view_a.dtype)]
        np.testing.assert_allclose(
            np.asarray(result, np.float64), slope, rtol=last_place, atol=rounding * scale + 2**-24
        )


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


def _log_sum(logits):
    return np.logaddexp.reduce(logits)


def _views(view_a, view_b, tau):
    """Logits and similarities of the 2n views, and for each anchor its positive and negatives."""
    z, n = unit(np.concatenate([view_a, view_b])), len(view_a)
    s = z @ z.T
    pairs = [(i, (i + n) % (2 * n)) for i in range(2 * n)]
    return s / tau(s), s, [(i, p, [k for k in range(2 * n) if k not in (i, p)]) for i, p in pairs]


def dcl(view_a, view_b, tau):
    """Yeh et al.: one logarithm over the 2n - 2 negatives."""
    logits, _, anchors = _views(view_a, view_b, tau)
    return np.array([_log_sum(logits[i, rest]) - logits[i, p] for i, p, rest in anchors])


def dhel(view_a, view_b, tau):
    """-l_ip + the logarithm of the sum over the other examples in the view of the anchor."""
    logits, _, anchors = _views(view_a, view_b, tau)
    own = lambda i, rest: [k for k in rest if (k < len(view_a)) == (i < len(view_a))]
    return np.array([_log_sum(logits[i, own(i, rest)]) - logits[i, p] for i, p, rest in anchors])


def dcl_two_logarithms(view_a, view_b, tau):
    """The form of the DySTreSS code: the negatives of each view in a logarithm of their own."""
    logits, _, anchors = _views(view_a, view_b, tau)
    n = len(view_a)
    return np.array(
        [
            _log_sum(logits[i, [k for k in rest if k < n]])
            + _log_sum(logits[i, [k for k in rest if k >= n]])
            - logits[i, p]
            for i, p, rest in anchors
        ]
    )


def dclw(view_a, view_b, tau, sigma):
    """w_i = 2 - B softmax_i(s_ii / sigma) before the positive logit."""
    logits, s, anchors = _views(view_a, view_b, tau)
    n = len(view_a)
    e = np.exp(np.array([s[i, i + n] for i in range(n)]) / sigma)
    w = 2 - n * e / e.sum()
    return np.array([_log_sum(logits[i, rest]) - w[i % n] * logits[i, p] for i, p, rest in anchors])


def supcon(view_a, view_b, labels, tau):
    """-1/|P| sum_p l_ip + log sum_{k != i} exp(l_ik)."""
    logits, _, anchors = _views(view_a, view_b, tau)
    labels = np.tile(labels, 2)
    losses = []
    for i, _, _ in anchors:
        others = [k for k in range(len(labels)) if k != i]
        same = [k for k in others if labels[k] == labels[i]]
        losses.append(_log_sum(logits[i, others]) - np.mean(logits[i, same]))
    return np.array(losses)


def moco(queries, keys, queue, tau):
    """Cross-entropy of [positive | queue] with label 0."""
    q = unit(queries)
    positive, negative = np.sum(q * unit(keys), axis=1), q @ unit(queue).T
    logits = np.concatenate([(positive / tau(positive))[:, None], negative / tau(negative)], axis=1)
    return np.array([_log_sum(row) - row[0] for row in logits])


def clip(images, texts, tau):
    """The mean of the cross-entropies of rows and of columns."""
    s = unit(images) @ unit(texts).T
    logits = s / tau(s)
    return np.array(
        [
            (_log_sum(logits[i]) + _log_sum(logits[:, i])) / 2 - logits[i, i]
            for i in range(len(images))
        ]
    )


def siglip(images, texts, scale, bias):
    """-sum_j log sigmoid(z_ij (t s_ij + b))."""
    z = 2 * np.eye(len(images)) - 1
    x = z * (scale * unit(images) @ unit(texts).T + bias)
    return np.sum(np.log1p(np.exp(-x)), axis=1)


def many_positives(anchors, candidates, tau, positive, allowed=None, decoupled=False):
    """-mean_p l_ip + log sum_j exp(l_ij), for bools [n m]; 0 for an anchor without positives."""
    s = unit(anchors) @ unit(candidates).T
    logits = s / tau(s)
    allowed = np.ones_like(positive) if allowed is None else allowed
    losses = []
    for row, p, a in zip(logits, positive & allowed, allowed, strict=True):
        total = _log_sum(row[a & ~p] if decoupled else row[a])
        losses.append(total - row[p].mean() if p.any() else 0.0)
    return np.array(losses)


def weighed(anchors, candidates, tau, positive, negative, weights=1.0):
    """l_ip, log sum_j w_ij exp(l_ij) and sum_j w_ij of each anchor, over its negatives."""
    s = unit(anchors) @ unit(candidates).T
    logits, weights = s / tau(s), np.where(negative, weights, 0.0)
    with np.errstate(divide="ignore"):
        log_sums = np.logaddexp.reduce(
            np.where(negative, logits + np.log(weights), -np.inf), axis=1
        )
    return logits[positive], log_sums, weights.sum(axis=1)


def shaped(anchors, candidates, tau, positive, negative, *, smoothing=0.0, weights=1.0, margin=0.0):
    """-sum_j q_j log P_j with P = softmax(log w + l), w = 1 and cos(theta + m) for positives.

    The target q is 1 - epsilon over the positives, and epsilon over all candidates.
    """
    s = unit(anchors) @ unit(candidates).T
    s = np.where(positive, np.cos(np.arccos(np.clip(s, -1, 1)) + margin), s)
    with np.errstate(divide="ignore"):
        logits = s / tau(s) + np.where(
            positive, 0.0, np.log(np.broadcast_to(np.float64(weights), s.shape))
        )
    losses = []
    for row, p, n in zip(logits, positive, negative, strict=True):
        kept = (p | n) & np.isfinite(row)
        target = (1 - smoothing) * p[kept] / p.sum() + smoothing / kept.sum()
        losses.append(-np.sum(target * (row[kept] - _log_sum(row[kept]))))
    return np.array(losses)


def clip_by_labels(images, texts, labels, tau):
    """Both directions, with the mean over the texts of each image in the second."""
    same = labels[0][:, None] == labels[1][None, :]
    of_image = many_positives(images, texts, tau, same)
    of_text = many_positives(texts, images, tau, same.T)
    return (of_image + same @ of_text / np.maximum(same.sum(1), 1)) / 2


def siglip_by_labels(images, texts, labels, scale, bias, weights=1.0):
    """With weights of the pairs that share no label."""
    same = labels[0][:, None] == labels[1][None, :]
    x = np.where(same, 1, -1) * (scale * unit(images) @ unit(texts).T + bias)
    return np.sum(np.where(same, 1.0, weights) * np.log1p(np.exp(-x)), axis=1)
