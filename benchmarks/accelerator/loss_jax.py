"""The losses of this library on one accelerator: `-m benchmarks.accelerator.loss_jax OUT PLAN`.

Value and gradient of the mean NT-Xent. PLAN is `tiles` (which tile is best) or `sizes` (how the
default does from small batches to the largest).
"""

import concurrent.futures
import os
import pathlib
import sys
import time
from typing import NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import DotAlgorithmPreset

from benchmarks.accelerator.timing import Lines, milliseconds
from dystress_jax import losses, similarities, temperatures

DYNAMIC, CONSTANT = temperatures.dystress(0.1, 0.2), 0.1
PRECISIONS = {
    "float32": "float32",
    "tf32": "tensorfloat32",
    "bfloat16": "bfloat16",
    "bf16 x3": DotAlgorithmPreset.BF16_BF16_F32_X3,
    "bf16 x6": DotAlgorithmPreset.BF16_BF16_F32_X6,
    "tf32 x3": DotAlgorithmPreset.TF32_TF32_F32_X3,
}
ALL = 2**31 - 1


class Case(NamedTuple):
    """One measurement."""

    rows: int
    length: int
    precision: str
    strategy: str
    tile: tuple[int, int] | None = None
    loss: str = "nt_xent, dynamic"


def tiles() -> list[Case]:
    """Which tile is best, and which precision costs what."""
    square = [(t, t) for t in (1024, 2048, 4096, 8192)]
    wide = [(t, ALL) for t in (256, 512, 1024, 2048, 4096, 8192)]
    cases = [Case(32768, 128, p, "dense") for p in ("float32", "tf32", "bfloat16")]
    cases += [
        Case(32768, 128, p, "tiled", t)
        for p in ("float32", "tf32", "bfloat16")
        for t in square + wide
    ]
    cases += [Case(32768, 128, p, "tiled", (2048, ALL)) for p in ("bf16 x3", "bf16 x6", "tf32 x3")]
    cases += [
        Case(131072, 128, "bfloat16", "tiled", (t, ALL)) for t in (256, 512, 1024, 2048, 4096)
    ]
    cases += [Case(8192, 128, "bfloat16", "tiled", (t, ALL)) for t in (512, 1024, 2048, 4096, 8192)]
    cases += [Case(8192, 128, p, "dense") for p in ("bfloat16", "tf32")]
    cases += [Case(32768, 512, "bfloat16", "tiled", t) for t in ((1024, ALL), (4096, ALL))]
    return cases


def sizes() -> list[Case]:
    """From small batches to the largest."""
    cases = []
    for precision in ("float32", "tf32", "bfloat16"):
        for rows in (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144):
            cases.append(Case(rows, 128, precision, "tiled"))
            if precision != "float32":
                cases.append(Case(rows, 128, precision, "fused"))
            if rows <= (32768 if precision == "float32" else 65536):
                cases.append(Case(rows, 128, precision, "dense"))
        for rows in (4096, 32768, 131072, 262144):
            cases.append(Case(rows, 512, precision, "tiled"))
            if rows <= 32768:
                cases.append(Case(rows, 512, precision, "dense"))
    for precision in ("float32", "tf32", "bfloat16"):
        cases.append(Case(32768, 128, precision, "tiled", None, "nt_xent, through tau"))
        cases.append(Case(32768, 128, precision, "tiled", None, "nt_xent, constant"))
        cases.append(Case(32768, 128, precision, "tiled", None, "nt_xent, constant 0.01"))
        for rows, length in ((32768, 128), (131072, 128), (32768, 512), (131072, 512)):
            if precision != "float32" or rows * length <= 32768 * 512:
                cases.append(Case(rows, length, precision, "tiled", None, "clip, constant"))
            if precision != "float32" and length == 128:
                cases.append(Case(rows, length, precision, "fused", None, "clip, constant"))
    return cases


def views(rows: int, length: int) -> np.ndarray:
    """Two views [2 rows/2 length]: the second is the first and as much noise."""
    first, noise = np.random.default_rng(0).standard_normal((2, rows // 2, length), np.float32)
    return np.stack([first, first + noise])


def mean_loss(case: Case):
    """The function (view_a, view_b) -> mean loss."""
    similarity = similarities.sphere.with_precision(PRECISIONS[case.precision])
    how = {"strategy": case.strategy, "tile_size": case.tile, "similarity": similarity}
    name, tau = case.loss.split(", ")
    temperature = {
        "dynamic": DYNAMIC,
        "through tau": temperatures.dystress(0.1, 0.2, stop_gradient=False),
        "constant": CONSTANT,
        "constant 0.01": 0.01,
    }[tau]
    loss = getattr(losses, name)
    return lambda a, b: loss(a, b, temperature=temperature, **how).mean()


def compiled(case: Case):
    """The program of a case, the seconds it took to make, and its memory in MiB."""
    rows = case.rows if case.loss.startswith("nt_xent") else 2 * case.rows
    view = jax.ShapeDtypeStruct((rows // 2, case.length), jnp.float32)
    begin = time.perf_counter()
    step = jax.jit(jax.value_and_grad(mean_loss(case), (0, 1)))
    program = step.lower(view, view).compile()
    memory = program.memory_analysis()
    return program, time.perf_counter() - begin, memory.temp_size_in_bytes / 2**20


def relative_error(found, exact) -> float:
    """Largest |found - exact| / |exact| of both gradients."""
    error = lambda x, y: float(np.linalg.norm(np.float64(x) - y) / np.linalg.norm(y))
    return max(error(x, y) for x, y in zip(found, exact, strict=True))


def exact(rows: int, length: int):
    """Value and gradients of the dynamic loss in float64."""
    with jax.enable_x64(True):
        a, b = jnp.asarray(views(rows, length), jnp.float64)
        loss = lambda a, b: losses.nt_xent(a, b, temperature=DYNAMIC, strategy="tiled").mean()
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(a, b)
        return float(value), [np.asarray(g) for g in gradients]


def limits(out: Lines) -> None:
    """What the card reaches: large products, a copy, and the bare products of these sizes."""
    wait = jax.block_until_ready
    square = jax.random.normal(jax.random.key(0), (8192, 8192))
    for name, dtype, precision in (
        ("float32", jnp.float32, "highest"),
        ("tf32", jnp.float32, "high"),
        ("bfloat16", jnp.bfloat16, "default"),
    ):
        x = square.astype(dtype)
        product = jax.jit(lambda x, precision=precision: jnp.matmul(x, x, precision=precision))
        times = milliseconds(wait, product, x)
        out.add(limit="product 8192", precision=name, tflops=2 * 8192**3 / min(times) / 1e9)
    large = jnp.zeros((2**30,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    times = milliseconds(wait, copy, large)
    out.add(limit="copy", terabytes_per_second=2 * large.nbytes / min(times) / 1e9)
    del large
    for rows in (8192, 32768, 65536):
        for length in (128, 512):
            x = jax.random.normal(jax.random.key(0), (rows, length), jnp.bfloat16)
            outer = jax.jit(lambda x: x @ x.T)
            similar = outer(x)
            inner = jax.jit(lambda s, x: s @ x)
            out.add(
                limit="bare products",
                rows=rows,
                length=length,
                similarities_ms=min(milliseconds(wait, outer, x)),
                gradient_ms=min(milliseconds(wait, inner, similar, x)),
            )


def time_all(cases: list[Case], references: dict, out: Lines) -> None:
    """Compiles the cases side by side, then times them one after another."""
    pool = concurrent.futures.ThreadPoolExecutor(min(12, os.cpu_count() or 1))
    programs = [pool.submit(compiled, case) for case in cases]
    concurrent.futures.wait(programs)
    for case, future in zip(cases, programs, strict=True):
        try:
            program, seconds, temporaries = future.result()
            rows = case.rows if case.loss.startswith("nt_xent") else 2 * case.rows
            a, b = jnp.asarray(views(rows, case.length))
            value, gradients = program(a, b)
            known = case.rows in references and case.length == 128 and "dynamic" in case.loss
            error = relative_error(gradients, references[case.rows][1]) if known else None
            times = milliseconds(jax.block_until_ready, program, a, b)
        except Exception as failed:  # out of memory, mostly: the next size or tile may fit
            out.add(**case._asdict(), library="ours", failed=str(failed)[:200])
            continue
        out.add(
            **case._asdict(),
            library="ours",
            ms=sorted(times)[len(times) // 2],
            best_ms=min(times),
            temporaries_mib=temporaries,
            compile_s=seconds,
            value=float(value),
            gradient_error=error,
            times=times,
        )


def main(path: str, plan: str) -> None:
    """Measures all cases of a plan, one precision after another."""
    out = Lines(pathlib.Path(path))
    out.add(device=jax.devices()[0].device_kind, jax=jax.__version__)
    cases = {"tiles": tiles, "sizes": sizes}[plan]()
    if jax.default_backend() == "cpu":  # a rehearsal
        cases = [c._replace(rows=256) for c in cases[::7]]
    begin = time.perf_counter()
    references = {}
    if plan == "sizes":
        for rows in (8192, 32768) if jax.default_backend() != "cpu" else (256,):
            references[rows] = exact(rows, 128)
            out.add(exact=rows, value=references[rows][0])
    if plan == "sizes" and jax.default_backend() != "cpu":
        limits(out)
    for precision in ("bfloat16", "tf32", "float32", "bf16 x3", "bf16 x6", "tf32 x3"):
        time_all([case for case in cases if case.precision == precision], references, out)
    out.add(seconds=time.perf_counter() - begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
