"""Our loader in a process of its own: `-m benchmarks.loader.ours OUT FOLDER WORKERS SECONDS`."""

import json
import pathlib
import sys
import time

from benchmarks.accelerator.timing import Lines
from dystress_jax import data

BATCH = 256


def rate(folder: str, threads: int, seconds: float, size: int = 256) -> float:
    """Images a second: decoded, whole, the shorter side resized."""
    source = data.open_splits("folder", path=folder, image_size=size, holdout=0.0)["train"]
    batches = data.batches(source, batch_size=BATCH, seed=0, threads=threads)
    next(batches)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += BATCH
    seconds = time.perf_counter() - begin
    batches.close()
    return count / seconds


if __name__ == "__main__":
    path, folder, workers, seconds = sys.argv[1:]
    out = Lines(pathlib.Path(path))
    for number in json.loads(workers):
        out.add(
            loader="ours, whole, decoded to 256",
            workers=number,
            images_per_second=rate(folder, number, float(seconds)),
        )
