"""GFlop/s of 3 x 3 convolutions and their gradients: `python -m benchmarks.step.convolution`.

The last column is the gradient of the weights as products in a loop over parts of the batch, each
with the neighbours of its pixels beside them (im2col), so that these stay in the cache.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = ((256, 8, 32), (256, 4, 64), (128, 32, 64), (128, 16, 128), (128, 8, 256), (128, 4, 512))
PARTS = 32  # of the batch
SECONDS = 1.0  # of each measurement


def main() -> None:
    """Measures and prints."""
    print(f"jax {jax.__version__}: images, side, channels: forward, inputs, weights, in a loop")
    for n, side, channels in SHAPES:
        x = jax.random.normal(jax.random.key(0), (n, side, side, channels))
        w = jax.random.normal(jax.random.key(1), (3, 3, channels, channels)) / 10
        g = convolve(x, w)
        inputs = lambda x, w, g: jax.vjp(lambda x: convolve(x, w), x)[1](g)
        weights = lambda x, w, g: jax.vjp(lambda w: convolve(x, w), w)[1](g)[0]
        found, expected = in_a_loop(x, w, g), weights(x, w, g)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        operations = 2 * n * side**2 * 9 * channels**2 / 1e9
        ways = (lambda x, w, g: convolve(x, w), inputs, weights, in_a_loop)
        rates = (f"{operations / seconds(way, x, w, g):5.0f}" for way in ways)
        print(f"{n:4d} {side:3d} {channels:4d}: {', '.join(rates)}", flush=True)


def convolve(x, w):
    """As a layer does, [n h w c] and [3 3 c c]."""
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=names)


def in_a_loop(x, w, g):
    """The gradient of the weights."""
    n, side, _, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    of_parts = [y.reshape(PARTS, n // PARTS, *y.shape[1:]) for y in (padded, g)]

    def add(total, part):
        x, g = part
        shifted = [x[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
        return total + jnp.einsum("nhwi,nhwo->io", jnp.concatenate(shifted, axis=-1), g), None

    total, _ = jax.lax.scan(add, jnp.zeros((9 * channels, channels)), of_parts)
    return total.reshape(w.shape)


def seconds(way, *arrays) -> float:
    """The median of a second, compiled before."""
    compiled = jax.jit(way)
    jax.block_until_ready(compiled(*arrays))
    taken, begin = [], time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


if __name__ == "__main__":
    main()
