"""Transformers in float64 NumPy, from the papers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def scattered(network):
    """Random parameters: no bias is zero, no scale one."""
    params, stats = jax.jit(network.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    scatter = lambda leaf: leaf + jnp.asarray(rng.uniform(-0.3, 0.3, leaf.shape), jnp.float32)
    return jax.tree.map(scatter, params), stats


CLIP_EPSILON = 1e-5


def layer_norm(x, params, epsilon=1e-6):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * params["scale"] + params["bias"]


def linear(x, params):
    return x @ params["kernel"] + params["bias"]


def attention(x, params, heads, seen=None):
    """Query i attends to key j where seen[n, i, j]."""
    n, tokens, width = x.shape
    q, k, v = np.split(linear(x, params), 3, axis=-1)
    split = lambda y: y.reshape(n, tokens, heads, width // heads).transpose(0, 2, 1, 3)
    logits = split(q) @ split(k).transpose(0, 1, 3, 2) / math.sqrt(width // heads)
    weights = np.exp(logits)
    if seen is not None:
        weights = weights * seen[:, None]
    weights = weights / weights.sum(-1, keepdims=True)
    return (weights @ split(v)).transpose(0, 2, 1, 3).reshape(n, tokens, width)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(x, params, gelu=gelu):
    return linear(gelu(linear(x, params["mlp1"])), params["mlp2"])


def blocks(x, params, heads, *, seen=None, norm_first=True, epsilon=1e-6, gelu=gelu):
    norm = functools.partial(layer_norm, epsilon=epsilon)
    for i in range(len(params)):
        p = params[f"block{i + 1}"]
        attend = lambda x, p=p: linear(attention(x, p["qkv"], heads, seen), p["projection"])
        if norm_first:
            x = x + attend(norm(x, p["norm1"]))
            x = x + mlp(norm(x, p["norm2"]), p, gelu)
        else:
            x = norm(x + attend(x), p["norm1"])
            x = norm(x + mlp(x, p, gelu), p["norm2"])
    return x


def attention_pool(x, params, heads):
    """One token for all: it asks, head by head, and an MLP adds to what it hears."""
    n, _, width = x.shape
    size = width // heads
    kernels = np.split(params["qkv"]["kernel"], 3, axis=1)
    biases = np.split(params["qkv"]["bias"], 3)
    query = params["token"] @ kernels[0] + biases[0]
    heard = np.zeros((n, width))
    for image in range(n):
        keys, values = (x[image] @ kernels[i] + biases[i] for i in (1, 2))
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = np.exp(keys[:, part] @ query[part] / math.sqrt(size))
            heard[image, part] = weights / weights.sum() @ values[:, part]
    heard = linear(heard, params["projection"])
    return heard + mlp(layer_norm(heard, params["norm"]), params, tanh_gelu)


def patches(images, patch):
    """Patch by patch, row by row."""
    n, height, width, _ = images.shape
    cut = lambda i, j: images[:, i : i + patch, j : j + patch].reshape(n, -1)
    return np.float64(
        np.stack([cut(i, j) for i in range(0, height, patch) for j in range(0, width, patch)], 1)
    )
