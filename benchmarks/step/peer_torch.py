"""The same step in PyTorch in a process of its own: `python peer_torch.py OUT CASES SECONDS`.

CASES is a list in JSON of {network, batch, dtype, mode}; mode is eager or compile. The views are on
the device already: compare with our step without augmentation. With `folder` and `workers` they
come from lightly's loader instead. Needs torch, torchvision and timm.
"""

import contextlib
import json
import math
import pathlib
import sys
import time

import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from benchmarks.accelerator.timing import Lines, milliseconds
from benchmarks.torch_images import endless, loader, torchvision_resnet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDES = {"small": 32, "resnet18": 32, "resnet50": 224, "vit_small": 224}


def encoder(network):
    """The network without its classifier, and the width of its features."""
    resnet = torchvision_resnet()
    if network == "small":
        block = resnet.BasicBlock
        down = nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        stem = [nn.Conv2d(3, 32, 4, 4, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
        blocks = [block(32, 32), block(32, 64, 2, down)]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 64
    if network == "vit_small":
        import timm

        return timm.create_model("vit_small_patch16_224", num_classes=0), 384
    made = getattr(resnet, network)()
    width, made.fc = made.fc.in_features, nn.Identity()
    if network == "resnet18":
        made.conv1, made.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return made, width


def head(width):
    """The head of SimCLR."""
    return nn.Sequential(
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, 128, bias=False),
        nn.BatchNorm1d(128),
    )


def loss(z, tau_min=0.1, tau_max=0.2):
    """NT-Xent with the temperature of DySTreSS."""
    z = nn.functional.normalize(z.float(), dim=1)
    s = z @ z.T
    tau = tau_min + 0.5 * (tau_max - tau_min) * (1 + torch.cos(math.pi * (1 + s.detach())))
    logits = (s / tau).fill_diagonal_(-math.inf)
    n = len(z) // 2
    return nn.functional.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


class Step:
    """Model, optimiser and one step on uint8 views [2 n c h w] in channels-last order."""

    def __init__(self, case):
        """Builds and, if asked, compiles the model."""
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        network, width = encoder(case["network"])
        model = nn.Sequential(network, head(width)).to(DEVICE, memory_format=torch.channels_last)
        fused = {"fused": True} if DEVICE == "cuda" else {}
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, **fused
        )
        narrow = case["dtype"] == "bfloat16"
        self.autocast = torch.autocast(DEVICE, torch.bfloat16) if narrow else None
        self.model = torch.compile(model) if case["mode"] == "compile" else model
        self.loss = torch.compile(loss) if case["mode"] == "compile" else loss

    def __call__(self, views):
        """One step."""
        images = views if views.is_floating_point() else views.float().div(127.5).sub(1)
        with self.autocast or contextlib.nullcontext():
            z = self.model(images)
        value = self.loss(z)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()
        return value


def from_files(case):
    """Two views a pair, over and over, from JPEG files through lightly's transform."""
    for (first, second, *_), _ in endless(
        loader("lightly", case["folder"], case["workers"], case["batch"])
    ):
        yield torch.cat([first, second]).to(
            DEVICE, memory_format=torch.channels_last, non_blocking=True
        )


def random_views(case):
    """Two views a pair, on the device."""
    side, batch = SIDES[case["network"]], case["batch"]
    views = torch.randint(0, 256, (2 * batch, 3, side, side), dtype=torch.uint8, device=DEVICE)
    return views.contiguous(memory_format=torch.channels_last)


def synchronize(_):
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main(path, cases, seconds):
    """Times all cases."""
    out = Lines(pathlib.Path(path))
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    out.add(device=name, torch=torch.__version__, threads=torch.get_num_threads())
    for case in json.loads(cases):
        try:
            begin = time.perf_counter()
            step = Step(case)
            if "folder" in case:
                batches = from_files(case)
                load = lambda: next(batches)  # noqa: B023
            else:
                views = random_views(case)
                load = lambda: views  # noqa: B023
            for _ in range(3):
                step(load())
            synchronize(None)
            first = time.perf_counter() - begin
            times = milliseconds(synchronize, lambda: step(load()), seconds=float(seconds))  # noqa: B023
        except Exception as failed:
            out.add(**case, library="torch", failed=f"{type(failed).__name__}: {str(failed)[:300]}")
            continue
        out.add(
            **case,
            library="torch",
            ms=sorted(times)[len(times) // 2],
            best_ms=min(times),
            compile_s=first,
            times=times,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
