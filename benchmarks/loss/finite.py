"""Where gradients are finite: `python -m benchmarks.loss.finite` prints the table of the guide."""

import jax
import jax.numpy as jnp
import optax

from dystress_jax import losses

N, LENGTH = 16, 64
TAUS = (0.001, 0.01, 0.1, 1.0, 10.0)
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16}


def cases() -> dict:
    """Returns the pairs of views [n d] of each case."""
    a, b = jax.random.normal(jax.random.key(0), (2, N, LENGTH))
    basis = jnp.eye(N, LENGTH)
    return {
        "random": (a, b),
        "collapsed: all rows equal": (jnp.tile(a[:1], (N, 1)), jnp.tile(a[:1], (N, 1))),
        "orthogonal, views equal": (basis, basis),
        "aligned: views equal": (a, a),
        "antipodal: views opposite": (a, -a),
        "two rows equal": (a.at[1].set(a[0]), b.at[1].set(b[0])),
        "rows of zeros": (a.at[0].set(0.0), b.at[1].set(0.0)),
        "two examples": (a[:2], b[:2]),
    }


def optax_ntxent(view_a: jax.Array, view_b: jax.Array, tau: float) -> jax.Array:
    """NT-Xent of optax, which takes labels."""
    labels = jnp.tile(jnp.arange(view_a.shape[0]), 2)
    return optax.losses.ntxent(jnp.concatenate([view_a, view_b]), labels, tau)


def ours(view_a: jax.Array, view_b: jax.Array, tau: float) -> jax.Array:
    """NT-Xent of this library."""
    return losses.nt_xent(view_a, view_b, temperature=tau).mean()


def table(loss) -> dict[str, list[str]]:
    """Returns for each case and each tau the dtypes in which value or gradient is not finite."""
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def failures(views, tau):
        for name, dtype in DTYPES.items():
            results = compiled(*(view.astype(dtype) for view in views), tau)
            if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(results)):
                yield name

    return {
        case: [" ".join(failures(views, jnp.float32(tau))) for tau in TAUS]
        for case, views in cases().items()
    }


def markdown() -> str:
    """Returns the table of optax, and that of ours in a sentence."""
    failing = [case for case, cells in table(ours).items() if any(cells)]
    lines = [
        "| tau | " + " | ".join(f"{tau:g}" for tau in TAUS) + " |",
        "|---" * (len(TAUS) + 1) + "|",
        *(
            f"| {case} | " + " | ".join(f"NaN: {cell}" if cell else "" for cell in cells) + " |"
            for case, cells in table(optax_ntxent).items()
        ),
        "",
        f"optax {optax.__version__}, jax {jax.__version__}. With `dx.losses.nt_xent` "
        + (f"not finite: {', '.join(failing)}." if failing else "every entry is finite."),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
