"""The loss as another project uses it: nothing but jax and jaxtyping installed."""

import importlib.util

import jax

import dystress_jax as dx

for absent in ("flax", "optax", "grain", "orbax", "ml_collections", "tensorflow_datasets"):
    assert importlib.util.find_spec(absent) is None, f"{absent} came with the base install"

a, b = jax.random.normal(jax.random.key(0), (2, 16, 8))
temperature = dx.temperatures.dystress(0.1, 0.2)
gradient = jax.jit(jax.grad(lambda a: dx.losses.nt_xent(a, b, temperature=temperature).mean()))(a)
assert bool(jax.numpy.isfinite(gradient).all())
print("loss and gradient: ok")

told = ""
try:
    dx.load("runs/quickstart")
except ModuleNotFoundError as error:
    told = str(error)
assert told.startswith("load needs the package "), told
assert "pip install" in told, told
print("what load needs: told")
