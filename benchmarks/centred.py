"""kNN on the test images with and without the training mean: python -m benchmarks.centred DIR ...

For the trained encoder of each run DIR and for raw pixels, as in docs/results/quickstart.md.
"""

import functools
import pathlib
import sys

import jax.numpy as jnp

from dystress_jax import checkpoint, config, evaluation, experiment


def main(workdirs: list[str]) -> None:
    """Print accuracies at k = 1, 20, 200, plain and centred."""
    for workdir in map(pathlib.Path, workdirs):
        parts = experiment.build(config.read_json(workdir / "config.json"), workdir)
        train, test, mesh = parts.train, parts.sources["test"], parts.mesh
        directory = workdir / "checkpoints"
        step = checkpoint.steps(directory)[-1]
        state = checkpoint.restore(directory, step, parts.abstract_state()).state
        encoder = functools.partial(parts.encode, state.params, state.stats)
        for name, features in (("encoder", encoder), ("raw pixels", evaluation.raw_pixels)):
            bank, labels = evaluation.encode_source(features, train, mesh=mesh)
            queries, wanted = evaluation.encode_source(features, test, mesh=mesh)
            for kind, mean in (("plain", 0.0), ("centred", bank.mean(axis=0))):
                votes = functools.partial(
                    evaluation.knn_votes,
                    jnp.asarray(queries - mean),
                    jnp.asarray(bank - mean),
                    jnp.asarray(labels),
                    num_classes=train.num_classes,
                )
                found = [float((votes(k=k).argmax(1) == wanted).mean()) for k in (1, 20, 200)]
                shown = " ".join(f"{100 * share:.1f}" for share in found)
                print(f"{workdir} {name}, {kind}: {shown} % at k = 1, 20, 200")


if __name__ == "__main__":
    main(sys.argv[1:])
