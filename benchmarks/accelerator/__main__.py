"""Measures one accelerator: `python -m benchmarks.accelerator PART --out=DIR`.

PART is `compiled` (what the losses need on an H100, by compiling for one that is not here: it wants
`jax[cuda13]`, and no card), `tiles` (which tile of the loss is best), `loss` (the losses from small
batches to the largest), `step` (whole training steps, from memory and from JPEG files),
`loss-peers` and `step-peers` (the same in PyTorch, by this interpreter or the one that
--torch-python names), or `reproduction` (SimCLR on CIFAR-10 with the paper's settings). Each takes
less than nine minutes and no network, and writes one JSON object a line into DIR as soon as it is
known.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

from benchmarks.accelerator import reproduction
from benchmarks.loader import photos

ROOT = pathlib.Path(__file__).parents[2]
PARTS = ("compiled", "tiles", "loss", "loss-peers", "step", "step-peers", "reproduction")


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--seconds", type=float, default=520.0, help="that the part may take")
    parser.add_argument("--npz", help="CIFAR-10, for reproduction")
    parser.add_argument("--runs", type=pathlib.Path, help="where reproduction keeps its runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out.absolute()
    if arguments.part == "reproduction":
        reproduction.main(arguments.npz, arguments.runs, out, arguments.seconds)
        return
    for command in commands(arguments.part, out, arguments.torch_python):
        print("$", *command[1:3], flush=True)
        try:
            subprocess.run(command, cwd=ROOT, check=False, timeout=arguments.seconds)
        except subprocess.TimeoutExpired:
            print("stopped: out of time", flush=True)


def module(name: str, *words: object) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", name, *map(str, words)]


def commands(part: str, out: pathlib.Path, torch_python: str) -> list[list[str]]:
    """What measures a part."""
    here = ROOT / "benchmarks"
    if part == "compiled":
        return [module("benchmarks.accelerator.compiled", out / "compiled.jsonl")]
    if part in ("tiles", "loss"):
        plan = {"tiles": "tiles", "loss": "sizes"}[part]
        return [module("benchmarks.accelerator.loss_jax", out / f"{part}_jax.jsonl", plan)]
    if part == "loss-peers":
        script = str(here / "accelerator/loss_torch.py")
        return [[torch_python, script, str(out / "loss_torch.jsonl"), "sizes"]]
    folder, cores = out / "jpeg", os.cpu_count() or 1
    if not folder.exists():
        photos.make(str(folder), 20_000)
    from_files = {
        "data.source": "folder",
        "data.path": str(folder),
        "data.image_size": 256,
        "data.threads": cores,
    }
    large = [("resnet50", 256), ("vit_small", 256)]
    cases = [
        {"network": network, "batch": batch, "dtype": "bfloat16", "recipe": recipe}
        for network, batch in large
        for recipe in ("simclr", "whole")
    ]
    cases += [
        {"network": "resnet18", "batch": batch, "dtype": dtype, "recipe": recipe}
        for batch, dtype in ((128, "float32"), (128, "bfloat16"), (512, "bfloat16"))
        for recipe in ("simclr_cifar", "whole")
    ]
    cases.append({**cases[0], "also": from_files | {"augment.size": 224}})
    peers = [
        {"network": network, "batch": batch, "dtype": "bfloat16", "mode": mode}
        for network, batch in [*large, ("resnet18", 128), ("resnet18", 512)]
        for mode in ("eager", "compile")
    ]
    peers += [{"network": "resnet18", "batch": 128, "dtype": "float32", "mode": "compile"}]
    peers.append({**peers[1], "folder": str(folder), "workers": cores})
    if part == "step":
        workers = f"[1, {cores}]"
        return [
            module("benchmarks.step.ours", out / "step_ours.jsonl", json.dumps(cases), 4),
            module("benchmarks.loader.ours", out / "loader_ours.jsonl", folder, workers, 3),
        ]
    return [
        [
            *(torch_python, str(here / "step/peer_torch.py")),
            *(str(out / "step_torch.jsonl"), json.dumps(peers), "4"),
        ],
        [
            *(torch_python, str(here / "loader/peer_torch.py")),
            *(str(out / "loader_torch.jsonl"), str(folder), f"[1, {cores}]", "5"),
        ],
    ]


if __name__ == "__main__":
    main()
