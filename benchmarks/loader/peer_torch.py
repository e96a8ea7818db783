"""Loaders of torch in a process of their own: `python peer_torch.py OUT FOLDER WORKERS SECONDS`.

Runs in an environment with torch, torchvision and lightly; nothing of JAX is needed.
"""

import json
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from benchmarks.accelerator.timing import Lines
from benchmarks.torch_images import endless, loader

BATCH = 256


def main(path, folder, workers, seconds):
    """Measures each loader with each number of processes."""
    torch.set_num_threads(1)
    out = Lines(pathlib.Path(path))
    for number in json.loads(workers):
        for name in ("torchvision, decoded to 256", "lightly, two views of 224"):
            batches = endless(loader(name, folder, number, BATCH))
            next(batches)
            begin, count = time.perf_counter(), 0
            while time.perf_counter() - begin < float(seconds):
                next(batches)
                count += BATCH
            rate = count / (time.perf_counter() - begin)
            out.add(loader=name, workers=number, images_per_second=rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
