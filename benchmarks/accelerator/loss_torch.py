"""The same losses in PyTorch on one accelerator: `python loss_torch.py OUT PLAN`.

Runs in an environment with torch (and lightly, memeff); nothing of JAX is needed.
"""

import contextlib
import functools
import math
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from benchmarks.accelerator.timing import Lines, milliseconds

TAU_MIN, TAU_MAX, TAU = 0.1, 0.2, 0.1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def views(rows, length):
    """The rows of loss_jax.py."""
    first, noise = np.random.default_rng(0).standard_normal((2, rows // 2, length), np.float32)
    return [torch.tensor(x, device=DEVICE, requires_grad=True) for x in (first, first + noise)]


def dense(view_a, view_b, dtype=torch.float32):
    """The loss of DySTreSS as its formula says, with the whole matrix."""
    z = torch.nn.functional.normalize(torch.cat([view_a, view_b]), dim=1)
    narrow = z.to(dtype)
    s = (narrow @ narrow.T).to(torch.promote_types(dtype, torch.float32))
    at = s.detach()
    tau = TAU_MIN + 0.5 * (TAU_MAX - TAU_MIN) * (1 + torch.cos(math.pi * (1 + at)))
    logits = (s / tau).fill_diagonal_(-math.inf)
    n = view_a.shape[0]
    labels = torch.arange(2 * n, device=z.device).roll(n)
    return torch.nn.functional.cross_entropy(logits, labels)


def flex(view_a, view_b, dtype=torch.float32, stop_gradient=True):
    """The same through FlexAttention: tau(s) as its score function, the loss from its logsumexp."""
    from torch.nn.attention.flex_attention import flex_attention

    z = torch.nn.functional.normalize(torch.cat([view_a, view_b]), dim=1)
    n = view_a.shape[0]

    def logit(score, batch, head, query, key):
        at = score.detach() if stop_gradient else score
        tau = TAU_MIN + 0.5 * (TAU_MAX - TAU_MIN) * (1 + torch.cos(math.pi * (1 + at)))
        return torch.where(query == key, -math.inf, score / tau)

    rows = z.to(dtype)[None, None]
    nothing = torch.zeros(1, 1, 2 * n, 16, device=z.device, dtype=dtype)
    mixed, partition = flex_attention(
        rows, rows, nothing, score_mod=logit, scale=1.0, return_lse=True
    )
    s = (z[:n] * z[n:]).sum(1)
    tau = TAU_MIN + 0.5 * (TAU_MAX - TAU_MIN) * (
        1 + torch.cos(math.pi * (1 + (s.detach() if stop_gradient else s)))
    )
    # Its backward pass needs a gradient of what it is made for, too.
    return partition.mean() - (s / tau).mean() + 0 * mixed.float().sum()


def lightly(view_a, view_b, dtype=torch.float32):
    """NT-Xent of lightly, at a constant temperature."""
    from lightly.loss.ntx_ent_loss import NTXentLoss

    narrow = dtype == torch.bfloat16
    with torch.autocast(DEVICE, dtype) if narrow else contextlib.nullcontext():
        return NTXentLoss(temperature=TAU)(view_a, view_b)


def memeff(view_a, view_b, dtype=torch.float32):
    """The CLIP loss of memeff, at a constant temperature."""
    from memeff import MemoryEfficientCLIPLoss

    return MemoryEfficientCLIPLoss(temperature=TAU, stable=False)(
        view_a.to(dtype), view_b.to(dtype)
    )


@contextlib.contextmanager
def precision(name):
    """Says how float32 products are made, and gives the dtype of their operands."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    yield torch.bfloat16 if name == "bfloat16" else torch.float32


def compiled(loss):
    """The loss through torch.compile, for one shape."""
    return torch.compile(loss, dynamic=False)


def plan_of(name):
    """The cases: competitor, loss, rows, length, precision."""
    if name == "tiles":
        return [
            ("torch compile", "nt_xent, dynamic", 32768, 128, "float32"),
            ("torch compile", "nt_xent, dynamic", 32768, 128, "tf32"),
            ("torch compile", "nt_xent, dynamic", 32768, 128, "bfloat16"),
            ("FlexAttention", "nt_xent, dynamic", 32768, 128, "bfloat16"),
            ("FlexAttention, through tau", "nt_xent, through tau", 32768, 128, "bfloat16"),
            ("memeff", "clip, constant", 32768, 128, "bfloat16"),
        ]
    cases = []
    for rows in (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144):
        for length in (128, 512):
            if length == 512 and rows not in (4096, 32768, 65536):
                continue
            for how in ("float32", "tf32", "bfloat16"):
                cases.append(("torch compile", "nt_xent, dynamic", rows, length, how))
                if length == 128 and rows >= 4096:
                    cases.append(("torch eager", "nt_xent, dynamic", rows, length, how))
    for rows in (4096, 8192, 32768, 131072, 262144):
        cases.append(("FlexAttention", "nt_xent, dynamic", rows, 128, "bfloat16"))
    cases.append(("FlexAttention", "nt_xent, dynamic", 32768, 128, "tf32"))
    for rows, length in ((32768, 128), (131072, 128), (32768, 512), (131072, 512)):
        cases += [("memeff", "clip, constant", rows, length, how) for how in ("tf32", "bfloat16")]
    for rows in (4096, 8192, 32768):
        cases += [
            ("lightly", "nt_xent, constant", rows, 128, how) for how in ("float32", "bfloat16")
        ]
    return cases


COMPETITORS = {
    "torch eager": dense,
    "torch compile": compiled(dense),
    "FlexAttention": compiled(flex),
    "FlexAttention, through tau": compiled(functools.partial(flex, stop_gradient=False)),
    "memeff": memeff,
    "lightly": lightly,
}


def exact(rows, length):
    """Gradients of the dynamic loss in float64."""
    both = [view.detach().double().requires_grad_() for view in views(rows, length)]
    return [g.cpu() for g in torch.autograd.grad(dense(*both, dtype=torch.float64), both)]


def synchronize(_):
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main(path, plan):
    """Times all cases, one after another."""
    out = Lines(pathlib.Path(path))
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    out.add(device=name, torch=torch.__version__)
    torch._dynamo.config.cache_size_limit = 1000
    begin = time.perf_counter()
    reference = exact(8192 if DEVICE == "cuda" else 256, 128)
    for competitor, loss, rows, length, how in plan_of(plan):
        if DEVICE == "cpu":
            rows = 256
        case = {
            "library": competitor,
            "loss": loss,
            "rows": rows,
            "length": length,
            "precision": how,
        }
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            pairs = rows if loss.startswith("nt_xent") else 2 * rows
            both = views(pairs, length)
            held = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
            with precision(how) as dtype:

                def step():
                    value = COMPETITORS[competitor](*both, dtype=dtype)  # noqa: B023
                    return value, torch.autograd.grad(value, both)  # noqa: B023

                before = time.perf_counter()
                value, gradients = step()
                synchronize(None)
                first = time.perf_counter() - before
                error = None
                if "dynamic" in loss and length == 128 and len(gradients[0]) == len(reference[0]):
                    error = max(
                        float((g.cpu().double() - e).norm() / e.norm())
                        for g, e in zip(gradients, reference, strict=True)
                    )
                del gradients
                times = milliseconds(synchronize, step)
            peak = torch.cuda.max_memory_allocated() - held if DEVICE == "cuda" else 0
        except Exception as failed:  # out of memory, mostly: the next size may fit
            out.add(**case, failed=f"{type(failed).__name__}: {str(failed)[:200]}")
            continue
        out.add(
            **case,
            ms=sorted(times)[len(times) // 2],
            best_ms=min(times),
            temporaries_mib=peak / 2**20,
            compile_s=first,
            value=value.item(),
            gradient_error=error,
            times=times,
        )
    out.add(seconds=time.perf_counter() - begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
