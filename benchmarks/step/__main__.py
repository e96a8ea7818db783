"""Times one training step beside PyTorch's: `python -m benchmarks.step --help`.

Prints a line each: ours with and without augmentation, on a batch that stays and with new batches
from memory, and the same network in PyTorch (channels-last, eager and compiled, its views made
before) where an interpreter with torch is named.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
RECIPES = {"small": "simclr_cifar", "resnet18": "simclr_cifar"}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument(
        "--network", default="small", choices=("small", "resnet18", "resnet50", "vit_small")
    )
    parser.add_argument("--batch", type=int, default=128, help="pairs")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--torch-python", help="interpreter with torch; without it only ours runs")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing per measurement")
    arguments = parser.parse_args()
    case = {
        "network": arguments.network,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
    }
    recipe = RECIPES.get(arguments.network, "simclr")
    ours = [case | {"recipe": name} for name in (recipe, "whole")]
    peers = [case | {"mode": mode} for mode in ("eager", "compile")]
    children = [([sys.executable, "-m", "benchmarks.step.ours"], ours)]
    if arguments.torch_python:
        children.append(([arguments.torch_python, str(HERE / "peer_torch.py")], peers))
    with tempfile.TemporaryDirectory() as folder:
        for command, cases in children:
            path = pathlib.Path(folder) / "lines.jsonl"
            seconds = str(arguments.seconds)
            subprocess.run(
                [*command, str(path), json.dumps(cases), seconds],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            for line in map(json.loads, path.read_text().splitlines()):
                if "network" in line:
                    print(described(line), flush=True)


def described(line: dict) -> str:
    """A result in a line."""
    how = line.get("recipe") or line["mode"]
    name = f"{line['library']}, {line['network']}, {line['batch']} pairs, {line['dtype']}, {how}"
    if "failed" in line:
        return f"{name}: failed: {line['failed']}"
    rate = lambda ms: f"{line['batch'] / ms * 1e3:,.1f}"
    fed = f", with new batches {rate(line['with_input_ms'])}" if "with_input_ms" in line else ""
    fed += f", a batch {line['input_ms']:.2f} ms of {line['ms']:.1f}" if "input_ms" in line else ""
    return f"{name}: median {rate(line['ms'])} pairs/s, best {rate(line['best_ms'])}{fed}"


if __name__ == "__main__":
    main()
