"""Torchvision and loaders of torch, for both comparisons with them; nothing of JAX is needed."""

import pathlib
import sys

import torch


def torchvision_resnet():
    """Torchvision's ResNets, also where its compiled operators are missing: they use none."""
    try:
        from torchvision.models import resnet
    except RuntimeError:
        global operators  # they are there as long as it is
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        from torchvision.models import resnet
    return resnet


def loader(name, folder, workers, batch):
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
