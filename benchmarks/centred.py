"""kNN on the test images with and without the training mean: python -m benchmarks.centred DIR ...

For the trained encoder of each run DIR and for raw pixels, as in docs/results/quickstart.md.
"""

import functools
import pathlib
import sys

import jax.numpy as jnp

from dystress_jax import evaluation, run


def main(workdirs: list[str]) -> None:
    """Print accuracies at k = 1, 20, 200, plain and centred."""
    for workdir in map(pathlib.Path, workdirs):
        experiment, state = run.restore(workdir)
        train, test, mesh = experiment.train, experiment.sources["test"], experiment.mesh
        encoder = experiment.encoder(state)
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
