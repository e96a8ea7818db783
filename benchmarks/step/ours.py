"""Our training step in a process of its own: `-m benchmarks.step.ours OUT CASES`.

CASES is a list in JSON of {network, batch, dtype, recipe}; recipe `whole` means no augmentation.
"""

import json
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks.accelerator.timing import Lines, milliseconds
from dystress_jax import data, run, sharding
from dystress_jax.training import make_train_step

# Side of the images, and the settings that differ from the defaults.
NETWORKS = {
    "small": (32, {}),
    "resnet18": (32, {"model.name": "resnet18", "model.stem": "cifar"}),
    "resnet50": (224, {"model.name": "resnet50", "model.stem": "imagenet"}),
    "vit_small": (224, {"model.name": "vit_small", "model.patch": 16}),
}


def settings(case: dict, npz: str) -> run.Config:
    """The settings of a case, on these images."""
    changes = {
        "data.source": "npz",
        "data.path": npz,
        "data.holdout": 0.0,
        "batch_size": case["batch"],
        "dtype": case["dtype"],
        "augment.recipe": case["recipe"],
        "steps": 100,
        "knn_every": 0,
        **NETWORKS[case["network"]][1],
        **case.get("also", {}),
    }
    return run.override(run.defaults(), changes)


class Step:
    """A compiled step with its state, and what feeds it."""

    def __init__(self, config: run.Config, workdir: str):
        """Builds the run and compiles one step."""
        self.config = config
        self.experiment = run.build(config, pathlib.Path(workdir))
        self.step = make_train_step(
            self.experiment.method,
            self.experiment.optimizer,
            self.experiment.schedule.learning_rate,
            scheme=self.experiment.scheme,
            mesh=self.experiment.mesh,
            micro_batches=config.batch.micro_batches,
        )
        self.state = self.experiment.init_state()
        self.batches = data.batches(
            self.experiment.train,
            batch_size=config.batch_size,
            seed=0,
            threads=config.data.threads,
        )
        self.batch = self.load()
        begin = time.perf_counter()
        self.compiled = self.step.lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - begin

    def load(self):
        """The next batch, on the devices."""
        return sharding.shard_batch(next(self.batches), self.experiment.mesh)

    def run(self, batch=None):
        """One step, of the same batch if none is given."""
        batch = self.batch if batch is None else batch
        self.state, metrics, _ = self.compiled(self.state, batch)
        return metrics["loss"]

    def run_on_new(self):
        """One step of the next batch."""
        return self.run(self.load())


def random_images(path: pathlib.Path, count: int, side: int) -> str:
    """An .npz with that many smooth random images, so that they decode and augment as photos do."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, -(-side // 8), -(-side // 8), 3), np.uint8)
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
    labels = rng.integers(0, 10, count).astype(np.int32)
    np.savez(path, train_images=fine, train_labels=labels)
    return str(path)


def measure(out: Lines, cases: list[dict], seconds: float) -> None:
    """Times each case: the step on one batch that stays, and with a new batch from memory.

    And the batch alone, from the images in memory to the device.
    """
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            side, _ = NETWORKS[case["network"]]
            path = pathlib.Path(folder) / f"{side}.npz"
            if not path.exists():
                random_images(path, 4096 if side < 100 else 1024, side)
            try:
                step = Step(settings(case, case.get("images", str(path))), folder)
                stays = milliseconds(jax.block_until_ready, step.run, seconds=seconds)
                fresh = milliseconds(jax.block_until_ready, step.run_on_new, seconds=seconds)
                loaded = milliseconds(jax.block_until_ready, step.load)
            except Exception as failed:
                out.add(**case, library="ours", failed=str(failed)[:300])
                continue
            cost = step.compiled.cost_analysis()
            out.add(
                **case,
                library="ours",
                ms=float(np.median(stays)),
                best_ms=min(stays),
                with_input_ms=float(np.median(fresh)),
                input_ms=float(np.median(loaded)),
                gigaflops=cost.get("flops", 0.0) / 1e9 if cost else None,
                temporaries_mib=step.compiled.memory_analysis().temp_size_in_bytes / 2**20,
                compile_s=step.compile_seconds,
                times=stays,
            )
            step.batches.close()


if __name__ == "__main__":
    lines = Lines(pathlib.Path(sys.argv[1]))
    lines.add(device=jax.devices()[0].device_kind, jax=jax.__version__)
    measure(lines, json.loads(sys.argv[2]), float(sys.argv[3]))
