"""What lower precision costs, and what it saves: `python -m benchmarks.precision [--times]`.

Prints the table of docs/precision.md: relative errors, against float64, of the mean NT-Xent and of
its gradient, and with --times how long both take on this machine, which should then do nothing
else. CPUs have no TF32, so its errors are found by rounding the factors of every product to 10
bits, as NVIDIA GPUs do.
"""

import argparse
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.timing import milliseconds
from dystress_jax import losses, similarities, temperatures

ROWS, LENGTH = 2048, 128  # of both views together, where errors are measured
TIMED = (4096, 8192)
TEMPERATURES = {
    "0.02": 0.02,
    "0.05": 0.05,
    "0.1": 0.1,
    "0.2": 0.2,
    "dystress 0.1 to 0.2": temperatures.dystress(0.1, 0.2),
}


def ten_bits(x: jax.Array) -> jax.Array:
    """The nearest number with 10 bits of mantissa, ties to even."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = bits + jnp.uint32(0xFFF) + ((bits >> 13) & 1)
    return jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFE000), jnp.float32)


@jax.custom_vjp
def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A b^T with factors of 10 bits and sums in float32, as in its gradient."""
    return jnp.matmul(ten_bits(a), ten_bits(b).T, precision="highest")


product.defvjp(
    lambda a, b: (product(a, b), (a, b)),
    lambda saved, slope: (product(slope, saved[1].T), product(slope.T, saved[0].T)),
)
SIMILARITIES = {
    "float32": similarities.sphere,
    "TF32": dataclasses.replace(similarities.sphere, between=product, between_reverse=None),
    "bfloat16": similarities.sphere.with_precision("bfloat16"),
}


def views(rows: int) -> np.ndarray:
    """Two views [2 rows/2 LENGTH]: the second is the first and as much noise."""
    first, noise = np.random.default_rng(0).standard_normal((2, rows // 2, LENGTH), np.float32)
    return np.stack([first, first + noise])


def program(temperature, similarity, **how):
    """The compiled function (view_a, view_b) -> mean loss and gradients."""
    loss = lambda a, b: losses.nt_xent(
        a, b, temperature=temperature, similarity=similarity, **how
    ).mean()
    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def errors() -> dict[str, dict[str, tuple[float, float]]]:
    """For each temperature and precision: relative errors of the mean loss and of its gradient."""
    narrow, found = views(ROWS), {}
    for name, temperature in TEMPERATURES.items():
        with jax.enable_x64(True):
            wide = jnp.asarray(narrow, jnp.float64)
            exact, slopes = program(temperature, similarities.sphere, strategy="dense")(*wide)
        exact, slopes = float(exact), np.asarray(slopes)
        found[name] = {}
        for precision, similarity in SIMILARITIES.items():
            value, gradients = program(temperature, similarity)(*jnp.asarray(narrow))
            away = np.linalg.norm(np.asarray(gradients, np.float64) - slopes)
            found[name][precision] = abs(float(value) / exact - 1), away / np.linalg.norm(slopes)
    return found


def times() -> dict[int, dict[str, float]]:
    """Milliseconds, median, of value and gradient, for each number of rows and precision."""
    return {
        rows: {
            precision: float(
                np.median(
                    milliseconds(
                        jax.block_until_ready,
                        program(TEMPERATURES["dystress 0.1 to 0.2"], SIMILARITIES[precision]),
                        *jnp.asarray(views(rows)),
                        seconds=8.0,
                    )
                )
            )
            for precision in ("float32", "bfloat16")
        }
        for rows in TIMED
    }


def markdown(found: dict[str, dict[str, tuple[float, float]]]) -> str:
    """The table of errors."""
    short = lambda error: f"{error:.0e}".replace("e-0", "e-")
    row = lambda name, cells: f"| {name} | " + " | ".join(cells) + " |"
    return "\n".join(
        [
            row("temperature", ("float32", "TF32 (emulated)", "bfloat16")),
            "|---" * (len(SIMILARITIES) + 1) + "|",
            *(
                row(name, (f"{short(value)}, {short(slope)}" for value, slope in cells.values()))
                for name, cells in found.items()
            ),
        ]
    )


def main() -> None:
    """Prints what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--times", action="store_true", help="measure times too")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}\n")
    print(markdown(errors()))
    if arguments.times:
        for rows, each in times().items():
            print(f"{rows} rows:", ", ".join(f"{name} {ms:.0f} ms" for name, ms in each.items()))


if __name__ == "__main__":
    main()
