"""The first steps of any method, taken as the trainer takes them."""

import jax

from dystress_jax import sharding
from dystress_jax.state import init_state
from dystress_jax.step import make_train_step


def take(method, optimizer, learning_rate, batches, *, devices=1, seed=0, micro_batches=1):
    """The state after the batches, on its devices, and what each step has logged."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    state = init_state(method, optimizer, seed=seed, mesh=mesh)
    train_step = make_train_step(
        method, optimizer, learning_rate, mesh=mesh, micro_batches=micro_batches
    )
    logged = []
    for batch in batches:
        state, found = train_step(state, sharding.shard_batch(batch, mesh))
        logged.append({name: float(value) for name, value in found.items()})
    return state, logged


def on_host(state):
    """The arrays of a state as NumPy has them, its key as numbers."""
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))
