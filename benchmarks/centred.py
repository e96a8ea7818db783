"""kNN on the test images with and without the training mean: python -m benchmarks.centred DIR ...

For the trained encoder of each run DIR and for raw pixels, as in docs/results/quickstart.md.
"""

import functools
import pathlib
import sys

import jax.numpy as jnp

from dystress_jax import checkpoint, config, evaluation, experiment, sharding
from dystress_jax.state import abstract_state


def main(workdirs: list[str]) -> None:
    """Print accuracies at k = 1, 20, 200, plain and centred."""
    mesh = sharding.make_mesh()
    for workdir in map(pathlib.Path, workdirs):
        settings = config.read_json(workdir / "config.json")
        sources = experiment.open_sources(settings)
        train, test = sources["train"], sources["test"]
        method = experiment.make_method(settings, train, mesh)
        schedule = experiment.make_schedule(settings, train)
        abstract = abstract_state(method, experiment.make_optimizer(settings, schedule), mesh=mesh)
        directory = workdir / "checkpoints"
        state = checkpoint.restore(directory, checkpoint.steps(directory)[-1], abstract).state
        encode = experiment.make_encode(settings, method, train)
        encoder = functools.partial(encode, state.params, state.stats)
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
