"""Draw the figures of the pages: python docs/make_figures.py [NAME ...] (extra `dev`)."""

import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dystress_jax import augment, data, losses, metrics, similarities, temperatures

IMAGES = pathlib.Path(__file__).parent / "images"
TAU_MIN, TAU_MAX = 0.1, 0.2


def temperature() -> Figure:
    """Temperature, logit, and the weight of a negative pair, by similarity."""
    similarity = jnp.linspace(-1, 1, 401)
    curves = {
        f"DySTreSS {TAU_MIN} to {TAU_MAX}": (temperatures.dystress(TAU_MIN, TAU_MAX), "C3", "-"),
        f"constant {TAU_MIN}": (temperatures.constant(TAU_MIN), "C0", "--"),
        f"constant {TAU_MAX}": (temperatures.constant(TAU_MAX), "C0", ":"),
    }
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
    for name, (tau_of, colour, line) in curves.items():
        tau = tau_of(similarity)
        logit = similarity / tau
        # How strongly a negative is pushed away, were all similarities equally frequent.
        push = jax.nn.softmax(logit) / tau
        style = {"color": colour, "linestyle": line, "label": name}
        axes[0].plot(similarity, tau, **style)
        axes[1].plot(similarity, logit, **style)
        axes[2].plot(similarity, push / push.max(), **style)
    titles = ("temperature", "logit, similarity / temperature", "push on a negative (max = 1)")
    for axis, title in zip(axes, titles, strict=True):
        _plain(axis, title, "cosine similarity of the pair")
        axis.set_xlim(-1, 1)
    axes[1].legend(frameon=False, fontsize=8, loc="upper left")
    axes[2].set_yscale("log")
    return figure


def profiles() -> Figure:
    """Every temperature that is a function of the similarity, and its logit."""
    similarity = jnp.linspace(-1, 1, 401)
    curves = {
        "dystress": temperatures.dystress(TAU_MIN, TAU_MAX),
        "shifted_dystress": temperatures.shifted_dystress(TAU_MIN, TAU_MAX),
        "linear": temperatures.linear(TAU_MIN, TAU_MAX),
        "monotone_cosine": temperatures.monotone_cosine(TAU_MIN, TAU_MAX),
        "exponential": temperatures.exponential(),
        "temo": temperatures.temo(),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, tau_of in curves.items():
        tau = tau_of(similarity)
        left.plot(similarity, tau, label=name)
        right.plot(similarity, similarity / tau, label=name)
    _plain(left, "temperature", "cosine similarity of the pair")
    _plain(right, "logit, similarity / temperature", "cosine similarity of the pair")
    right.set_ylim(-25, 25)
    right.legend(frameon=False, fontsize=8)
    return figure


def uniformity() -> Figure:
    """Uniformity and tolerance of a small encoder, by the temperature that it learns with.

    256 points of 8 clusters in 16 dimensions; a view is the point and noise; one hidden layer.
    """
    centres = jax.random.normal(jax.random.key(0), (8, 16))
    labels = jnp.arange(256) % 8
    points = centres[labels] + 0.5 * jax.random.normal(jax.random.key(1), (256, 16))
    first, second = jax.random.split(jax.random.key(2))
    start = (jax.random.normal(first, (16, 64)) / 4, jax.random.normal(second, (64, 8)) / 8)
    optimizer = optax.adam(3e-3)

    def embed(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ weights[0]) @ weights[1]

    def trained(tau_min: jax.Array, tau_max: jax.Array) -> tuple[jax.Array, jax.Array]:
        tau = temperatures.dystress(tau_min, tau_max)

        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            weights, state = carry
            a, b = points + 0.3 * jax.random.normal(key, (2, *points.shape))

            def loss(w: tuple[jax.Array, jax.Array]) -> jax.Array:
                return losses.nt_xent(embed(w, a), embed(w, b), temperature=tau).mean()

            updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
            return (optax.apply_updates(weights, updates), state), None

        keys = jax.random.split(jax.random.key(3), 500)
        (weights, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), keys)
        x = embed(weights, points)
        return metrics.uniformity(x), metrics.tolerance(x, labels)

    tau = jnp.geomspace(0.05, 1, 9)
    found = jax.jit(jax.vmap(trained))(tau, tau)  # one temperature: both ends are equal
    of_range = jax.jit(trained)(jnp.float32(0.1), jnp.float32(0.5))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    names = ("uniformity (lower: more evenly spread)", "tolerance (higher: classes closer)")
    for axis, name, values, value in zip(axes, names, found, of_range, strict=True):
        axis.plot(tau, values, "o-", color="C0", label="constant temperature")
        axis.axhline(float(value), color="C3", label="dystress 0.1 to 0.5")
        axis.set_xscale("log")
        _plain(axis, name, "constant temperature")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def oblique() -> Figure:
    """How similar random embeddings of 64 numbers are on spheres of fewer and fewer dimensions."""
    a, b = jax.random.normal(jax.random.key(0), (2, 400, 64))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for tokens in (1, 4, 16):
        name = "sphere, 64 dimensions" if tokens == 1 else f"{tokens} tokens of {64 // tokens}"
        for axis, mean in zip(axes, (False, True), strict=True):
            manifold = similarities.oblique(tokens, mean=mean)
            found = manifold(a, b).ravel()
            axis.hist(found, bins=80, density=True, histtype="step", label=name, linewidth=1.5)
    _plain(axes[0], "sum over the tokens", "similarity of random pairs")
    _plain(axes[1], "mean over the tokens (match_range)", "similarity of random pairs")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def views() -> Figure:
    """Patches of the first run, each with the two views that a step might compare."""
    source = data.open_splits("embedded", name="patches")["train"]
    images = jnp.asarray(source.gather(np.arange(100, 2100, 260))["image"])
    both = augment.two_views(jax.random.key(0), images, augment.simclr_cifar(), size=32)
    figure, axes = plt.subplots(3, len(images), figsize=(8, 3.2), layout="constrained")
    rows = {"patch": images, "first view": both[0], "second view": both[1]}
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255 if name == "patch" else 1)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return figure


def quadratic() -> Figure:
    """The temperature of the tutorial, and the one that it is compared with."""
    similarity = jnp.linspace(-1, 1, 401)
    figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
    axis.plot(similarity, 0.05 + 0.2 * similarity**2, color="C3", label="0.05 + 0.2 s²")
    axis.plot(similarity, temperatures.dystress(0.05, 0.25)(similarity), "--", label="dystress")
    _plain(axis, "temperature", "cosine similarity of the pair")
    axis.legend(frameon=False, fontsize=8)
    return figure


def flax_and_equinox() -> Figure:
    """The losses that the tutorial of this name trains with."""
    found = _of_tutorial("flax-and-equinox", "{'Flax': of_flax, 'equinox': of_equinox}")
    figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
    for name, values in found.items():
        axis.plot(range(1, len(values) + 1), values, label=name)
    _plain(axis, "loss of the whole batch", "step")
    axis.legend(frameon=False, fontsize=8)
    return figure


def own_images() -> Image.Image:
    """What the tutorial of this name finds."""
    return _of_tutorial("own-images", "picture")


def from_a_checkpoint() -> Image.Image:
    """What the tutorial of this name finds."""
    return _of_tutorial("from-a-checkpoint", "picture")


def _of_tutorial(page: str, expression: str) -> Any:
    """The value of an expression at the end of a tutorial, which runs in a process of its own."""
    text = (IMAGES.parent / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    end = f"import pickle\npickle.dump({expression}, open('value.pickle', 'wb'))\n"
    with tempfile.TemporaryDirectory() as directory:
        program = [sys.executable, "-c", "".join([*blocks, end])]
        subprocess.run(program, cwd=directory, check=True)
        return pickle.loads(pathlib.Path(directory, "value.pickle").read_bytes())


def _plain(axis: Axes, title: str, label: str) -> None:
    axis.set(title=title, xlabel=label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


FIGURES = {
    f.__name__.replace("_", "-"): f
    for f in (
        *(temperature, profiles, uniformity, oblique, views, quadratic),
        *(flax_and_equinox, own_images, from_a_checkpoint),
    )
}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        picture, path = FIGURES[name](), IMAGES / f"{name}.png"
        if isinstance(picture, Figure):
            picture.savefig(path, dpi=120)
        else:
            picture.save(path, optimize=True)
