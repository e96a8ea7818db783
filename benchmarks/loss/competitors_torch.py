"""One PyTorch competitor in a process of its own: `python competitors_torch.py NAME ROWS`.

Runs in an environment with torch (and lightly, pytorch-metric-learning); nothing of JAX is needed.
"""

import json
import math
import resource
import sys
import time

import torch

LENGTH = 128
TAU_MIN, TAU_MAX, TAU = 0.1, 0.2, 0.1


def dystress(view_a, view_b, stop_gradient=True):
    """The loss of DySTreSS as its formula says, with the whole matrix."""
    z = torch.nn.functional.normalize(torch.cat([view_a, view_b]), dim=1)
    s = z @ z.T
    at = s.detach() if stop_gradient else s
    tau = TAU_MIN + 0.5 * (TAU_MAX - TAU_MIN) * (1 + torch.cos(math.pi * (1 + at)))
    logits = (s / tau).fill_diagonal_(-math.inf)
    n = view_a.shape[0]
    labels = torch.arange(2 * n).roll(n)
    return torch.nn.functional.cross_entropy(logits, labels)


def without_torchvision_operators():
    """Lets lightly import torchvision where its compiled operators are missing; it uses none."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def chunked(queries, keys):
    """InfoNCE as a linear classifier whose weights are the keys, in torch's own chunks.

    Its classes cannot be left out row by row, so it has no NT-Xent, and no tau(s).
    """
    q, k = (torch.nn.functional.normalize(x, dim=1) for x in (queries, keys))
    labels = torch.arange(q.shape[0])
    options = torch.nn.LinearCrossEntropyOptions()
    return torch.nn.functional.linear_cross_entropy(q / TAU, k, labels, options=options)


def competitor(name):
    """Returns a function (view_a, view_b) -> mean loss."""
    if name == "torch eager":
        return dystress
    if name == "torch compile":
        return torch.compile(dystress)
    if name == "torch compile, through tau":
        return torch.compile(lambda a, b: dystress(a, b, stop_gradient=False))
    if name == "torch linear_cross_entropy, InfoNCE":
        if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
            raise SystemExit(f"torch {torch.__version__} has no chunked linear_cross_entropy")
        return chunked
    if name == "lightly NTXentLoss":
        without_torchvision_operators()
        from lightly.loss.ntx_ent_loss import NTXentLoss

        return NTXentLoss(temperature=TAU)
    if name == "pytorch-metric-learning NTXentLoss":
        from pytorch_metric_learning.losses import NTXentLoss

        loss = NTXentLoss(temperature=TAU)
        labels = lambda a: torch.arange(a.shape[0]).repeat(2)
        return lambda a, b: loss(torch.cat([a, b]), labels(a))
    raise SystemExit(f"unknown competitor {name!r}")


def limits():
    """Prints the rate of the products of a tile, as torch carries them out."""
    size, repeat = 1024, 100
    x = torch.randn(size, LENGTH) / LENGTH**0.5
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(repeat):
            (x @ x.T) @ x
        times.append(time.perf_counter() - begin)
    print(json.dumps({"matmul_gflops": repeat * 4 * size * size * LENGTH / min(times) / 1e9}))


def main(name, rows, seconds):
    """Prints the times of value and gradient, one JSON object."""
    torch.manual_seed(0)
    views = [torch.randn(rows // 2, LENGTH, requires_grad=True) for _ in range(2)]
    loss = competitor(name)

    def step():
        value = loss(*views)
        torch.autograd.grad(value, views)
        return value.item()

    value = step()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, start = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < seconds and len(times) < 50):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "name": name,
                "rows": rows,
                "value": value,
                "times": times,
                "peak_mib": before / 1024,
                "version": f"torch {torch.__version__}",
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "limits":
        limits()
    else:
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
