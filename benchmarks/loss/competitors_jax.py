"""One JAX competitor in a process of its own: `python competitors_jax.py NAME ROWS SECONDS`.

Also measures what the machine can do at best, and the ring on simulated devices.
"""

import json
import resource
import sys
import time

import jax
import jax.numpy as jnp

from dystress_jax import losses, temperatures

LENGTH = 128
TAU_MIN, TAU_MAX, TAU = 0.1, 0.2, 0.1
DYNAMIC = temperatures.dystress(TAU_MIN, TAU_MAX)
THROUGH = temperatures.dystress(TAU_MIN, TAU_MAX, stop_gradient=False)


def optax_ntxent(view_a, view_b):
    """NT-Xent of optax, which takes labels."""
    import optax

    labels = jnp.tile(jnp.arange(view_a.shape[0]), 2)
    return optax.losses.ntxent(jnp.concatenate([view_a, view_b]), labels, TAU)


def ours(temperature, strategy):
    """Returns our mean loss with this temperature and strategy."""
    return lambda a, b: losses.nt_xent(a, b, temperature=temperature, strategy=strategy).mean()


COMPETITORS = {
    "dense": ours(DYNAMIC, "dense"),
    "tiled": ours(DYNAMIC, "tiled"),
    "auto": ours(DYNAMIC, "auto"),
    "dense, through tau": ours(THROUGH, "dense"),
    "tiled, through tau": ours(THROUGH, "tiled"),
    "dense, constant": ours(TAU, "dense"),
    "tiled, constant": ours(TAU, "tiled"),
    "tiled, constant 0.01": ours(0.01, "tiled"),
    "tiled, InfoNCE": lambda a, b: losses.info_nce(a, b, temperature=0.1, strategy="tiled").mean(),
    "optax ntxent": optax_ntxent,
}


def measure(name: str, rows: int, seconds: float) -> dict:
    """Returns the times of value and gradient and the temporaries that XLA plans."""
    views = jax.random.normal(jax.random.key(0), (2, rows // 2, LENGTH))
    step = jax.jit(jax.value_and_grad(lambda views: COMPETITORS[name](*views)))
    compiled = step.lower(views).compile()
    run = lambda: jax.block_until_ready(compiled(views))
    value = float(run()[0])
    times, start = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < seconds and len(times) < 50):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return {
        "name": name,
        "rows": rows,
        "value": value,
        "times": times,
        "temporaries_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "version": f"jax {jax.__version__}",
    }


def limits() -> dict:
    """Returns the rates that the machine reaches on the operations a tile is made of."""
    size, repeat = 1024, 100
    points = jax.random.normal(jax.random.key(0), (size, LENGTH)) / LENGTH**0.5
    tile = jax.random.uniform(jax.random.key(1), (size, size), minval=-1.0)

    def rate(step, start, work):
        loop = jax.jit(lambda x: jax.lax.fori_loop(0, repeat, lambda i, x: step(x), x))
        jax.block_until_ready(loop(start))
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            jax.block_until_ready(loop(start))
            times.append(time.perf_counter() - begin)
        return repeat * work / min(times)

    def products(x):  # the similarities of a tile, and one of the two gradients
        return (x @ x.T) @ x * 1e-3

    logit = lambda s: s / DYNAMIC(s)
    return {
        "tile": size,
        "matmul_gflops": rate(products, points, 4 * size * size * LENGTH) / 1e9,
        "exp_gops": rate(lambda x: jnp.exp(-x * x), tile, size * size) / 1e9,
        "weight_gops": rate(lambda x: 1e-3 * jnp.exp(logit(x)), tile, size * size) / 1e9,
    }


def ring(rows: int, devices: int) -> dict:
    """Returns temporaries, collectives and bytes of the compiled ring beside the bound."""
    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
    spec = jax.P("data")
    local = lambda a, b: losses.nt_xent(
        a, b, temperature=DYNAMIC, strategy="ring", axis_name="data"
    )
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    sharding = jax.NamedSharding(mesh, spec)
    view = jax.ShapeDtypeStruct((rows // 2, LENGTH), jnp.float32, sharding=sharding)
    weights = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=sharding)
    gradient = lambda a, b, weights: jax.vjp(sharded, a, b)[1](weights)
    compiled = jax.jit(gradient).lower(view, view, weights).compile()
    text = compiled.as_text()
    names = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
    block = (rows // devices) * (LENGTH + 1) * 4  # points and group numbers
    steps = devices - 1
    return {
        "rows": rows,
        "devices": devices,
        "temporaries_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "block_mib": block / 2**20,
        "collectives": [name for name in names if f" {name}(" in text or f" {name}-start(" in text],
        # Forward: the blocks to all others. Backward: again, and their gradients all the way home.
        "moved_mib": (2 * steps * block + devices * (rows // devices) * LENGTH * 4) / 2**20,
        "all_rows_mib": rows * LENGTH * 4 / 2**20,
    }


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "limits":
        result = limits()
    elif task == "ring":
        jax.config.update("jax_num_cpu_devices", int(rest[1]))
        result = ring(int(rest[0]), int(rest[1]))
    else:
        result = measure(task, int(rest[0]), float(rest[1]))
    print(json.dumps(result))
