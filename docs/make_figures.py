"""Draw the README's picture: python docs/make_figures.py (needs the extra `docs`)."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import dystress_jax as dx

HERE = pathlib.Path(__file__).parent
TAU_MIN, TAU_MAX = 0.1, 0.2


def main() -> None:
    """Temperature, logit, and the weight of a negative pair, by similarity."""
    similarity = jnp.linspace(-1, 1, 401)
    curves = {
        f"DySTreSS {TAU_MIN} to {TAU_MAX}": (dx.temperatures.dystress(TAU_MIN, TAU_MAX), "C3", "-"),
        f"constant {TAU_MIN}": (dx.temperatures.constant(TAU_MIN), "C0", "--"),
        f"constant {TAU_MAX}": (dx.temperatures.constant(TAU_MAX), "C0", ":"),
    }
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
    for name, (temperature, colour, line) in curves.items():
        tau = temperature(similarity)
        logit = similarity / tau
        # How strongly a negative is pushed away, were all similarities equally frequent.
        push = jax.nn.softmax(logit) / tau
        style = {"color": colour, "linestyle": line, "label": name}
        axes[0].plot(similarity, tau, **style)
        axes[1].plot(similarity, logit, **style)
        axes[2].plot(similarity, push / push.max(), **style)
    titles = ("temperature", "logit, similarity / temperature", "push on a negative (max = 1)")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="cosine similarity of the pair", xlim=(-1, 1))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[1].legend(frameon=False, fontsize=8, loc="upper left")
    axes[2].set_yscale("log")
    figure.savefig(HERE / "images" / "temperature.png", dpi=120)


if __name__ == "__main__":
    main()
