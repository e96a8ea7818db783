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
from benchmarks.step.peer_torch import torchvision_resnet

BATCH = 256


def loader(name, folder, workers, batch=BATCH):
    """A DataLoader of that name."""
    torchvision_resnet()  # makes torchvision importable everywhere
    from torchvision import datasets, transforms

    if name == "torchvision, decoded to 256":
        transform = transforms.Compose(
            [transforms.Resize(256), transforms.CenterCrop(256), transforms.PILToTensor()]
        )
    else:
        from lightly.transforms.simclr_transform import SimCLRTransform

        transform = SimCLRTransform(input_size=224)
    dataset = datasets.ImageFolder(str(pathlib.Path(folder, "train")), transform)
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


def endless(batches):
    """Epoch after epoch."""
    while True:
        yield from batches


def main(path, folder, workers, seconds):
    """Measures each loader with each number of processes."""
    torch.set_num_threads(1)
    out = Lines(pathlib.Path(path))
    for number in json.loads(workers):
        for name in ("torchvision, decoded to 256", "lightly, two views of 224"):
            batches = endless(loader(name, folder, number))
            next(batches)
            begin, count = time.perf_counter(), 0
            while time.perf_counter() - begin < float(seconds):
                next(batches)
                count += BATCH
            rate = count / (time.perf_counter() - begin)
            out.add(loader=name, workers=number, images_per_second=rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
