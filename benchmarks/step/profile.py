"""Where the time of a training step goes on a CPU: `python -m benchmarks.step.profile --help`.

Runs the compiled step under JAX's profiler and adds up the time of its instructions by kind. Two
instructions may run at once, so that the sum is more than the time of a step.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator

import jax

from benchmarks.step.ours import NETWORKS, Step, random_images, settings

FORWARD = "convolutions, forward"
INPUTS = "convolutions, gradient of the inputs"
WEIGHTS = "convolutions, gradient of the weights"
TRANSPOSED = "transposes before the gradient of the weights"
PRODUCTS = "products of matrices"
REST = "the rest: BatchNorm, ReLU, views, loss, optimiser"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step.profile", description=__doc__)
    parser.add_argument("--network", default="small", choices=tuple(NETWORKS))
    parser.add_argument("--batch", type=int, default=128, help="pairs")
    parser.add_argument("--recipe", default="whole", help="of augmentation; whole: none")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    # Read when the CPU's client is made, by the first use of a device.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_enable_xprof_traceme=true"
    case = {"network": arguments.network, "batch": arguments.batch, "recipe": arguments.recipe}
    with tempfile.TemporaryDirectory() as folder:
        images = random_images(pathlib.Path(folder) / "x.npz", 4096, NETWORKS[case["network"]][0])
        step = Step(settings(case | {"dtype": "float32"}, images), folder)
        seconds, spent = profiled(step, arguments.steps, folder)
        step.batches.close()
    total = sum(spent.values())
    print(f"{arguments.network}, {arguments.batch} pairs: {seconds * 1e3:,.1f} ms a step, profiled")
    for kind, taken in spent.most_common():
        print(f"{kind:50s} {taken * 1e3:9.1f} ms {taken / total:5.0%}")


def profiled(step: Step, steps: int, folder: str) -> tuple[float, collections.Counter[str]]:
    """Seconds of a step, and of each kind of its instructions."""
    kinds = dict(kinds_of(step.compiled.as_text()))
    for _ in range(5):
        jax.block_until_ready(step.run())
    with jax.profiler.trace(folder):
        begin = time.perf_counter()
        for _ in range(steps):
            jax.block_until_ready(step.run())
        seconds = time.perf_counter() - begin
    [path] = pathlib.Path(folder).rglob("*.trace.json.gz")
    spent: collections.Counter[str] = collections.Counter()
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        if "hlo_op" in event.get("args", {}):
            spent[kinds.get(event["args"]["hlo_op"], REST)] += event["dur"] / 1e6 / steps
    return seconds / steps, spent


def kinds_of(program: str) -> Iterator[tuple[str, str]]:
    """The kind of each instruction of a compiled program, by its name."""
    inside = dict(re.findall(r"^%(\S+) \([^\n]*\{\n(.*?)\n\}", program, re.DOTALL | re.MULTILINE))
    for name, text in re.findall(r"^ +(?:ROOT )?%(\S+) = (.*)$", program, re.MULTILINE):
        called = re.search(r"calls=%([\w.-]+)", text)
        body = f"{text}\n{inside.get(called[1], '')}" if called else text
        if convolution := re.search(r".*\bconvolution\(.*", body):
            yield name, kind_of_convolution(convolution[0], body)
        elif name.startswith("transpose_copy"):
            yield name, TRANSPOSED
        elif re.search(r"\bdot\(", body):
            yield name, PRODUCTS


def kind_of_convolution(convolution: str, body: str) -> str:
    """Forward, or of which gradient."""
    # XLA writes the gradient of the weights anew, with the batch as channels; its name gets lost.
    named = re.search(r'op_name="([^"]*)"', body)
    if named is None or "b01f_01io->b01f" not in convolution:
        return WEIGHTS
    return INPUTS if "transpose(" in named[1] else FORWARD


if __name__ == "__main__":
    main()
