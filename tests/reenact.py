"""What the float64 re-enactments of methods share: linear networks, batches, gradient descent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dystress_jax import models, sharding
from dystress_jax.training import init_state, make_train_step
from tests import oracles

N, PIXELS, FEATURES, OUT, RATE = 8, 6, 5, 4, 0.5


def linear(fan_in, fan_out):
    """A matrix as a network."""

    def init(key):
        return {"w": jax.random.normal(key, (fan_in, fan_out))}, {}

    def apply(params, stats, inputs, *, train):
        return inputs.reshape(inputs.shape[0], -1) @ params["w"], stats

    return models.Network(init, apply, fan_out)


def mirrored(key, images, rows):
    """Views without chance: the image, and the image from right to left."""
    del key, rows
    images = images.astype(jnp.float32) / 255
    return images, images[:, :, ::-1]


def make_batches(count):
    images = np.random.default_rng(0).integers(0, 256, (count, N, 1, PIXELS, 1), dtype=np.uint8)
    return [{"image": x, "label": np.zeros(N, np.int32), "index": np.arange(N)} for x in images]


def run(method, batches, devices, *, scheme=None):
    """The states before, between and after the steps, and what each has logged."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    optimizer = optax.sgd(RATE)
    step = make_train_step(method, optimizer, lambda step: RATE, scheme=scheme, mesh=mesh)
    state = init_state(method, optimizer, scheme=scheme, seed=0, mesh=mesh)
    states, logged = [jax.device_get(state._replace(key=None))], []
    for batch in batches:
        state, metrics, _ = step(state, sharding.shard_batch(batch, mesh))
        states.append(jax.device_get(state._replace(key=None)))
        logged.append({name: float(value) for name, value in metrics.items()})
    return states, logged


def embed(x, *matrices):
    return oracles.unit(functools.reduce(np.matmul, matrices, x))


def views_of(batch):
    x = np.float64(batch["image"]) / 255
    return x.reshape(N, -1), x[:, :, ::-1].reshape(N, -1)


def matrices(params, *names):
    return [np.float64(params[name]["w"]) for name in names]


def descend(function, weights):
    """One step of gradient descent by central differences."""
    slopes = [
        oracles.gradient(lambda w, i=i: function(*weights[:i], w, *weights[i + 1 :]), weights[i])
        for i in range(len(weights))
    ]
    return [w - RATE * slope for w, slope in zip(weights, slopes, strict=True)]
